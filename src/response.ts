// Adds cookies, Vary and Cache-Control to a response, and chooses the response to an error.

import { type Awaitable, isThenable, KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import { formatSetCookie, maxAgeOf } from './http/cookie.ts'
import { defaultErrorResponse, type ErrorKind, type ErrorResponse } from './http/error-response.ts'
import type { ManagerContext } from './session/context.ts'
import type { CommitOutcome, UnitOfWork } from './session/work.ts'

const none: readonly string[] = []

/** A cookie as an object, for frameworks that set cookies by name. */
export type ResponseCookie = {
  readonly name: string
  readonly value: string
  readonly attributes: {
    readonly domain?: string
    readonly path: string
    readonly secure: boolean
    readonly httpOnly: boolean
    readonly sameSite: 'strict' | 'lax' | 'none'
    readonly partitioned?: boolean
    readonly priority?: 'low' | 'medium' | 'high'
    /** Seconds. 0 deletes the cookie. Absent: the browser deletes the cookie when it closes. */
    readonly maxAge?: number
  }
}

/** Calls `map` for each cookie that an outcome sets or deletes. `maxAge` is in seconds. */
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

/** The header fields of a response: Headers, or those of a framework. The names are in lower case. */
export type ResponseHeaders = Pick<Headers, 'get' | 'set' | 'append' | 'keys'>

/** Whether a Cache-Control forbids shared caches to keep the response. */
const isPrivate = (value: string): boolean => /(^|,)\s*(private|no-store)\s*(,|$)/i.test(value)

/**
 * The value that forbids caching, if `name` is a header field that shared caches obey before Cache-Control: a targeted
 * field of RFC 9213 (CDN-Cache-Control, Cloudflare-CDN-Cache-Control, …) or an older field of a single vendor.
 */
const targetedNoStore = (name: string): string | undefined => {
  if (name === 'cache-control') return undefined
  if (name.endsWith('cache-control') || name === 'surrogate-control' || name === 'edge-control') return 'no-store'
  return name === 'x-accel-expires' ? '0' : undefined
}

/** Forbids shared caches to keep a response that is for one visitor. */
const keepFromCaches = (headers: ResponseHeaders, emit: Emit, fallback: string): void => {
  let overridden = false
  for (const name of [...headers.keys()]) {
    const noStore = targetedNoStore(name)
    if (noStore === undefined) continue
    const value = headers.get(name) ?? ''
    if (value === noStore || isPrivate(value)) continue
    headers.set(name, noStore)
    overridden = true
  }
  const cache = headers.get('cache-control')
  if (cache === null) headers.set('cache-control', fallback)
  else if (!isPrivate(cache)) {
    headers.set('cache-control', 'private, no-store')
    overridden = true
  }
  if (!overridden) return
  emit('cache_overridden', {
    message:
      'A response that sets a cookie, or contains a form token or a flash message, had a header field such as Cache-Control that allows shared caches to keep it. The field was replaced.',
  })
}

const namesCookie = (vary: string | null): boolean => vary !== null && /(^|,)\s*(\*|cookie)\s*(,|$)/i.test(vary)

/**
 * Adds Set-Cookie headers, Vary and Cache-Control to headers. Caches need it, because Set-Cookie alone does not stop
 * them (RFC 9111 §7.3). A private response contains something for one visitor, such as a form token.
 */
export const addHeaders = (
  headers: ResponseHeaders,
  cookies: readonly string[],
  emit: Emit,
  privateResponse = false,
): void => {
  const vary = headers.get('vary')
  if (!namesCookie(vary)) headers.set('vary', vary === null ? 'Cookie' : `${vary}, Cookie`)
  if (cookies.length === 0 && !privateResponse) return
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  keepFromCaches(headers, emit, cookies.length > 0 ? 'no-store' : 'private, no-cache')
}

/** A copy with new headers, because the handler may keep its Response and return it again. */
const copyOf = (response: Response): Response => {
  const { status, statusText, headers, body } = response
  // The Response to an upgrade cannot be copied. It cannot be returned twice either.
  if (status < 200) return response
  const copy = new Response(body, { status, statusText, headers })
  // The Response of @hono/node-server, which replaces the global one, keeps the Headers that it gets.
  return copy.headers === headers ? new Response(body, { status, statusText, headers: new Headers(headers) }) : copy
}

/** A copy of a response with the cookies, Vary and Cache-Control; the response itself if there is nothing to add. */
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
 * Returns a handler's response after a check that it can be sent. It is called before anything is saved.
 *
 * @throws KeepsakeError `no_response`
 */
export const sendable = (answer: unknown): Response => {
  if (!isResponse(answer)) {
    const what = typeof answer === 'object' && answer !== null ? 'an object' : String(answer)
    throw new KeepsakeError('no_response', `The handler returned ${what}. Nothing was saved. Return a Response.`)
  }
  if (answer.bodyUsed || answer.body?.locked) {
    throw new KeepsakeError(
      'no_response',
      'The handler returned a Response whose body was read already. Nothing was saved. Return a new Response or a clone.',
    )
  }
  if (answer.status === 0) {
    throw new KeepsakeError(
      'no_response',
      'The handler returned Response.error(), which cannot be sent. Nothing was saved. Return a Response with a status.',
    )
  }
  return answer
}

/** The application's response to an error. Without a Cache-Control it gets no-store, because no cache must keep it. */
const notCached = (answer: Response): Response => {
  if (answer.headers.has('cache-control')) return answer
  const copy = copyOf(answer)
  copy.headers.set('cache-control', 'no-store')
  return copy
}

/**
 * The response to an error: the application's, or the default if the option is absent or fails.
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
    emit('error_response_failed', {
      error,
      message: `The option errorResponse failed for the kind ${kind}, so the default was sent.`,
    })
    return defaultErrorResponse(kind)
  }
  try {
    const answer = render(kind, request)
    const complete = (response: Response): Response => notCached(sendable(response))
    return isThenable(answer) ? Promise.resolve(answer).then(complete).catch(failed) : complete(answer)
  } catch (error) {
    return failed(error)
  }
}
