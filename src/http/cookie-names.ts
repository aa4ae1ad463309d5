// How a request came, over TLS, from this very machine or in the clear, and what its cookies are called for it.

import { checkOptionNames, KeepsakeError } from '../error.ts'
import type { EventType } from '../events.ts'
import { bareName, type CookieAttributes, formatAttributes, prefixOf, sealedPlace } from './cookie.ts'

/** What is asked of a request: a Request is one. Without a URL it counts as one that came over TLS. */
export type IncomingRequest = { readonly headers: Headers; readonly url?: string | undefined }

/**
 * Who can put cookies of these names into a visitor's browser beside this host over TLS: nobody, where the name begins with
 * `__Host-`; other hosts of the domain and other paths of the host; other servers on this machine; anybody on the way of
 * plain HTTP.
 */
export type Planter = 'nobody' | 'neighbours' | 'this machine' | 'the network'

/** The names of the cookies that a request may bring, and what stands behind the value of one that is set. */
export type CookieSettings = {
  readonly session: string
  readonly preSession: string
  /** As Set-Cookie has them. */
  readonly attributes: string
  /** The same as an object. */
  readonly attributeValues: CookieAttributes
  /** What sealed values are bound to beside the name: empty for all paths of one host. */
  readonly place: string
  readonly plantedBy: Planter
  /** What its operator should hear, once. */
  readonly notice?: { readonly type: EventType; readonly message: string }
}

/** The session cookie: always HttpOnly, and Secure as `secure` says. */
export type CookieOptions = Omit<CookieAttributes, 'secure' | 'httpOnly'> & {
  /** Without a prefix, which is inferred. Default `sid`. */
  readonly name?: string | undefined
}

export type TransportOptions = {
  readonly cookie?: CookieOptions | undefined
  /** true: Secure always. false: a plain cookie over plain HTTP, for a LAN. Default: as the request came. */
  readonly secure?: boolean | undefined
  /** Believe X-Forwarded-Proto, because a proxy of yours sets it on every request. */
  readonly trustProxy?: boolean | undefined
}

export const transportOptionNames = [
  'cookie',
  'secure',
  'trustProxy',
] as const satisfies readonly (keyof TransportOptions)[]

