// Reads a body in blocks of limited size, for pieces of any size, and lets other requests run between them.

import type { Awaitable } from '../error.ts'

export type BodySource = ReadableStreamDefaultReader<Uint8Array>

/** The result of reading. `broken`: the body has another format than its Content-Type, or it broke off. */
export type BlocksRead = 'done' | 'stopped' | 'broken' | 'too_large'

export type BlocksLimits = {
  /** The most bytes of the whole body. */
  readonly bytes: number
  /** The most pieces of its stream. Default: no limit. */
  readonly pieces?: number
}

/**
 * The most bytes that are processed without a pause, and the most pieces that are read without one. A socket gives
 * fewer at once.
 */
const BLOCK = 16_384
/** A piece of this many bytes becomes a block of its own. Shorter pieces are copied into one block. */
const SHORT = 1_024
/** The most bytes of long pieces that are read in advance. */
const AHEAD = 65_536
/** The same for short pieces, which need more memory in the server that waits to deliver them than here. */
const SHORT_AHEAD = 2 ** 20
/** The cost of a block in addition to its bytes, in bytes. */
const BLOCK_COST = 128

// Read when the module is loaded, because a test that replaces the timers later must not stop a form.
const later = setImmediate
const { nextTick } = process
/** Lets other work run: the promise settles after one round of the event loop. */
const pause = () => new Promise<void>((resolve) => later(resolve))

/** Whether a value is a Uint8Array of any realm. The Fetch standard allows nothing else. */
const isBytes = (piece: unknown): piece is Uint8Array =>
  ArrayBuffer.isView(piece) && (piece as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] === 'Uint8Array'

/** The bytes that were read and not yet taken. Short pieces are copied into one block. */
const blockBuffer = () => {
  let ready: Buffer[] = []
  let size = 0
  let long = 0
  /** Short pieces. The first `given` bytes were handed over. The taker may keep them, so they are never overwritten. */
  let short = Buffer.alloc(0)
  let given = 0
  let length = 0
  const put = (block: Buffer): void => {
    ready.push(block)
    size += block.length + BLOCK_COST
  }
  const flush = (): void => {
    if (given < length) put(short.subarray(given, length))
    given = length
  }
  return {
    add(piece: Uint8Array): void {
      if (length + piece.length <= short.length) {
        short.set(piece, length)
        length += piece.length
        return
      }
      flush()
      if (piece.length >= SHORT) {
        put(Buffer.from(piece.buffer, piece.byteOffset, piece.length))
        long += piece.length
      } else {
        short = Buffer.allocUnsafe(SHORT)
        short.set(piece)
        given = 0
        length = piece.length
      }
    },
    isFull: () => long >= AHEAD || size >= SHORT_AHEAD,
    takeAll(): Buffer[] {
      flush()
      const all = ready
      ready = []
      size = 0
      long = 0
      return all
    },
  }
}

/**
 * Passes the blocks of a body to `take` until the body ends, is too large or breaks off, or `take` returns false. The
 * bytes before a problem are passed on too. If `take` throws, the body counts as broken.
 *
 * A million pieces of one byte cost about as much memory and time as one piece of a million bytes. Pieces are read as
 * soon as they arrive, because a server needs more than a kilobyte for each piece that waits. Between two blocks the
 * event loop runs other work, because otherwise a body that has arrived completely would delay all other requests until
 * its end.
 *
 * @internal
 */
export const inBlocks = async (
  source: BodySource,
  { bytes: most, pieces: mostPieces = Number.POSITIVE_INFINITY }: BlocksLimits,
  take: (block: Buffer) => Awaitable<boolean>,
): Promise<BlocksRead> => {
  const { add, isFull, takeAll } = blockBuffer()
  let read: BlocksRead | undefined
  let wakeTaker = () => {}
  let wakeReader = () => {}

  /** Pieces that were available at once. A socket delivers them one by one, even if it is fast. */
  let atOnce = 0
  let resetQueued = false
  const resetAtOnce = () => {
    resetQueued = false
    atOnce = 0
  }
  let wakeQueued = false
  const wakeLater = () => {
    wakeQueued = false
    wakeTaker()
  }
  const reading = async (): Promise<BlocksRead> => {
    let bytes = 0
    for (let count = 1; ; count++) {
      const { done, value: piece } = await source.read()
      if (done) return 'done'
      if (!isBytes(piece)) return 'broken'
      const room = most - bytes
      bytes += piece.length
      add(bytes > most ? piece.subarray(0, room) : piece)
      if (bytes > most || count > mostPieces) return 'too_large'
      if (!wakeQueued) {
        wakeQueued = true
        later(wakeLater)
      }
      if (!resetQueued) {
        resetQueued = true
        nextTick(resetAtOnce)
      }
      if (++atOnce >= BLOCK) await pause()
      if (isFull()) {
        await new Promise<void>((resolve) => {
          wakeReader = resolve
        })
      }
    }
  }
  const ended = (result: BlocksRead) => {
    read = result
    wakeTaker()
  }
  reading().then(ended, () => ended('broken'))

  let work = 0
  try {
    for (;;) {
      const finalResult = read
      const blocks = takeAll()
      wakeReader()
      for (const block of blocks) {
        for (let at = 0; at < block.length; at += BLOCK) {
          if (work >= BLOCK) {
            work = 0
            await pause()
          }
          const part = block.subarray(at, at + BLOCK)
          work += part.length + BLOCK_COST
          if (!(await take(part))) return 'stopped'
        }
      }
      if (finalResult !== undefined) return finalResult
      if (read !== undefined || blocks.length > 0) continue
      await new Promise<void>((resolve) => {
        wakeTaker = resolve
      })
    }
  } catch {
    return 'broken'
  }
}
