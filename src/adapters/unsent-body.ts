// The body of a handler that is not sent yet, or never: a stream of Node or of the web, a Response, or anything else.

type Body = {
  readonly on?: (event: 'error', listener: () => void) => unknown
  readonly pipe?: unknown
  readonly destroy?: () => unknown
  readonly cancel?: () => Promise<unknown>
  readonly body?: { readonly cancel?: () => Promise<unknown> } | null
}

const isNodeStream = (body: unknown): body is Body => typeof (body as Body | null | undefined)?.pipe === 'function'

/**
 * Keeps the process alive if a stream fails while its request is committed: nobody else listens to it yet. The framework finds the
 * failure when it sends the stream.
 */
export const awaitSending = (body: unknown): void => {
  if (isNodeStream(body)) body.on?.('error', () => {})
}

/** Releases the source of a body that is not sent, such as an open file. */
export const discardBody = (body: unknown): void => {
  if (typeof body !== 'object' || body === null) return
  if (isNodeStream(body)) body.destroy?.()
  else {
    const { cancel, body: inner } = body as Body
    // A stream that somebody reads cannot be cancelled.
    if (typeof cancel === 'function') cancel.call(body)?.catch(() => {})
    else if (typeof inner?.cancel === 'function') inner.cancel().catch(() => {})
  }
}
