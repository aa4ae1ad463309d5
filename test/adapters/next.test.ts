// The adapter for Next.js, without Next.js: `npm run frameworks` tries it in a built application.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { getRequestListener } from '@hono/node-server'
import { type Backend, sessionManager, session as sessionOf } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { forNext } from 'keepsake/next'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { cookieHeader } from '../../src/adapters/next/request-head.ts'
import { clock, DAY } from '../support/clock.ts'
import { listening } from '../support/listening.ts'
import { notFoundError, redirectError, Visitor } from '../support/next.ts'

type Fields = { n: number; cart: readonly string[] }

let applications = 0

/** An application with a manager of its own. */
const application = (options: Partial<Parameters<typeof sessionManager>[0]> = {}) => {
  const events: string[] = []
  applications += 1
  const make = () =>
    sessionManager<Fields>({ backend: 'memory:', onEvent: ({ type }) => events.push(type), ...options })
  return { events, ...forNext(make, { name: `test ${applications}` }) }
}

/** A store that begins to fail. */
const failing = () => {
  const memory = memoryBackend()
  let fails = false
  const failing = <T extends (...args: never[]) => unknown>(method: T) =>
    ((...args: never[]) => {
      if (fails) throw new Error('db7.internal is full')
      return method(...args)
    }) as T
  const backend: Backend = {
    ...memory,
    get: failing(memory.get),
    set: failing(memory.set),
    clear: failing(memory.clear),
  }
  return {
    backend,
    fail() {
      fails = true
    },
  }
}

const serveHandlers: ServeApplication = ({ manager, handle }) => {
  applications += 1
  const { saving } = forNext(() => manager, { name: `test ${applications}` })
  const handler = saving(async (request: Request) => {
    const { status, headers, body } = await handle(request, { method: request.method, url: request.url })
    return new Response(body, { status, headers })
  })
  return listening(createServer(getRequestListener((request) => handler(request))))
}

