import type { RequestHandler } from '@sveltejs/kit'

const answer: RequestHandler = async (event) => {
  const { status, headers, body } = await globalThis.application.answer(event, {
    method: event.request.method,
    url: event.request.url,
  })
  return new Response(body, { status, headers })
}

export { answer as fallback }
