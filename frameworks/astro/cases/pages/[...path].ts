import type { APIRoute } from 'astro'

export const ALL: APIRoute = async (context) => {
  const { method, url } = context.request
  const { status, headers, body } = await globalThis.application.answer(context, { method, url })
  return new Response(body, { status, headers })
}
