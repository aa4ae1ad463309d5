// What the headers of a request say of the page that made it.

/**
 * `own`: a page of the same origin, or the visitor himself. `foreign`: a page of another origin. `hidden`: the browser keeps
 * it to itself (`Origin: null`), as it does for pages in a sandbox, and for any with `Referrer-Policy: no-referrer`.
 * `unknown`: nothing is said; over TLS, and with a method other than GET and HEAD, that is no browser of today.
 */
export type Source = 'own' | 'foreign' | 'hidden' | 'unknown'

const originOf = (url: string): string | undefined => {
  try {
    return new URL(url).origin
  } catch {
    return undefined
  }
}

/** Sec-Fetch-Site counts first, which no page can set, and then Origin, beside the origin of the request's own URL. */
export const sourceOf = ({ headers, url }: { readonly headers: Headers; readonly url: string }): Source => {
  const site = headers.get('sec-fetch-site')
  if (site === 'same-origin' || site === 'none') return 'own'
  if (site === 'same-site' || site === 'cross-site') return 'foreign'
  const origin = headers.get('origin')
  if (origin === null) return 'unknown'
  if (origin === 'null') return 'hidden'
  return origin === originOf(url) ? 'own' : 'foreign'
}
