// Cookies of the application's own: sealed unless it says otherwise, with the safest name and attributes that fit.

import { checkOptionNames, KeepsakeError } from './error.ts'
import { bareName, type CookieAttributes, cookieValues, formatSetCookie as printedCookie } from './http/cookie.ts'
import { type CookieSettings, cookieSettingsFor } from './http/cookie-names.ts'
import { type Manager, managerOf } from './request.ts'
import { withHeaders } from './response.ts'
import type { ManagerContext } from './session/context.ts'

/** Where a cookie belongs: what finds it again, and what drops it. */
export type CookiePlace = Pick<CookieAttributes, 'domain' | 'path' | 'httpOnly'>

export type ReadCookieOptions = CookiePlace & {
  /** false for a cookie that is not sealed, which anybody may have written. Default true. */
  readonly sealed?: boolean | undefined
}

export type SetCookieOptions = Omit<CookieAttributes, 'secure'> & {
  /** false sends the value as it is: one that scripts or other servers are to read. Default true. */
  readonly sealed?: boolean | undefined
  /** Seconds that it is kept, and, where it is sealed, that it opens. Default: until the browser is closed. */
  readonly maxAge?: number | undefined
}

/** What a value may have in it that is not sealed (RFC 6265bis §4.1.1, cookie-octet). */
const plainValue = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*$/
/** Bytes of a whole Set-Cookie that every browser keeps, and characters of one value. */
const LONGEST_COOKIE = 4093

const placed = ['domain', 'path', 'httpOnly'] as const
const written = ['sameSite', 'partitioned', 'priority', 'sealed', 'maxAge'] as const

const namesFor = (manager: Manager, request: Request, name: string, options: SetCookieOptions): CookieSettings => {
  const { sealed: _, maxAge: __, ...attributes } = options
  const bare = bareName(name)
  if (bare === manager.cookieName || bare === `${manager.cookieName}-pre`) {
    throw new KeepsakeError(
      'invalid_option',
      `The cookie ${bare} is the session's own. Choose another name, or another cookie.name.`,
    )
  }
  return cookieSettingsFor({ ...manager.transport, cookie: { ...attributes, name: bare } })(request)
}

const sealContext = ({ namespace }: Manager, { session: name, place }: CookieSettings) => ({
  purpose: 'cookie',
  name: name + place,
  audience: namespace,
})

/** Eight bytes of the end in milliseconds since 1970, Infinity for none, and the text. */
const encodeValue = (text: string, until: number): Buffer => {
  const end = Buffer.alloc(8)
  end.writeDoubleBE(until)
  return Buffer.concat([end, Buffer.from(text)])
}

const decodeValue = (bytes: Buffer | undefined, now: number): string | undefined =>
  bytes !== undefined && bytes.length >= 8 && now < bytes.readDoubleBE() ? bytes.toString('utf8', 8) : undefined

/**
 * The value of a cookie that `setCookie` set, or undefined: where there is none, where it is over, and for whatever was
 * not sealed here for a cookie of this very name and place. No session is opened, and the response gets no Vary: a page
 * that looks different for it should say `Vary: Cookie` where caches may keep it.
 *
 * @throws KeepsakeError `invalid_option`, `no_middleware`, `unavailable`
 */
export const getCookie = async (
  request: Request,
  name: string,
  options: ReadCookieOptions = {},
): Promise<string | undefined> => {
  checkOptionNames(options, [...placed, 'sealed'], 'cookie()')
  const { sealed = true } = options
  const manager = managerOf(request)
  const cookies = namesFor(manager, request, name, options)
  // What others wrote may have commas; what is sealed has none.
  const values = cookieValues(request.headers.get('cookie') ?? '', cookies.session, () => true, sealed ? ',' : ';')
  if (!sealed) return values[0]
  if (values.length === 0) return undefined
  const { keyRing, now } = await manager.context()
  for (const value of values) {
    const text = decodeValue(keyRing.open(sealContext(manager, cookies), value), now())
    if (text !== undefined) return text
  }
  return undefined
}

/** A response with one more Set-Cookie, in the place of an earlier one of the same name and place. */
const put = (response: Response, line: string, manager: Pick<ManagerContext, 'emit'>): Response => {
  const pair = (text: string) => text.slice(0, text.indexOf('='))
  const where = (text: string) => text.match(/; (Path|Domain)=[^;]*/g)?.join()
  const { headers } = response
  const earlier = headers.getSetCookie()
  const others = earlier.filter((text) => pair(text) !== pair(line) || where(text) !== where(line))
  if (others.length === earlier.length) return withHeaders(response, [line], manager)
  const copy = new Response(response.body, response)
  copy.headers.delete('set-cookie')
  for (const text of others) copy.headers.append('set-cookie', text)
  return withHeaders(copy, [line], manager)
}

/**
 * Sets a cookie: sealed, HttpOnly, Secure, SameSite=Lax, for all paths of this host, and for no other host, unless the
 * options say otherwise. Its name gets the prefix with which browsers guard that. On a loopback address without TLS it
 * is a plain one, as the session's is.
 *
 * @returns the response, or a copy of it where its headers cannot be changed: go on with what you get
 * @throws KeepsakeError `invalid_option`, `too_large`, `no_middleware`, `unavailable`
 */
export const setCookie = async (
  response: Response,
  request: Request,
  name: string,
  value: string,
  options: SetCookieOptions = {},
): Promise<Response> => {
  checkOptionNames(options, [...placed, ...written], 'setCookie()')
  const { sealed = true, maxAge } = options
  if (typeof value !== 'string') throw new KeepsakeError('invalid_option', 'The value of a cookie has to be a string.')
  if (maxAge !== undefined && !(typeof maxAge === 'number' && maxAge > 0 && Number.isFinite(maxAge))) {
    throw new KeepsakeError(
      'invalid_option',
      'maxAge has to be a number of seconds, more than 0. To remove a cookie, deleteCookie.',
    )
  }
  if (!sealed && !plainValue.test(value)) {
    throw new KeepsakeError(
      'invalid_option',
      'A cookie that is not sealed cannot have blanks, commas, semicolons, quotes, backslashes or other characters than ASCII in its value. Encode it, with encodeURIComponent say.',
    )
  }
  const manager = managerOf(request)
  const cookies = namesFor(manager, request, name, options)
  let kept = value
  if (sealed) {
    const { keyRing, now } = await manager.context()
    const until = maxAge === undefined ? Number.POSITIVE_INFINITY : now() + maxAge * 1000
    kept = keyRing.seal(sealContext(manager, cookies), encodeValue(value, until))
  }
  const line = printedCookie(cookies.session, kept, cookies.attributes, maxAge)
  if (line.length <= LONGEST_COOKIE) return put(response, line, manager)
  throw new KeepsakeError(
    'too_large',
    `The cookie ${name} would have ${line.length} bytes, and browsers keep at most ${LONGEST_COOKIE}. Keep less in it, or keep it in the session.`,
  )
}

/**
 * Removes a cookie from the browser: give the same domain, path and httpOnly as when it was set.
 *
 * @returns as `setCookie`
 * @throws KeepsakeError `invalid_option`, `no_middleware`
 */
export const deleteCookie = async (
  response: Response,
  request: Request,
  name: string,
  options: CookiePlace = {},
): Promise<Response> => {
  checkOptionNames(options, placed, 'deleteCookie()')
  const manager = managerOf(request)
  const { session: full, attributes } = namesFor(manager, request, name, options)
  return put(response, printedCookie(full, '', attributes, 0), manager)
}
