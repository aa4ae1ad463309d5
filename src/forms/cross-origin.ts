// Refuses requests that pages of other origins make in the visitor's name, before the handler sees them.

import { inspect } from 'node:util'
import { checkOptionNames, KeepsakeError } from '../error.ts'
import { emitter, type SessionEventListener } from '../events.ts'
import type { ErrorResponse } from '../http/error-response.ts'
import { around, type Handler } from '../http/handler.ts'
import { sourceOf } from '../http/origin.ts'
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

const isOrigin = (origin: string): boolean => {
  try {
    return /^https?:\/\/[^*]+$/.test(origin) && new URL(origin).origin === origin
  } catch {
    return false
  }
}

/** The origin of a request: allowed (`same`), not allowed (`cross`), or `unknown` if its headers are no evidence. */
const requestOrigin = (request: Request, origins: ReadonlySet<string> | undefined): 'same' | 'cross' | 'unknown' => {
  const source = sourceOf(request)
  // The application's own page with Referrer-Policy: no-referrer sends `Origin: null`, and so does any sandboxed frame.
  if (source === 'hidden' || source === 'unknown') return 'unknown'
  const { headers } = request
  // The origin of the request's URL is allowed unless the option `origins` names the allowed ones.
  if (source === 'same' && (origins === undefined || headers.has('sec-fetch-site'))) return 'same'
  return origins?.has(headers.get('origin') ?? '') ? 'same' : 'cross'
}

/** The message of the event: the reason of the refusal, and the operator's next step. */
const adviceOn = (from: 'cross' | 'unknown', origin: string | null): string => {
  if (from === 'unknown') {
    return origin === null
      ? 'A request without Sec-Fetch-Site, Origin and a valid form token was refused.'
      : 'A request with Origin: null and without a valid form token was refused. If your own page sent it, its Referrer-Policy hides its origin: send Referrer-Policy: same-origin with your pages, or put a form token into the form.'
  }
  const refused = 'A request from a page of another origin was refused.'
  if (origin === null || origin === 'null') return `${refused} Its origin is unknown (no Origin, or Origin: null).`
  return `${refused} Its origin is ${JSON.stringify(origin.slice(0, 200))}. If you trust that origin, add it to the option origins.`
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
  const { origins } = options
  const invalid = origins?.find((origin) => !isOrigin(origin))
  if (invalid !== undefined) {
    throw new KeepsakeError(
      'invalid_option',
      `The option origins contains ${JSON.stringify(invalid)}. An origin must be in the format of browsers, such as https://app.example.`,
    )
  }
  const { errorResponse: render } = options
  if (render !== undefined && typeof render !== 'function') {
    throw new KeepsakeError('invalid_option', `The option errorResponse is ${inspect(render)}. It must be a function.`)
  }
  const allowed = origins && new Set(origins)
  const listener = emitter(options.onEvent)
  return around(next, async (request: R, ...rest: Rest) => {
    const upgrades = request.headers.get('upgrade') !== null
    if (safeMethods.has(request.method) && !upgrades) return next(request, ...rest)
    const from = requestOrigin(request, allowed)
    if (from === 'same' || (from === 'unknown' && (await hasToken(request)))) return next(request, ...rest)
    const manager = findManager(request)
    const emit = manager?.emit ?? listener
    emit('cross_origin_rejected', { message: adviceOn(from, request.headers.get('origin')) })
    void discardRest(request)
    return errorResponse(manager?.errorResponse ?? render, 'cross_origin', request, emit)
  })
}
