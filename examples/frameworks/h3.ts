// A counter for each visitor, in h3. Start it with `node examples/frameworks/h3.ts`.

import { H3, serve } from 'h3'
import { session, sessionManager } from 'keepsake'
import { forH3 } from 'keepsake/h3'

const manager = sessionManager({ backend: 'memory:' })

const app = new H3()
app.use(forH3(manager))

app.get('/', async (event) => {
  const s = await session<{ visits: number }>(event)
  s.update('visits', (visits = 0) => visits + 1)
  return `You were here ${s.get('visits')} times.`
})

const server = serve(app, { port: Number(process.env.PORT ?? 8080), hostname: '127.0.0.1', silent: true })
await server.ready()
console.log(server.url)
