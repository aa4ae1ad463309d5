// A counter and a form in Elysia, here on Node: `node examples/frameworks/elysia.ts`. On Bun, `app.listen(8080)` serves it.

import { serve } from '@hono/node-server'
import { Elysia } from 'elysia'
import { csrfTag, readForm, session, sessionManager } from 'keepsake'
import { forElysia } from 'keepsake/elysia'

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

const app = new Elysia()
  .use(forElysia(sessionManager({ backend: SESSIONS })))
  .get('/', async (context) => {
    const s = await session<{ visits: number }>(context)
    s.update('visits', (visits = 0) => visits + 1)
    const form = `<form method="post">${await csrfTag(context)}<button>Begin again</button></form>`
    context.set.headers['content-type'] = 'text/html; charset=utf-8'
    return `<p>You were here ${s.get('visits')} times.</p>${form}`
  })
  .post(
    '/',
    async (context) => {
      const form = await readForm(context)
      if (!form.ok) return context.status(form.status, form.message)
      const s = await session<{ visits: number }>(context)
      s.delete('visits')
      return new Response(null, { status: 303, headers: { location: '/' } })
    },
    { parse: 'none' },
  )

serve({ fetch: app.fetch, port: Number(PORT), hostname: '127.0.0.1' }, ({ port }) => {
  console.log(`http://127.0.0.1:${port}/`)
})
