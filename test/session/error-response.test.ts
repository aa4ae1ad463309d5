// The option errorResponse: the application renders the errors, and keepsake adds the cookies and the caching rules.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  addFlash,
  backendFromUrl,
  crossOriginProtection,
  type ErrorKind,
  type ErrorResponse,
  type EventType,
  type Handler,
  type SessionEvent,
  type SessionManagerOptions,
  session,
  sessionManager,
  takeFlash,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { z } from 'zod'
import { PATIENT } from '../support/clock.ts'
import { watched } from '../support/watched.ts'

const STATUS: Readonly<Record<ErrorKind, number>> = {
  ended: 409,
  conflict: 409,
  withheld: 409,
  unavailable: 503,
  not_saved: 500,
  cross_origin: 403,
}

/** A page of the application: it names the kind and the path. */
const render: ErrorResponse = (kind, request) =>
  new Response(`<h1>${kind} at ${new URL(request.url).pathname}</h1>`, {
    status: STATUS[kind],
    headers: { 'content-type': 'text/html; charset=utf-8', 'x-shop': 'yes' },
  })

/** Two fields of which a schema allows only one to be 1, so two requests that set one each conflict. */
const oneOfTwo = z
  .object({ a: z.number().default(0), b: z.number().default(0) })
  .refine(({ a, b }) => a + b <= 1, 'a + b ≤ 1')

const setField = (name: string) => async (request: Request) => (await session(request)).set(name, 1)

const acts: Readonly<Record<string, (request: Request) => unknown>> = {
  '/a': setField('a'),
  '/b': setField('b'),
  '/large': async (request) => (await session(request)).set('text', 'x'.repeat(1000)),
  '/login': async (request) => (await session(request)).login('anna'),
  '/logout': async (request) => (await session(request)).invalidate(),
  '/flash': (request) => addFlash(request, 'info', 'Saved.'),
  '/take': async (request) => {
    await takeFlash(request)
    ;(await session(request)).set('text', 'x'.repeat(1000))
  },
}

/** An application on a memory backend whose calls a test can hold back or let fail. */
const application = async (options: Partial<SessionManagerOptions> = {}) => {
  const events: SessionEvent[] = []
  const watch = watched(await backendFromUrl('memory:'))
  const manager = () =>
    sessionManager({
      backend: watch.backend,
      storeTimeout: PATIENT,
      errorResponse: render,
      onEvent: (event) => events.push(event),
      ...options,
    })
  const page: Handler = async (request) => {
    await acts[new URL(request.url).pathname]?.(request)
    return new Response('done', { headers: { 'x-handler': 'yes' } })
  }
  const handler = manager()(page)
  const types = (): EventType[] => events.map(({ type }) => type)
  const { errorResponse = render } = options
  return { errorResponse, watch, handler, otherProcess: manager()(page), visit: browser(handler), events, types }
}

type Application = Awaited<ReturnType<typeof application>>

/** Sends a write to another process, and returns its response. It reaches the backend after `act`. */
const writeAfter = async (app: Application, act: () => Promise<unknown>): Promise<Response> => {
  const { arrived, go } = app.watch.hold('set')
  const slow = app.visit.copy(app.otherProcess)('/a')
  await arrived
  await act()
  go()
  return slow
}

/** Checks that a response is the application's, with the headers that keepsake adds. */
const assertRendered = async (response: Response, kind: ErrorKind, path: string): Promise<void> => {
  assert.equal(response.status, STATUS[kind])
  assert.equal(await response.text(), `<h1>${kind} at ${path}</h1>`)
  assert.equal(response.headers.get('content-type'), 'text/html; charset=utf-8')
  assert.equal(response.headers.get('x-shop'), 'yes')
  assert.equal(response.headers.get('x-handler'), null)
  assert.equal(response.headers.get('cache-control'), 'no-store')
}

const CROSS_SITE = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty' }

type Options = Partial<SessionManagerOptions>
type Failure = {
  readonly path: string
  /** The response clears the browser's cookie. */
  readonly cookie: boolean
  readonly options?: Options
  /** Sends the request. */
  send(app: Application): Promise<Response>
}

