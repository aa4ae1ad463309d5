// The error that an adapter passes to the error handler of a framework, when a request was not saved.

import type { RequestOutcome } from '../commit-request.ts'
import { type ErrorCode, KeepsakeError } from '../error.ts'
import { defaultErrorText } from '../http/error-response.ts'

const codes: Readonly<Record<string, ErrorCode>> = { ended: 'ended', conflict: 'conflict', withheld: 'withheld' }

/**
 * An error with the status and a message for the visitor, because some frameworks print the message of every error. The error of
 * the backend is its cause. Frameworks copy `headers` to the response, so a logout clears the cookie also if the store failed.
 */
export const frameworkError = ({ failure = 'not_saved', error, cookies }: RequestOutcome): KeepsakeError => {
  const { status, text } = defaultErrorText(failure)
  const code = codes[failure] ?? error?.code ?? 'unavailable'
  const thrown = new KeepsakeError(code, text, error === undefined ? {} : { cause: error })
  thrown.status = status
  // Not Headers, because frameworks copy the own properties of this object.
  const headers = { 'cache-control': 'no-store', ...(cookies.length > 0 && { 'set-cookie': [...cookies] }) }
  Object.defineProperty(thrown, 'headers', { value: headers, enumerable: true, configurable: true, writable: true })
  return thrown
}
