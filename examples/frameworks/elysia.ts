// A counter for each visitor, in Elysia on Node. Start it with `node examples/frameworks/elysia.ts`. On Bun, use `app.listen(8080)`.

import { serve } from '@hono/node-server'
import { Elysia } from 'elysia'
import { session, sessionManager } from 'keepsake'
import { forElysia } from 'keepsake/elysia'

const manager = sessionManager({ backend: 'memory:' })

const app = new Elysia().use(forElysia(manager)).get('/', async (context) => {
  const s = await session<{ visits: number }>(context)
  s.update('visits', (visits = 0) => visits + 1)
  return `You were here ${s.get('visits')} times.`
})

serve({ fetch: app.fetch, port: Number(process.env.PORT ?? 8080), hostname: '127.0.0.1' }, ({ port }) => {
  console.log(`http://127.0.0.1:${port}`)
})
