// Requests that only look: with `extend: false` a request reads or changes its session and does not prolong it.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import type { SessionManager, SessionManagerOptions } from 'keepsake'
import { addFlash, backendFromUrl, csrfToken, session, sessionManager, takeFlash, verifyCsrfToken } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { type Browser, browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { NAME, SECRET } from '../support/requests.ts'
import { stores } from '../support/stores.ts'
import { watched } from '../support/watched.ts'

type Act = (request: Request, manager: SessionManager) => unknown

/** A manager with sessions of 14 days, and visitors whose handlers are functions of the test. */
const setup = async (options: Partial<SessionManagerOptions> = {}) => {
  const now = clock()
  const { backend: given, ...others } = options
  const watch = watched(typeof given === 'object' && 'get' in given ? given : await backendFromUrl('memory:', { now }))
  const manager = sessionManager({
    ...{ now, storeTimeout: PATIENT, secret: SECRET, idleTimeout: 14 * 86_400 },
    ...others,
    backend: watch.backend,
  })
  let act: Act = () => {}
  let result: unknown
  const handler = manager(async (request) => {
    result = await act(request, manager)
    return new Response()
  })
  const visitorOf = (jar: Browser) => ({
    jar,
    /** Sends one request, whose handler is `next`. Returns its result and its response. */
    async visit<T>(next: (...args: Parameters<Act>) => T, init: RequestInit = {}) {
      act = next
      const response = await jar('/', init)
      assert.ok(response.ok, `${response.status}`)
      return { result: result as Awaited<T>, cookies: response.headers.getSetCookie() }
    },
    copy: () => visitorOf(jar.copy()),
  })
  return { ...watch, now, manager, visitor: () => visitorOf(browser(handler, { now })) }
}

const look = async (request: Request) => session(request, { extend: false })
const expiry = async (request: Request) => (await look(request)).expiresAt
const logIn = async (request: Request) => {
  const s = await session(request)
  s.login('anna')
  s.set('n', 1)
  return s.expiresAt
}
const use = async (request: Request) => (await session(request)).owner

for (const { name, opener } of [
  ...stores.filter(({ far }) => !far),
  { name: 'cookie', opener: () => async () => cookieBackend({ secret: SECRET }) },
]) {
  /** The backend of a manager in memory has the manager's clock. */
  const options = async (t: TestContext) => (name === 'memory' ? {} : { backend: await opener(t)() })

  suite(`on ${name}, a request that only looks`, () => {
    test('leaves the expiry as it is, and sends no cookie', async (t) => {
      const h = await setup(await options(t))
      const { visit } = h.visitor()
      const { result: end } = await visit(logIn)
      h.now.tick(13 * DAY)
      const { touch, set } = h.calls
      const looked = await visit(async (request) => {
        const s = await look(request)
        return [s.owner, s.get('n'), s.expiresAt]
      })
      assert.deepEqual(looked, { result: ['anna', 1, end], cookies: [] })
      assert.deepEqual([h.calls.touch, h.calls.set], [touch, set])
      h.now.tick(DAY)
      assert.equal((await visit(use)).result, undefined)
    })

    test('saves a change, and leaves the expiry as it is', async (t) => {
      const h = await setup(await options(t))
      const { visit } = h.visitor()
      const { result: end } = await visit(logIn)
      h.now.tick(13 * DAY)
      await visit(async (request) => (await look(request)).set('n', 2))
      const { result } = await visit(async (request) => {
        const s = await look(request)
        return [s.get('n'), s.expiresAt]
      })
      assert.deepEqual(result, [2, end])
      h.now.tick(DAY)
      assert.equal((await visit(use)).result, undefined)
    })

    test('extends the session if another caller of the request asks for it as usual, before or after it', async (t) => {
      const h = await setup(await options(t))
      for (const callers of [
        [look, use],
        [use, look],
      ]) {
        const { visit } = h.visitor()
        await visit(logIn)
        h.now.tick(13 * DAY)
        await visit((request) => Promise.all(callers.map((caller) => caller(request))))
        assert.equal((await visit(expiry)).result, h.now() + 14 * DAY)
      }
    })

    test('and that a browser marks as a prefetch leaves the expiry as it is, however it asks', async (t) => {
      const h = await setup(await options(t))
      const { visit } = h.visitor()
      const { result: end } = await visit(logIn)
      h.now.tick(13 * DAY)
      const headers = { 'sec-purpose': 'prefetch' }
      const { result, cookies } = await visit(async (request) => (await session(request)).expiresAt, { headers })
      assert.deepEqual([result, cookies], [end, []])
      await visit(async (request) => (await session(request)).set('n', 2), { headers })
      assert.equal((await visit(expiry)).result, end)
    })
  })
}

suite('a request that only looks', () => {
  test('has the stored end as expiresAt, until another caller asks as usual', async () => {
    const h = await setup()
    const { visit } = h.visitor()
    const { result: end } = await visit(logIn)
    h.now.tick(10 * DAY)
    const { result } = await visit(async (request) => {
      const s = await look(request)
      const before = s.expiresAt
      await use(request)
      return [before, s.expiresAt]
    })
    assert.deepEqual(result, [end, h.now() + 14 * DAY])
  })

  test('has the absolute end as expiresAt, if a shorter absoluteTimeout was configured since', async () => {
    const h = await setup()
    const { visit, jar } = h.visitor()
    const { result: end } = await visit(logIn)
    const created = end - 14 * DAY
    const shorter = sessionManager({
      ...{ backend: h.backend, secret: SECRET, now: h.now, storeTimeout: PATIENT },
      ...{ idleTimeout: 3600, absoluteTimeout: 7200 },
    })
    const cookie = [...jar.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const s = await shorter.open({ headers: new Headers({ cookie }) }, { extend: false })
    assert.equal(s.expiresAt, created + 7_200_000)
  })

  test('does not count as seen, also if it saves something', async () => {
    const h = await setup({ lastSeenInterval: 60 })
    const { visit } = h.visitor()
    await visit(logIn)
    const seen = async () => (await h.manager.list('anna'))[0]?.lastSeenAt
    const loggedIn = h.now()
    h.now.tick(DAY)
    await visit(look)
    assert.equal(await seen(), loggedIn)
    await visit(async (request) => (await look(request)).set('n', 2))
    assert.equal(await seen(), loggedIn)
    await visit((request) => addFlash(request, 'info', 'x'))
    await visit(use)
    assert.equal(await seen(), h.now())
    const before = h.now()
    h.now.tick(DAY)
    const { result } = await visit(async (request) => {
      await look(request)
      return takeFlash(request)
    })
    assert.equal(result.length, 1)
    assert.equal(await seen(), before)
  })

  test('may use flash messages and form tokens. Alone these extend the session', async () => {
    const h = await setup()
    const { visit } = h.visitor()
    const { result: end } = await visit(logIn)
    h.now.tick(13 * DAY)
    const helpers = async (request: Request) => {
      addFlash(request, 'info', 'Saved.')
      await takeFlash(request)
      return verifyCsrfToken(request, await csrfToken(request))
    }
    await visit((request) => Promise.all([helpers(request), look(request)]))
    assert.equal((await visit(expiry)).result, end)
    await visit(helpers)
    assert.equal((await visit(expiry)).result, h.now() + 14 * DAY)
  })

  test('still gets an offered key, and still confirms it', async () => {
    const h = await setup()
    const one = h.visitor()
    const { result: end } = await one.visit(logIn)
    const lost = one.copy()
    await lost.visit(async (request) => (await session(request)).rotateKey())
    h.now.tick(13 * DAY)
    const before = one.jar.cookies.get(NAME)
    const { cookies } = await one.visit(look)
    assert.equal(cookies.length, 1)
    const after = one.jar.cookies.get(NAME)
    assert.ok(after !== before && after === lost.jar.cookies.get(NAME))
    const old = lost.copy()
    const { set } = h.calls
    await one.visit(look)
    assert.equal(h.calls.set, set + 1, 'the use of the new key is stored')
    await old.visit(look)
    assert.equal((await one.visit(expiry)).result, end)
    assert.equal(h.calls.touch, 0)
  })

  test('may rotate the key, and leaves the expiry as it is', async () => {
    const h = await setup()
    const { visit } = h.visitor()
    const { result: end } = await visit(logIn)
    h.now.tick(13 * DAY)
    const { cookies } = await visit(async (request) => (await look(request)).rotateKey())
    assert.equal(cookies.length, 1)
    assert.equal((await visit(expiry)).result, end)
  })

  test('may log in or create a session, which lives as long as any other', async () => {
    const h = await setup()
    for (const act of [
      async (request: Request) => (await look(request)).login('anna'),
      async (request: Request) => (await look(request)).set('n', 1),
    ]) {
      const { visit } = h.visitor()
      await visit(act)
      assert.equal((await visit(expiry)).result, h.now() + 14 * DAY)
    }
  })

  test('may come by manager.session, or from outside of a middleware', async () => {
    const h = await setup()
    const { visit, jar } = h.visitor()
    const { result: end } = await visit(logIn)
    h.now.tick(13 * DAY)
    const { result } = await visit(
      async (request, manager) => (await manager.session(request, { extend: false })).expiresAt,
    )
    assert.equal(result, end)
    const request = { headers: new Headers({ cookie: `${NAME}=${jar.cookies.get(NAME)}` }) }
    const looking = await h.manager.open(request, { extend: false })
    assert.equal(looking.expiresAt, end)
    await looking.commit()
    const prefetch = { headers: new Headers([...request.headers, ['purpose', 'prefetch']]) }
    await (await h.manager.open(prefetch)).commit()
    assert.equal((await visit(expiry)).result, end)
    await (await h.manager.open(request)).commit()
    assert.equal((await visit(expiry)).result, h.now() + 14 * DAY)
  })

  test('refuses an unknown option, and a value that is not a boolean', async () => {
    const h = await setup()
    await h.visitor().visit(async (request, manager) => {
      for (const wrong of [{ extends: false }, { extend: 0 }, { extend: 'false' }] as object[]) {
        await assert.rejects(session(request, wrong), code('invalid_option'))
        await assert.rejects(manager.session(request, wrong), code('invalid_option'))
        await assert.rejects(manager.open(request, wrong), code('invalid_option'))
      }
      await session(request, { extend: undefined })
    })
  })
})
