// Cookies on the wire: reading one name out of a Cookie header, writing a Set-Cookie (RFC 6265bis).

import { Fault } from './outcome.ts'

export type CookieOptions = {
  /** Without a prefix, which is inferred. Default `sid`. */
  readonly name?: string
  /** Without it, the default, only the very host that set a cookie gets it back. */
  readonly domain?: string
  /** Default `/`. */
  readonly path?: string
  /** Default `lax`: a strict cookie does not come along when a visitor follows a link to your site. */
  readonly sameSite?: 'strict' | 'lax' | 'none'
  /** A jar of its own for each site that embeds yours (CHIPS). */
  readonly partitioned?: boolean
  /** Chromium's hint which cookies to drop last. */
  readonly priority?: 'low' | 'medium' | 'high'
}

/** RFC 9110 §5.6.2. */
const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}$/
/** RFC 6265bis §4.1.1 path-value: no control characters, no semicolon; and ours begins with a slash. */
const path = /^\/[\x20-\x3a\x3c-\x7e]{0,1023}$/
const domain = /^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+$/i

/** Four are enough to find ours behind those that a sibling site planted, and too few to be made work by. */
const CANDIDATES = 4

/** Characters: browsers keep name and value together up to 4096 bytes (RFC 6265bis §5.6). */
const LONGEST_VALUE = 4096

const refuse = (what: string): never => {
  throw new Fault('bad_option', what)
}

/**
 * The values that a Cookie header has for a name and that `could` be what is looked for: in order, at most four that differ.
 *
 * Names are compared as they are. White space is SP and HTAB alone, nothing is decoded, no quotes are taken off (RFC
 * 6265bis §5.6). A value ends at a comma too, because some platforms join several Cookie headers with one; but no pair
 * begins there, or a value of another cookie could smuggle in a name that browsers guard by its prefix.
 */
export const cookieValues = (header: string, name: string, could: (value: string) => boolean): string[] => {
  const values: string[] = []
  for (let at = header.indexOf(name); at !== -1; at = header.indexOf(name, at + 1)) {
    const value = startsPair(header, at) ? valueAt(header, at + name.length) : undefined
    if (value === undefined || !could(value) || values.includes(value)) continue
    if (values.push(value) === CANDIDATES) break
  }
  return values
}

const blank = (code: number) => code === 0x20 || code === 0x09

const startsPair = (header: string, at: number): boolean => {
  let before = at - 1
  while (before >= 0 && blank(header.charCodeAt(before))) before--
  return before < 0 || header[before] === ';'
}

const valueAt = (header: string, after: number): string | undefined => {
  let equals = after
  while (blank(header.charCodeAt(equals))) equals++
  if (header[equals] !== '=') return undefined
  const semicolon = header.indexOf(';', equals)
  const last = semicolon === -1 ? header.length : semicolon
  const comma = header.indexOf(',', equals)
  let start = equals + 1
  let end = comma === -1 || comma > last ? last : comma
  while (start < end && blank(header.charCodeAt(start))) start++
  while (end > start && blank(header.charCodeAt(end - 1))) end--
  return end - start > LONGEST_VALUE ? undefined : header.slice(start, end)
}

const words = { strict: 'Strict', lax: 'Lax', none: 'None' } as const
const priorities = { low: 'Low', medium: 'Medium', high: 'High' } as const

/** Options that cannot smuggle anything into a header, with their defaults. @throws Fault `bad_option` */
export const checkedCookie = (
  options: CookieOptions,
): Required<Omit<CookieOptions, 'domain' | 'priority'>> & CookieOptions => {
  const { name = 'sid', sameSite = 'lax', partitioned = false, priority } = options
  if (!token.test(name)) refuse(`cookie.name has to be a token, such as 'sid', and is ${JSON.stringify(name)}.`)
  if (/^_|host|secure-|http-/i.test(name)) {
    refuse(`cookie.name is ${JSON.stringify(name)}: give the bare name; the prefix that fits it is put before it.`)
  }
  if (!path.test(options.path ?? '/'))
    refuse('cookie.path has to begin with / and have no semicolon or control character.')
  if (options.domain !== undefined && !domain.test(options.domain)) {
    refuse('cookie.domain has to be a host name with a dot in it, such as example.org.')
  }
  if (!Object.hasOwn(words, sameSite)) refuse("cookie.sameSite has to be 'strict', 'lax' or 'none'.")
  if (priority !== undefined && !Object.hasOwn(priorities, priority)) {
    refuse("cookie.priority has to be 'low', 'medium' or 'high'.")
  }
  return { ...options, name, path: options.path ?? '/', sameSite, partitioned }
}

/**
 * The prefix with which browsers themselves guard a cookie: `__Host-Http-` keeps it to this host, to TLS and from
 * scripts; browsers that do not know it see a `__Host-` name.
 */
export const prefixOf = ({ domain, path }: { domain?: string; path: string }): string =>
  domain === undefined && path === '/' ? '__Host-Http-' : '__Secure-'

/** The attributes of a cookie, prepared once: everything behind its value but the age. */
export const attributes = (cookie: ReturnType<typeof checkedCookie>, secure: boolean): string => {
  // A browser refuses SameSite=None and Partitioned without Secure.
  const sameSite = secure || cookie.sameSite !== 'none' ? cookie.sameSite : 'lax'
  const parts = [`; Path=${cookie.path}`]
  if (cookie.domain !== undefined) parts.push(`; Domain=${cookie.domain}`)
  if (secure) parts.push('; Secure')
  parts.push('; HttpOnly', `; SameSite=${words[sameSite]}`)
  if (secure && cookie.partitioned) parts.push('; Partitioned')
  if (cookie.priority !== undefined) parts.push(`; Priority=${priorities[cookie.priority]}`)
  return parts.join('')
}

/** The longest age that browsers accept: 400 days, in seconds (RFC 6265bis §5.5). */
const LONGEST = 34_560_000

/** A Set-Cookie value. `maxAge` is in seconds; 0 removes the cookie. */
export const setCookie = (name: string, value: string, attributes: string, maxAge: number): string =>
  `${name}=${value}; Max-Age=${Math.max(0, Math.min(Math.ceil(maxAge), LONGEST))}${attributes}`
