// The cookies of a CommitResult: equal to its Set-Cookie headers, for frameworks that set cookies by an object.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { parseSetCookie, stringifySetCookie } from 'cookie'
import {
  addFlash,
  type CommitResult,
  csrfToken,
  type OpenSession,
  type ResponseCookie,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { clock } from '../support/clock.ts'

const secret = Buffer.from(Array.from({ length: 32 }, (_, i) => (i * 73 + 11) % 256)).toString('base64url')
const DAY = 86_400

type SuccessfulCommit = Extract<CommitResult, { ok: true }>

const lines = ({ headers }: SuccessfulCommit): string[] => headers.getSetCookie()

/** Checks that the objects and the headers are the same cookies, attribute by attribute. */
const assertEqualCookies = (result: SuccessfulCommit): void => {
  const fromHeaders = lines(result).map((line) => ({ ...parseSetCookie(line) }))
  const fromObjects = result.cookies.map(({ name, value, attributes }) => {
    // An attribute that is false or absent is not in the header.
    const present = Object.entries(attributes).filter(([, attribute]) => attribute !== false)
    return { name, value, ...Object.fromEntries(present) }
  })
  assert.deepEqual(fromObjects, fromHeaders)
}

/** Requests and options that lead to different cookies. */
const places: Readonly<
  Record<string, { readonly url: string; readonly options: Partial<SessionManagerOptions>; readonly name: string }>
> = {
  'by default': { url: 'https://app.test/', options: {}, name: '__Host-Http-sid' },
  'with a domain': {
    url: 'https://www.app.test/',
    options: { cookie: { domain: 'app.test' } },
    name: '__Secure-sid',
  },
  'with a path': { url: 'https://app.test/shop/', options: { cookie: { path: '/shop' } }, name: '__Secure-sid' },
  'with another name': { url: 'https://app.test/', options: { cookie: { name: 'shop' } }, name: '__Host-Http-shop' },
  'with sameSite strict': {
    url: 'https://app.test/',
    options: { cookie: { sameSite: 'strict' } },
    name: '__Host-Http-sid',
  },
  'with sameSite none and partitioned': {
    url: 'https://app.test/',
    options: { cookie: { sameSite: 'none', partitioned: true } },
    name: '__Host-Http-sid',
  },
  'with partitioned false': {
    url: 'https://app.test/',
    options: { cookie: { partitioned: false } },
    name: '__Host-Http-sid',
  },
  'with a priority': { url: 'https://app.test/', options: { cookie: { priority: 'high' } }, name: '__Host-Http-sid' },
  'with persistent: false': { url: 'https://app.test/', options: { persistent: false }, name: '__Host-Http-sid' },
  'over HTTP on a loopback name': { url: 'http://localhost:8080/', options: {}, name: 'sid-8080' },
  'over HTTP on a loopback name outside the domain': {
    url: 'http://localhost:8080/',
    options: { cookie: { domain: 'app.test', sameSite: 'none', partitioned: true } },
    name: 'sid-8080',
  },
  'over HTTP in a LAN': { url: 'http://shop.lan/', options: { secure: false }, name: 'sid-80' },
}

/** A manager, and a way to commit one change outside a middleware. */
const setup = ({ url, options }: Pick<(typeof places)[string], 'url' | 'options'>) => {
  const manager = sessionManager({ backend: 'memory:', secret, now: clock(), ...options })
  const commit = async (act: (s: OpenSession) => unknown, cookie = ''): Promise<SuccessfulCommit> => {
    const s = await manager.open({ headers: new Headers(cookie === '' ? {} : { cookie }), url })
    await act(s)
    const result = await s.commit()
    assert.ok(result.ok)
    return result
  }
  return { manager, commit }
}

const pairOf = ({ name, value }: ResponseCookie): string => `${name}=${value}`
const first = ({ cookies }: SuccessfulCommit): ResponseCookie => cookies[0] as ResponseCookie

suite('the cookies of a commit equal its Set-Cookie headers', () => {
  for (const [name, place] of Object.entries(places)) {
    test(`${name}: a new session, a login and a logout`, async () => {
      const { commit } = setup(place)
      const created = await commit((s) => s.set('n', 1))
      assertEqualCookies(created)
      assert.equal(created.cookies.length, 1)
      assert.equal(first(created).name, place.name)
      assert.match(first(created).value, /^[A-Za-z0-9_-]{43}$/)
      const loggedIn = await commit((s) => s.login('anna'), pairOf(first(created)))
      assertEqualCookies(loggedIn)
      assert.notEqual(first(loggedIn).value, first(created).value)
      const cleared = await commit((s) => s.invalidate(), pairOf(first(loggedIn)))
      assertEqualCookies(cleared)
      assert.deepEqual([first(cleared).name, first(cleared).value], [place.name, ''])
      assert.equal(first(cleared).attributes.maxAge, 0)
    })

    test(`${name}: a pre-session cookie that is deleted at a login`, async () => {
      const { manager, commit } = setup(place)
      const visit = browser(
        manager(async (request) => new Response(await csrfToken(request))),
        { origin: place.url },
      )
      const [line = ''] = (await visit(place.url)).headers.getSetCookie()
      const { name, value } = parseSetCookie(line)
      const result = await commit((s) => s.login('anna'), `${name}=${value}`)
      assertEqualCookies(result)
      assert.deepEqual(
        result.cookies.map(({ name }) => name),
        [place.name, name],
      )
      assert.deepEqual([result.cookies[1]?.value, result.cookies[1]?.attributes.maxAge], ['', 0])
    })

    test(`${name}: a pre-session cookie with a flash message, beside a session in a cookie`, async () => {
      const { manager, commit } = setup({ url: place.url, options: { ...place.options, backend: 'cookie:' } })
      const visit = browser(
        manager(async (request) => {
          addFlash(request, 'info', 'Welcome.')
          return new Response('done')
        }),
        { origin: place.url },
      )
      const [line = ''] = (await visit(place.url)).headers.getSetCookie()
      const { name, value } = parseSetCookie(line)
      const result = await commit((s) => s.set('n', 1), `${name}=${value}`)
      assertEqualCookies(result)
      assert.equal(result.cookies.length, 2)
      assert.equal(result.cookies[1]?.name, name)
      assert.ok((result.cookies[1]?.value.length ?? 0) > 60)
      assert.ok((result.cookies[1]?.attributes.maxAge ?? 0) > 0)
    })
  }

  test('a commit that changes nothing has no cookies', async () => {
    const { commit } = setup(places['by default'] as (typeof places)[string])
    const result = await commit(() => {})
    assert.deepEqual([result.cookies, lines(result)], [[], []])
  })

  test('a login that chooses its own timeouts and no Max-Age', async () => {
    const { commit } = setup(places['by default'] as (typeof places)[string])
    const short = await commit((s) => s.login('anna', { absoluteTimeout: 60, idleTimeout: 60 }))
    assertEqualCookies(short)
    assert.equal(first(short).attributes.maxAge, 60)
    const untilClosed = await commit((s) => s.login('anna', { persistent: false }))
    assertEqualCookies(untilClosed)
    assert.ok(!('maxAge' in first(untilClosed).attributes))
  })
})

suite('the attributes are those that a framework expects', () => {
  const attributesOf = async (name: keyof typeof places) =>
    first(await setup(places[name] as (typeof places)[string]).commit((s) => s.set('n', 1))).attributes

  const base = { path: '/', secure: true, httpOnly: true, sameSite: 'lax', maxAge: 30 * DAY }
  const expected: Readonly<Record<string, object>> = {
    'by default': base,
    'with a domain': { ...base, domain: 'app.test' },
    'with a path': { ...base, path: '/shop' },
    'with sameSite strict': { ...base, sameSite: 'strict' },
    'with sameSite none and partitioned': { ...base, sameSite: 'none', partitioned: true },
    'with a priority': { ...base, priority: 'high' },
    'with persistent: false': { path: '/', secure: true, httpOnly: true, sameSite: 'lax' },
    'over HTTP on a loopback name': { ...base, secure: false },
    'over HTTP on a loopback name outside the domain': { ...base, secure: false },
    'over HTTP in a LAN': { ...base, secure: false },
  }
  for (const [name, attributes] of Object.entries(expected)) {
    test(name, async () => assert.deepEqual({ ...(await attributesOf(name)) }, attributes))
  }

  test('cookies().set({ name, value, ...attributes }), as in Next.js, sends the same cookie', async () => {
    for (const place of Object.values(places)) {
      const { manager, commit } = setup(place)
      const result = await commit((s) => s.login('anna'))
      const sent: string[] = []
      // The object form of set in Next.js takes the options that the package cookie takes.
      const cookies = () => ({
        set: (cookie: Parameters<typeof stringifySetCookie>[0]) => sent.push(stringifySetCookie(cookie)),
      })
      for (const { name, value, attributes } of result.cookies) cookies().set({ name, value, ...attributes })
      assert.deepEqual(
        sent.map((line) => ({ ...parseSetCookie(line) })),
        lines(result).map((line) => ({ ...parseSetCookie(line) })),
      )
      const page = manager(async (request) => new Response((await session(request)).owner))
      const cookie = sent.map((line) => line.slice(0, line.indexOf(';'))).join('; ')
      const response = await page(new Request(place.url, { headers: { cookie } }))
      assert.equal(await response.text(), 'anna')
    }
  })
})
