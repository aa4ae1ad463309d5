// Tenants: `namespace` and `cookie` by request. Nothing of one tenant opens anything at another tenant.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import {
  addFlash,
  type Backend,
  backendFromUrl,
  csrfToken,
  getCookie,
  type IncomingRequest,
  KeepsakeError,
  type SessionEvent,
  type SessionManagerOptions,
  seal,
  session,
  sessionManager,
  setCookie,
  takeFlash,
  unseal,
  verifyCsrfToken,
} from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { type Browser, browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { SECRET as secret } from '../support/requests.ts'
import { stores } from '../support/stores.ts'

/** The tenant of a request is the first label of its host: `acme` of `acme.test`. */
const tenantOf = ({ url }: IncomingRequest): string => /^https:\/\/([^.]+)\./.exec(url ?? '')?.[1] ?? 'none'

type Act = (request: Request) => unknown
type WithCookies = { readonly cookies: () => ReadonlyMap<string, string> }

/** A manager whose namespace is a function, and visitors of each tenant. */
const site = (options: Partial<SessionManagerOptions> & Pick<SessionManagerOptions, 'backend'>) => {
  const events: SessionEvent[] = []
  const manager = sessionManager({
    secret,
    namespace: tenantOf,
    storeTimeout: PATIENT,
    onEvent: (event) => events.push(event),
    ...options,
  })
  let act: Act = () => {}
  const handler = manager(async (request) => {
    const result = await act(request)
    return result instanceof Response ? result : Response.json(result ?? null)
  })
  const resultOf = async (response: Response): Promise<unknown> => (response.ok ? response.json() : response.status)
  const visitorOf = (jar: Browser) => {
    const raw = (next: Act, path = '/') => {
      act = next
      return jar(path)
    }
    return Object.assign(async (next: Act) => resultOf(await raw(next)), { raw, cookies: () => jar.cookies })
  }
  const replayRaw = async (tenant: string, { cookies }: WithCookies, next: Act): Promise<Response> => {
    act = next
    assert.ok(cookies().size > 0)
    const cookie = [...cookies()].map(([name, value]) => `${name}=${value}`).join('; ')
    return handler(new Request(`https://${tenant}.test/`, { headers: { cookie } }))
  }
  return {
    manager,
    events,
    visitor: (tenant: string) => visitorOf(browser(handler, { origin: `https://${tenant}.test` })),
    /** Sends all cookies of a visitor to another tenant. */
    replay: async (tenant: string, one: WithCookies, next: Act) => resultOf(await replayRaw(tenant, one, next)),
    replayRaw,
  }
}

const ownerIn: Act = async (request) => (await session(request)).owner
const fieldsIn: Act = async (request) => (await session(request)).fields
const login =
  (owner: string): Act =>
  async (request) =>
    (await session(request)).login(owner)
const logout: Act = async (request) => (await session(request)).invalidate()
const tokenIn: Act = (request) => csrfToken(request)
const check =
  (token: unknown): Act =>
  async (request) => {
    const result = await verifyCsrfToken(request, token)
    return result.ok ? 'ok' : result.error
  }

const cookies = [
  { name: 'cookie', opener: () => async () => cookieBackend({ secret }) },
  {
    name: 'cookie with ends',
    opener: () => async () => cookieBackend({ secret, ends: await backendFromUrl('memory:') }),
  },
]

for (const { name, opener } of [...stores, ...cookies]) {
  const openStore = async (t: TestContext): Promise<Backend> => opener(t)()
  suite(`TEN-1: on ${name}, with a namespace by request`, () => {
    test('TEN-1: a session opens only at its tenant, and a logout at another tenant does not end it', async (t) => {
      const { visitor, replay } = site({ backend: await openStore(t) })
      const [anna, anonymous] = [visitor('acme'), visitor('acme')]
      await anna(login('anna'))
      await anonymous(async (request) => (await session(request)).set('cart', 1))
      for (const one of [anna, anonymous]) {
        assert.equal(await replay('umbrella', one, ownerIn), null)
        assert.deepEqual(await replay('umbrella', one, fieldsIn), {})
        assert.equal(await replay('umbrella', one, logout), null)
      }
      assert.equal(await anna(ownerIn), 'anna')
      assert.deepEqual(await anonymous(fieldsIn), { cart: 1 })
    })

    test('TEN-1: both keys of a rotation open a session only at its tenant', async (t) => {
      const { visitor, replay } = site({ backend: await openStore(t) })
      const anna = visitor('acme')
      await anna(login('anna'))
      const kept = anna.cookies()
      const previous = { cookies: () => kept }
      await anna(async (request) => (await session(request)).rotateKey())
      for (const one of [previous, anna]) {
        assert.equal(await replay('acme', one, ownerIn), 'anna')
        assert.equal(await replay('umbrella', one, ownerIn), null)
      }
    })

    test('TEN-1: a write after a logout is refused at the tenant of the session, and creates a session at another', async (t) => {
      const backend = await openStore(t)
      const { visitor, replay } = site({ backend })
      const anna = visitor('acme')
      await anna(login('anna'))
      const kept = anna.cookies()
      const copy = { cookies: () => kept }
      await anna(logout)
      const write: Act = async (request) => (await session(request)).set('n', 1)
      const keepsEnds = backend.stateless !== true || backend.revocable === true
      assert.equal(await replay('acme', copy, write), keepsEnds ? 409 : null)
      assert.equal(await replay('umbrella', copy, write), null)
    })

    test('TEN-1: a form token of a session or a pre-session is valid only at its tenant', async (t) => {
      const { visitor, replay } = site({ backend: await openStore(t) })
      const [anna, anonymous] = [visitor('acme'), visitor('acme')]
      await anna(login('anna'))
      for (const one of [anna, anonymous]) {
        const token = await one(tokenIn)
        assert.equal(await one(check(token)), 'ok')
        assert.equal(await replay('umbrella', one, check(token)), 'invalid_token')
        const other = visitor('umbrella')
        await other(tokenIn)
        assert.equal(await other(check(token)), 'invalid_token')
      }
    })

    test('TEN-1: a flash message waits at its tenant', async (t) => {
      const { visitor, replay } = site({ backend: await openStore(t) })
      const [anna, anonymous] = [visitor('acme'), visitor('acme')]
      await anna(login('anna'))
      for (const one of [anna, anonymous]) {
        await one((request) => addFlash(request, 'info', 'for acme'))
        assert.deepEqual(await replay('umbrella', one, takeFlash), [])
        assert.deepEqual(await one(takeFlash), [{ category: 'info', text: 'for acme' }])
      }
    })

    test('TEN-1: a sealed cookie and a sealed text open only at their tenant', async (t) => {
      const { visitor, replay, manager } = site({ backend: await openStore(t) })
      const anna = visitor('acme')
      await anna.raw((request) => setCookie(new Response(), request, 'theme', 'dark'))
      assert.equal(await anna((request) => getCookie(request, 'theme')), 'dark')
      assert.equal(await replay('umbrella', anna, (request) => getCookie(request, 'theme')), null)
      const sealed = (await anna((request) => seal(request, 'text', 'test'))) as string
      const open: Act = (request) => unseal(request, sealed, 'test')
      assert.equal(await anna(open), 'text')
      assert.equal(await replay('umbrella', anna, open), null)
      assert.equal(await manager.tenant('acme').unseal(sealed, 'test'), 'text')
      assert.equal(await manager.tenant('umbrella').unseal(sealed, 'test'), undefined)
    })

    test('TEN-1: a namespace by request opens the sessions of a manager with the same constant namespace', async (t) => {
      const backend = await openStore(t)
      const { replay } = site({ backend })
      // A backend that is given as an object has a namespace of its own, so a constant manager needs the same one.
      const one = site({ backend: backend.forNamespace?.('acme') ?? backend, namespace: 'acme' })
      const anna = one.visitor('acme')
      await anna(login('anna'))
      assert.equal(await replay('acme', anna, ownerIn), 'anna')
      assert.equal(await replay('umbrella', anna, ownerIn), null)
    })

    test('TEN-1: revoke ends a session only at its tenant, or refuses if the backend remembers no ends', async (t) => {
      const backend = await openStore(t)
      const { visitor, manager } = site({ backend })
      const anna = visitor('acme')
      await anna(login('anna'))
      const label = (await anna(async (request) => (await session(request)).label)) as string
      if (backend.stateless && !backend.revocable) {
        for (const tenant of ['umbrella', 'acme']) {
          await assert.rejects(manager.tenant(tenant).revoke(label), code('invalid_option'))
        }
        assert.equal(await anna(ownerIn), 'anna')
        return
      }
      await manager.tenant('umbrella').revoke(label)
      assert.equal(await anna(ownerIn), 'anna')
      await manager.tenant('acme').revoke(label)
      assert.equal(await anna(ownerIn), null)
    })

    test('TEN-1: list, revokeAll and maxSessionsPerOwner know only the owners of one tenant, or refuse', async (t) => {
      const backend = await openStore(t)
      if (backend.byOwner === undefined) {
        const one = site({ backend }).manager.tenant('acme')
        await assert.rejects(one.list('anna'), code('invalid_option'))
        await assert.rejects(one.revokeAll('anna'), code('invalid_option'))
        await assert.rejects(site({ backend, maxSessionsPerOwner: 1 }).manager.ready(), code('invalid_option'))
        return
      }
      const { visitor, manager } = site({ backend, maxSessionsPerOwner: 1 })
      const [acme, umbrella] = [visitor('acme'), visitor('umbrella')]
      await acme(login('anna'))
      await umbrella(login('anna'))
      for (const tenant of ['acme', 'umbrella']) {
        assert.equal((await manager.tenant(tenant).list('anna')).length, 1, tenant)
      }
      assert.equal(await manager.tenant('umbrella').revokeAll('anna'), 1)
      assert.equal(await umbrella(ownerIn), null)
      assert.equal(await acme(ownerIn), 'anna')
      assert.deepEqual(await manager.tenant('umbrella').list('anna'), [])
      assert.equal((await manager.tenant({ headers: new Headers(), url: 'https://acme.test/' }).list('anna')).length, 1)
    })
  })
}

test('the names of tenants that look alike are different namespaces', async () => {
  const names = ['a', 'A', 'a:', 'a%3A', '_a', '', ' ', 'a.b', '\u00e4', 'a\u0308', 'a=b', ';a', '1:a']
  for (const backend of [await backendFromUrl('memory:'), cookieBackend({ secret })]) {
    let namespace = ''
    const { visitor, replay } = site({ backend, namespace: () => namespace })
    for (const owner of names) {
      namespace = owner
      const visit = visitor('acme')
      await visit(login('anna'))
      for (const other of names) {
        namespace = other
        assert.equal(await replay('acme', visit, ownerIn), other === owner ? 'anna' : null, `${owner} at ${other}`)
      }
    }
  }
})

suite('the functions namespace and cookie', () => {
  test('run once for each request, however much of it uses the tenant', async () => {
    const counts = { namespace: 0, cookie: 0 }
    const { visitor, manager } = site({
      backend: 'memory:',
      namespace: (request) => {
        counts.namespace++
        return tenantOf(request)
      },
      cookie: () => {
        counts.cookie++
        return { name: 'id' }
      },
    })
    await visitor('acme').raw(async (request) => {
      const s = await session(request)
      s.login('anna')
      await csrfToken(request)
      await unseal(request, await seal(request, 'text', 'test'), 'test')
      await manager.tenant(request).list('anna')
      await getCookie(request, 'theme')
      return setCookie(new Response(), request, 'theme', 'dark')
    })
    assert.deepEqual(counts, { namespace: 1, cookie: 1 })
    await visitor('acme')(() => {})
    assert.deepEqual(counts, { namespace: 1, cookie: 1 }, 'and not for a request that uses no session')
  })

  test('choose name, domain, path, sameSite and partitioned of the cookies by request', async () => {
    const { visitor } = site({
      backend: 'memory:',
      cookie: (request) =>
        tenantOf(request) === 'acme'
          ? { name: 'acme', domain: 'acme.test', sameSite: 'strict' }
          : { name: 'id', path: '/shop', sameSite: 'none', partitioned: true },
    })
    const set: Act = async (request) => (await session(request)).set('n', 1)
    const linesAt = async (tenant: string, path: string) =>
      (await visitor(tenant).raw(set, path)).headers.getSetCookie()
    const [acme = ''] = await linesAt('acme', '/')
    assert.match(acme, /^__Secure-acme=.*; Path=\/; Domain=acme\.test; Secure; HttpOnly; SameSite=Strict$/)
    const [umbrella = ''] = await linesAt('umbrella', '/shop')
    assert.match(umbrella, /^__Secure-id=.*; Path=\/shop; Secure; HttpOnly; SameSite=None; Partitioned$/)
    const outside = await visitor('umbrella').raw(set, '/')
    assert.equal(outside.status, 409, 'the path of the request is outside of the path of its cookie')
    assert.deepEqual(outside.headers.getSetCookie(), [])
  })

  test('a session cookie of another name does not count', async () => {
    const { visitor, replay } = site({
      backend: 'memory:',
      namespace: 'shop',
      cookie: (request) => ({ name: tenantOf(request) }),
    })
    const anna = visitor('acme')
    await anna(login('anna'))
    assert.equal(await anna(ownerIn), 'anna')
    assert.equal(await replay('umbrella', anna, ownerIn), null)
  })

  test('work with open, and in a middleware inside another', async () => {
    const backend = await backendFromUrl('memory:')
    const { manager } = site({ backend })
    const headersOf = (line: string | null) => new Headers({ cookie: (line ?? '').split(';')[0] ?? '' })
    const s = await manager.open({ headers: new Headers(), url: 'https://acme.test/' })
    s.login('anna')
    const result = await s.commit()
    assert.ok(result.ok)
    const headers = headersOf(result.headers.get('set-cookie'))
    assert.equal((await manager.open({ headers, url: 'https://acme.test/' })).owner, 'anna')
    assert.equal((await manager.open({ headers, url: 'https://umbrella.test/' })).owner, undefined)
    assert.equal((await manager.open({ headers })).owner, undefined)
    const outer = sessionManager({ backend: 'memory:', cookie: { name: 'outer' } })
    const handler = outer(
      manager(async (request) => {
        const both = [await session(request), await outer.session(request), await manager.session(request)] as const
        return Response.json(both.map(({ owner }) => owner ?? null))
      }),
    )
    const response = await handler(new Request('https://acme.test/', { headers }))
    assert.deepEqual(await response.json(), ['anna', null, 'anna'])
  })

  const wrong = [
    { namespace: () => undefined },
    { namespace: () => null },
    { namespace: () => 7 },
    { namespace: () => '\ud800' },
    { namespace: () => 'n'.repeat(1001) },
    { namespace: async () => 'acme' },
    { namespace: () => Promise.reject(new Error('a table that is down')) },
    ...[
      undefined,
      null,
      'id',
      { name: '__Host-id' },
      { name: 'id-pre' },
      { name: 'a b' },
      { name: 1 },
      { domain: 'localhost' },
      { domain: null },
      { domain: '' },
      { path: 'shop' },
      { path: '/; Domain=other.test' },
      { sameSite: 'no' },
      { priority: 'highest' },
      { httpOnly: false },
      { secure: false },
      { maxAge: 60 },
    ].map((value) => ({ namespace: 'acme', cookie: () => value })),
    { namespace: 'acme', cookie: async () => ({}) },
  ]
  for (const [number, options] of wrong.entries()) {
    test(`TEN-2: a request that gets a wrong value is an invalid_option, ${Object.keys(options).at(-1)} ${number + 1}`, async () => {
      const backend = await backendFromUrl('memory:')
      const { visitor, manager } = site({ backend, ...(options as object) })
      const errors: unknown[] = []
      const reject: Act = async (request) => {
        await assert.rejects(session(request), (error) => errors.push(error) > 0)
        await assert.rejects(setCookie(new Response(), request, 'theme', 'dark'), code('invalid_option'))
        return 'the error was caught'
      }
      const visit = visitor('acme')
      const response = await visit.raw(reject)
      assert.ok(errors[0] instanceof KeepsakeError && errors[0].code === 'invalid_option')
      assert.deepEqual(response.headers.getSetCookie(), [])
      await assert.rejects(visit(login('anna')), code('invalid_option'))
      const flash = await visit.raw((request) => addFlash(request, 'info', 'text'))
      assert.equal(flash.status, 500)
      assert.deepEqual(flash.headers.getSetCookie(), [])
      await assert.rejects(manager.open({ headers: new Headers() }), code('invalid_option'))
      assert.deepEqual((await backend.scan?.(undefined, 10))?.entries, [])
    })
  }

  test('a value that is wrong at one tenant changes nothing at another', async () => {
    const { visitor } = site({
      backend: 'memory:',
      namespace: (request) => (tenantOf(request) === 'acme' ? 'acme' : (undefined as unknown as string)),
    })
    const anna = visitor('acme')
    await anna(login('anna'))
    await assert.rejects(visitor('umbrella')(login('anna')), code('invalid_option'))
    assert.equal(await anna(ownerIn), 'anna')
  })

  test('may throw an error or a Response, which the middleware passes on', async () => {
    const { visitor } = site({
      backend: 'memory:',
      namespace: (request) => {
        if (tenantOf(request) === 'acme') return 'acme'
        throw new Response('There is no such shop.', { status: 404 })
      },
    })
    assert.equal(await visitor('umbrella')(ownerIn), 404)
    assert.equal(await visitor('acme')(ownerIn), null)
    const failing = site({
      backend: 'memory:',
      namespace: () => {
        throw new TypeError('no host')
      },
    })
    await assert.rejects(failing.visitor('acme')(ownerIn), TypeError)
  })

  test('a cookie object that changes after it was returned counts as a new value', async () => {
    const cookie = { name: 'one' }
    const { visitor } = site({ backend: 'memory:', cookie: () => cookie })
    const set: Act = async (request) => (await session(request)).set('n', 1)
    assert.match((await visitor('acme').raw(set)).headers.get('set-cookie') ?? '', /^__Host-Http-one=/)
    cookie.name = 'two'
    assert.match((await visitor('acme').raw(set)).headers.get('set-cookie') ?? '', /^__Host-Http-two=/)
    cookie.name = 'two words'
    await assert.rejects(visitor('acme')(set), code('invalid_option'))
  })

  test('a change of a returned cookie object does not change an equal one of another request', async () => {
    const first: { name: string; domain?: string } = { name: 'id' }
    const returned = [first, { name: 'id' }]
    const { manager } = site({ backend: 'memory:', cookie: () => returned.shift() as object })
    const cookiesAt = async () => {
      const s = await manager.open({ headers: new Headers(), url: 'https://acme.test/' })
      s.set('n', 1)
      const result = await s.commit()
      return result.ok ? result.cookies.map(({ attributes }) => attributes.domain) : []
    }
    assert.deepEqual(await cookiesAt(), [undefined])
    first.domain = 'umbrella.test'
    assert.deepEqual(await cookiesAt(), [undefined])
  })

  test('with more tenants and cookies than the caches keep, each tenant still has its own sessions', async () => {
    const { visitor } = site({ backend: 'memory:', cookie: (request) => ({ name: `id-${tenantOf(request)}` }) })
    const first = visitor('t0')
    await first(login('anna'))
    for (let i = 1; i <= 2_500; i++) assert.equal(await visitor(`t${i}`)(ownerIn), null)
    assert.equal(await first(ownerIn), 'anna')
  })
})

suite('without a request', () => {
  test('the methods of a manager throw if the namespace is a function, and name the way', async () => {
    const { manager } = site({ backend: 'memory:' })
    const calls = {
      list: () => manager.list('anna'),
      revoke: () => manager.revoke('aaaaaaaaaaaa'),
      revokeAll: () => manager.revokeAll('anna'),
      seal: () => manager.seal('text', 'test'),
      unseal: () => manager.unseal('text', 'test'),
    }
    for (const [method, call] of Object.entries(calls)) {
      await assert.rejects(call, (error: unknown) => {
        assert.ok(error instanceof KeepsakeError && error.code === 'invalid_option')
        assert.ok(error.message.includes(`manager.tenant(request).${method}()`), error.message)
        return true
      })
    }
  })

  test('tenant() needs a namespace or a request, and an option namespace that is a function', async () => {
    const { manager } = site({ backend: 'memory:' })
    for (const wrong of [undefined, null, 7, {}, '\ud800']) {
      assert.throws(() => manager.tenant(wrong as never), code('invalid_option'))
    }
    assert.equal(manager.tenant('acme').namespace, 'acme')
    assert.equal(manager.tenant(new Request('https://acme.test/')).namespace, 'acme')
    const constant = sessionManager({ backend: 'memory:' })
    assert.throws(() => constant.tenant('sid'), code('invalid_option'))
  })

  test('a cookie by request needs the option namespace', () => {
    const cookie = () => ({ name: 'id' })
    assert.throws(() => sessionManager({ backend: 'memory:', cookie }), code('invalid_option'))
    sessionManager({ backend: 'memory:', cookie, namespace: 'shop' })
  })

  test('a backend that seals for one namespace only is refused', async () => {
    const { forNamespace: _, ...backend } = cookieBackend({ secret })
    const { manager, visitor } = site({ backend })
    await assert.rejects(manager.ready(), code('invalid_option'))
    await assert.rejects(visitor('acme')(login('anna')), code('invalid_option'))
  })

  test('sweep removes the expired sessions of all tenants, and its events name the tenant and the owner', async () => {
    const now = clock(Date.now())
    const backend = await backendFromUrl('sqlite::memory:')
    const { manager, visitor, events } = site({ backend, now, autoSweep: false })
    await visitor('acme')(login('anna'))
    await visitor('umbrella')(login('ben'))
    // The sweep goes by the earlier of the clocks, so the entries become old.
    for (const { key, ...entry } of (await backend.scan?.(undefined, 10))?.entries ?? []) {
      await backend.clear(key)
      await backend.generate(key, { ...entry, expiresAt: now() - 2 * DAY })
    }
    assert.equal(await manager.sweep(), 2)
    const ended = events.flatMap(({ type, namespace, owner }) =>
      type === 'timed_out' ? [`${namespace}/${owner}`] : [],
    )
    assert.deepEqual(ended.sort(), ['acme/anna', 'umbrella/ben'])
    assert.deepEqual((await backend.scan?.(undefined, 10))?.entries, [])
  })
})

test('an event of a request has the namespace if it is by request, and only then', async () => {
  for (const { namespace, expected } of [
    { namespace: tenantOf, expected: 'acme' },
    { namespace: 'constant', expected: undefined },
  ]) {
    const { visitor, events } = site({ backend: 'memory:', namespace })
    const anna = visitor('acme')
    await anna(login('anna'))
    await anna(logout)
    assert.deepEqual(
      events.map((event) => [event.type, event.namespace]),
      [
        ['login', expected],
        ['invalidated', expected],
      ],
    )
  }
})

test('if the backend is down, a logout still clears the cookie of its tenant', async () => {
  const backend = await backendFromUrl('memory:')
  const down = {
    ...backend,
    get: () => Promise.reject(new Error('down')),
    clear: () => Promise.reject(new Error('down')),
  }
  const cookie = (request: IncomingRequest) => ({ name: `id-${tenantOf(request)}` })
  const anna = site({ backend, cookie }).visitor('acme')
  await anna(login('anna'))
  for (const store of [down, 'sqlite:/there/is/no/such/folder/sessions.db']) {
    const { replayRaw } = site({ backend: store, cookie })
    const response = await replayRaw('acme', anna, logout)
    assert.equal(response.status, 503)
    assert.match(response.headers.get('set-cookie') ?? '', /^__Host-Http-id-acme=; Max-Age=0;/)
  }
})

for (const backend of ['cookie:', 'cookie:memory:']) {
  test(`TEN-1: on the URL ${backend}, a session opens only at its tenant, or with the constant namespace of its tenant`, async () => {
    const { visitor, replay } = site({ backend })
    const anna = visitor('acme')
    await anna(login('anna'))
    assert.equal(await anna(ownerIn), 'anna')
    assert.equal(await replay('umbrella', anna, ownerIn), null)
    for (const [namespace, expected] of [
      ['acme', 'anna'],
      ['umbrella', null],
    ] as const) {
      assert.equal(await site({ backend, namespace }).replay('acme', anna, ownerIn), expected)
    }
  })
}
