// Flash messages: a line for the next page, bounded in number and size wherever they travel.

import { Fault } from '../error.ts'
import type { Json } from '../json.ts'

/** A message for the next page. */
export type Flash = {
  /** What kind it is, such as `info` or `error`: the application's own words. */
  readonly category: string
  readonly text: string
}

/** How many messages wait, and how many bytes they may have as JSON: what a sealed cookie carries with ease. */
const MOST = 20
const LARGEST = 2_048

export const printedFlashes = (flashes: readonly Flash[]): Json => flashes.map(({ category, text }) => [category, text])

/** The messages in what is kept of them; whatever else lies there is none. */
export const parsedFlashes = (kept: unknown): readonly Flash[] => {
  if (!Array.isArray(kept)) return []
  return kept.flatMap((pair) => {
    const [category, text] = Array.isArray(pair) ? pair : []
    return typeof category === 'string' && typeof text === 'string' ? [{ category, text }] : []
  })
}

const bytesOf = (flashes: readonly Flash[]): number => Buffer.byteLength(JSON.stringify(printedFlashes(flashes)))

/** As many of the messages as may wait: the oldest make room. */
export const bounded = (flashes: readonly Flash[]): readonly Flash[] => {
  let kept = flashes.slice(-MOST)
  while (bytesOf(kept) > LARGEST) kept = kept.slice(1)
  return kept
}

/** @throws Fault `too_large`, `not_json` */
export const flash = (category: string, text: string): Flash => {
  if (typeof category !== 'string' || typeof text !== 'string') {
    throw new Fault('not_json', 'The category and the text of a flash message have to be strings.')
  }
  const bytes = bytesOf([{ category, text }])
  if (bytes <= LARGEST) return { category, text }
  throw new Fault('too_large', `A flash message has ${bytes} bytes, and at most ${LARGEST} are allowed.`)
}
