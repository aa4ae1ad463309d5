// Moving to another store during traffic: no visitor is logged out, no change is lost, and no ended session comes back.

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
/** The backend of one process. Its clock is ten minutes behind, before `startsAt`, until `hasStarted` returns true. */
const processOn = (from: Backend, to: Backend, hasStarted: () => boolean) =>
  movingBackend(from, to, { startsAt: base, now: () => Date.now() - (hasStarted() ? 0 : 10 * MINUTE) })

for (const [which, ...hasStarted] of [
  ['that move sessions', true, true],
  ['that move none yet', false, false],
  ['of which the first moves sessions', true, false],
  ['of which the second moves sessions', false, true],
] as const) {
  suite(`two processes ${which} keep the contract`, () => {
    for (const one of backendCases) {
      test(one.name, async (t) => {
        const [from, to] = [memoryBackend(), memoryBackend()]
        const reason = one.exempt(movingBackend(from, to))
        if (reason) return t.diagnostic(`skipped: ${reason}`)
        let opened = 0
        await one.run(() => {
          const isMoving = hasStarted[opened++ % 2] as boolean
          return processOn(from, to, () => isMoving)
        })
      })
    }
  })
}

/** A page with an action for each path. */
const page = (backend: Backend, now?: () => number) =>
  sessionManager({ backend, storeTimeout: PATIENT, secret, ...(now && { now }) })(async (request) => {
    const s: Session = await session(request)
    const { pathname } = new URL(request.url)
    if (pathname === '/login') s.login('anna')
    if (pathname === '/add') s.update('n', (n = 0) => n + 1)
    if (pathname === '/rotate') s.rotateKey()
    if (pathname === '/again') s.login('anna')
    if (pathname === '/logout') s.invalidate()
    return Response.json({ owner: s.owner ?? null, n: s.get('n') ?? 0 })
  })
/** The JSON of a response, or the status of an error. */
const answerOf = async (response: Promise<Response>) => {
  const answer = await response
  return answer.ok ? answer.json() : answer.status
}

for (const { name, opener } of stores) {
  for (const direction of ['from', 'to'] as const) {
    test(`sessions move ${direction} ${name} completely, and no visitor is logged out`, async (t) => {
      const store = await opener(t)()
      const other = memoryBackend()
      const [from, to] = direction === 'from' ? [store, other] : [other, store]
      const before = page(from)
      const visitors = Array.from({ length: 30 }, () => browser(before))
      for (const [i, visit] of visitors.entries()) {
        await visit(i % 2 === 0 ? '/login' : '/add')
        if (i % 3 === 0) await visit('/rotate')
        await visit('/add')
      }
      const during = page(movingBackend(from, to))
      await answerOf(visitors[0]?.copy(during)('/add') as Promise<Response>)
      await answerOf(visitors[1]?.copy(during)('/logout') as Promise<Response>)
      const reports: CopyProgress[] = []
      const result = await copySessions(from, to, { batch: 7, onProgress: (progress) => reports.push(progress) })
      const assertCounts = ({ copied, skipped, cursor }: CopyProgress, expected: readonly number[]) => {
        assert.equal(cursor, undefined)
        // A scan of Redis may return a key twice.
        const mayRepeat = name.startsWith('redis') && direction === 'from'
        if (mayRepeat) assert.ok(copied >= (expected[0] as number) && skipped >= (expected[1] as number))
        else assert.deepEqual([copied, skipped], expected)
      }
      // Two had moved already, on their requests.
      assertCounts(result, [28, 0])
      assert.deepEqual(reports.at(-1), result)
      assertCounts(await copySessions(from, to), [0, 0])
      const after = page(to)
      for (const [i, visit] of visitors.entries()) {
        const expected =
          i === 1 ? { owner: null, n: 0 } : { owner: i % 2 === 0 ? 'anna' : null, n: i === 0 ? 2 : 1 + (i % 2) }
        assert.deepEqual(await answerOf(visit.copy(after)('/')), expected, `visitor ${i}`)
      }
      const manager = sessionManager({ backend: to, storeTimeout: PATIENT, secret })
      assert.equal((await manager.list('anna')).length, 15)
    })
  }
}

