// `manager.watch`: the session of a socket is read only, and its end is reported, by events and by reads of the backend.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { type Session, type SessionManagerOptions, session, sessionManager, type WatchedSession } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { type Browser, browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { clock, PATIENT, SECOND } from '../support/clock.ts'
import { OTHER_SECRET, SECRET } from '../support/requests.ts'
import { watched } from '../support/watched.ts'

const ORIGIN = 'https://app.test'
const INTERVAL = 15

type Act = (s: Session) => unknown
type Socket = WatchedSession

/** Two processes of an application on one backend, and a visitor. Timers run only when the test moves the time. */
const start = (t: TestContext, options: Partial<SessionManagerOptions> = {}) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const now = clock()
  const store = watched((options.backend as never) ?? memoryBackend({ now }))
  const events: { type: string; message?: string }[] = []
  const process = () =>
    sessionManager({
      ...{ now, secret: SECRET, storeTimeout: PATIENT, onEvent: (event) => events.push(event as never) },
      ...options,
      backend: store.backend,
    })
  const manager = process()
  const other = process()
  let act: Act = () => {}
  const by = (one: typeof manager) =>
    one(async (request) => {
      await act(await session(request))
      return new Response('done')
    })
  const visitorOf = (jar: Browser) => {
    const request = (headers: Record<string, string> = {}) => {
      const cookie = [...jar.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
      return new Request(`${ORIGIN}/socket`, { headers: { cookie, upgrade: 'websocket', origin: ORIGIN, ...headers } })
    }
    return {
      request,
      async visit(next: Act, init: RequestInit = {}) {
        act = next
        assert.equal((await jar('/', init)).status, 200)
      },
      async open(headers?: Record<string, string>): Promise<Socket> {
        const result = await manager.watch(request(headers))
        return result.ok ? result : assert.fail('the socket was refused')
      },
      /** Another tab, whose requests the other process answers. */
      elsewhere: () => visitorOf(jar.copy(by(other))).visit,
    }
  }
  const visitor = () => visitorOf(browser(by(manager), { origin: ORIGIN, now }))
  return {
    ...{ now, store, events, manager, other, visitor },
    ...visitor(),
    /** Sockets of so many sessions of one owner. */
    async openMany(count: number): Promise<Socket[]> {
      const sockets = []
      for (let i = 0; i < count; i++) {
        const { visit, open } = visitor()
        await visit((s) => s.login('anna'))
        sockets.push(await open())
      }
      return sockets
    },
    /** Moves the clock and the timers, and waits until the reads that follow are done. */
    async pass(seconds: number) {
      now.tick(seconds * SECOND)
      t.mock.timers.tick(seconds * SECOND)
      await settle()
    },
  }
}

/** The reads of a round need a few turns of the event loop. */
const settle = async () => {
  for (let turns = 0; turns < 10; turns++) await turn()
}

const PENDING = Symbol('pending')
const endOf = async ({ ended }: { readonly ended: Promise<unknown> }): Promise<unknown> => {
  await settle()
  return Promise.race([ended, PENDING])
}

