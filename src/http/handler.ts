// A handler is a function from Request to Response, and a middleware wraps a handler, as in Dream.

import type { Awaitable } from '../error.ts'

/** Opens and closes the resources of a handler, such as a backend. */
export type Lifespan = {
  /** Opens them, so that errors appear at the start and not at the first request. */
  readonly ready?: (() => Promise<void>) | undefined
  /** Closes them. */
  readonly close?: (() => Promise<void>) | undefined
}

/**
 * Answers a request. `R` is the request type of a server or framework. `Rest` are its further arguments, such as the
 * parameters of a route, an environment or the connection.
 */
export type Handler<R extends Request = Request, Rest extends readonly unknown[] = readonly []> = ((
  request: R,
  ...rest: Rest
) => Awaitable<Response>) &
  Lifespan

/** Wraps a handler. The result takes the same arguments and passes all of them to `next`. */
export type Middleware = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
) => Handler<R, Rest>

/** Adds `ready` and `close` to `handle`: they open `own` before the resources of `next`, and close it after them. */
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