suite('route handlers', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serveHandlers))

  test('session() and session(request) are the same session', async () => {
    const { saving, session } = application()
    const handler = saving(async (request: Request) => Response.json((await session()) === (await sessionOf(request))))
    assert.equal(await (await handler(new Request('http://localhost/'))).text(), 'true')
  })

  test('redirect() and notFound() are answers: the changes of the handler are saved', async () => {
    const { saving, session } = application()
    for (const [error, status, location] of [
      [redirectError('/a;b'), 307, '/a;b'],
      [notFoundError(), 404, null],
    ] as const) {
      const handler = saving(async (_: Request): Promise<Response> => {
        const s = await session()
        s.set('n', 1)
        throw error
      })
      const response = await handler(new Request('http://localhost/'))
      assert.equal(response.status, status)
      assert.equal(response.headers.get('location'), location)
      assert.match(response.headers.get('set-cookie') ?? '', /^sid-80=/)
    }
  })

  test('a redirect after a form is 303, so that the browser does not send the form again', async () => {
    const { saving } = application()
    const handler = saving(async (_: Request): Promise<Response> => {
      throw redirectError('/')
    })
    const body = new URLSearchParams('a=1')
    assert.equal((await handler(new Request('http://localhost/', { method: 'POST', body }))).status, 303)
    assert.equal((await handler(new Request('http://localhost/', { method: 'POST' }))).status, 307)
  })

  test('the arguments after the request are passed on, and the result is that of the handler', async () => {
    const { saving } = application()
    const handler = saving(async (_: Request, { params }: { params: Promise<{ id: string }> }) =>
      Response.json(await params),
    )
    const response = await handler(new Request('http://localhost/'), { params: Promise.resolve({ id: '7' }) })
    assert.deepEqual(await response.json(), { id: '7' })
  })

  test('see the cookie that a proxy has set in the same request, and read their form with it', async () => {
    const { saving, session, readForm, csrfField, proxy } = application()
    const visitor = new Visitor()
    const set = (await proxy(new Request('http://localhost:3000/'))).headers.get('x-middleware-set-cookie') ?? ''
    const [name = '', value = ''] = (set.split(';')[0] ?? '').split('=')
    visitor.cookies.set(name, value)
    const field = await visitor.render(() => csrfField())
    const handler = saving(async (_: Request) => {
      const form = await readForm()
      const s = await session()
      s.set('n', 1)
      return new Response(form.ok ? String(form.fields) : form.error)
    })
    const body = new URLSearchParams({ [field.name]: field.value, a: '1' })
    const post = (headers: Record<string, string>) =>
      visitor.render(() => handler(new Request('http://localhost:3000/', { method: 'POST', headers, body })))
    assert.equal(await (await post({})).text(), 'wrong_session')
    const response = await post({ 'x-middleware-set-cookie': set })
    assert.equal(await response.text(), 'a=1')
    // The session takes the place of the cookie of proxy.
    assert.match(response.headers.getSetCookie().join(), /sid-3000=.*sid-pre-3000=; Max-Age=0/)
  })

  for (const [headers, name] of [
    [{}, 'sid-3000'],
    [{ 'x-forwarded-for': '::ffff:127.0.0.1' }, 'sid-3000'],
    [{ 'x-forwarded-host': '127.0.0.1:3000' }, 'sid-3000'],
    [{ 'x-forwarded-host': 'shop.example' }, '__Host-Http-sid'],
    [{ 'x-forwarded-proto': 'https' }, '__Host-Http-sid'],
    [{ 'x-forwarded-for': '192.0.2.7' }, '__Host-Http-sid'],
    [{ 'x-forwarded-for': '127.0.0.1, 192.0.2.7' }, '__Host-Http-sid'],
    [{ 'x-forwarded-prefix': '/shop' }, '__Host-Http-sid'],
    [{ via: '1.1 proxy' }, '__Host-Http-sid'],
  ] as const) {
    test(`X-Forwarded headers of Next.js itself with ${JSON.stringify(headers)}: the cookie is ${name}`, async () => {
      const { saving, session } = application()
      const visitor = new Visitor(headers)
      await visitor.act(saving(async () => (await session()).set('n', 1)))
      assert.deepEqual([...visitor.cookies.keys()], [name])
    })
  }
})

