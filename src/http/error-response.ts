// The responses that keepsake sends in place of a handler's, and the option with which an application renders them.

import type { Awaitable } from '../error.ts'

/**
 * The reason why keepsake responds in place of the handler.
 *
 * - `ended` (409): the session ended while the request was in progress. Nothing was saved.
 * - `conflict` (409): another request changed the session, and the schema refuses both changes together. Nothing was
 *   saved.
 * - `withheld` (409): the browser did not send the session cookie with this request. Nothing was saved.
 * - `unavailable` (503): the backend failed or did not answer in time.
 * - `not_saved` (500): the changes cannot be saved, for example because they are too large.
 * - `cross_origin` (403): `crossOriginProtection` refused the request.
 */
export type ErrorKind = 'ended' | 'conflict' | 'withheld' | 'unavailable' | 'not_saved' | 'cross_origin'

/**
 * Renders the response to an error. Give it the status of the kind; a redirect is possible too. Do not use the session
 * of the request here. keepsake adds cookies, and `Cache-Control: no-store` if the response has no Cache-Control.
 */
export type ErrorResponse = (kind: ErrorKind, request: Request) => Awaitable<Response>

const defaults: Readonly<Record<ErrorKind, readonly [status: number, text: string]>> = {
  ended: [409, 'Your session ended while this page was open. Nothing was saved. Please reload the page.'],
  conflict: [409, 'Your session changed while this page was open. Nothing was saved. Please try again.'],
  withheld: [
    409,
    'Your browser did not send your session with this request. Nothing was saved. Please try again from our page.',
  ],
  unavailable: [503, 'This page is not available at the moment. Please try again in a few minutes.'],
  not_saved: [500, 'Something went wrong and your changes were not saved. Please try again later.'],
  cross_origin: [403, 'This request came from another website, so we refused it. Please use the form on our own page.'],
}

/** The status of an error, and its text for the visitor. */
export const defaultErrorText = (kind: ErrorKind): { readonly status: number; readonly text: string } => {
  const [status, text] = defaults[kind]
  return { status, text }
}

/** The response to an error if the application does not render it. */
export const defaultErrorResponse = (kind: ErrorKind): Response => {
  const { status, text } = defaultErrorText(kind)
  return new Response(`${text}\n`, {
    status,
    headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' },
  })
}
