// The bytes of a body in blocks of a bounded size, in whatever pieces they come, with turns for all others between them.

import type { Awaitable } from '../error.ts'

export type Source = ReadableStreamDefaultReader<Uint8Array>

/** How reading went. `broken`: the body is no such form, or it broke off. */
export type BlocksRead = 'done' | 'stopped' | 'broken' | 'too_large'

export type BlocksLimits = {
  /** Bytes of the whole body. */
  readonly bytes: number
  /** Pieces in which it may come. Default any number. */
  readonly pieces?: number
}

/** Bytes that are worked on without a pause; and pieces that are read without one, where a socket gives fewer at once. */
const BLOCK = 16_384
/** Bytes of a piece that is worth a block of its own; shorter ones are copied together. */
const SHORT = 1_024
/** Bytes that are read ahead of the work: few of long pieces, many of short ones, which cost their server more than us. */
const AHEAD = 65_536
const SHORT_AHEAD = 2 ** 20
/** What a block costs beside its bytes, in bytes. */
const EACH = 128

// Taken when the module is loaded: a test that replaces the timers later must not stop a form.
const later = setImmediate
const { nextTick } = process
/** Everybody else's turn: the event loop goes round. */
const turn = () => new Promise<void>((resolve) => later(resolve))

/** Of any realm, and nothing else, as the Fetch standard has it. */
const isBytes = (piece: unknown): piece is Uint8Array =>
  ArrayBuffer.isView(piece) && (piece as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] === 'Uint8Array'

/** What was read, until somebody takes it: short pieces in one block. */
const store = () => {
  let ready: Buffer[] = []
  let size = 0
  let long = 0
  /** Short pieces, of which `given` bytes are ready. Those may be kept, so they are not written again. */
  let short = Buffer.alloc(0)
  let given = 0
  let length = 0
  const put = (block: Buffer): void => {
    ready.push(block)
    size += block.length + EACH
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
 * Hands over a body until it ends, is too large, cannot be read on, or `take` gives false. What came before that is
 * handed over too. A body that `take` throws on is broken.
 *
 * A million pieces of one byte cost about as much memory and time as one piece of a million bytes: they are read as
 * fast as they come, because a server keeps each that waits in a kilobyte and more. Between two blocks of work the event
 * loop has its turn: a body that is all there already would else keep everybody waiting to its end.
 *
 * @internal
 */
export const inBlocks = async (
  source: Source,
  { bytes: most, pieces: mostPieces = Number.POSITIVE_INFINITY }: BlocksLimits,
  take: (block: Buffer) => Awaitable<boolean>,
): Promise<BlocksRead> => {
  const { add, isFull, takeAll } = store()
  let read: BlocksRead | undefined
  let wakeTaker = () => {}
  let wakeReader = () => {}

  /** Pieces that were there at once: what comes from a socket comes one by one, however fast. */
  let atOnce = 0
  let marked = false
  const settled = () => {
    marked = false
    atOnce = 0
  }
  let ticks = false
  const tick = () => {
    ticks = false
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
      if (!ticks) {
        ticks = true
        later(tick)
      }
      if (!marked) {
        marked = true
        nextTick(settled)
      }
      if (++atOnce >= BLOCK) await turn()
      if (isFull()) {
        await new Promise<void>((resolve) => {
          wakeReader = resolve
        })
      }
    }
  }
  const ended = (how: BlocksRead) => {
    read = how
    wakeTaker()
  }
  reading().then(ended, () => ended('broken'))

  let work = 0
  try {
    for (;;) {
      const over = read
      const blocks = takeAll()
      wakeReader()
      for (const block of blocks) {
        for (let at = 0; at < block.length; at += BLOCK) {
          if (work >= BLOCK) {
            work = 0
            await turn()
          }
          const part = block.subarray(at, at + BLOCK)
          work += part.length + EACH
          if (!(await take(part))) return 'stopped'
        }
      }
      if (over !== undefined) return over
      if (read !== undefined || blocks.length > 0) continue
      await new Promise<void>((resolve) => {
        wakeTaker = resolve
      })
    }
  } catch {
    return 'broken'
  }
}
