// Whether a browser keeps back our cookies, because of where a request comes from (RFC 6265bis §5.2 and §5.8.3).

import type { CookieAttributes } from './cookie.ts'

/** What is asked of a request: a Request is one. */
export type Origin = {
  readonly headers: Headers
  readonly url?: string | undefined
  readonly method?: string | undefined
}

export type Withheld = {
  /** `cross_site`: a page of another site sent the request. `path`: the request is outside of the cookie's path. */
  readonly by: 'cross_site' | 'path'
  /** Whether the request shows a page in the browser's window: its forms may need a cookie. */
  readonly navigates: boolean
}

const safe: readonly unknown[] = ['GET', 'HEAD', 'OPTIONS', 'TRACE', undefined]

const urlOf = (text: string): URL | undefined => {
  try {
    return new URL(text)
  } catch {
    return undefined
  }
}

/**
 * Whether two hosts may be of one site. What a site is, only a list of public suffixes says; without it, hosts that share
 * their last two labels count as one.
 */
const sameSite = (one: string, other: string): boolean => {
  const ending = (host: string) => host.split('.').slice(-2).join('.')
  return one === other || (/[a-z]/i.test(one) && ending(one) === ending(other))
}

/** Whether a page of another site sent the request: by the browser's word, else by the Origin of what is not a mere read. */
const isCrossSite = ({ headers, url = '', method }: Origin): boolean => {
  const site = headers.get('sec-fetch-site')
  if (site !== null) return site === 'cross-site'
  const from = safe.includes(method) ? undefined : urlOf(headers.get('origin') ?? '')
  const to = from && urlOf(url)
  return from !== undefined && to !== undefined && !sameSite(from.hostname, to.hostname)
}

/** Whether the request shows a page in the browser's window. Browsers without Fetch Metadata do not say: then a read does. */
const isNavigation = ({ headers, method }: Origin): boolean => {
  const [mode, destination] = [headers.get('sec-fetch-mode'), headers.get('sec-fetch-dest')]
  return safe.includes(method) && (mode === null || mode === 'navigate') && (destination ?? 'document') === 'document'
}

/** RFC 6265bis §5.1.4. */
const pathMatches = (path: string, cookiePath: string): boolean =>
  path === cookiePath || (path.startsWith(cookiePath) && (cookiePath.endsWith('/') || path[cookiePath.length] === '/'))

/** The path as the browser knows it: a proxy that takes a prefix off says so. */
const pathOf = ({ headers, url }: Origin, trustProxy: boolean): string | undefined => {
  if (url === undefined) return undefined
  const prefix = trustProxy ? (headers.get('x-forwarded-prefix') ?? '') : ''
  const path = urlOf(url)?.pathname
  return path === undefined ? undefined : prefix.replace(/\/$/, '') + path
}

/** Says of a request without our cookie why the browser may have kept it back; undefined if nothing speaks for that. */
export const withheldFrom = (
  request: Origin,
  { path = '/', sameSite = 'lax' }: Pick<CookieAttributes, 'path' | 'sameSite'>,
  trustProxy: boolean,
): Withheld | undefined => {
  const navigates = isNavigation(request)
  if (sameSite !== 'none' && isCrossSite(request) && (sameSite === 'strict' || !navigates)) {
    return { by: 'cross_site', navigates }
  }
  const asked = path === '/' ? undefined : pathOf(request, trustProxy)
  return asked === undefined || pathMatches(asked, path) ? undefined : { by: 'path', navigates: false }
}
