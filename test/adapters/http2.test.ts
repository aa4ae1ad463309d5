// The adapter for node:http in servers of HTTP/2: the cases of adapters, and rules that only HTTP/2 needs.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import {
  type ClientHttp2Stream,
  connect,
  constants,
  createSecureServer,
  createServer,
  type Http2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type OutgoingHttpHeaders,
} from 'node:http2'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { suite, type TestContext, test } from 'node:test'
import { type SessionManagerOptions, session, sessionManager } from 'keepsake'
import { forNode } from 'keepsake/node'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { CaseStore } from '../../src/testing/adapter/store.ts'
import { PATIENT } from '../support/clock.ts'
import { startGateway } from '../support/http2-gateway.ts'
import { sendAnswer, sendError } from '../support/listening.ts'
import { program } from '../support/servers.ts'

const warnings: Error[] = []
process.on('warning', (warning) => warnings.push(warning))

const listen = async (server: Http2Server): Promise<string> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

const serveHttp2: ServeApplication = async ({ manager, handle }) => {
  const sessions = forNode(manager)
  const server = createServer((request, response) => {
    const fail = (error: unknown) => sendError(response as never, error)
    sessions(request, response, (error) => {
      if (error !== undefined) return fail(error)
      handle(request, { method: request.method, url: request.url }).then(
        (answer) => sendAnswer(response as never, answer),
        (error) => sessions.errorHandler(error, request, response, fail),
      )
    })
  })
  const authority = await listen(server)
  return startGateway(`http://${authority}`, async () => {
    server.close()
    await once(server, 'close')
  })
}

suite('HTTP/2, behind a gateway that splits the cookies', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serveHttp2))
})

/** A certificate for localhost that the test trusts. */
const createCertificate = () => {
  const cwd = mkdtempSync(join(tmpdir(), 'keepsake-'))
  try {
    const options = '-subj /CN=localhost -addext subjectAltName=DNS:localhost'
    const line = `req -x509 -newkey rsa:2048 -nodes -keyout own.key -out own.crt -days 2 ${options}`
    execFileSync(program('openssl', 'openssl'), line.split(' '), { cwd, stdio: 'ignore' })
    return { key: readFileSync(join(cwd, 'own.key')), cert: readFileSync(join(cwd, 'own.crt')) }
  } finally {
    rmSync(cwd, { recursive: true, force: true })
  }
}

let certificate: ReturnType<typeof createCertificate> | undefined

type Handler = (request: Http2ServerRequest, response: Http2ServerResponse) => unknown
type Received = { readonly status: number; readonly cookies: readonly string[]; readonly body: string }

const receive = async (stream: ClientHttp2Stream): Promise<Received> => {
  const [{ ':status': status = 0, 'set-cookie': cookies = [] }] = await once(stream, 'response')
  return { status, cookies, body: await text(stream) }
}

/** A server with one handler, and one connection to it. */
const start = async (
  t: TestContext,
  handler: Handler,
  { secure = false, ...options }: Partial<SessionManagerOptions> & { readonly secure?: boolean } = {},
) => {
  const manager = sessionManager({ backend: 'memory:', storeTimeout: PATIENT, ...options })
  const sessions = forNode(manager)
  const errors: unknown[] = []
  const listener: Handler = async (request, response) => {
    sessions(request, response)
    try {
      await handler(request, response)
    } catch (error) {
      errors.push(error)
    }
  }
  if (secure) certificate ??= createCertificate()
  const server = secure ? createSecureServer({ ...certificate }, listener) : createServer(listener)
  const authority = await listen(server)
  const port = authority.slice(authority.indexOf(':'))
  const client = secure
    ? connect(`https://localhost${port}`, { ca: certificate?.cert })
    : connect(`http://${authority}`)
  t.after(async () => {
    client.destroy()
    server.close()
    await once(server, 'close')
    await manager.close()
  })
  const request = (headers: OutgoingHttpHeaders = {}) => client.request({ ':path': '/', ...headers })
  return { manager, errors, port, request, get: (headers?: OutgoingHttpHeaders) => receive(request(headers)) }
}

const count: Handler = async (request, response) => {
  const s = await session<{ n: number }>(request)
  s.update('n', (n = 0) => n + 1)
  response.end(String(s.get('n')))
}

const pairOf = ({ cookies: [line = ''] }: Received): string => line.slice(0, line.indexOf(';'))

