// Cookies on the wire: reading one name out of a Cookie header, writing a Set-Cookie (RFC 6265bis).

import { KeepsakeError } from '../error.ts'

export type CookieAttributes = {
  /** Without it, the default, only the very host that set a cookie gets it back. */
  readonly domain?: string | undefined
  /** Default `/`. */
  readonly path?: string | undefined
  /** Over TLS only. Default true. */
  readonly secure?: boolean | undefined
  /** Not for scripts. Default true. */
  readonly httpOnly?: boolean | undefined
  /** Default `lax`: a strict cookie does not come along when a visitor follows a link to your site. */
  readonly sameSite?: 'strict' | 'lax' | 'none' | undefined
  /** A jar of its own for each site that embeds yours (CHIPS). */
  readonly partitioned?: boolean | undefined
  /** Chromium's hint which cookies to drop last. */
  readonly priority?: 'low' | 'medium' | 'high' | undefined
}

/** RFC 9110 §5.6.2. */
const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}$/
/** RFC 6265bis §4.1.1 path-value: no control characters, no semicolon; and ours begins with a slash. */
const pathValue = /^\/[\x20-\x3a\x3c-\x7e]{0,1023}$/
const domainValue = /^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+$/i

/** Characters of a domain name (RFC 1035 §2.3.4). */
const LONGEST_DOMAIN = 253

/** Four are enough to find ours behind those that a sibling site planted, and too few to be made work by. */
const CANDIDATES = 4

/** Characters: browsers keep name and value together up to 4096 bytes (RFC 6265bis §5.6). */
const LONGEST_VALUE = 4096

const refuse = (what: string): never => {
  throw new KeepsakeError('invalid_option', what)
}

/**
 * The values that a Cookie header has for a name and that `could` be what is looked for: in order, at most four that differ.
 *
 * Names are compared as they are. White space is SP and HTAB alone, nothing is decoded, no quotes are taken off (RFC
 * 6265bis §5.6). A value of ours ends at a comma too, because some platforms join several Cookie headers with one; but no
 * pair begins there, or a value of another cookie could smuggle in a name that browsers guard by its prefix.
 *
 * @param until `;` for a value that may have commas, because somebody else wrote it. Default `,`
 */
export const cookieValues = (
  header: string,
  name: string,
  could: (value: string) => boolean,
  until: ',' | ';' = ',',
): string[] => {
  const values: string[] = []
  // Every round begins behind the last one's end, whatever the name is: the loop ends with the header.
  for (let start = 0; start < header.length; ) {
    const semicolon = header.indexOf(';', start)
    const end = semicolon === -1 ? header.length : semicolon
    const value = valueIn(header, start, end, name, until)
    start = end + 1
    if (value === undefined || values.includes(value) || !could(value)) continue
    if (values.push(value) === CANDIDATES) break
  }
  return values
}

const blank = (code: number) => code === 0x20 || code === 0x09

/** The value of the pair between `start` and `end`, if the pair has this name. */
const valueIn = (header: string, start: number, end: number, name: string, until: ',' | ';'): string | undefined => {
  let at = start
  while (at < end && blank(header.charCodeAt(at))) at++
  if (!header.startsWith(name, at)) return undefined
  at += name.length
  while (at < end && blank(header.charCodeAt(at))) at++
  if (at >= end || header[at] !== '=') return undefined
  const pair = header.slice(at + 1, end)
  const comma = until === ',' ? pair.indexOf(',') : -1
  let from = 0
  let to = comma === -1 ? pair.length : comma
  while (from < to && blank(pair.charCodeAt(from))) from++
  while (to > from && blank(pair.charCodeAt(to - 1))) to--
  return to - from > LONGEST_VALUE ? undefined : pair.slice(from, to)
}

const words = { strict: 'Strict', lax: 'Lax', none: 'None' } as const
const priorities = { low: 'Low', medium: 'Medium', high: 'High' } as const

