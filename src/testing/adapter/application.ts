// The application that an author serves through an adapter: each case gives it the handlers of its paths.

import type { SessionManager } from '../../manager.ts'
import type { RequestLike } from '../../request-context.ts'

/** The answer of a handler, for the framework to send. In a framework for Responses: `new Response(body, { status, headers })`. */
export type Answer = {
  readonly status: number
  /** A name may occur more than once, as `set-cookie` does. */
  readonly headers: [name: string, value: string][]
  /** Null: no body. */
  readonly body: string | ReadableStream<Uint8Array> | null
}

/** The method of a request, and its URL or its path with the query, as the framework has them. */
export type ArrivingRequest = { readonly method: string; readonly url: string }

/** The application for one case. */
export type Application = {
  /** The manager to mount by the adapter. */
  readonly manager: SessionManager
  /**
   * Answers a request of any path and method. It may reject: leave the error to the framework.
   *
   * @param x the object that handlers of this framework pass to `session`
   */
  handle(x: RequestLike, request: ArrivingRequest): Promise<Answer>
}

/** A running application. */
export type ServedApplication = {
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string
  /** Stops it, and closes its connections. */
  close(): Promise<void>
}

/** Mounts the manager in a new application of the framework, answers all requests by `handle`, and listens on a free port. */
export type ServeApplication = (application: Application) => Promise<ServedApplication>

/** A point in a handler at which it waits for the case. */
export type Pause = {
  /** For the handler: resolves when the case calls `resume`. */
  wait(): Promise<void>
  /** For the case: resolves when a handler waits. */
  readonly reached: Promise<void>
  resume(): void
}

export const createPause = (): Pause => {
  const { promise: reached, resolve: reach } = Promise.withResolvers<void>()
  const { promise: resumed, resolve: resume } = Promise.withResolvers<void>()
  return {
    wait() {
      reach()
      return resumed
    },
    reached,
    resume,
  }
}

/** The handler of a path in a case. */
export type CaseHandler = (
  x: RequestLike,
  request: { readonly query: URLSearchParams; readonly pause: Pause; readonly manager: SessionManager },
) => Promise<Answer> | Answer

/** An answer with a text. */
export const text = (body: string, status = 200, headers: Answer['headers'] = []): Answer => ({
  status,
  headers: [['content-type', 'text/plain; charset=utf-8'], ...headers],
  body,
})

/** An answer without a body. */
export const empty = (status: number, headers: Answer['headers'] = []): Answer => ({ status, headers, body: null })

/** An answer with JSON. */
export const json = (value: unknown): Answer => text(JSON.stringify(value) ?? 'null')

/** Answers by the path of a request. Every other path gets 404. */
export const answerBy =
  (
    handlers: Readonly<Record<string, CaseHandler>>,
    stage: { readonly pause: Pause; readonly manager: SessionManager },
  ): Application['handle'] =>
  async (x, { url }) => {
    // A path such as `//x` is no URL, so the parts are cut here.
    const [target = '', query = ''] = url.replace(/^[a-z]+:\/\/[^/?#]*/i, '').split('?', 2)
    const handler = handlers[target]
    return handler === undefined
      ? text('There is no such page.', 404)
      : handler(x, { query: new URLSearchParams(query), ...stage })
  }