/** For each kind, a request that is answered with it. */
const failures: Readonly<Record<ErrorKind, Failure>> = {
  ended: {
    path: '/a',
    cookie: false,
    async send(app) {
      await app.visit('/a')
      return writeAfter(app, () => app.visit('/logout'))
    },
  },
  conflict: {
    path: '/a',
    cookie: false,
    options: { schema: oneOfTwo },
    async send(app) {
      await app.visit('/login')
      return writeAfter(app, async () => assert.equal((await app.visit('/b')).status, 200))
    },
  },
  withheld: {
    path: '/a',
    cookie: false,
    send: (app) => app.visit('/a', { method: 'POST', headers: CROSS_SITE }),
  },
  unavailable: {
    path: '/logout',
    cookie: true,
    async send(app) {
      await app.visit('/a')
      app.watch.fail('get', new Error('down'))
      app.watch.fail('get', new Error('down'))
      return app.visit('/logout')
    },
  },
  not_saved: {
    path: '/large',
    cookie: false,
    options: { maxBytes: 500 },
    send: (app) => app.visit('/large'),
  },
  cross_origin: {
    path: '/a',
    cookie: false,
    send(app) {
      const manager = sessionManager({
        backend: app.watch.backend,
        errorResponse: app.errorResponse,
        onEvent: (event) => app.events.push(event),
      })
      const visit = browser(manager(crossOriginProtection(() => new Response('done'))))
      return visit('/a', { method: 'POST', headers: CROSS_SITE })
    },
  },
}

/** Starts an application, and sends it a request that is answered with this kind of error. */
const fail = async (kind: ErrorKind, options?: Options) => {
  const failure = failures[kind]
  const app = await application({ ...failure.options, ...options })
  return { app, response: await failure.send(app) }
}

const kinds = Object.keys(failures) as ErrorKind[]

suite('the application renders each kind of error', () => {
  for (const kind of kinds) {
    const { path, cookie } = failures[kind]
    test(`${kind}: status, body and headers are the application's, and no cache keeps the response`, async () => {
      const { app, response } = await fail(kind)
      await assertRendered(response, kind, path)
      assert.deepEqual(
        response.headers.getSetCookie().map((line) => line.replace(/; Path.*/, '')),
        cookie ? ['__Host-Http-sid=; Max-Age=0'] : [],
      )
      assert.ok(!app.types().includes('error_response_failed'))
    })
    test(`${kind}: a promise of a response works too`, async () => {
      const { response } = await fail(kind, {
        errorResponse: async (kind, request) => {
          await new Promise((resolve) => setImmediate(resolve))
          return render(kind, request)
        },
      })
      await assertRendered(response, kind, path)
      assert.equal(response.headers.getSetCookie().length, cookie ? 1 : 0)
    })
  }

  test('the request that the function gets is the one that the handler got', async () => {
    const requests: Request[] = []
    const manager = sessionManager({
      backend: 'memory:',
      maxBytes: 500,
      errorResponse: (kind, request) => {
        requests.push(request)
        return render(kind, request)
      },
    })
    const page = manager(async (request) => {
      requests.push(request)
      ;(await session(request)).set('text', 'x'.repeat(1000))
      return new Response('done')
    })
    await browser(page)('/')
    assert.equal(requests.length, 2)
    assert.equal(requests[0], requests[1])
  })

  test('a redirect is possible, also one whose headers cannot be changed', async () => {
    const errorResponse = () => Response.redirect('https://app.test/sorry', 303)
    const { response } = await fail('unavailable', { errorResponse })
    assert.equal(response.status, 303)
    assert.equal(response.headers.get('location'), 'https://app.test/sorry')
    assert.match(response.headers.getSetCookie().join(), /^__Host-Http-sid=; Max-Age=0/)
    assert.equal(response.headers.get('cache-control'), 'no-store')
  })

  test('a Response that the application returns each time is never changed', async () => {
    const constant = new Response(null, { status: 503 })
    const { response } = await fail('unavailable', { errorResponse: () => constant })
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.deepEqual([...constant.headers], [])
  })

  test('a Cache-Control of the application stays if there is no cookie, and is replaced if there is one', async () => {
    const errorResponse = () => new Response('', { status: 503, headers: { 'cache-control': 'public, max-age=5' } })
    const without = await fail('not_saved', { errorResponse })
    assert.equal(without.response.headers.get('cache-control'), 'public, max-age=5')
    const withCookie = await fail('unavailable', { errorResponse })
    assert.equal(withCookie.response.headers.get('cache-control'), 'private, no-store')
    assert.ok(withCookie.app.types().includes('cache_overridden'))
  })

  test('a handler that throws the error of an unavailable backend is answered with the kind unavailable', async () => {
    const app = await application()
    await app.visit('/a')
    app.watch.fail('get', new Error('down'))
    await assertRendered(await app.visit('/b'), 'unavailable', '/b')
  })

  test('a flash message that cannot be saved is answered with the kind unavailable', async () => {
    const app = await application()
    await app.visit('/a')
    app.watch.fail('get', new Error('down'))
    await assertRendered(await app.visit('/flash'), 'unavailable', '/flash')
  })

  test('messages that the handler took wait for the next page', async () => {
    const app = await application({ maxBytes: 500 })
    await app.visit('/a')
    await app.visit('/flash')
    await assertRendered(await app.visit('/take'), 'not_saved', '/take')
    const messages: unknown[] = []
    const next = sessionManager({ backend: app.watch.backend })(async (request) => {
      messages.push(...(await takeFlash(request)))
      return new Response('done')
    })
    await app.visit.copy(next)('/')
    assert.equal(messages.length, 1)
  })
})

