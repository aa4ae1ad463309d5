import { forNext } from 'keepsake/next'
import type { Application } from 'keepsake/testing'

type Running = Application & { readonly name: string; refused: number }

/** The application of the case that runs now. The file with the cases sets it, in the same process. */
const running = () => (globalThis as unknown as { casesApplication: Running }).casesApplication

const answer = async (request: Request): Promise<Response> => {
  const { manager, handle, name } = running()
  const handler = forNext(() => manager, { name }).saving(async (request: Request) => {
    const { status, headers, body } = await handle(request, { method: request.method, url: request.url })
    return new Response(body, { status, headers })
  })
  return handler(request)
}

export {
  answer as DELETE,
  answer as GET,
  answer as HEAD,
  answer as OPTIONS,
  answer as PATCH,
  answer as POST,
  answer as PUT,
}