suite('actions', () => {
  test('save, and set their cookies by cookies()', async () => {
    const { saving, session } = application()
    const visitor = new Visitor()
    const count = saving(async (by: number) => {
      const s = await session()
      s.update('n', (n = 0) => n + by)
      return s.get('n')
    })
    assert.equal(await visitor.act(() => count(2)), 2)
    const [[name, , attributes] = assert.fail()] = visitor.set
    assert.equal(name, 'sid-3000')
    assert.deepEqual(attributes, { path: '/', secure: false, httpOnly: true, sameSite: 'lax', maxAge: 2_592_000 })
    assert.equal(await visitor.act(() => count(3)), 5)
    assert.deepEqual(visitor.set, [])
  })

  test('render their page again if they changed the session, and only then', async () => {
    const { saving, session } = application()
    const visitor = new Visitor()
    for (const n of [1, 2]) {
      await visitor.act(saving(async () => (await session()).set('n', n)))
      assert.ok(visitor.refreshed)
    }
    await visitor.act(saving(async () => (await session()).get('n')))
    assert.equal(visitor.refreshed, false)
  })

  for (const [name, error] of [
    ['redirect()', redirectError('/')],
    ['notFound()', notFoundError()],
  ] as const) {
    test(`that leave by ${name} are saved, and the error goes on`, async () => {
      const { saving, session } = application()
      const visitor = new Visitor()
      const action = saving(async () => {
        const s = await session()
        s.login('anna')
        throw error
      })
      await assert.rejects(visitor.act(action), (thrown) => thrown === error)
      assert.equal(await visitor.render(async () => (await session()).owner), 'anna')
    })
  }

  test('that throw any other error save nothing, and return the messages that they took', async () => {
    const { saving, session, addFlash, takeFlash } = application()
    const visitor = new Visitor()
    await visitor.act(saving(async () => addFlash('info', 'Saved.')))
    const error = new Error('The action failed.')
    const action = saving(async () => {
      const s = await session()
      s.set('n', 1)
      assert.equal((await takeFlash()).length, 1)
      throw error
    })
    await assert.rejects(visitor.act(action), (thrown) => thrown === error)
    assert.equal(await visitor.render(async () => (await session()).get('n')), undefined)
    assert.deepEqual(await visitor.render(takeFlash), [{ category: 'info', text: 'Saved.' }])
  })

  test('that lose their session to another request reject with ended, status 409, and a digest for error.tsx', async () => {
    const { saving, session, manager } = application()
    const visitor = new Visitor()
    await visitor.act(saving(async () => (await session()).set('n', 1)))
    const action = saving(async () => {
      const s = await session()
      s.set('n', 2)
      await manager().revoke(s.label)
    })
    await assert.rejects(visitor.act(action), { code: 'ended', status: 409, digest: 'keepsake;ended' })
    assert.equal(visitor.refreshed, false)
  })

  test('that log out clear the cookie although the store fails, and keep its text from visitors', async () => {
    const { backend, fail } = failing()
    const { saving, session } = application({ backend })
    const visitor = new Visitor()
    await visitor.act(saving(async () => (await session()).set('n', 1)))
    fail()
    const logout = saving(async () => (await session()).invalidate())
    await assert.rejects(visitor.act(logout), ({ status, message }) => status === 503 && !message.includes('db7'))
    assert.equal(visitor.cookies.size, 0)
  })

  test('that call each other are one request', async () => {
    const { saving, session } = application()
    const visitor = new Visitor()
    const inner = saving(async () => (await session()).update('n', (n = 0) => n + 1))
    const outer = saving(async () => {
      await inner()
      await inner()
      return (await session()).get('n')
    })
    assert.equal(await visitor.act(outer), 2)
    assert.equal(visitor.set.length, 1)
  })

  test('read the FormData among their arguments, with its files and without the fields of React', async () => {
    const { saving, readForm, csrfField } = application()
    const visitor = new Visitor()
    const { name, value } = await visitor.act(saving(() => csrfField()))
    const data = new FormData()
    data.append('$ACTION_ID_7f', '')
    data.append(name, value)
    data.append('b', '2')
    data.append('b', '1')
    data.append('file', new File(['leaves'], 'tea.txt'))
    data.append('empty', new File([], ''))
    const read = saving(async (_state: unknown, _data: FormData) => readForm())
    const form = await visitor.act(() => read({}, data))
    assert.ok(form.ok)
    assert.equal(String(form.fields), 'b=2&b=1')
    assert.deepEqual(form.files, [['file', data.get('file')]])
    data.set(name, 'x'.repeat(84))
    const refused = await visitor.act(() => read({}, data))
    assert.equal(refused.ok || refused.error, 'invalid_token')
  })

  test('that get no FormData cannot read a form', async () => {
    const { saving, readForm } = application()
    await assert.rejects(new Visitor().act(saving(() => readForm())), { code: 'invalid_option' })
  })
})

