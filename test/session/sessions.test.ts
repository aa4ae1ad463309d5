// The middleware: several managers, the properties of a session, and the limits of the memory backend.

import assert from 'node:assert/strict'
import { channel } from 'node:diagnostics_channel'
import { suite, test } from 'node:test'
import { inspect } from 'node:util'
import { backendFromUrl, type SessionEvent, session, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { code } from '../support/assert.ts'
import { clock, DAY } from '../support/clock.ts'
import { setup } from '../support/visits.ts'

suite('sessions', () => {
  test('without a middleware, session() throws a KeepsakeError that names the missing call', async () => {
    const request = new Request('https://app.test/')
    await assert.rejects(session(request), /no session for this request.*sessionManager\(\{ backend \}\)\(handler\)/s)
    await assert.rejects(sessionManager({ backend: 'memory:' }).session(request), code('no_middleware'))
  })
  test('several sessions in one request, each of its own manager', async () => {
    const backend = await backendFromUrl('memory:')
    const account = sessionManager({ backend, cookie: { name: 'account' } })
    const basket = sessionManager({ backend, cookie: { name: 'basket' } })
    const visit = browser(
      account(
        basket(async (request) => {
          const [a, b, innermost] = [
            await account.session(request),
            await basket.session(request),
            await session(request),
          ]
          if (request.url.endsWith('/set')) {
            a.login('anna')
            b.set('items', 3)
          }
          return Response.json([a.owner, b.get('items'), innermost.label === b.label])
        }),
      ),
    )
    await visit('/set')
    assert.deepEqual(await (await visit('/')).json(), ['anna', 3, true])
    assert.deepEqual([...visit.cookies.keys()].sort(), ['__Host-Http-account', '__Host-Http-basket'])
    const swapped = `__Host-Http-basket=${visit.cookies.get('__Host-Http-account')}`
    const other = browser(basket(async (request) => Response.json((await session(request)).owner ?? null)))
    assert.equal(
      await (await other('/', { headers: { cookie: swapped } })).json(),
      null,
      'a key of one manager opens nothing in the other',
    )
  })
  test('one manager around many handlers has one backend', async () => {
    const manager = sessionManager({ backend: 'memory:' })
    const write = manager(async (request) => {
      const s = await session(request)
      s.set('a', 1)
      return new Response()
    })
    const read = manager(async (request) => Response.json((await session(request)).get('a') ?? null))
    const visit = browser((request) => (request.url.endsWith('/write') ? write(request) : read(request)))
    await visit('/write')
    assert.equal(await (await visit('/read')).json(), 1)
  })
  test('a manager can be created without its secret, and throws no_secret at its first use', async () => {
    const handler = async (request: Request) => Response.json((await session(request)).fields)
    const { keepSecret: _, ...backend } = await backendFromUrl('memory:')
    for (const given of ['redis://127.0.0.1:1', 'postgres://127.0.0.1:1/x', 'cookie:', 'cookie:redis://h', backend]) {
      const manager = sessionManager({ backend: given, secret: undefined })
      const route = manager(handler)
      const request = () => new Request('https://app.test/')
      await assert.rejects(manager.ready(), code('no_secret'))
      await assert.rejects(async () => route.ready?.(), code('no_secret'))
      await assert.rejects(async () => route(request()), code('no_secret'))
      await assert.rejects(manager.open(request()), code('no_secret'))
      await assert.rejects(manager.list('anna'), code('no_secret'))
      await assert.rejects(manager.seal('text', 'a test'), code('no_secret'))
      await manager.close()
    }
    assert.throws(() => sessionManager({ backend: 'redis://127.0.0.1:1', secret: 'short' }), code('invalid_option'))
  })
  test('a session has its expiry, its owner and its fields', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => {
      assert.equal(s.expiresAt, h.now() + 14 * DAY)
      assert.equal(s.owner, undefined)
      s.login('anna')
      assert.equal(s.owner, 'anna')
      s.set('a', 1)
      assert.deepEqual({ ...s.fields }, { a: 1 })
    })
    for (let day = 0; day < 22; day++) {
      h.now.tick(DAY)
      await visit((s) => assert.ok(s.expiresAt <= h.now() + 14 * DAY))
    }
    await visit((s) => assert.equal(s.expiresAt, h.now() + 8 * DAY, 'never after the absolute timeout'))
  })
  test('an inspector sees neither the key nor the fields of a session', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('password', 'hunter2'))
    const [key = ''] = visit.browser.cookies.values()
    await visit((s) => {
      for (const shown of [inspect(s, { depth: 9, showHidden: true }), JSON.stringify(s), String(s)]) {
        assert.ok(!shown.includes(key.slice(12)) && !shown.includes('hunter2'), shown)
      }
    })
  })
  test('open and commit give the headers of a request outside a middleware, once', async () => {
    const now = clock()
    const manager = sessionManager({ backend: 'memory:', now })
    const first = await manager.open({ headers: new Headers(), url: 'http://localhost:3000/' })
    first.set('a', 1)
    const done = await first.commit()
    assert.ok(done.ok)
    assert.deepEqual([...done.headers.keys()].sort(), ['cache-control', 'set-cookie', 'vary'])
    const [line = ''] = done.headers.getSetCookie()
    assert.match(line, /^sid-3000=/)
    await assert.rejects(first.commit(), code('too_late'))
    assert.throws(() => first.set('a', 2), code('too_late'))
    const headers = new Headers({ cookie: line.slice(0, line.indexOf(';')) })
    const again = await manager.open({ headers, url: 'http://localhost:3000/' })
    assert.equal(again.get('a'), 1)
    assert.equal(
      (await manager.open({ headers })).get('a'),
      undefined,
      'without a URL, only names with a prefix are read',
    )
    const rival = await manager.open({ headers, url: 'http://localhost:3000/' })
    rival.invalidate()
    await rival.commit()
    again.set('a', 2)
    assert.deepEqual(await again.commit(), { ok: false, error: 'ended' })
  })
  test('events reach the listener and the diagnostics channel, and a listener that throws breaks nothing', async () => {
    const types: string[] = []
    const listen = (event: unknown) => types.push((event as SessionEvent).type)
    channel('keepsake').subscribe(listen)
    const h = await setup({
      onEvent: () => {
        throw new Error('a broken logger')
      },
    })
    const response = await h.visitor().raw((s) => s.set('a', 1))
    channel('keepsake').unsubscribe(listen)
    assert.equal(response.status, 200)
    assert.deepEqual(types, ['created'])
  })
  test('unknown options and impossible values are refused', async () => {
    for (const bad of [
      { lifetme: 60 },
      { idleTimeout: 0 },
      { idleTimeout: -1 },
      { idleTimeout: Number.NaN },
      { idleTimeout: '1 fortnight' },
      { idleTimeout: 41 * 86_400, absoluteTimeout: 40 * 86_400 },
      { absoluteTimeout: 401 * 86_400 },
      { storeTimeout: 0 },
      { maxBytes: 1 },
      { cookie: { httpOnly: false } },
      { cookie: { sameSite: 'none' }, secure: false },
    ]) {
      assert.throws(
        () => sessionManager({ backend: 'memory:', ...(bad as object) }),
        code('invalid_option'),
        JSON.stringify(bad),
      )
    }
    for (const backend of ['mongodb://localhost', '', 'sessions.db', 'MEMORY:', '__proto__:x']) {
      assert.throws(() => sessionManager({ backend }), code('unknown_backend'), backend)
    }
    for (const scheme of [
      'postgres',
      'postgresql',
      'mysql',
      'mariadb',
      'redis',
      'rediss',
      'redis+cluster',
      'redis+sentinel',
    ]) {
      const backend = `${scheme}://user:hunter2@localhost/x`
      const refused = (error: unknown) =>
        (error as { code: string }).code === 'no_secret' && !String(error).includes('hunter2')
      await assert.rejects(sessionManager({ backend }).ready(), refused, `${scheme} keeps no secret`)
      await assert.rejects(sessionManager({ backend: `cookie:${backend}` }).ready(), refused)
      assert.ok(sessionManager({ backend, secret: newSecret() }), 'the manager does not connect before its first use')
    }
    assert.throws(
      () => sessionManager({ backend: 'mongodb://:hunter2@localhost' }),
      (error) => !String(error).includes('hunter2'),
    )
  })
})

