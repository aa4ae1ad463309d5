// The adapter for Koa, on the cases of adapters and on the traps of Koa.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect as connectHttp2, createServer as createHttp2Server } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { parse as parseQuery } from 'node:querystring'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { suite, type TestContext, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import {
  csrfField,
  KeepsakeError,
  type RequestLike,
  readForm,
  type SessionManager,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { forKoa } from 'keepsake/koa'
import { memoryBackend } from 'keepsake/memory'
import { adapterCases, type Browser, browser, type ServeApplication, type ServedApplication } from 'keepsake/testing'
import Koa from 'koa'
import { PATIENT } from '../support/clock.ts'
import { listening, sendAnswer } from '../support/listening.ts'
import { type Watched, watched } from '../support/watched.ts'

const serveRaw: ServeApplication = ({ manager, handle }) => {
  const app = new Koa()
  app.silent = true
  app.use(forKoa(manager))
  app.use(async (ctx) => {
    const answer = await handle(ctx, ctx)
    ctx.respond = false
    sendAnswer(ctx.res, answer)
  })
  return listening(createServer(app.callback()))
}

const servers: Readonly<Record<string, ServeApplication>> = {
  'Koa, by ctx.res': serveRaw,
}

for (const [name, serve] of Object.entries(servers)) {
  suite(name, () => {
    for (const { name, run } of adapterCases) test(name, () => run(serve))
  })
}

type Setup = {
  readonly manager: SessionManager
  readonly app: Koa
  readonly store: Watched
  /** Errors that Koa reported. */
  readonly errors: unknown[]
  /** Requests a path as one visitor. The first request starts the server. */
  readonly visit: Browser
}

const setup = (t: TestContext, options: Partial<SessionManagerOptions> = {}): Setup => {
  const store = watched(memoryBackend())
  const manager = sessionManager({ backend: store.backend, storeTimeout: PATIENT, ...options })
  const app = new Koa()
  const errors: unknown[] = []
  app.on('error', (error) => errors.push(error))
  let served: Promise<ServedApplication> | undefined
  t.after(async () => (await served)?.close())
  const visit = browser(
    async (request) => {
      served ??= listening(createServer(app.callback()))
      const { url } = await served
      const { pathname, search } = new URL(request.url)
      const { method, headers } = request
      const body = method === 'POST' ? await request.text() : null
      return fetch(`${url}${pathname}${search}`, { method, headers, body, redirect: 'manual' })
    },
    { origin: 'http://localhost' },
  )
  return { manager, app, store, errors, visit }
}

/** Answers the requests of one path. */
const route =
  (path: string, handle: (ctx: Koa.Context) => unknown): Koa.Middleware =>
  async (ctx, next) => {
    if (ctx.path === path) await handle(ctx)
    else await next()
  }

/** Changes a session so that it cannot be saved. */
const breakSession = async (x: RequestLike): Promise<void> => {
  ;(await session(x)).set('huge', 'x'.repeat(2 ** 20))
}
const count = async (x: RequestLike): Promise<number> => {
  const s = await session<{ n: number }>(x)
  s.update('n', (n = 0) => n + 1)
  return s.get('n') as number
}
const names = ({ headers }: Response): string[] =>
  headers.getSetCookie().map((line) => line.slice(0, line.search(/[-=]/)))

