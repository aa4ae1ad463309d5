// Parses an urlencoded body as the URL standard does, and yields each pair as soon as its bytes have arrived.

import { type BlocksLimits, type BlocksRead, type BodySource, inBlocks } from './blocks.ts'

/** Receives a pair. Return false to stop. */
type TakePair = (name: string, value: string) => boolean

const [AMPERSAND, EQUALS, PLUS, PERCENT, SPACE] = [0x26, 0x3d, 0x2b, 0x25, 0x20]

/** The value of each byte as a hexadecimal digit, or 16. */
const digits = Uint8Array.from({ length: 256 }, (_, byte) => {
  const digit = '0123456789abcdef'.indexOf(String.fromCharCode(byte).toLowerCase())
  return digit === -1 ? 16 : digit
})

/** Reads each byte once. Node's `URLSearchParams` takes quadratic time for pairs without `=`. */
const parser = (take: TakePair) => {
  let text = Buffer.allocUnsafe(256)
  let length = 0
  let name: string | undefined
  /** Whether the pair has a byte. Between two adjacent `&` there is no pair. */
  let hasBytes = false
  /** Bytes of an incomplete escape: `%`, and perhaps a digit. */
  let escapeLength = 0
  let digit = 0

  const append = (byte: number): void => {
    if (length === text.length) text = Buffer.concat([text], length * 2)
    text[length++] = byte
  }
  const takeText = (): string => {
    const whole = text.toString('utf8', 0, length)
    length = 0
    return whole
  }
  /** An incomplete escape stays in the text unchanged. */
  const appendEscape = (): void => {
    if (escapeLength > 0) append(PERCENT)
    if (escapeLength > 1) append(digit)
    escapeLength = 0
  }
  /** Returns whether the byte continues the escape. */
  const continuesEscape = (byte: number): boolean => {
    if (digits[byte] === 16) {
      appendEscape()
      return false
    }
    if (++escapeLength === 2) digit = byte
    else {
      append((digits[digit] as number) * 16 + (digits[byte] as number))
      escapeLength = 0
    }
    return true
  }
  const end = (): boolean => {
    appendEscape()
    if (!hasBytes) return true
    hasBytes = false
    const last = takeText()
    const [key, value] = name === undefined ? [last, ''] : [name, last]
    name = undefined
    return take(key, value)
  }
  const feed = (block: Uint8Array): boolean => {
    for (const byte of block) {
      if (escapeLength > 0 && continuesEscape(byte)) continue
      if (byte === AMPERSAND) {
        if (!end()) return false
        continue
      }
      hasBytes = true
      if (byte === PERCENT) escapeLength = 1
      else if (byte === EQUALS && name === undefined) name = takeText()
      else append(byte === PLUS ? SPACE : byte)
    }
    return true
  }
  return { feed, end }
}

/** Reads pairs until the body ends, `take` returns false, or there are more than `maxPairs`. */
export const readUrlencoded = async (
  source: BodySource,
  limits: BlocksLimits,
  maxPairs: number,
  take: TakePair,
): Promise<BlocksRead> => {
  let pairs = 0
  const { feed, end } = parser((name, value) => ++pairs <= maxPairs && take(name, value))
  const read = await inBlocks(source, limits, feed)
  const stopped = read === 'stopped' || (read === 'done' && !end())
  if (!stopped) return read
  return pairs > maxPairs ? 'too_large' : 'stopped'
}
