// The adapter for Fastify, on the cases of adapters and on the traps of Fastify.

import { suite, test } from 'node:test'
import Fastify from 'fastify'
import { forFastify } from 'keepsake/fastify'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { listening } from '../support/listening.ts'

const serve: ServeApplication = async ({ manager, handle }) => {
  const app = Fastify()
  await app.register(forFastify(manager))
  // The parsers leave the body to readForm.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  app.all('*', async (request, reply) => {
    const { status, headers, body } = await handle(request, request)
    reply.code(status)
    for (const [name, value] of headers) reply.header(name, value)
    return reply.send(body)
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { url } = await listening(app.server)
  return {
    url,
    async close() {
      app.server.closeAllConnections()
      await app.close()
    },
  }
}

suite('Fastify', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})
