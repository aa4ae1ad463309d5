// The adapter for Hono, on the cases of adapters over @hono/node-server, and its own rules.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { Context, Hono, type MiddlewareHandler } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { HTTPException } from 'hono/http-exception'
import { validator } from 'hono/validator'
import {
  csrfField,
  type KeepsakeError,
  readForm,
  type SessionManager,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { forHono, type SessionVariables } from 'keepsake/hono'
import { memoryBackend } from 'keepsake/memory'
import { type Browser, browser } from 'keepsake/testing'
import { listening } from '../support/listening.ts'

const ORIGIN = 'https://app.example'

const cookiesOf = ({ cookies }: Browser): string => [...cookies].map((pair) => pair.join('=')).join('; ')

/** An application with the adapter, and a visitor of it. */
const visited = (mount: (app: Hono, manager: SessionManager) => void, options: Partial<SessionManagerOptions> = {}) => {
  const manager = sessionManager({ backend: 'memory:', ...options })
  const app = new Hono()
  mount(app, manager)
  return { app, manager, visit: browser(async (request) => app.fetch(request), { origin: ORIGIN }) }
}

const count = async (c: Context): Promise<Response> => {
  const s = await session<{ n: number }>(c)
  s.update('n', (n = 0) => n + 1)
  return c.text(`${s.get('n')}`)
}

/** Logs out in another request, so the changes of this one cannot be saved. */
const endSession = async (c: Context, manager: SessionManager): Promise<void> => {
  const s = await session(c)
  s.set('late', true)
  await manager.revoke(s.label)
}

const cors = async (c: Context, next: () => Promise<void>): Promise<void> => {
  c.header('access-control-allow-origin', '*')
  c.header('vary', 'Origin')
  await next()
}

const lost = async (c: Context, manager: SessionManager): Promise<Response> => {
  c.header('etag', '"page"')
  c.header('set-cookie', 'page=1', { append: true })
  c.status(201)
  await endSession(c, manager)
  return c.text('page')
}

const assertRefused = (response: Response): void => {
  assert.equal(response.status, 409)
  assert.equal(response.headers.get('access-control-allow-origin'), '*')
  assert.match(response.headers.get('vary') ?? '', /Origin/)
  assert.match(response.headers.get('vary') ?? '', /Cookie/)
  assert.match(response.headers.get('cache-control') ?? '', /no-store/)
  assert.equal(response.headers.get('etag'), null)
  assert.deepEqual(response.headers.getSetCookie(), [])
}

suite('the context of Hono', () => {
  test('{ load: true } opens the session as c.var.session', async () => {
    const manager = sessionManager<{ n: number }>({ backend: 'memory:' })
    const app = new Hono().use(forHono(manager, { load: true })).get('/', (c) => {
      c.var.session.update('n', (n = 0) => n + 1)
      return c.text(`${c.var.session.get('n')}`)
    })
    const visit = browser(async (request) => app.fetch(request))
    assert.equal(await (await visit('/')).text(), '1')
    assert.equal(await (await visit('/')).text(), '2')
  })

  test('an application that declares SessionVariables gets c.var.session in all its handlers', async () => {
    const { app } = visited(() => {})
    const typed = new Hono<{ Variables: SessionVariables<{ n: number }> }>()
    typed.use(forHono(sessionManager<{ n: number }>({ backend: 'memory:' }), { load: true }))
    typed.get('/', (c) => c.text(`${c.var.session.get('n') ?? 'none'}`))
    app.route('/', typed)
    assert.equal(await (await app.request(`${ORIGIN}/`)).text(), 'none')
  })

  test('the error of a store that fails is the error of the request with load', async () => {
    const backend = memoryBackend()
    const { visit } = visited(
      (app, manager) => {
        app.use(cors).use(forHono(manager, { load: true }))
        app.get('/', count)
      },
      { backend },
    )
    await visit('/')
    backend.get = () => {
      throw new Error('db7.internal')
    }
    const response = await visit('/')
    assert.equal(response.status, 503)
    assert.doesNotMatch(await response.text(), /db7/)
  })

  test('session(c), session(c.req) and session(c.req.raw) are one session', async () => {
    const { visit } = visited((app, manager) => {
      app.use(forHono(manager))
      app.get('/', async (c) => {
        const opened = await Promise.all([session(c), session(c.req), session(c.req.raw)])
        return c.text(`${new Set(opened).size}`)
      })
    })
    assert.equal(await (await visit('/')).text(), '1')
  })

  test('without the adapter, session(c) is no_middleware', async () => {
    await assert.rejects(session(new Context(new Request(ORIGIN))), { code: 'no_middleware' })
  })

  test('forHono checks its arguments when it is called', () => {
    assert.throws(() => forHono((() => {}) as never), { code: 'invalid_option' })
    const manager = sessionManager({ backend: 'memory:' })
    assert.throws(() => forHono(manager, { loud: true } as never), { code: 'invalid_option' })
    assert.throws(() => forHono(manager, { load: 1 } as never), { code: 'invalid_option' })
  })
})

suite('forms in Hono', () => {
  const form = async (c: Context): Promise<Response> => {
    const result = await readForm(c)
    if (!result.ok) return c.text(result.error, result.status as 403)
    const files = await Promise.all(result.files.map(async ([, file]) => `${file.name} ${await file.text()}`))
    return c.text(
      [...result.fields]
        .map((pair) => pair.join('='))
        .concat(files)
        .join('; '),
    )
  }
  const send = async (read: MiddlewareHandler, multipart: boolean): Promise<string> => {
    const { visit } = visited((app, manager) => {
      app.use(forHono(manager))
      app.get('/', async (c) => c.text((await csrfField(c)).value))
      app.post('/', read, form)
    })
    const body = multipart ? new FormData() : new URLSearchParams()
    body.append('_csrf', await (await visit('/')).text())
    body.append('a', 'Zoë')
    if (body instanceof FormData) body.append('notes', new File(['\x80content'], 'notes.txt'))
    return (await visit('/', { method: 'POST', body })).text()
  }
  const FIELDS = 'a=Zoë'
  const WITH_FILE = 'a=Zoë; notes.txt \x80content'

  test('a form is read after the body limit has replaced the Request', async () => {
    assert.equal(await send(bodyLimit({ maxSize: 10_000 }), false), FIELDS)
    assert.equal(await send(bodyLimit({ maxSize: 10_000 }), true), WITH_FILE)
  })

  test('a form that Hono has parsed before is read from its bytes, with its files', async () => {
    const parse: MiddlewareHandler = async (c, next) => {
      await c.req.parseBody()
      await next()
    }
    assert.equal(await send(parse, false), FIELDS)
    assert.equal(await send(parse, true), WITH_FILE)
    const validate = validator('form', (fields) => fields)
    assert.equal(await send(validate, false), FIELDS)
    assert.equal(await send(validate, true), WITH_FILE)
  })
})

suite('responses in Hono', () => {
  test('a response of fetch, which cannot be changed, gets the cookie beside its own', async () => {
    const upstream = await listening(
      createServer((_, response) =>
        response.writeHead(200, { 'set-cookie': 'up=1', 'cache-control': 'public, max-age=60' }).end('up'),
      ),
    )
    const { visit } = visited((app, manager) => {
      app.use(forHono(manager))
      app.get('/', async (c) => {
        ;(await session(c)).set('n', 1)
        return fetch(upstream.url)
      })
    })
    const { headers } = await visit('/')
    await upstream.close()
    assert.equal(headers.getSetCookie().length, 2)
    assert.equal(headers.get('cache-control'), 'private, no-store')
  })

  test('a Response that is returned twice keeps no cookie of the first visitor', async () => {
    const page = new Response('page')
    const { visit } = visited((app, manager) => {
      app.use(forHono(manager))
      app.get('/', async (c) => {
        ;(await session(c)).set('n', 1)
        return page
      })
    })
    await visit('/')
    assert.deepEqual(page.headers.getSetCookie(), [])
    const core = sessionManager({ backend: 'memory:' })(async (request) => {
      ;(await session(request)).set('n', 1)
      return page
    })
    await core(new Request(ORIGIN))
    assert.deepEqual(page.headers.getSetCookie(), [])
  })

  test('the header fields of middleware outside of the adapter stay, once', async () => {
    const { visit } = visited((app, manager) => {
      app.use(async (c, next) => {
        c.header('set-cookie', 'outer=1', { append: true })
        await next()
        c.header('vary', 'Accept-Encoding', { append: true })
      })
      app.use(forHono(manager)).get('/', count)
    })
    const { headers } = await visit('/')
    assert.equal(headers.getSetCookie().length, 2)
    assert.equal(headers.get('vary'), 'Cookie, Accept-Encoding')
  })

  test('a request that does not ask for its session keeps the very response of its handler', async () => {
    const page = new Response('page')
    const { app } = visited((app, manager) => {
      app.use(async (c, next) => {
        await next()
        assert.equal(c.res, page)
      })
      app.use(forHono(manager)).get('/', () => page)
    })
    assert.equal(await app.request('/'), page)
  })
})

suite('requests that are not saved in Hono', () => {
  const logIn = async (c: Context): Promise<Response> => {
    ;(await session(c)).login('anna')
    return c.text('welcome')
  }

  test('Hono answers 409 with a text for the visitor, and with the header fields from before the adapter', async () => {
    const { visit } = visited((app, manager) => {
      app.use(cors).use(forHono(manager))
      app.get('/login', logIn)
      app.get('/', (c) => lost(c, manager))
    })
    await visit('/login')
    const response = await visit('/')
    assertRefused(response)
    assert.match(await response.text(), /Your session ended/)
  })

  test('app.onError gets the error, and its response the header fields', async () => {
    for (const render of [
      (c: Context, error: Error) => c.text(`${(error as KeepsakeError).code}`, 409),
      (_: Context, error: Error) => new Response(`${(error as KeepsakeError).code}`, { status: 409 }),
    ]) {
      const { visit } = visited((app, manager) => {
        app.onError((error, c) => render(c, error))
        app.use(cors).use(forHono(manager))
        app.get('/login', logIn)
        app.get('/', (c) => lost(c, manager))
      })
      await visit('/login')
      const response = await visit('/')
      assertRefused(response)
      assert.equal(await response.text(), 'ended')
    }
  })

  test('an error page without a status does not get that of the handler', async () => {
    const { visit } = visited((app, manager) => {
      app.onError((_, c) => c.text('error'))
      app.use(forHono(manager))
      app.get('/login', logIn)
      app.get('/', (c) => lost(c, manager))
    })
    await visit('/login')
    assert.equal((await visit('/')).status, 200)
  })

  test('the option errorResponse renders the response, with the header fields from before the adapter', async () => {
    const { visit } = visited(
      (app, manager) => {
        app.onError(() => assert.fail('the error handler is not called'))
        app.use(cors).use(forHono(manager))
        app.get('/login', logIn)
        app.get('/', (c) => lost(c, manager))
      },
      { errorResponse: (kind) => new Response(kind, { status: 409 }) },
    )
    await visit('/login')
    const response = await visit('/')
    assertRefused(response)
    assert.equal(await response.text(), 'ended')
  })

  test('a logout that the store cannot carry out clears the cookie on the page of app.onError', async () => {
    const backend = memoryBackend()
    const { visit } = visited(
      (app, manager) => {
        app.onError((error, c) => c.text('error', (error as KeepsakeError).status as 503))
        app.use(forHono(manager))
        app.get('/login', logIn)
        app.get('/logout', async (c) => {
          ;(await session(c)).invalidate()
          return c.text('bye')
        })
      },
      { backend },
    )
    await visit('/login')
    backend.clear = () => {
      throw new Error('The disk is full.')
    }
    const response = await visit('/logout')
    assert.equal(response.status, 503)
    assert.match(response.headers.getSetCookie().join(), /Max-Age=0/)
  })

  test('an error of an update that runs again goes to app.onError', async () => {
    const { visit } = visited((app, manager) => {
      app.onError((error, c) => c.text(error.message, 500))
      app.use(forHono(manager))
      app.get('/login', logIn)
      app.get('/', async (c) => {
        const s = await session<{ n: number }>(c)
        let runs = 0
        s.update('n', () => {
          runs += 1
          if (runs > 1) throw new Error('The update failed.')
          return 1
        })
        const other = await manager.open(c.req.raw)
        other.set('n', 2)
        await other.commit()
        return c.text('page')
      })
    })
    await visit('/login')
    const response = await visit('/')
    assert.deepEqual([response.status, await response.text()], [500, 'The update failed.'])
  })
})

suite('errors that handlers throw in Hono', () => {
  const change = async (c: Context): Promise<void> => (await session(c)).set('changed', true)
  const thrower = (thrown: unknown) =>
    visited((app, manager) => {
      app.use(forHono(manager))
      app.get('/read', async (c) => c.json((await session(c)).fields))
      app.get('/', async (c) => {
        await change(c)
        throw thrown
      })
    })
  const saved = async (visit: Browser): Promise<boolean> => 'changed' in (await (await visit('/read')).json())

  test('an HTTPException saves nothing', async () => {
    const { visit } = thrower(new HTTPException(401, { message: 'No.' }))
    assert.equal((await visit('/')).status, 401)
    assert.equal(await saved(visit), false)
  })

  test('an HTTPException that is a redirect is an answer, and saves', async () => {
    const res = new Response(null, { status: 303, headers: { location: '/read' } })
    const { visit } = thrower(new HTTPException(303, { res }))
    assert.equal((await visit('/')).status, 303)
    assert.equal(await saved(visit), true)
  })

  test('a thrown Response is thrown on with its cookie', async () => {
    const { app } = thrower(new Response('thrown'))
    await assert.rejects(
      async () => app.request(ORIGIN),
      (error) => error instanceof Response && error.headers.getSetCookie().length === 1,
    )
  })

  test('a route of a sub-application with an error handler of its own saves nothing', async () => {
    const { visit } = visited((app, manager) => {
      const inner = new Hono()
      inner.onError((_, c) => c.text('inner', 500))
      inner.get('/', async (c) => {
        await change(c)
        throw new Error('A handler threw.')
      })
      app.use(forHono(manager))
      app.route('/inner', inner)
      app.get('/read', async (c) => c.json((await session(c)).fields))
    })
    assert.equal(await (await visit('/inner')).text(), 'inner')
    assert.equal(await saved(visit), false)
  })

  test('the page for an error has Vary: Cookie if its request used the session', async () => {
    const { visit } = thrower(new HTTPException(401, { message: 'No.' }))
    assert.equal((await visit('/')).headers.get('vary'), 'Cookie')
    const unused = visited((app, manager) => {
      app.use(forHono(manager)).get('/', () => {
        throw new HTTPException(401)
      })
    })
    assert.equal((await unused.visit('/')).headers.get('vary'), null)
  })

  test('a handler that returns nothing saves nothing, and Hono reports it', async () => {
    const { app, visit } = visited((app, manager) => {
      app.use(forHono(manager))
      app.get('/read', async (c) => c.json((await session(c)).fields))
      app.get('/', (async (c: Context) => change(c)) as never)
    })
    let reported = ''
    app.onError(({ message }, c) => {
      reported = message
      return c.text('error', 500)
    })
    assert.equal((await visit('/')).status, 500)
    assert.match(reported, /not finalized/)
    assert.equal(await saved(visit), false)
  })
})

suite('several adapters and managers in Hono', () => {
  test('the adapter mounted twice, and a sub-application that has it too, have one session', async () => {
    const { visit } = visited((app, manager) => {
      const inner = new Hono().use(forHono(manager)).get('/', count)
      app.use(forHono(manager)).use(forHono(manager))
      app.route('/inner', inner)
      const mounted = new Hono().use(forHono(manager)).get('/mounted', async (c) => {
        assert.equal(await session(c), await session(c.req.raw))
        return count(c)
      })
      app.mount('/mounted', mounted.fetch, { replaceRequest: (request) => request })
      app.get('/', count)
    })
    for (const path of ['/', '/inner', '/mounted']) {
      const before = visit.copy()
      assert.equal((await before(path)).headers.getSetCookie().length, 1)
    }
  })

  test('two managers have two sessions, with a body limit between them, and after the inner one has answered', async () => {
    const outer = sessionManager({ backend: 'memory:', cookie: { name: 'outer' } })
    const inner = sessionManager({ backend: 'memory:', cookie: { name: 'inner' } })
    const app = new Hono().use(forHono(outer), async (c, next) => {
      await next()
      ;(await session(c)).set('after', 1)
    })
    app.use(bodyLimit({ maxSize: 100 }), forHono(inner))
    app.post('/', async (c) => {
      ;(await outer.session(c)).set('outer', 1)
      ;(await session(c)).set('inner', 1)
      return c.json((await inner.session(c)).fields)
    })
    const visit = browser(async (request) => app.fetch(request), { origin: ORIGIN })
    const response = await visit('/', { method: 'POST', body: 'text' })
    assert.deepEqual(await response.json(), { inner: 1 })
    assert.equal(response.headers.getSetCookie().length, 2)
    const opened = await outer.open({ headers: new Headers({ cookie: cookiesOf(visit) }), url: ORIGIN })
    assert.deepEqual(opened.fields, { outer: 1, after: 1 })
  })

  test('a manager around app.fetch keeps its own session', async () => {
    const outer = sessionManager({ backend: 'memory:', cookie: { name: 'outer' } })
    const inner = sessionManager({ backend: 'memory:', cookie: { name: 'inner' } })
    const app = new Hono().use(forHono(inner))
    app.get('/', async (c) => {
      ;(await inner.session(c)).set('inner', 1)
      ;(await outer.session(c)).set('outer', 1)
      return c.json(Object.keys((await session(c)).fields))
    })
    const handler = outer(async (request) => {
      const response = await app.fetch(request)
      ;(await session(request)).set('after', 1)
      return response
    })
    const visit = browser(handler, { origin: ORIGIN })
    const response = await visit('/')
    assert.deepEqual(await response.json(), ['inner'])
    assert.equal(response.headers.getSetCookie().length, 2)
    const opened = await outer.open({ headers: new Headers({ cookie: cookiesOf(visit) }), url: ORIGIN })
    assert.deepEqual(opened.fields, { outer: 1, after: 1 })
  })
})
