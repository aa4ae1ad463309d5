// A handler answers a request, a middleware makes a handler of a handler, as in Dream.

import type { Awaitable } from '../error.ts'

/** What opens and closes what a handler stands on, such as a store. */
export type Lifespan = {
  /** Opens it, so that what is amiss shows at the start and not at the first visit. */
  readonly ready?: (() => Promise<void>) | undefined
  /** Closes it. */
  readonly close?: (() => Promise<void>) | undefined
}

/**
 * What answers a request. Servers and frameworks may have a request of their own, `R`, and pass more than the request:
 * the parameters of a route, an environment, the connection. That is `Rest`.
 */
export type Handler<R extends Request = Request, Rest extends readonly unknown[] = readonly []> = ((
  request: R,
  ...rest: Rest
) => Awaitable<Response>) &
  Lifespan

/** Makes a handler that takes what `next` takes, and hands all of it on. */
export type Middleware = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
) => Handler<R, Rest>

/** `handle`, carrying also what `next` stands on. */
export const around = <R extends Request, Rest extends readonly unknown[]>(
  next: Lifespan,
  handle: (request: R, ...rest: Rest) => Awaitable<Response>,
  own: Lifespan = {},
): Handler<R, Rest> =>
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