suite('a function that fails gives the default response and the event error_response_failed', () => {
  const used = async () => {
    const response = new Response('once')
    await response.text()
    return response
  }
  const broken: Readonly<Record<string, ErrorResponse>> = {
    'that throws': () => {
      throw new Error('no template')
    },
    'that rejects': async () => {
      throw new Error('no template')
    },
    'that returns no Response': () => 'sorry' as unknown as Response,
    'that returns a promise of undefined': async () => undefined as unknown as Response,
    'that returns a Response whose body was read': used,
    'that returns Response.error()': () => Response.error(),
  }
  for (const [name, errorResponse] of Object.entries(broken)) {
    for (const kind of kinds) {
      test(`${kind}: one ${name}`, async () => {
        const { cookie } = failures[kind]
        const { app, response } = await fail(kind, { errorResponse })
        assert.equal(response.status, STATUS[kind])
        assert.equal(response.headers.get('content-type'), 'text/plain; charset=utf-8')
        assert.equal(response.headers.get('cache-control'), 'no-store')
        assert.match(await response.text(), /^[A-Z][^.]+\. .*\.\n$/)
        assert.equal(response.headers.getSetCookie().length, cookie ? 1 : 0)
        const failed = app.events.filter(({ type }) => type === 'error_response_failed')
        assert.equal(failed.length, 1)
        assert.match(failed[0]?.message ?? '', new RegExp(`errorResponse failed for the kind ${kind}`))
        assert.ok(failed[0]?.error instanceof Error)
      })
    }
  }
})

suite('errorResponse of crossOriginProtection', () => {
  const cross = { method: 'POST', headers: CROSS_SITE }
  const own: ErrorResponse = (kind) => new Response(`own ${kind}`, { status: 403 })

  test('renders the refusal if there is no session manager', async () => {
    const visit = browser(crossOriginProtection(() => new Response('done'), { errorResponse: own }))
    const response = await visit('/', cross)
    assert.deepEqual([response.status, await response.text()], [403, 'own cross_origin'])
    assert.equal(response.headers.get('cache-control'), 'no-store')
  })

  test('gives way to the one of a session manager around it', async () => {
    const protectedPage = crossOriginProtection(() => new Response('done'), { errorResponse: own })
    const page = sessionManager({ backend: 'memory:', errorResponse: render })(protectedPage)
    await assertRendered(await browser(page)('/a', cross), 'cross_origin', '/a')
  })

  test('renders the refusal if the session manager around it has none', async () => {
    const protectedPage = crossOriginProtection(() => new Response('done'), { errorResponse: own })
    const response = await browser(sessionManager({ backend: 'memory:' })(protectedPage))('/', cross)
    assert.equal(await response.text(), 'own cross_origin')
  })

  test('gives the default and the event to its own onEvent if it throws', async () => {
    const events: SessionEvent[] = []
    const visit = browser(
      crossOriginProtection(() => new Response('done'), {
        onEvent: (event) => events.push(event),
        errorResponse: () => {
          throw new Error('no template')
        },
      }),
    )
    const response = await visit('/', cross)
    assert.equal(response.status, 403)
    assert.match(await response.text(), /^This request came from another website/)
    assert.deepEqual(
      events.map(({ type }) => type),
      ['cross_origin_rejected', 'error_response_failed'],
    )
  })
})

test('errorResponse must be a function', () => {
  const errorResponse = 'sorry' as unknown as ErrorResponse
  assert.throws(() => sessionManager({ backend: 'memory:', errorResponse }), { code: 'invalid_option' })
  assert.throws(() => crossOriginProtection(() => new Response(), { errorResponse }), { code: 'invalid_option' })
})
