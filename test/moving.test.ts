// Moving to another store while visitors come: nobody is logged out, nothing is lost, and what ended does not come back.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { type Backend, type CopyProgress, copySessions, movingBackend, type Session, session, sessions } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { backendCases, browser } from 'keepsake/testing'
import { newSecret } from '../src/seal.ts'
import { clock, DAY } from './support/clock.ts'
import { stores } from './support/stores.ts'

const secret = newSecret()

suite('a backend on its way keeps the contract', () => {
  for (const one of backendCases) {
    test(one.name, async (t) => {
      const [from, to] = [memoryBackend(), memoryBackend()]
      const reason = one.exempt(movingBackend(from, to))
      if (reason) return t.diagnostic(`nothing to ask: ${reason}`)
      // Two processes on the same two stores.
      await one.run(() => movingBackend(from, to))
    })
  }
})

/** A page that does what the path says. */
const page = (backend: Backend, now?: () => number) =>
  sessions({ backend, secret, ...(now && { now }) })(async (request) => {
    const s: Session = await session(request)
    const { pathname } = new URL(request.url)
    if (pathname === '/login') s.login('anna')
    if (pathname === '/add') s.update('n', (n = 0) => n + 1)
    if (pathname === '/renew') s.renew()
    if (pathname === '/again') s.login('anna')
    if (pathname === '/logout') s.invalidate()
    return Response.json({ owner: s.owner ?? null, n: s.get('n') ?? 0 })
  })
const told = async (response: Promise<Response>) => {
  const answer = await response
  return answer.ok ? answer.json() : answer.status
}

for (const { name, opener } of stores) {
  for (const direction of ['from', 'to'] as const) {
    test(`sessions move ${direction} ${name} with all they have, and nobody is logged out`, async (t) => {
      const here = await opener(t)()
      const other = memoryBackend()
      const [from, to] = direction === 'from' ? [here, other] : [other, here]
      const before = page(from)
      const visitors = Array.from({ length: 30 }, () => browser(before))
      for (const [i, visit] of visitors.entries()) {
        await visit(i % 2 === 0 ? '/login' : '/add')
        if (i % 3 === 0) await visit('/renew')
        await visit('/add')
      }
      const during = page(movingBackend(from, to))
      await told(visitors[0]?.copy(during)('/add') as Promise<Response>)
      await told(visitors[1]?.copy(during)('/logout') as Promise<Response>)
      const heard: CopyProgress[] = []
      const done = await copySessions(from, to, { batch: 7, onProgress: (progress) => heard.push(progress) })
      const counted = ({ copied, skipped, cursor }: CopyProgress) => {
        assert.equal(cursor, undefined)
        // Redis may tell of a key twice, and keeps to no size of a batch.
        if (name.startsWith('redis') && direction === 'from') assert.ok(copied >= 28 && skipped >= 1)
        else assert.deepEqual([copied, skipped], [28, 1])
      }
      counted(done)
      assert.deepEqual(heard.at(-1), done)
      const again = await copySessions(from, to)
      counted(again)
      const after = page(to)
      for (const [i, visit] of visitors.entries()) {
        const expected =
          i === 1 ? { owner: null, n: 0 } : { owner: i % 2 === 0 ? 'anna' : null, n: i === 0 ? 2 : 1 + (i % 2) }
        assert.deepEqual(await told(visit.copy(after)('/')), expected, `visitor ${i}`)
      }
      const manager = sessions({ backend: to, secret })
      assert.equal((await manager.list('anna')).length, 15)
    })
  }
}

