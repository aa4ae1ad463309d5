// A counter and a form in h3: `node examples/frameworks/h3.ts`.

import { H3, html, raw, redirect, serve } from 'h3'
import { csrfTag, readForm, session, sessionManager } from 'keepsake'
import { forH3 } from 'keepsake/h3'

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

const app = new H3()
app.use(forH3(sessionManager({ backend: SESSIONS })))

app.get('/', async (event) => {
  const s = await session<{ visits: number }>(event)
  s.update('visits', (visits = 0) => visits + 1)
  const tag = raw(await csrfTag(event))
  return html`<p>You were here ${s.get('visits')} times.</p>
    <form method="post">${tag}<button>Begin again</button></form>`
})

app.post('/', async (event) => {
  const form = await readForm(event)
  if (!form.ok) return new Response(form.message, { status: form.status })
  const s = await session<{ visits: number }>(event)
  s.delete('visits')
  return redirect('/', 303)
})

const server = serve(app, { port: Number(PORT), hostname: '127.0.0.1', silent: true })
await server.ready()
console.log(server.url)
