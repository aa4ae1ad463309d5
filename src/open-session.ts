// A session outside a middleware, for a job, a socket or a server action: it is opened and committed by its caller.

import { clearingCookies } from './commit-request.ts'
import { KeepsakeError } from './error.ts'
import { copyableHeaders } from './http/copyable-headers.ts'
import type { RequestHead } from './http/request-head.ts'
import { asksToExtend, type SessionOptions } from './request.ts'
import { attachOpened, findTenant, type Manager, type RequestContext } from './request-context.ts'
import { addHeaders, type ResponseCookie, responseCookies, setCookieHeaders } from './response.ts'
import { commit } from './session/commit.ts'
import { giveBackMessages } from './session/flash.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import type { UnitOfWork } from './session/work.ts'

/** The result of a commit outside a middleware: headers and cookies to send, or the reason why nothing was saved. */
export type CommitResult =
  | {
      readonly ok: true
      /** Set-Cookie, Vary and Cache-Control, to add to the response. */
      readonly headers: Headers
      /** The same cookies as objects, for frameworks that set cookies by name. */
      readonly cookies: readonly ResponseCookie[]
    }
  | {
      readonly ok: false
      readonly error: 'ended' | 'conflict' | 'withheld'
      /** Only after a `save` of the same session that set a cookie: its headers and cookies, to add to the response. */
      readonly headers?: Headers
      readonly cookies?: readonly ResponseCookie[]
    }

/** A session outside a middleware: change it, use it for flash messages and forms in the place of the request, then commit. */
export type OpenSession<F extends object = AnyFields> = Session<F> & {
  /**
   * Saves the changes and the flash messages. Add the headers or the cookies of the result to the response. A job without a response ignores
   * them. Call it once. If a logout fails, the error has `headers` that clear the browser's cookie.
   *
   * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`, `too_large`, `schema_mismatch`, `too_late`
   */
  commit(): Promise<CommitResult>
}

/** The `commit` of a session outside a middleware. */
const commitFor = (work: UnitOfWork, requestContext: RequestContext) => {
  const headersWith = (cookies: readonly string[]): Headers => {
    const headers = new Headers()
    addHeaders(headers, cookies, work.context.emit, work.privateResponse)
    return headers
  }
  return async (): Promise<CommitResult> => {
    if (work.committed) {
      throw new KeepsakeError('too_late', 'commit() was called twice for one session. Open the session again.')
    }
    requestContext.answered = true
    work.flashAdded = requestContext.flashAdded
    try {
      const outcome = await commit(work)
      if (outcome.failure !== undefined) {
        await giveBackMessages(work)
        const cookies = responseCookies(outcome, work)
        const sent = { headers: headersWith(setCookieHeaders(outcome, work)), cookies }
        return { ok: false, error: outcome.failure, ...(cookies.length > 0 && sent) }
      }
      const headers = headersWith(setCookieHeaders(outcome, work))
      return { ok: true, headers, cookies: responseCookies(outcome, work) }
    } catch (error) {
      await giveBackMessages(work)
      const cookies = clearingCookies(work)
      if (error instanceof KeepsakeError && cookies.length > 0) error.headers = copyableHeaders(headersWith(cookies))
      throw error
    }
  }
}

/** Opens the session of a request. @throws KeepsakeError `invalid_option` */
export const openSession = async (
  manager: Manager,
  request: RequestHead,
  options: SessionOptions,
): Promise<OpenSession> => {
  const extend = asksToExtend(options, 'open()')
  const tenant = findTenant(manager, request)
  const work = await manager.open(request, tenant)
  work.extend = extend
  const opened = createHandle(work)
  const requestContext = attachOpened(opened, work, manager, tenant)
  return Object.defineProperty(opened, 'commit', { value: commitFor(work, requestContext) }) as OpenSession
}
