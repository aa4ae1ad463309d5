// Names and attributes of cookies, by how a request arrived: over TLS, on a loopback name, or over plain HTTP.

import { inspect } from 'node:util'
import { KeepsakeError } from '../error.ts'
import type { EventType } from '../events.ts'
import { bareName, type CookieAttributes, formatAttributes, prefixOf, sealedPlace } from './cookie.ts'
import { isForwardedOverTls } from './forwarded.ts'
import type { IncomingRequest, RequestHeaders } from './request-head.ts'

/**
 * Who can set cookies of these names in a visitor's browser, in addition to this host over TLS: nobody if the name
 * begins with `__Host-`; otherwise other hosts of the domain and other paths of the host (`neighbours`), other servers
 * on this machine, or anybody on the network path of plain HTTP.
 */
export type Planter = 'nobody' | 'neighbours' | 'this machine' | 'the network'

/** The names of a request's session cookie and pre-session cookie, and their attributes. */
export type CookieSettings = {
  readonly session: string
  readonly preSession: string
  /** As text, for Set-Cookie. */
  readonly attributes: string
  /** The same attributes as an object. */
  readonly attributeValues: CookieAttributes
  /** Sealed values are bound to it and to the name. Empty for all paths of one host. */
  readonly place: string
  readonly plantedBy: Planter
  /** An event to emit once. */
  readonly notice?: { readonly type: EventType; readonly message: string }
}

/** The session cookie. It is always HttpOnly, and Secure by the option `secure`. */
export type CookieOptions = Omit<CookieAttributes, 'secure' | 'httpOnly'> & {
  /** Without a prefix, because keepsake adds it. Default `sid`. */
  readonly name?: string | undefined
}

export type TransportOptions = {
  /**
   * The session cookie, or a function that returns it for a request. The function runs once for each request that uses its
   * session or a sealed value, before anything is read. It may not return a promise. If its result is not valid, the request
   * gets KeepsakeError `invalid_option`. It requires the option `namespace`.
   */
  readonly cookie?: CookieOptions | ((request: IncomingRequest) => CookieOptions) | undefined
  /**
   * true: cookies always have Secure. false: over plain HTTP they have no Secure, for a LAN without TLS. Default: only
   * on a loopback name over plain HTTP they have no Secure.
   */
  readonly secure?: boolean | undefined
  /** true: trust X-Forwarded-Proto, because your proxy sets it on every request. Default false. */
  readonly trustProxy?: boolean | undefined
}

export const transportOptionNames = [
  'cookie',
  'secure',
  'trustProxy',
] as const satisfies readonly (keyof TransportOptions)[]

