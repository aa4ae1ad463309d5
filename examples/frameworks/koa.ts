// A counter for each visitor, on Koa. Start it with `node examples/frameworks/koa.ts`.

import { session, sessionManager } from 'keepsake'
import { forKoa } from 'keepsake/koa'
import Koa from 'koa'

const app = new Koa()
app.use(forKoa(sessionManager({ backend: 'memory:' })))

app.use(async (ctx) => {
  const s = await session<{ visits: number }>(ctx)
  s.update('visits', (visits = 0) => visits + 1)
  ctx.body = `You were here ${s.get('visits')} times.`
})

const server = app.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  const address = server.address()
  if (typeof address === 'object') console.log(`http://127.0.0.1:${address?.port}`)
})
