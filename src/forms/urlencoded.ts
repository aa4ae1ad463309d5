// The pairs of an urlencoded body, as the URL standard parses them, each as soon as its bytes have come.

import { type BlocksLimits, type BlocksRead, inBlocks, type Source } from './blocks.ts'

/** Takes a pair. To give false is to stop. */
type Take = (name: string, value: string) => boolean

const [AMPERSAND, EQUALS, PLUS, PERCENT, SPACE] = [0x26, 0x3d, 0x2b, 0x25, 0x20]

/** The value of each byte as a hexadecimal digit, or 16. */
const digits = Uint8Array.from({ length: 256 }, (_, byte) => {
  const digit = '0123456789abcdef'.indexOf(String.fromCharCode(byte).toLowerCase())
  return digit === -1 ? 16 : digit
})

/** Each byte is looked at once, where `URLSearchParams` of Node takes quadratic time for pairs without `=`. */
const parser = (take: Take) => {
  let text = Buffer.allocUnsafe(256)
  let length = 0
  let name: string | undefined
  /** Whether the pair has a byte yet: nothing between two `&` is no pair. */
  let begun = false
  /** Bytes of an escape that is not complete: `%`, and perhaps a digit. */
  let escaped = 0
  let digit = 0

  const put = (byte: number): void => {
    if (length === text.length) text = Buffer.concat([text], length * 2)
    text[length++] = byte
  }
  const word = (): string => {
    const whole = text.toString('utf8', 0, length)
    length = 0
    return whole
  }
  /** What began like an escape and was none stays as it is. */
  const literally = (): void => {
    if (escaped > 0) put(PERCENT)
    if (escaped > 1) put(digit)
    escaped = 0
  }
  /** Takes the byte as a part of an escape, if it is one. */
  const escapes = (byte: number): boolean => {
    if (digits[byte] === 16) {
      literally()
      return false
    }
    if (++escaped === 2) digit = byte
    else {
      put((digits[digit] as number) * 16 + (digits[byte] as number))
      escaped = 0
    }
    return true
  }
  const end = (): boolean => {
    literally()
    if (!begun) return true
    begun = false
    const last = word()
    const [key, value] = name === undefined ? [last, ''] : [name, last]
    name = undefined
    return take(key, value)
  }
  const feed = (block: Uint8Array): boolean => {
    for (const byte of block) {
      if (escaped > 0 && escapes(byte)) continue
      if (byte === AMPERSAND) {
        if (!end()) return false
        continue
      }
      begun = true
      if (byte === PERCENT) escaped = 1
      else if (byte === EQUALS && name === undefined) name = word()
      else put(byte === PLUS ? SPACE : byte)
    }
    return true
  }
  return { feed, end }
}

/** Reads pairs until there are more than `most`, `take` gives false, or the body ends. */
export const readUrlencoded = async (
  source: Source,
  limits: BlocksLimits,
  most: number,
  take: Take,
): Promise<BlocksRead> => {
  let pairs = 0
  const { feed, end } = parser((name, value) => ++pairs <= most && take(name, value))
  const read = await inBlocks(source, limits, feed)
  const stopped = read === 'stopped' || (read === 'done' && !end())
  if (!stopped) return read
  return pairs > most ? 'too_large' : 'stopped'
}
