// The application's own cookies: sealed by default, with the safest name and attributes that its options allow.

import { inspect } from 'node:util'
import { checkOptionNames, KeepsakeError } from './error.ts'
import { bareName, type CookieAttributes, cookieValues, formatSetCookie, MAX_COOKIE_BYTES } from './http/cookie.ts'
import { type CookieSettings, cookieSettingsFor } from './http/cookie-names.ts'
import { headOf, managerOf, tenantOf } from './request.ts'
import type { RequestLike } from './request-context.ts'
import { withHeaders } from './response.ts'
import type { ManagerContext } from './session/context.ts'

/** The attributes that identify a cookie. Reading and deleting need the same ones as setting. */
export type CookiePlace = Pick<CookieAttributes, 'domain' | 'path' | 'httpOnly'>

export type ReadCookieOptions = CookiePlace & {
  /** false: read a cookie that is not sealed. Any program may have written it. Default true. */
  readonly sealed?: boolean | undefined
}

export type SetCookieOptions = Omit<CookieAttributes, 'secure'> & {
  /** false: send the value unchanged, so that scripts or other servers can read it. Default true. */
  readonly sealed?: boolean | undefined
  /**
   * Seconds until the browser deletes the cookie; a sealed one does not open after that. Default: until the browser
   * closes.
   */
  readonly maxAge?: number | undefined
}

/** The characters of a value that is not sealed (RFC 6265bis §4.1.1, cookie-octet). */
const plainValue = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*$/

const placeOptions = ['domain', 'path', 'httpOnly'] as const
const valueOptions = ['sameSite', 'partitioned', 'priority', 'sealed', 'maxAge'] as const

const namesFor = (request: RequestLike, name: string, options: SetCookieOptions): CookieSettings => {
  const { sealed: _, maxAge: __, ...attributes } = options
  const bare = bareName(name)
  const { cookie } = tenantOf(request)
  if (bare === cookie.name || bare === `${cookie.name}-pre`) {
    throw new KeepsakeError(
      'invalid_option',
      `The name ${bare} belongs to the session cookie. Choose another name, or change the option cookie.name.`,
    )
  }
  return cookieSettingsFor({ ...managerOf(request).transport, cookie: { ...attributes, name: bare } })(headOf(request))
}

const sealContext = (request: RequestLike, { session: name, place }: CookieSettings) => ({
  purpose: 'cookie',
  name: name + place,
  audience: tenantOf(request).namespace,
})

/** Eight bytes with the end in milliseconds since 1970, or Infinity, then the text. */
const encodeValue = (text: string, until: number): Buffer => {
  const end = Buffer.alloc(8)
  end.writeDoubleBE(until)
  return Buffer.concat([end, Buffer.from(text)])
}

const decodeValue = (bytes: Buffer | undefined, now: number): string | undefined =>
  bytes !== undefined && bytes.length >= 8 && now < bytes.readDoubleBE() ? bytes.toString('utf8', 8) : undefined

/**
 * The value of a cookie that `setCookie` set. Returns undefined if the cookie is missing, expired, or not sealed by
 * this application for this name, path and domain. It opens no session, and the response gets no Vary. If caches may
 * keep a page that depends on the cookie, add `Vary: Cookie` to it.
 *
 * @throws KeepsakeError `invalid_option`, `no_middleware`, `unavailable`
 */
export const getCookie = async (
  request: RequestLike,
  name: string,
  options: ReadCookieOptions = {},
): Promise<string | undefined> => {
  checkOptionNames(options, [...placeOptions, 'sealed'], 'getCookie()')
  const { sealed = true } = options
  const manager = managerOf(request)
  const cookies = namesFor(request, name, options)
  // Values of other programs may contain commas. Sealed values do not.
  const values = cookieValues(
    headOf(request).headers.get('cookie') ?? '',
    cookies.session,
    () => true,
    sealed ? ',' : ';',
  )
  if (!sealed) return values[0]
  if (values.length === 0) return undefined
  const { keyRing, now } = await manager.context()
  for (const value of values) {
    const text = decodeValue(keyRing.open(sealContext(request, cookies), value), now())
    if (text !== undefined) return text
  }
  return undefined
}

