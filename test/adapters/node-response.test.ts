// The Node response while its session is saved: every way to send a head, and other middlewares in front and behind.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, pipeline, Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { suite, type TestContext, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import compression from 'compression'
import express, { type Express } from 'express'
import { type Session, type SessionManager, session, sessionManager } from 'keepsake'
import { forExpress } from 'keepsake/express'
import { forNode } from 'keepsake/node'
import { browser } from 'keepsake/testing'
import { CaseStore, type StoreKind } from '../../src/testing/adapter/store.ts'
import { code } from '../support/assert.ts'
import { listening } from '../support/listening.ts'

const kinds: readonly StoreKind[] = ['synchronous', 'asynchronous']

type Listener = (request: IncomingMessage, response: ServerResponse) => void

const visitorOf = async (t: TestContext, listener: Listener) => {
  const { url, close } = await listening(createServer(listener))
  t.after(close)
  return { url, visit: browser((request) => fetch(request, { redirect: 'manual' }), { origin: url }) }
}

const managerOn = (kind: StoreKind) => {
  const store = new CaseStore(kind)
  return { store, manager: sessionManager({ backend: store.backend }) }
}

/** A server whose root path counts visits and sends its response by `send`, and whose path `/read` returns the fields. */
const counting = async (
  t: TestContext,
  kind: StoreKind,
  send: (request: IncomingMessage, response: ServerResponse, s: Session) => unknown,
) => {
  const { store, manager } = managerOn(kind)
  const sessions = forNode(manager)
  const failures: unknown[] = []
  const { visit, url } = await visitorOf(t, (request, response) => {
    const next = async (error?: unknown): Promise<unknown> => {
      if (error !== undefined) {
        failures.push(error)
        response.statusCode = (error as { status?: number }).status ?? 500
        return response.end('error page')
      }
      const s = await session(request)
      if (request.url === '/read') return response.end(JSON.stringify(s.fields))
      s.update('n', (n = 0) => (n as number) + 1)
      return send(request, response, s)
    }
    sessions(request, response, (error) => void next(error))
  })
  const read = async () => JSON.parse(await (await visit('/read')).text())
  return { visit, url, read, store, manager, failures }
}

/** Every way in which a handler can send a response with the body `page` and the field `x-page: 7`. */
const ways: Readonly<Record<string, (response: ServerResponse, request: IncomingMessage) => unknown>> = {
  'setHeader and end': (response) => response.setHeader('x-page', '7').end('page'),
  'writeHead with an object': (response) => response.writeHead(200, { 'x-page': 7 }).end('page'),
  'writeHead with a reason': (response) => response.writeHead(200, 'Fine', { 'x-page': '7' }).end('page'),
  'writeHead with a flat list': (response) =>
    response.writeHead(200, ['x-page', '7', 'Set-Cookie', 'a=1', 'Set-Cookie', 'b=2']).end('page'),
  'writeHead with pairs': (response) =>
    response
      .writeHead(200, [
        ['x-page', '7'],
        ['set-cookie', 'a=1'],
      ])
      .end('page'),
  'writeHead after setHeader of the same name': (response) =>
    response.setHeader('x-page', '1').writeHead(200, { 'X-Page': '7' }).end('page'),
  'flushHeaders, then end': (response) => {
    response.setHeader('x-page', '7').flushHeaders()
    response.end('page')
  },
  'write, then end': (response) => {
    response.setHeader('x-page', '7').write('pa')
    response.end('ge')
  },
  'write with a callback, then end in it': (response) =>
    response.setHeader('x-page', '7').write('pa', () => response.end('ge')),
  'end with an encoding and a callback': (response) =>
    new Promise<void>((resolve) => response.setHeader('x-page', '7').end('706167 65'.replace(' ', ''), 'hex', resolve)),
  'a stream that is piped': (response) => Readable.from(['pa', 'ge']).pipe(response.setHeader('x-page', '7')),
  'a pipeline': (response) =>
    new Promise((resolve) => pipeline(Readable.from(['pa', 'ge']), response.setHeader('x-page', '7'), resolve)),
  'cork and uncork': (response) => {
    response.setHeader('x-page', '7').cork()
    response.write('pa')
    response.write('ge')
    response.uncork()
    response.end()
  },
  'setHeaders and end': (response) => response.setHeaders(new Headers({ 'x-page': '7' })).end('page'),
}

