// One part of a multipart body while it arrives: read whole, or as a stream that its reader may stop reading.

import type { BusboyFileStream } from '@fastify/busboy'

export type Part = {
  /** Reads the whole part. Undefined if it breaks off. */
  readonly whole: () => Promise<Uint8Array<ArrayBuffer> | undefined>
  /** The part as a stream of bytes. */
  readonly stream: () => ReadableStream<Uint8Array>
  /** Skips the rest, so that the next part can arrive. */
  readonly discard: () => void
  /** Ends the part with an error of this message for its reader. */
  readonly breakOff: (message: string) => void
}

/** Receives the bytes of a part. */
type Sink = {
  readonly take: (bytes: Buffer) => void
  readonly end: () => void
  readonly fail: (message: string) => void
}

const skip: Sink = { take: () => {}, end: () => {}, fail: () => {} }

/** @param allowed counts bytes, also skipped ones, and returns whether so many more are allowed */
export const partOf = (source: BusboyFileStream, allowed: (bytes: number) => boolean): Part => {
  let sink = skip
  let failure: string | undefined
  let ended = false

  const discard = (): void => {
    sink = skip
    source.resume()
  }
  const breakOff = (message: string): void => {
    if (ended) return
    failure ??= message
    const { fail } = sink
    discard()
    fail(message)
  }
  const sendTo = (next: Sink): void => {
    sink = next
    if (failure === undefined) source.resume()
    else breakOff(failure)
  }
  const broken = () => breakOff('The upload broke off.')
  /* An error in a stream's listener would end the process. */
  source.on('data', (bytes: Buffer) => {
    try {
      if (allowed(bytes.length)) sink.take(bytes)
    } catch {
      broken()
    }
  })
  source.on('end', () => {
    try {
      sink.end()
      ended = true
    } catch {
      broken()
    }
  })
  source.on('error', broken)
  source.pause()

  return {
    discard,
    breakOff,
    whole: () =>
      new Promise((resolve) => {
        // Pieces are copied as they arrive, because many short pieces need many times the memory of their bytes.
        let buffer = new Uint8Array(0)
        let length = 0
        sendTo({
          take: (bytes) => {
            if (length + bytes.length > buffer.length) {
              const larger = new Uint8Array(Math.max(2 * length, length + bytes.length))
              larger.set(buffer.subarray(0, length))
              buffer = larger
            }
            buffer.set(bytes, length)
            length += bytes.length
          },
          end: () => resolve(buffer.subarray(0, length)),
          fail: () => resolve(undefined),
        })
      }),
    stream: () => {
      let controller: ReadableStreamDefaultController<Uint8Array>
      return new ReadableStream<Uint8Array>({
        start: (streamController) => {
          controller = streamController
          sendTo({
            take: (bytes) => {
              // A copy, because the reader may change or transfer it while the parser still reads its own bytes.
              controller.enqueue(new Uint8Array(bytes))
              if ((controller.desiredSize ?? 0) <= 0) source.pause()
            },
            end: () => controller.close(),
            fail: (message) => controller.error(new Error(message)),
          })
        },
        pull: () => {
          source.resume()
        },
        cancel: discard,
      })
    },
  }
}
