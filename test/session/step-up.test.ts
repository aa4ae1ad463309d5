// Step-up: `authenticatedAt` is the time of the last login, and only `login` moves it.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { DAY, PATIENT, SECOND } from '../support/clock.ts'
import { SECRET as secret } from '../support/requests.ts'
import { stores } from '../support/stores.ts'
import { setup } from '../support/visits.ts'

const MINUTE = 60 * SECOND

for (const { name, opener } of [...stores, { name: 'cookie', opener: () => async () => cookieBackend({ secret }) }]) {
  // The memory backend of `setup` has the clock of the test. With another clock it would remove entries too early.
  const start = async (t: TestContext, more: object = {}) =>
    setup(name === 'memory' ? more : { backend: await opener(t)(), secret, ...more })

  suite(`on ${name}, authenticatedAt`, () => {
    test('is undefined for an anonymous visitor, also after they have changed a field', async (t) => {
      const visit = (await start(t)).visitor()
      assert.equal(await visit((s) => s.authenticatedAt), undefined)
      await visit((s) => s.set('cart', 1))
      assert.equal(await visit((s) => s.authenticatedAt), undefined)
    })

    test('LIFE-15: stays the time of the login when the session is saved, rotated and extended', async (t) => {
      const h = await start(t)
      const visit = h.visitor()
      await visit((s) => s.set('cart', 1))
      h.now.tick(MINUTE)
      const loggedInAt = h.now()
      const inTheRequest = await visit((s) => {
        s.login('anna', { keep: ['cart'] })
        return s.authenticatedAt
      })
      assert.equal(inTheRequest, loggedInAt)
      for (const act of ['read', 'save', 'rotate', 'confirm the rotation'] as const) {
        h.now.tick(4 * DAY)
        const seen = await visit((s) => {
          if (act === 'save') s.set('cart', 2)
          if (act === 'rotate') s.rotateKey()
          return s.authenticatedAt
        })
        assert.equal(seen, loggedInAt, act)
      }
    })

    test('LIFE-15: moves at a login of the same owner, which keeps the fields', async (t) => {
      const h = await start(t)
      const visit = h.visitor()
      await visit((s) => {
        s.login('anna')
        s.set('draft', 'a')
      })
      h.now.tick(11 * MINUTE)
      const again = await visit((s) => {
        s.login('anna')
        return s.authenticatedAt
      })
      assert.equal(again, h.now())
      const loggedInAt = h.now()
      h.now.tick(MINUTE)
      assert.deepEqual(await visit((s) => [s.authenticatedAt, s.get('draft')]), [loggedInAt, 'a'])
    })

    test('is undefined after a logout, and the time of the login after an invalidate with a login', async (t) => {
      const h = await start(t)
      const visit = h.visitor()
      await visit((s) => s.login('anna'))
      h.now.tick(MINUTE)
      const afterInvalidate = await visit((s) => {
        s.invalidate()
        const ended = s.authenticatedAt
        s.login('anna')
        return [ended, s.authenticatedAt]
      })
      assert.deepEqual(afterInvalidate, [undefined, h.now()])
      const loggedInAt = h.now()
      h.now.tick(MINUTE)
      assert.equal(await visit((s) => s.authenticatedAt), loggedInAt)
      await visit((s) => s.invalidate())
      assert.equal(await visit((s) => s.authenticatedAt), undefined)
    })

    test('is undefined when the session has expired', async (t) => {
      const h = await start(t)
      const visit = h.visitor()
      await visit((s) => s.login('anna', { idleTimeout: 60 }))
      h.now.tick(2 * MINUTE)
      assert.equal(await visit((s) => s.authenticatedAt), undefined)
    })
  })
}

test('a login that reaches maxSessionsPerOwner leaves authenticatedAt of the other sessions unchanged', async () => {
  const h = await setup({ maxSessionsPerOwner: 2 })
  const visitors = [h.visitor(), h.visitor(), h.visitor()]
  const times: number[] = []
  for (const visit of visitors) {
    await visit((s) => s.login('anna'))
    times.push(h.now())
    h.now.tick(MINUTE)
  }
  const seen = await Promise.all(visitors.map((visit) => visit((s) => s.authenticatedAt)))
  assert.deepEqual(seen, [undefined, times[1], times[2]])
})

test('a login of the same owner moves authenticatedAt although another request saves a field at the same time', async () => {
  const h = await setup()
  const visit = h.visitor()
  await visit((s) => s.login('anna'))
  h.now.tick(MINUTE)
  const other = visit.withSameCookies()
  await Promise.all([visit((s) => s.login('anna')), other((s) => s.set('n', 1))])
  assert.equal(await visit((s) => s.authenticatedAt), h.now())
})

test('list returns authenticatedAt of each session', async () => {
  const h = await setup()
  const [one, other] = [h.visitor(), h.visitor()]
  await one((s) => s.login('anna'))
  h.now.tick(MINUTE)
  await other((s) => s.login('anna'))
  const first = h.now()
  h.now.tick(MINUTE)
  await one((s) => s.set('n', 1))
  await one((s) => s.login('anna'))
  const manager = sessionManager({ backend: h.backend, storeTimeout: PATIENT, now: h.now })
  const times = (await manager.list('anna')).map(({ authenticatedAt }) => authenticatedAt)
  assert.deepEqual(times, [h.now(), first])
})

test('if the session could not be read, authenticatedAt throws, or is undefined with onStoreError: anonymous', async () => {
  for (const [onStoreError, expected] of [
    ['fail', 503],
    ['anonymous', undefined],
  ] as const) {
    const h = await setup({ onStoreError })
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    h.fail('get', new Error('the store is down'))
    assert.equal(await visit((s) => s.authenticatedAt), expected)
  }
})