suite('server components', () => {
  test('read the session in one visit, and every change throws read_only', async () => {
    const { saving, session, events } = application()
    const visitor = new Visitor()
    await visitor.act(saving(async () => (await session()).login('anna')))
    await visitor.render(async () => {
      const s = await session()
      assert.equal(s.owner, 'anna')
      assert.equal(await session(), s)
      for (const change of [
        () => s.set('n', 1),
        () => s.update('n', () => 1),
        () => s.delete('n'),
        () => s.rotateKey(),
        () => s.login('eve'),
        () => s.invalidate(),
      ]) {
        assert.throws(change, { code: 'read_only' })
      }
      await assert.rejects(s.save(), { code: 'read_only' })
    })
    assert.equal(await visitor.render(async () => (await session()).owner), 'anna')
    assert.deepEqual(events.slice(-1), ['login'])
  })

  test('see the changes of the action before them, although headers() has the old cookie', async () => {
    const { saving, session } = application()
    const visitor = new Visitor()
    await visitor.act(saving(async () => (await session()).set('n', 1)))
    const old = [...visitor.cookies].map((pair) => pair.join('=')).join('; ')
    await visitor.act(saving(async () => (await session()).login('anna')))
    const after = new Visitor({ cookie: old })
    for (const [name, value] of visitor.cookies) after.cookies.set(name, value)
    assert.equal(await after.render(async () => (await session()).owner), 'anna')
  })

  test('extend the session, unless all of them ask with extend: false', async () => {
    const now = clock()
    const { saving, session } = application({ now })
    const read = (visitor: Visitor, extend: boolean) => visitor.render(async () => (await session({ extend })).get('n'))
    const [reader, poller] = [new Visitor(), new Visitor()]
    for (const visitor of [reader, poller]) await visitor.act(saving(async () => (await session()).set('n', 1)))
    now.tick(10 * DAY)
    assert.deepEqual([await read(reader, true), await read(poller, false)], [1, 1])
    now.tick(10 * DAY)
    assert.deepEqual([await read(reader, true), await read(poller, false)], [1, undefined])
  })

  test('take a message once, also that of an anonymous visitor', async () => {
    const { saving, addFlash, takeFlash } = application()
    const visitor = new Visitor()
    await visitor.act(saving(async () => addFlash('info', 'Saved.')))
    assert.deepEqual(await visitor.render(takeFlash), [{ category: 'info', text: 'Saved.' }])
    assert.deepEqual(await visitor.render(takeFlash), [])
  })

  test('cannot take messages out of a cookie: on a cookie: backend that throws read_only', async () => {
    const { saving, addFlash, takeFlash } = application({ backend: 'cookie:', secret: randomBytes(32) })
    const visitor = new Visitor()
    await visitor.act(saving(async () => addFlash('info', 'Saved.')))
    await assert.rejects(visitor.render(takeFlash), { code: 'read_only' })
    assert.equal((await visitor.act(saving(() => takeFlash()))).length, 1)
  })

  test('cannot add messages or read forms', async () => {
    const { addFlash, readForm } = application()
    await new Visitor().render(async () => {
      assert.throws(() => addFlash('info', 'Saved.'), { code: 'read_only' })
      await assert.rejects(readForm(), { code: 'read_only' })
    })
  })

  test('make a token for a visitor with a session or a cookie of proxy, and throw read_only for any other', async () => {
    const { saving, session, csrfField } = application()
    const visitor = new Visitor()
    await assert.rejects(
      visitor.render(() => csrfField()),
      { code: 'read_only' },
    )
    await visitor.act(saving(async () => (await session()).set('n', 1)))
    assert.equal((await visitor.render(() => csrfField())).name, '_csrf')
  })

  test('whose visitor has logged out in another tab a moment ago render their forms all the same', async () => {
    const { saving, session, csrfField } = application()
    const [one, other] = [new Visitor(), new Visitor()]
    await one.act(saving(async () => (await session()).login('anna')))
    for (const [name, value] of one.cookies) other.cookies.set(name, value)
    await one.act(saving(async () => (await session()).invalidate()))
    assert.equal((await other.render(() => csrfField())).name, '_csrf')
  })

  test('get the error of a store that fails at the first use', async () => {
    const { backend, fail } = failing()
    const { saving, session } = application({ backend })
    const visitor = new Visitor()
    await visitor.act(saving(async () => (await session()).set('n', 1)))
    fail()
    await visitor.render(async () => {
      const s = await session()
      assert.throws(() => s.get('n'), { code: 'unavailable' })
      assert.throws(() => s.invalidate(), { code: 'unavailable' })
    })
  })
})