const loopback = /^(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i

/** `https://a.example:8443/path` in its parts, or undefined where it has none. Cheaper than a URL object. */
const parts = (url: string): { readonly scheme: string; readonly authority: string } | undefined => {
  const match = /^([a-z]+):\/\/([^/?#@]*)(?=[/?#]|$)/i.exec(url)
  return match ? { scheme: (match[1] as string).toLowerCase(), authority: match[2] as string } : undefined
}

/** Whether the headers say that a request was passed on. */
const isForwarded = (headers: Headers): boolean => {
  for (const name of headers.keys()) {
    if (name === 'forwarded' || name === 'via' || name.startsWith('x-forwarded-')) return true
  }
  return false
}

/** Whether the headers say that a request comes from a page of another host than this machine. */
const isFromOtherHost = (headers: Headers): boolean =>
  ['origin', 'referer'].some((name) => {
    const from = headers.get(name)
    return from !== null && !loopback.test(parts(from)?.authority ?? '')
  })

/** Whether a host, with or without a port, is a domain or belongs to it: a browser takes no cookie of another domain. */
const isWithinDomain = (host: string, domain: string): boolean => {
  const name = host.replace(/:\d+$/, '').toLowerCase()
  return name === domain.toLowerCase() || name.endsWith(`.${domain.toLowerCase()}`)
}

const plainNotice = {
  type: 'plain_cookie',
  message:
    'Session cookies go without Secure, because this request came over plain HTTP to a loopback name. Elsewhere they are Secure.',
} as const
const insecureNotice = {
  type: 'insecure_request',
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
 * A domain is left off on a loopback name that does not belong to it, over TLS too: browsers refuse such a cookie. So one
 * configuration serves production and a developer's machine.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const cookieSettings = (options: TransportOptions): ((arrival: IncomingRequest) => CookieSettings) => {
  checkOptionNames(options.cookie ?? {}, ['name', 'domain', 'path', 'sameSite', 'partitioned', 'priority'], 'cookie')
  return cookieSettingsFor(options)
}

/** The same for any cookie of the application, which may be one that scripts read. */
export const cookieSettingsFor = (
  options: Omit<TransportOptions, 'cookie'> & {
    readonly cookie?: (CookieOptions & { readonly httpOnly?: boolean | undefined }) | undefined
  },
): ((arrival: IncomingRequest) => CookieSettings) => {
  const { cookie = {}, secure, trustProxy = false } = options
  for (const [option, value] of Object.entries({ secure, trustProxy })) {
    if (!['boolean', 'undefined'].includes(typeof value))
      throw new KeepsakeError('invalid_option', `${option} has to be true or false.`)
  }
  const name = bareName(cookie.name ?? 'sid')
  if (name.endsWith('-pre'))
    throw new KeepsakeError('invalid_option', 'cookie.name must not end in -pre: that is what pre-sessions are called.')
  const { domain, ...atHome } = cookie
  const overTls = (attributes: CookieAttributes): CookieSettings => {
    const prefix = prefixOf(attributes)
    return {
      session: prefix + name,
      preSession: `${prefix}${name}-pre`,
      attributes: formatAttributes(attributes),
      attributeValues: attributes,
      place: sealedPlace(attributes),
      plantedBy: prefix === '__Secure-' ? 'neighbours' : 'nobody',
    }
  }
  const safe = overTls(cookie)
  const safeAtHome = domain === undefined ? safe : overTls(atHome)
  const plainNames = (attributes: CookieAttributes) => {
    const kept = {
      attributes: formatAttributes(attributes),
      attributeValues: attributes,
      place: sealedPlace(attributes),
    }
    return (authority: string, plantedBy: Planter): CookieSettings => {
      const port = /:(\d+)$/.exec(authority)?.[1] ?? '80'
      return { session: `${name}-${port}`, preSession: `${name}-pre-${port}`, ...kept, plantedBy }
    }
  }
  /** On a loopback name, what a browser refuses without Secure is left out. */
  const loose = <T extends CookieAttributes>({ partitioned: _, sameSite, ...rest }: T) => ({
    ...rest,
    ...(sameSite !== undefined && sameSite !== 'none' && { sameSite }),
  })
  const asGiven = secure === false ? (attributes: CookieAttributes) => attributes : loose
  const plain = plainNames({ ...asGiven(cookie), secure: false })
  const plainAtHome = plainNames({ ...asGiven(atHome), secure: false })

  /** Whether a request came straight to a loopback name. */
  const here = (headers: Headers, { authority }: { readonly authority: string }): boolean =>
    loopback.test(authority) && (headers.get('host') ?? authority) === authority && !isForwarded(headers)
  const strange = (authority: string): boolean => domain !== undefined && !isWithinDomain(authority, domain)

  return ({ headers, url }) => {
    if (url === undefined || (domain === undefined && (secure === true || url.startsWith('https:')))) return safe
    const came = parts(url)
    if (came === undefined) return safe
    const home = here(headers, came)
    const sure = home && strange(came.authority) ? safeAtHome : safe
    if (secure === true || came.scheme === 'https') return sure
    if (trustProxy && headers.get('x-forwarded-proto')?.split(',')[0]?.trim().toLowerCase() === 'https') return sure
    if (secure === false) {
      const host = headers.get('host') ?? came.authority
      if (!home) return plain(host, 'the network')
      return (strange(host) ? plainAtHome : plain)(host, 'this machine')
    }
    if (trustProxy || !home || isFromOtherHost(headers)) return { ...sure, notice: insecureNotice }
    return { ...(strange(came.authority) ? plainAtHome : plain)(came.authority, 'this machine'), notice: plainNotice }
  }
}
