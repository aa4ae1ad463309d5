// A counter for each visitor, on node:http without a framework. Start it with `node examples/frameworks/node.ts`.

import { createServer } from 'node:http'
import { session, sessionManager } from 'keepsake'
import { forNode } from 'keepsake/node'

const sessions = forNode(sessionManager({ backend: 'memory:' }))

const server = createServer(async (request, response) => {
  sessions(request, response)
  const s = await session<{ visits: number }>(request)
  s.update('visits', (visits = 0) => visits + 1)
  response.end(`You were here ${s.get('visits')} times.`)
})

server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  const address = server.address()
  if (typeof address === 'object') console.log(`http://127.0.0.1:${address?.port}`)
})
