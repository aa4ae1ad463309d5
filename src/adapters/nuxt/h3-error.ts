// Makes errors of keepsake errors of h3 1, because Nuxt hides the status text and the message of every other error.

import { KeepsakeError } from '../../error.ts'
import { publicError } from '../public-errors.ts'

/** h3 knows its errors by a property of their class. */
class H3Error extends KeepsakeError {
  static readonly __h3_error__ = true
  readonly fatal = false
  readonly unhandled = false
  readonly data = undefined
  readonly statusCode: number
  readonly statusMessage: string

  constructor({ code, message, status = 500, headers, cause }: KeepsakeError) {
    super(code, message, { cause })
    this.status = status
    this.statusCode = status
    this.statusMessage = status === 409 ? 'Conflict' : status === 503 ? 'Service Unavailable' : 'Internal Server Error'
    if (headers !== undefined) this.headers = headers
  }

  toJSON(): object {
    const { message, statusCode, statusMessage } = this
    return { message, statusCode, statusMessage }
  }
}

const isShown = (error: unknown): error is KeepsakeError =>
  error instanceof KeepsakeError && error.status !== undefined && !(error.constructor === H3Error)

/** The same error for h3, if it is one with a status. */
export const asH3Error = <E>(error: E): E | KeepsakeError => (isShown(error) ? new H3Error(error) : error)

/** The same, with a text for visitors if the error is one of the backend. */
export const publicH3Error = <E>(error: E): E | KeepsakeError =>
  asH3Error(isShown(error) && error.status === 503 ? publicError(error) : error)
