// The thinnest bridge from node:http to a Fetch handler: what the library asks of a request and a response, and no more.

import type { App, FetchHandler, Reply } from './contestant.ts'

class Names {
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
  /** Name, value, name, value, as writeHead takes them. */
  flat(): string[] {
    const list: string[] = []
    for (const [name, value] of this.#values) list.push(name, value)
    for (const cookie of this.#cookies) list.push('set-cookie', cookie)
    return list
  }
}

class Answer {
  readonly status = 200
  readonly headers = new Names()
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

/** An application has to answer with these, or with the platform's responses, which are read. */
export const thinReply: Reply = (text) => new Answer(text) as unknown as Response

type Incoming = Record<string, string | string[] | undefined>

class Came {
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
    const asked = { url: `http://${headers.host}${url}`, method, headers: new Came(headers) }
    const answer = await handler(asked as unknown as Request)
    if (answer instanceof Answer) {
      response.writeHead(answer.status, ['content-length', String(answer.text.length), ...answer.headers.flat()])
      response.end(answer.text)
    } else {
      response.writeHead(answer.status, Object.fromEntries(answer.headers))
      response.end(await answer.text())
    }
  },
})
