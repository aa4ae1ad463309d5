// Bodies of requests in pieces of any size, and endless bodies.

/** The bytes of a body that were read, and whether it was cancelled. */
export type Taken = { bytes: number; cancelled: boolean }

/** A body that is available at once, in pieces of these sizes in turn. */
export const inPieces = (body: Uint8Array, sizes: readonly number[] = [1]): ReadableStream<Uint8Array> => {
  let at = 0
  let piece = 0
  return new ReadableStream({
    pull: (controller) => {
      if (at >= body.length) return controller.close()
      const size = sizes[piece++ % sizes.length] as number
      // A new array, like each piece from a socket, because a view would keep the whole body in memory.
      controller.enqueue(new Uint8Array(body.subarray(at, at + size)))
      at += size
    },
  })
}

/** `head`, then `more` repeatedly, up to `most` bytes. A reader that stops at its limit never gets there. */
export const endless = (
  head: string,
  more: string,
  most = 400 * 2 ** 20,
): { readonly body: ReadableStream<Uint8Array>; readonly taken: Taken } => {
  const taken: Taken = { bytes: 0, cancelled: false }
  const piece = Buffer.from(more.repeat(Math.ceil(65_536 / more.length)))
  let first = true
  const body = new ReadableStream<Uint8Array>(
    {
      pull: (controller) => {
        const next = first ? Buffer.from(head) : piece
        first = false
        taken.bytes += next.length
        controller.enqueue(new Uint8Array(next))
        if (taken.bytes > most) controller.close()
      },
      cancel: () => {
        taken.cancelled = true
      },
    },
    { highWaterMark: 0 },
  )
  return { body, taken }
}

export const URLENCODED = 'application/x-www-form-urlencoded'
export const MULTIPART = 'multipart/form-data; boundary=b'

export const posting = (body: BodyInit, type: string, more: Record<string, string> = {}): Request =>
  new Request('https://app.test/', {
    method: 'POST',
    body,
    headers: { 'content-type': type, ...more },
    duplex: 'half',
  } as RequestInit)
