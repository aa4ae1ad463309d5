// A logout ends the session of its key in every state of it, or answers with an error, and never with 200.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  type Backend,
  backendFromUrl,
  type Entry,
  type EventType,
  KeepsakeError,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { clock, SECOND } from '../support/clock.ts'
import { NAME } from '../support/requests.ts'
import { stores } from '../support/stores.ts'
import { setup, setupSession } from '../support/visits.ts'

const HOUR = 3_600 * SECOND
const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'

const schema = (version: number) => ({
  '~standard': {
    version: 1 as const,
    vendor: 'test',
    validate: (fields: unknown) =>
      (fields as { v?: number }).v === version ? { value: fields } : { issues: [{ message: 'another version' }] },
  },
})

/** The pages of an application on one of its servers, with that server's options. */
const server = (backend: Backend | string, options: Partial<SessionManagerOptions> = {}) => {
  const types: EventType[] = []
  const manager = sessionManager({
    backend,
    secret,
    onEvent: ({ type }) => types.push(type),
    ...options,
  } as SessionManagerOptions)
  const page = manager(async (request) => {
    const s = await session(request)
    const { pathname } = new URL(request.url)
    if (pathname === '/login') {
      s.login('anna')
      s.set('v', 2)
    }
    if (pathname === '/other') s.login('ben')
    if (pathname === '/logout') s.invalidate()
    if (pathname === '/write') s.set('v', 3)
    return Response.json(s.owner ?? null)
  })
  return { manager, page, types }
}

const unreadable: Record<
  string,
  readonly [here: Partial<SessionManagerOptions>, there: Partial<SessionManagerOptions>]
> = {
  'whose clock is two hours behind': [{}, { now: () => Date.now() - 2 * HOUR }],
  'whose clock is two hours ahead of a session of one hour': [
    { idleTimeout: 3600 },
    { idleTimeout: 3600, now: () => Date.now() + 2 * HOUR },
  ],
  'with the schema of an older deployment': [{ schema: schema(2) }, { schema: schema(1) }],
}

for (const { name, opener } of stores.filter(({ name }) => ['memory', 'sqlite'].includes(name))) {
  suite(`on ${name}, at a server that cannot read the session`, () => {
    for (const [reason, [here, there]] of Object.entries(unreadable)) {
      test(`${reason}: a logout ends it for every copy of its key`, async (t) => {
        const backend = await opener(t)()
        const [good, bad] = [server(backend, here), server(backend, there)]
        const visit = browser(good.page)
        await visit('/login')
        const thief = visit.copy()
        const out = await visit.copy(bad.page)('/logout')
        assert.equal(out.status, 200)
        assert.match(out.headers.get('set-cookie') ?? '', /Max-Age=0/)
        assert.equal(await (await thief('/')).json(), null)
      })
      test(`${reason}: a login ends it`, async (t) => {
        const backend = await opener(t)()
        const [good, bad] = [server(backend, here), server(backend, there)]
        const visit = browser(good.page)
        await visit('/login')
        const thief = visit.copy()
        // The schema of the older deployment accepts only its own fields, or none.
        assert.equal((await visit.copy(bad.page)('/other')).status, 200)
        assert.equal(await (await thief('/')).json(), null)
      })
      test(`${reason}: a read and a sweep leave it unchanged`, async (t) => {
        const backend = await opener(t)()
        const [good, bad] = [server(backend, here), server(backend, there)]
        const visit = browser(good.page)
        await visit('/login')
        await visit.copy(bad.page)('/')
        await bad.manager.sweep()
        assert.equal(await (await visit('/')).json(), 'anna')
      })
    }
  })
}

test('a login ends the session that expires during the request, because the clock may be wrong', async () => {
  const h = await setup({ idleTimeout: 3600 })
  const visit = h.visitor()
  await visit((s) => s.login('anna'))
  const thief = visit.withSameCookies()
  await visit((s) => {
    s.login('ben')
    h.now.tick(2 * HOUR)
  })
  h.now.tick(-2 * HOUR)
  assert.equal(await thief((s) => s.owner), undefined)
})

