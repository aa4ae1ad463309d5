// Flash messages: a line for the next page, bounded in number and size wherever they travel.

import { KeepsakeError } from '../error.ts'
import type { Json } from '../json.ts'

/** A message for the next page. */
export type Flash = {
  /** What kind it is, such as `info` or `error`: the application's own words. */
  readonly category: string
  readonly text: string
}

/** How many messages wait, and how many bytes they may have as JSON: what a sealed cookie carries with ease. */
const MAX_MESSAGES = 20
const MAX_BYTES = 2_048

export const encodeFlashes = (flashes: readonly Flash[]): Json => flashes.map(({ category, text }) => [category, text])

/** The messages in what is kept of them; whatever else lies there is none. */
export const decodeFlashes = (kept: unknown): readonly Flash[] => {
  if (!Array.isArray(kept)) return []
  return kept.flatMap((pair) => {
    const [category, text] = Array.isArray(pair) ? pair : []
    return typeof category === 'string' && typeof text === 'string' ? [{ category, text }] : []
  })
}

const bytesOf = (flashes: readonly Flash[]): number => Buffer.byteLength(JSON.stringify(encodeFlashes(flashes)))

/** As many of the messages as may wait: the oldest make room. */
export const limitFlashes = (flashes: readonly Flash[]): readonly Flash[] => {
  let kept = flashes.slice(-MAX_MESSAGES)
  while (bytesOf(kept) > MAX_BYTES) kept = kept.slice(1)
  return kept
}

/** @throws KeepsakeError `too_large`, `not_json` */
export const newFlash = (category: string, text: string): Flash => {
  if (typeof category !== 'string' || typeof text !== 'string') {
    throw new KeepsakeError('not_json', 'The category and the text of a flash message have to be strings.')
  }
  const bytes = bytesOf([{ category, text }])
  if (bytes <= MAX_BYTES) return { category, text }
  throw new KeepsakeError('too_large', `A flash message has ${bytes} bytes, and at most ${MAX_BYTES} are allowed.`)
}