suite('each way to send a response', () => {
  for (const kind of kinds) {
    for (const [name, send] of Object.entries(ways)) {
      test(`${name}: the change is saved and the response is whole (${kind})`, async (t) => {
        const { visit, read } = await counting(t, kind, (request, response) => send(response, request))
        const response = await visit('/')
        assert.deepEqual([response.headers.get('x-page'), await response.text()], ['7', 'page'])
        assert.equal(response.headers.getSetCookie().filter((line) => line.startsWith('sid')).length, 1)
        assert.deepEqual(await read(), { n: 1 })
      })
    }
  }

  test('writeHead in a flat list keeps both cookies', async (t) => {
    const { visit } = await counting(t, 'asynchronous', (_, response) =>
      ways['writeHead with a flat list']?.(response, _),
    )
    const names = (await visit('/')).headers.getSetCookie().map((line) => line.slice(0, 2))
    assert.deepEqual(names.sort(), ['a=', 'b=', 'si'])
  })

  test('a status that Node refuses saves nothing', async (t) => {
    const { visit, read } = await counting(t, 'synchronous', (_, response) => {
      assert.throws(() => response.writeHead(42), { code: 'ERR_HTTP_INVALID_STATUS_CODE' })
      response.statusCode = 200
      response.destroy()
    })
    await assert.rejects(visit('/'))
    assert.deepEqual(await read(), {})
  })
})

suite('while the store saves', () => {
  test('the response looks as if its head was sent, and looks natural afterwards', async (t) => {
    const seen: unknown[] = []
    const { visit, store } = await counting(t, 'asynchronous', async (_, response) => {
      const gate = store.hold('generate')
      response.statusCode = 201
      response.write('a')
      await gate.reached
      seen.push(response.headersSent, response.writableEnded)
      for (const act of [
        () => response.setHeader('x', '1'),
        () => response.appendHeader('x', '1'),
        () => response.removeHeader('x'),
        () => response.setHeaders(new Headers()),
        () => response.writeHead(500),
      ])
        assert.throws(act, { code: 'ERR_HTTP_HEADERS_SENT' })
      response.statusCode = 500
      response.end('b')
      seen.push(response.writableEnded)
      gate.open()
      await once(response, 'finish')
      seen.push(response.headersSent, response.writableEnded, Object.hasOwn(response, 'headersSent'))
    })
    const response = await visit('/')
    assert.deepEqual([response.status, await response.text()], [201, 'ab'])
    assert.deepEqual(seen, [true, false, true, true, true, false])
  })

  test('write returns false, and drain follows when the response goes on', async (t) => {
    const { visit, store } = await counting(t, 'asynchronous', async (_, response) => {
      const gate = store.hold('generate')
      assert.equal(response.write('a'), false)
      await gate.reached
      gate.open()
      await once(response, 'drain')
      response.end('b')
    })
    assert.equal(await (await visit('/')).text(), 'ab')
  })

  test('a second session of the same response is not begun: mounted twice, the adapter does nothing', async (t) => {
    const { manager, store } = managerOn('synchronous')
    const app = express().use(forExpress(manager)).use(forExpress(manager))
    app.get('/', async (request, response) => {
      ;(await session(request)).set('a', 1)
      response.send('page')
    })
    const { visit } = await visitorOf(t, app)
    assert.equal((await visit('/')).headers.getSetCookie().length, 1)
    assert.equal(store.calls.filter((call) => call === 'generate').length, 1)
  })

  test('two managers on one request save two sessions', async (t) => {
    const [one, other] = [
      managerOn('asynchronous').manager,
      sessionManager({ backend: 'memory:', cookie: { name: 'other' } }),
    ]
    const app = express().use(forExpress(one)).use(forExpress(other))
    app.get('/', async (request, response) => {
      ;(await one.session(request)).set('a', 1)
      ;(await other.session(request)).set('b', 2)
      response.send('page')
    })
    const { visit } = await visitorOf(t, app)
    const names = (await visit('/')).headers.getSetCookie().map((line) => line.slice(0, 3))
    assert.deepEqual(names.sort(), ['oth', 'sid'])
  })
})

/** A response that is refused, because a field is too large. */
const refusing = (t: TestContext, kind: StoreKind, send: (response: ServerResponse) => unknown) =>
  counting(t, kind, (_, response, s) => {
    s.set('huge', 'x'.repeat(2 ** 20))
    return send(response)
  })