suite('a session of Koa', () => {
  test('belongs to the context, to its Request and to its Node request', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      const all = [await session(ctx), await session(ctx.request), await session(ctx.req)]
      ctx.body = new Set(all).size
    })
    assert.equal(await (await visit('/')).text(), '1')
  })

  test('costs a request nothing that does not ask for it: the Node response is as Koa got it', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      if (ctx.path === '/asks') await session(ctx)
      ctx.body = Object.hasOwn(ctx.res, 'write')
    })
    assert.equal(await (await visit('/')).text(), 'false')
    assert.equal(await (await visit('/asks')).text(), 'true')
  })

  test('is ctx.session with load', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager, { load: true }))
    app.use(async (ctx) => {
      ctx.session.update('n', (n) => Number(n ?? 0) + 1)
      ctx.body = ctx.session === (await session(ctx)) ? ctx.session.get('n') : 'another session'
    })
    await visit('/')
    assert.equal(await (await visit('/')).text(), '2')
  })

  test('that cannot be loaded is an error of Koa, without the text of the backend', async (t) => {
    const { app, manager, visit, store, errors } = setup(t)
    app.use(forKoa(manager, { load: true }))
    app.use(async (ctx) => {
      ctx.body = await count(ctx)
    })
    await visit('/')
    store.fail('get', new Error('db7.internal'))
    const response = await visit('/')
    assert.equal(response.status, 503)
    assert.doesNotMatch(await response.text(), /db7/)
    assert.equal(errors.length, 1)
  })

  test('is one, although the adapter is mounted twice, also in an application inside of another', async (t) => {
    const { app, manager, visit, store } = setup(t)
    const inner = new Koa()
    inner.use(forKoa(manager))
    inner.use(async (ctx) => {
      ctx.body = await count(ctx)
    })
    const handle = inner.callback()
    const counting: Koa.Middleware = async (ctx, next) => {
      await count(ctx)
      await next()
    }
    app.use(forKoa(manager))
    app.use(counting)
    app.use(forKoa(manager))
    app.use(counting)
    app.use(async (ctx) => {
      ctx.respond = false
      await handle(ctx.req, ctx.res)
    })
    const response = await visit('/')
    assert.deepEqual([await response.text(), names(response), store.calls.generate], ['3', ['sid'], 1])
  })

  test('of each of two managers is saved', async (t) => {
    const { app, manager, visit } = setup(t)
    const other = sessionManager({ backend: memoryBackend(), cookie: { name: 'other' } })
    app.use(forKoa(manager))
    app.use(forKoa(other))
    app.use(async (ctx) => {
      const [one, two] = [await manager.session(ctx), await other.session(ctx)]
      ctx.body = [one.fields, two.fields]
      if (ctx.path !== '/set') return
      one.set('a', 1)
      two.set('b', 2)
    })
    assert.deepEqual(names(await visit('/set')).toSorted(), ['other', 'sid'])
    assert.deepEqual(await (await visit('/')).json(), [{ a: 1 }, { b: 2 }])
  })

  test('of HTTP/2 works', async (t) => {
    const { app, manager } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      ctx.body = `${await count(ctx)}`
    })
    const server = createHttp2Server(app.callback()).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const client = connectHttp2(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    t.after(() => client.close())
    const stream = client.request({ ':path': '/' })
    const [headers] = (await once(stream, 'response')) as [{ 'set-cookie'?: string[] }]
    assert.equal(headers['set-cookie']?.length, 1)
    assert.equal(await text(stream), '1')
  })

  test('is saved if a middleware below catches the error', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx, next) => {
      try {
        await next()
      } catch {
        ctx.body = 'sorry'
      }
    })
    app.use(async (ctx) => {
      ctx.status = 401
      await count(ctx)
      throw new Error('a handler failed')
    })
    const response = await visit('/')
    assert.deepEqual([response.status, names(response)], [401, ['sid']])
  })

  test('is saved with ctx.status = 401, and not with ctx.throw(401)', async (t) => {
    const { app, manager, visit, store } = setup(t)
    app.use(forKoa(manager))
    app.use(
      route('/throw', async (ctx) => {
        await count(ctx)
        ctx.throw(401, 'Please log in.')
      }),
    )
    app.use(
      route('/status', async (ctx) => {
        await count(ctx)
        ctx.status = 401
      }),
    )
    const thrown = await visit('/throw')
    assert.deepEqual([thrown.status, await thrown.text(), store.calls.generate], [401, 'Please log in.', 0])
    assert.deepEqual([(await visit('/status')).status, store.calls.generate], [401, 1])
  })
})