suite('the session of a socket', () => {
  test('has the fields, the owner, the label and the times of the visitor', async (t) => {
    const h = start(t)
    let label = ''
    await h.visit((s) => {
      s.login('anna')
      s.set('theme', 'dark')
      label = s.label
    })
    const { session: s } = await h.open()
    assert.equal(s.owner, 'anna')
    assert.equal(s.get('theme'), 'dark')
    assert.deepEqual(s.fields, { theme: 'dark' })
    assert.equal(s.label, label)
    assert.equal(s.authenticatedAt, h.now())
    assert.equal(s.withheld, undefined)
    assert.ok(s.expiresAt > h.now())
  })

  test('LIFE-17: throws at once if a handler changes it, and stays as it is', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const s = (await h.open()).session as Session
    const writes = h.store.total() - h.store.calls.get
    for (const change of [
      () => s.set('a', 1),
      () => s.delete('a'),
      () => s.update('a', () => 1),
      () => s.rotateKey(),
      () => s.login('ben'),
      () => s.invalidate(),
    ]) {
      assert.throws(change, {
        code: 'read_only',
        message: /The session of a socket was changed.*manager\.open\(request\)/,
      })
    }
    await assert.rejects(s.save(), code('read_only'))
    assert.equal(s.owner, 'anna')
    assert.equal(h.store.total() - h.store.calls.get, writes)
  })

  test('of an anonymous visitor is empty and never ends, and the backend is not read', async (t) => {
    const h = start(t)
    const socket = await h.open()
    assert.equal(socket.session.owner, undefined)
    assert.deepEqual(socket.session.fields, {})
    await h.pass(3600)
    assert.equal(await endOf(socket), PENDING)
    assert.equal(h.store.total(), 0)
    socket.stop()
  })

  test('cannot be opened while the backend fails', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    h.store.fail('get', new Error('down'))
    await assert.rejects(h.open(), code('unavailable'))
  })

  test('needs a request', async (t) => {
    const { manager } = start(t)
    for (const value of [{}, { header: {} }, 1, null]) {
      await assert.rejects(manager.watch(value as never), {
        code: 'invalid_option',
        message: /watch\(\) was given.*without headers/,
      })
      await assert.rejects(manager.open(value as never), {
        code: 'invalid_option',
        message: /open\(\) was given.*without headers/,
      })
    }
  })

  test('of a Node request is the same', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const { headers, url } = h.request({ host: 'app.test' })
    const node = {
      headers: Object.fromEntries(headers),
      url: new URL(url).pathname,
      method: 'GET',
      socket: { encrypted: true },
    }
    const socket = await h.manager.watch(node)
    assert.equal(socket.ok && socket.session.owner, 'anna')
  })
})

suite('CSRF-13: a page of another origin cannot open a socket', () => {
  const refused: Readonly<Record<string, Record<string, string>>> = {
    'another site': { origin: 'https://evil.test' },
    'another origin of the same site': { origin: 'https://other.app.test' },
    'another site, by Fetch Metadata': { 'sec-fetch-site': 'cross-site' },
    'another origin, by Fetch Metadata': { 'sec-fetch-site': 'same-site' },
    'plain HTTP': { origin: 'http://app.test' },
    'another port': { origin: 'https://app.test:8443' },
    'a sandboxed frame': { origin: 'null' },
  }
  for (const [name, headers] of Object.entries(refused)) {
    test(name, async (t) => {
      const h = start(t)
      await h.visit((s) => s.login('anna'))
      const reads = h.store.total()
      assert.deepEqual(await h.manager.watch(h.request(headers)), { ok: false, error: 'cross_origin' })
      assert.equal(h.store.total(), reads, 'its session is not read')
      assert.equal(h.events.at(-1)?.type, 'cross_origin_rejected')
      // A connection for server-sent events is a GET request without Upgrade.
      const events = new Request(`${ORIGIN}/events`, { headers: { origin: ORIGIN, ...headers } })
      assert.equal((await h.manager.watch(events)).ok, false)
    })
  }

  test('and neither can a program without Origin, but a GET request without Upgrade can', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const headers = new Headers(h.request().headers)
    headers.delete('origin')
    assert.equal((await h.manager.watch({ headers, url: ORIGIN, method: 'GET' })).ok, false)
    assert.match(h.events.at(-1)?.message ?? '', /send an allowed origin/)
    headers.delete('upgrade')
    assert.equal((await h.manager.watch({ headers, url: ORIGIN })).ok, false, 'without a method it counts as a socket')
    assert.equal((await h.manager.watch({ headers, url: ORIGIN, method: 'GET' })).ok, true)
  })

  test('the option origins names the allowed ones', async (t) => {
    const h = start(t)
    const watch = async (origin: string, origins?: string[]) =>
      (await h.manager.watch(h.request({ origin }), { origins })).ok
    assert.equal(await watch('https://www.app.test', ['https://www.app.test']), true)
    assert.equal(await watch(ORIGIN, ['https://www.app.test']), false)
    assert.equal(await watch(ORIGIN, undefined), true)
    await assert.rejects(watch(ORIGIN, ['app.test']), code('invalid_option'))
    await assert.rejects(h.manager.watch(h.request(), { origin: ORIGIN } as never), code('invalid_option'))
  })

  test('behind a trusted proxy that ends TLS, the origin of the request is the one that the visitor sees', async (t) => {
    const watch = async (trustProxy: boolean) => {
      const { manager } = start(t, { trustProxy })
      t.mock.timers.reset()
      const headers = { upgrade: 'websocket', origin: ORIGIN, host: 'app.test', 'x-forwarded-proto': 'https' }
      return (await manager.watch({ headers, url: '/socket', method: 'GET' })).ok
    }
    assert.equal(await watch(true), true)
    assert.equal(await watch(false), false)
  })
})

