// The application's own cookies and sealed texts: safe by default, and each valid for its one purpose.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import {
  deleteCookie,
  getCookie,
  memorySessions,
  type SessionManagerOptions,
  type SetCookieOptions,
  seal,
  sessionManager,
  setCookie,
  unseal,
} from 'keepsake'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock } from '../support/clock.ts'
import { runs } from '../support/quick.ts'

type Act = (request: Request) => Promise<unknown> | unknown

/** A browser, and functions that set the work of its next request. Other results than a Response become JSON. */
const stage = (options: Partial<SessionManagerOptions> = {}, origin = 'https://app.test') => {
  const now = clock()
  let act: Act = () => null
  const handler = sessionManager({ backend: 'memory:', now, ...options })(async (request) => {
    const result = await act(request)
    return result instanceof Response ? result : Response.json(result ?? null)
  })
  const visitFor = (jar: ReturnType<typeof browser>) => async (next: Act, init?: RequestInit) => {
    act = next
    return jar('/', init)
  }
  const jar = browser(handler, { now, origin })
  const visit = visitFor(jar)
  const read = async (name: string, options = {}) =>
    (await visit((request) => getCookie(request, name, options))).json()
  const set = (name: string, value: string, options: SetCookieOptions = {}) =>
    visit((request) => setCookie(new Response(), request, name, value, options))
  return { now, jar, visit, read, set, handler }
}