suite('a response of Koa', () => {
  test('can be changed by middlewares above, such as a compression', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(async (ctx, next) => {
      await next()
      ctx.set('content-encoding', 'gzip')
      ctx.vary('Accept-Encoding')
      ctx.body = gzipSync(`${ctx.body}`)
    })
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      ctx.body = `${await count(ctx)}`
    })
    const response = await visit('/')
    assert.equal(response.headers.get('vary'), 'Cookie, Accept-Encoding')
    assert.deepEqual([await response.text(), names(response)], ['1', ['sid']])
  })

  test('that fails after the session is saved has the cookie: a body that is no JSON, an error of a middleware above', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(async (ctx, next) => {
      await next()
      if (ctx.path === '/above') ctx.throw(418, { headers: { 'x-tea': 'yes', 'set-cookie': 'tea=1' } })
    })
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      ctx.set('etag', '"page"')
      ctx.body = { n: await count(ctx), self: ctx.path === '/above' ? undefined : ctx.body }
      if (ctx.path !== '/above') Object.assign(ctx.body as object, { self: ctx.body })
      ;(await session(ctx)).rotateKey()
    })
    const circular = await visit('/')
    assert.deepEqual([circular.status, names(circular), circular.headers.get('etag')], [500, ['sid'], null])
    assert.equal(circular.headers.get('cache-control'), 'no-store')
    const above = await visit('/above')
    assert.deepEqual([above.status, names(above), above.headers.get('x-tea')], [418, ['tea', 'sid'], 'yes'])
  })

  test('keeps the cookies of ctx.cookies', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      ctx.cookies.set('a', '1')
      ctx.body = await count(ctx)
    })
    assert.deepEqual(names(await visit('/')), ['a', 'sid'])
  })

  test('is a stream that fails while the session is saved: the server lives', async (t) => {
    const { app, manager, visit, store } = setup(t)
    const saving = store.hold('generate')
    const stream = new Readable({ read() {} })
    app.use(forKoa(manager))
    app.use(
      route('/', async (ctx) => {
        await count(ctx)
        ctx.body = stream
      }),
    )
    const response = visit('/').catch(() => 'no response')
    await saving.arrived
    stream.destroy(new Error('the disk failed'))
    await new Promise((resolve) => stream.once('close', resolve))
    saving.go()
    // Koa 3 closes the connection if a stream fails.
    assert.equal(await response, 'no response')
    assert.equal((await visit('/nowhere')).status, 404)
  })

  test('whose head is flushed before its stream is held until the session is saved', async (t) => {
    const { app, manager, visit, store } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      await count(ctx)
      ctx.status = 200
      ctx.type = 'text/event-stream'
      ctx.flushHeaders()
      ctx.body = Readable.from(['data: 1\n\n', 'data: 2\n\n'])
    })
    const response = await visit('/')
    assert.deepEqual([await response.text(), names(response)], ['data: 1\n\ndata: 2\n\n', ['sid']])
    assert.equal(store.calls.generate, 1)
  })

  test('whose head has left is too late for a first use of the session', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      ctx.respond = false
      ctx.res.write('head ')
      ctx.res.end(await session(ctx).catch(({ code }) => code))
    })
    assert.equal(await (await visit('/')).text(), 'head too_late')
  })

  test('that the handler writes to ctx.res and cannot be saved is Koa’s error page, and Koa reports the error', async (t) => {
    const { app, manager, visit, errors } = setup(t)
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      await breakSession(ctx)
      ctx.respond = false
      ctx.res.setHeader('etag', '"page"')
      ctx.res.end('page')
    })
    const response = await visit('/')
    assert.deepEqual(
      [response.status, await response.text(), response.headers.get('etag')],
      [500, 'Internal Server Error', null],
    )
    assert.deepEqual(
      errors.map((error) => error instanceof KeepsakeError && error.code),
      ['too_large'],
    )
  })
})