suite('the memory backend', () => {
  const entry = (owner?: string, more = {}) => ({
    value: '{}',
    metadata: 'h',
    version: 'versions',
    expiresAt: 1e15,
    owner,
    ...more,
  })
  const key = (i: number) => String(i).padStart(43, 'k')
  test('a full memory backend evicts anonymous sessions before those of owners, with an event for each', () => {
    const types: string[] = []
    const backend = memoryBackend({ maxEntries: 4, onEvent: ({ type }) => types.push(type) })
    backend.generate(key(0), entry('anna'))
    for (let i = 1; i <= 6; i++) backend.generate(key(i), entry())
    assert.deepEqual(types, ['evicted', 'evicted', 'evicted'])
    assert.ok(backend.get(key(0)))
    assert.deepEqual(
      [1, 2, 3, 4, 5, 6].map((i) => backend.get(key(i)) !== undefined),
      [false, false, false, true, true, true],
    )
    backend.touch(key(4), 2e15)
    for (let i = 7; i <= 9; i++) backend.generate(key(i), entry('bert'))
    assert.ok(!backend.get(key(4)) && backend.get(key(0)), 'all anonymous sessions are gone, and none of an owner')
    backend.generate(key(10), entry('carl'))
    assert.ok(!backend.get(key(0)), 'then the session that was written longest ago')
  })
  test('it has a limit in bytes too', () => {
    const types: string[] = []
    const backend = memoryBackend({ maxBytes: 10_000, onEvent: ({ type }) => types.push(type) })
    for (let i = 0; i < 20; i++) backend.generate(key(i), entry(undefined, { value: 'x'.repeat(1000) }))
    assert.ok(types.length >= 10)
    assert.ok(backend.get(key(19)))
  })
  test('the memory backend removes expired entries during writes, without a timer', () => {
    const now = clock()
    const backend = memoryBackend({ now })
    for (let i = 0; i < 100; i++) backend.generate(key(i), entry(undefined, { expiresAt: now() + 1 }))
    now.tick(1)
    for (let i = 100; i < 250; i++) backend.generate(key(i), entry(undefined, { expiresAt: now() + 1e6 }))
    assert.equal(backend.sweep?.(now(), 1000), 0)
    assert.ok(backend.get(key(249)))
  })
  test('impossible limits are refused', () => {
    assert.throws(() => memoryBackend({ maxEntries: 0 }), code('invalid_option'))
    assert.throws(() => memoryBackend({ maxBytes: Number.NaN }), code('invalid_option'))
  })
})
