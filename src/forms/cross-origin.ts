// Requests that a page of another site made in the visitor's name are refused before the handler sees them.

import { checkOptionNames, KeepsakeError } from '../error.ts'
import { emitter, type SessionEventListener } from '../events.ts'
import type { ErrorResponse } from '../http/error-response.ts'
import { around, type Handler } from '../http/handler.ts'
import { sourceOf } from '../http/origin.ts'
import { findManager, workOf } from '../request.ts'
import { errorResponse } from '../response.ts'
import { discardRest, fieldIn } from './body.ts'
import { reportRejected, TOKEN_FIELD, TOKEN_HEADER, verifyToken } from './csrf.ts'

export type CrossOriginProtectionOptions = {
  /**
   * Origins whose pages may make requests, as browsers print them, such as `https://app.example`: this application's
   * own, and others that you trust with your visitors. Default: the origin of the request's own URL.
   */
  readonly origins?: readonly string[] | undefined
  /** Hears of what was refused, where no sessions middleware is around to hear it: `cross_origin`. */
  readonly onEvent?: SessionEventListener | undefined
  /** Renders the answer 403, if no session manager is around this middleware: that one's `errorResponse` counts then. */
  readonly errorResponse?: ErrorResponse | undefined
}

const safe = new Set(['GET', 'HEAD', 'OPTIONS'])

const printedOrigin = (origin: string): boolean => {
  try {
    return /^https?:\/\/[^*]+$/.test(origin) && new URL(origin).origin === origin
  } catch {
    return false
  }
}

/** What the headers say of where a request comes from: `unknown` where they are no evidence. */
const requestOrigin = (request: Request, origins: ReadonlySet<string> | undefined): 'own' | 'foreign' | 'unknown' => {
  const source = sourceOf(request)
  // A page of ours with Referrer-Policy: no-referrer sends `Origin: null`, and so does a frame of anybody's.
  if (source === 'hidden' || source === 'unknown') return 'unknown'
  const { headers } = request
  // The origin of the request's own URL counts unless a list says which do.
  if (source === 'own' && (origins === undefined || headers.has('sec-fetch-site'))) return 'own'
  return origins?.has(headers.get('origin') ?? '') ? 'own' : 'foreign'
}

/** What the operator is to know of a refusal, and what to do. */
const adviceOn = (from: 'foreign' | 'unknown', origin: string | null): string => {
  if (from === 'unknown') {
    return origin === null
      ? 'A request without Sec-Fetch-Site, Origin and a good form token was refused.'
      : 'A request with Origin: null and without a good form token was refused. If a page of your own sent it, its Referrer-Policy hides where it is from: send Referrer-Policy: same-origin with your pages, or put a form token into the form.'
  }
  const refused = 'A request from a page of another site was refused'
  if (origin === null || origin === 'null') return `${refused}; it does not say which (no Origin, or Origin: null).`
  return `${refused}; its origin is ${JSON.stringify(origin.slice(0, 200))}. If you trust that origin, list it in origins.`
}

/** Whether a request that shows nothing else carries a token of this visitor's, in its header or its form. */
const hasToken = async (request: Request): Promise<boolean> => {
  if (findManager(request) === undefined) return false
  const token = request.headers.get(TOKEN_HEADER) ?? (await fieldIn(request, TOKEN_FIELD))
  if (token === undefined) return false
  const work = await workOf(request).catch((error) => {
    // The body was looked into, and would wait for a reader, and its connection with it.
    void discardRest(request)
    throw error
  })
  const outcome = verifyToken(work, request, token)
  if (!outcome.ok) reportRejected(work, request, outcome.error)
  return outcome.ok
}

/**
 * Refuses (403) what a page of another site asks for in a visitor's name: every method but GET, HEAD and OPTIONS, and
 * WebSocket upgrades. A browser's word counts first (Sec-Fetch-Site), then the Origin; a request that has neither, from an
 * old browser or a program, or whose Origin is `null`, needs a form token without an action: in the header X-CSRF-Token,
 * or as a field within the first MiB of its form. Put it inside the sessions middleware, or such requests are refused.
 * Referer, Host and X-Forwarded-* are not looked at. What else the handler is called with, such as the context of a
 * framework, is handed on.
 *
 * What this stands on: OWASP's Cross-Site Request Forgery Prevention, “Fetch Metadata headers”.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const crossOriginProtection = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: CrossOriginProtectionOptions = {},
): Handler<R, Rest> => {
  checkOptionNames(options, ['origins', 'onEvent', 'errorResponse'], 'crossOriginProtection()')
  const { origins } = options
  const odd = origins?.find((origin) => !printedOrigin(origin))
  if (odd !== undefined) {
    throw new KeepsakeError(
      'invalid_option',
      `An origin has to be as browsers print it, such as https://app.example, and is ${JSON.stringify(odd)}.`,
    )
  }
  const listed = origins && new Set(origins)
  const listener = emitter(options.onEvent)
  return around(next, async (request: R, ...rest: Rest) => {
    const upgrades = request.headers.get('upgrade') !== null
    if (safe.has(request.method) && !upgrades) return next(request, ...rest)
    const from = requestOrigin(request, listed)
    if (from === 'own' || (from === 'unknown' && (await hasToken(request)))) return next(request, ...rest)
    const manager = findManager(request)
    const emit = manager?.emit ?? listener
    emit('cross_origin_rejected', { message: adviceOn(from, request.headers.get('origin')) })
    void discardRest(request)
    return errorResponse(manager?.errorResponse ?? options.errorResponse, 'cross_origin', request, emit)
  })
}
