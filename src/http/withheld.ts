// Finds out whether a browser withheld the session cookie because of SameSite or Path (RFC 6265bis §5.2, §5.8.3).

import type { CookieAttributes } from './cookie.ts'
import type { RequestHead } from './request-head.ts'

export type Withheld = {
  /** `cross_site`: a page of another site sent the request. `path`: the request is outside the cookie's path. */
  readonly by: 'cross_site' | 'path'
  /** Whether the browser shows the response as a page. Its forms may need a cookie. */
  readonly navigates: boolean
}

const safeMethods: readonly unknown[] = ['GET', 'HEAD', 'OPTIONS', 'TRACE', undefined]

const urlOf = (text: string): URL | undefined => {
  try {
    return new URL(text)
  } catch {
    return undefined
  }
}

/**
 * Whether two hosts may be of one site. Only the list of public suffixes defines a site. Without it, hosts with the
 * same last two labels count as one site.
 */
const isSameSite = (one: string, other: string): boolean => {
  const ending = (host: string) => host.split('.').slice(-2).join('.')
  return one === other || (/[a-z]/i.test(one) && ending(one) === ending(other))
}

/** Whether a page of another site sent the request, by Sec-Fetch-Site, or by Origin if the method is not a safe one. */
const isCrossSite = ({ headers, url = '', method }: RequestHead): boolean => {
  const site = headers.get('sec-fetch-site')
  if (site !== null) return site === 'cross-site'
  const from = safeMethods.includes(method) ? undefined : urlOf(headers.get('origin') ?? '')
  const to = from && urlOf(url)
  return from !== undefined && to !== undefined && !isSameSite(from.hostname, to.hostname)
}

/** Whether the browser shows the response as a page. Without Fetch Metadata, every safe request counts. */
const isNavigation = ({ headers, method }: RequestHead): boolean => {
  const [mode, destination] = [headers.get('sec-fetch-mode'), headers.get('sec-fetch-dest')]
  return (
    safeMethods.includes(method) && (mode === null || mode === 'navigate') && (destination ?? 'document') === 'document'
  )
}

/** RFC 6265bis §5.1.4. */
const pathMatches = (path: string, cookiePath: string): boolean =>
  path === cookiePath || (path.startsWith(cookiePath) && (cookiePath.endsWith('/') || path[cookiePath.length] === '/'))

/** The path in the browser's URL: a proxy that removes a prefix sends it in X-Forwarded-Prefix. */
const pathOf = ({ headers, url }: RequestHead, trustProxy: boolean): string | undefined => {
  if (url === undefined) return undefined
  const prefix = trustProxy ? (headers.get('x-forwarded-prefix') ?? '') : ''
  const path = urlOf(url)?.pathname
  return path === undefined ? undefined : prefix.replace(/\/$/, '') + path
}

/** The reason why the browser may have withheld the cookie from a request. Undefined if there is no sign of one. */
export const withheldFrom = (
  request: RequestHead,
  { path = '/', sameSite = 'lax' }: Pick<CookieAttributes, 'path' | 'sameSite'>,
  trustProxy: boolean,
): Withheld | undefined => {
  const navigates = isNavigation(request)
  if (sameSite !== 'none' && isCrossSite(request) && (sameSite === 'strict' || !navigates)) {
    return { by: 'cross_site', navigates }
  }
  const requestPath = path === '/' ? undefined : pathOf(request, trustProxy)
  return requestPath === undefined || pathMatches(requestPath, path) ? undefined : { by: 'path', navigates: false }
}