/** Adds a Set-Cookie to a response. It replaces an earlier one of the same name, path and domain. */
const addCookie = (response: Response, line: string, manager: Pick<ManagerContext, 'emit'>): Response => {
  const nameOf = (text: string) => text.slice(0, text.indexOf('='))
  const placeOf = (text: string) => text.match(/; (Path|Domain)=[^;]*/g)?.join()
  const { headers } = response
  const earlier = headers.getSetCookie()
  const others = earlier.filter((text) => nameOf(text) !== nameOf(line) || placeOf(text) !== placeOf(line))
  if (others.length === earlier.length) return withHeaders(response, [line], manager)
  const copy = new Response(response.body, response)
  copy.headers.delete('set-cookie')
  for (const text of others) copy.headers.append('set-cookie', text)
  return withHeaders(copy, [line], manager)
}

/**
 * Sets a cookie. By default it is sealed, HttpOnly, Secure and SameSite=Lax, for all paths of this host and for no
 * other host. Its name gets the prefix that makes browsers protect it. On a loopback name without TLS it has no Secure
 * and no prefix, like the session cookie.
 *
 * @returns a response with the cookie. Return this one from the handler, because it is usually a copy
 * @throws KeepsakeError `invalid_option`, `too_large`, `no_middleware`, `unavailable`
 */
export const setCookie = async (
  response: Response,
  request: RequestLike,
  name: string,
  value: string,
  options: SetCookieOptions = {},
): Promise<Response> => {
  checkOptionNames(options, [...placeOptions, ...valueOptions], 'setCookie()')
  const { sealed = true, maxAge } = options
  if (typeof value !== 'string')
    throw new KeepsakeError(
      'invalid_option',
      `The value of the cookie is of the type ${typeof value}. It must be a string.`,
    )
  if (maxAge !== undefined && !(typeof maxAge === 'number' && maxAge > 0 && Number.isFinite(maxAge))) {
    throw new KeepsakeError(
      'invalid_option',
      `The option maxAge is ${inspect(maxAge)}. It must be a number of seconds, more than 0. To delete a cookie, call deleteCookie.`,
    )
  }
  if (!sealed && !plainValue.test(value)) {
    throw new KeepsakeError(
      'invalid_option',
      'The value of a cookie that is not sealed contains a character that is not allowed: a space, a comma, a semicolon, a quote, a backslash, or one outside ASCII. Encode it, for example with encodeURIComponent.',
    )
  }
  const manager = managerOf(request)
  const cookies = namesFor(request, name, options)
  let sent = value
  if (sealed) {
    const { keyRing, now } = await manager.context()
    const until = maxAge === undefined ? Number.POSITIVE_INFINITY : now() + maxAge * 1000
    sent = keyRing.seal(sealContext(request, cookies), encodeValue(value, until))
  }
  const line = formatSetCookie(cookies.session, sent, cookies.attributes, maxAge)
  if (line.length <= MAX_COOKIE_BYTES) return addCookie(response, line, manager)
  throw new KeepsakeError(
    'too_large',
    `The cookie ${name} would have ${line.length} bytes, but browsers keep at most ${MAX_COOKIE_BYTES}. Shorten the value, or keep it in the session.`,
  )
}

/**
 * Deletes a cookie of the browser. It needs the same domain, path and httpOnly that the cookie was set with.
 *
 * @returns as `setCookie`
 * @throws KeepsakeError `invalid_option`, `no_middleware`
 */
export const deleteCookie = async (
  response: Response,
  request: RequestLike,
  name: string,
  options: CookiePlace = {},
): Promise<Response> => {
  checkOptionNames(options, placeOptions, 'deleteCookie()')
  const manager = managerOf(request)
  const { session: full, attributes } = namesFor(request, name, options)
  return addCookie(response, formatSetCookie(full, '', attributes, 0), manager)
}
