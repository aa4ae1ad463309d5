// Moving to another store while visitors come: nobody is logged out, nothing is lost, and what ended does not come back.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { type Backend, type Session, session, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { type CopyProgress, copySessions, movingBackend } from 'keepsake/moving'
import { type Browser, backendCases, browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { stores } from '../support/stores.ts'

const secret = newSecret()

const MINUTE = 60_000
const base = Date.now()
/** A process on its way from one store to another, whose clock is ten minutes behind until it has begun to move. */
const processOn = (from: Backend, to: Backend, begun: () => boolean) =>
  movingBackend(from, to, { startsAt: base, now: () => Date.now() - (begun() ? 0 : 10 * MINUTE) })

for (const [what, ...begun] of [
  ['that have begun to move', true, true],
  ['that have not begun to move', false, false],
  ['of which the first has begun to move', true, false],
  ['of which the second has begun to move', false, true],
] as const) {
  suite(`two processes ${what} keep the contract`, () => {
    for (const one of backendCases) {
      test(one.name, async (t) => {
        const [from, to] = [memoryBackend(), memoryBackend()]
        const type = one.exempt(movingBackend(from, to))
        if (type) return t.diagnostic(`nothing to ask: ${type}`)
        let opened = 0
        await one.run(() => {
          const mine = begun[opened++ % 2] as boolean
          return processOn(from, to, () => mine)
        })
      })
    }
  })
}

/** A page that does what the path says. */
const page = (backend: Backend, now?: () => number) =>
  sessionManager({ backend, storeTimeout: PATIENT, secret, ...(now && { now }) })(async (request) => {
    const s: Session = await session(request)
    const { pathname } = new URL(request.url)
    if (pathname === '/login') s.login('anna')
    if (pathname === '/add') s.update('n', (n = 0) => n + 1)
    if (pathname === '/renew') s.rotateKey()
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
      const counted = ({ copied, skipped, cursor }: CopyProgress, expected: readonly number[]) => {
        assert.equal(cursor, undefined)
        // Redis may tell of a key twice.
        const twice = name.startsWith('redis') && direction === 'from'
        if (twice) assert.ok(copied >= (expected[0] as number) && skipped >= (expected[1] as number))
        else assert.deepEqual([copied, skipped], expected)
      }
      // Two had moved already, when they were asked for.
      counted(done, [28, 0])
      assert.deepEqual(heard.at(-1), done)
      counted(await copySessions(from, to), [0, 0])
      const after = page(to)
      for (const [i, visit] of visitors.entries()) {
        const expected =
          i === 1 ? { owner: null, n: 0 } : { owner: i % 2 === 0 ? 'anna' : null, n: i === 0 ? 2 : 1 + (i % 2) }
        assert.deepEqual(await told(visit.copy(after)('/')), expected, `visitor ${i}`)
      }
      const manager = sessionManager({ backend: to, storeTimeout: PATIENT, secret })
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
    assert.throws(() => movingBackend(cookie, memoryBackend()), { code: 'invalid_option' })
    await assert.rejects(copySessions(memoryBackend(), cookie), { code: 'invalid_option' })
    const { scan: _, ...mute } = memoryBackend()
    await assert.rejects(copySessions(mute, memoryBackend()), { code: 'invalid_option' })
  })

  test('until it starts nothing is moved because somebody asks for it', async () => {
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
    const manager = sessionManager({ backend, storeTimeout: PATIENT, secret })
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

  test('an owner’s sessions are all listed and ended, in whichever store each of them is', async () => {
    for (const mine of [true, false]) {
      const [from, to] = [memoryBackend(), memoryBackend()]
      const [early, late] = [processOn(from, to, () => true), processOn(from, to, () => mine)]
      const visits = [browser(page(from)), browser(page(from)), browser(page(early)), browser(page(late))]
      for (const visit of visits) await visit('/login')
      await told((visits[1] as Browser).copy(page(early))('/'))
      const manager = sessionManager({ backend: late, storeTimeout: PATIENT, secret })
      const labels = (await manager.list('anna')).map(({ label }) => label)
      assert.equal(new Set(labels).size, 4)
      assert.equal(labels.length, 4)
      assert.equal(await manager.revokeAll('anna', { except: labels[0] as string }), 3)
      assert.deepEqual(
        (await sessionManager({ backend: early, storeTimeout: PATIENT, secret }).list('anna')).map(
          ({ label }) => label,
        ),
        [labels[0]],
      )
    }
  })

  test('a store that does not keep what is moved there is told of, and the session stays where it is', async () => {
    const from = memoryBackend()
    const visit = browser(page(from))
    await visit('/login')
    const full: Backend = { ...memoryBackend(), generate: () => undefined }
    const moving = movingBackend(from, full)
    const key = (await from.scan?.(undefined, 1))?.entries[0]?.key as string
    await assert.rejects(async () => moving.get(key), { code: 'unavailable', message: /did not stay/ })
    assert.equal((await told(visit('/'))).owner, 'anna')
  })

  test('and back: a copy in the other direction finds what was left behind, and takes no notice of it', async () => {
    const [one, other] = [memoryBackend(), memoryBackend()]
    const visit = browser(page(one))
    await visit('/login')
    await visit('/add')
    for (const [from, to] of [
      [one, other],
      [other, one],
      [one, other],
      [other, one],
    ] as const) {
      assert.equal((await copySessions(from, to)).copied, 1)
      assert.equal((await copySessions(from, to)).copied, 0)
      assert.equal((await told(visit.copy(page(from))('/'))).owner, null)
      assert.equal((await told(visit.copy(page(to))('/'))).owner, 'anna')
      assert.equal((await told(visit.copy(page(movingBackend(from, to)))('/'))).owner, 'anna')
    }
    assert.equal((await told(visit('/add'))).n, 2)
  })
})

suite('two processes whose clocks are ten minutes apart', () => {
  /** What is done by the one whose clock is behind, and what is seen by everybody afterwards. */
  const acts: Record<string, { readonly owner: string | null; readonly n: number }> = {
    '/': { owner: 'anna', n: 1 },
    '/add': { owner: 'anna', n: 2 },
    '/renew': { owner: 'anna', n: 1 },
    '/logout': { owner: null, n: 0 },
    '/again': { owner: null, n: 0 },
    revokeAll: { owner: null, n: 0 },
  }
  const moves: Record<string, (from: Backend, to: Backend, visit: Browser, early: Backend) => Promise<unknown>> = {
    'a visit to the one that is ahead': (_from, _to, visit, early) => visit.copy(page(early))('/'),
    'a copy, before either starts': (from, to) => copySessions(from, to),
    nothing: async () => {},
  }
  for (const [moved, move] of Object.entries(moves)) {
    for (const [act, expected] of Object.entries(acts)) {
      test(`${moved} moves a session, and then ${act} comes to the one that is behind`, async () => {
        const [from, to] = [memoryBackend(), memoryBackend()]
        let begun = false
        const [early, late] = [processOn(from, to, () => true), processOn(from, to, () => begun)]
        const first = browser(page(late))
        await first('/login')
        await first('/add')
        await move(from, to, first, early)
        const answer =
          act === 'revokeAll'
            ? await sessionManager({ backend: late, storeTimeout: PATIENT, secret }).revokeAll('anna')
            : (await first.copy(page(late))(act)).status
        assert.equal(answer, act === 'revokeAll' ? 1 : 200)
        for (const backend of [early, late]) assert.deepEqual(await told(first.copy(page(backend))('/')), expected)
        begun = true
        await copySessions(from, to)
        for (const backend of [early, late, to]) {
          assert.deepEqual(await told(first.copy(page(backend))('/')), expected)
        }
      })
    }
  }
})

/** A store whose calls each wait for their turn, and say what they are. */
const through = (inner: Backend, turn: (what: string) => Promise<void>): Backend => ({
  ...inner,
  get: (key) => turn('get').then(() => inner.get(key)),
  generate: (key, entry) => turn('generate').then(() => inner.generate(key, entry)),
  set: (key, change, version) => turn('set').then(() => inner.set(key, change, version)),
  clear: (key, version, mark) => turn('clear').then(() => inner.clear(key, version, mark)),
  touch: (key, expiresAt) => turn('touch').then(() => inner.touch(key, expiresAt)),
  scan: (cursor, limit) => turn('scan').then(() => inner.scan?.(cursor, limit) ?? { entries: [], cursor: undefined }),
  byOwner: {
    list: (owner) => turn('list').then(() => inner.byOwner?.list(owner) ?? []),
    clear: (owner, except, mark) => turn('revoke').then(() => inner.byOwner?.clear(owner, except, mark) ?? 0),
  },
})

suite('a process that is killed while it moves a session', () => {
  /** Moves a session by a process that is killed after so many calls, and says whether it was done before. */
  const killed = async (from: Backend, to: Backend, after: number): Promise<boolean> => {
    let calls = 0
    const turn = () => {
      if (calls++ >= after) throw new Error('killed')
      return Promise.resolve()
    }
    const dying = [through(from, async () => turn()), through(to, async () => turn())] as const
    return copySessions(...dying).then(
      () => true,
      () => false,
    )
  }
  for (const then of ['/add', '/logout', 'copy'] as const) {
    for (const begun of [true, false]) {
      test(`${then} by another that has ${begun ? '' : 'not '}begun: nothing is lost, and nothing comes back`, async () => {
        for (let after = 0; ; after++) {
          const [from, to] = [memoryBackend(), memoryBackend()]
          const visit = browser(page(from))
          await visit('/login')
          await visit('/add')
          const done = await killed(from, to, after)
          const other = processOn(from, to, () => begun)
          const expected = then === '/logout' ? { owner: null, n: 0 } : { owner: 'anna', n: then === 'copy' ? 1 : 2 }
          if (then !== 'copy') {
            assert.equal(
              (await sessionManager({ backend: other, storeTimeout: PATIENT, secret }).list('anna')).length,
              1,
            )
            assert.equal((await visit.copy(page(other))(then)).status, 200)
            assert.deepEqual(await told(visit.copy(page(other))('/')), expected, `killed after ${after} calls`)
          }
          await copySessions(from, to)
          for (const backend of [to, processOn(from, to, () => false), processOn(from, to, () => true)]) {
            assert.deepEqual(await told(visit.copy(page(backend))('/')), expected, `killed after ${after} calls`)
          }
          if (done) {
            assert.ok(after > 5)
            return
          }
        }
      })
    }
  }
})

suite('what a killed process leaves behind', () => {
  const key = 'k'.repeat(43)
  const entry = { value: '1', metadata: 'metadata', version: 'version0', expiresAt: base + DAY, owner: 'anna' }
  /** Two stores between which a process was killed before this call of its. */
  const left = async (dies: (what: string, store: 'from' | 'to') => boolean) => {
    const [from, to] = [memoryBackend(), memoryBackend()]
    await from.generate(key, entry)
    const turn = (store: 'from' | 'to') => async (what: string) => {
      if (dies(what, store)) throw new Error('killed')
    }
    const process = movingBackend(through(from, turn('from')), through(to, turn('to')))
    await assert.rejects(async () => process.get(key), /killed/)
    return [from, to] as const
  }
  const copied = () => left((what, store) => store === 'from' && what === 'clear')
  const marked = () => left((what, store) => store === 'to' && what === 'set')

  test('a mark outlives a copy whose expiry was moved since', async () => {
    const [from, to] = await marked()
    await to.touch(key, base + 30 * DAY)
    await from.sweep?.(base + DAY, 10)
    const found = await movingBackend(from, to).get(key)
    assert.deepEqual(found, { ...entry, expiresAt: base + 30 * DAY })
  })
  test('a copy of what ended is in nobody’s way, on the way there or back', async () => {
    for (const begun of [true, false]) {
      const [from, to] = await copied()
      const process = processOn(from, to, () => begun)
      assert.equal(await process.clear(key), undefined)
      assert.deepEqual(await process.byOwner?.list('anna'), [])
      assert.equal(await process.generate(key, { ...entry, version: 'another0' }), undefined)
      assert.equal((await process.get(key))?.version, 'another0')
    }
    const [from, to] = await copied()
    const back = movingBackend(to, from)
    assert.equal((await back.byOwner?.list('anna'))?.length, 1)
    assert.equal(await back.clear(key), undefined)
    assert.equal(await back.get(key), undefined)
    assert.deepEqual(await back.byOwner?.list('anna'), [])
  })
  test('the mark of what ended is in nobody’s way, for whom has begun or not', async () => {
    for (const begun of [true, false]) {
      const [from, to] = await marked()
      const process = processOn(from, to, () => begun)
      assert.equal(await process.clear(key, entry.version), undefined)
      assert.equal(await process.get(key), undefined)
      assert.equal(await process.generate(key, { ...entry, version: 'another0' }), undefined)
      assert.equal((await process.get(key))?.version, 'another0')
      assert.equal(await process.generate(key, { ...entry, version: 'another0' }), undefined, 'a driver sent twice')
      assert.equal(await process.generate(key, { ...entry, version: 'another1' }), 'taken')
    }
  })
})

test('a sweep removes no more than it is asked to, from both stores together', async () => {
  const [from, to] = [memoryBackend(), memoryBackend()]
  for (const [i, store] of [from, from, to, to].entries()) {
    await store.generate(`${i}`.repeat(43), {
      value: '1',
      metadata: 'metadata',
      version: 'version0',
      expiresAt: base + DAY,
    })
  }
  const { sweep } = movingBackend(from, to)
  const swept = []
  for (let i = 0; i < 3; i++) swept.push(await sweep?.(base + DAY, 2))
  assert.deepEqual(swept, [2, 2, 0])
})

suite('in every order', () => {
  const acts = ['/add', '/renew', '/again', '/logout', '/'] as const

  test('visits of two processes that begin at different times, a copy, a revocation: no increment lost, nothing back, nobody out', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(fc.constantFrom(...acts), { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        fc.constantFrom('both have begun', 'one has begun', 'none has begun'),
        fc.option(fc.nat({ max: 8 }), { nil: undefined }),
        async (s, paths, revokes, beginning, dies) => {
          const [from, to] = [memoryBackend(), memoryBackend()]
          const turn = () => s.schedule(Promise.resolve())
          const begun = [beginning !== 'none has begun', beginning === 'both have begun']
          const on = (i: number) => processOn(through(from, turn), through(to, turn), () => begun[i % 2] as boolean)
          const first = browser(page(from))
          await first('/login')
          const before = first.copy()
          const handlers = [0, 1].map((i) => page(on(i)))
          const tabs = paths.map(async (path, i) => {
            const tab = first.copy(handlers[i % 2])
            return { path, status: (await tab(path)).status, tab }
          })
          let calls = 0
          const dying = () => {
            if (dies !== undefined && calls++ >= dies) throw new Error('killed')
            return turn()
          }
          const copying = copySessions(
            through(from, async () => dying()),
            through(to, async () => dying()),
          ).catch(() => {})
          const manager = sessionManager({ backend: on(1), storeTimeout: PATIENT, secret })
          const revoking = revokes ? manager.revokeAll('anna') : undefined
          const beginnings = begun.map(async (_, i) => {
            await turn()
            begun[i] = true
          })
          await s.waitFor(Promise.all([...tabs, copying, revoking, ...beginnings]))
          const visits = await Promise.all(tabs)
          const ended =
            revokes || visits.some(({ path, status }) => status === 200 && (path === '/logout' || path === '/again'))
          const judge = async (store: Backend) => {
            const seen = await told(before.copy(page(store))('/'))
            if (ended) assert.deepEqual(seen, { owner: null, n: 0 }, 'what ended stays ended')
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
          for (const mine of [false, true]) await judge(processOn(from, to, () => mine))
          await copySessions(from, to)
          for (const store of [to, processOn(from, to, () => false), processOn(from, to, () => true)])
            await judge(store)
        },
      ),
      { numRuns: runs(600) },
    )
  })

  /*
   * One entry under the calls of a backend: each version is followed by one other at most, what ended has no followers,
   * and the expiry is the latest that anybody asked for.
   */
  test('calls of two processes that begin at different times: one history, one end, the latest expiry', async () => {
    const call = fc.record({
      what: fc.constantFrom('set', 'set', 'touch', 'clear', 'clear the version', 'get'),
      by: fc.nat({ max: 1 }),
    })
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(call, { minLength: 1, maxLength: 5 }),
        fc.boolean(),
        fc.boolean(),
        async (s, calls, copies, marks) => {
          const [from, to] = [memoryBackend(), memoryBackend()]
          const turn = () => s.schedule(Promise.resolve())
          const begun = [true, false]
          const on = begun.map((_, i) => processOn(through(from, turn), through(to, turn), () => begun[i] as boolean))
          const [key, version] = ['k'.repeat(43), 'version0']
          const expiresAt = base + DAY
          await from.generate(key, { value: '0', metadata: 'metadata', version, expiresAt, owner: 'anna' })
          const followers: string[] = []
          const ends: string[] = []
          let latest = expiresAt
          const run = async ({ what, by }: { what: string; by: number }, i: number) => {
            const backend = on[by] as Backend
            const mark = marks ? { metadata: 'ended', expiresAt: base + DAY, version: `ended--${i}` } : undefined
            if (what === 'get') {
              const found = await backend.get(key)
              assert.ok(found === undefined || ['metadata', 'ended'].includes(found.metadata))
            }
            if (what === 'touch') {
              await backend.touch(key, expiresAt + i)
              latest = Math.max(latest, expiresAt + i)
            }
            const change = { value: `${i}`, metadata: 'metadata', version: `version${i + 1}` }
            if (what === 'set' && (await backend.set(key, change, version)) === undefined)
              followers.push(change.version)
            if (what === 'clear the version' && (await backend.clear(key, version, mark)) === undefined) {
              followers.push('end')
              ends.push(mark?.version ?? '')
            }
            if (what === 'clear') {
              assert.equal(await backend.clear(key, undefined, mark), undefined)
              ends.push(mark?.version ?? '')
            }
          }
          const copying = copies ? copySessions(through(from, turn), through(to, turn)) : undefined
          const beginning = turn().then(() => {
            begun[1] = true
          })
          await s.waitFor(Promise.all([...calls.map(run), copying, beginning]))
          await copySessions(from, to)
          assert.ok(followers.length <= 1, followers.join())
          const versioned = calls.filter(({ what }) => ['set', 'clear the version'].includes(what)).length
          if (versioned > 0 && ends.length === 0)
            assert.equal(followers.length, 1, 'whom nobody came before is not stale')
          for (const backend of [to, processOn(from, to, () => false), processOn(from, to, () => true)]) {
            const found = await backend.get(key)
            if (ends.length > 0) {
              assert.ok(marks ? ends.includes(found?.version ?? '') : found === undefined, 'what ended stays ended')
              assert.equal(found?.owner, undefined)
            } else {
              assert.equal(found?.version, followers[0] ?? version)
              assert.equal(found?.owner, 'anna')
              assert.equal(found?.metadata, 'metadata')
              assert.equal(found?.expiresAt, latest)
            }
            const listed = (await backend.byOwner?.list('anna'))?.length
            assert.equal(listed, ends.length > 0 ? 0 : 1)
          }
        },
      ),
      { numRuns: runs(1000) },
    )
  })

  test('a session that begins while its owner’s are ended: it counts as before that or as after it, for everybody', async () => {
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), fc.boolean(), fc.boolean(), async (s, marks, begins) => {
        const [from, to] = [memoryBackend(), memoryBackend()]
        const turn = () => s.schedule(Promise.resolve())
        const [early, late] = [true, false].map((begun) =>
          processOn(through(from, turn), through(to, turn), () => begun || begins),
        ) as [Backend, Backend]
        const [one, two] = ['a'.repeat(43), 'b'.repeat(43)]
        const entry = { value: '1', metadata: 'metadata', version: 'version0', expiresAt: base + DAY, owner: 'anna' }
        await from.generate(one, entry)
        const mark = marks ? { metadata: 'ended', expiresAt: base + DAY, version: 'ended---' } : undefined
        const beginning = (async () => {
          await late.generate(two, entry)
          await early.get(two)
        })()
        await s.waitFor(
          Promise.all([
            beginning,
            early.byOwner?.clear('anna', undefined, mark),
            copySessions(through(from, turn), to),
          ]),
        )
        const seen = async () =>
          Promise.all(
            [processOn(from, to, () => false), processOn(from, to, () => true)].map(async (backend) => {
              const [first, second] = [await backend.get(one), await backend.get(two)]
              assert.equal(first?.version, mark?.version)
              return [second?.metadata, (await backend.byOwner?.list('anna'))?.length]
            }),
          )
        const [behind, ahead] = await seen()
        assert.deepEqual(behind, ahead)
        assert.deepEqual(behind, behind?.[0] === 'metadata' ? ['metadata', 1] : [mark?.metadata, 0])
        await copySessions(from, to)
        assert.deepEqual(await seen(), [behind, behind])
        assert.equal((await to.get(two))?.metadata, behind?.[0])
      }),
      { numRuns: runs(1000) },
    )
  })
})
