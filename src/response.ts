// What a visit adds to its response: cookies, Vary, and what caches must not do with them.

import { type Awaitable, isThenable, KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import { type CookieAttributes, formatSetCookie, maxAgeOf } from './http/cookie.ts'
import { defaultErrorResponse, type ErrorKind, type ErrorResponse } from './http/error-response.ts'
import type { CommitOutcome } from './session/commit.ts'
import type { ManagerContext } from './session/context.ts'
import type { UnitOfWork } from './session/work.ts'

const none: readonly string[] = []

/** A cookie as an object, for frameworks that set cookies by name. */
export type ResponseCookie = {
  readonly name: string
  readonly value: string
  readonly attributes: CookieAttributes & {
    /** Seconds. 0 deletes the cookie. Absent: the browser deletes the cookie when it closes. */
    readonly maxAge?: number
  }
}

/** Makes something of each cookie that an outcome sets or deletes. `maxAge` is in seconds. */
const mapCookies = <T>(
  { session, preSession }: CommitOutcome,
  { cookies, context }: UnitOfWork,
  map: (name: string, value: string, maxAge: number | undefined) => T,
): T[] => {
  const now = context.now()
  const age = (until: number | undefined) => (until === undefined ? undefined : (until - now) / 1000)
  const all: T[] = []
  if (session === 'clear') all.push(map(cookies.session, '', 0))
  else if (session) all.push(map(cookies.session, session.key, age(session.until)))
  if (preSession === 'clear') all.push(map(cookies.preSession, '', 0))
  else if (preSession) all.push(map(cookies.preSession, preSession.token, age(preSession.until)))
  return all
}

/** The Set-Cookie values of an outcome. */
export const setCookieHeaders = (outcome: CommitOutcome, work: UnitOfWork): readonly string[] => {
  if (outcome.session === undefined && outcome.preSession === undefined) return none
  const { attributes } = work.cookies
  return mapCookies(outcome, work, (name, value, maxAge) => formatSetCookie(name, value, attributes, maxAge))
}

/** The same cookies as objects. */
export const responseCookies = (outcome: CommitOutcome, work: UnitOfWork): readonly ResponseCookie[] => {
  const { domain, path = '/', secure = true, httpOnly = true } = work.cookies.attributeValues
  const { sameSite = 'lax', partitioned, priority } = work.cookies.attributeValues
  return mapCookies(outcome, work, (name, value, maxAge) => ({
    name,
    value,
    attributes: {
      path,
      ...(domain !== undefined && { domain }),
      secure,
      httpOnly,
      sameSite,
      ...(partitioned !== undefined && { partitioned }),
      ...(priority !== undefined && { priority }),
      ...(maxAge !== undefined && { maxAge: maxAgeOf(maxAge) }),
    },
  }))
}

/** Whether a Cache-Control lets no shared cache keep the response. */
const keptPrivate = (value: string): boolean => /(^|,)\s*(private|no-store)\s*(,|$)/i.test(value)

/**
 * Fields that shared caches obey before Cache-Control: any that RFC 9213 would call targeted (CDN-Cache-Control,
 * Cloudflare-CDN-Cache-Control, …), and older ones of single vendors, with what makes each keep nothing.
 */
const targeted = (name: string): string | undefined => {
  if (name === 'cache-control') return undefined
  if (name.endsWith('cache-control') || name === 'surrogate-control' || name === 'edge-control') return 'no-store'
  return name === 'x-accel-expires' ? '0' : undefined
}

/** Sees to it that no shared cache keeps a response that is for one visitor alone. */
const keepFromCaches = (headers: Headers, emit: Emit, fallback: string): void => {
  let overridden = false
  for (const [name, value] of [...headers]) {
    const none = targeted(name)
    if (none === undefined || value === none || keptPrivate(value)) continue
    headers.set(name, none)
    overridden = true
  }
  const cache = headers.get('cache-control')
  if (cache === null) headers.set('cache-control', fallback)
  else if (!keptPrivate(cache)) {
    headers.set('cache-control', 'private, no-store')
    overridden = true
  }
  if (!overridden) return
  emit('cache_overridden', {
    message:
      'A response that sets a cookie, or has a form token or a flash message in it, had a field such as Cache-Control that lets shared caches keep it. The field was replaced.',
  })
}

const namesCookie = (vary: string | null): boolean => vary !== null && /(^|,)\s*(\*|cookie)\s*(,|$)/i.test(vary)

/**
 * Puts cookies on headers, beside those that are there, and says what caches must not do (RFC 9111 §7.3: Set-Cookie
 * alone stops none). A confidential response has something in it that is for one visitor alone.
 */
export const addHeaders = (headers: Headers, cookies: readonly string[], emit: Emit, privateResponse = false): void => {
  const vary = headers.get('vary')
  if (!namesCookie(vary)) headers.set('vary', vary === null ? 'Cookie' : `${vary}, Cookie`)
  if (cookies.length === 0 && !privateResponse) return
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  keepFromCaches(headers, emit, cookies.length > 0 ? 'no-store' : 'private, no-cache')
}

/** A copy of a response whose headers can be changed: the handler may keep its own, and answer with it again. */
const copyOf = (response: Response): Response => {
  const { status, statusText, headers } = response
  // The answer to an upgrade cannot be copied, nor can it be given twice.
  return status < 200 ? response : new Response(response.body, { status, statusText, headers })
}

/** A copy of a response, dressed; itself if there is nothing to add. */
export const withHeaders = (
  response: Response,
  cookies: readonly string[],
  { emit }: Pick<ManagerContext, 'emit'>,
  privateResponse = false,
): Response => {
  if (cookies.length === 0 && !privateResponse && namesCookie(response.headers.get('vary'))) return response
  const copy = copyOf(response)
  addHeaders(copy.headers, cookies, emit, privateResponse)
  return copy
}

/** Whether a value is a Response, of this realm or another. */
export const isResponse = (value: unknown): value is Response => {
  const { status, headers, text } = (value ?? {}) as Partial<Response>
  return typeof status === 'number' && typeof text === 'function' && typeof headers?.getSetCookie === 'function'
}

/**
 * Whether a handler's answer can be sent: looked at before anything is saved.
 *
 * @throws KeepsakeError `no_response`
 */
export const sendable = (answer: unknown): Response => {
  if (!isResponse(answer)) {
    const what = typeof answer === 'object' && answer !== null ? 'an object' : String(answer)
    throw new KeepsakeError(
      'no_response',
      `The handler returned ${what}. It has to return a Response. Nothing was saved.`,
    )
  }
  if (answer.bodyUsed || answer.body?.locked) {
    throw new KeepsakeError(
      'no_response',
      'The handler returned a Response whose body has been read already. Return a new one, or a clone. Nothing was saved.',
    )
  }
  if (answer.status === 0) {
    throw new KeepsakeError(
      'no_response',
      'The handler returned Response.error(), which cannot be sent. Nothing was saved.',
    )
  }
  return answer
}

/**
 * The answer to an error: the application's, or the default if the application has none or fails to make one.
 *
 * @param render the option `errorResponse`
 */
export const errorResponse = (
  render: ErrorResponse | undefined,
  kind: ErrorKind,
  request: Request,
  emit: Emit,
): Awaitable<Response> => {
  if (render === undefined) return defaultErrorResponse(kind)
  const failed = (error: unknown): Response => {
    emit('error_response_failed', { error, message: `The option errorResponse failed for the kind ${kind}.` })
    return defaultErrorResponse(kind)
  }
  try {
    const answer = render(kind, request)
    return isThenable(answer) ? Promise.resolve(answer).then(sendable).catch(failed) : sendable(answer)
  } catch (error) {
    return failed(error)
  }
}
