// Reads the values of one cookie from a Cookie header, and writes Set-Cookie headers (RFC 6265bis).

import { inspect } from 'node:util'
import { KeepsakeError } from '../error.ts'

export type CookieAttributes = {
  /** Default: none, so the browser sends the cookie only to the host that set it. */
  readonly domain?: string | undefined
  /** Default `/`. */
  readonly path?: string | undefined
  /** The browser sends the cookie only over TLS. Default true. */
  readonly secure?: boolean | undefined
  /** Scripts cannot read the cookie. Default true. */
  readonly httpOnly?: boolean | undefined
  /** Default `lax`. With `strict`, the browser sends no cookie when a visitor follows a link from another site. */
  readonly sameSite?: 'strict' | 'lax' | 'none' | undefined
  /** The browser keeps a separate cookie for each site that embeds yours (CHIPS). Default false. */
  readonly partitioned?: boolean | undefined
  /** Chromium deletes cookies with a higher priority last. Default: none, which counts as medium. */
  readonly priority?: 'low' | 'medium' | 'high' | undefined
}

/** RFC 9110 §5.6.2. */
const cookieName = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}$/
/** RFC 6265bis §4.1.1 path-value: no control characters and no semicolon. It must begin with a slash. */
const pathValue = /^\/[\x20-\x3a\x3c-\x7e]{0,1023}$/
const domainValue = /^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+$/i

/** The most characters of a domain name (RFC 1035 §2.3.4). */
const MAX_DOMAIN_LENGTH = 253

/** The most values of one name. A sibling site may plant some before the right one, but more would only cause work. */
const MAX_VALUES = 4

/** The most characters of a value: browsers keep at most 4096 bytes of name and value (RFC 6265bis §5.6). */
const MAX_VALUE_LENGTH = 4096

/** The most bytes of a whole Set-Cookie that every browser keeps. */
export const MAX_COOKIE_BYTES = 4093

/** The longest age that browsers accept: 400 days, in seconds (RFC 6265bis §5.5). */
export const MAX_AGE_SECONDS = 34_560_000

const refuse = (message: string): never => {
  throw new KeepsakeError('invalid_option', message)
}

/**
 * The values of one name in a Cookie header, in order: at most four different ones that `accept` returns true for.
 *
 * Names are compared exactly. White space is SP and HTAB only, nothing is decoded, and quotes stay (RFC 6265bis §5.6).
 * A value also ends at a comma, because some platforms join several Cookie headers with commas. But no pair begins
 * after a comma, because the value of another cookie could contain a name whose prefix browsers protect.
 *
 * @param until `;` for a value that may contain commas, because another program wrote it. Default `,`
 */
export const cookieValues = (
  header: string,
  name: string,
  accept: (value: string) => boolean,
  until: ',' | ';' = ',',
): string[] => {
  const values: string[] = []
  // Each round begins after the end of the last one, so the loop ends for every name.
  for (let start = 0; start < header.length; ) {
    const semicolon = header.indexOf(';', start)
    const end = semicolon === -1 ? header.length : semicolon
    const value = valueIn(header, start, end, name, until)
    start = end + 1
    if (value === undefined || values.includes(value) || !accept(value)) continue
    if (values.push(value) === MAX_VALUES) break
  }
  return values
}

const isBlank = (code: number) => code === 0x20 || code === 0x09

/** The value of the pair between `start` and `end`, if the pair has this name. */
const valueIn = (header: string, start: number, end: number, name: string, until: ',' | ';'): string | undefined => {
  let at = start
  while (at < end && isBlank(header.charCodeAt(at))) at++
  if (!header.startsWith(name, at)) return undefined
  at += name.length
  while (at < end && isBlank(header.charCodeAt(at))) at++
  if (at >= end || header[at] !== '=') return undefined
  const pair = header.slice(at + 1, end)
  const comma = until === ',' ? pair.indexOf(',') : -1
  let from = 0
  let to = comma === -1 ? pair.length : comma
  while (from < to && isBlank(pair.charCodeAt(from))) from++
  while (to > from && isBlank(pair.charCodeAt(to - 1))) to--
  return to - from > MAX_VALUE_LENGTH ? undefined : pair.slice(from, to)
}

const sameSiteWords = { strict: 'Strict', lax: 'Lax', none: 'None' } as const
const priorityWords = { low: 'Low', medium: 'Medium', high: 'High' } as const

