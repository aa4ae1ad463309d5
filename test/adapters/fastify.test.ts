// The adapter for Fastify, on the cases of adapters and on the traps of Fastify.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { parse as parseQuery } from 'node:querystring'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { suite, type TestContext, test } from 'node:test'
import { gunzipSync, gzipSync } from 'node:zlib'
import Fastify, { type FastifyInstance, type InjectOptions, type LightMyRequestResponse } from 'fastify'
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
import { forFastify } from 'keepsake/fastify'
import { memoryBackend } from 'keepsake/memory'
import { forNode } from 'keepsake/node'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { PATIENT } from '../support/clock.ts'
import { fastifyBy } from '../support/frameworks.ts'
import { listening, sendAnswer } from '../support/listening.ts'
import { type Watched, watched } from '../support/watched.ts'

const servers: Readonly<Record<string, ServeApplication>> = {
  'Fastify, by a returned Response': fastifyBy(
    (_reply, { status, headers, body }) => new Response(body, { status, headers }),
  ),
  'Fastify, by reply.hijack': fastifyBy((reply, answer) => {
    reply.hijack()
    sendAnswer(reply.raw, answer)
  }),
  'Fastify, by reply.raw': fastifyBy((reply, answer) => {
    sendAnswer(reply.raw, answer)
    return reply
  }),
}

for (const [name, serve] of Object.entries(servers)) {
  suite(name, () => {
    for (const { name, run } of adapterCases) test(name, () => run(serve))
  })
}

/** The name of the session cookie: the Host of `inject` is localhost:80. */
const COOKIE = 'sid-80'

type Setup = {
  readonly manager: SessionManager
  readonly app: FastifyInstance
  readonly store: Watched
  /** Requests a path as one visitor, with the cookies that they have. */
  readonly visit: (path: string, options?: Omit<InjectOptions, 'url'>) => Promise<LightMyRequestResponse>
}