suite('a response that is refused', () => {
  for (const kind of kinds) {
    test(`goes to the error handler once, without header fields of the page (${kind})`, async (t) => {
      const { visit, failures } = await refusing(t, kind, (response) =>
        response.writeHead(200, { etag: '"1"' }).end('page'),
      )
      const response = await visit('/')
      assert.deepEqual(
        [response.status, await response.text(), response.headers.get('etag')],
        [500, 'error page', null],
      )
      assert.equal(failures.length, 1)
      assert.ok(code('too_large')(failures[0]))
    })

    test(`a stream that was piped is destroyed, and its callbacks run (${kind})`, async (t) => {
      const source = new PassThrough()
      let written = 0
      const { visit } = await refusing(t, kind, (response) => {
        source.pipe(response)
        for (let i = 0; i < 100; i++) source.write('piece', () => written++)
      })
      assert.equal(await (await visit('/')).text(), 'error page')
      if (!source.destroyed) await once(source, 'close')
      assert.ok(source.destroyed)
    })

    test(`a pipeline is destroyed after the error page was sent (${kind})`, async (t) => {
      const ended = Promise.withResolvers<unknown>()
      const { visit } = await refusing(t, kind, (response) => {
        pipeline(new Readable({ read() {} }).wrap(Readable.from(['a'])), response, ended.resolve)
      })
      const response = await visit('/')
      assert.equal(response.status, 500)
      await response.text()
      await ended.promise
    })

    test(`a handler that goes on writing gets the default page, and its writes are dropped (${kind})`, async (t) => {
      const { visit, failures } = await refusing(t, kind, async (response) => {
        response.write('one')
        await new Promise((resolve) => response.once('drain', resolve))
        await new Promise((resolve) => response.write('two', resolve))
        response.end('three')
      })
      const response = await visit('/')
      assert.equal(response.status, 500)
      assert.match(await response.text(), /^Something went wrong/)
      assert.deepEqual(failures, [])
    })
  }

  test('without next, the adapter answers itself', async (t) => {
    const sessions = forNode(managerOn('asynchronous').manager)
    const { visit } = await visitorOf(t, async (request, response) => {
      sessions(request, response)
      ;(await session(request)).set('huge', 'x'.repeat(2 ** 20))
      response.end('page')
    })
    const response = await visit('/')
    assert.equal(response.status, 500)
    assert.match(await response.text(), /^Something went wrong/)
  })

  test('an error of the application at the commit goes to the error handler, and nothing is saved', async (t) => {
    const { manager, store } = managerOn('asynchronous')
    const thrown = new Error('The update cannot be applied again.')
    const app = express().use(forExpress(manager))
    app.get('/set', async (request, response) => {
      ;(await session(request)).set('a', 1)
      response.send('set')
    })
    app.get('/', async (request, response) => {
      const s = await session(request)
      let runs = 0
      s.update('a', () => {
        runs += 1
        if (runs > 1) throw thrown
        return 2
      })
      response.set('etag', '"1"').send('page')
    })
    const errors: unknown[] = []
    app.use((error: unknown, _request: unknown, response: express.Response, _next: unknown) => {
      errors.push(error)
      response.status(500).send('error page')
    })
    const { visit } = await visitorOf(t, app)
    await visit('/set')
    const gate = store.hold('set')
    const slow = visit('/')
    await gate.reached
    // Another process writes first, so the update runs again.
    const { value } = await manager.scan().next()
    const key = `sid.${value?.sessions[0]?.label}`
    const entry = await store.backend.get(key)
    assert.ok(entry)
    await store.backend.set(key, { ...entry, version: 'other' } as never, entry.version)
    gate.open()
    const response = await slow
    assert.deepEqual([response.status, await response.text()], [500, 'error page'])
    assert.notEqual(response.headers.get('etag'), '"1"')
    assert.deepEqual(errors, [thrown])
  })
})

const routes = (app: Express, manager: SessionManager): Express => {
  app.use(forExpress(manager))
  app.get('/count', async (request, response) => {
    const s = await session(request)
    s.update('n', (n = 0) => (n as number) + 1)
    response.type('text').send('page '.repeat(1_000))
  })
  app.get('/read', async (request, response) => {
    response.json((await session(request)).fields)
  })
  return app
}