test('a server whose clock is behind does not replace the cookie of a session from its future', async () => {
  const backend = await backendFromUrl('memory:')
  const [good, bad] = [server(backend), server(backend, { now: () => Date.now() - 2 * HOUR })]
  const visit = browser(good.page)
  await visit('/login')
  const response = await visit.copy(bad.page)('/write')
  assert.equal(response.status, 503)
  assert.deepEqual(response.headers.getSetCookie(), [])
  assert.ok(bad.types.includes('clock_skew'))
})

test('if two cookies open two sessions, a logout ends both', async () => {
  const { page } = server(await backendFromUrl('memory:'))
  const [anna, planted] = [browser(page), browser(page)]
  await anna('/login')
  await planted('/login')
  const both = [anna, planted].map((visit) => `${NAME}=${visit.cookies.get(NAME)}`)
  const out = await browser(page)('/logout', { headers: { cookie: both.join('; ') } })
  assert.equal(out.status, 200)
  for (const visit of [anna, planted]) assert.equal(await (await visit('/')).json(), null)
})

test('a key that a rotation retired can end its session, and cannot read it', async () => {
  const { h, visit } = await setupSession({}, (s) => s.login('anna'))
  const old = visit.withSameCookies()
  await visit((s) => s.rotateKey())
  await visit(() => {})
  h.now.tick(31 * SECOND)
  assert.equal(await old((s) => s.owner), undefined)
  assert.equal((await old.raw((s) => s.invalidate())).status, 200)
  assert.equal(await visit((s) => s.owner), undefined)
})

test('a key with a wrong secret ends nothing, and its cookie is cleared', async () => {
  const { h, visit } = await setupSession({}, (s) => s.login('anna'))
  const key = visit.browser.cookies.get(NAME) ?? ''
  const forged = key.slice(0, 12) + (key[12] === 'A' ? 'B' : 'A') + key.slice(13)
  const out = await h.visitor().raw((s) => s.invalidate(), { headers: { cookie: `${NAME}=${forged}` } })
  assert.equal(out.status, 200)
  assert.match(out.headers.get('set-cookie') ?? '', /Max-Age=0/)
  assert.equal(await visit((s) => s.owner), 'anna')
})

suite('an entry that this version cannot read', () => {
  /** The backend with this damage in each entry that it returns. */
  const damageReads = (inner: Backend, damage: Partial<Entry>): Backend => ({
    ...inner,
    get: async (key) => {
      const entry = await inner.get(key)
      return entry && { ...entry, ...damage }
    },
  })
  const unreadableMetadata = { 'of a newer version': '9.x', empty: '', damaged: '1.!.' }
  for (const [kind, metadata] of Object.entries(unreadableMetadata)) {
    for (const path of ['/logout', '/other']) {
      test(`metadata ${kind}: ${path} answers 503, emits end_failed, and clears the cookie`, async () => {
        const inner = await backendFromUrl('memory:')
        const one = server(inner)
        const visit = browser(one.page)
        await visit('/login')
        const two = server(damageReads(inner, { metadata }))
        const out = await visit.copy(two.page)(path)
        assert.equal(out.status, 503)
        assert.match(out.headers.get('set-cookie') ?? '', /Max-Age=0/)
        assert.ok(two.types.includes('end_failed'))
        assert.equal(await (await visit('/')).json(), 'anna', 'a label alone cannot end a session')
      })
    }
  }
  test('damaged fields: the right secret ends the session', async () => {
    const inner = await backendFromUrl('memory:')
    const one = server(inner)
    const visit = browser(one.page)
    await visit('/login')
    const broken = server(damageReads(inner, { value: '{"v":' }))
    assert.equal((await visit.copy(broken.page)('/logout')).status, 200)
    assert.equal(await (await visit('/')).json(), null)
  })
})

