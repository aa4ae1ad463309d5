// Keeps the text of a backend's error from visitors, because some frameworks print the message of every error.

import { KeepsakeError } from '../error.ts'
import { defaultErrorText } from '../http/error-response.ts'
import type { Manager } from '../request-context.ts'

/** An error for the error handler of a framework: it has the same code, and the error of the backend is its cause. */
export const publicError = (error: KeepsakeError): KeepsakeError =>
  new KeepsakeError(error.code, defaultErrorText('unavailable').text, { cause: error })

/**
 * The same manager, whose sessions are opened with errors that may be shown to visitors.
 *
 * @param present adds to such an error the members by which one framework shows it
 */
export const withPublicErrors = (
  manager: Manager,
  present: (error: KeepsakeError) => KeepsakeError = (error) => error,
): Manager => ({
  ...manager,
  openingError: (error) =>
    error instanceof KeepsakeError && error.status === 503 ? present(publicError(error)) : error,
})