suite('proxy', () => {
  test('continues to the page, and gives an anonymous visitor a cookie that the page sees', async () => {
    const { proxy, saving, csrfField, readForm } = application()
    const response = await proxy(new Request('http://localhost:3000/login'))
    assert.equal(response.headers.get('x-middleware-next'), '1')
    const [line = ''] = response.headers.getSetCookie()
    assert.equal(response.headers.get('x-middleware-set-cookie'), line)
    const visitor = new Visitor()
    const [name = '', value = ''] = (line.split(';')[0] ?? '').split('=')
    visitor.cookies.set(name, value)
    const field = await visitor.render(() => csrfField())
    const data = new FormData()
    data.append(field.name, field.value)
    const form = await visitor.act(() => saving(async (_: FormData) => readForm())(data))
    assert.ok(form.ok)
  })

  test('sets no cookie for a visitor who has one', async () => {
    const { proxy } = application()
    const first = await proxy(new Request('http://localhost:3000/'))
    const cookie = first.headers.getSetCookie()[0]?.split(';')[0] ?? ''
    const second = await proxy(new Request('http://localhost:3000/', { headers: { cookie } }))
    assert.deepEqual(second.headers.getSetCookie(), [])
    assert.equal(second.headers.get('x-middleware-set-cookie'), null)
  })

  test('continues to the page if the store fails', async () => {
    const { backend, fail } = failing()
    const { proxy, saving, session } = application({ backend })
    const visitor = new Visitor()
    await visitor.act(saving(async () => (await session()).set('n', 1)))
    fail()
    const headers = { cookie: [...visitor.cookies].map((pair) => pair.join('=')).join('; ') }
    const response = await proxy(new Request('http://localhost:3000/', { headers }))
    assert.equal(response.headers.get('x-middleware-next'), '1')
  })
})

suite('forNext()', () => {
  test('calls the function once for a name, at the first use', async () => {
    let calls = 0
    const make = () => {
      calls += 1
      return sessionManager({ backend: 'memory:' })
    }
    const one = forNext(make, { name: 'one' })
    const again = forNext(make, { name: 'one' })
    assert.equal(calls, 0)
    assert.equal(one.manager(), again.manager())
    assert.notEqual(one.manager(), forNext(make, { name: 'two' }).manager())
    assert.equal(calls, 2)
  })

  test('refuses other arguments', () => {
    assert.throws(() => forNext(sessionManager({ backend: 'memory:' }) as never).manager(), { code: 'invalid_option' })
    assert.throws(() => forNext(undefined as never), { code: 'invalid_option' })
    assert.throws(() => forNext(() => sessionManager({ backend: 'memory:' }), { names: 'a' } as never), {
      code: 'invalid_option',
    })
  })
})

suite('the Cookie header of a page', () => {
  const jar = (values: Record<string, string>) => ({
    getAll: () => Object.entries(values).map(([name, value]) => ({ name, value })),
    set: () => {},
  })
  for (const [rule, sent, values, expected] of [
    ['is the one that the browser sent', 'a=1; b=2', { a: '1', b: '2' }, 'a=1; b=2'],
    ['keeps several cookies of one name', 'a=1; a=2', { a: '2' }, 'a=1; a=2'],
    ['has the cookies that were changed since', 'a=1; a=2; b=2', { a: '3', b: '2' }, 'b=2; a=3'],
    ['has no cookies that were deleted since', 'a=1; b=2', { b: '2' }, 'b=2'],
    ['has no cookie that another value contains', 'b=1%3B%20a%3D2', { b: '1; a=2' }, 'b=1%3B%20a%3D2'],
    ['is absent without cookies', null, {}, null],
  ] as const) {
    test(rule, () => assert.equal(cookieHeader(sent, jar(values)), expected))
  }
})
