// Random bytes from the system's generator, read 4096 at a time because each read costs 2 µs.

import { randomFillSync } from 'node:crypto'

const pool = Buffer.alloc(4096)
let used = pool.length

/** Takes bytes of the pool and returns their index. The caller wipes them. */
const draw = (bytes: number): number => {
  if (used + bytes > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += bytes
  return used - bytes
}

const wipe = (from: number): void => {
  for (let at = from; at < used; at++) pool[at] = 0
}

/** `bytes` random bytes, at most 4096, as base64url. */
export const random = (bytes: number): string => {
  const from = draw(bytes)
  const text = pool.toString('base64url', from, used)
  wipe(from)
  return text
}

/** `bytes` random bytes, at most 4096, in a new buffer. */
export const randomBuffer = (bytes: number): Buffer => {
  const from = draw(bytes)
  const copy = Buffer.from(pool.subarray(from, used))
  wipe(from)
  return copy
}
