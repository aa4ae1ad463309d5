// The response of a handler: checked before anything is saved, never changed, and kept out of shared caches.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  addFlash,
  csrfToken,
  deleteCookie,
  type Session,
  session,
  sessionManager,
  setCookie,
  takeFlash,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { setup } from '../support/visits.ts'

const manager = () => sessionManager({ backend: 'memory:' })

suite('keepsake never changes the Response of a handler', () => {
  const constants: Record<string, Response> = {
    'a redirect': new Response(null, { status: 303, headers: { location: '/' } }),
    'an empty page': new Response(null, { status: 204 }),
    'a response with Vary': new Response(null, { headers: { vary: 'Accept' } }),
    'a response with immutable headers': Response.redirect('https://app.test/', 303),
  }
  for (const [name, constant] of Object.entries(constants)) {
    test(`${name}: each visitor gets their own cookie, and the constant gets none`, async () => {
      const before = [...constant.headers]
      const page = manager()(async (request) => {
        ;(await session(request)).login(new URL(request.url).pathname)
        addFlash(request, 'info', 'Welcome.')
        await csrfToken(request)
        return constant
      })
      const [anna, ben] = [browser(page), browser(page)]
      const [one, other] = await Promise.all([anna('/anna'), ben('/ben')])
      assert.equal(one.headers.getSetCookie().length, 1)
      assert.equal(other.headers.getSetCookie().length, 1)
      assert.notEqual(one.headers.get('set-cookie'), other.headers.get('set-cookie'))
      assert.equal(one.status, constant.status)
      assert.deepEqual([...constant.headers], before)
    })
  }
  test('setCookie and deleteCookie do not change it', async () => {
    const constant = new Response(null, { status: 303 })
    const page = manager()(async (request) =>
      deleteCookie(await setCookie(constant, request, 'theme', 'dark'), request, 'old'),
    )
    for (const _ of [1, 2]) assert.equal((await browser(page)('/')).headers.getSetCookie().length, 2)
    assert.deepEqual([...constant.headers], [])
  })
  test('a request that only reads the session does not change it', async () => {
    const constant = new Response(null)
    const page = manager()(async (request) => {
      await session(request)
      return constant
    })
    assert.equal((await browser(page)('/')).headers.get('vary'), 'Cookie')
    assert.deepEqual([...constant.headers], [])
  })
  test('the copy has the same body, status and status text', async () => {
    const page = manager()(async (request) => {
      await session(request)
      return new Response('hello', { status: 418, statusText: 'Teapot', headers: { 'x-a': 'b' } })
    })
    const response = await browser(page)('/')
    assert.deepEqual(
      [response.status, response.statusText, response.headers.get('x-a'), await response.text()],
      [418, 'Teapot', 'b', 'hello'],
    )
  })
})

suite('a response that cannot be sent is treated like an error of the handler', () => {
  const read = async () => {
    const response = new Response('once')
    await response.text()
    return response
  }
  const locked = () => {
    const response = new Response('once')
    response.body?.getReader()
    return response
  }
  const answers: Record<string, () => unknown> = {
    undefined: () => undefined,
    null: () => null,
    'a number': () => 1,
    'a text': () => 'page',
    'an object': () => ({ status: 200, headers: {} }),
    'a Response whose body was read': read,
    'a Response whose body is locked': locked,
    'Response.error()': () => Response.error(),
  }
  for (const [name, give] of Object.entries(answers)) {
    test(`${name}: nothing is saved, the previous key works, and a flash message is returned`, async () => {
      const app = manager()
      const acting = app(async (request) => {
        const s = await session(request)
        s.login('ben')
        await takeFlash(request)
        return give() as Response
      })
      const reading = app(async (request) => {
        const s = await session(request)
        if (request.url.endsWith('/in')) {
          s.login('anna')
          addFlash(request, 'info', 'Welcome.')
          return new Response()
        }
        return Response.json([s.owner, (await takeFlash(request)).length])
      })
      const visit = browser(reading)
      await visit('/in')
      const same = visit.copy(acting)
      await assert.rejects(async () => same('/'), code('no_response'))
      assert.deepEqual(await (await visit('/')).json(), ['anna', 1])
    })
    test(`${name}: an invalidate still ends the session`, async () => {
      const app = manager()
      const ending = app(async (request) => {
        ;(await session(request)).invalidate()
        return give() as Response
      })
      const page = app(async (request) => {
        const s = await session(request)
        if (request.url.endsWith('/in')) s.login('anna')
        return Response.json(s.owner ?? null)
      })
      const visit = browser(page)
      await visit('/in')
      await assert.rejects(async () => visit.copy(ending)('/'), code('no_response'))
      assert.equal(await (await visit('/')).json(), null)
    })
  }
  test('the error names the returned value and the remedy', async () => {
    const page = manager()(async (request) => {
      await session(request)
      return undefined as unknown as Response
    })
    await assert.rejects(async () => browser(page)('/'), /returned undefined\. Nothing was saved\. Return a Response/)
  })
})

