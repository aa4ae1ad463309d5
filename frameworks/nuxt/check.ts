// Builds the application for production, and tries it over sockets.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { adapterCases, browser } from 'keepsake/testing'
import { after, call, check, checks, freePort, startServer } from '../checks.ts'

const folder = import.meta.dirname

const textOf = (html: string, id: string) => new RegExp(`id="${id}"[^>]*>(.*?)</p>`, 's').exec(html)?.[1]
const tokenOf = (html: string) => /name="_csrf" value="([^"]+)"/.exec(html)?.[1] ?? ''
const messageOf = async (response: Response) => ((await response.json()) as { message: string }).message

const visitApplication = async (url: string) => {
  const visitor = () => browser((request) => fetch(request, { redirect: 'manual' }), { origin: url })
  type Visitor = ReturnType<typeof visitor>
  const post = (visit: Visitor, path: string, fields: Record<string, string>) =>
    visit(path, { method: 'POST', body: new URLSearchParams(fields) })
  const login = async () => {
    const visit = visitor()
    const token = tokenOf(await (await visit('/login')).text())
    const response = await post(visit, '/api/login', { _csrf: token, name: 'anna' })
    assert.equal(response.status, 303, await response.text())
    return visit
  }

  await check('the token of a page that it fetched from a route while it was rendered is accepted', login)
  await check('a form without its token is refused', async () => {
    assert.equal((await post(visitor(), '/api/login', { name: 'anna' })).status, 403)
  })
  await check('a page reads event.context.session, and its route has the same session', async () => {
    const visit = await login()
    const html = await (await visit('/')).text()
    assert.equal(textOf(html, 'visitor'), 'anna')
    assert.equal(textOf(html, 'flash'), 'Welcome.')
    assert.equal(textOf(await (await visit('/')).text(), 'flash'), '')
  })
  await check('a page that renders a route sends one cookie', async () => {
    assert.equal((await visitor()('/login')).headers.getSetCookie().length, 1)
  })
  await check('two tabs that add at once keep both items', async () => {
    const visit = await login()
    const token = tokenOf(await (await visit('/')).text())
    await Promise.all(Array.from({ length: 10 }, (_, i) => post(visit, '/api/cart', { _csrf: token, item: `${i}` })))
    const { cart } = (await (await visit('/api/cart')).json()) as { cart: string[] }
    assert.deepEqual(cart.sort(), [...'0123456789'])
  })
  await check('after a logout nothing comes back, also with the old cookies', async () => {
    const visit = await login()
    const other = visit.copy()
    const token = tokenOf(await (await visit('/')).text())
    const response = await post(visit, '/api/logout', { _csrf: token })
    assert.equal(response.status, 303)
    for (const one of [visit, other]) assert.equal(textOf(await (await one('/')).text(), 'visitor'), 'anonymous')
  })
  await check(
    'a session that ends during a request: 409 for scripts, with a text, and nothing of the response',
    async () => {
      const visit = await login()
      const response = await visit('/api/race', { headers: { accept: 'application/json' } })
      assert.equal(response.status, 409)
      assert.equal(response.headers.get('cache-control'), 'no-store')
      assert.match(await messageOf(response), /session/i)
    },
  )
  await check('the same for a browser: the error page of Nuxt', async () => {
    const visit = await login()
    const response = await visit('/api/race', { headers: { accept: 'text/html' } })
    assert.equal(response.status, 409)
    const html = await response.text()
    assert.match(html, /409/)
    assert.match(html, /__nuxt/)
  })
  await check('a page that throws saves nothing', async () => {
    const visit = await login()
    assert.equal((await visit('/fail', { headers: { accept: 'text/html' } })).status, 418)
    const { cart } = (await (await visit('/api/cart')).json()) as { cart: string[] }
    assert.deepEqual(cart, [])
  })
}

const answerCases = async () => {
  process.env.CASES = '1'
  await check('the application of the cases builds', () => call(folder, 'npm', 'run', 'build'))
  const { serve } = await import(join(folder, 'cases.ts'))
  console.log('# the cases of adapters')
  for (const { name, run } of adapterCases) await check(name, () => run(serve))
}

await checks(async () => {
  await check('the application builds', () => call(folder, 'npm', 'run', 'build'))
  const port = await freePort()
  const store = mkdtempSync(join(tmpdir(), 'keepsake-nuxt-'))
  after(() => rmSync(store, { recursive: true, force: true }))
  const env = { PORT: String(port), HOST: '127.0.0.1', SESSIONS: `sqlite:${join(store, 'sessions.db')}` }
  await startServer(folder, 'Listening', env, process.execPath, '.output/server/index.mjs')
  await visitApplication(`http://127.0.0.1:${port}`)
  await answerCases()
})
