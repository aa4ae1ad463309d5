// “Remember me”: a login chooses how long its session lives, and whether its cookie outlives the browser.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { KeepsakeError, type Session } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { DAY, PATIENT, SECOND } from '../support/clock.ts'
import { stores } from '../support/stores.ts'
import { setup } from '../support/visits.ts'

const HOUR = 3_600
const brief = { idleTimeout: 4 * HOUR, absoluteTimeout: 8 * HOUR, persistent: false }
const cookie = (response: Response) => response.headers.get('set-cookie') ?? ''
const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'
const login = (options: Parameters<Session['login']>[1]) => (s: Session) => s.login('anna', options)

for (const { name, opener } of [
  ...stores.filter(({ far }) => !far),
  { name: 'cookie', opener: () => async () => cookieBackend({ secret }) },
]) {
  /** `setup` makes the memory backend itself, with its own clock. By the real clock, entries would expire too early. */
  const settings = async (t: TestContext) => (name === 'memory' ? {} : { backend: await opener(t)(), secret })
  suite(`on ${name}`, () => {
    test('a session lives as long as its login chose, also with a new key', async (t) => {
      const h = await setup(await settings(t))
      const visit = h.visitor()
      const response = await visit.raw(login(brief))
      assert.doesNotMatch(cookie(response), /Max-Age|Expires/)
      assert.equal(await visit((s) => s.expiresAt - h.now()), 4 * HOUR * SECOND)
      h.now.tick(3 * HOUR * SECOND)
      const rotation = await visit.raw((s) => s.rotateKey())
      assert.doesNotMatch(cookie(rotation), /Max-Age|Expires/)
      h.now.tick(3 * HOUR * SECOND)
      assert.equal(await visit((s) => s.owner), 'anna', 'six hours old, and never four hours unused')
      h.now.tick(3 * HOUR * SECOND)
      assert.equal(await visit((s) => s.owner), undefined, 'nine hours old, and the limit is eight')
    })
    test('an unused session ends after its own idle timeout', async (t) => {
      const h = await setup(await settings(t))
      const visit = h.visitor()
      await visit(login(brief))
      h.now.tick(5 * HOUR * SECOND)
      assert.equal(await visit((s) => s.owner), undefined)
    })
    test('a later login without timeouts uses those of the manager', async (t) => {
      const h = await setup(await settings(t))
      const visit = h.visitor()
      await visit(login({ idleTimeout: 30 * 24 * HOUR }))
      assert.match(cookie(await visit.raw(login({}))), /Max-Age=2592000/)
      h.now.tick(15 * DAY)
      assert.equal(await visit((s) => s.owner), undefined)
    })
  })
}

test('persistent: false of the manager gives a cookie without Max-Age, and a login may choose otherwise', async () => {
  const h = await setup({ persistent: false })
  const visit = h.visitor()
  assert.doesNotMatch(cookie(await visit.raw((s) => s.set('a', 1))), /Max-Age/)
  assert.match(cookie(await visit.raw(login({ persistent: true }))), /Max-Age=2592000/)
})

test('the list of an owner shows when each session ends', async () => {
  const { sessionManager } = await import('keepsake')
  const h = await setup()
  await h.visitor()(login(brief))
  const manager = sessionManager({ backend: h.backend, storeTimeout: PATIENT, now: h.now })
  const [one] = await manager.list('anna')
  assert.equal(one?.expiresAt, h.now() + 4 * HOUR * SECOND)
})

test('a login cannot choose more than the manager allows, nor a value of another type', async () => {
  const h = await setup({ absoluteTimeout: 20 * 24 * HOUR })
  const wrong = [
    { idleTimeout: 21 * 24 * HOUR },
    { absoluteTimeout: 21 * 24 * HOUR },
    { idleTimeout: 2 * HOUR, absoluteTimeout: HOUR },
    { idleTimeout: 0 },
    { idleTimeout: '1' },
    { persistent: 1 },
  ]
  await h.visitor()((s) => {
    for (const options of wrong) {
      assert.throws(
        () => s.login('anna', options as never),
        (error) => error instanceof KeepsakeError && error.code === 'invalid_option',
      )
    }
  })
})