test('the body of a response that is replaced is cancelled', async () => {
  let cancelled = 0
  const h = await setup({ maxBytes: 100 })
  const setting = (field: string, value: unknown) => (s: Session) => {
    s.set(field, value)
    return new Response(new ReadableStream({ cancel: () => void cancelled++ }))
  }
  const visit = h.visitor()
  await visit((s) => s.set('a', 1))
  const late = visit.withSameCookies()
  assert.equal((await visit.raw(setting('big', 'x'.repeat(200)))).status, 500)
  await visit((s) => s.invalidate())
  assert.equal((await late.raw(setting('a', 2))).status, 409)
  assert.equal(cancelled, 2)
})

suite('a Response that the handler throws is its response', () => {
  for (const [name, wrap] of Object.entries({
    synchronously: (response: Response) => {
      throw response
    },
    asynchronously: async (response: Response) => {
      await null
      throw response
    },
  })) {
    test(`${name}: earlier changes are saved, and the response has the cookies`, async () => {
      const page = manager()((request) => {
        const work = async () => {
          const s = await session(request)
          if (!request.url.endsWith('/desk')) {
            return Response.json([s.get('wanted') ?? null, (await takeFlash(request)).length])
          }
          s.set('wanted', '/desk')
          addFlash(request, 'info', 'Please log in.')
          return wrap(new Response(null, { status: 303, headers: { location: '/login' } }))
        }
        return work()
      })
      const visit = browser(page)
      const response = await visit('/desk')
      assert.deepEqual([response.status, response.headers.get('location')], [303, '/login'])
      assert.deepEqual(await (await visit('/')).json(), ['/desk', 1])
    })
  }
  test('without a session it is returned unchanged', async () => {
    const answer = new Response('bye')
    const page = manager()(() => {
      throw answer
    })
    assert.equal(await page(new Request('https://app.test/')), answer)
  })
})

suite('every thenable is awaited', () => {
  /** A promise like those of some query builders: it has only `then`, and the work starts when it is awaited. */
  const lazy = <T>(work: () => Promise<T>): Promise<T> =>
    // biome-ignore lint/suspicious/noThenProperty: the test needs a thenable
    ({ then: (yes: never, no: never) => work().then(yes, no) }) as unknown as Promise<T>

  test('from a handler', async () => {
    const app = manager()
    const page = app((request) =>
      lazy(async () => {
        ;(await session(request)).login('anna')
        return new Response('in', { status: 201 })
      }),
    )
    const visit = browser(page)
    assert.equal((await visit('/')).status, 201)
    const who = visit.copy(app(async (request) => new Response((await session(request)).owner)))
    assert.equal(await (await who('/')).text(), 'anna')
  })
  test('from every operation of a backend', async () => {
    const h = await setup()
    const later = Object.fromEntries(
      (['get', 'generate', 'set', 'clear', 'touch'] as const).map((name) => [
        name,
        (...args: never[]) => lazy(async () => (h.backend[name] as (...args: never[]) => unknown)(...args)),
      ]),
    )
    const slow = await setup({ backend: { ...h.backend, ...later }, now: h.now })
    const visit = slow.visitor()
    await visit((s) => s.login('anna'))
    const thief = visit.withSameCookies()
    await visit((s) => s.login('anna'))
    assert.equal(await visit((s) => s.owner), 'anna')
    assert.equal(await thief((s) => s.owner), undefined, 'the second login ended the first session')
  })
})

