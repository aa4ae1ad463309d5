// The Request that a framework has at the moment, because its middleware may replace it while the request is in progress.

import type { FormRequest } from '../http/request-head.ts'

/** Middleware such as a body limit reads the body of a Request, and puts another one with the same body in its place. */
export class CurrentRequest implements FormRequest {
  readonly #find: () => Request
  readonly #findBody: (request: Request) => ReadableStream<Uint8Array> | null

  /**
   * @param find returns the Request of the moment
   * @param findBody returns its body. Default: that of the Request
   */
  constructor(find: () => Request, findBody = (request: Request): ReadableStream<Uint8Array> | null => request.body) {
    this.#find = find
    this.#findBody = findBody
  }

  get headers(): Headers {
    return this.#find().headers
  }

  get url(): string {
    return this.#find().url
  }

  get method(): string {
    return this.#find().method
  }

  get body(): ReadableStream<Uint8Array> | null {
    return this.#findBody(this.#find())
  }
}
