// A counter for each visitor, on Fastify. Start it with `node examples/frameworks/fastify.ts`.

import Fastify from 'fastify'
import { session, sessionManager } from 'keepsake'
import { forFastify } from 'keepsake/fastify'

const app = Fastify()
await app.register(forFastify(sessionManager({ backend: 'memory:' })))

app.get('/', async (request) => {
  const s = await session<{ visits: number }>(request)
  s.update('visits', (visits = 0) => visits + 1)
  return `You were here ${s.get('visits')} times.`
})

console.log(await app.listen({ port: Number(process.env.PORT ?? 8080), host: '127.0.0.1' }))
