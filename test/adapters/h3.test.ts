// The adapter for h3, on the cases of adapters over Node, and its own rules.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { bodyLimit, H3, type H3Event, HTTPError, HTTPResponse, handleCors, onError, redirect } from 'h3'
import {
  csrfField,
  KeepsakeError,
  readForm,
  type SessionManager,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { forH3 } from 'keepsake/h3'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'

const ORIGIN = 'https://app.example'

/** An application with a manager, and a visitor of it. */
const visited = (
  mount: (app: H3, manager: SessionManager) => void,
  options: Partial<SessionManagerOptions> = {},
  config: ConstructorParameters<typeof H3>[0] = {},
) => {
  const manager = sessionManager({ backend: 'memory:', ...options })
  const app = new H3({ silent: true, ...config })
  mount(app, manager)
  return { app, manager, visit: browser(async (request) => app.fetch(request), { origin: ORIGIN }) }
}

const change = async (event: H3Event): Promise<void> => (await session(event)).set('changed', true)

const logIn = async (event: H3Event): Promise<string> => {
  ;(await session(event)).login('anna')
  return 'welcome'
}

suite('the event of h3', () => {
  test('{ load: true } opens the session as event.context.session', async () => {
    const { visit } = visited((app, manager) => {
      app.use(forH3(manager, { load: true }))
      app.get('/', (event) => {
        event.context.session.update('n', (n = 0) => n + 1)
        return event.context.session.get('n')
      })
    })
    assert.equal(await (await visit('/')).text(), '1')
    assert.equal(await (await visit('/')).text(), '2')
  })

  test('session(event) and session(event.req) are one session', async () => {
    const { visit } = visited((app, manager) => {
      app.use(forH3(manager))
      app.get('/', async (event) => (await session(event)) === (await session(event.req)))
    })
    assert.equal(await (await visit('/')).text(), 'true')
  })

  test('a form is read within the body limit of h3, which replaces the Request', async () => {
    const { visit } = visited((app, manager) => {
      app.use(forH3(manager))
      app.use(bodyLimit(10_000))
      app.get('/', async (event) => (await csrfField(event)).value)
      app.post('/', async (event) => {
        const form = await readForm(event)
        return form.ok ? Object.fromEntries(form.fields) : form.error
      })
    })
    const _csrf = await (await visit('/')).text()
    /** Without a length, so that h3 counts the bytes. */
    const send = (a: string) => {
      const { body, headers } = new Response(new URLSearchParams({ _csrf, a }))
      return visit('/', { method: 'POST', body, headers, duplex: 'half' } as RequestInit)
    }
    assert.deepEqual(await (await send('Zoë')).json(), { a: 'Zoë' })
    assert.equal(await (await send('x'.repeat(20_000))).text(), 'wrong_content_type')
  })

  test('forH3 checks its arguments when it is called', () => {
    assert.throws(() => forH3((() => {}) as never), { code: 'invalid_option' })
    const manager = sessionManager({ backend: 'memory:' })
    assert.throws(() => forH3(manager, { loud: true } as never), { code: 'invalid_option' })
  })
})

suite('answers in h3', () => {
  const values: Readonly<Record<string, (event: H3Event) => unknown>> = {
    'a text': () => 'text',
    'an object': () => ({ a: 1 }),
    nothing: () => null,
    'a stream': () => new Blob(['text']).stream(),
    'an HTTPResponse': () => new HTTPResponse('text', { status: 201 }),
    'a Response': () => new Response('text'),
    'a redirect': () => redirect('/'),
    'a Response with prepared header fields': (event) => {
      event.res.headers.set('x-page', '1')
      return new Response('text')
    },
  }
  for (const [name, value] of Object.entries(values)) {
    test(`${name} is the same as without the adapter, and has the cookie`, async () => {
      const answer = async (adapter: boolean) => {
        const { visit } = visited((app, manager) => {
          if (adapter) app.use(forH3(manager))
          app.get('/', async (event) => {
            if (adapter) await change(event)
            return value(event)
          })
        })
        const response = await visit('/')
        const headers = new Headers(response.headers)
        const cookies = headers.getSetCookie()
        for (const added of ['set-cookie', 'vary', 'cache-control']) headers.delete(added)
        // The Response of srvx adds it to a text when it sends it.
        if (headers.get('content-type') === 'text/plain;charset=UTF-8') headers.delete('content-type')
        return { cookies, page: [response.status, [...headers], await response.text()] }
      }
      const { cookies, page } = await answer(true)
      assert.equal(cookies.length, 1)
      assert.deepEqual(page, (await answer(false)).page)
    })
  }

  test('cookies of h3 stay, and none of them comes twice', async () => {
    const { visit } = visited((app, manager) => {
      app.use((event, next) => {
        event.res.headers.append('set-cookie', 'outer=1')
        return next()
      })
      app.use(forH3(manager))
      app.get('/', async (event) => {
        await change(event)
        event.res.headers.append('set-cookie', 'page=1')
        return 'text'
      })
    })
    assert.equal((await visit('/')).headers.getSetCookie().length, 3)
  })

  test('Vary keeps Cookie if a middleware outside prepares Vary after the adapter', async () => {
    for (const status of [200, 404]) {
      const { visit } = visited((app, manager) => {
        app.use(async (event, next) => {
          const value = await next()
          event.res.headers.append('vary', 'Accept-Encoding')
          event.res.errHeaders.append('vary', 'Accept-Encoding')
          return value
        })
        app.use(forH3(manager))
        app.get('/', async (event) => {
          await change(event)
          return new Response('text', { status })
        })
      })
      assert.equal((await visit('/')).headers.get('vary'), 'Cookie, Accept-Encoding')
    }
  })

  test('a page that h3 does not find saves, and the hooks of h3 run once', async () => {
    const calls: string[] = []
    const config = {
      onError: (error: HTTPError) => {
        calls.push(`error ${error.status}`)
        return 'not here'
      },
      onResponse: () => {
        calls.push('response')
      },
    }
    const { visit } = visited(
      (app, manager) => {
        app.use(forH3(manager))
        app.use(async (event, next) => {
          await change(event)
          return next()
        })
      },
      {},
      config,
    )
    const response = await visit('/')
    assert.equal(await response.text(), 'not here')
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.deepEqual(calls, ['error 404', 'response'])
  })

  test('a request that does not ask for its session keeps the very response of its handler', async () => {
    const page = new Response('page')
    const { app } = visited((app, manager) => app.use(forH3(manager)).get('/', () => page))
    assert.equal(await app.request('/'), page)
  })
})

suite('requests that are not saved in h3', () => {
  const lost = async (event: H3Event, manager: SessionManager): Promise<Response> => {
    event.res.headers.set('etag', '"page"')
    event.res.headers.append('set-cookie', 'page=1')
    event.res.status = 201
    const s = await session(event)
    s.set('late', true)
    await manager.revoke(s.label)
    return new Response('page')
  }
  const refused = async (
    options: Partial<SessionManagerOptions> = {},
    config: ConstructorParameters<typeof H3>[0] = {},
    mount: (app: H3) => void = () => {},
  ): Promise<Response> => {
    const { visit } = visited(
      (app, manager) => {
        app.use((event, next) => {
          handleCors(event, { origin: '*' })
          event.res.headers.set('x-outer', '1')
          return next()
        })
        mount(app)
        app.use(forH3(manager))
        app.get('/login', logIn)
        app.get('/', (event) => lost(event, manager))
      },
      options,
      config,
    )
    await visit('/login')
    return visit('/')
  }
  const assertRefused = ({ status, headers }: Response): void => {
    assert.equal(status, 409)
    assert.equal(headers.get('access-control-allow-origin'), '*')
    assert.equal(headers.get('x-outer'), '1')
    assert.equal(headers.get('etag'), null)
    assert.deepEqual(headers.getSetCookie(), [])
    assert.match(headers.get('vary') ?? '', /cookie/i)
    assert.match(headers.get('cache-control') ?? '', /no-store/)
  }

  test('h3 answers 409 with a text for the visitor, and with the header fields from before the adapter', async () => {
    const response = await refused()
    assertRefused(response)
    assert.match(((await response.json()) as { message: string }).message, /Your session ended/)
  })

  test('onError gets an HTTPError, whose cause is the KeepsakeError', async () => {
    const errors: unknown[] = []
    const response = await refused({}, { onError: (error) => void errors.push(error) })
    assertRefused(response)
    assert.ok(errors[0] instanceof HTTPError && errors[0].cause instanceof KeepsakeError)
    assert.equal(errors[0].cause.code, 'ended')
  })

  test('a value that onError returns has the header fields from before the adapter', async () => {
    const response = await refused({}, { onError: ({ status }) => new HTTPResponse('sorry', { status }) })
    assertRefused(response)
    assert.equal(await response.text(), 'sorry')
  })

  test('a middleware for errors outside of the adapter gets the error', async () => {
    const errors: unknown[] = []
    assertRefused(await refused({}, {}, (app) => app.use(onError((error) => void errors.push(error.status)))))
    assert.deepEqual(errors, [409])
  })

  test('the option errorResponse renders the response, with the header fields from before the adapter', async () => {
    const response = await refused({ errorResponse: (kind) => new Response(kind, { status: 409 }) })
    assertRefused(response)
    assert.equal(await response.text(), 'ended')
  })

  test('a handler that throws or returns an error saves nothing', async () => {
    for (const answer of [
      () => {
        throw new HTTPError({ status: 401 })
      },
      () => new HTTPError({ status: 401 }),
    ]) {
      const { visit } = visited((app, manager) => {
        app.use(forH3(manager))
        app.get('/', async (event) => {
          await change(event)
          return answer()
        })
        app.get('/read', async (event) => (await session(event)).fields)
      })
      const response = await visit('/')
      assert.deepEqual([response.status, response.headers.get('vary')], [401, 'Cookie'])
      assert.deepEqual(await (await visit('/read')).json(), {})
    }
  })

  test('a logout and a failing store: 503 with the clearing cookie', async () => {
    const backend = memoryBackend()
    const { visit } = visited(
      (app, manager) => {
        app.use(forH3(manager))
        app.get('/login', logIn)
        app.get('/logout', async (event) => {
          ;(await session(event)).invalidate()
          return 'bye'
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
})

suite('several adapters and managers in h3', () => {
  test('the adapter mounted twice, and in a mounted application, has one session', async () => {
    const { visit } = visited((app, manager) => {
      const inner = new H3().use(forH3(manager))
      inner.get('/', async (event) => {
        await change(event)
        return 'inner'
      })
      app.use(forH3(manager)).use(forH3(manager))
      app.mount('/inner', inner)
    })
    const response = await visit('/inner')
    assert.equal(await response.text(), 'inner')
    assert.equal(response.headers.getSetCookie().length, 1)
  })

  test('two managers have two sessions, and session(event) is that of the inner one', async () => {
    const inner = sessionManager({ backend: 'memory:', cookie: { name: 'inner' } })
    const { visit } = visited(
      (app, outer) => {
        app.use(forH3(outer)).use(forH3(inner))
        app.get('/', async (event) => {
          ;(await outer.session(event)).set('outer', 1)
          await change(event)
          return [(await session(event)) === (await inner.session(event))]
        })
      },
      { cookie: { name: 'outer' } },
    )
    const response = await visit('/')
    assert.equal(await response.text(), '[true]')
    assert.equal(response.headers.getSetCookie().length, 2)
  })
})