const setup = async (t: TestContext, managerOptions: Partial<SessionManagerOptions> = {}): Promise<Setup> => {
  const store = watched(memoryBackend())
  const manager = sessionManager({ backend: store.backend, storeTimeout: PATIENT, secure: false, ...managerOptions })
  const app = Fastify()
  t.after(() => app.close())
  const jar = new Map<string, string>()
  return {
    manager,
    app,
    store,
    async visit(path, options = {}) {
      const response = await app.inject({ ...options, url: path, cookies: Object.fromEntries(jar) })
      for (const { name, value } of response.cookies) {
        if (value === '') jar.delete(name)
        else jar.set(name, value)
      }
      return response
    },
  }
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
const names = (response: LightMyRequestResponse): string[] => response.cookies.map(({ name }) => name)

suite('a session of Fastify', () => {
  test('belongs to the request and to its Node request', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/', async (request) => (await session(request)) === (await session(request.raw)))
    assert.equal((await visit('/')).body, 'true')
  })

  test('is saved in the same tick as reply.send if the backend is synchronous', async (t) => {
    const { app, manager } = await setup(t, { backend: memoryBackend() })
    await app.register(forFastify(manager))
    let isSent = false
    app.get('/', (request, reply) => {
      void count(request).then(() => {
        reply.send('done')
        isSent = reply.raw.headersSent
      })
    })
    const response = await app.inject('/')
    assert.equal(response.cookies.length, 1)
    assert.ok(isSent)
  })

  test('costs a request nothing that does not ask for it: the Node response is as Fastify made it', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/', async (_request, reply) => Object.hasOwn(reply.raw, 'write'))
    app.get('/asks', async (request, reply) => {
      await session(request)
      return Object.hasOwn(reply.raw, 'write')
    })
    assert.equal((await visit('/')).body, 'false')
    assert.equal((await visit('/asks')).body, 'true')
  })

  test('is there in the whole application, also for the 404 handler, and without fastify-plugin', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    assert.ok(app.hasPlugin('keepsake'))
    await app.register(async (scope) => {
      scope.get('/nested/page', async (request) => `${await count(request)}`)
    })
    app.setNotFoundHandler(async (request, reply) => reply.code(404).send(`${await count(request)}`))
    assert.equal((await visit('/nested/page')).body, '1')
    const response = await visit('/nowhere')
    assert.deepEqual([response.statusCode, response.body], [404, '2'])
  })

  test('is there only in the scope that the plugin is registered in', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(async (scope) => {
      await scope.register(forFastify(manager))
      scope.get('/in', async (request) => `${await count(request)}`)
    })
    app.get('/out', async (request) => `${await count(request)}`)
    assert.equal((await visit('/in')).body, '1')
    assert.match((await visit('/out')).body, /no_middleware/)
  })

  test('is one, although the plugin is registered twice', async (t) => {
    const { app, manager, visit, store } = await setup(t)
    await app.register(forFastify(manager, { load: true }))
    await app.register(forFastify(manager, { load: true }))
    await app.register(async (scope) => {
      await scope.register(forFastify(manager, { load: true }))
      scope.get('/', async (request) => `${await count(request)}`)
    })
    const response = await visit('/')
    assert.deepEqual([response.body, response.cookies.length, store.calls.generate], ['1', 1, 1])
  })

  test('is one, although Fastify is inside of the adapter for node:http', async (t) => {
    const { app, manager, store } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/', async (request) => {
      const s = await session(request)
      s.set('b', 2)
      return s.fields
    })
    await app.ready()
    const sessions = forNode(manager)
    const outside = createServer((request, response) => {
      sessions(request, response, () => {
        void session(request).then((s) => {
          s.set('a', 1)
          app.routing(request, response)
        })
      })
    })
    const { url, close } = await listening(outside)
    t.after(close)
    const response = await fetch(url)
    assert.deepEqual(await response.json(), { a: 1, b: 2 })
    assert.deepEqual([response.headers.getSetCookie().length, store.calls.generate], [1, 1])
  })

  test('of each of two managers is saved', async (t) => {
    const { app, manager, visit } = await setup(t)
    const other = sessionManager({ backend: memoryBackend(), secure: false, cookie: { name: 'other' } })
    await app.register(forFastify(manager))
    await app.register(forFastify(other))
    app.get('/', async (request) => {
      const [one, two] = [await manager.session(request), await other.session(request)]
      one.set('a', 1)
      two.set('b', 2)
      return [one.fields, two.fields]
    })
    app.get('/read', async (request) => [
      (await manager.session(request)).fields,
      (await other.session(request)).fields,
    ])
    assert.equal((await visit('/')).cookies.length, 2)
    assert.deepEqual((await visit('/read')).json(), [{ a: 1 }, { b: 2 }])
  })

  test('is request.session with load, and the property is absent without it', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager, { load: true }))
    app.get('/', async (request) => {
      request.session.set('a', 1)
      return request.session === (await session(request))
    })
    assert.equal((await visit('/')).body, 'true')
    const plain = Fastify()
    await plain.register(forFastify(manager))
    assert.equal(plain.hasRequestDecorator('session'), false)
  })

  test('with load does not replace the request.session of another plugin: the registration fails', async (t) => {
    const { app, manager } = await setup(t)
    app.decorateRequest('session')
    await assert.rejects(async () => app.register(forFastify(manager, { load: true })), {
      code: 'FST_ERR_DEC_ALREADY_PRESENT',
    })
  })

  test('that cannot be loaded is an error for the error handler, without the text of the backend', async (t) => {
    const { app, manager, visit, store } = await setup(t)
    await app.register(forFastify(manager, { load: true }))
    app.get('/', async (request) => `${await count(request)}`)
    await visit('/')
    store.fail('get', new Error('db7.internal'))
    const response = await visit('/')
    assert.equal(response.statusCode, 503)
    assert.doesNotMatch(response.body, /db7/)
  })

  test('of HTTP/2 works', async (t) => {
    const { manager } = await setup(t)
    const app = Fastify({ http2: true })
    await app.register(forFastify(manager))
    app.get('/', async (request) => `${await count(request)}`)
    t.after(() => app.close())
    const client = connectHttp2(await app.listen({ port: 0, host: '127.0.0.1' }))
    t.after(() => client.close())
    const stream = client.request({ ':path': '/' })
    const [headers] = (await once(stream, 'response')) as [{ 'set-cookie'?: string[] }]
    assert.equal(headers['set-cookie']?.length, 1)
    assert.equal(await text(stream), '1')
  })
})

