import type { LoaderFunctionArgs } from 'react-router'

const answer = async (args: LoaderFunctionArgs): Promise<Response> => {
  const { method, url } = args.request
  const { status, headers, body } = await globalThis.application.answer(args, { method, url })
  return new Response(body, { status, headers })
}

export { answer as action, answer as loader }
