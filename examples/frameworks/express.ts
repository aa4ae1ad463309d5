// A counter for each visitor, on Express. Start it with `node examples/frameworks/express.ts`.

import express from 'express'
import { session, sessionManager } from 'keepsake'
import { forExpress } from 'keepsake/express'

const manager = sessionManager({ backend: 'memory:' })
const sessions = forExpress(manager)

const app = express()
app.use(sessions)

app.get('/', async (req, res) => {
  const s = await session<{ visits: number }>(req)
  s.update('visits', (visits = 0) => visits + 1)
  res.type('text').send(`You were here ${s.get('visits')} times.`)
})

app.use(sessions.errorHandler)

const server = app.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  const address = server.address()
  if (typeof address === 'object') console.log(`http://127.0.0.1:${address?.port}`)
})
