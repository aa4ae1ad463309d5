// A counter for each visitor, in Hono on Node. Start it with `node examples/frameworks/hono.ts`.

import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { session, sessionManager } from 'keepsake'
import { forHono } from 'keepsake/hono'

const manager = sessionManager({ backend: 'memory:' })

const app = new Hono()
app.use(forHono(manager))

app.get('/', async (c) => {
  const s = await session<{ visits: number }>(c)
  s.update('visits', (visits = 0) => visits + 1)
  return c.text(`You were here ${s.get('visits')} times.`)
})

serve({ fetch: app.fetch, port: Number(process.env.PORT ?? 8080), hostname: '127.0.0.1' }, ({ port }) => {
  console.log(`http://127.0.0.1:${port}`)
})
