// What a visit adds to its response: cookies, Vary, and what caches must not do with them.

import { setCookie } from './cookie.ts'
import type { Emit } from './events.ts'
import type { Outcome } from './lifecycle/commit.ts'
import type { Lost } from './lifecycle/save.ts'
import type { House, Visit } from './lifecycle/visit.ts'

const none: readonly string[] = []

/** The Set-Cookie values that tell the client of an outcome. */
export const cookiesOf = ({ session, preSession }: Outcome, { names, house }: Visit): readonly string[] => {
  if (session === undefined && preSession === undefined) return none
  const now = house.now()
  const cookie = (name: string, value: string, until: number) =>
    setCookie(name, value, names.attributes, (until - now) / 1000)
  const cookies: string[] = []
  if (session === 'clear') cookies.push(cookie(names.session, '', now))
  else if (session) cookies.push(cookie(names.session, session.key, session.until))
  if (preSession === 'clear') cookies.push(cookie(names.preSession, '', now))
  else if (preSession) cookies.push(cookie(names.preSession, preSession.token, preSession.until))
  return cookies
}

/**
 * Puts cookies on headers, beside those that are there, and says what caches must not do (RFC 9111 §7.3: Set-Cookie
 * alone stops none). A confidential response has something in it that is for one visitor alone.
 */
export const dress = (headers: Headers, cookies: readonly string[], emit: Emit, confidential = false): void => {
  const vary = headers.get('vary')
  if (vary === null) headers.set('vary', 'Cookie')
  else if (!/(^|,)\s*(\*|cookie)\s*(,|$)/i.test(vary)) headers.set('vary', `${vary}, Cookie`)
  if (cookies.length === 0 && !confidential) return
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  const cache = headers.get('cache-control')
  if (cache !== null && /(^|,)\s*(private|no-store)\s*(,|$)/i.test(cache)) return
  if (cache !== null) {
    headers.set('cache-control', 'private, no-store')
    emit('cache_overridden', {
      message:
        'A response that sets a cookie, or has a form token in it, had a Cache-Control that lets shared caches keep it. It was replaced.',
    })
  } else headers.set('cache-control', cookies.length > 0 ? 'no-store' : 'private, no-cache')
}

/** A response, dressed: itself, or a copy where its headers cannot be changed. */
export const dressed = (
  response: Response,
  cookies: readonly string[],
  { emit }: Pick<House, 'emit'>,
  confidential = false,
): Response => {
  try {
    dress(response.headers, cookies, emit, confidential)
    return response
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    // Headers of a redirect, or of a response that was fetched, cannot be changed: a copy's can.
    const copy = new Response(response.body, response)
    dress(copy.headers, cookies, emit, confidential)
    return copy
  }
}

const plain = (text: string, status: number): Response =>
  new Response(`${text}\n`, {
    status,
    headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' },
  })

/** For a visit whose changes were not saved, because of what another did to the session. */
export const conflict = (lost: Lost): Response =>
  plain(
    lost === 'ended'
      ? 'This session has ended; nothing was saved.'
      : 'The session was changed meanwhile, and this change does not fit any more; nothing was saved.',
    409,
  )
/** For a request that may have been made for a visitor by a page of another site. */
export const forbidden = (): Response => plain('This request did not come from our own pages.', 403)
/** For a visit whose backend failed. */
export const failure = (status: number): Response =>
  plain(
    status === 503 ? 'The session store is not available. Please try again.' : 'The session could not be saved.',
    status,
  )