suite('a cookie of the application', () => {
  test('D31, D32: is sealed, and has the safest name and attributes', async () => {
    const { set, jar, read } = stage()
    const response = await set('theme', 'dark & quiet')
    const [line = ''] = response.headers.getSetCookie()
    assert.match(line, /^__Host-Http-theme=[\w-]+; Path=\/; Secure; HttpOnly; SameSite=Lax$/)
    assert.ok(!line.includes('dark'))
    assert.equal(await read('theme'), 'dark & quiet')
    assert.equal(response.headers.get('cache-control'), 'no-store')
    assert.equal(response.headers.get('vary'), 'Cookie')
    assert.deepEqual([...jar.cookies.keys()], ['__Host-Http-theme'])
  })

  test('D31: the prefix of its name follows from domain, path and httpOnly, in setting and in reading', async () => {
    for (const [options, name] of [
      [{ httpOnly: false }, '__Host-theme'],
      [{ path: '/x' }, '__Secure-theme'],
      [{ domain: 'app.test' }, '__Secure-theme'],
      [{ domain: 'app.test', httpOnly: false }, '__Secure-theme'],
    ] as const) {
      const { set, visit } = stage()
      const [line = ''] = (await set('theme', 'dark', options)).headers.getSetCookie()
      assert.equal(line.slice(0, line.indexOf('=')), name)
      const header = { headers: { cookie: line.slice(0, line.indexOf(';')) } }
      const answer = await visit((request) => getCookie(request, 'theme', options), header)
      assert.equal(await answer.json(), 'dark')
    }
  })

  test('D32: attributes, maxAge and a plain value are sent as they are given', async () => {
    const { set, read } = stage()
    const options = { sealed: false, httpOnly: false, sameSite: 'strict', maxAge: 90.2, priority: 'low' } as const
    const [line] = (await set('theme', 'a=b', options)).headers.getSetCookie()
    assert.equal(
      line,
      '__Host-theme=a=b; Max-Age=91; Path=/; Secure; SameSite=Strict; Priority=low'.replace('low', 'Low'),
    )
    assert.equal(await read('theme', { sealed: false, httpOnly: false }), 'a=b')
    assert.equal(
      await read('theme', { httpOnly: false }),
      null,
      'a plain value does not count if a sealed one is expected',
    )
  })

  test('D33: a value that another application sealed is undefined', async () => {
    const { set, jar } = stage()
    await set('theme', 'dark')
    let seen: unknown = 'not read'
    await stage().visit(
      async (request) => {
        seen = await getCookie(request, 'theme')
      },
      { headers: { cookie: `__Host-Http-theme=${jar.cookies.get('__Host-Http-theme')}` } },
    )
    assert.equal(seen, undefined)
  })

  test('D46, ENC-3: the value of one cookie does not open as another cookie, a session or a text', async () => {
    const secret = newSecret()
    const values = new Map<string, string>()
    const { set, jar } = stage({ secret })
    await set('a', '5')
    await set('b', '6')
    for (const [name, value] of jar.cookies) values.set(name, value)
    const read = async (header: string, act: Act) => {
      let seen: unknown
      const handler = sessionManager({ backend: 'memory:', secret, now: clock() })(async (request) => {
        seen = await act(request)
        return new Response()
      })
      await handler(new Request('https://app.test/', { headers: { cookie: header } }))
      return seen
    }
    const a = values.get('__Host-Http-a') as string
    assert.equal(await read(`__Host-Http-a=${a}`, (request) => getCookie(request, 'a')), '5')
    assert.equal(await read(`__Host-Http-b=${a}`, (request) => getCookie(request, 'b')), undefined)
    assert.equal(await read(`__Host-a=${a}`, (request) => getCookie(request, 'a', { httpOnly: false })), undefined)
    for (const purpose of ['a', '__Host-Http-a', 'cookie']) {
      assert.equal(await read('', (request) => unseal(request, a, purpose)), undefined)
    }
    const planted = `__Host-Http-a=x; __Host-Http-a=${a}`
    assert.equal(
      await read(planted, (request) => getCookie(request, 'a')),
      '5',
      'a planted cookie before it does not hide it',
    )
  })

  test('ENC-6: an expired sealed value is undefined, also if the browser still sends it', async () => {
    const { set, now, visit, jar } = stage()
    await set('code', '1234', { maxAge: 60 })
    const header = { headers: { cookie: `__Host-Http-code=${jar.cookies.get('__Host-Http-code')}` } }
    const read = async () => (await visit((request) => getCookie(request, 'code'), header)).json()
    now.tick(59_999)
    assert.equal(await read(), '1234')
    now.tick(1)
    assert.equal(await read(), null)
  })

  test('D34: deleteCookie deletes it, with the attributes that it was set with', async () => {
    for (const place of [{}, { path: '/' }, { httpOnly: false }, { domain: 'app.test' }]) {
      const { set, jar, visit } = stage()
      await set('theme', 'dark', place)
      assert.equal(jar.cookies.size, 1)
      const response = await visit((request) => deleteCookie(new Response(), request, 'theme', place))
      assert.match(response.headers.getSetCookie()[0] ?? '', /=; Max-Age=0; Path=\//)
      assert.equal(jar.cookies.size, 0)
    }
  })

  test('CK-7: of two of the same name in one response only the later is sent, and others stay', async () => {
    const { visit } = stage()
    const response = await visit(async (request) => {
      let answer = new Response(null, { headers: { 'set-cookie': 'own=1' } })
      answer = await setCookie(answer, request, 'a', '1', { sealed: false })
      answer = await setCookie(answer, request, 'b', '1', { sealed: false })
      answer = await setCookie(answer, request, 'a', '2', { sealed: false })
      return deleteCookie(answer, request, 'b')
    })
    const lines = response.headers
      .getSetCookie()
      .map((line) => line.slice(0, line.indexOf(';') === -1 ? undefined : line.indexOf(';')))
    assert.deepEqual(lines, ['own=1', '__Host-Http-a=2', '__Host-Http-b='])
  })

  test('a redirect, whose headers cannot be changed, is returned as a copy with the cookie', async () => {
    const { visit, jar } = stage()
    const response = await visit((request) =>
      setCookie(Response.redirect('https://app.test/next', 303), request, 'a', '1'),
    )
    assert.deepEqual([response.status, response.headers.get('location')], [303, 'https://app.test/next'])
    assert.equal(jar.cookies.size, 1)
  })

  test('over plain HTTP on this machine it has a plain name, and fetch sends it back', async (t) => {
    const running = await serve(
      memorySessions(async (request) =>
        request.url.endsWith('/set')
          ? setCookie(new Response(), request, 'theme', 'dark')
          : Response.json(await getCookie(request, 'theme')),
      ),
      { port: 0 },
    )
    t.after(() => running.close())
    const visit = browser((request) => fetch(request), { origin: running.url })
    await visit('/set')
    assert.deepEqual([...visit.cookies.keys()], [`theme-${running.port}`])
    assert.equal(await (await visit('/')).json(), 'dark')
  })

  test('a plain value that a script or another server wrote is read whole, with its commas', async () => {
    const { read, visit } = stage()
    for (const value of ['a,b', '1,2,3', ',', '{"a":1,"b":2}']) {
      const headers = { cookie: `x=1; __Host-Http-list=${value}; y=2` }
      assert.equal(
        await (await visit((request) => getCookie(request, 'list', { sealed: false }), { headers })).json(),
        value,
      )
    }
    assert.equal(await read('list', { sealed: false }), null)
  })

  test('every text is read as it was set, and hostile headers give undefined', async () => {
    const { set, read, visit } = stage()
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'grapheme', maxLength: 100 }), async (text) => {
        await set('a', text)
        assert.equal(await read('a'), text.toWellFormed())
      }),
      { numRuns: runs(60) },
    )
    await fc.assert(
      fc.asyncProperty(fc.string({ maxLength: 200 }), async (text) => {
        const header = `__Host-Http-z=${text.replace(/[^\x20-\x7e]/g, '')}`
        const answer = await visit((request) => getCookie(request, 'z'), { headers: { cookie: header } })
        assert.equal(await answer.json(), null)
      }),
      { numRuns: runs(60) },
    )
  })

  test('D37: invalid names, values and options are refused, so none can add an attribute or a header', async () => {
    const { visit } = stage()
    const refused = (act: Act, code = 'invalid_option') =>
      visit(async (request) => {
        await assert.rejects(async () => act(request), { code })
      })
    const response = () => new Response()
    for (const name of ['', 'a b', 'a=b', 'a;b', '__Host-a', 'sid', 'sid-pre', 5 as never]) {
      await refused((request) => setCookie(response(), request, name, 'x'))
      await refused((request) => getCookie(request, name))
    }
    for (const value of ['a b', 'a;b', 'a,b', '"a"', 'a\\b', 'é', 'a\r\nSet-Cookie: b=c']) {
      await refused((request) => setCookie(response(), request, 'a', value, { sealed: false }))
    }
    for (const options of [
      { maxAge: 0 },
      { maxAge: -1 },
      { maxAge: Number.NaN },
      { path: 'x' },
      { path: '/;a' },
      { domain: 'a;b' },
      { expires: 1 },
      { sameSite: 'x' },
    ]) {
      await refused((request) => setCookie(response(), request, 'a', 'x', options as SetCookieOptions))
    }
    await refused((request) => setCookie(response(), request, 'a', 5 as never))
    await refused((request) => setCookie(response(), request, 'a', 'x'.repeat(3000)), 'too_large')
    await assert.rejects(getCookie(new Request('https://app.test/'), 'a'), { code: 'no_middleware' })
  })

  test('opens no session and sends no session cookie', async () => {
    const events: string[] = []
    const { set, jar, read } = stage({ onEvent: ({ type }) => events.push(type) })
    await set('a', '1')
    await read('a')
    assert.deepEqual([...jar.cookies.keys()], ['__Host-Http-a'])
    assert.deepEqual(events, [])
  })
})