suite('beside other middlewares of Express', () => {
  for (const kind of kinds) {
    for (const place of ['in front', 'behind']) {
      test(`compression ${place}: the body is compressed, and the cookie leaves (${kind})`, async (t) => {
        const { manager } = managerOn(kind)
        const app = express()
        if (place === 'in front') app.use(compression({ threshold: 0 }))
        app.use(forExpress(manager))
        if (place === 'behind') app.use(compression({ threshold: 0 }))
        routes(app, manager)
        const { url } = await visitorOf(t, app)
        const { request } = await import('node:http')
        const [response] = await once(
          request(`${url}/count`, { headers: { 'accept-encoding': 'gzip' } }).end(),
          'response',
        )
        assert.equal(response.headers['content-encoding'], 'gzip')
        assert.match(response.headers.vary, /Accept-Encoding/)
        assert.match(response.headers.vary, /Cookie/)
        assert.equal(response.headers['set-cookie'].length, 1)
        assert.equal(gunzipSync(await buffer(response)).toString(), 'page '.repeat(1_000))
      })
    }

    test(`sendFile, download, a range, and 304 save (${kind})`, async (t) => {
      const folder = mkdtempSync(join(tmpdir(), 'keepsake-files-'))
      t.after(() => rmSync(folder, { recursive: true }))
      writeFileSync(join(folder, 'page.txt'), '0123456789'.repeat(20_000))
      const { manager } = managerOn(kind)
      const app = routes(express(), manager)
      app.get('/file', async (request, response) => {
        ;(await session(request)).update('files', (n = 0) => (n as number) + 1)
        response.sendFile(join(folder, 'page.txt'))
      })
      app.get('/download', async (request, response) => {
        ;(await session(request)).update('files', (n = 0) => (n as number) + 1)
        response.download(join(folder, 'page.txt'))
      })
      const { visit } = await visitorOf(t, app)
      const whole = await visit('/file')
      assert.equal((await whole.text()).length, 200_000)
      const part = await visit('/file', { headers: { range: 'bytes=0-9' } })
      assert.deepEqual([part.status, await part.text()], [206, '0123456789'])
      // Without the Cache-Control of a browser, fetch would send no-cache.
      const headers = { 'if-none-match': whole.headers.get('etag') ?? '', 'cache-control': 'max-age=0' }
      const { status } = await visit('/file', { headers })
      assert.equal(status, 304)
      assert.match((await visit('/download')).headers.get('content-disposition') ?? '', /page\.txt/)
      assert.deepEqual(await (await visit('/read')).json(), { files: 4 })
    })
  }

  test('in a router below a path, the cookie is for the whole site', async (t) => {
    const { manager } = managerOn('asynchronous')
    const app = express()
    app.use(forExpress(manager))
    app.use('/shop', routes(express(), manager))
    const { visit } = await visitorOf(t, app)
    assert.match((await visit('/shop/count')).headers.getSetCookie().join(), /Path=\//)
    assert.deepEqual(await (await visit('/shop/read')).json(), { n: 1 })
  })

  test('header fields that were set in front stay on an error page, and those of the page do not', async (t) => {
    const { manager } = managerOn('synchronous')
    const app = express()
    app.use((_, response, next) => {
      response.set('access-control-allow-origin', 'https://app.example')
      next()
    })
    app.use(forExpress(manager))
    app.get('/', async (request, response) => {
      ;(await session(request)).set('huge', 'x'.repeat(2 ** 20))
      response.set({ etag: '"1"', 'content-language': 'fr' }).cookie('page', '1').send('page')
    })
    const { visit } = await visitorOf(t, app)
    const { status, headers } = await visit('/')
    assert.equal(status, 500)
    assert.equal(headers.get('access-control-allow-origin'), 'https://app.example')
    assert.deepEqual([headers.get('content-language'), headers.getSetCookie()], [null, []])
  })

  test('without the errorHandler, an error page is a response like any other: its changes are saved', async (t) => {
    const { manager } = managerOn('synchronous')
    const app = routes(express(), manager)
    app.get('/throw', async (request) => {
      ;(await session(request)).set('thrown', true)
      throw new Error('A handler threw.')
    })
    app.set('env', 'test')
    const { visit } = await visitorOf(t, app)
    assert.equal((await visit('/throw')).status, 500)
    assert.deepEqual(await (await visit('/read')).json(), { thrown: true })
  })

  test('with load: true, req.session is the session', async (t) => {
    const { manager, store } = managerOn('asynchronous')
    const app = express().use(forExpress(manager, { load: true }))
    app.get('/', (request, response) => {
      request.session.update('n', (n = 0) => (n as number) + 1)
      response.json(request.session.fields)
    })
    const { visit } = await visitorOf(t, app)
    assert.deepEqual(await (await visit('/')).json(), { n: 1 })
    assert.deepEqual(await (await visit('/')).json(), { n: 2 })
    store.failing.add('get')
    assert.equal((await visit('/')).status, 503)
  })

  test('a session that is requested after the first byte is too_late', async (t) => {
    const { manager } = managerOn('synchronous')
    const app = express().use(forExpress(manager))
    app.get('/', async (request, response) => {
      response.write('a')
      response.end(await session(request).catch((error) => error.code))
    })
    const { visit } = await visitorOf(t, app)
    assert.equal(await (await visit('/')).text(), 'atoo_late')
  })
})
