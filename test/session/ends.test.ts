// An application learns of each change of an owned session by an event with the label and the owner, so it can tidy its own data.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type SessionEvent, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { everyStore } from '../support/stores.ts'
import { setup, type Visitor } from '../support/visits.ts'

const secret = newSecret()

/** A manager, and the events since the last call of `newEvents`, without their messages. */
const start = async (options: Parameters<typeof setup>[0] = {}) => {
  const h = await setup({ secret, ...options })
  const manager = sessionManager({
    backend: h.backend,
    secret,
    now: h.now,
    storeTimeout: PATIENT,
    onEvent: (event) => h.events.push(event),
  })
  const newEvents = () =>
    h.events.splice(0).map((event) => {
      const { message: _, ...more } = event as SessionEvent
      return more
    })
  const login = async (visit: Visitor, owner: string): Promise<string> =>
    (await visit((s) => {
      s.login(owner)
      return s.label
    })) as string
  return { ...h, manager, newEvents, login }
}

suite('the event has the label and the owner', () => {
  test('at a login, with the label of the session that it ended', async () => {
    const h = await start()
    const visit = h.visitor()
    const before = await visit((s) => {
      s.set('basket', 1)
      return s.label
    })
    h.newEvents()
    const anna = await h.login(visit, 'anna')
    assert.deepEqual(h.newEvents(), [{ type: 'login', label: anna, owner: 'anna', previousLabel: before }])
    const bert = await h.login(visit, 'bert')
    assert.deepEqual(h.newEvents(), [{ type: 'login', label: bert, owner: 'bert', previousLabel: anna }])
    const first = await h.login(h.visitor(), 'carl')
    assert.deepEqual(h.newEvents(), [{ type: 'login', label: first, owner: 'carl' }])
  })

  test('at a login after the previous session expired, which is reported by an event of its own', async () => {
    const h = await start()
    const visit = h.visitor()
    const old = await h.login(visit, 'anna')
    h.newEvents()
    await visit((s) => {
      h.now.tick(15 * DAY)
      s.login('anna')
    })
    // A login of the same owner only renews the session, which must be alive.
    assert.deepEqual(h.newEvents(), [{ type: 'write_after_end', label: old, owner: 'anna' }])
    const next = h.visitor()
    const expired = await h.login(next, 'bert')
    h.newEvents()
    let label: string | undefined
    await next((s) => {
      h.now.tick(15 * DAY)
      s.login('carl')
      label = s.label
    })
    assert.deepEqual(h.newEvents(), [
      { type: 'invalidated', label: expired, owner: 'bert' },
      { type: 'login', label, owner: 'carl' },
    ])
  })

  test('at a logout, a rotation, and a creation without an owner', async () => {
    const h = await start()
    const visit = h.visitor()
    const label = await h.login(visit, 'anna')
    h.newEvents()
    await visit((s) => s.rotateKey())
    assert.deepEqual(h.newEvents(), [{ type: 'renewed', label, owner: 'anna' }])
    let next: string | undefined
    await visit((s) => {
      s.invalidate()
      s.set('page', 1)
      next = s.label
    })
    assert.deepEqual(h.newEvents(), [
      { type: 'invalidated', label, owner: 'anna' },
      { type: 'created', label: next },
    ])
  })

  test('at the end of the oldest session of an owner', async () => {
    const h = await start({ maxSessionsPerOwner: 1 })
    const oldest = await h.login(h.visitor(), 'anna')
    h.now.tick(1)
    h.newEvents()
    const newest = await h.login(h.visitor(), 'anna')
    assert.deepEqual(h.newEvents(), [
      { type: 'owner_limit', label: oldest, owner: 'anna' },
      { type: 'login', label: newest, owner: 'anna' },
    ])
  })

  test('at revoke, at revokeAll without a label, and at revokeWhere', async () => {
    const h = await start()
    const labels = [await h.login(h.visitor(), 'anna'), await h.login(h.visitor(), 'bert')] as const
    const carl = await h.login(h.visitor(), 'carl')
    h.newEvents()
    await h.manager.revoke(labels[0])
    await h.manager.revoke(labels[0])
    assert.deepEqual(h.newEvents(), [
      { type: 'revoked', label: labels[0], owner: 'anna' },
      { type: 'revoked', label: labels[0] },
    ])
    await h.manager.revokeAll('bert')
    assert.deepEqual(h.newEvents(), [{ type: 'revoked', owner: 'bert' }])
    await h.manager.revokeWhere(() => true)
    assert.deepEqual(h.newEvents(), [{ type: 'revoked', label: carl, owner: 'carl' }])
  })

  test('if a session in a cookie logs in and out', async () => {
    const h = await start({ backend: cookieBackend({ secret, ends: memoryBackend() }) })
    const visit = h.visitor()
    const label = await h.login(visit, 'anna')
    await visit((s) => s.invalidate())
    assert.deepEqual(h.newEvents(), [
      { type: 'login', label, owner: 'anna' },
      { type: 'invalidated', label, owner: 'anna' },
    ])
  })

  test('if a request changes a session that has ended, or that expires in the meantime', async () => {
    const h = await start()
    const visit = h.visitor()
    const label = await h.login(visit, 'anna')
    const late = visit.withSameCookies()
    h.newEvents()
    await late(async (s) => {
      await visit((other) => other.invalidate())
      s.set('late', 1)
    })
    assert.deepEqual(h.newEvents(), [
      { type: 'invalidated', label, owner: 'anna' },
      { type: 'write_after_end', label, owner: 'anna' },
    ])
    const next = h.visitor()
    const second = await h.login(next, 'bert')
    h.newEvents()
    await next((s) => {
      h.now.tick(15 * DAY)
      s.set('late', 1)
    })
    assert.deepEqual(h.newEvents(), [
      { type: 'expired', label: second, owner: 'bert' },
      { type: 'write_after_end', label: second, owner: 'bert' },
    ])
  })

  test('if a request comes with the key of an expired session, also when the request removes the entry', async () => {
    const h = await start()
    const visit = h.visitor()
    const label = await h.login(visit, 'anna')
    const copies = [visit.withSameCookies(), visit.withSameCookies()]
    const key = (cookies: Visitor) => cookies.browser.cookies.get('__Host-Http-sid') ?? assert.fail('there is a key')
    const request = (cookies: Visitor) => ({ headers: new Headers({ cookie: `__Host-Http-sid=${key(cookies)}` }) })
    const requests = copies.map(request)
    h.newEvents()
    h.now.tick(14 * DAY)
    await h.manager.open(requests[0] as { headers: Headers })
    assert.deepEqual(h.newEvents(), [{ type: 'expired', label, owner: 'anna' }])
    h.now.tick(2 * DAY)
    await h.manager.open(requests[1] as { headers: Headers })
    assert.deepEqual(h.newEvents(), [
      { type: 'expired', label, owner: 'anna' },
      { type: 'timed_out', label, owner: 'anna' },
    ])
    await h.manager.sweep()
    assert.deepEqual(h.newEvents(), [], 'it is reported once')
  })
})

