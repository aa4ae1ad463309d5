// Bodies of requests in pieces of any size, and bodies that never end.

/** How much of a body was taken, and whether it was given up. */
export type Taken = { bytes: number; cancelled: boolean }

/** A body that is there already, in pieces of these sizes, over and over. */
export const inPieces = (body: Uint8Array, sizes: readonly number[] = [1]): ReadableStream<Uint8Array> => {
  let at = 0
  let piece = 0
  return new ReadableStream({
    pull: (controller) => {
      if (at >= body.length) return controller.close()
      const size = sizes[piece++ % sizes.length] as number
      // An array of its own, as each piece from a socket is: a view would keep the whole.
      controller.enqueue(new Uint8Array(body.subarray(at, at + size)))
      at += size
    },
  })
}

/** `metadata`, and then `more` again and again, at most `most` bytes: nobody who stops in time gets there. */
export const endless = (
  metadata: string,
  more: string,
  most = 400 * 2 ** 20,
): { readonly body: ReadableStream<Uint8Array>; readonly taken: Taken } => {
  const taken: Taken = { bytes: 0, cancelled: false }
  const piece = Buffer.from(more.repeat(Math.ceil(65_536 / more.length)))
  let first = true
  const body = new ReadableStream<Uint8Array>(
    {
      pull: (controller) => {
        const next = first ? Buffer.from(metadata) : piece
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