suite('no shared cache keeps a response for one visitor', () => {
  const fields: Record<string, string> = {
    'cache-control': 'public, max-age=600',
    'cdn-cache-control': 'public, max-age=600',
    'cloudflare-cdn-cache-control': 'max-age=600',
    'vercel-cdn-cache-control': 'max-age=600',
    'netlify-cdn-cache-control': 'public, durable, max-age=600',
    'akamai-cache-control': 'max-age=600',
    'x-litespeed-cache-control': 'public, max-age=600',
    'surrogate-control': 'max-age=600',
    'edge-control': 'max-age=600',
    'x-accel-expires': '600',
  }
  const acts: Record<string, (request: Request) => Promise<unknown>> = {
    'a session cookie': async (request) => (await session(request)).set('a', 1),
    'a form token': async (request) => csrfToken(request),
    'a flash message': async (request) => takeFlash(request),
  }
  for (const [content, act] of Object.entries(acts)) {
    test(`with ${content}: every header field that allows caching is replaced`, async () => {
      const events: string[] = []
      const app = sessionManager({ backend: 'memory:', onEvent: ({ type }) => events.push(type) })
      const page = app(async (request) => {
        if (request.url.endsWith('/in')) {
          ;(await session(request)).login('anna')
          addFlash(request, 'info', 'Welcome.')
          return new Response()
        }
        await act(request)
        return new Response('page', { headers: fields })
      })
      const visit = browser(page)
      if (content !== 'a session cookie') await visit('/in')
      const { headers } = await visit('/')
      for (const name of Object.keys(fields)) {
        assert.match(headers.get(name) ?? '', name === 'x-accel-expires' ? /^0$/ : /no-store/, name)
      }
      assert.ok(events.includes('cache_overridden'))
    })
  }
  test('the header fields of a page without visitor data stay unchanged', async () => {
    const page = manager()(async (request) => {
      await session(request)
      await takeFlash(request)
      return new Response('page', { headers: fields })
    })
    const { headers } = await browser(page)('/')
    for (const [name, value] of Object.entries(fields)) assert.equal(headers.get(name), value)
  })
})

suite('one request has one session of each manager', () => {
  test('through the same manager twice, the session is the same and is saved once', async () => {
    const h = await setup()
    const app = sessionManager({ backend: h.backend, now: h.now })
    const page = app(
      app(async (request) => {
        ;(await session(request)).update('n', (n = 0) => n + 1)
        return new Response()
      }),
    )
    const response = await browser(page)('/')
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.deepEqual([h.calls.generate, h.calls.set], [1, 0])
  })
  for (const [name, asks] of [
    ['that read its session', true],
    ['that did not read its session', false],
  ] as const) {
    test(`after an inner manager ${name}, the outer handler still has its own session`, async () => {
      const inner = sessionManager({ backend: 'memory:', cookie: { name: 'admin' } })(async (request) => {
        if (asks) (await session(request)).set('inner', 1)
        return new Response()
      })
      const outer = sessionManager({ backend: 'memory:', cookie: { name: 'user' } })
      const page = outer(async (request) => {
        const response = await inner(request)
        const s = await session(request)
        s.update('outer', (n = 0) => n + 1)
        assert.equal(s.get('inner'), undefined)
        return setCookie(response, request, 'theme', 'dark')
      })
      const visit = browser(page)
      await visit('/')
      await visit('/')
      assert.equal(visit.cookies.size, asks ? 3 : 2)
    })
  }
  test('the handler gets the further arguments of a framework', async () => {
    const app = manager()
    const page = app(app(async (_request, context: unknown, more: unknown) => Response.json([context, more])))
    assert.deepEqual(await (await page(new Request('https://app.test/'), { id: 7 }, 'env')).json(), [{ id: 7 }, 'env'])
  })
})

suite('values that would be ignored are refused', () => {
  test('an assignment to a property of the session', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => {
      assert.throws(() => Object.assign(s, { user: 'anna' }), code('invalid_option'))
      assert.throws(
        () => ((s as unknown as Record<string, unknown>).user = 'anna'),
        /no property "user"\. To save a field: s\.set\("user", value\)/,
      )
    })
  })
  test('an unknown option of login and of revokeAll', async () => {
    const h = await setup()
    await h.visitor()((s) => {
      assert.throws(() => s.login('anna', { kepp: ['a'] } as never), code('invalid_option'))
      assert.throws(() => s.login('anna', { keep: 'a' } as never), code('invalid_option'))
    })
    await assert.rejects(manager().revokeAll('anna', { exept: 'x' } as never), code('invalid_option'))
  })
})
