// A file of a multipart body, as a stream that its reader may leave at any time.

import type { BusboyFileStream } from '@fastify/busboy'

/** A file of a multipart body, while it comes. */
export type FilePart = {
  readonly stream: ReadableStream<Uint8Array>
  /** What is wrong with it, so far. */
  readonly fault: () => 'broken' | 'too_large' | undefined
  /** Lets the rest go by, so that the next part can come. */
  readonly discard: () => void
  /** No more of it will come. */
  readonly breakOff: () => void
}

export const filePart = (source: BusboyFileStream): FilePart => {
  let fault: 'broken' | 'too_large' | undefined
  let open = true
  let controller: ReadableStreamDefaultController<Uint8Array>
  const fail = (why: 'broken' | 'too_large', message: string) => {
    fault ??= why
    if (open) controller.error(new Error(message))
    open = false
    source.resume()
  }
  const discard = () => {
    open = false
    source.resume()
  }
  const stream = new ReadableStream<Uint8Array>({
    start: (own) => {
      controller = own
    },
    pull: () => {
      source.resume()
    },
    cancel: discard,
  })
  source.on('data', (chunk: Uint8Array) => {
    if (!open) return
    controller.enqueue(chunk)
    if ((controller.desiredSize ?? 0) <= 0) source.pause()
  })
  source.on('end', () => {
    if (open) controller.close()
    open = false
  })
  const breakOff = () => fail('broken', 'The upload broke off.')
  source.on('error', breakOff)
  source.on('limit', () => fail('too_large', 'The file is too large.'))
  source.pause()
  return { stream, fault: () => fault, discard, breakOff }
}
