// Sessions in applications of h3 2, and so in those of Nitro 3.

import { type H3Event, HTTPError, HTTPResponse, type Middleware, toResponse } from 'h3'
import { usesSession } from '../commit-request.ts'
import { KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { addHeaders } from '../response.ts'
import type { Session } from '../session/session.ts'
import { CurrentRequest } from './current-request.ts'
import { addErrorHeaders, type BegunRequest, type FetchAdapterOptions, fetchLifecycle } from './fetch-lifecycle.ts'

export type { FetchAdapterOptions as H3AdapterOptions } from './fetch-lifecycle.ts'

declare module 'h3' {
  interface H3EventContext {
    /** The session of the visitor. Only with `forH3(manager, { load: true })`. */
    session: Session
  }
}

/** The prepared header fields of an event: those of its response, and those of an error. */
type Prepared = { readonly headers: Headers; readonly errHeaders: Headers }

/** The fields for errors are absent in the h3 of Nitro 3.0. */
const errHeadersOf = ({ res }: H3Event): Headers => (res as Partial<typeof res>).errHeaders ?? new Headers()

const copyPrepared = (event: H3Event): Prepared => ({
  headers: new Headers(event.res.headers),
  errHeaders: new Headers(errHeadersOf(event)),
})

const replaceAll = (target: Headers, source: Headers): void => {
  for (const name of [...target.keys()]) target.delete(name)
  for (const [name, value] of source) target.append(name, value)
}

/** Takes the prepared header fields away if h3 still has them: the one of Nitro 3.0 would add them a second time. */
const takePrepared = (event: H3Event, response: Response): Response => {
  if (event.res.headers.keys().next().done) return response
  const { status, statusText } = response
  const copy = new Response(response.body, { status, statusText, headers: new Headers(response.headers) })
  replaceAll(event.res.headers, new Headers())
  return copy
}

/**
 * The error that h3 shows to the visitor: h3 answers every other error with 500 and its own text, and prints it, as it should those of
 * the application.
 */
const publicError = (error: unknown, headers: Headers): unknown => {
  if (!(error instanceof KeepsakeError) || error.status === undefined || error.status === 500) return error
  error.headers = headers
  // The HTTPError takes status, message and headers from the error, which becomes its cause.
  return new HTTPError(error)
}

/**
 * Sessions in an application of h3: `app.use(forH3(manager))` before the routes. `session(event)`, `readForm(event)`,
 * `csrfTag(event)`, `addFlash(event, …)` and `takeFlash(event)` then take the event. With `{ load: true }` the session of every
 * request is also `event.context.session`. In Nitro 3, the file `middleware/sessions.ts` exports it as its default.
 *
 * The session is saved before the response leaves. If it cannot be saved, h3 and its `onError` get an HTTPError with the status
 * 409, 500 or 503, and nothing of the response is sent. If a handler throws or returns an error, nothing is saved.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forH3 = (sessions: SessionManager, options: FetchAdapterOptions = {}): Middleware => {
  const { load, begin, complete, abandon } = fetchLifecycle(sessions, 'forH3()', options)

  /** Nothing of the handler's response is sent with the error, and the header fields of the arrival are. */
  const refuse = (event: H3Event, arrival: Prepared, error: unknown): unknown => {
    const headers = new Headers(arrival.headers)
    addErrorHeaders(headers, error)
    // A value that `onError` returns gets these, and the response of h3 those of the error.
    replaceAll(event.res.headers, headers)
    replaceAll(errHeadersOf(event), arrival.errHeaders)
    return publicError(error, headers)
  }

  const threw = async (begun: BegunRequest, event: H3Event, error: unknown): Promise<unknown> => {
    const outcome = await abandon(begun, error)
    if (outcome === undefined) {
      // The page for the error may contain something of the visitor.
      if (usesSession(begun.context)) errHeadersOf(event).append('vary', 'Cookie')
      return error
    }
    const headers = new Headers({ 'cache-control': 'no-store' })
    addHeaders(headers, outcome.cookies, outcome.emit, true)
    return publicError(error, headers)
  }

  return async (event, next) => {
    const begun = begin(event.req, [event], new CurrentRequest(() => event.req))
    if (begun === undefined) return next()
    const arrival = copyPrepared(event)
    let value: unknown
    try {
      if (load) event.context.session = await session(event)
      value = await next()
    } catch (error) {
      throw await threw(begun, event, error)
    }
    if (value instanceof Error) return threw(begun, event, value)
    // Every value is an answer in h3. A request without a session passes as it is.
    if (!usesSession(begun.context)) return complete(begun, value as Response)
    // The hook `onResponse` is left to h3, which calls it for the response that is sent.
    const { onResponse: _, ...config } = event.app?.config ?? {}
    const response = takePrepared(event, await toResponse(value, event, config))
    try {
      const completed = await complete(begun, response, arrival.headers)
      // If a middleware outside prepares Vary after this, h3 puts it in the place of that of the response.
      const vary = completed.headers.get('vary')
      if (vary !== null) event.res.headers.set('vary', vary)
      if (vary !== null) errHeadersOf(event).set('vary', vary)
      // For the h3 of Nitro 3.0, a Response 404 of a middleware is no answer, and it would send that of the handler.
      return completed.status === 404 ? new HTTPResponse(completed.body, completed) : completed
    } catch (error) {
      throw refuse(event, arrival, error)
    }
  }
}