const ends: Readonly<Record<string, readonly [act: Act, reason: string]>> = {
  'a logout': [(s) => s.invalidate(), 'end'],
  'a login of another owner': [(s) => s.login('ben'), 'login'],
  'a login of the same owner': [(s) => s.login('anna'), 'login'],
}

suite('LIFE-16: an end by this manager is reported at once', () => {
  for (const [name, [act, reason]] of Object.entries(ends)) {
    test(name, async (t) => {
      const h = start(t)
      await h.visit((s) => s.login('anna'))
      const [first, second] = [await h.open(), await h.open()]
      await h.visit(act)
      const reads = h.store.calls.get
      assert.equal(await endOf(first), reason)
      assert.equal(await endOf(second), reason)
      assert.equal(h.store.calls.get, reads)
      assert.equal(await endOf(await h.open()), PENDING, 'a socket that opens afterwards has the next session')
    })
  }

  test('revoke ends the sockets of its session, and no others', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const first = await h.open()
    await h.visit((s) => s.login('ben'))
    const second = await h.open()
    await h.manager.revoke(second.session.label)
    assert.equal(await endOf(second), 'end')
    assert.equal(await endOf(first), 'login')
  })

  test('revokeAll ends the sockets of all sessions of the owner, except the one that it leaves', async (t) => {
    const h = start(t)
    const visitors = { anna: h.visitor(), tablet: h.visitor(), ben: h.visitor() }
    const sockets = []
    for (const [name, visitor] of Object.entries(visitors)) {
      await visitor.visit((s) => s.login(name === 'ben' ? 'ben' : 'anna'))
      sockets.push(await visitor.open())
    }
    const [anna, tablet, ben] = sockets as [Socket, Socket, Socket]
    await h.manager.revokeAll('anna', { except: anna.session.label })
    assert.equal(await endOf(tablet), 'end')
    assert.equal(await endOf(anna), PENDING)
    assert.equal(await endOf(ben), PENDING)
    await h.manager.revokeAll('anna')
    assert.equal(await endOf(anna), 'end')
    assert.equal(await endOf(ben), PENDING)
  })

  test('revokeWhere and maxSessionsPerOwner end sockets', async (t) => {
    const h = start(t, { maxSessionsPerOwner: 1 })
    await h.visit((s) => s.login('anna'))
    const first = await h.open()
    h.now.tick(1)
    const phone = h.visitor()
    await phone.visit((s) => s.login('anna'))
    assert.equal(await endOf(first), 'end')
    const second = await phone.open()
    await h.manager.revokeWhere(({ owner }) => owner === 'anna')
    assert.equal(await endOf(second), 'end')
  })

  test('an end between the read of a socket that opens and its answer', async (t) => {
    const { promise: answered, resolve: answer } = Promise.withResolvers<void>()
    const inner = memoryBackend()
    let isSlow = false
    const get = async (key: string) => {
      const entry = inner.get(key)
      if (isSlow) await answered
      return entry
    }
    const h = start(t, { backend: { ...inner, get } })
    await h.visit((s) => s.login('anna'))
    isSlow = true
    const opening = h.open()
    await settle()
    isSlow = false
    await h.visit((s) => s.invalidate())
    answer()
    assert.equal(await endOf(await opening), 'end')
  })

  test('a request that changes the session ends nothing, and neither does a new key', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    await h.visit((s) => s.set('a', 1))
    await h.visit((s) => s.rotateKey())
    await h.visit(() => {})
    await h.pass(60)
    assert.equal(await endOf(socket), PENDING)
  })

  test('a session in a cookie', async (t) => {
    const h = start(t, { backend: cookieBackend({ secret: OTHER_SECRET }) })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    await h.visit((s) => s.invalidate())
    assert.equal(await endOf(socket), 'end')
  })

  test('of one tenant ends no socket of another', async (t) => {
    const h = start(t, { namespace: ({ headers }) => headers.get('x-tenant') ?? 'a' })
    await h.visit((s) => s.login('anna'))
    const a = await h.open()
    await h.visit((s) => s.login('anna'), { headers: { 'x-tenant': 'b' } })
    const b = await h.open({ 'x-tenant': 'b' })
    assert.equal(b.session.owner, 'anna')
    await h.manager.tenant('a').revokeAll('anna')
    assert.equal(await endOf(b), PENDING)
    await h.manager.tenant('a').revoke(b.session.label)
    assert.equal(await endOf(b), PENDING)
    await h.manager.tenant('b').revoke(b.session.label)
    assert.equal(await endOf(b), 'end')
    assert.equal(await endOf(a), 'end')
  })
})

