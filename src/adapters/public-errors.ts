// Keeps the text of a backend's error from visitors, because some frameworks print the message of every error.

import { type Awaitable, isThenable, KeepsakeError } from '../error.ts'
import { defaultErrorText } from '../http/error-response.ts'
import type { Manager } from '../request-context.ts'

/** An error for the error handler of a framework: it has the same code, and the error of the backend is its cause. */
const publicError = (error: unknown): unknown =>
  error instanceof KeepsakeError && error.status === 503
    ? new KeepsakeError(error.code, defaultErrorText('unavailable').text, { cause: error })
    : error

const rethrow = (error: unknown): never => {
  throw publicError(error)
}

/** The same manager, whose sessions are opened with errors that may be shown to visitors. */
export const withPublicErrors = (manager: Manager): Manager => ({
  ...manager,
  open(...args): Awaitable<Awaited<ReturnType<Manager['open']>>> {
    try {
      const work = manager.open(...args)
      return isThenable(work) ? work.then(undefined, rethrow) : work
    } catch (error) {
      return rethrow(error)
    }
  },
})