suite('a request of Koa that is not saved', () => {
  /** A session that ends during the request. */
  const ending = (manager: SessionManager) => [
    route('/login', async (ctx) => {
      ;(await session(ctx)).login('anna')
      ctx.body = 'welcome'
    }),
    route('/', async (ctx) => {
      const s = await session(ctx)
      await manager.revokeAll('anna')
      s.set('a', 1)
      ctx.set('etag', '"page"')
      ctx.cookies.set('page', '1')
      ctx.body = { page: true }
    }),
  ]

  test('throws one error for the middlewares above, and their response is sent', async (t) => {
    const { app, manager, visit, errors } = setup(t)
    const caught: unknown[] = []
    app.use(async (ctx, next) => {
      ctx.set('access-control-allow-origin', '*')
      ctx.cookies.set('early', '1')
      try {
        await next()
      } catch (error) {
        caught.push(error, ctx.status, ctx.body)
        ctx.body = 'sorry'
      }
    })
    app.use(forKoa(manager))
    for (const middleware of ending(manager)) app.use(middleware)
    await visit('/login')
    const response = await visit('/')
    const [error, status, body] = caught as [KeepsakeError, number, unknown]
    assert.equal(caught.length, 3)
    assert.ok(error instanceof KeepsakeError)
    assert.deepEqual([error.code, error.status, status, body], ['ended', 409, 409, undefined])
    assert.deepEqual([response.status, await response.text(), names(response)], [409, 'sorry', ['early']])
    assert.deepEqual(
      ['etag', 'access-control-allow-origin', 'content-type'].map((name) => response.headers.get(name)),
      [null, '*', 'text/plain; charset=utf-8'],
    )
    assert.deepEqual(errors, [])
  })

  test('has the status of its error if a middleware above catches the error and sets nothing', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(async (_ctx, next) => {
      await next().catch(() => {})
    })
    app.use(forKoa(manager))
    for (const middleware of ending(manager)) app.use(middleware)
    await visit('/login')
    const response = await visit('/')
    assert.deepEqual([response.status, await response.text()], [409, 'Conflict'])
  })

  test('has a text for the visitor if nobody catches the error', async (t) => {
    const { app, manager, visit } = setup(t)
    app.use(forKoa(manager))
    for (const middleware of ending(manager)) app.use(middleware)
    await visit('/login')
    const response = await visit('/')
    assert.equal(response.status, 409)
    assert.match(await response.text(), /^Your session ended while this page was open/)
    assert.equal(response.headers.get('cache-control'), 'no-store')
  })

  test('clears the cookie of a logout, also if a middleware above answers the error', async (t) => {
    for (const handlesErrors of [false, true]) {
      const { app, manager, visit, store } = setup(t)
      if (handlesErrors) {
        app.use(async (ctx, next) => {
          try {
            await next()
          } catch (error) {
            const { status, headers } = error as { status: number; headers: Record<string, string> }
            ctx.set(headers)
            ctx.status = status
            ctx.body = 'sorry'
          }
        })
      }
      app.use(forKoa(manager))
      app.use(
        route('/login', async (ctx) => {
          ;(await session(ctx)).login('anna')
          ctx.body = 'welcome'
        }),
      )
      app.use(
        route('/logout', async (ctx) => {
          ;(await session(ctx)).invalidate()
          ctx.body = 'bye'
        }),
      )
      await visit('/login')
      store.fail('clear', new Error('db7.internal'))
      const response = await visit('/logout')
      assert.equal(response.status, 503)
      assert.deepEqual(names(response), ['sid'])
      assert.match(response.headers.getSetCookie().join(), /Max-Age=0/)
      assert.doesNotMatch(await response.text(), /db7/)
    }
  })

  test('destroys or cancels the body that is not sent', async (t) => {
    const { app, manager, visit } = setup(t)
    let cancelled = 0
    const webStream = () =>
      new ReadableStream({
        cancel() {
          cancelled += 1
        },
      })
    const nodeStreams = [Readable.from(['page']), Readable.from(['page'])]
    const bodies: Readonly<Record<string, unknown>> = {
      '/node': nodeStreams[0],
      '/json': nodeStreams[1],
      '/web': webStream(),
      '/response': new Response(webStream()),
    }
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      await breakSession(ctx)
      ctx.body = bodies[ctx.path]
      if (ctx.path === '/json') ctx.type = 'application/json'
    })
    for (const path of Object.keys(bodies)) assert.equal((await visit(path)).status, 500)
    assert.deepEqual([nodeStreams.map(({ destroyed }) => destroyed), cancelled], [[true, true], 2])
  })

  test('because a function of the application failed throws that error, without the page’s fields', async (t) => {
    const { app, manager, visit } = setup(t)
    const tab = { visit }
    app.use(async (ctx, next) => {
      try {
        await next()
      } catch (error) {
        ctx.body = String(error)
      }
    })
    app.use(forKoa(manager))
    app.use(
      route('/', async (ctx) => {
        const s = await session(ctx)
        let calls = 0
        // The first call is for the handler, the second is for the entry that another request changed.
        s.update('n', () => {
          calls += 1
          if (calls > 1) throw new TypeError('an update failed')
          return 1
        })
        await tab.visit.copy()('/change')
        ctx.set('etag', '"page"')
        ctx.status = 201
      }),
    )
    app.use(
      route('/change', async (ctx) => {
        ctx.body = await count(ctx)
      }),
    )
    await visit('/change')
    const response = await visit('/')
    assert.deepEqual([response.status, response.headers.get('etag')], [500, null])
    assert.match(await response.text(), /an update failed/)
  })

  test('is rendered by the option errorResponse, and throws nothing', async (t) => {
    const { app, manager, visit, errors } = setup(t, {
      errorResponse: (kind) => new Response(kind, { status: 507, headers: { vary: 'Accept', 'set-cookie': 'own=1' } }),
    })
    app.use(async (ctx, next) => {
      ctx.set('x-early', 'yes')
      await next()
    })
    app.use(forKoa(manager))
    app.use(async (ctx) => {
      await breakSession(ctx)
      ctx.set('etag', '"page"')
      ctx.body = { page: true }
    })
    const response = await visit('/')
    const { headers } = response
    assert.deepEqual([response.status, await response.text(), names(response)], [507, 'not_saved', ['own']])
    assert.deepEqual(
      ['etag', 'x-early', 'vary', 'content-type', 'cache-control'].map((name) => headers.get(name)),
      [null, 'yes', 'Accept, Cookie', 'text/plain;charset=UTF-8', 'no-store'],
    )
    assert.deepEqual(errors, [])
  })
})

