// The part of a Node request that keepsake reads, without a Request made for the purpose.

import type { FormRequest, RequestHeaders } from './request-head.ts'

/** The members of an IncomingMessage, or of an HTTP/2 request, that are read here. Frameworks add `originalUrl` and `body`. */
export type NodeRequest = {
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly method?: string | undefined
  readonly url?: string | undefined
  /** The URL before a router of the framework removed its own path. */
  readonly originalUrl?: string | undefined
  /** A TLS socket has the member `encrypted`. */
  readonly socket?: object | null | undefined
  /** Whether somebody has read the body, for example a body parser. */
  readonly readableDidRead?: boolean
  iterator?(options: { destroyOnReturn: boolean }): AsyncIterator<Uint8Array>
  resume?(): unknown
}

/** An object with the result of a body parser, such as the request of Express or Fastify. */
export type ParsedBodyOwner = { readonly body?: unknown }

/** Whether a value is a Node request: its headers are an object of values, and no Headers. */
export const isNodeRequest = (value: unknown): value is NodeRequest => {
  const { headers } = (value ?? {}) as { headers?: { get?: unknown } | null }
  return typeof headers === 'object' && headers !== null && typeof headers.get !== 'function'
}

/** Reads the headers as Node parsed them: Node joins the Cookie fields of HTTP/2 by `; `, and Headers would by `, `. */
class NodeHeaders implements RequestHeaders {
  readonly #request: NodeRequest

  constructor(request: NodeRequest) {
    this.#request = request
  }

  get(name: string): string | null {
    const { headers } = this.#request
    // In HTTP/2 the pseudo-header replaces Host.
    const value = headers[name] ?? (name === 'host' ? headers[':authority'] : undefined)
    return value === undefined ? null : typeof value === 'string' ? value : value.join(', ')
  }

  has(name: string): boolean {
    return this.get(name) !== null
  }

  *keys(): HeadersIterator<string> {
    for (const name in this.#request.headers) if (!name.startsWith(':')) yield name
  }
}

/** The path of a request target. The form of a proxy's target has scheme and host before it; `*` and CONNECT have no path. */
const pathOf = (target: string): string => {
  if (target.startsWith('/')) return target
  return /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*(\/.*)$/i.exec(target)?.[1] ?? '/'
}

/**
 * The body as a stream. Cancelling it lets Node discard the rest: if the Node stream was destroyed, its socket would be closed
 * before the response is sent.
 */
const streamOf = (request: NodeRequest): ReadableStream<Uint8Array> | null => {
  const iterator = request.iterator?.({ destroyOnReturn: false })
  if (iterator === undefined) return null
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await iterator.next()
        if (done) controller.close()
        else controller.enqueue(value)
      },
      async cancel() {
        await iterator.return?.()
        request.resume?.()
      },
    },
    // Read nothing before somebody asks: a body parser of the application may be the one who reads.
    { highWaterMark: 0 },
  )
}

/** Nothing that a visitor sends makes it throw: the core reads a URL that it cannot parse as one of an unknown host. */
export class NodeRequestHead implements FormRequest {
  readonly headers: RequestHeaders
  readonly #request: NodeRequest
  readonly #parsed: ParsedBodyOwner
  #stream: ReadableStream<Uint8Array> | null | undefined

  /** @param parsed the object whose member `body` a body parser sets */
  constructor(request: NodeRequest, parsed: ParsedBodyOwner) {
    this.#request = request
    this.#parsed = parsed
    this.headers = new NodeHeaders(request)
  }

  get method(): string | undefined {
    return this.#request.method
  }

  get url(): string {
    const { socket, originalUrl, url } = this.#request
    const { encrypted } = (socket ?? {}) as { encrypted?: unknown }
    const scheme = encrypted === true ? 'https' : 'http'
    return `${scheme}://${this.headers.get('host') ?? ''}${pathOf(originalUrl ?? url ?? '/')}`
  }

  get parsedBody(): { readonly value: unknown } | undefined {
    // Some parsers set an empty body for requests that they do not read.
    return this.#stream === undefined && this.#request.readableDidRead === true
      ? { value: this.#parsed.body }
      : undefined
  }

  get body(): ReadableStream<Uint8Array> | null {
    this.#stream ??= streamOf(this.#request)
    return this.#stream
  }
}