/**
 * A cookie's attributes as they stand behind its value and its age. Nothing can be smuggled into a header by them.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const formatAttributes = (options: CookieAttributes): string => {
  const { domain, secure = true, httpOnly = true, sameSite = 'lax', partitioned = false, priority } = options
  const { path = '/' } = options
  if (typeof path !== 'string' || !pathValue.test(path)) {
    refuse('A cookie path has to begin with / and have no semicolon or control character.')
  }
  if (
    domain !== undefined &&
    (typeof domain !== 'string' || domain.length > LONGEST_DOMAIN || !domainValue.test(domain))
  ) {
    refuse('A cookie domain has to be a host name with a dot in it, such as example.org.')
  }
  if (typeof sameSite !== 'string' || !Object.hasOwn(words, sameSite))
    refuse("sameSite has to be 'strict', 'lax' or 'none'.")
  if (priority !== undefined && (typeof priority !== 'string' || !Object.hasOwn(priorities, priority))) {
    refuse("priority has to be 'low', 'medium' or 'high'.")
  }
  if (!secure && (sameSite === 'none' || partitioned)) {
    refuse("sameSite: 'none' and partitioned need Secure: browsers refuse them without.")
  }
  const parts = [`; Path=${path}`]
  if (domain !== undefined) parts.push(`; Domain=${domain}`)
  if (secure) parts.push('; Secure')
  if (httpOnly) parts.push('; HttpOnly')
  parts.push(`; SameSite=${words[sameSite]}`)
  if (partitioned) parts.push('; Partitioned')
  if (priority !== undefined) parts.push(`; Priority=${priorities[priority]}`)
  return parts.join('')
}

/**
 * The place that a sealed value is bound to beside its cookie's name: empty for all paths of one host, else the domain and
 * the path in a text that has no `=`. A name has no `;`, so a name and its place can be put together.
 */
export const sealedPlace = ({ domain = '', path = '/' }: CookieAttributes): string =>
  domain === '' && path === '/' ? '' : `;${domain.toLowerCase()};${encodeURIComponent(path)}`

/**
 * A name that a cookie can have, with or without a prefix.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const possibleName = (name: string): string => {
  if (typeof name === 'string' && token.test(name)) return name
  return refuse(
    `A cookie name has to be a token of 1 to 256 characters, such as 'sid', and is ${JSON.stringify(name)}.`,
  )
}

/**
 * A name without a prefix, to which the one that fits can be put.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const bareName = (name: string): string => {
  possibleName(name)
  if (/^(_|host|secure|http)/i.test(name)) {
    return refuse(
      `The cookie name ${JSON.stringify(name)} looks like a prefix: give the bare name, the prefix is put before it.`,
    )
  }
  return name
}

/**
 * A name as it goes out, which may have a prefix if the attributes are what the prefix asks for (RFC 6265bis §4.1.3).
 *
 * @throws KeepsakeError `invalid_option`
 */
export const checkPrefix = (
  name: string,
  { domain, path = '/', secure = true, httpOnly = true }: CookieAttributes,
): string => {
  const prefix = /^__(host-http|host|http|secure)-/i.exec(possibleName(name))?.[0]
  if (prefix === undefined) return bareName(name)
  const host = /^__host-/i.test(prefix)
  const fits = secure && (!host || (domain === undefined && path === '/')) && (!/http-$/i.test(prefix) || httpOnly)
  if (!fits) refuse(`A browser refuses a cookie named ${prefix}… with these attributes.`)
  if (!/^__(Host-Http|Host|Http|Secure)-$/.test(prefix)) refuse(`The prefix ${prefix} is in the wrong case.`)
  bareName(name.slice(prefix.length))
  return name
}

/**
 * The prefix with which browsers themselves guard a cookie: `__Host-Http-` keeps it to this host, to TLS and from
 * scripts; browsers that do not know it see a `__Host-` name.
 */
export const prefixOf = ({ domain, path = '/', httpOnly = true }: CookieAttributes): string => {
  if (domain !== undefined || path !== '/') return '__Secure-'
  return httpOnly ? '__Host-Http-' : '__Host-'
}

/** The longest age that browsers accept: 400 days, in seconds (RFC 6265bis §5.5). */
const LONGEST = 34_560_000

/** Whole seconds, at least 0 and at most the longest age that browsers accept. */
export const maxAgeOf = (seconds: number): number => Math.max(0, Math.min(Math.ceil(seconds), LONGEST))

/** A Set-Cookie value. `maxAge` is in seconds: 0 deletes the cookie; undefined keeps it until the browser closes. */
export const formatSetCookie = (name: string, value: string, printed: string, maxAge: number | undefined): string =>
  maxAge === undefined ? `${name}=${value}${printed}` : `${name}=${value}; Max-Age=${maxAgeOf(maxAge)}${printed}`
