// The sessions of an owner, on every backend: listed, revoked one by one or all together, and limited in number.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { type Backend, type OwnedSession, type Session, session, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { type Browser, browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { stores } from '../support/stores.ts'

const secret = newSecret()
const MINUTE = 60_000

type Act = (s: Session) => unknown

/** Two processes on one backend, and browsers that either of them can answer. */
const setup = (backends: readonly Backend[], options: Partial<Parameters<typeof sessionManager>[0]> = {}) => {
  const now = clock()
  const events: { type: string; label?: string }[] = []
  let act: Act = () => {}
  let result: unknown
  const processes = backends.map((backend) =>
    sessionManager({
      backend,
      storeTimeout: PATIENT,
      now,
      secret,
      onEvent: (event) => events.push(event as never),
      ...options,
    }),
  )
  const handlers = processes.map((manager) =>
    manager(async (request) => {
      result = await act(await session(request))
      return new Response()
    }),
  )
  const visitFor = (jar: Browser) => {
    const visit = async (next: Act) => {
      act = next
      result = undefined
      const { status } = await jar('/')
      return status === 200 ? result : status
    }
    return Object.assign(visit, { jar, in: (i: number) => visitFor(jar.copy(handlers[i] as (typeof handlers)[0])) })
  }
  const visitor = (i = 0) => visitFor(browser(handlers[i] as (typeof handlers)[0], { now }))
  const manager = processes[0] as (typeof processes)[0]
  return { now, events, processes, manager, visitor }
}
const owner: Act = (s) => s.owner
const labels = (list: readonly OwnedSession<object>[]) => list.map(({ label }) => label)

