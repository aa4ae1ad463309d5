// A store that answers before it is sure: what it could still undo is told to nobody as done.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, session, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { movingBackend } from 'keepsake/moving'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { PATIENT } from '../support/clock.ts'

/** A store that is sure of nothing while it is told so, and a visitor who is logged in. */
const house = async (made: (backend: Backend) => Backend = (backend) => backend) => {
  const store = { sure: true, asked: 0 }
  const memory = memoryBackend()
  const backend: Backend = {
    ...memory,
    async ensureDurable() {
      store.asked++
      if (!store.sure) throw new Error('too few replicas')
    },
  }
  const secret = newSecret()
  const handler = (meanwhile?: () => Promise<unknown>) =>
    sessionManager({ backend: made(backend), storeTimeout: PATIENT, secret })(async (request) => {
      const s = await session(request)
      await meanwhile?.()
      const { pathname } = new URL(request.url)
      if (pathname === '/login') s.login('anna')
      if (pathname === '/ben') s.login('ben')
      if (pathname === '/logout') s.invalidate()
      if (pathname === '/renew') s.rotateKey()
      return new Response(s.owner)
    })
  const visit = browser(handler())
  await visit('/login')
  return { store, visit, handler }
}

suite('a store that is not sure', () => {
  test('is asked by no visit but those that tell of a renewal, or end what is gone already', async () => {
    const { store, visit } = await house()
    for (const path of ['/', '/login', '/logout', '/logout', '/login']) await visit(path)
    assert.equal(store.asked, 0)
  })

  for (const [name, made] of [
    ['alone', undefined],
    ['on the way from another store', (backend: Backend) => movingBackend(memoryBackend(), backend)],
    [
      'on the way to another store, later',
      (backend: Backend) => movingBackend(backend, memoryBackend(), { startsAt: 8e12 }),
    ],
  ] as const) {
    test(`${name}: a renewal’s key stays here until it is, and the old one opens the session`, async () => {
      const { store, visit } = await house(made)
      store.sure = false
      for (const path of ['/renew', '/']) assert.deepEqual((await visit(path)).headers.getSetCookie(), [])
      store.sure = true
      assert.equal((await visit('/')).headers.getSetCookie().length, 1)
      assert.equal(await (await visit('/')).text(), 'anna')
    })
  }

  for (const path of ['/logout', '/login']) {
    test(`a ${path.slice(1)} that finds its session gone fails until it is`, async () => {
      const { store, visit } = await house()
      const late = visit.copy()
      await visit('/logout')
      store.sure = false
      assert.equal((await late.copy()(path)).status, 503)
      store.sure = true
      assert.equal((await late(path)).status, 200)
    })
  }

  test('so does a login whose session another ended while it was under way', async () => {
    const { store, visit, handler } = await house()
    const other = visit.copy(handler())
    store.sure = false
    const between = visit.copy(handler(() => other('/logout')))
    assert.equal((await between('/ben')).status, 503)
    assert.equal(store.asked, 1)
  })
})
