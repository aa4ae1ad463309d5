// Sessions in applications of Hono 4.

import type { Context, MiddlewareHandler } from 'hono'
import type { StatusCode } from 'hono/utils/http-status'
import type { KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { isResponse } from '../response.ts'
import type { AnyFields, Session } from '../session/session.ts'
import { CurrentRequest } from './current-request.ts'
import { addErrorHeaders, type FetchAdapterOptions, fetchLifecycle } from './fetch-lifecycle.ts'

export type { FetchAdapterOptions as HonoAdapterOptions } from './fetch-lifecycle.ts'

/** The variables of a context with `{ load: true }`: `new Hono<{ Variables: SessionVariables }>()`. */
export type SessionVariables<F extends object = AnyFields> = {
  /** The session of the visitor. */
  session: Session<F>
}

/** Hono's own error handler sends the result, for its HTTPException and for every other error with this method. */
type WithResponse = { getResponse(): Response }

/** Without it, Hono prints an error and answers 500. That is right for the mistakes of the application, which have the status 500. */
const withResponse = (error: KeepsakeError): KeepsakeError => {
  const { status, message } = error
  if (status === undefined || status === 500) return error
  const getResponse: WithResponse['getResponse'] = () =>
    new Response(`${message}\n`, { status, headers: { 'content-type': 'text/plain; charset=utf-8' } })
  return Object.defineProperty(error, 'getResponse', { value: getResponse })
}

/** Whether an HTTPException is an answer, such as a redirect, and no error. */
const isAnswer = (error: Error): boolean => {
  const { status, getResponse } = error as { status?: unknown; getResponse?: unknown }
  return typeof getResponse === 'function' && typeof status === 'number' && status < 400
}

/** Hono puts the header fields of the old response onto a new one, so the old one is removed first. */
const replaceResponse = (c: Context, response: Response): void => {
  c.res = undefined
  c.res = response
}

/** The header fields and the status that were set before the adapter. */
type Arrival = { readonly headers: Headers; readonly status: StatusCode }

/** A new response has them. Reading `c.res` would change how Hono makes the response of the handler. */
const arrivalOf = (c: Context): Arrival => {
  const { headers, status } = c.newResponse(null)
  // The Response of @hono/node-server shares its Headers with the context.
  return { headers: new Headers(headers), status: status as StatusCode }
}

/** Lets the error handler begin with the header fields that were set before the adapter, and with those of the error. */
const dropResponse = (c: Context, arrival: Arrival, error: unknown): void => {
  const headers = new Headers(arrival.headers)
  addErrorHeaders(headers, error)
  c.status(arrival.status)
  replaceResponse(c, new Response(null, { headers }))
}

/** The body of the Request, or the bytes that the application has read from it by Hono's methods, such as `c.req.parseBody`. */
const bodyIn = (c: Context, request: Request): ReadableStream<Uint8Array> | null => {
  if (!request.bodyUsed) return request.body
  const { arrayBuffer, blob, text } = c.req.bodyCache
  const read = arrayBuffer ?? blob ?? text
  if (read === undefined) return request.body
  return new ReadableStream({
    async start(controller) {
      controller.enqueue(new Uint8Array(await new Response(await read).arrayBuffer()))
      controller.close()
    },
  })
}

/**
 * Sessions in an application of Hono: `app.use(forHono(manager))` before the routes. `session(c)`, `readForm(c)`, `csrfTag(c)`,
 * `addFlash(c, …)` and `takeFlash(c)` then take the context. With `{ load: true }` the session of every request is also
 * `c.var.session`.
 *
 * The session is saved before the response leaves. If it cannot be saved, `app.onError` gets a KeepsakeError with the status 409,
 * 500 or 503, and nothing of the response is sent. If a handler throws an error, nothing is saved.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export function forHono<F extends object = AnyFields>(
  sessions: SessionManager<F>,
  options: FetchAdapterOptions & { readonly load: true },
): MiddlewareHandler<{ Variables: SessionVariables<F> }>
export function forHono<F extends object = AnyFields>(
  sessions: SessionManager<F>,
  options?: FetchAdapterOptions,
): MiddlewareHandler
export function forHono(sessions: SessionManager, options: FetchAdapterOptions = {}): MiddlewareHandler {
  const { load, begin, complete, abandon, abandonWithPage } = fetchLifecycle(
    sessions,
    'forHono()',
    options,
    withResponse,
  )
  return async (c, next) => {
    const head = new CurrentRequest(
      () => c.req.raw,
      (request) => bodyIn(c, request),
    )
    const begun = begin(c.req.raw, [c], head)
    if (begun === undefined) return next()
    const arrival = arrivalOf(c)
    try {
      if (load) c.set('session', await session(c))
      await next()
    } catch (error) {
      // Hono catches the errors of handlers. This is one of `load`, or a thrown value that is no Error.
      if (isResponse(error)) throw await complete(begun, error, arrival.headers)
      await abandon(begun, error)
      throw error
    }
    const { error } = c
    if (error !== undefined && !isAnswer(error)) {
      const page = await abandonWithPage(begun, c.res, error)
      if (page !== c.res) replaceResponse(c, page)
      return
    }
    if (!c.finalized) {
      // No handler has returned a response. Hono reports it.
      await abandon(begun, undefined)
      return
    }
    try {
      const response = await complete(begun, c.res, arrival.headers)
      if (response !== c.res) replaceResponse(c, response)
    } catch (error) {
      dropResponse(c, arrival, error)
      throw error
    }
  }
}