for (const { name, opener } of stores) {
  suite(`owners on ${name}`, () => {
    const start = async (t: Parameters<typeof opener>[0], options = {}) => {
      const open = opener(t)
      return setup([await open(), await open()], options)
    }
    const login =
      (user: string, device = 'a phone'): Act =>
      (s) => {
        s.login(user)
        s.set('device', device)
        return s.label
      }

    test('LIFE-14: list returns the sessions of one owner that are alive, the newest first, with their fields', async (t) => {
      const h = await start(t)
      const [one, two, other, anonymous] = [h.visitor(), h.visitor(), h.visitor(), h.visitor()]
      const first = await one(login('anna', 'a phone'))
      h.now.tick(MINUTE)
      const second = await two(login('anna', 'a laptop'))
      await other(login('bert'))
      await anonymous((s) => s.set('device', 'none'))
      const list = await h.manager.list('anna')
      assert.deepEqual(labels(list), [second, first])
      assert.deepEqual({ ...list[1]?.fields }, { device: 'a phone' })
      assert.deepEqual([list[0]?.createdAt, list[0]?.lastSeenAt], [h.now(), h.now()])
      assert.equal(list[1]?.expiresAt, h.now() - MINUTE + 14 * DAY)
      await one((s) => s.set('device', 'an old phone'))
      assert.equal((await h.manager.list('anna'))[1]?.fields.device, 'an old phone')
      await one((s) => s.invalidate())
      assert.deepEqual(labels(await h.manager.list('anna')), [second])
      assert.deepEqual(await h.manager.list('nobody'), [])
      h.now.tick(14 * DAY)
      assert.deepEqual(await h.manager.list('anna'), [], 'an expired session is not listed')
    })

    test('owners with similar names are different owners', async (t) => {
      const h = await start(t)
      const users = ['anna', 'Anna', 'anna ', '\u00e1nna', 'a\u0301nna', 'a:b', '%3A', '"', 'x'.repeat(255)]
      for (const user of users) await h.visitor()(login(user))
      for (const user of users) {
        assert.equal((await h.manager.list(user)).length, 1, user)
      }
    })

    test('revoke ends the session of a label, and succeeds if there is none', async (t) => {
      const h = await start(t)
      const [one, two] = [h.visitor(), h.visitor(1)]
      const label = (await one(login('anna'))) as string
      await two(login('anna'))
      await h.manager.revoke(label)
      await h.manager.revoke(label)
      assert.deepEqual([await one(owner), await two(owner)], [undefined, 'anna'])
      assert.deepEqual(
        h.events.filter(({ type }) => type === 'revoked').map(({ label }) => label),
        [label, label],
      )
      for (const bad of ['', 'x', 5, `${label}A`]) {
        await assert.rejects(h.manager.revoke(bad as string), { code: 'invalid_option' })
      }
    })

    test('revokeAll ends all sessions but the excepted one, and a request in progress saves nothing', async (t) => {
      const h = await start(t)
      const visitors = [h.visitor(), h.visitor(1), h.visitor()]
      for (const visit of visitors) await visit(login('anna'))
      const [mine, two, three] = visitors as [(typeof visitors)[0], (typeof visitors)[0], (typeof visitors)[0]]
      const bert = h.visitor()
      await bert(login('bert'))
      const status = await two(async (s) => {
        const label = await mine.in(1)((s) => s.label)
        assert.equal(await h.manager.revokeAll('anna', { except: label as string }), 2)
        s.set('late', true)
      })
      assert.equal(status, 409)
      assert.deepEqual(
        [await mine(owner), await two(owner), await three(owner), await bert(owner)],
        ['anna', undefined, undefined, 'bert'],
      )
      assert.equal(await h.manager.revokeAll('anna'), 1)
      assert.equal(await h.manager.revokeAll('anna'), 0)
      assert.equal(await mine(owner), undefined)
    })

    test('LIFE-7: after a revokeAll during ten rotations, logins and writes, no session of the owner is usable', async (t) => {
      const h = await start(t)
      for (let round = 0; round < 5; round++) {
        const visitors = Array.from({ length: 10 }, (_, i) => h.visitor(i % 2))
        for (const visit of visitors) await visit(login('anna'))
        const acts: Act[] = [(s) => s.rotateKey(), (s) => s.login('anna'), (s) => s.set('n', 1)]
        const running = h.processes.map((manager, at) => {
          const handler = manager(async (request) => {
            const s = await session(request)
            // A visitor who is logged out already does not log in again.
            if (s.owner === undefined) return new Response(null, { status: 401 })
            await acts[Number(new URL(request.url).searchParams.get('act'))]?.(s)
            return new Response()
          })
          return visitors
            .filter((_, i) => i % 2 === at)
            .map((visit, i) => {
              const tab = visit.jar.copy(handler)
              return tab(`/?act=${i % 3}`).then(() => tab)
            })
        })
        const revoking = h.manager.revokeAll('anna')
        const tabs = await Promise.all(running.flat())
        await revoking
        for (const tab of tabs) {
          let left: unknown = 'not read'
          await tab.copy(
            h.manager(async (request) => {
              left = (await session(request)).owner
              return new Response()
            }),
          )('/')
          assert.equal(left, undefined)
        }
        assert.deepEqual(await h.manager.list('anna'), [])
      }
    })

    test('LIM-6: maxSessionsPerOwner ends the oldest session and reports it, also for concurrent logins', async (t) => {
      const h = await start(t, { maxSessionsPerOwner: 2 })
      const visitors = [h.visitor(), h.visitor(), h.visitor()]
      const seen: unknown[] = []
      for (const visit of visitors) {
        seen.push(await visit(login('anna')))
        h.now.tick(1)
      }
      assert.deepEqual(labels(await h.manager.list('anna')), [seen[2], seen[1]])
      assert.deepEqual(
        h.events.filter(({ type }) => type === 'owner_limit').map(({ label }) => label),
        [seen[0]],
      )
      const known = []
      for (const visit of visitors) known.push(await visit(owner))
      assert.deepEqual(known, [undefined, 'anna', 'anna'])
      const handlers = h.processes.map((manager) =>
        manager(async (request) => {
          const s = await session(request)
          s.login('anna')
          return new Response()
        }),
      )
      const answers = await Promise.all(
        Array.from({ length: 12 }, (_, i) => browser(handlers[i % 2] as (typeof handlers)[0], { now: h.now })('/')),
      )
      for (const { status } of answers) assert.ok([200, 409].includes(status))
      assert.equal((await h.manager.list('anna')).length, 2)
      await h.visitor()((s) => s.login('anna'))
      const same = visitors[2] as (typeof visitors)[0]
      await same((s) => s.login('anna'))
      assert.equal((await h.manager.list('anna')).length, 2)
    })
  })
}

