// Makes errors of keepsake exceptions of Nest, because its filters answer 500 to every other error.

import { KeepsakeError } from '../../error.ts'
import { publicError } from '../public-errors.ts'

type HttpExceptionClass = new (response: string, status: number, options?: { cause?: unknown }) => object

export class HttpErrors {
  #class: HttpExceptionClass | undefined

  /** Loads the class of Nest. @throws KeepsakeError `missing_package` */
  async load(): Promise<void> {
    try {
      const { HttpException } = await import('@nestjs/common')
      this.#class = HttpException
    } catch (cause) {
      const message = 'The package @nestjs/common could not be loaded. Install it: npm install @nestjs/common'
      throw new KeepsakeError('missing_package', message, { cause })
    }
  }

  /**
   * An HttpException with the status and the text of an error, which is its cause. It is a KeepsakeError too: it has the code,
   * and `instanceof KeepsakeError` is true.
   */
  readonly present = (error: KeepsakeError): KeepsakeError => {
    const HttpException = this.#class
    if (HttpException === undefined || error.status === undefined || error instanceof HttpException) return error
    const exception = new HttpException(error.message, error.status, { cause: error })
    Object.assign(exception, { code: error.code, headers: error.headers })
    // The mark of a KeepsakeError.
    for (const symbol of Object.getOwnPropertySymbols(error)) Object.defineProperty(exception, symbol, { value: true })
    return exception as KeepsakeError
  }

  /** The error for the filters: one of the backend has the status 503, and a text for visitors. */
  publish(error: unknown): unknown {
    if (!(error instanceof KeepsakeError) || error.status !== 503) return error
    return this.#class !== undefined && error instanceof this.#class ? error : this.present(publicError(error))
  }
}
