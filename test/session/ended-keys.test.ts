// A request that was in progress when its session ended: it saves nothing, and changes no cookie of the browser.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { addFlash, type Backend, csrfToken, session, sessionManager, takeFlash } from 'keepsake'
import { type Browser, browser } from 'keepsake/testing'
import { clock, PATIENT, SECOND } from '../support/clock.ts'
import { stores } from '../support/stores.ts'
import { setup, setupSession } from '../support/visits.ts'

const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'

/** A manager with one page for each act, behind a network that delays every request for a path below /late. */
const shop = (backend: Backend | string) => {
  const now = clock(Date.now())
  const types: string[] = []
  const manager = sessionManager({
    backend,
    storeTimeout: PATIENT,
    secret,
    now,
    onEvent: ({ type }) => types.push(type),
  })
  const acts: Record<string, (request: Request) => Promise<unknown>> = {
    write: async (request) => (await session(request)).update('n', (n = 0) => n + 1),
    read: async (request) => (await session(request)).fields,
    login: async (request) => (await session(request)).login('anna'),
    logout: async (request) => (await session(request)).invalidate(),
    again: async (request) => {
      const s = await session(request)
      s.invalidate()
      s.set('fresh', true)
    },
    flash: async (request) => addFlash(request, 'info', 'Saved.'),
    taken: takeFlash,
    form: csrfToken,
    who: async (request) => (await session(request)).owner ?? null,
  }
  const page = manager(async (request) => {
    const [act = ''] = new URL(request.url).pathname.split('/').slice(-1)
    return Response.json((await acts[act]?.(request)) ?? null)
  })
  const gate = Promise.withResolvers<void>()
  const network = async (request: Request) => {
    if (request.url.includes('/late/')) await gate.promise
    return page(request)
  }
  const visit = browser(network, { now })
  const whoAmI = async (visit: Browser) => (await visit('/who')).json()
  return { manager, visit, now, types, open: gate.resolve, whoAmI }
}

/** A write that arrives after the login is answered with 409, and the visitor stays logged in. */
const checkWriteAfterLogin = async ({ visit, open, whoAmI }: ReturnType<typeof shop>) => {
  await visit('/write')
  const late = visit('/late/write')
  await visit('/login')
  open()
  const response = await late
  assert.equal(response.status, 409)
  assert.deepEqual(response.headers.getSetCookie(), [])
  assert.equal(await whoAmI(visit), 'anna')
}

for (const { name, opener } of stores) {
  test(`on ${name}: a write that arrives after the login undoes it neither in the backend nor in the browser`, async (t) => {
    const site = shop(await opener(t)())
    await checkWriteAfterLogin(site)
    assert.ok(site.types.includes('ended_key') && site.types.includes('write_after_end'))
  })
  test(`on ${name}: a write that arrives after a logout does not create another session`, async (t) => {
    const { visit, open, whoAmI } = shop(await opener(t)())
    await visit('/login')
    const late = visit('/late/write')
    await visit('/logout')
    open()
    assert.equal((await late).status, 409)
    assert.equal(visit.cookies.size, 0)
    assert.equal(await whoAmI(visit), null)
  })
  test(`on ${name}: a write that arrives after a revocation does not create another session`, async (t) => {
    for (const all of [false, true]) {
      const { manager, visit, open } = shop(await opener(t)())
      await visit('/login')
      const [mine] = await manager.list('anna')
      const late = visit('/late/write')
      if (all) assert.equal(await manager.revokeAll('anna'), 1)
      else await manager.revoke(mine?.label ?? '')
      open()
      assert.equal((await late).status, 409)
      assert.deepEqual(await manager.list('anna'), [])
    }
  })
}

test('on the cookie backend with ends: a write that arrives after the login does not undo it', async () => {
  await checkWriteAfterLogin(shop('cookie:memory:'))
})