suite('while it moves', () => {
  test('what expired is not copied, and a copy can go on where it was interrupted', async () => {
    const now = clock()
    const [from, to] = [memoryBackend({ now }), memoryBackend({ now })]
    const before = page(from, now)
    await browser(before, { now })('/add')
    now.tick(13 * DAY)
    for (let i = 0; i < 20; i++) await browser(before, { now })('/add')
    now.tick(2 * DAY)
    const controller = { stop: '' }
    const stopping = (progress: CopyProgress) => {
      controller.stop = progress.cursor ?? ''
      throw new Error('interrupted')
    }
    await assert.rejects(copySessions(from, to, { batch: 8, onProgress: stopping, now }), /interrupted/)
    const rest = await copySessions(from, to, { batch: 8, cursor: controller.stop, now })
    assert.deepEqual([rest.copied, rest.skipped], [13, 0])
  })

  test('a stateless backend, or one that cannot tell what it keeps, is refused', async () => {
    const cookie = cookieBackend({ secret })
    assert.throws(() => movingBackend(cookie, memoryBackend()), { code: 'bad_option' })
    await assert.rejects(copySessions(memoryBackend(), cookie), { code: 'bad_option' })
    const { scan: _, ...mute } = memoryBackend()
    await assert.rejects(copySessions(mute, memoryBackend()), { code: 'bad_option' })
  })

  test('until it starts the old store alone is used', async () => {
    const now = clock()
    const [from, to] = [memoryBackend({ now }), memoryBackend({ now })]
    const moving = movingBackend(from, to, { startsAt: now() + DAY, now })
    const visit = browser(page(moving, now), { now })
    await visit('/login')
    await visit('/add')
    assert.equal(to.scan && (await to.scan(undefined, 9)).entries.length, 0)
    assert.equal(
      (await told(visit.copy(page(from, now))('/add'))).n,
      2,
      'a process that does not know of it yet works beside',
    )
    now.tick(DAY)
    assert.equal((await told(visit('/add'))).n, 3)
    assert.equal(to.scan && (await to.scan(undefined, 9)).entries.length, 1)
  })

  test('an owner’s sessions are listed once, and revoked in both stores', async () => {
    const [from, to] = [memoryBackend(), memoryBackend()]
    const [one, two] = [browser(page(from)), browser(page(from))]
    await one('/login')
    await two('/login')
    const backend = movingBackend(from, to)
    const manager = sessions({ backend, secret })
    const during = page(backend)
    await told(one.copy(during)('/'))
    await browser(during)('/login')
    assert.equal((await manager.list('anna')).length, 3)
    assert.equal(await manager.revokeAll('anna'), 3)
    assert.deepEqual(await manager.list('anna'), [])
    await copySessions(from, to)
    for (const visit of [one, two]) {
      assert.equal((await told(visit.copy(during)('/'))).owner, null)
      assert.equal((await told(visit.copy(page(to))('/'))).owner, null)
      assert.equal((await told(visit.copy(page(from))('/'))).owner, null)
    }
  })

  const acts = ['/add', '/renew', '/again', '/logout', '/'] as const

  test('visits of two processes, a copy and a revocation, in every order: no increment lost, nothing back, nobody out', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(fc.constantFrom(...acts), { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        async (s, paths, revokes) => {
          const [from, to] = [memoryBackend(), memoryBackend()]
          const slow = (inner: Backend): Backend => {
            const through = () => s.schedule(Promise.resolve())
            return {
              ...inner,
              get: (key) => through().then(() => inner.get(key)),
              generate: (key, entry) => through().then(() => inner.generate(key, entry)),
              set: (key, change, version) => through().then(() => inner.set(key, change, version)),
              clear: (key, version) => through().then(() => inner.clear(key, version)),
              scan: (cursor, limit) =>
                through().then(() => inner.scan?.(cursor, limit) ?? { entries: [], cursor: undefined }),
              owned: {
                list: (owner) => through().then(() => inner.owned?.list(owner) ?? []),
                clear: (owner, except) => through().then(() => inner.owned?.clear(owner, except) ?? 0),
              },
            }
          }
          const first = browser(page(from))
          await first('/login')
          const before = first.copy()
          const handlers = [0, 1].map(() => page(movingBackend(slow(from), slow(to))))
          const tabs = paths.map(async (path, i) => {
            const tab = first.copy(handlers[i % 2])
            return { path, status: (await tab(path)).status, tab }
          })
          const copying = copySessions(slow(from), slow(to))
          const manager = sessions({ backend: movingBackend(slow(from), slow(to)), secret })
          const revoking = revokes ? manager.revokeAll('anna') : undefined
          await s.waitFor(Promise.all([...tabs, copying, revoking]))
          const visits = await Promise.all(tabs)
          const ended =
            revokes || visits.some(({ path, status }) => status === 200 && (path === '/logout' || path === '/again'))
          await copySessions(from, to)
          for (const store of [movingBackend(from, to), to]) {
            const seen = await told(before.copy(page(store))('/'))
            if (ended)
              assert.deepEqual(seen, { owner: null, n: 0 }, 'what ended stays ended, also when it is copied again')
            else {
              const added = visits.filter(({ path, status }) => path === '/add' && status === 200).length
              assert.deepEqual(seen, { owner: 'anna', n: added }, 'nobody is logged out, and every increment counts')
            }
            for (const { path, status, tab } of visits) {
              const owner = (await told(tab.copy(page(store))('/'))).owner
              if (revokes && path !== '/again') assert.equal(owner, null)
              if (!ended && status === 200) assert.equal(owner, 'anna')
            }
          }
        },
      ),
      { numRuns: 400 },
    )
  })
})
