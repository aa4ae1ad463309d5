// The application as a route of Next. The build loads this module too, and creates the manager then.

import { csrfToken, readForm, session, sessionManager } from 'keepsake'

const withSessions = sessionManager({ backend: process.env.SESSIONS ?? 'memory:' })

const startError = async (backend) => {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  const manager = sessionManager({ backend, secret })
  return manager.ready().then(
    () => 'ready',
    ({ code, message }) => `${code}: ${message}`,
  )
}

export const GET = withSessions(async (request) => {
  const s = await session(request)
  s.update('n', (n = 0) => n + 1)
  const urls = ['postgres://127.0.0.1/x', 'mysql://127.0.0.1/x', 'redis://127.0.0.1']
  const token = await csrfToken(request)
  return Response.json({ n: s.get('n'), token, missing: await Promise.all(urls.map(startError)) })
})

export const POST = withSessions(async (request) => {
  const form = await readForm(request)
  return form.ok ? new Response(form.files[0][1]) : Response.json(form, { status: form.status })
})
