// An application with SQLite. It prints `works` if sessions, an upload, the adapters and the errors of missing drivers work.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { csrfToken, readForm, session, sessionManager } from 'keepsake'
import { forExpress } from 'keepsake/express'
import { forNode } from 'keepsake/node'
import { serve } from 'keepsake/serve'

const handler = async (request) => {
  const s = await session(request)
  if (request.method === 'POST') {
    const form = await readForm(request)
    assert.ok(form.ok, JSON.stringify(form))
    return new Response(form.files[0][1])
  }
  s.update('n', (n = 0) => n + 1)
  return Response.json({ n: s.get('n'), token: await csrfToken(request) })
}

const checkSessions = async (url) => {
  const first = await fetch(url)
  const { token } = await first.json()
  const cookie = first.headers
    .getSetCookie()
    .map((line) => line.split(';')[0])
    .join('; ')
  const second = await (await fetch(url, { headers: { cookie } })).json()
  assert.equal(second.n, 2)
  const body = new FormData()
  body.append('_csrf', token)
  body.append('file', new File(['leaves'], 'tea.txt'))
  assert.equal(await (await fetch(url, { method: 'POST', headers: { cookie }, body })).text(), 'leaves')
}

/** The same application on a server of node:http. */
const checkAdapter = async (adapter) => {
  const withSessions = adapter(sessionManager({ backend: 'sqlite::memory:' }))
  const server = createServer((request, response) => {
    withSessions(request, response, async () => {
      const answer = await handler(request)
      response.end(await answer.text())
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  await checkSessions(`http://127.0.0.1:${server.address().port}`)
  server.close()
  server.closeAllConnections()
}

const checkMissingDrivers = async () => {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  const drivers = { 'postgres://127.0.0.1/x': 'pg', 'mysql://127.0.0.1/x': 'mysql2', 'redis://127.0.0.1': 'ioredis' }
  for (const [backend, driver] of Object.entries(drivers)) {
    const error = await sessionManager({ backend, secret })
      .ready()
      .then(
        () => assert.fail(`${driver} is installed`),
        (error) => error,
      )
    assert.equal(error.code, 'unknown_backend', `${driver}: ${error.message}`)
    assert.match(error.message, new RegExp(`npm install ${driver}$`))
  }
}

const main = async () => {
  const server = await serve(sessionManager({ backend: 'sqlite::memory:' })(handler), { port: 0 })
  await checkSessions(server.url)
  await server.close()
  for (const adapter of [forNode, forExpress]) await checkAdapter(adapter)
  await checkMissingDrivers()
  console.log('works')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