suite('a reply of Fastify', () => {
  test('keeps the cookies that others set on Node’s response and on the reply', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/raw', async (request, reply) => {
      reply.raw.setHeader('set-cookie', ['a=1'])
      return `${await count(request)}`
    })
    app.get('/reply', async (request, reply) => {
      reply.header('set-cookie', 'b=1')
      ;(await session(request)).rotateKey()
      return 'rotated'
    })
    assert.deepEqual(names(await visit('/raw')).toSorted(), ['a', COOKIE])
    assert.deepEqual(names(await visit('/reply')).toSorted(), ['b', COOKIE])
  })

  test('can be changed by hooks that were registered later, such as a compression', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.addHook('onSend', async (_request, reply, payload: string) => {
      reply.header('content-encoding', 'gzip')
      reply.header('vary', `${reply.getHeader('vary')}, Accept-Encoding`)
      reply.removeHeader('content-length')
      return gzipSync(payload)
    })
    app.get('/', async (request) => `${await count(request)}`)
    const response = await visit('/')
    assert.equal(gunzipSync(response.rawPayload).toString(), '1')
    assert.equal(response.headers.vary, 'Cookie, Accept-Encoding')
    assert.equal(response.cookies.length, 1)
  })

  test('is the error page of a later hook that failed, and has the cookie of the saved session', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    let fails = true
    app.addHook('onSend', async () => {
      if (!fails) return
      fails = false
      throw new Error('a hook failed')
    })
    app.get('/', async (request) => `${await count(request)}`)
    const response = await visit('/')
    assert.deepEqual([response.statusCode, response.cookies.length], [500, 1])
    assert.equal((await visit('/')).body, '2')
  })

  test('that Fastify cannot send saves nothing', async (t) => {
    const { app, manager, visit, store } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/object', async (request, reply) => {
      await count(request)
      return reply.type('text/html').send({})
    })
    app.get('/used', async (request) => {
      await count(request)
      const used = new Response('body')
      await used.text()
      return used
    })
    app.get('/locked', async (request, reply) => {
      await count(request)
      const { body } = new Response('body')
      body?.getReader()
      return reply.send(body)
    })
    for (const path of ['/object', '/used', '/locked']) {
      const response = await visit(path)
      assert.deepEqual([path, response.statusCode, response.cookies.length], [path, 500, 0])
    }
    assert.equal(store.calls.generate, 0)
  })

  test('that a later hook makes sendable is sent after its session is saved', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.addHook('onSend', async (_request, _reply, payload) =>
      typeof payload === 'object' && payload !== null ? JSON.stringify(payload) : payload,
    )
    app.get('/', async (request, reply) => reply.type('text/plain').send({ n: await count(request) }))
    const response = await visit('/')
    assert.deepEqual([response.body, response.cookies.length], ['{"n":1}', 1])
    assert.equal((await visit('/')).body, '{"n":2}')
  })

  test('is a stream that fails while the session is saved: the server lives, and the error handler answers', async (t) => {
    const { app, manager, visit, store } = await setup(t)
    await app.register(forFastify(manager))
    const saving = store.hold('generate')
    const stream = new Readable({ read() {} })
    app.get('/', async (request, reply) => {
      await count(request)
      return reply.send(stream)
    })
    const response = visit('/')
    await saving.arrived
    stream.destroy(new Error('the disk failed'))
    await new Promise((resolve) => stream.once('close', resolve))
    saving.go()
    assert.equal((await response).statusCode, 500)
  })

  test('that is hijacked before the session is requested is held until the session is saved', async (t) => {
    const { app, manager, visit, store } = await setup(t)
    await app.register(forFastify(manager))
    const order: string[] = []
    app.get('/', async (request, reply) => {
      reply.hijack()
      await count(request)
      reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
      reply.raw.end('data: 1\n\n')
      order.push(`saved: ${store.calls.generate}`)
    })
    const response = await visit('/')
    assert.deepEqual([response.body, response.cookies.length], ['data: 1\n\n', 1])
    assert.deepEqual(order, ['saved: 1'])
  })

  test('that is hijacked and cannot be saved is the default error page, with the headers of earlier plugins', async (t) => {
    const { app, manager, visit } = await setup(t)
    app.addHook('onRequest', async (_request, reply) => {
      reply.header('access-control-allow-origin', '*')
    })
    await app.register(forFastify(manager))
    app.get('/', async (request, reply) => {
      reply.hijack()
      await breakSession(request)
      reply.raw.setHeader('etag', '"page"')
      reply.raw.end('page')
    })
    const response = await visit('/')
    assert.deepEqual(
      [response.statusCode, response.headers.etag, response.headers['access-control-allow-origin']],
      [500, undefined, '*'],
    )
  })

  test('whose head has left is too late for a first use of the session', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/', async (request, reply) => {
      reply.raw.write('head ')
      const code = await session(request).catch(({ code }) => code)
      reply.raw.end(code)
      return reply
    })
    assert.equal((await visit('/')).body, 'head too_late')
  })
})

