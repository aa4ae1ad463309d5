// What a visit adds to its response: cookies, Vary, and what caches must not do with them.

import { KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import { formatSetCookie } from './http/cookie.ts'
import type { CommitOutcome } from './session/commit.ts'
import type { ManagerContext, UnitOfWork } from './session/work.ts'

const none: readonly string[] = []

/** The Set-Cookie values that tell the client of an outcome. */
export const setCookieHeaders = (
  { session, preSession }: CommitOutcome,
  { cookies, context }: UnitOfWork,
): readonly string[] => {
  if (session === undefined && preSession === undefined) return none
  const now = context.now()
  const cookie = (name: string, value: string, until: number | undefined) =>
    formatSetCookie(name, value, cookies.attributes, until === undefined ? undefined : (until - now) / 1000)
  const lines: string[] = []
  if (session === 'clear') lines.push(cookie(cookies.session, '', now))
  else if (session) lines.push(cookie(cookies.session, session.key, session.until))
  if (preSession === 'clear') lines.push(cookie(cookies.preSession, '', now))
  else if (preSession) lines.push(cookie(cookies.preSession, preSession.token, preSession.until))
  return lines
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

const plain = (text: string, status: number): Response =>
  new Response(`${text}\n`, {
    status,
    headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' },
  })

const conflicts = {
  ended: 'This session has ended; nothing was saved.',
  conflict: 'The session was changed meanwhile, and this change does not fit any more; nothing was saved.',
  withheld:
    'Your browser did not send your session with this request; nothing was saved. Please try again from our page.',
} as const

/** For a visit whose changes were not saved. */
export const conflictResponse = (lost: keyof typeof conflicts): Response => plain(conflicts[lost], 409)
/** For a request that may have been made for a visitor by a page of another site. */
export const forbiddenResponse = (): Response => plain('This request did not come from our own pages.', 403)
/** For a visit whose backend failed. */
export const failureResponse = (status = 500): Response =>
  plain(
    status === 503 ? 'The session store is not available. Please try again.' : 'The session could not be saved.',
    status,
  )
