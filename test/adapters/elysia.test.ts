// The adapter for Elysia, on the cases of adapters over @hono/node-server, and its own rules.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type AnyElysia, Elysia, t } from 'elysia'
import {
  csrfField,
  type KeepsakeError,
  readForm,
  type SessionManager,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { forElysia } from 'keepsake/elysia'
import { memoryBackend } from 'keepsake/memory'
import { type Browser, browser } from 'keepsake/testing'

/** A host of this length at least: Elysia finds no path after a shorter one. */
const ORIGIN = 'https://app.example'

/** An application with a manager, and a visitor of it. */
const visited = (
  mount: (manager: SessionManager) => AnyElysia,
  options: Partial<SessionManagerOptions> = {},
): { readonly app: AnyElysia; readonly visit: Browser } => {
  const app = mount(sessionManager({ backend: 'memory:', ...options }))
  return { app, visit: browser(async (request) => app.fetch(request), { origin: ORIGIN }) }
}

const change = async (context: { readonly request: Request }): Promise<void> =>
  (await session(context)).set('changed', true)

const logIn = async (context: { readonly request: Request }): Promise<string> => {
  ;(await session(context)).login('anna')
  return 'welcome'
}

suite('the context of Elysia', () => {
  test('{ load: true } gives handlers the session, with its type', async () => {
    const manager = sessionManager<{ n: number }>({ backend: 'memory:' })
    const app = new Elysia().use(forElysia(manager, { load: true })).get('/', ({ session }) => {
      session.update('n', (n = 0) => n + 1)
      return `${session.get('n')}`
    })
    const visit = browser(async (request) => app.fetch(request), { origin: ORIGIN })
    assert.equal(await (await visit('/')).text(), '1')
    assert.equal(await (await visit('/')).text(), '2')
  })

  test('session(context) and session(context.request) are one session', async () => {
    const { visit } = visited((manager) =>
      new Elysia()
        .use(forElysia(manager))
        .get('/', async (context) => `${(await session(context)) === (await session(context.request))}`),
    )
    assert.equal(await (await visit('/')).text(), 'true')
  })

  test('a plugin that is used after the adapter has the session, and so has one before it', async () => {
    const { visit } = visited((manager) => {
      const plugin = (path: string) =>
        new Elysia({ name: path }).get(path, async (context) => {
          await change(context)
          return path
        })
      return new Elysia().use(plugin('/before')).use(forElysia(manager)).use(plugin('/after'))
    })
    for (const path of ['/before', '/after']) {
      assert.equal((await visit.copy()(path)).headers.getSetCookie().length, 1)
    }
  })

  test('the adapter used twice, also by a plugin, has one session', async () => {
    const { visit } = visited((manager) => {
      const plugin = new Elysia({ name: 'plugin' }).use(forElysia(manager)).get('/', async (context) => {
        await change(context)
        return 'page'
      })
      return new Elysia().use(forElysia(manager)).use(forElysia(manager)).use(plugin)
    })
    assert.equal((await visit('/')).headers.getSetCookie().length, 1)
  })

  test('app.stop() closes the manager', async () => {
    const closed = Promise.withResolvers<void>()
    const backend = { ...memoryBackend(), close: async () => closed.resolve() }
    const manager = sessionManager({ backend })
    await manager.ready?.()
    const app = new Elysia().use(forElysia(manager))
    app.server = { stop: async () => {} } as never
    await app.stop()
    await closed.promise
  })

  test('forElysia checks its arguments when the application uses it', () => {
    const manager = sessionManager({ backend: 'memory:' })
    assert.throws(() => new Elysia().use(forElysia((() => {}) as never)), { code: 'invalid_option' })
    assert.throws(() => new Elysia().use(forElysia(manager, { loud: true } as never)), { code: 'invalid_option' })
    assert.throws(() => new Elysia({ aot: false }).use(forElysia(manager)), { code: 'invalid_option' })
  })
})

suite('forms in Elysia', () => {
  const send = async (body: URLSearchParams | FormData, parse?: 'none') => {
    const { visit } = visited((manager) =>
      new Elysia()
        .use(forElysia(manager))
        .get('/', async (context) => (await csrfField(context)).value)
        .post(
          '/',
          async (context) => {
            const form = await readForm(context)
            if (!form.ok) return form.error
            const files = await Promise.all(form.files.map(async ([, file]) => file.text()))
            return [...form.fields].map((pair) => pair.join('=')).concat(files)
          },
          parse === undefined ? {} : { parse },
        ),
    )
    body.append('_csrf', await (await visit('/')).text())
    body.append('a', 'Zoë')
    body.append('a', '2')
    return (await visit('/', { method: 'POST', body })).text()
  }

  test('a form that Elysia has parsed has its fields', async () => {
    assert.equal(await send(new URLSearchParams()), '["a=Zoë","a=2"]')
    assert.equal(await send(new FormData()), '["a=Zoë","a=2"]')
  })

  test("a route with parse: 'none' has the files of its form too", async () => {
    const body = new FormData()
    body.append('notes', new File(['content'], 'notes.txt'))
    assert.equal(await send(body, 'none'), '["a=Zoë","a=2","content"]')
  })
})

suite('responses in Elysia', () => {
  test('the cookies of Elysia and its other header fields stay', async () => {
    const { visit } = visited((manager) =>
      new Elysia().use(forElysia(manager)).get('/', async (context) => {
        await change(context)
        context.cookie.a?.set({ value: '1' })
        context.cookie.b?.set({ value: '2' })
        context.set.headers.vary = 'Accept'
        return { page: 1 }
      }),
    )
    const response = await visit('/')
    assert.equal(response.headers.getSetCookie().length, 3)
    assert.equal(response.headers.get('vary'), 'Accept, Cookie')
    assert.deepEqual(await response.json(), { page: 1 })
  })

  test('the stream of a generator has the cookie', async () => {
    const { visit } = visited((manager) =>
      new Elysia().use(forElysia(manager)).get('/', async function* (context) {
        await change(context)
        yield 'a'
      }),
    )
    const response = await visit('/')
    assert.equal(response.headers.getSetCookie().length, 1)
    await response.body?.cancel()
  })
})

suite('requests that are not saved in Elysia', () => {
  const refused = async (
    options: Partial<SessionManagerOptions> = {},
    extend: (app: Elysia) => unknown = () => {},
  ): Promise<Response> => {
    const { visit } = visited((manager) => {
      const app = new Elysia()
      app.onRequest(({ set }) => {
        set.headers['access-control-allow-origin'] = '*'
        set.headers.vary = 'Origin'
      })
      app.use(forElysia(manager))
      extend(app)
      return app.get('/login', logIn).get('/', async (context) => {
        context.set.headers.etag = '"page"'
        context.set.status = 201
        context.cookie.page?.set({ value: '1' })
        const s = await session(context)
        s.set('late', true)
        await manager.revoke(s.label)
        return 'page'
      })
    }, options)
    await visit('/login')
    return visit('/')
  }
  const assertRefused = ({ status, headers }: Response): void => {
    assert.equal(status, 409)
    assert.equal(headers.get('access-control-allow-origin'), '*')
    assert.equal(headers.get('etag'), null)
    assert.deepEqual(headers.getSetCookie(), [])
    assert.match(headers.get('vary') ?? '', /Origin/)
    assert.match(headers.get('vary') ?? '', /Cookie/)
    assert.match(headers.get('cache-control') ?? '', /no-store/)
  }

  test('Elysia answers 409 with a text for the visitor, and with the header fields from before the handlers', async () => {
    const response = await refused()
    assertRefused(response)
    assert.match(await response.text(), /Your session ended/)
  })

  test('onError gets the error, and its answer the header fields', async () => {
    const response = await refused({}, (app) =>
      app.onError(({ error, code }) => `${code} ${(error as KeepsakeError).status}`),
    )
    assertRefused(response)
    assert.equal(await response.text(), 'ended 409')
    assertRefused(await refused({}, (app) => app.onError(() => new Response('sorry', { status: 409 }))))
  })

  test('the option errorResponse renders the response, with the header fields from before the handlers', async () => {
    const response = await refused({ errorResponse: (kind) => new Response(kind, { status: 409 }) })
    assertRefused(response)
    assert.equal(await response.text(), 'ended')
  })

  test('a logout that the store cannot carry out clears the cookie', async () => {
    const backend = memoryBackend()
    const { visit } = visited(
      (manager) =>
        new Elysia()
          .use(forElysia(manager))
          .get('/login', logIn)
          .get('/logout', async (context) => {
            ;(await session(context)).invalidate()
            return 'bye'
          }),
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
})

suite('errors that handlers throw in Elysia', () => {
  /** Whether the change of a handler was saved that throws this, or returns it. */
  const outcome = async (
    end: (context: { status: (code: 418, body: string) => unknown }) => unknown,
    mounted = (app: Elysia) => app,
  ) => {
    const { visit } = visited((manager) =>
      mounted(new Elysia())
        .use(forElysia(manager))
        .get('/read', async (context) => (await session(context)).fields)
        .get('/', async (context) => {
          await change(context)
          return end(context as never)
        }),
    )
    const { status } = await visit('/')
    const fields = (await (await visit('/read')).json()) as object
    return { status, saved: 'changed' in fields }
  }

  test('an error saves nothing, with and without an error handler, and if it makes its own response', async () => {
    const fail = () => {
      throw new Error('A handler threw.')
    }
    class Own extends Error {
      toResponse(): Response {
        return new Response('own', { status: 502 })
      }
    }
    assert.deepEqual(await outcome(fail), { status: 500, saved: false })
    const recovering = (app: Elysia) => app.onError(() => 'recovered') as unknown as Elysia
    assert.equal((await outcome(fail, recovering)).saved, false)
    const failOwn = () => {
      throw new Own('A handler threw.')
    }
    assert.deepEqual(await outcome(failOwn), { status: 502, saved: false })
  })

  test('a thrown status() and a thrown Response are answers, and save', async () => {
    const returned = await outcome(({ status }) => status(418, 'tea'))
    assert.deepEqual(returned, { status: 418, saved: true })
    const thrown = await outcome(({ status }) => {
      throw status(418, 'tea')
    })
    assert.deepEqual(thrown, { status: 418, saved: true })
    const response = await outcome(() => {
      throw new Response('thrown', { status: 202 })
    })
    assert.deepEqual(response, { status: 202, saved: true })
  })

  test('the page of an error handler for a path without a route is an answer, and saves', async () => {
    const { visit } = visited((manager) =>
      new Elysia()
        .use(forElysia(manager))
        .onError(async (context) => {
          if (context.code !== 'NOT_FOUND') return undefined
          return (await csrfField(context)).value
        })
        .get('/', () => 'page'),
    )
    const response = await visit('/nowhere')
    assert.equal(response.status, 404)
    assert.equal(response.headers.getSetCookie().length, 1)
  })

  test('a body that Elysia refuses saves nothing', async () => {
    const { visit } = visited((manager) =>
      new Elysia()
        .use(forElysia(manager))
        .get('/read', async (context) => (await session(context)).fields)
        .post('/', () => 'page', { body: t.Object({ a: t.Number() }), transform: (context) => change(context) }),
    )
    const response = await visit('/', {
      method: 'POST',
      body: '{"a":"x"}',
      headers: { 'content-type': 'application/json' },
    })
    assert.equal(response.status, 422)
    assert.deepEqual(await (await visit('/read')).json(), {})
  })
})