suite('during a move', () => {
  test('expired sessions are not copied, and an interrupted copy can continue at its cursor', async () => {
    const now = clock()
    const [from, to] = [memoryBackend({ now }), memoryBackend({ now })]
    const before = page(from, now)
    await browser(before, { now })('/add')
    now.tick(13 * DAY)
    for (let i = 0; i < 20; i++) await browser(before, { now })('/add')
    now.tick(2 * DAY)
    let cursor = ''
    const interrupt = (progress: CopyProgress) => {
      cursor = progress.cursor ?? ''
      throw new Error('interrupted')
    }
    await assert.rejects(copySessions(from, to, { batch: 8, onProgress: interrupt, now }), /interrupted/)
    const rest = await copySessions(from, to, { batch: 8, cursor, now })
    assert.deepEqual([rest.copied, rest.skipped], [13, 0])
  })

  test('a stateless backend and a backend without scan are refused', async () => {
    const cookie = cookieBackend({ secret })
    assert.throws(() => movingBackend(cookie, memoryBackend()), { code: 'invalid_option' })
    await assert.rejects(copySessions(memoryBackend(), cookie), { code: 'invalid_option' })
    const { scan: _, ...withoutScan } = memoryBackend()
    await assert.rejects(copySessions(withoutScan, memoryBackend()), { code: 'invalid_option' })
  })

  test('before startsAt no request moves a session', async () => {
    const now = clock()
    const [from, to] = [memoryBackend({ now }), memoryBackend({ now })]
    const moving = movingBackend(from, to, { startsAt: now() + DAY, now })
    const visit = browser(page(moving, now), { now })
    await visit('/login')
    await visit('/add')
    assert.equal(to.scan && (await to.scan(undefined, 9)).entries.length, 0)
    assert.equal(
      (await answerOf(visit.copy(page(from, now))('/add'))).n,
      2,
      'a process on the old store alone still works',
    )
    now.tick(DAY)
    assert.equal((await answerOf(visit('/add'))).n, 3)
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
    await answerOf(one.copy(during)('/'))
    await browser(during)('/login')
    assert.equal((await manager.list('anna')).length, 3)
    assert.equal(await manager.revokeAll('anna'), 3)
    assert.deepEqual(await manager.list('anna'), [])
    await copySessions(from, to)
    for (const visit of [one, two]) {
      assert.equal((await answerOf(visit.copy(during)('/'))).owner, null)
      assert.equal((await answerOf(visit.copy(page(to))('/'))).owner, null)
      assert.equal((await answerOf(visit.copy(page(from))('/'))).owner, null)
    }
  })

  test('all sessions of an owner are listed and ended, in both stores', async () => {
    for (const isMoving of [true, false]) {
      const [from, to] = [memoryBackend(), memoryBackend()]
      const [early, late] = [processOn(from, to, () => true), processOn(from, to, () => isMoving)]
      const browsers = [browser(page(from)), browser(page(from)), browser(page(early)), browser(page(late))]
      for (const visit of browsers) await visit('/login')
      await answerOf((browsers[1] as Browser).copy(page(early))('/'))
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

  test('if the new store loses entries, the move throws and the session stays in the old store', async () => {
    const from = memoryBackend()
    const visit = browser(page(from))
    await visit('/login')
    const lossy: Backend = { ...memoryBackend(), generate: () => undefined }
    const moving = movingBackend(from, lossy)
    const key = (await from.scan?.(undefined, 1))?.entries[0]?.key as string
    await assert.rejects(async () => moving.get(key), { code: 'unavailable', message: /did not stay/ })
    assert.equal((await answerOf(visit('/'))).owner, 'anna')
  })

  test('sessions move back, and the tombstones of earlier moves do not matter', async () => {
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
      assert.equal((await answerOf(visit.copy(page(from))('/'))).owner, null)
      assert.equal((await answerOf(visit.copy(page(to))('/'))).owner, 'anna')
      assert.equal((await answerOf(visit.copy(page(movingBackend(from, to)))('/'))).owner, 'anna')
    }
    assert.equal((await answerOf(visit('/add'))).n, 2)
  })
})

suite('two processes whose clocks are ten minutes apart', () => {
  /** The path of the request to the process that is behind, and the answer of every process afterwards. */
  const acts: Record<string, { readonly owner: string | null; readonly n: number }> = {
    '/': { owner: 'anna', n: 1 },
    '/add': { owner: 'anna', n: 2 },
    '/rotate': { owner: 'anna', n: 1 },
    '/logout': { owner: null, n: 0 },
    '/again': { owner: null, n: 0 },
    revokeAll: { owner: null, n: 0 },
  }
  const moves: Record<string, (from: Backend, to: Backend, visit: Browser, early: Backend) => Promise<unknown>> = {
    'a request to the process that is ahead': (_from, _to, visit, early) => visit.copy(page(early))('/'),
    'a copy before either starts': (from, to) => copySessions(from, to),
    nothing: async () => {},
  }
  for (const [moved, move] of Object.entries(moves)) {
    for (const [act, expected] of Object.entries(acts)) {
      test(`${moved} moves a session, then the process that is behind gets ${act}`, async () => {
        const [from, to] = [memoryBackend(), memoryBackend()]
        let hasStarted = false
        const [early, late] = [processOn(from, to, () => true), processOn(from, to, () => hasStarted)]
        const first = browser(page(late))
        await first('/login')
        await first('/add')
        await move(from, to, first, early)
        const answer =
          act === 'revokeAll'
            ? await sessionManager({ backend: late, storeTimeout: PATIENT, secret }).revokeAll('anna')
            : (await first.copy(page(late))(act)).status
        assert.equal(answer, act === 'revokeAll' ? 1 : 200)
        for (const backend of [early, late]) assert.deepEqual(await answerOf(first.copy(page(backend))('/')), expected)
        hasStarted = true
        await copySessions(from, to)
        for (const backend of [early, late, to]) {
          assert.deepEqual(await answerOf(first.copy(page(backend))('/')), expected)
        }
      })
    }
  }
})

/** A store whose calls wait for `before`, which gets the name of the call. */
const through = (inner: Backend, before: (call: string) => Promise<void>): Backend => ({
  ...inner,
  get: (key) => before('get').then(() => inner.get(key)),
  generate: (key, entry) => before('generate').then(() => inner.generate(key, entry)),
  set: (key, change, version) => before('set').then(() => inner.set(key, change, version)),
  clear: (key, version, mark) => before('clear').then(() => inner.clear(key, version, mark)),
  touch: (key, expiresAt) => before('touch').then(() => inner.touch(key, expiresAt)),
  scan: (cursor, limit) => before('scan').then(() => inner.scan?.(cursor, limit) ?? { entries: [], cursor: undefined }),
  byOwner: {
    list: (owner) => before('list').then(() => inner.byOwner?.list(owner) ?? []),
    clear: (owner, except, mark) => before('revoke').then(() => inner.byOwner?.clear(owner, except, mark) ?? 0),
  },
})

suite('a process that is killed during a move a session', () => {
  /** Copies the sessions in a process that is killed after this many calls. Returns whether the copy was complete. */
  const copyKilled = async (from: Backend, to: Backend, after: number): Promise<boolean> => {
    let calls = 0
    const countCall = () => {
      if (calls++ >= after) throw new Error('killed')
      return Promise.resolve()
    }
    const dying = [through(from, async () => countCall()), through(to, async () => countCall())] as const
    return copySessions(...dying).then(
      () => true,
      () => false,
    )
  }
  for (const then of ['/add', '/logout', 'copy'] as const) {
    for (const isMoving of [true, false]) {
      test(`after ${then} by another process ${isMoving ? 'after' : 'before'} its startsAt, no change is lost and no ended session comes back`, async () => {
        for (let after = 0; ; after++) {
          const [from, to] = [memoryBackend(), memoryBackend()]
          const visit = browser(page(from))
          await visit('/login')
          await visit('/add')
          const isComplete = await copyKilled(from, to, after)
          const other = processOn(from, to, () => isMoving)
          const expected = then === '/logout' ? { owner: null, n: 0 } : { owner: 'anna', n: then === 'copy' ? 1 : 2 }
          if (then !== 'copy') {
            assert.equal(
              (await sessionManager({ backend: other, storeTimeout: PATIENT, secret }).list('anna')).length,
              1,
            )
            assert.equal((await visit.copy(page(other))(then)).status, 200)
            assert.deepEqual(await answerOf(visit.copy(page(other))('/')), expected, `killed after ${after} calls`)
          }
          await copySessions(from, to)
          for (const backend of [to, processOn(from, to, () => false), processOn(from, to, () => true)]) {
            assert.deepEqual(await answerOf(visit.copy(page(backend))('/')), expected, `killed after ${after} calls`)
          }
          if (isComplete) {
            assert.ok(after > 5)
            return
          }
        }
      })
    }
  }
})

suite('the entries that a killed process leaves', () => {
  const key = 'app.kkkkkkkkkkkk'
  const entry = { value: '1', metadata: 'metadata', version: 'version0', expiresAt: base + DAY, owner: 'anna' }
  /** Two stores after a process was killed before this call. */
  const killedBefore = async (dies: (call: string, store: 'from' | 'to') => boolean) => {
    const [from, to] = [memoryBackend(), memoryBackend()]
    await from.generate(key, entry)
    const failIn = (store: 'from' | 'to') => async (call: string) => {
      if (dies(call, store)) throw new Error('killed')
    }
    const process = movingBackend(through(from, failIn('from')), through(to, failIn('to')))
    await assert.rejects(async () => process.get(key), /killed/)
    return [from, to] as const
  }
  /** The copy exists, and the old store still has the entry. */
  const afterCopy = () => killedBefore((call, store) => store === 'from' && call === 'clear')
  /** The old store has the tombstone, and the copy is not finished. */
  const afterTombstone = () => killedBefore((call, store) => store === 'to' && call === 'set')

  test('a tombstone outlives a copy whose expiry has moved', async () => {
    const [from, to] = await afterTombstone()
    await to.touch(key, base + 30 * DAY)
    await from.sweep?.(base + DAY, 10)
    const found = await movingBackend(from, to).get(key)
    assert.deepEqual(found, { ...entry, expiresAt: base + 30 * DAY })
  })
  test('the copy of an ended session blocks nothing, in either direction', async () => {
    for (const isMoving of [true, false]) {
      const [from, to] = await afterCopy()
      const process = processOn(from, to, () => isMoving)
      assert.equal(await process.clear(key), undefined)
      assert.deepEqual(await process.byOwner?.list('anna'), [])
      assert.equal(await process.generate(key, { ...entry, version: 'another0' }), undefined)
      assert.equal((await process.get(key))?.version, 'another0')
    }
    const [from, to] = await afterCopy()
    const back = movingBackend(to, from)
    assert.equal((await back.byOwner?.list('anna'))?.length, 1)
    assert.equal(await back.clear(key), undefined)
    assert.equal(await back.get(key), undefined)
    assert.deepEqual(await back.byOwner?.list('anna'), [])
  })
  test('the tombstone of an ended session blocks nothing, before or after startsAt', async () => {
    for (const isMoving of [true, false]) {
      const [from, to] = await afterTombstone()
      const process = processOn(from, to, () => isMoving)
      assert.equal(await process.clear(key, entry.version), undefined)
      assert.equal(await process.get(key), undefined)
      assert.equal(await process.generate(key, { ...entry, version: 'another0' }), undefined)
      assert.equal((await process.get(key))?.version, 'another0')
      assert.equal(
        await process.generate(key, { ...entry, version: 'another0' }),
        undefined,
        'a driver may send the call twice',
      )
      assert.equal(await process.generate(key, { ...entry, version: 'another1' }), 'taken')
    }
  })
})

test('a sweep removes at most its limit, from both stores together', async () => {
  const [from, to] = [memoryBackend(), memoryBackend()]
  for (const [i, store] of [from, from, to, to].entries()) {
    await store.generate(`app.${i}`, {
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

suite('in every order of calls', () => {
  const acts = ['/add', '/rotate', '/again', '/logout', '/'] as const

  test('requests to two processes with different startsAt, a copy and a revocation lose no increment, revive no session and log nobody out', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(fc.constantFrom(...acts), { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        fc.constantFrom('both move', 'one moves', 'none moves'),
        fc.option(fc.nat({ max: 8 }), { nil: undefined }),
        async (s, paths, revokes, start, dies) => {
          const [from, to] = [memoryBackend(), memoryBackend()]
          const schedule = () => s.schedule(Promise.resolve())
          const hasStarted = [start !== 'none moves', start === 'both move']
          const on = (i: number) =>
            processOn(through(from, schedule), through(to, schedule), () => hasStarted[i % 2] as boolean)
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
            return schedule()
          }
          const copying = copySessions(
            through(from, async () => dying()),
            through(to, async () => dying()),
          ).catch(() => {})
          const manager = sessionManager({ backend: on(1), storeTimeout: PATIENT, secret })
          const revoking = revokes ? manager.revokeAll('anna') : undefined
          const starts = hasStarted.map(async (_, i) => {
            await schedule()
            hasStarted[i] = true
          })
          await s.waitFor(Promise.all([...tabs, copying, revoking, ...starts]))
          const requests = await Promise.all(tabs)
          const ended =
            revokes || requests.some(({ path, status }) => status === 200 && (path === '/logout' || path === '/again'))
          const check = async (store: Backend) => {
            const seen = await answerOf(before.copy(page(store))('/'))
            if (ended) assert.deepEqual(seen, { owner: null, n: 0 }, 'an ended session stays ended')
            else {
              const added = requests.filter(({ path, status }) => path === '/add' && status === 200).length
              assert.deepEqual(
                seen,
                { owner: 'anna', n: added },
                'the visitor is logged in, and every increment counts',
              )
            }
            for (const { path, status, tab } of requests) {
              const owner = (await answerOf(tab.copy(page(store))('/'))).owner
              if (revokes && path !== '/again') assert.equal(owner, null)
              if (!ended && status === 200) assert.equal(owner, 'anna')
            }
          }
          for (const isMoving of [false, true]) await check(processOn(from, to, () => isMoving))
          await copySessions(from, to)
          for (const store of [to, processOn(from, to, () => false), processOn(from, to, () => true)])
            await check(store)
        },
      ),
      { numRuns: runs(600) },
    )
  })

  /*
   * One entry under the calls of a backend: each version has at most one successor, an end has none, and the expiry is the
   * latest one that was requested.
   */
  test('calls of two processes with different startsAt give one history, one end and the latest expiry', async () => {
    const call = fc.record({
      name: fc.constantFrom('set', 'set', 'touch', 'clear', 'clear the version', 'get'),
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
          const schedule = () => s.schedule(Promise.resolve())
          const hasStarted = [true, false]
          const on = hasStarted.map((_, i) =>
            processOn(through(from, schedule), through(to, schedule), () => hasStarted[i] as boolean),
          )
          const [key, version] = ['app.kkkkkkkkkkkk', 'version0']
          const expiresAt = base + DAY
          await from.generate(key, { value: '0', metadata: 'metadata', version, expiresAt, owner: 'anna' })
          const successors: string[] = []
          const ends: string[] = []
          let latest = expiresAt
          const run = async ({ name, by }: { name: string; by: number }, i: number) => {
            const backend = on[by] as Backend
            const mark = marks ? { metadata: 'ended', expiresAt: base + DAY, version: `ended--${i}` } : undefined
            if (name === 'get') {
              const found = await backend.get(key)
              assert.ok(found === undefined || ['metadata', 'ended'].includes(found.metadata))
            }
            if (name === 'touch') {
              await backend.touch(key, expiresAt + i)
              latest = Math.max(latest, expiresAt + i)
            }
            const change = { value: `${i}`, metadata: 'metadata', version: `version${i + 1}` }
            if (name === 'set' && (await backend.set(key, change, version)) === undefined)
              successors.push(change.version)
            if (name === 'clear the version' && (await backend.clear(key, version, mark)) === undefined) {
              successors.push('end')
              ends.push(mark?.version ?? '')
            }
            if (name === 'clear') {
              assert.equal(await backend.clear(key, undefined, mark), undefined)
              ends.push(mark?.version ?? '')
            }
          }
          const copying = copies ? copySessions(through(from, schedule), through(to, schedule)) : undefined
          const start = schedule().then(() => {
            hasStarted[1] = true
          })
          await s.waitFor(Promise.all([...calls.map(run), copying, start]))
          await copySessions(from, to)
          assert.ok(successors.length <= 1, successors.join())
          const versioned = calls.filter(({ name }) => ['set', 'clear the version'].includes(name)).length
          if (versioned > 0 && ends.length === 0) assert.equal(successors.length, 1, 'the first write is not stale')
          for (const backend of [to, processOn(from, to, () => false), processOn(from, to, () => true)]) {
            const found = await backend.get(key)
            if (ends.length > 0) {
              assert.ok(
                marks ? ends.includes(found?.version ?? '') : found === undefined,
                'an ended session stays ended',
              )
              assert.equal(found?.owner, undefined)
            } else {
              assert.equal(found?.version, successors[0] ?? version)
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

  test('a session that is created during a revocation counts as before it or as after it, for every process', async () => {
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), fc.boolean(), fc.boolean(), async (s, marks, bothMove) => {
        const [from, to] = [memoryBackend(), memoryBackend()]
        const schedule = () => s.schedule(Promise.resolve())
        const [early, late] = [true, false].map((isMoving) =>
          processOn(through(from, schedule), through(to, schedule), () => isMoving || bothMove),
        ) as [Backend, Backend]
        const [one, two] = ['app.aaaaaaaaaaaa', 'app.bbbbbbbbbbbb']
        const entry = { value: '1', metadata: 'metadata', version: 'version0', expiresAt: base + DAY, owner: 'anna' }
        await from.generate(one, entry)
        const mark = marks ? { metadata: 'ended', expiresAt: base + DAY, version: 'ended---' } : undefined
        const creating = (async () => {
          await late.generate(two, entry)
          await early.get(two)
        })()
        await s.waitFor(
          Promise.all([
            creating,
            early.byOwner?.clear('anna', undefined, mark),
            copySessions(through(from, schedule), to),
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
