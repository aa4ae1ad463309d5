// The thinnest bridge from node:http to a Fetch handler: only those parts of Request and Response that keepsake uses.

import type { App, FetchHandler, Reply } from './contestant.ts'

class ResponseHeaders {
  readonly #values = new Map<string, string>()
  readonly #cookies: string[] = []

  get(name: string): string | null {
    return this.#values.get(name.toLowerCase()) ?? null
  }
  set(name: string, value: string): void {
    this.#values.set(name.toLowerCase(), value)
  }
  append(name: string, value: string): void {
    if (name.toLowerCase() === 'set-cookie') this.#cookies.push(value)
    else this.set(name, value)
  }
  getSetCookie(): string[] {
    return this.#cookies
  }
  /** Name, value, name, value, in the form for writeHead. */
  flat(): string[] {
    const list: string[] = []
    for (const [name, value] of this.#values) list.push(name, value)
    for (const cookie of this.#cookies) list.push('set-cookie', cookie)
    return list
  }
}

class ThinResponse {
  readonly status = 200
  readonly headers = new ResponseHeaders()
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

/** Makes a response of the bridge. An application may also return a platform Response, which the bridge reads. */
export const thinReply: Reply = (text) => new ThinResponse(text) as unknown as Response

type Incoming = Record<string, string | string[] | undefined>

class RequestHeaders {
  readonly #headers: Incoming

  constructor(headers: Incoming) {
    this.#headers = headers
  }
  get(name: string): string | null {
    return (this.#headers[name] as string | undefined) ?? null
  }
  has(name: string): boolean {
    return this.#headers[name] !== undefined
  }
  keys(): Iterator<string> {
    return Object.keys(this.#headers).values()
  }
}

export const thinBridge = (handler: FetchHandler): App => ({
  kind: 'node',
  listener: async (request, response) => {
    const { headers, url, method } = request
    const thinRequest = { url: `http://${headers.host}${url}`, method, headers: new RequestHeaders(headers) }
    const answer = await handler(thinRequest as unknown as Request)
    if (answer instanceof ThinResponse) {
      response.writeHead(answer.status, ['content-length', String(answer.text.length), ...answer.headers.flat()])
      response.end(answer.text)
    } else {
      response.writeHead(answer.status, Object.fromEntries(answer.headers))
      response.end(await answer.text())
    }
  },
})
