// Refuses requests that pages of other origins make in the visitor's name, before the handler sees them.

import { inspect } from 'node:util'
import { checkOptionNames, KeepsakeError } from '../error.ts'
import { emitter, type SessionEventListener } from '../events.ts'
import { adviceOnCross, checkOrigins, pageOrigin } from '../http/allowed-origins.ts'
import type { ErrorResponse } from '../http/error-response.ts'
import { around, type Handler } from '../http/handler.ts'
import type { Source } from '../http/origin.ts'
import { findManager, workOf } from '../request.ts'
import { errorResponse } from '../response.ts'
import { discardRest, findField } from './body.ts'
import { reportRejected, TOKEN_FIELD, TOKEN_HEADER, verifyToken } from './csrf.ts'

export type CrossOriginProtectionOptions = {
  /**
   * Origins whose pages may make requests, in the format of browsers, such as `https://app.example`. List this
   * application's own origins too. Default: the origin of the request's URL.
   */
  readonly origins?: readonly string[] | undefined
  /**
   * Called for each event `cross_origin_rejected`, if no session manager is around this middleware: its `onEvent` is
   * used then.
   */
  readonly onEvent?: SessionEventListener | undefined
  /**
   * Renders the response 403. If a session manager with `errorResponse` is around this middleware, that one is used.
   */
  readonly errorResponse?: ErrorResponse | undefined
}

const safeMethods = new Set(['GET', 'HEAD', 'OPTIONS'])

/** The message of the event: the reason of the refusal, and the operator's next step. */
const adviceOn = (from: Source, origin: string | null): string => {
  if (from === 'cross') return adviceOnCross(origin)
  return from === 'unknown'
    ? 'A request without Sec-Fetch-Site, Origin and a valid form token was refused.'
    : 'A request with Origin: null and without a valid form token was refused. If your own page sent it, its Referrer-Policy hides its origin: send Referrer-Policy: same-origin with your pages, or put a form token into the form.'
}

/** Whether a request has a valid token of this visitor, in its header or its form. */
const hasToken = async (request: Request): Promise<boolean> => {
  if (findManager(request) === undefined) return false
  const token = request.headers.get(TOKEN_HEADER) ?? (await findField(request, TOKEN_FIELD))
  if (token === undefined) return false
  const work = await workOf(request).catch((error) => {
    // The body was searched. Without this it would wait for a reader, and block its connection.
    void discardRest(request)
    throw error
  })
  const outcome = verifyToken(work, token)
  if (!outcome.ok) reportRejected(work, outcome.error)
  return outcome.ok
}

/**
 * Refuses (403) requests that pages of other origins make in a visitor's name: all methods except GET, HEAD and
 * OPTIONS, and WebSocket upgrades. It reads Sec-Fetch-Site first, then Origin. A request with neither, from an old
 * browser or a program, or with `Origin: null`, needs a form token without an action: in the header X-CSRF-Token, or as
 * a field within the first MiB of its form. Put this middleware inside a session manager, because otherwise such
 * requests are refused. Referer, Host and X-Forwarded-* are not read. Further arguments of the handler, such as the
 * context of a framework, are passed on.
 *
 * Source: OWASP Cross-Site Request Forgery Prevention, “Fetch Metadata headers”.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const crossOriginProtection = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: CrossOriginProtectionOptions = {},
): Handler<R, Rest> => {
  checkOptionNames(options, ['origins', 'onEvent', 'errorResponse'], 'crossOriginProtection()')
  const allowed = checkOrigins(options.origins)
  const { errorResponse: render } = options
  if (render !== undefined && typeof render !== 'function') {
    throw new KeepsakeError('invalid_option', `The option errorResponse is ${inspect(render)}. It must be a function.`)
  }
  const listener = emitter(options.onEvent)
  return around(next, async (request: R, ...rest: Rest) => {
    const upgrades = request.headers.get('upgrade') !== null
    if (safeMethods.has(request.method) && !upgrades) return next(request, ...rest)
    const from = pageOrigin(request, allowed)
    if (from === 'same' || (from !== 'cross' && (await hasToken(request)))) return next(request, ...rest)
    const manager = findManager(request)
    const emit = manager?.emit ?? listener
    emit('cross_origin_rejected', { message: adviceOn(from, request.headers.get('origin')) })
    void discardRest(request)
    return errorResponse(manager?.errorResponse ?? render, 'cross_origin', request, emit)
  })
}
