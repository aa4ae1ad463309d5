// Errors by which Next.js leaves a handler or an action, although they are its answer: redirect(), notFound() and others.

/** The answer in an error of `redirect`, `notFound`, `forbidden` or `unauthorized`. */
export type ThrownAnswer = { readonly status: number; readonly location?: string }

/** The parts of the property `digest`, by which Next.js recognises these errors also in another bundle. */
const digestOf = (error: unknown): readonly string[] => {
  const { digest } = (error ?? {}) as { digest?: unknown }
  return typeof digest === 'string' ? digest.split(';') : []
}

/** Undefined for any other error: nothing of its request may be saved. */
export const thrownAnswer = (error: unknown): ThrownAnswer | undefined => {
  const parts = digestOf(error)
  if (parts[0] === 'NEXT_HTTP_ERROR_FALLBACK') return { status: Number(parts[1]) }
  if (parts[0] !== 'NEXT_REDIRECT') return undefined
  // A URL may contain semicolons: NEXT_REDIRECT;push;/a;b;307;
  return { status: Number(parts.at(-2)), location: parts.slice(2, -2).join(';') }
}

/** Whether Next.js takes the request for one of a form: then it answers a redirect with 303, so that the browser uses GET. */
const isForm = ({ method, headers }: Request): boolean =>
  method === 'POST' &&
  /^(multipart\/form-data|application\/x-www-form-urlencoded)/i.test(headers.get('content-type') ?? '')

/** The Response that Next.js makes of such an error in a route handler. Next.js would add no cookie to that of `notFound`. */
export const responseOf = ({ status, location }: ThrownAnswer, request: Request): Response =>
  location === undefined
    ? new Response(null, { status })
    : new Response(null, { status: isForm(request) ? 303 : status, headers: { location } })

const MIDDLEWARE_COOKIES = 'x-middleware-set-cookie'

/** A Response of `proxy` by which Next.js continues to the page. */
export const continueToPage = (): Response => new Response(null, { headers: { 'x-middleware-next': '1' } })

/** Lets the page that follows a `proxy` see the cookies that the proxy sets: Next.js reads them from this header. */
export const passCookies = (response: Response): Response => {
  const { headers } = response
  if (!headers.has('x-middleware-next') && !headers.has('x-middleware-rewrite')) return response
  const cookies = headers.getSetCookie()
  if (cookies.length === 0) return response
  const copy = new Response(response.body, response)
  copy.headers.set(MIDDLEWARE_COOKIES, cookies.join(','))
  return copy
}