suite('a request that arrives after its session ended', () => {
  const lateRequest = async (act: string, end = 'login') => {
    const site = shop('memory:')
    if (end === 'logout') await site.visit('/login')
    await site.visit('/write')
    const delayed = site.visit(`/late/${act}`)
    await site.visit(`/${end}`)
    site.open()
    const response = await delayed
    return {
      ...site,
      status: response.status,
      cookies: response.headers.getSetCookie(),
      body: await response.json().catch(() => null),
    }
  }
  test('reads as an anonymous request, and sets no cookie', async () => {
    const { status, cookies, body } = await lateRequest('read')
    assert.deepEqual([status, cookies, body], [200, [], {}])
  })
  test('can show a form but sets no cookie, so the form is rejected later', async () => {
    const { status, cookies } = await lateRequest('form')
    assert.deepEqual([status, cookies], [200, []])
  })
  test('takes no flash messages, so they wait for the session of the login', async () => {
    const site = shop('memory:')
    await site.visit('/write')
    const delayed = site.visit('/late/taken')
    await site.visit('/login')
    await site.visit('/flash')
    site.open()
    assert.deepEqual(await (await delayed).json(), [])
    assert.equal(((await (await site.visit('/taken')).json()) as unknown[]).length, 1)
  })
  test('cannot add a flash message, because that would need a cookie', async () => {
    const { status, cookies } = await lateRequest('flash')
    assert.deepEqual([status, cookies], [409, []])
  })
  const checkRefused = async (act: string) => {
    const { status, cookies, visit, whoAmI } = await lateRequest(act)
    assert.deepEqual([status, cookies], [409, []])
    assert.equal(await whoAmI(visit), 'anna')
  }
  test('cannot log out after a login, because that would end another session', () => checkRefused('logout'))
  test('can log out again, and sets no cookie', async () => {
    const { status, cookies } = await lateRequest('logout', 'logout')
    assert.deepEqual([status, cookies], [200, []])
  })
  test('cannot create a session after an invalidate', () => checkRefused('again'))
  test('can log in, so a login form that is sent twice logs the visitor in', async () => {
    const { status, cookies, visit, whoAmI } = await lateRequest('login')
    assert.deepEqual([status, cookies.length], [200, 1])
    assert.equal(await whoAmI(visit), 'anna')
  })
})

test('30 seconds after its session ended, a key is unknown', async () => {
  for (const [seconds, status] of [
    [29, 409],
    [31, 200],
  ] as const) {
    const { visit, now, open } = shop('memory:')
    await visit('/write')
    const late = visit('/late/write')
    await visit('/login')
    now.tick(seconds * SECOND)
    open()
    assert.equal((await late).status, status, `${seconds} s`)
  }
})

test('the touch of a read in progress does not extend the mark', async () => {
  const h = await setup()
  const visit = h.visitor()
  await visit((s) => s.set('a', 1))
  h.now.tick(8 * 86_400 * SECOND)
  const held = h.hold('touch')
  const reading = visit.otherProcess()((s) => s.get('a'))
  await held.arrived
  const copy = visit.withSameCookies()
  await visit((s) => s.invalidate())
  held.go()
  await reading
  h.now.tick(31 * SECOND)
  assert.equal((await copy.raw((s) => s.set('b', 1))).status, 200)
})

test('outside a middleware, commit returns the failure as a value', async () => {
  const now = clock()
  const manager = sessionManager({ backend: 'memory:', now })
  const arrive = (cookie?: string) =>
    manager.open({ url: 'https://app.test/', headers: new Headers(cookie ? { cookie } : {}) })
  const first = await arrive()
  first.set('a', 1)
  const done = await first.commit()
  const cookie = done.ok ? (done.headers.get('set-cookie')?.split(';')[0] ?? '') : ''
  const login = await arrive(cookie)
  login.login('anna')
  await login.commit()
  const late = await arrive(cookie)
  late.set('b', 1)
  assert.deepEqual(await late.commit(), { ok: false, error: 'ended' })
})

test('a login ends a session that expired while the login was in progress, also if a late read extends it', async () => {
  const { h, visit } = await setupSession({ idleTimeout: 100 * 60 }, (s) => s.login('ben'))
  const minutes = (count: number) => h.now.tick(count * 60 * SECOND)
  const other = visit.withSameCookies()
  const clearing = h.hold('clear')
  const login = visit((s) => s.login('anna', { idleTimeout: 200 * 60 }))
  await clearing.arrived
  await other.otherProcess()((s) => s.set('a', 1))
  minutes(60)
  const touching = h.hold('touch')
  const reading = other.otherProcess()((s) => s.owner)
  await touching.arrived
  minutes(41)
  clearing.go()
  await login
  touching.go()
  assert.equal(await reading, 'ben')
  assert.equal(await visit((s) => s.owner), 'anna')
  assert.equal(await other((s) => s.owner), undefined)
})
