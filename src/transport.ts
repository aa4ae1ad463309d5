// How a request came, over TLS, from this very machine or in the clear, and what its cookies are called for it.

import { bareName, type CookieAttributes, prefixOf, printedAttributes } from './cookie.ts'
import type { Reason } from './events.ts'
import { Fault, onlyKnown } from './outcome.ts'

/** What is asked of a request: a Request is one. Without a URL it counts as one that came over TLS. */
export type Arrival = { readonly headers: Headers; readonly url?: string }

/** The names of the cookies that a request may bring, and what stands behind the value of one that is set. */
export type Names = {
  readonly session: string
  readonly preSession: string
  readonly attributes: string
  /** What its operator should hear, once. */
  readonly notice?: { readonly reason: Reason; readonly message: string }
}

/** The session cookie: always HttpOnly, and Secure as `secure` says. */
export type CookieOptions = Omit<CookieAttributes, 'secure' | 'httpOnly'> & {
  /** Without a prefix, which is inferred. Default `sid`. */
  readonly name?: string
}

export type TransportOptions = {
  readonly cookie?: CookieOptions
  /** true: Secure always. false: a plain cookie over plain HTTP, for a LAN. Default: as the request came. */
  readonly secure?: boolean
  /** Believe X-Forwarded-Proto, because a proxy of yours sets it on every request. */
  readonly trustProxy?: boolean
}

const loopback = /^(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i

/** `https://a.example:8443/path` in its parts, or undefined where it has none. Cheaper than a URL object. */
const parts = (url: string): { readonly scheme: string; readonly authority: string } | undefined => {
  const match = /^([a-z]+):\/\/([^/?#@]*)(?=[/?#]|$)/i.exec(url)
  return match ? { scheme: (match[1] as string).toLowerCase(), authority: match[2] as string } : undefined
}

/** Whether the headers say that a request was passed on, or comes from a page of another host. */
const elsewhere = (headers: Headers): boolean => {
  for (const name of headers.keys()) {
    if (name === 'forwarded' || name === 'via' || name.startsWith('x-forwarded-')) return true
    if (name !== 'origin' && name !== 'referer') continue
    if (!loopback.test(parts(headers.get(name) ?? '')?.authority ?? '')) return true
  }
  return false
}

const plainNotice = {
  reason: 'plain_cookie',
  message:
    'Session cookies go without Secure, because this request came over plain HTTP to a loopback name. Elsewhere they are Secure.',
} as const
const insecureNotice = {
  reason: 'insecure_request',
  message:
    'A request came over plain HTTP, where browsers do not return the Secure session cookie. Behind a proxy that ends TLS, set trustProxy: true and have it send X-Forwarded-Proto; on a LAN without TLS, set secure: false.',
} as const

/**
 * Tells what the cookies of a request are called. Over TLS they have a prefix that browsers guard. Over plain HTTP to a
 * loopback name they cannot, so that every browser and curl work: a plain name that ends in the port, because cookies
 * do not know ports. Anywhere else they are Secure all the same. A plain name is never read on a secure request.
 *
 * A request is from this machine only if its Host is a loopback name and nothing says that it was passed on, or comes
 * from a page of another host. A proxy that sets such a Host and says nothing (nginx's `proxy_pass
 * http://localhost:8080` without `proxy_set_header`) cannot be told from a browser: let it send its own Host.
 *
 * @throws Fault `bad_option`
 */
export const transport = (options: TransportOptions): ((arrival: Arrival) => Names) => {
  onlyKnown(options.cookie ?? {}, ['name', 'domain', 'path', 'sameSite', 'partitioned', 'priority'], 'cookie')
  return carried(options)
}

/** The same for any cookie of the application, which may be one that scripts read. */
export const carried = (
  options: Omit<TransportOptions, 'cookie'> & { readonly cookie?: CookieOptions & { readonly httpOnly?: boolean } },
): ((arrival: Arrival) => Names) => {
  const { cookie = {}, secure, trustProxy = false } = options
  for (const [option, value] of Object.entries({ secure, trustProxy })) {
    if (!['boolean', 'undefined'].includes(typeof value))
      throw new Fault('bad_option', `${option} has to be true or false.`)
  }
  const name = bareName(cookie.name ?? 'sid')
  if (name.endsWith('-pre'))
    throw new Fault('bad_option', 'cookie.name must not end in -pre: that is what pre-sessions are called.')
  const prefix = prefixOf(cookie)
  const safe: Names = {
    session: prefix + name,
    preSession: `${prefix}${name}-pre`,
    attributes: printedAttributes(cookie),
  }
  const insecure: Names = { ...safe, notice: insecureNotice }
  // On a loopback name, what a browser refuses without Secure is left out.
  const { partitioned: _, sameSite, ...rest } = cookie
  const loose = { ...rest, secure: false, ...(sameSite !== undefined && sameSite !== 'none' && { sameSite }) }
  const bare = printedAttributes(secure === false ? { ...cookie, secure } : loose)
  const plain = (authority: string, noticed: boolean): Names => {
    const port = /:(\d+)$/.exec(authority)?.[1] ?? '80'
    return {
      session: `${name}-${port}`,
      preSession: `${name}-pre-${port}`,
      attributes: bare,
      ...(noticed && { notice: plainNotice }),
    }
  }
  return ({ headers, url }) => {
    if (secure === true || url === undefined || url.startsWith('https:')) return safe
    if (trustProxy && headers.get('x-forwarded-proto')?.split(',')[0]?.trim().toLowerCase() === 'https') return safe
    const came = parts(url)
    if (came === undefined || came.scheme === 'https') return safe
    const host = headers.get('host') ?? came.authority
    if (secure === false) return plain(host, false)
    if (trustProxy || host !== came.authority || !loopback.test(host) || elsewhere(headers)) return insecure
    return plain(host, true)
  }
}