for (const { name, opener } of everyStore) {
  test(`a sweep reports each expired session of its own application on ${name}, once`, async (t) => {
    const open = opener(t)
    const backend = await open()
    if (backend.sweep === undefined) return t.diagnostic('the store removes expired entries by itself')
    // The clock must be behind: a sweep uses the earlier of two clocks, and waits a day after the expiry.
    const now = clock(Date.now() - 5 * DAY)
    const managerOf = (namespace: string | undefined, onEvent: (event: SessionEvent) => void, on = backend) =>
      sessionManager({
        backend: on,
        storeTimeout: PATIENT,
        secret,
        now,
        idleTimeout: 3600,
        namespace,
        onEvent,
        autoSweep: false,
      })
    const events: SessionEvent[] = []
    const others: SessionEvent[] = []
    const onEvent = (event: SessionEvent) => events.push(event)
    const manager = managerOf(undefined, onEvent)
    const otherProcess = managerOf(undefined, onEvent, await open())
    const otherApplication = managerOf('other', (event) => others.push(event))
    const loggedIn = async (on: typeof manager, owner: string | undefined) => {
      const s = await on.open({ url: 'https://app.test/', headers: new Headers() })
      if (owner === undefined) s.set('a', 1)
      else s.login(owner)
      const { label } = s
      await s.commit()
      return label
    }
    const labels = [await loggedIn(manager, 'anna'), await loggedIn(manager, 'bert')]
    await loggedIn(manager, undefined)
    await loggedIn(otherApplication, 'carl')
    now.tick(2 * DAY)
    await manager.sweep()
    await otherProcess.sweep()
    await otherApplication.sweep()
    const reported = () =>
      events
        .splice(0)
        .filter(({ type }) => type === 'timed_out')
        .map(({ label, owner }) => `${owner} ${label}`)
        .sort()
    assert.deepEqual(reported(), [`anna ${labels[0]}`, `bert ${labels[1]}`])
    // Two sweeps at one moment may both report a session on SQLite and MySQL.
    const more = [await loggedIn(manager, 'dora'), await loggedIn(otherProcess, 'emil')]
    now.tick(2 * DAY)
    await Promise.all([manager.sweep(), otherProcess.sweep()])
    assert.deepEqual([...new Set(reported())], [`dora ${more[0]}`, `emil ${more[1]}`])
    assert.deepEqual(
      others.filter(({ type }) => type === 'timed_out'),
      [],
      'the other application swept after its session was removed',
    )
  })
}