suite('LIFE-16: an end by another process is found by the next read of the backend', () => {
  for (const [name, [act, reason]] of Object.entries(ends)) {
    test(name, async (t) => {
      const h = start(t)
      await h.visit((s) => s.login('anna'))
      const tabs = [await h.open(), await h.open()]
      await h.elsewhere()(act)
      await h.pass(INTERVAL - 1)
      for (const socket of tabs) assert.equal(await endOf(socket), PENDING)
      await h.pass(1)
      for (const socket of tabs) assert.equal(await endOf(socket), reason)
    })
  }

  test('of a session in a cookie, if a store keeps the ends', async (t) => {
    const h = start(t, { backend: cookieBackend({ secret: OTHER_SECRET, ends: memoryBackend({ now: clock() }) }) })
    await h.visit((s) => s.login('anna'))
    const sockets = [await h.open()]
    // A change gives the browser another cookie of the same session.
    await h.visit((s) => s.set('a', 1))
    sockets.push(await h.open())
    await h.pass(INTERVAL)
    for (const socket of sockets) assert.equal(await endOf(socket), PENDING)
    await h.elsewhere()((s) => s.invalidate())
    await h.pass(INTERVAL)
    for (const socket of sockets) assert.equal(await endOf(socket), 'end')
  })

  test('the option watchInterval is its bound', async (t) => {
    const h = start(t, { watchInterval: 3 })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    await h.other.revokeAll('anna')
    await h.pass(3)
    assert.equal(await endOf(socket), 'end')
    for (const watchInterval of [0, 3601, '5'])
      assert.throws(
        () => sessionManager({ backend: 'memory:', watchInterval: watchInterval as number }),
        code('invalid_option'),
      )
  })

  test('all sockets share one timer, and each session is read once in an interval', async (t) => {
    const h = start(t)
    const sockets = await h.openMany(40)
    await h.visit((s) => s.login('anna'))
    for (let tab = 0; tab < 3; tab++) sockets.push(await h.open())
    const { get } = h.store.calls
    await h.pass(INTERVAL)
    assert.equal(h.store.calls.get - get, 41)
    await h.pass(INTERVAL - 1)
    assert.equal(h.store.calls.get - get, 41)
    for (const { stop } of sockets) stop()
    await h.pass(INTERVAL)
    assert.equal(h.store.calls.get - get, 41, 'without sockets nothing is read')
  })

  test('LIFE-17: reads write nothing, so the session does not live longer', async (t) => {
    const h = start(t, { idleTimeout: 100 })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    const writes = h.store.total() - h.store.calls.get
    await h.pass(99)
    assert.equal(await endOf(socket), PENDING)
    assert.equal(h.store.total() - h.store.calls.get, writes)
    await h.pass(1)
    assert.equal(await endOf(socket), 'expired')
  })

  test('after close() nothing is read', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    await h.open()
    await h.manager.close()
    const reads = h.store.calls.get
    await h.pass(INTERVAL)
    assert.equal(h.store.calls.get, reads)
  })

  test('while the backend fails, sockets stay open, and one event reports it', async (t) => {
    const h = start(t)
    const sockets = await h.openMany(2)
    await h.other.revokeAll('anna')
    for (const _ of sockets) h.store.fail('get', new Error('down'))
    const before = h.events.length
    await h.pass(INTERVAL)
    assert.equal(await endOf(sockets[0] as Socket), PENDING)
    assert.deepEqual(
      h.events.slice(before).map(({ type }) => type),
      ['store_error'],
    )
    await h.pass(INTERVAL)
    for (const socket of sockets) assert.equal(await endOf(socket), 'end')
  })

  test('one session that cannot be read does not keep the others from being read', async (t) => {
    const h = start(t)
    const sockets = await h.openMany(20)
    await h.other.revokeAll('anna')
    h.store.fail('get', new Error('this one'))
    await h.pass(INTERVAL)
    assert.equal(await endOf(sockets[0] as Socket), PENDING)
    for (const socket of sockets.slice(1)) assert.equal(await endOf(socket), 'end')
  })
})

