// The part of a request in Next.js that keepsake reads: from a Request, or from headers() and cookies().

import type { FormRequest, RequestHead, RequestHeaders } from '../../http/request-head.ts'

/** The object of `await cookies()`. A page has one, and so has an action; a page after an action has another. */
export type CookieJar = {
  getAll(): readonly { readonly name: string; readonly value: string }[]
  set(name: string, value: string, attributes: object): unknown
}

const ownNames: readonly string[] = ['host', 'port', 'proto', 'for'].map((name) => `x-forwarded-${name}`)
const loopbackName = /^(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i
const loopbackAddress = /^(::1|(::ffff:)?127(\.\d{1,3}){3})$/i

/**
 * Whether Next.js itself has added the X-Forwarded headers of a request. It adds all four to each request, also if there is
 * no proxy: the Host, its own port, `http`, and the address of the other end of the connection, here this machine.
 */
const isForwardedByNext = (headers: RequestHeaders): boolean => {
  for (const name of headers.keys()) {
    if (name.startsWith('x-forwarded-') && !ownNames.includes(name)) return false
  }
  const host = headers.get('x-forwarded-host')
  return (
    (host === null || host === headers.get('host') || loopbackName.test(host)) &&
    (headers.get('x-forwarded-proto') ?? 'http') === 'http' &&
    loopbackAddress.test(headers.get('x-forwarded-for') ?? '::1')
  )
}

/** The header fields of a request, without those that Next.js has added to it, and with some in place of others. */
class NextHeaders implements RequestHeaders {
  readonly #headers: RequestHeaders
  readonly #replaced: Readonly<Record<string, string | null>>
  #hides: boolean | undefined

  constructor(headers: RequestHeaders, replaced: Readonly<Record<string, string | null>>) {
    this.#headers = headers
    this.#replaced = replaced
  }

  #isHidden(name: string): boolean {
    if (!name.startsWith('x-forwarded-')) return false
    this.#hides ??= isForwardedByNext(this.#headers)
    return this.#hides
  }

  get(name: string): string | null {
    const value = this.#replaced[name]
    if (value !== undefined) return value
    return this.#isHidden(name) ? null : this.#headers.get(name)
  }

  has(name: string): boolean {
    return this.get(name) !== null
  }

  *keys(): HeadersIterator<string> {
    for (const name of this.#headers.keys()) if (!this.#isHidden(name)) yield name
  }
}

/**
 * The URL of a request by its Host, because Next.js makes `request.url` with the name of its own server, and with the scheme
 * in X-Forwarded-Proto, which counts only with `trustProxy`.
 */
const urlOf = (headers: RequestHeaders, url: string): string => {
  const [, scheme = 'http', authority = '', path = '/'] = /^([a-z]+):\/\/([^/?#]*)(.*)$/i.exec(url) ?? []
  return `${headers.has('x-forwarded-proto') ? 'http' : scheme}://${headers.get('host') ?? authority}${path}`
}

/**
 * The Cookie header with the changes since the request arrived: those of a proxy, and those of an action before its page is
 * rendered. Several cookies of one name stay as they are, because the jar keeps only one of them.
 */
export const cookieHeader = (sent: string | null, jar: CookieJar): string | null => {
  const pairs = (sent ?? '').split(/; */).filter((pair) => pair !== '')
  const nameOf = (pair: string) => pair.slice(0, pair.indexOf('='))
  const current = jar.getAll().map(({ name, value }) => ({ name, pair: `${name}=${encodeURIComponent(value)}` }))
  const unchanged = new Set(current.filter(({ pair }) => pairs.includes(pair)).map(({ name }) => name))
  const kept = pairs.filter((pair) => unchanged.has(nameOf(pair)))
  const changed = current.filter(({ name }) => !unchanged.has(name)).map(({ pair }) => pair)
  const all = [...kept, ...changed]
  return all.length === 0 ? null : all.join('; ')
}

/** A handler's Request. Nothing of it is read before its session is opened, so that Next.js can prerender it. */
export class RouteHead implements FormRequest {
  readonly #request: Request
  #headers: RequestHeaders | undefined

  constructor(request: Request) {
    this.#request = request
  }

  get headers(): RequestHeaders {
    this.#headers ??= new NextHeaders(this.#request.headers, {})
    return this.#headers
  }

  get url(): string {
    return urlOf(this.#request.headers, this.#request.url)
  }

  get method(): string {
    return this.#request.method
  }

  get body(): ReadableStream<Uint8Array> | null {
    return this.#request.body as ReadableStream<Uint8Array> | null
  }
}

/** The same handler's request with other cookies. */
export const withCookies = (head: RouteHead, jar: CookieJar): FormRequest =>
  Object.create(head, {
    headers: { value: new NextHeaders(head.headers, { cookie: cookieHeader(head.headers.get('cookie'), jar) }) },
    url: { get: () => head.url },
    method: { get: () => head.method },
    body: { get: () => head.body },
  })

/** The path of the page that contains the form of an action, as far as the browser sends it. */
const refererPath = (headers: RequestHeaders): string => {
  const [, host, path] = /^https?:\/\/([^/?#]*)([^?#]*)/i.exec(headers.get('referer') ?? '') ?? []
  return host !== undefined && host === headers.get('host') ? (path ?? '/') : '/'
}

/** The request of a page, by `headers()` and `cookies()`. */
export const pageHead = (headers: RequestHeaders, jar: CookieJar): RequestHead => ({
  headers: new NextHeaders(headers, { cookie: cookieHeader(headers.get('cookie'), jar) }),
  url: urlOf(headers, 'http:///'),
  method: 'GET',
})

/** The fields of a form as an object, and its files. React adds hidden fields that name the action. */
const splitForm = (form: FormData) => {
  const fields: Record<string, string[]> = Object.create(null)
  const files: [string, File][] = []
  for (const [name, value] of form) {
    if (name.startsWith('$ACTION_')) continue
    if (typeof value === 'string') fields[name] = [...(fields[name] ?? []), value]
    // A file input without a file.
    else if (value.name !== '' || value.size > 0) files.push([name, value])
  }
  return { fields, files }
}

export type ActionForm = ReturnType<typeof splitForm>

const isFormData = (value: unknown): value is FormData =>
  typeof (value as { getAll?: unknown } | undefined)?.getAll === 'function'

/** The form among the arguments of an action. */
export const formIn = (args: readonly unknown[]): ActionForm | undefined => {
  const form = args.find(isFormData)
  return form && splitForm(form)
}

/** The request of an action. Next.js has read its body. */
export const actionHead = (
  headers: RequestHeaders,
  jar: CookieJar,
  form: ActionForm | undefined,
): RequestHead | FormRequest => ({
  headers: new NextHeaders(headers, {
    cookie: cookieHeader(headers.get('cookie'), jar),
    ...(form && { 'content-type': 'multipart/form-data' }),
  }),
  url: urlOf(headers, `http://${refererPath(headers)}`),
  method: 'POST',
  ...(form && { body: null, parsedBody: { value: form.fields } }),
})
