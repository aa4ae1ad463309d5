// Answers every path of a case.

export default defineEventHandler(async (event) => {
  const { status, headers, body } = await globalThis.application.handle(event, { method: event.method, url: event.path })
  setResponseStatus(event, status)
  for (const [name, value] of headers) appendResponseHeader(event, name, value)
  return body
})
