// A handler answers a request, a middleware makes a handler of a handler, as in Dream.

import type { Awaitable } from './outcome.ts'

/** What answers a request. A handler that stands on something to open and to close, such as a store, carries the two. */
export type Handler = ((request: Request, ...more: any[]) => Awaitable<Response>) & {
  /** Opens what the handler stands on, so that what is amiss shows at the start and not at the first visit. */
  readonly ready?: () => Promise<void>
  /** Closes it. */
  readonly close?: () => Promise<void>
}

export type Middleware = (next: Handler) => Handler

/** `handle`, carrying also what `next` stands on. */
export const around = (
  next: Handler,
  handle: (request: Request, ...more: any[]) => Awaitable<Response>,
  own: Pick<Handler, 'ready' | 'close'> = {},
): Handler =>
  Object.assign(handle, {
    ready: async () => {
      await own.ready?.()
      await next.ready?.()
    },
    close: async () => {
      await next.close?.()
      await own.close?.()
    },
  })