suite('HTTP/2', () => {
  test('over TLS, the session cookie has its prefix and Secure', async (t) => {
    const { get } = await start(t, count, { secure: true })
    const first = await get()
    assert.match(first.cookies[0] ?? '', /^__Host-Http-sid=.*; Secure/)
    assert.equal((await get({ cookie: pairOf(first) })).body, '2')
  })

  test('a session cookie in one of several fields is found, wherever it is', async (t) => {
    const { get } = await start(t, count, { secure: true })
    const pair = pairOf(await get())
    let n = 1
    for (const cookie of [
      [pair, 'a=1', 'b=2'],
      ['a=1', pair, 'b=2'],
      ['a=1', 'b=2', pair],
      ['a=1; b=2', pair],
    ]) {
      n++
      assert.equal((await get({ cookie: cookie as never })).body, String(n), cookie.join(' | '))
    }
  })

  test(':authority takes the place of Host', async (t) => {
    const { get, port } = await start(t, count)
    assert.match((await get()).cookies[0] ?? '', new RegExp(`^sid-${port.slice(1)}=`), 'a loopback name')
    assert.match((await get({ ':authority': 'app.test' })).cookies[0] ?? '', /^__Host-Http-sid=/, 'another name')
  })

  test('requests of one connection at the same time are all counted', async (t) => {
    const { get } = await start(t, count, { backend: new CaseStore('asynchronous').backend })
    const cookie = pairOf(await get())
    await Promise.all(Array.from({ length: 20 }, () => get({ cookie })))
    assert.equal((await get({ cookie })).body, '22')
  })

  test('a client that cancels its request while the session is saved causes no error, and the change is saved', async (t) => {
    const store = new CaseStore('asynchronous')
    const { get, request, errors } = await start(t, count, { backend: store.backend })
    const cookie = pairOf(await get())
    const printed = t.mock.method(console, 'error', () => {})
    const gate = store.hold('set')
    const stream = request({ cookie })
    stream.on('error', () => {})
    await gate.reached
    stream.close(constants.NGHTTP2_CANCEL)
    await once(stream, 'close')
    // The server has read the cancellation before it answers this request.
    assert.equal((await get({ cookie: '' })).body, '1')
    gate.open()
    assert.equal((await get({ cookie })).body, '3')
    assert.deepEqual(errors, [])
    assert.equal(printed.mock.callCount(), 0)
  })

  test('without next, a session that ended gets 409 and a failed backend gets 503', async (t) => {
    const store = new CaseStore('synchronous')
    const ending: Handler = async (request, response) => {
      const s = await session(request)
      s.set('n', 1)
      if (request.url === '/ended') await manager.revoke(s.label)
      response.statusCode = 201
      response.end('saved')
    }
    const { get, manager } = await start(t, ending, { backend: store.backend })
    const cookie = pairOf(await get())
    store.failing.add('set')
    const failed = await get({ cookie })
    assert.equal(failed.status, 503)
    assert.match(failed.body, /^This page is not available/)
    store.failing.clear()
    const ended = await get({ cookie, ':path': '/ended' })
    assert.equal(ended.status, 409)
    assert.match(ended.body, /^Your session ended/)
  })

  test('the head may have a list of fields, and the trailers of the handler are sent', async (t) => {
    const { request } = await start(t, async (request, response) => {
      ;(await session(request)).set('n', 1)
      response.writeHead(200, [
        ['x-one', '1'],
        ['set-cookie', 'own=1'],
      ] as never)
      response.write('a')
      response.addTrailers({ 'x-sum': '7' })
      response.end('b')
    })
    const stream = request()
    const trailers = once(stream, 'trailers')
    const { cookies, body } = await receive(stream)
    assert.equal(cookies[0], 'own=1')
    assert.match(cookies[1] ?? '', /^sid-/)
    assert.equal(body, 'ab')
    assert.equal((await trailers)[0]['x-sum'], '7')
  })

  test('a head that the handler sends on the stream of HTTP/2 itself leaves without a cookie, and nothing is saved', async (t) => {
    const store = new CaseStore('synchronous')
    const onStream: Handler = async (request, response) => {
      ;(await session(request)).set('n', 1)
      response.stream.respond({ ':status': 200 })
      response.end('done')
    }
    const { get } = await start(t, onStream, { backend: store.backend })
    const { body, cookies } = await get()
    assert.equal(body, 'done')
    assert.deepEqual(cookies, [])
    assert.deepEqual(store.calls, [])
  })

  test('a WebSocket over HTTP/2 is a CONNECT request, and its Origin is checked', async (t) => {
    const { get, manager } = await start(t, async (request, response) => {
      ;(await session(request)).login('anna')
      response.end()
    })
    const cookie = pairOf(await get({ ':authority': 'app.test' }))
    const upgrade = { ':method': 'CONNECT', ':protocol': 'websocket', ':authority': 'app.test', cookie }
    const watch = (origin?: string) =>
      manager.watch({
        headers: { ...upgrade, ...(origin !== undefined && { origin }) },
        method: 'CONNECT',
        url: '/chat',
        socket: { encrypted: true },
      })
    assert.equal((await watch('https://evil.test')).ok, false)
    assert.equal((await watch()).ok, false)
    const watched = await watch('https://app.test')
    assert.equal(watched.ok && watched.session.owner, 'anna')
    if (watched.ok) watched.stop()
  })

  test('no test of this file made Node warn, for example of a reason phrase', () => {
    assert.deepEqual(warnings, [])
  })
})
