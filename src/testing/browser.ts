// A browser for tests: it keeps, sends and deletes cookies as RFC 6265bis requires, and calls a handler directly.

import { checkOptionNames } from '../error.ts'
import type { Handler } from '../http/handler.ts'

export type BrowserOptions = {
  /** The origin of paths. Default `https://app.test`. */
  readonly origin?: string | undefined
  /** Milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
}

export type Browser = {
  /** Requests a path or a URL with the cookies that belong to it, and keeps the cookies of the response. */
  (path: string, init?: RequestInit): Promise<Response>
  /** The values of the kept cookies by their names. */
  readonly cookies: ReadonlyMap<string, string>
  /** Another browser with a copy of the cookies, for the same handler or another. A second tab is the same browser. */
  copy(handler?: Handler): Browser
}

type Cookie = {
  readonly value: string
  readonly host: string
  readonly domain: string | undefined
  readonly path: string
  readonly secure: boolean
  readonly expiresAt: number
}

/** Whether browsers send Secure cookies there: over TLS, or to a name of this machine. */
const isTrustworthy = ({ protocol, hostname }: URL): boolean =>
  protocol === 'https:' || hostname === 'localhost' || hostname.endsWith('.localhost')

const parse = (line: string, url: URL, now: number): [string, Cookie] | undefined => {
  const [pair = '', ...rest] = line.split(';')
  const equals = pair.indexOf('=')
  if (equals < 1 || pair.length > 4096) return undefined
  const attributes = new Map(
    rest.map((text) => {
      const [name = '', value = ''] = text.split('=')
      return [name.trim().toLowerCase(), value.trim()]
    }),
  )
  const name = pair.slice(0, equals).trim()
  const domain = attributes.get('domain')?.replace(/^\./, '').toLowerCase() || undefined
  const path = attributes.get('path') || '/'
  const secure = attributes.has('secure')
  if (domain !== undefined && url.hostname !== domain && !url.hostname.endsWith(`.${domain}`)) return undefined
  if (secure && !isTrustworthy(url)) return undefined
  if (/^__(secure|host|http)-/i.test(name) && !secure) return undefined
  if (/^__host-/i.test(name) && (domain !== undefined || path !== '/')) return undefined
  if (/^__(host-)?http-/i.test(name) && !attributes.has('httponly')) return undefined
  const age = attributes.get('max-age')
  const expires = attributes.get('expires')
  const end = expires === undefined ? Number.POSITIVE_INFINITY : Date.parse(expires)
  const expiresAt = age === undefined ? end : now + Number(age) * 1000
  return [name, { value: pair.slice(equals + 1).trim(), host: url.hostname, domain, path, secure, expiresAt }]
}

const belongs = (cookie: Cookie, url: URL, now: number): boolean =>
  now < cookie.expiresAt &&
  (cookie.domain === undefined
    ? url.hostname === cookie.host
    : url.hostname === cookie.domain || url.hostname.endsWith(`.${cookie.domain}`)) &&
  (url.pathname === cookie.path || url.pathname.startsWith(cookie.path.replace(/\/?$/, '/'))) &&
  (!cookie.secure || isTrustworthy(url))

/** Returns a browser without cookies that calls a handler. It does not follow redirects. */
export const browser = (handler: Handler, options: BrowserOptions = {}): Browser => {
  checkOptionNames(options, ['origin', 'now'], 'browser()')
  const { origin = 'https://app.test', now = () => Date.now() } = options
  const browserWith = (handler: Handler, jar: Map<string, Cookie>): Browser => {
    const request = async (path: string, init: RequestInit = {}): Promise<Response> => {
      const url = new URL(path, origin)
      const headers = new Headers(init.headers)
      const sent = [...jar].filter(([, cookie]) => belongs(cookie, url, now()))
      if (sent.length > 0) headers.set('cookie', sent.map(([name, { value }]) => `${name}=${value}`).join('; '))
      const response = await handler(new Request(url, { ...init, headers }))
      for (const line of response.headers.getSetCookie()) {
        const parsed = parse(line, url, now())
        if (parsed === undefined) continue
        const [name, cookie] = parsed
        if (cookie.expiresAt <= now()) jar.delete(name)
        else jar.set(name, cookie)
      }
      return response
    }
    const copy = (other = handler) => browserWith(other, new Map(jar))
    const cookies = { get: () => new Map([...jar].map(([name, { value }]) => [name, value])) }
    return Object.defineProperty(Object.assign(request, { copy }), 'cookies', cookies) as Browser
  }
  return browserWith(handler, new Map())
}
