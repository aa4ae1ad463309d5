// Builds the application for production, and tries it and the cases of adapters over sockets, on Express and on Fastify.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { adapterCases, browser } from 'keepsake/testing'
import { after, call, check, checks, freePort, startServer } from '../checks.ts'

const folder = import.meta.dirname

/** Starts the application, and returns a function that makes a visitor. */
const start = async (platform: string, load: boolean) => {
  const port = await freePort()
  const store = mkdtempSync(join(tmpdir(), 'keepsake-nest-'))
  after(() => rmSync(store, { recursive: true, force: true }))
  const env = {
    PORT: String(port),
    PLATFORM: platform,
    LOAD: load ? '1' : '0',
    SESSIONS: `sqlite:${join(store, 'sessions.db')}`,
  }
  await startServer(folder, 'Listening on', env, process.execPath, 'dist/main.js')
  return () => browser((request) => fetch(request, { redirect: 'manual' }), { origin: `http://127.0.0.1:${port}` })
}

const visitLoaded = async (platform: string) => {
  const visitor = await start(platform, true)
  await check(`${platform}: with load: true, @Session() of Nest injects the session`, async () => {
    const visit = visitor()
    await visit('/cart', { method: 'POST' })
    assert.deepEqual(await (await visit('/cart', { method: 'POST' })).json(), ['tea', 'tea'])
  })
}

const visitApplication = async (platform: string) => {
  const visitor = await start(platform, false)
  const login = async () => {
    const visit = visitor()
    const [, token = ''] = /value="([^"]+)"/.exec(await (await visit('/login')).text()) ?? []
    const response = await visit('/login', {
      method: 'POST',
      body: new URLSearchParams({ _csrf: token, name: 'anna' }),
    })
    assert.equal(response.status, 303, await response.text())
    return visit
  }
  const cartOf = async (visit: ReturnType<typeof visitor>) => (await visit('/')).json()

  await check(`${platform}: a login with a form, and its flash message on one page`, async () => {
    const visit = await login()
    assert.deepEqual(await cartOf(visit), { owner: 'anna', cart: [], flash: ['Welcome.'] })
    assert.deepEqual(await cartOf(visit), { owner: 'anna', cart: [], flash: [] })
  })
  await check(`${platform}: a form without its token is refused by an HttpException`, async () => {
    const response = await visitor()('/login', { method: 'POST', body: new URLSearchParams({ name: 'anna' }) })
    assert.equal(response.status, 403)
    assert.equal(((await response.json()) as { statusCode: number }).statusCode, 403)
  })
  await check(`${platform}: two tabs that add at once keep all items`, async () => {
    const visit = await login()
    await cartOf(visit)
    await Promise.all(Array.from({ length: 10 }, (_, i) => visit(`/cart/${i}`, { method: 'POST' })))
    const { cart } = (await cartOf(visit)) as { cart: string[] }
    assert.deepEqual(cart.sort(), [...'0123456789'])
  })
  await check(`${platform}: a guard reads the session`, async () => {
    assert.equal((await visitor()('/account')).status, 401)
    assert.deepEqual(await (await (await login())('/account')).json(), { owner: 'anna' })
  })
  await check(`${platform}: a method without the session has no cookie and no Vary: Cookie`, async () => {
    const { headers } = await visitor()('/about')
    assert.deepEqual(headers.getSetCookie(), [])
    assert.doesNotMatch(headers.get('vary') ?? '', /cookie/i)
  })
  await check(`${platform}: a controller that throws saves nothing`, async () => {
    const visit = await login()
    await cartOf(visit)
    assert.equal((await visit('/fail', { method: 'POST' })).status, 500)
    assert.deepEqual(await cartOf(visit), { owner: 'anna', cart: [], flash: [] })
  })
  await check(`${platform}: a session that ends during a request is an HttpException with the status 409`, async () => {
    const visit = await login()
    const response = await visit('/race', { method: 'POST' })
    assert.equal(response.status, 409)
    const { statusCode, message } = (await response.json()) as { statusCode: number; message: string }
    assert.deepEqual([statusCode, message.slice(0, 18)], [409, 'Your session ended'])
  })
  await check(`${platform}: after a logout nothing comes back, also with the old cookies`, async () => {
    const visit = await login()
    const other = visit.copy()
    assert.equal((await visit('/logout', { method: 'POST' })).status, 303)
    for (const one of [visit, other]) {
      const { owner } = (await cartOf(one)) as { owner: string | null }
      assert.equal(owner, null)
    }
  })
}

const answerCases = async () => {
  const { servers } = await import(join(folder, 'dist/cases.js'))
  for (const [server, serve] of Object.entries(servers)) {
    console.log(`# the cases of adapters: ${server}`)
    for (const { name, run } of adapterCases) await check(name, () => run(serve as never))
  }
}

await checks(async () => {
  await check('the application builds in strict mode', () => call(folder, 'npm', 'run', 'build'))
  for (const platform of ['express', 'fastify']) {
    await visitApplication(platform)
    await visitLoaded(platform)
  }
  await answerCases()
})
