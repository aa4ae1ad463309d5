// A browser as far as cookies go: it keeps, sends and forgets them as RFC 6265bis says, and speaks to a handler directly.

import { checkOptionNames } from '../error.ts'
import type { Handler } from '../http/handler.ts'

export type BrowserOptions = {
  /** Where the pages are. Default `https://app.test`. */
  readonly origin?: string | undefined
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
}

export type Browser = {
  /** Asks for a path, or for a URL, with the cookies that belong there, and keeps those that come back. */
  (path: string, init?: RequestInit): Promise<Response>
  /** The cookies kept, value by name. */
  readonly cookies: ReadonlyMap<string, string>
  /** Another browser with the same cookies, before the same handler or another. A second tab needs none: it shares. */
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

/** Whether Secure cookies may travel: TLS, or a name that browsers know to be this machine. */
const trusted = ({ protocol, hostname }: URL): boolean =>
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
  if (secure && !trusted(url)) return undefined
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
  (!cookie.secure || trusted(url))

/** A browser with an empty jar in front of a handler. It follows no redirects. */
export const browser = (handler: Handler, options: BrowserOptions = {}): Browser => {
  checkOptionNames(options, ['origin', 'now'], 'browser()')
  const { origin = 'https://app.test', now = () => Date.now() } = options
  const opened = (handler: Handler, jar: Map<string, Cookie>): Browser => {
    const visit = async (path: string, init: RequestInit = {}): Promise<Response> => {
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
    const copy = (other = handler) => opened(other, new Map(jar))
    const cookies = { get: () => new Map([...jar].map(([name, { value }]) => [name, value])) }
    return Object.defineProperty(Object.assign(visit, { copy }), 'cookies', cookies) as Browser
  }
  return opened(handler, new Map())
}