suite('a request of Fastify that is not saved', () => {
  test('is an error for the error handler, once, and its reply is sent', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    const errors: unknown[] = []
    const hooked: unknown[] = []
    app.addHook('onError', async (_request, _reply, error) => {
      hooked.push(error)
    })
    app.setErrorHandler(async (error, _request, reply) => {
      errors.push(error)
      return reply.header('x-handler', 'yes').send('sorry')
    })
    app.get('/', async (request, reply) => {
      await breakSession(request)
      return reply.code(201).header('etag', '"page"').header('set-cookie', 'page=1').send('page')
    })
    const response = await visit('/')
    const [error] = errors as [KeepsakeError]
    assert.deepEqual([errors.length, hooked.length], [1, 1])
    assert.ok(error instanceof KeepsakeError)
    assert.deepEqual([error.code, error.status], ['too_large', 500])
    assert.ok(error.cause instanceof KeepsakeError)
    assert.deepEqual(
      [response.statusCode, response.body, response.headers['x-handler'], response.headers.etag, names(response)],
      [500, 'sorry', 'yes', undefined, []],
    )
    assert.match(`${response.headers['cache-control']}`, /private/)
  })

  test('has the status of its error, although the error handler sets none', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.setErrorHandler((_error, _request, reply) => reply.send('sorry'))
    app.get('/login', async (request) => (await session(request)).login('anna'))
    app.get('/', async (request) => {
      const s = await session(request)
      await manager.revokeAll('anna')
      s.set('a', 1)
      return 'page'
    })
    await visit('/login')
    const response = await visit('/')
    assert.deepEqual([response.statusCode, response.body], [409, 'sorry'])
  })

  test('keeps the header fields and cookies of plugins that were registered earlier, and no cookie of the page', async (t) => {
    const { app, manager, visit } = await setup(t)
    app.addHook('onRequest', async (_request, reply) => {
      reply.header('access-control-allow-origin', '*').header('set-cookie', ['early=1'])
    })
    await app.register(forFastify(manager))
    app.get('/', async (request, reply) => {
      await breakSession(request)
      // Fastify pushes it into the list of the earlier cookies.
      return reply.header('set-cookie', 'page=1').send('page')
    })
    const response = await visit('/')
    assert.equal(response.headers['access-control-allow-origin'], '*')
    assert.deepEqual(names(response), ['early'])
  })

  test('clears the cookie of a logout once, for Fastify’s own error page and for that of an error handler', async (t) => {
    for (const handlesErrors of [false, true]) {
      const { app, manager, visit, store } = await setup(t)
      await app.register(forFastify(manager))
      if (handlesErrors) app.setErrorHandler(async (_error, _request, reply) => reply.send('sorry'))
      app.get('/login', async (request) => (await session(request)).login('anna'))
      app.get('/logout', async (request) => (await session(request)).invalidate())
      await visit('/login')
      store.fail('clear', new Error('db7.internal'))
      const response = await visit('/logout')
      assert.equal(response.statusCode, 503)
      assert.deepEqual(
        response.cookies.map(({ name, value, maxAge }) => [name, value, maxAge]),
        [[COOKIE, '', 0]],
      )
      assert.doesNotMatch(response.body, /db7/)
    }
  })

  test('destroys the stream that is not sent', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    const stream = Readable.from(['page'])
    app.get('/', async (request, reply) => {
      await breakSession(request)
      return reply.send(stream)
    })
    const response = await visit('/')
    assert.equal(response.statusCode, 500)
    assert.ok(stream.destroyed)
  })

  test('because a function of the application failed is an error for the error handler, without the page’s fields', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/', async (request, reply) => {
      const s = await session(request)
      let calls = 0
      // The first call is for the handler, the second is for the entry that another request changed.
      s.update('n', () => {
        calls += 1
        if (calls > 1) throw new TypeError('an update failed')
        return 1
      })
      await app.inject({ url: '/change', headers: { cookie: request.headers.cookie } })
      return reply.code(404).header('etag', '"page"').send('page')
    })
    app.get('/change', async (request) => `${await count(request)}`)
    await visit('/change')
    const response = await visit('/')
    assert.deepEqual([response.statusCode, response.headers.etag], [500, undefined])
    assert.match(response.body, /an update failed/)
  })

  test('is rendered by the option errorResponse, and no error handler is called', async (t) => {
    const { app, manager, visit } = await setup(t, {
      errorResponse: (kind) => new Response(kind, { status: 507, headers: { vary: 'Accept', 'set-cookie': 'own=1' } }),
    })
    app.addHook('onRequest', async (_request, reply) => {
      reply.header('x-early', 'yes')
    })
    await app.register(forFastify(manager))
    app.setErrorHandler(() => assert.fail('the error handler was called'))
    app.get('/', async (request, reply) => {
      await breakSession(request)
      return reply.type('application/json').header('etag', '"page"').send('{}')
    })
    const response = await visit('/')
    const { headers } = response
    assert.deepEqual([response.statusCode, response.body, names(response)], [507, 'not_saved', ['own']])
    assert.deepEqual(
      [headers.etag, headers['x-early'], headers.vary, headers['content-type'], headers['cache-control']],
      [undefined, 'yes', 'Accept, Cookie', 'text/plain;charset=UTF-8', 'no-store'],
    )
  })
})