test('a handler of Koa that throws after a logout clears the cookie once if its error is one of the store', async (t) => {
  const { app, manager, visit } = setup(t)
  app.use(forKoa(manager))
  app.use(
    route('/login', async (ctx) => {
      ;(await session(ctx)).login('anna')
      ctx.body = 'welcome'
    }),
  )
  app.use(
    route('/logout', async (ctx) => {
      ;(await session(ctx)).invalidate()
      throw new KeepsakeError('unavailable', 'The list of devices is not available.')
    }),
  )
  await visit('/login')
  const response = await visit('/logout')
  assert.deepEqual([response.status, names(response)], [503, ['sid']])
  assert.match(response.headers.getSetCookie().join(), /Max-Age=0/)
})

test('a redirect of the option errorResponse gets no type from Koa', async (t) => {
  const { app, manager, visit } = setup(t, {
    errorResponse: () => new Response(null, { status: 303, headers: { location: '/sorry' } }),
  })
  app.use(forKoa(manager))
  app.use(async (ctx) => {
    await breakSession(ctx)
    ctx.body = 'page'
  })
  const { status, headers } = await visit('/')
  assert.deepEqual([status, headers.get('location'), headers.get('content-type')], [303, '/sorry', null])
})

test('a form in Koa is read from the body that koa-body or koa-bodyparser has parsed', async (t) => {
  const { app, manager, visit } = setup(t)
  app.use(forKoa(manager))
  app.use(async (ctx, next) => {
    if (ctx.method === 'POST') {
      let body = ''
      for await (const piece of ctx.req) body += piece
      ;(ctx.request as { body?: unknown }).body = parseQuery(body)
    }
    await next()
  })
  app.use(async (ctx) => {
    if (ctx.method === 'POST') {
      const form = await readForm(ctx)
      ctx.body = form.ok ? [...form.fields] : form.error
    } else ctx.body = (await csrfField(ctx)).value
  })
  const token = await (await visit('/')).text()
  const response = await visit('/', { method: 'POST', body: new URLSearchParams({ _csrf: token, a: '1' }) })
  assert.deepEqual(await response.json(), [['a', '1']])
})
