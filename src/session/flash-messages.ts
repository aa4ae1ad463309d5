// Flash messages: short texts for the next page, limited in number and size.

import { KeepsakeError } from '../error.ts'
import type { Json } from '../json.ts'

/** A message for the next page. */
export type Flash = {
  /** The kind of message, such as `info` or `error`. The application chooses it. */
  readonly category: string
  /** Plain text: the page must escape it. */
  readonly text: string
}

/** The most messages that are kept, and their bytes as JSON: they must fit into an encrypted cookie. */
const MAX_MESSAGES = 20
const MAX_BYTES = 2_048

export const encodeFlashes = (flashes: readonly Flash[]): Json => flashes.map(({ category, text }) => [category, text])

/** The messages in a stored value. Anything else in it is ignored. */
export const decodeFlashes = (stored: unknown): readonly Flash[] => {
  if (!Array.isArray(stored)) return []
  return stored.flatMap((pair) => {
    const [category, text] = Array.isArray(pair) ? pair : []
    return typeof category === 'string' && typeof text === 'string' ? [{ category, text }] : []
  })
}

const bytesOf = (flashes: readonly Flash[]): number => Buffer.byteLength(JSON.stringify(encodeFlashes(flashes)))

/** The newest of the messages, as many as may be kept. */
export const limitFlashes = (flashes: readonly Flash[]): readonly Flash[] => {
  let kept = flashes.slice(-MAX_MESSAGES)
  while (bytesOf(kept) > MAX_BYTES) kept = kept.slice(1)
  return kept
}

/** Checks a message. @throws KeepsakeError `too_large` over 2048 bytes, `not_json` if a part is not a string */
export const newFlash = (category: string, text: string): Flash => {
  if (typeof category !== 'string' || typeof text !== 'string') {
    const message = `A flash message had a category of type ${typeof category} and a text of type ${typeof text}. Both must be strings.`
    throw new KeepsakeError('not_json', message)
  }
  const bytes = bytesOf([{ category, text }])
  if (bytes <= MAX_BYTES) return { category, text }
  throw new KeepsakeError(
    'too_large',
    `A flash message had ${bytes} bytes, but at most ${MAX_BYTES} are allowed. Shorten it.`,
  )
}