suite('the expiry of a session', () => {
  test('LIFE-16: is reported when it comes, also if it comes before the next read', async (t) => {
    const h = start(t, { idleTimeout: 10 })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    await h.pass(9)
    assert.equal(await endOf(socket), PENDING)
    await h.pass(1)
    assert.equal(await endOf(socket), 'expired')
  })

  test('is read again when it comes, because a request of another process may have moved it', async (t) => {
    const h = start(t, { idleTimeout: 10 })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    await h.pass(6)
    await h.elsewhere()(() => {})
    const { get } = h.store.calls
    await h.pass(4)
    assert.equal(h.store.calls.get - get, 1)
    await h.pass(4)
    assert.equal(h.store.calls.get - get, 1, 'the expiry that was read is known')
    assert.equal(await endOf(socket), PENDING)
    await h.pass(2)
    assert.equal(await endOf(socket), 'expired')
  })

  test('counts also while the backend fails, which is asked only for a few of many sessions', async (t) => {
    const h = start(t, { idleTimeout: 10 })
    const sockets = await h.openMany(50)
    for (const _ of sockets) h.store.fail('get', new Error('down'))
    const reads = h.store.calls.get
    await h.pass(10)
    for (const socket of sockets) assert.equal(await endOf(socket), 'expired')
    assert.equal(h.store.calls.get - reads, 16)
  })

  test('counts also for one session that cannot be read', async (t) => {
    const h = start(t, { idleTimeout: 10 })
    const sockets = await h.openMany(2)
    h.store.fail('get', new Error('this one'))
    await h.pass(10)
    for (const socket of sockets) assert.equal(await endOf(socket), 'expired')
  })

  test('is told from an end if the backend forgets an expired entry', async (t) => {
    const inner = memoryBackend({ now: clock() })
    let isForgetful = false
    const h = start(t, {
      idleTimeout: 10,
      backend: { ...inner, get: (key) => (isForgetful ? undefined : inner.get(key)) },
    })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    isForgetful = true
    await h.pass(10)
    assert.equal(await endOf(socket), 'expired')
  })

  test('is the absolute one if that comes first', async (t) => {
    const h = start(t, { idleTimeout: 10, absoluteTimeout: 12 })
    await h.visit((s) => s.login('anna'))
    const socket = await h.open()
    await h.pass(9)
    await h.visit(() => {})
    await h.pass(3)
    assert.equal(await endOf(socket), 'expired')
  })
})

suite('signal and stop', () => {
  test('the signal is aborted with the error `ended`, also if it is first used after the end', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const [early, late] = [await h.open(), await h.open()]
    const { signal } = early
    assert.equal(signal.aborted, false)
    await h.visit((s) => s.invalidate())
    await settle()
    const reason = /The session of this socket has ended, because a logout or a revocation ended it\./
    assert.ok(signal.aborted)
    assert.throws(() => signal.throwIfAborted(), { code: 'ended', message: reason })
    assert.equal(late.signal.aborted, true)
    assert.equal((late.signal.reason as { code: string }).code, 'ended')
    assert.equal(late.signal, late.signal)
    assert.equal(early.signal, signal)
  })

  test('after stop no end is reported, also if a read was in progress', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const [stopped, reading] = [await h.open(), await h.open()]
    stopped.stop()
    await h.other.revokeAll('anna')
    const get = h.store.hold('get')
    await h.pass(INTERVAL)
    await get.arrived
    reading.stop()
    reading.stop()
    get.go()
    assert.equal(await endOf(stopped), PENDING)
    assert.equal(await endOf(reading), PENDING)
    assert.equal(reading.signal.aborted, false)
  })

  test('a socket that opens while the last one closes during a read is read too', async (t) => {
    const h = start(t)
    await h.visit((s) => s.login('anna'))
    const first = await h.open()
    const get = h.store.hold('get')
    await h.pass(INTERVAL)
    await get.arrived
    first.stop()
    const second = await h.open()
    get.go()
    await settle()
    const reads = h.store.calls.get
    await h.pass(INTERVAL)
    assert.equal(h.store.calls.get - reads, 1, 'by one timer')
    await h.other.revokeAll('anna')
    await h.pass(INTERVAL)
    assert.equal(await endOf(second), 'end')
  })
})