/**
 * The attributes of a cookie as text, which follows the value and Max-Age in a Set-Cookie. Every attribute is checked,
 * so none can add another attribute or header.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const formatAttributes = (options: CookieAttributes): string => {
  const { domain, secure = true, httpOnly = true, sameSite = 'lax', partitioned = false, priority } = options
  const { path = '/' } = options
  if (typeof path !== 'string' || !pathValue.test(path)) {
    refuse(`The cookie path is ${inspect(path)}. It must begin with / and have no semicolon or control character.`)
  }
  if (
    domain !== undefined &&
    (typeof domain !== 'string' || domain.length > MAX_DOMAIN_LENGTH || !domainValue.test(domain))
  ) {
    refuse(`The cookie domain is ${inspect(domain)}. It must be a host name with a dot, such as example.org.`)
  }
  if (typeof sameSite !== 'string' || !Object.hasOwn(sameSiteWords, sameSite))
    refuse(`The cookie attribute sameSite is ${inspect(sameSite)}. It must be 'strict', 'lax' or 'none'.`)
  if (priority !== undefined && (typeof priority !== 'string' || !Object.hasOwn(priorityWords, priority))) {
    refuse(`The cookie attribute priority is ${inspect(priority)}. It must be 'low', 'medium' or 'high'.`)
  }
  for (const [name, value] of Object.entries({ secure, httpOnly, partitioned })) {
    if (typeof value !== 'boolean')
      refuse(`The cookie option ${name} is of type ${typeof value}. It must be true or false.`)
  }
  if (!secure && (sameSite === 'none' || partitioned)) {
    refuse("A cookie with sameSite: 'none' or partitioned has no Secure. Browsers refuse it: remove secure: false.")
  }
  const parts = [`; Path=${path}`]
  if (domain !== undefined) parts.push(`; Domain=${domain}`)
  if (secure) parts.push('; Secure')
  if (httpOnly) parts.push('; HttpOnly')
  parts.push(`; SameSite=${sameSiteWords[sameSite]}`)
  if (partitioned) parts.push('; Partitioned')
  if (priority !== undefined) parts.push(`; Priority=${priorityWords[priority]}`)
  return parts.join('')
}

/**
 * The domain and path that a sealed value is bound to, in addition to the cookie's name. Empty for all paths of one
 * host, otherwise a text without `=`. A name has no `;`, so different pairs of name and place never join to the same
 * text.
 */
export const sealedPlace = ({ domain = '', path = '/' }: CookieAttributes): string =>
  domain === '' && path === '/' ? '' : `;${domain.toLowerCase()};${encodeURIComponent(path)}`

/**
 * Returns a cookie name, with or without a prefix, after a check of its characters.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const checkName = (name: string): string => {
  if (typeof name === 'string' && cookieName.test(name)) return name
  return refuse(`The cookie name is ${inspect(name)}. It must be a token of 1 to 256 characters, such as 'sid'.`)
}

/**
 * Returns a cookie name after a check that it has no prefix, because keepsake adds the right one.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const bareName = (name: string): string => {
  checkName(name)
  if (/^(_|host|secure|http)/i.test(name)) {
    return refuse(
      `The cookie name ${inspect(name)} begins like a prefix. Leave the prefix out, because keepsake adds it.`,
    )
  }
  return name
}

/**
 * Returns a cookie name after a check that the attributes meet the conditions of its prefix (RFC 6265bis §4.1.3).
 *
 * @throws KeepsakeError `invalid_option`
 */
export const checkPrefix = (
  name: string,
  { domain, path = '/', secure = true, httpOnly = true }: CookieAttributes,
): string => {
  const prefix = /^__(host-http|host|http|secure)-/i.exec(checkName(name))?.[0]
  if (prefix === undefined) return bareName(name)
  const host = /^__host-/i.test(prefix)
  const fits = secure && (!host || (domain === undefined && path === '/')) && (!/http-$/i.test(prefix) || httpOnly)
  if (!fits)
    refuse(
      `The cookie name begins with ${prefix}, and browsers refuse that name with these attributes. Change one of the two.`,
    )
  if (!/^__(Host-Http|Host|Http|Secure)-$/.test(prefix))
    refuse(
      `The cookie prefix ${prefix} is in the wrong case. Write it as in __Host-Http-, __Host-, __Http- or __Secure-.`,
    )
  bareName(name.slice(prefix.length))
  return name
}

/**
 * The prefix that makes browsers protect a cookie. With `__Host-Http-` only this host can set it, only over TLS, and
 * not by scripts. Browsers that do not know this prefix see a `__Host-` name.
 */
export const prefixOf = ({ domain, path = '/', httpOnly = true }: CookieAttributes): string => {
  if (domain !== undefined || path !== '/') return '__Secure-'
  return httpOnly ? '__Host-Http-' : '__Host-'
}

/** Whole seconds from 0 to the longest age that browsers accept. */
export const maxAgeOf = (seconds: number): number => Math.max(0, Math.min(Math.ceil(seconds), MAX_AGE_SECONDS))

/** A Set-Cookie value. `maxAge` is in seconds: 0 deletes the cookie; undefined keeps it until the browser closes. */
export const formatSetCookie = (name: string, value: string, attributes: string, maxAge: number | undefined): string =>
  maxAge === undefined ? `${name}=${value}${attributes}` : `${name}=${value}; Max-Age=${maxAgeOf(maxAge)}${attributes}`
