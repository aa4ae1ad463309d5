// The origin of the page that sent a request, as far as the request's headers show it.

import type { RequestHead } from './request-head.ts'

/**
 * `same`: a page of the same origin, or the visitor directly, for example from the address bar. `cross`: a page of
 * another origin. `hidden`: the browser hides the origin (`Origin: null`), as it does for sandboxed pages and for pages
 * with `Referrer-Policy: no-referrer`. `unknown`: there are no such headers. Over TLS, every current browser sends one
 * with methods other than GET and HEAD.
 */
export type Source = 'same' | 'cross' | 'hidden' | 'unknown'

const originOf = (url: string | undefined): string | undefined => {
  try {
    return url === undefined ? undefined : new URL(url).origin
  } catch {
    return undefined
  }
}

/**
 * Reads Sec-Fetch-Site first, because no page can set it, then compares Origin with the origin of the request's URL.
 * Without a URL, every Origin is `cross`.
 */
export const sourceOf = ({ headers, url }: Pick<RequestHead, 'headers' | 'url'>): Source => {
  const site = headers.get('sec-fetch-site')
  if (site === 'same-origin' || site === 'none') return 'same'
  if (site === 'same-site' || site === 'cross-site') return 'cross'
  const origin = headers.get('origin')
  if (origin === null) return 'unknown'
  if (origin === 'null') return 'hidden'
  return origin === originOf(url) ? 'same' : 'cross'
}