suite('while reads of the backend fail', () => {
  const down = async () => {
    const inner = await backendFromUrl('memory:')
    let broken = 0
    const backend: Backend = {
      ...inner,
      get: async (key) => {
        if (broken > 0 && broken--) throw new Error('down')
        return inner.get(key)
      },
    }
    return { backend, fail: (times: number) => (broken = times) }
  }
  for (const onStoreError of ['fail', 'anonymous'] as const) {
    test(`${onStoreError}: a logout clears the cookie, and answers 503`, async () => {
      const { backend, fail } = await down()
      const { page, types } = server(backend, { onStoreError })
      const visit = browser(page)
      await visit('/login')
      const thief = visit.copy()
      fail(2)
      const out = await visit('/logout')
      assert.equal(out.status, 503)
      assert.equal(visit.cookies.size, 0)
      assert.ok(types.includes('end_failed'))
      assert.equal(await (await thief('/')).json(), 'anna')
    })
    test(`${onStoreError}: a logout reads once more, and ends the session if that succeeds`, async () => {
      const { backend, fail } = await down()
      const visit = browser(server(backend, { onStoreError }).page)
      await visit('/login')
      const thief = visit.copy()
      fail(1)
      assert.equal((await visit('/logout')).status, 200)
      assert.equal(visit.cookies.size, 0)
      assert.equal(await (await thief('/')).json(), null)
    })
  }
  test('a backend that cannot be opened does not prevent a logout from clearing the cookie', async () => {
    const { page } = server('sqlite:/nowhere/at/all.db')
    const out = await browser(page)('/logout', { headers: { cookie: `${NAME}=${'A'.repeat(43)}` } })
    assert.equal(out.status, 503)
    assert.match(out.headers.get('set-cookie') ?? '', /Max-Age=0/)
  })
  test('outside a middleware, the error has the headers that clear the cookie', async () => {
    const now = clock()
    const inner = await backendFromUrl('memory:')
    const manager = sessionManager({
      backend: {
        ...inner,
        clear: async () => {
          throw new Error('down')
        },
      },
      secret,
      now,
    })
    const arrive = (cookie = '') => manager.open({ url: 'https://app.test/', headers: new Headers({ cookie }) })
    const first = await arrive()
    first.set('a', 1)
    const done = await first.commit()
    const s = await arrive(done.ok ? (done.headers.get('set-cookie')?.split(';')[0] ?? '') : '')
    s.invalidate()
    await assert.rejects(s.commit(), (error) => {
      assert.ok(error instanceof KeepsakeError)
      assert.match(error.headers?.get('set-cookie') ?? '', /Max-Age=0/)
      return true
    })
  })
})

suite('after the first change of a request', () => {
  /** A backend with an operation that fails once the test calls `arm`. */
  const failing = async (operation: 'get' | 'generate' | 'clear' | 'list') => {
    const inner = await backendFromUrl('memory:')
    let armed = false
    const wrap =
      <A extends unknown[], R>(name: string, call: (...args: A) => R) =>
      async (...args: A): Promise<Awaited<R>> => {
        if (armed && name === operation) throw new Error('connection reset')
        return await call(...args)
      }
    const owned = inner.byOwner ?? assert.fail()
    const backend: Backend = {
      ...inner,
      get: wrap('get', inner.get),
      generate: wrap('generate', inner.generate),
      clear: wrap('clear', inner.clear),
      byOwner: { ...owned, list: wrap('list', owned.list) },
    }
    return { inner, backend, arm: () => (armed = true) }
  }
  test('a login succeeds although the list of its owner cannot be read', async () => {
    const { backend, arm } = await failing('list')
    const { page, types } = server(backend, { maxSessionsPerOwner: 3 })
    const visit = browser(page)
    await visit('/login')
    arm()
    assert.equal((await visit('/other')).status, 200)
    assert.equal(await (await visit('/')).json(), 'ben')
    assert.ok(types.includes('store_error'))
  })
  for (const operation of ['get', 'clear'] as const) {
    test(`a failure of ${operation} does not claim that nothing was changed`, async () => {
      const { backend, arm } = await failing(operation)
      const h = await setup({ backend, secret })
      const visit = h.visitor()
      await visit((s) => s.login('anna'))
      // The login has created the new session when it finds that the previous one changed, and reads or ends that.
      const held = h.hold('generate')
      const login = visit.otherProcess().raw((s) => s.login('ben'))
      await held.arrived
      await visit((s) => s.set('a', 1))
      arm()
      held.go()
      assert.equal((await login).status, 503)
      const error = h.events
        .map((event) => (event as { error?: KeepsakeError }).error)
        .find((error) => error instanceof KeepsakeError)
      assert.equal(error?.code, 'unknown_outcome')
    })
  }
})