const loopback = /^(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i

/**
 * The scheme and authority of a URL such as `https://a.example:8443/path`, if it has them. Cheaper than a URL object.
 */
const splitUrl = (url: string): { readonly scheme: string; readonly authority: string } | undefined => {
  const match = /^([a-z]+):\/\/([^/?#@]*)(?=[/?#]|$)/i.exec(url)
  return match ? { scheme: (match[1] as string).toLowerCase(), authority: match[2] as string } : undefined
}

/** Whether the headers show that a proxy forwarded the request. */
const isForwarded = (headers: RequestHeaders): boolean => {
  for (const name of headers.keys()) {
    if (name === 'forwarded' || name === 'via' || name.startsWith('x-forwarded-')) return true
  }
  return false
}

/** Whether the headers show that a page of another machine sent the request. */
const isFromOtherHost = (headers: RequestHeaders): boolean =>
  ['origin', 'referer'].some((name) => {
    const from = headers.get(name)
    return from !== null && !loopback.test(splitUrl(from)?.authority ?? '')
  })

/**
 * Whether a host, with or without a port, is a domain or a subdomain of it. Browsers refuse cookies of other domains.
 */
const isWithinDomain = (host: string, domain: string): boolean => {
  const name = host.replace(/:\d+$/, '').toLowerCase()
  return name === domain.toLowerCase() || name.endsWith(`.${domain.toLowerCase()}`)
}

const plainNotice = {
  type: 'plain_cookie',
  message:
    'Session cookies have no Secure, because a request came over plain HTTP to a loopback name. For all other hosts they have it.',
} as const
const insecureNotice = {
  type: 'insecure_request',
  message:
    'A request came over plain HTTP, and browsers do not return the Secure session cookie there. Behind a proxy that ends TLS, set trustProxy: true and let the proxy send X-Forwarded-Proto. On a LAN without TLS, set secure: false.',
} as const

/**
 * Returns a function that finds the names and attributes of a request's cookies. Over TLS the names have a prefix that
 * browsers protect. Over plain HTTP to a loopback name they have none, so that every browser and curl work, and they
 * end in the port, because browsers share cookies between ports. Over plain HTTP to any other host the cookies are
 * Secure and have the prefix. A name without a prefix is never read on a secure request.
 *
 * A request is from this machine only if its Host is a loopback name, and no header shows that a proxy forwarded it or
 * that a page of another machine sent it. A proxy that sets such a Host and no other header (nginx's `proxy_pass
 * http://localhost:8080` without `proxy_set_header`) looks like a browser on this machine: let it send the original
 * Host.
 *
 * On a loopback name outside the domain, the domain is left out, also over TLS, because browsers refuse such a cookie.
 * So one configuration works in production and on a developer's machine.
 *
 * Scripts may read a cookie of the application, so `httpOnly` is an option here.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const cookieSettingsFor = (
  options: Omit<TransportOptions, 'cookie'> & {
    readonly cookie?: (CookieOptions & { readonly httpOnly?: boolean | undefined }) | undefined
  },
): ((arrival: IncomingRequest) => CookieSettings) => {
  const { cookie = {}, secure, trustProxy = false } = options
  for (const [option, value] of Object.entries({ secure, trustProxy })) {
    if (!['boolean', 'undefined'].includes(typeof value))
      throw new KeepsakeError('invalid_option', `The option ${option} is ${inspect(value)}. It must be true or false.`)
  }
  const name = bareName(cookie.name ?? 'sid')
  if (name.endsWith('-pre'))
    throw new KeepsakeError(
      'invalid_option',
      `The option cookie.name is ${inspect(name)}. It must not end in -pre, because the names of pre-session cookies do.`,
    )
  const { domain, ...withoutDomain } = cookie
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
  const secureSettings = overTls(cookie)
  const secureWithoutDomain = domain === undefined ? secureSettings : overTls(withoutDomain)
  const plainNames = (attributes: CookieAttributes) => {
    const shared = {
      attributes: formatAttributes(attributes),
      attributeValues: attributes,
      place: sealedPlace(attributes),
    }
    return (authority: string, plantedBy: Planter): CookieSettings => {
      const port = /:(\d+)$/.exec(authority)?.[1] ?? '80'
      return { session: `${name}-${port}`, preSession: `${name}-pre-${port}`, ...shared, plantedBy }
    }
  }
  /** Leaves out the attributes that browsers refuse without Secure. */
  const withoutSecureOnly = <T extends CookieAttributes>({ partitioned: _, sameSite, ...rest }: T) => ({
    ...rest,
    ...(sameSite !== undefined && sameSite !== 'none' && { sameSite }),
  })
  const plainAttributes = secure === false ? (attributes: CookieAttributes) => attributes : withoutSecureOnly
  const plain = plainNames({ ...plainAttributes(cookie), secure: false })
  const plainWithoutDomain = plainNames({ ...plainAttributes(withoutDomain), secure: false })

  /** Whether a request came directly to a loopback name. */
  const isDirect = (headers: RequestHeaders, authority: string): boolean =>
    loopback.test(authority) && (headers.get('host') ?? authority) === authority && !isForwarded(headers)
  const isOutsideDomain = (authority: string): boolean => domain !== undefined && !isWithinDomain(authority, domain)

  return ({ headers, url }) => {
    if (url === undefined || (domain === undefined && (secure === true || url.startsWith('https:')))) {
      return secureSettings
    }
    const target = splitUrl(url)
    if (target === undefined) return secureSettings
    const { scheme, authority } = target
    const local = isDirect(headers, authority)
    const overTlsHere = local && isOutsideDomain(authority) ? secureWithoutDomain : secureSettings
    if (secure === true || scheme === 'https') return overTlsHere
    if (trustProxy && isForwardedOverTls(headers)) return overTlsHere
    if (secure === false) {
      const host = headers.get('host') ?? authority
      if (!local) return plain(host, 'the network')
      return (isOutsideDomain(host) ? plainWithoutDomain : plain)(host, 'this machine')
    }
    if (trustProxy || !local || isFromOtherHost(headers)) return { ...overTlsHere, notice: insecureNotice }
    const plainHere = isOutsideDomain(authority) ? plainWithoutDomain : plain
    return { ...plainHere(authority, 'this machine'), notice: plainNotice }
  }
}