suite('a sealed text', () => {
  test('D41, D42: opens with the associated data that it was sealed with, and with no others', async () => {
    const manager = sessionManager({ backend: 'memory:' })
    const sealed = await manager.seal('anna', 'password reset')
    assert.match(sealed, /^[\w-]+$/)
    assert.ok(!Buffer.from(sealed, 'base64url').includes('anna'))
    assert.notEqual(await manager.seal('anna', 'password reset'), sealed)
    assert.equal(await manager.unseal(sealed, 'password reset'), 'anna')
    for (const other of ['password reset ', 'Password reset', 'unsubscribe']) {
      assert.equal(await manager.unseal(sealed, other), undefined)
    }
    for (const other of ['', 'x', `${sealed}A`, sealed.slice(1), 5 as never]) {
      assert.equal(await manager.unseal(other, 'password reset'), undefined)
    }
  })

  test('can be sealed in a request and opened in a job of the same application', async () => {
    const secret = newSecret()
    const manager = sessionManager({ backend: 'memory:', secret })
    const handler = manager(async (request) => {
      const sealed = await seal(request, 'Zoë 🦊', 'letter')
      assert.equal(await unseal(request, sealed, 'letter'), 'Zoë 🦊')
      return new Response(sealed)
    })
    const sealed = await (await handler(new Request('https://app.test/'))).text()
    assert.equal(await manager.unseal(sealed, 'letter'), 'Zoë 🦊')
    const other = sessionManager({ backend: 'memory:', secret, namespace: 'other' })
    assert.equal(await other.unseal(sealed, 'letter'), undefined, 'of another application under the same secret')
  })

  test('has a limit of bytes, and requires associated data', async () => {
    const manager = sessionManager({ backend: 'memory:' })
    const long = 'é'.repeat(32_768)
    assert.equal(await manager.unseal(await manager.seal(long, 'x'), 'x'), long)
    await assert.rejects(manager.seal(`${long}a`, 'x'), { code: 'too_large' })
    for (const associated of ['', undefined, 5, 'x'.repeat(1001), 'half \ud83e']) {
      await assert.rejects(manager.seal('a', associated as string), { code: 'invalid_option' })
      await assert.rejects(manager.unseal('a', associated as string), { code: 'invalid_option' })
    }
  })
})