suite('when a session was last seen', () => {
  test('is exact to half the idle timeout, and exact if a request saves something', async () => {
    const h = setup([memoryBackend()])
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const seen = async () => (await h.manager.list('anna'))[0]?.lastSeenAt
    const createdAt = h.now()
    h.now.tick(6 * DAY)
    await visit(owner)
    assert.equal(await seen(), createdAt)
    h.now.tick(2 * DAY)
    await visit(owner)
    assert.equal(await seen(), h.now(), 'extended in the second half')
    h.now.tick(MINUTE)
    await visit((s) => s.set('n', 1))
    assert.equal(await seen(), h.now())
  })

  test('with lastSeenInterval is exact to that interval until the absolute timeout, at one write per interval', async () => {
    const backend = memoryBackend()
    let writes = 0
    const counted: Backend = {
      ...backend,
      set(key, change, version) {
        writes++
        return backend.set(key, change, version)
      },
    }
    const h = setup([counted], { lastSeenInterval: 300 })
    const [visit, anonymous] = [h.visitor(), h.visitor()]
    await visit((s) => s.login('anna'))
    await anonymous((s) => s.set('n', 1))
    const seen = async () => (await h.manager.list('anna'))[0]?.lastSeenAt
    for (let minute = 1; minute <= 10; minute++) {
      h.now.tick(MINUTE)
      await visit(owner)
      await anonymous(owner)
    }
    assert.equal(writes, 2)
    assert.equal(await seen(), h.now())
    for (let day = 0; day < 28; day++) {
      h.now.tick(DAY)
      await visit(owner)
      assert.equal(await seen(), h.now(), `day ${day}`)
    }
    assert.equal(await visit((s) => s.expiresAt), h.manager && (await h.manager.list('anna'))[0]?.expiresAt)
  })
})

test('LIFE-14: no value in a list opens a session', async () => {
  const h = setup([memoryBackend()])
  await h.visitor()((s) => s.login('anna'))
  const [listed] = await h.manager.list('anna')
  const { label = '' } = listed ?? {}
  for (const value of [label, label.padEnd(43, 'A'), JSON.stringify(listed)]) {
    const s = await h.manager.open({ headers: new Headers({ cookie: `__Host-Http-sid=${value.replaceAll('"', '')}` }) })
    assert.equal(s.owner, undefined)
  }
})

suite('owners on the cookie backend', () => {
  test('a label can be revoked with the option ends, and without it the call throws', async () => {
    const ends = memoryBackend()
    const h = setup([cookieBackend({ secret, ends })])
    const visit = h.visitor()
    const label = (await visit((s) => {
      s.login('anna')
      return s.label
    })) as string
    const thief = visit.in(0)
    await h.manager.revoke(label)
    assert.deepEqual([await visit(owner), await thief(owner)], [undefined, undefined])
    await assert.rejects(h.manager.list('anna'), { code: 'invalid_option' })
    await assert.rejects(h.manager.revokeAll('anna'), { code: 'invalid_option' })
    const without = setup([cookieBackend({ secret })])
    await assert.rejects(without.manager.revoke(label), { code: 'invalid_option' })
  })

  test('maxSessionsPerOwner is refused when the backend is opened', async () => {
    const manager = sessionManager({
      backend: cookieBackend({ secret }),
      storeTimeout: PATIENT,
      secret,
      maxSessionsPerOwner: 2,
    })
    await assert.rejects(manager.ready(), { code: 'invalid_option' })
  })
})

test('a login during a revokeAll of its owner leaves no session of that owner, in every order of backend calls', async () => {
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.constantFrom('login', 'again', 'rotate'), async (s, kind) => {
      const backend = memoryBackend()
      const through = () => s.schedule(Promise.resolve())
      const slow: Backend = {
        ...backend,
        get: (key) => through().then(() => backend.get(key)),
        generate: (key, entry) => through().then(() => backend.generate(key, entry)),
        set: (key, change, version) => through().then(() => backend.set(key, change, version)),
        clear: (key, version) => through().then(() => backend.clear(key, version)),
        byOwner: {
          list: (name) => through().then(() => backend.byOwner?.list(name) ?? []),
          clear: (name, except) => through().then(() => backend.byOwner?.clear(name, except) ?? 0),
        },
      }
      const h = setup([backend])
      const first = h.visitor()
      await first((s) => s.login('anna'))
      const manager = sessionManager({ backend: slow, storeTimeout: PATIENT, now: h.now, secret })
      const tab = first.jar.copy(
        manager(async (request) => {
          const s = await session(request)
          if (s.owner === undefined) return new Response(null, { status: 401 })
          if (kind === 'rotate') s.rotateKey()
          else s.login(kind === 'again' ? 'anna' : 'bert')
          return new Response()
        }),
      )
      const going = tab('/')
      const revoking = manager.revokeAll('anna')
      await s.waitFor(Promise.all([going, revoking]))
      const left = await h.manager.list('anna')
      assert.deepEqual(left, [], 'no session of anna is left')
    }),
    { numRuns: runs(300) },
  )
})
