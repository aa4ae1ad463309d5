// A counter and a form in Hono on Node: `node examples/frameworks/hono.ts`.

import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { csrfTag, readForm, session, sessionManager } from 'keepsake'
import { forHono } from 'keepsake/hono'

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

const app = new Hono()
app.use(forHono(sessionManager({ backend: SESSIONS })))

app.get('/', async (c) => {
  const s = await session<{ visits: number }>(c)
  s.update('visits', (visits = 0) => visits + 1)
  const form = `<form method="post">${await csrfTag(c)}<button>Begin again</button></form>`
  return c.html(`<p>You were here ${s.get('visits')} times.</p>${form}`)
})

app.post('/', async (c) => {
  const form = await readForm(c)
  if (!form.ok) return c.text(form.message, form.status)
  const s = await session<{ visits: number }>(c)
  s.delete('visits')
  return c.redirect('/', 303)
})

serve({ fetch: app.fetch, port: Number(PORT), hostname: '127.0.0.1' }, ({ port }) => {
  console.log(`http://127.0.0.1:${port}/`)
})
