// The error that an adapter passes to the error handler of a framework, when a request was not saved.

import type { RequestOutcome } from '../commit-request.ts'
import { type ErrorCode, KeepsakeError } from '../error.ts'
import { copyableHeaders } from '../http/copyable-headers.ts'
import { defaultErrorText } from '../http/error-response.ts'

const codes: Readonly<Record<string, ErrorCode>> = { ended: 'ended', conflict: 'conflict', withheld: 'withheld' }

/** Headers for the response to an error. Frameworks copy them, so a logout clears the cookie also if the store failed. */
export const errorHeaders = (cookies: readonly string[]): Headers => {
  const headers = new Headers({ 'cache-control': 'no-store' })
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  return copyableHeaders(headers)
}

/**
 * An error with the status and a message for the visitor, because some frameworks print the message of every error. The error of
 * the backend is its cause.
 */
export const frameworkError = ({
  failure = 'not_saved',
  error,
  cookies,
}: Pick<RequestOutcome, 'failure' | 'error' | 'cookies'>): KeepsakeError => {
  const { status, text } = defaultErrorText(failure)
  const code = codes[failure] ?? error?.code ?? 'unavailable'
  const thrown = new KeepsakeError(code, text, error === undefined ? {} : { cause: error })
  thrown.status = status
  thrown.headers = errorHeaders(cookies)
  return thrown
}
