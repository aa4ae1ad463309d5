// A store that answers before a change is durable: no response confirms a change that the store may still undo.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, session, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { movingBackend } from 'keepsake/moving'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { PATIENT } from '../support/clock.ts'

/** A store whose changes are not durable while `isDurable` is false, and a visitor who is logged in. */
const application = async (wrap: (backend: Backend) => Backend = (backend) => backend) => {
  const store = { isDurable: true, calls: 0 }
  const memory = memoryBackend()
  const backend: Backend = {
    ...memory,
    async ensureDurable() {
      store.calls++
      if (!store.isDurable) throw new Error('too few replicas')
    },
  }
  const secret = newSecret()
  const handler = (duringRequest?: () => Promise<unknown>) =>
    sessionManager({ backend: wrap(backend), storeTimeout: PATIENT, secret })(async (request) => {
      const s = await session(request)
      await duringRequest?.()
      const { pathname } = new URL(request.url)
      if (pathname === '/login') s.login('anna')
      if (pathname === '/ben') s.login('ben')
      if (pathname === '/logout') s.invalidate()
      if (pathname === '/rotate') s.rotateKey()
      return new Response(s.owner)
    })
  const visit = browser(handler())
  await visit('/login')
  return { store, visit, handler }
}

suite('a store that answers before a change is durable', () => {
  test('an ordinary request does not wait for ensureDurable', async () => {
    const { store, visit } = await application()
    for (const path of ['/', '/login', '/logout', '/logout', '/login']) await visit(path)
    assert.equal(store.calls, 0)
  })

  for (const [name, wrap] of [
    ['one store', undefined],
    ['a move from another store', (backend: Backend) => movingBackend(memoryBackend(), backend)],
    [
      'a later move to another store',
      (backend: Backend) => movingBackend(backend, memoryBackend(), { startsAt: 8e12 }),
    ],
  ] as const) {
    test(`${name}: a rotated key is not sent until it is durable, and the previous key opens the session`, async () => {
      const { store, visit } = await application(wrap)
      store.isDurable = false
      for (const path of ['/rotate', '/']) assert.deepEqual((await visit(path)).headers.getSetCookie(), [])
      store.isDurable = true
      assert.equal((await visit('/')).headers.getSetCookie().length, 1)
      assert.equal(await (await visit('/')).text(), 'anna')
    })
  }

  for (const path of ['/logout', '/login']) {
    test(`a ${path.slice(1)} that finds its session gone fails until the end is durable`, async () => {
      const { store, visit } = await application()
      const late = visit.copy()
      await visit('/logout')
      store.isDurable = false
      assert.equal((await late.copy()(path)).status, 503)
      store.isDurable = true
      assert.equal((await late(path)).status, 200)
    })
  }

  test('a login whose session another request ended in the meantime fails until the end is durable', async () => {
    const { store, visit, handler } = await application()
    const other = visit.copy(handler())
    store.isDurable = false
    const slow = visit.copy(handler(() => other('/logout')))
    assert.equal((await slow('/ben')).status, 503)
    assert.equal(store.calls, 1)
  })
})
