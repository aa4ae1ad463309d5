// Decides whether the page that sent a request may send it, by the origins that the application allows.

import { KeepsakeError } from '../error.ts'
import { type Source, sourceOf } from './origin.ts'
import type { RequestHead } from './request-head.ts'

const isOrigin = (origin: string): boolean => {
  try {
    return /^https?:\/\/[^*]+$/.test(origin) && new URL(origin).origin === origin
  } catch {
    return false
  }
}

/** The option `origins` after its check. @throws KeepsakeError `invalid_option` */
export const checkOrigins = (origins: readonly string[] | undefined): ReadonlySet<string> | undefined => {
  const invalid = origins?.find((origin) => !isOrigin(origin))
  if (invalid !== undefined) {
    throw new KeepsakeError(
      'invalid_option',
      `The option origins contains ${JSON.stringify(invalid)}. An origin must be in the format of browsers, such as https://app.example.`,
    )
  }
  return origins && new Set(origins)
}

/**
 * The origin of the page that sent a request: allowed (`same`), not allowed (`cross`), or no evidence (`hidden`, `unknown`).
 *
 * @param origins the allowed origins. Undefined: the origin of the request's URL
 */
export const pageOrigin = (
  request: Pick<RequestHead, 'headers' | 'url'>,
  origins: ReadonlySet<string> | undefined,
): Source => {
  const source = sourceOf(request)
  // The application's own page with Referrer-Policy: no-referrer sends `Origin: null`, and so does any sandboxed frame.
  if (source === 'hidden' || source === 'unknown') return source
  const { headers } = request
  // The origin of the request's URL is allowed unless the option `origins` names the allowed ones.
  if (source === 'same' && (origins === undefined || headers.has('sec-fetch-site'))) return 'same'
  return origins?.has(headers.get('origin') ?? '') ? 'same' : 'cross'
}

/** The message of the event for a page of another origin, with the operator's next step. */
export const adviceOnCross = (origin: string | null): string => {
  const refused = 'A request from a page of another origin was refused.'
  if (origin === null || origin === 'null') return `${refused} Its origin is unknown (no Origin, or Origin: null).`
  return `${refused} Its origin is ${JSON.stringify(origin.slice(0, 200))}. If you trust that origin, add it to the option origins.`
}
