// Handlers of Requests, in the server of keepsake/serve, pass the cases of adapters.

import { mock, test } from 'node:test'
import { serve } from 'keepsake/serve'
import { adapterCases, type ServeApplication } from 'keepsake/testing'

// The server prints its URL, and the errors of handlers.
mock.method(console, 'log', () => {})
mock.method(console, 'error', () => {})

const serveRequests: ServeApplication = ({ manager, handle }) => {
  const handler = manager(async (request) => {
    const { status, headers, body } = await handle(request, request)
    return new Response(body, { status, headers })
  })
  return serve(handler, { port: 0 })
}

for (const { name, run } of adapterCases) test(name, () => run(serveRequests))