suite('a handler of Fastify that throws', () => {
  test('after a logout clears the cookie once if its error is one of the store', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.get('/login', async (request) => (await session(request)).login('anna'))
    app.get('/logout', async (request) => {
      ;(await session(request)).invalidate()
      throw new KeepsakeError('unavailable', 'The list of devices is not available.')
    })
    await visit('/login')
    const response = await visit('/logout')
    assert.deepEqual([response.statusCode, names(response), response.cookies[0]?.maxAge], [503, [COOKIE], 0])
  })

  test('leaves the session readable for the error handler, which cannot change it', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.setErrorHandler(async (_error, request, reply) => {
      const s = await session<{ n: number }>(request)
      const n = s.get('n')
      try {
        s.set('n', 9)
      } catch (error) {
        return reply.code(500).send([n, (error as KeepsakeError).code])
      }
    })
    app.get('/count', async (request) => `${await count(request)}`)
    app.get('/', async (request) => {
      await session(request)
      throw new Error('a handler failed')
    })
    await visit('/count')
    assert.deepEqual((await visit('/')).json(), [1, 'too_late'])
    assert.equal((await visit('/count')).body, '2')
  })

  test('before the session is used leaves it to the error handler', async (t) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    app.setErrorHandler(async (_error, request, reply) => reply.code(400).send(`${await count(request)}`))
    app.get('/', async () => {
      throw new Error('a handler failed')
    })
    assert.equal((await visit('/')).body, '1')
    assert.equal((await visit('/')).body, '2')
  })
})

suite('an application of Fastify', () => {
  test('closes the backend after the requests in progress', async (t) => {
    const order: string[] = []
    const inner = memoryBackend()
    const { app, manager } = await setup(t, {
      backend: {
        ...inner,
        generate: async (...args) => {
          order.push('saved')
          return inner.generate(...args)
        },
        close: async () => {
          order.push('closed')
        },
      },
    })
    await app.register(forFastify(manager))
    const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>()
    const { promise: released, resolve: release } = Promise.withResolvers<void>()
    app.get('/', async (request) => {
      arrive()
      await released
      return `${await count(request)}`
    })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const response = fetch(url)
    await arrived
    const closing = app.close()
    release()
    assert.equal((await response).status, 200)
    await closing
    assert.deepEqual(order, ['saved', 'closed'])
  })

  test('does not start if the configuration is wrong', async (t) => {
    const { app } = await setup(t)
    await app.register(forFastify(sessionManager({ backend: 'cookie:' })))
    await assert.rejects(async () => app.ready(), { code: 'no_secret' })
  })
})

