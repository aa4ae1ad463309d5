// Answers every path of a case.

import { Readable } from 'node:stream'

export default defineEventHandler(async (event) => {
  const { status, headers, body } = await globalThis.application.handle(event, {
    method: event.method,
    url: event.path,
  })
  setResponseStatus(event, status)
  for (const [name, value] of headers) appendResponseHeader(event, name, value)
  if (body === null) return sendNoContent(event, status)
  // h3 1 reads a ReadableStream to its end, also if the response is not sent.
  return typeof body === 'string' ? body : Readable.fromWeb(body as never)
})
