// A part of a multipart body while it comes: taken whole, or as a stream that its reader may leave at any time.

import type { BusboyFileStream } from '@fastify/busboy'

export type Part = {
  /** All of it, or undefined where it breaks off. */
  readonly whole: () => Promise<Uint8Array<ArrayBuffer> | undefined>
  readonly stream: () => ReadableStream<Uint8Array>
  /** Lets the rest go by, so that the next part can come. */
  readonly discard: () => void
  /** No more of it will come: whoever reads it gets this message. */
  readonly breakOff: (message: string) => void
}

/** What becomes of the bytes. */
type Sink = {
  readonly take: (bytes: Buffer) => void
  readonly end: () => void
  readonly fail: (message: string) => void
}

const nowhere: Sink = { take: () => {}, end: () => {}, fail: () => {} }

/** @param allowed whether so many more bytes may come; it is asked also about those that nobody takes */
export const partOf = (source: BusboyFileStream, allowed: (bytes: number) => boolean): Part => {
  let sink = nowhere
  let failure: string | undefined
  let ended = false

  const discard = (): void => {
    sink = nowhere
    source.resume()
  }
  const breakOff = (message: string): void => {
    if (ended) return
    failure ??= message
    const { fail } = sink
    discard()
    fail(message)
  }
  const into = (next: Sink): void => {
    sink = next
    if (failure === undefined) source.resume()
    else breakOff(failure)
  }
  const broken = () => breakOff('The upload broke off.')
  /* What an event of a stream throws would end the process. */
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
        // Copied as they come: many short pieces take many times their bytes.
        let whole = new Uint8Array(0)
        let length = 0
        into({
          take: (bytes) => {
            if (length + bytes.length > whole.length) {
              const larger = new Uint8Array(Math.max(2 * length, length + bytes.length))
              larger.set(whole.subarray(0, length))
              whole = larger
            }
            whole.set(bytes, length)
            length += bytes.length
          },
          end: () => resolve(whole.subarray(0, length)),
          fail: () => resolve(undefined),
        })
      }),
    stream: () => {
      let controller: ReadableStreamDefaultController<Uint8Array>
      return new ReadableStream<Uint8Array>({
        start: (own) => {
          controller = own
          into({
            take: (bytes) => {
              // A copy: its reader may change it or give it away, and the parser still looks at its own.
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