suite('a form in Fastify', () => {
  const urlencoded = { 'content-type': 'application/x-www-form-urlencoded' }
  /** An application with a form, whose body a parser reads. */
  const withForm = async (t: TestContext, parse?: (app: FastifyInstance) => unknown) => {
    const { app, manager, visit } = await setup(t)
    await app.register(forFastify(manager))
    await parse?.(app)
    app.get('/token', async (request) => (await csrfField(request)).value)
    app.post('/', async (request, reply) => {
      const form = await readForm(request)
      return form.ok ? { fields: [...form.fields] } : reply.code(form.status).send(form.error)
    })
    const send = (payload: string, headers: Record<string, string> = urlencoded) =>
      visit('/', { method: 'POST', payload, headers })
    return { token: (await visit('/token')).body, send }
  }

  test('that no parser takes is answered by Fastify with 415', async (t) => {
    const { send, token } = await withForm(t)
    assert.equal((await send(`_csrf=${token}`)).statusCode, 415)
  })

  test('is read from the stream, with a parser that leaves the body alone', async (t) => {
    const { send, token } = await withForm(t, (app) =>
      app.addContentTypeParser(['application/x-www-form-urlencoded', 'multipart/form-data'], (_request, _body, done) =>
        done(null),
      ),
    )
    assert.deepEqual((await send(`_csrf=${token}&b=2&a=1`)).json(), {
      fields: [
        ['a', '1'],
        ['b', '2'],
      ],
    })
  })

  test('is read from the body that @fastify/formbody has parsed', async (t) => {
    const { send, token } = await withForm(t, (app) =>
      app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (_request, body, done) =>
        done(null, parseQuery(`${body}`)),
      ),
    )
    assert.deepEqual((await send(`_csrf=${token}&a=1&a=2`)).json(), {
      fields: [
        ['a', '1'],
        ['a', '2'],
      ],
    })
  })

  test('with nested fields of a parser is refused, also if they look like a part of @fastify/multipart', async (t) => {
    const { send, token } = await withForm(t, (app) =>
      app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (_request, _body, done) =>
        done(null, { _csrf: token, a: { type: 'field', fieldname: 'a', value: '1', fields: {} } }),
      ),
    )
    const response = await send('a=1')
    assert.deepEqual([response.statusCode, response.body], [415, 'wrong_content_type'])
  })

  /** A parser like @fastify/multipart with `attachFieldsToBody`: each part refers to the body. */
  const attaching =
    (parts: (token: string) => Record<string, unknown>, token: () => string) =>
    (app: FastifyInstance): void => {
      app.addContentTypeParser('multipart/form-data', { parseAs: 'string' }, (_request, _body, done) => {
        const body: Record<string, unknown> = {}
        const complete = (part: unknown): unknown =>
          Array.isArray(part) ? part.map(complete) : Object.assign(part as object, { fields: body })
        for (const [name, part] of Object.entries(parts(token()))) body[name] = complete(part)
        done(null, body)
      })
    }
  const field = (fieldname: string, value: string, valueTruncated = false) => ({
    type: 'field',
    fieldname,
    value,
    valueTruncated,
  })
  const multipart = { 'content-type': 'multipart/form-data; boundary=x' }

  test('is read from the fields that @fastify/multipart has attached, without its files', async (t) => {
    let token = ''
    const form = await withForm(
      t,
      attaching(
        (token) => ({
          _csrf: field('_csrf', token),
          a: [field('a', '1'), field('a', '2')],
          file: { type: 'file', fieldname: 'file', filename: 'x', toBuffer: async () => Buffer.from('x') },
        }),
        () => token,
      ),
    )
    token = form.token
    assert.deepEqual((await form.send('x', multipart)).json(), {
      fields: [
        ['a', '1'],
        ['a', '2'],
      ],
    })
  })

  test('with a value that @fastify/multipart has cut off is refused', async (t) => {
    let token = ''
    const form = await withForm(
      t,
      attaching(
        (token) => ({ _csrf: field('_csrf', token), a: field('a', '1', true) }),
        () => token,
      ),
    )
    token = form.token
    assert.equal((await form.send('x', multipart)).statusCode, 415)
  })
})
