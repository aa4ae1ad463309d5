// Sessions of real sockets: a page of another origin is refused, and the end of a session closes its sockets.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Server as HttpServer, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { suite, type TestContext, test } from 'node:test'
import crossws from 'crossws/adapters/node'
import { Hono } from 'hono'
import { streamSSE } from 'hono/streaming'
import { type SessionManager, type SessionManagerOptions, session, sessionManager, type WatchedSession } from 'keepsake'
import { forHono } from 'keepsake/hono'
import { memoryBackend } from 'keepsake/memory'
import { forNode } from 'keepsake/node'
import { browser } from 'keepsake/testing'
import { Server as SocketServer } from 'socket.io'
import { io } from 'socket.io-client'
import { WebSocket, WebSocketServer } from 'ws'
import { PATIENT } from '../support/clock.ts'
import { listening } from '../support/listening.ts'

type Connected = { readonly owner: string; readonly closed: Promise<unknown> }

/** One kind of sockets: how a server accepts them, and how a browser connects. */
type Kind = {
  attach(server: HttpServer, manager: SessionManager): void
  /** @returns the owner that the server sends first, or the status of the refusal */
  connect(url: string, headers: Record<string, string>): Promise<Connected | number>
}

const connectWebSocket: Kind['connect'] = (url, headers) => {
  const socket = new WebSocket(url.replace('http', 'ws'), { headers })
  return new Promise((resolve, reject) => {
    socket.once('unexpected-response', (_, response) => resolve(response.statusCode ?? 0))
    socket.once('error', reject)
    socket.once('message', (data) =>
      resolve({ owner: String(data), closed: once(socket, 'close').then(([code]) => code) }),
    )
  })
}

const ws: Kind = {
  attach(server, manager) {
    const sockets = new WebSocketServer({ noServer: true })
    server.on('upgrade', async (request, socket, head) => {
      const refuse = (status: string) => socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`)
      const watched = await manager.watch(request)
      if (!watched.ok) return refuse('403 Forbidden')
      const { owner } = watched.session
      if (owner === undefined) return refuse('401 Unauthorized')
      socket.once('close', watched.stop)
      sockets.handleUpgrade(request, socket, head, (webSocket) => {
        webSocket.send(owner)
        void watched.ended.then((reason) => webSocket.close(4401, reason))
      })
    })
  },
  connect: connectWebSocket,
}

const onCrossws: Kind = {
  attach(server, manager) {
    const watchedOf = ({ context }: { readonly context: object }) => context as WatchedSession
    const { handleUpgrade } = crossws({
      hooks: {
        async upgrade(request) {
          const watched = await manager.watch(request)
          if (!watched.ok) return new Response(null, { status: 403 })
          if (watched.session.owner === undefined) return new Response(null, { status: 401 })
          return { context: watched }
        },
        open(peer) {
          const { session, ended } = watchedOf(peer)
          peer.send(session.owner)
          void ended.then((reason) => peer.close(4401, reason))
        },
        close: (peer) => watchedOf(peer).stop(),
      },
    })
    server.on('upgrade', handleUpgrade)
  },
  connect: connectWebSocket,
}

const socketIo = (transports: readonly ('polling' | 'websocket')[]): Kind => ({
  attach(server, manager) {
    const sockets = new SocketServer(server)
    sockets.use(async (socket, next) => {
      const watched = await manager.watch(socket.request)
      if (!watched.ok) return next(new Error('403'))
      if (watched.session.owner === undefined) return next(new Error('401'))
      socket.data.owner = watched.session.owner
      socket.once('disconnect', watched.stop)
      void watched.ended.then(() => socket.disconnect(true))
      next()
    })
    sockets.on('connection', (socket) => socket.emit('owner', socket.data.owner))
  },
  connect(url, headers) {
    const socket = io(url, { extraHeaders: headers, transports: [...transports], forceNew: true, reconnection: false })
    return new Promise((resolve) => {
      socket.once('connect_error', ({ message }) => {
        socket.close()
        resolve(Number(message))
      })
      socket.once('owner', (owner) => {
        const closed = new Promise<unknown>((resolve) => socket.once('disconnect', () => resolve(4401)))
        resolve({ owner, closed })
      })
    })
  },
})

const kinds: Readonly<Record<string, Kind>> = {
  ws,
  crossws: onCrossws,
  'Socket.IO': socketIo(['polling', 'websocket']),
  'Socket.IO without polling': socketIo(['websocket']),
}

/** A server with a login and a logout over HTTP, and one visitor. */
const start = async (
  t: TestContext,
  attach: (server: HttpServer, manager: SessionManager) => void,
  options: Partial<SessionManagerOptions> = {},
) => {
  const manager = sessionManager({ backend: 'memory:', storeTimeout: PATIENT, watchInterval: 3600, ...options })
  const sessions = forNode(manager)
  const server = createServer((request, response) => {
    sessions(request, response)
    answer(request).then((body) => response.end(body))
  })
  const answer = async (request: IncomingMessage) => {
    const s = await session(request)
    if (request.url === '/login') s.login('anna')
    if (request.url === '/logout') s.invalidate()
    return s.owner ?? 'nobody'
  }
  attach(server, manager)
  const connections = new Set<Socket>()
  server.on('connection', (connection) => connections.add(connection))
  const { url, close } = await listening(server)
  t.after(async () => {
    // A server does not close connections that were upgraded.
    for (const connection of connections) connection.destroy()
    await close()
    await manager.close()
  })
  const visit = browser((request) => fetch(request, { redirect: 'manual' }), { origin: url })
  const headersFrom = (origin: string | undefined) => ({
    cookie: [...visit.cookies].map(([name, value]) => `${name}=${value}`).join('; '),
    ...(origin !== undefined && { origin }),
  })
  return { url, manager, visit, headersFrom }
}

for (const [name, kind] of Object.entries(kinds)) {
  suite(name, () => {
    const arrive = async (t: TestContext, options?: Partial<SessionManagerOptions>) => {
      const h = await start(t, kind.attach, options)
      await h.visit('/login')
      const connect = (origin: string = h.url) => kind.connect(h.url, h.headersFrom(origin))
      const open = async () => {
        const connected = await connect()
        return typeof connected === 'number' ? assert.fail(`refused with ${connected}`) : connected
      }
      return { ...h, connect, open }
    }

    test('a socket of an own page has the session of the visitor', async (t) => {
      const { open } = await arrive(t)
      assert.equal((await open()).owner, 'anna')
    })

    test('CSRF-13: a socket of a page of another origin is refused with 403, although the browser sends the cookie', async (t) => {
      const { connect } = await arrive(t)
      for (const origin of ['https://evil.test', 'http://127.0.0.1:1', 'null']) assert.equal(await connect(origin), 403)
    })

    test('a visitor without a session is refused with 401', async (t) => {
      const { connect, visit } = await arrive(t)
      await visit('/logout')
      assert.equal(await connect(), 401)
    })

    test('LIFE-16: a logout in another tab closes all sockets of the session, without a read of the backend', async (t) => {
      const { open, visit } = await arrive(t)
      const sockets = [await open(), await open()]
      await visit('/logout')
      for (const { closed } of sockets) assert.equal(await closed, 4401)
    })

    test('a revocation closes the socket, and so does a login', async (t) => {
      const { open, visit, manager } = await arrive(t)
      const first = await open()
      await visit('/login')
      assert.equal(await first.closed, 4401)
      const second = await open()
      await manager.revokeAll('anna')
      assert.equal(await second.closed, 4401)
    })

    test('LIFE-16: another manager on the same backend ends the session, and the next read closes the socket', async (t) => {
      const backend = memoryBackend()
      const { open } = await arrive(t, { backend, watchInterval: 0.1 })
      const { closed } = await open()
      const other = sessionManager({ backend, storeTimeout: PATIENT })
      await other.revokeAll('anna')
      assert.equal(await closed, 4401)
    })
  })
}

suite('server-sent events on node:http', () => {
  const serveEvents = (server: HttpServer, manager: SessionManager) => {
    const [pages] = server.listeners('request') as [(...args: unknown[]) => void]
    server.removeAllListeners('request')
    server.on('request', async (request, response) => {
      if (request.url !== '/events') return pages(request, response)
      const watched = await manager.watch(request)
      if (!watched.ok) return response.writeHead(403).end()
      response.once('close', watched.stop)
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
      response.write(`data: ${watched.session.owner}\n\n`)
      void watched.ended.then((reason) => response.end(`event: ended\ndata: ${reason}\n\n`))
    })
  }

  test('the stream ends with the session', async (t) => {
    const { visit } = await start(t, serveEvents)
    await visit('/login')
    const stream = await visit('/events')
    await visit('/logout')
    assert.equal(await stream.text(), 'data: anna\n\nevent: ended\ndata: end\n\n')
  })

  test('a page of another origin gets 403, and a browser that sends no Origin for its own page gets the stream', async (t) => {
    const { url, visit, headersFrom } = await start(t, serveEvents)
    await visit('/login')
    const statusFrom = async (origin?: string) => {
      const leave = new AbortController()
      const response = await fetch(`${url}/events`, { headers: headersFrom(origin), signal: leave.signal })
      leave.abort()
      return response.status
    }
    assert.equal(await statusFrom('https://evil.test'), 403)
    assert.equal(await statusFrom(), 200)
  })
})

test('in Hono, streamSSE ends with the session', async () => {
  const manager = sessionManager({ backend: 'memory:' })
  const app = new Hono()
  app.use(forHono(manager))
  app.get('/login', async (c) => {
    ;(await session(c)).login('anna')
    return c.text('')
  })
  app.get('/logout', async (c) => {
    ;(await session(c)).invalidate()
    return c.text('')
  })
  app.get('/events', async (c) => {
    const watched = await manager.watch(c)
    if (!watched.ok) return c.text('', 403)
    const { session, signal, stop } = watched
    return streamSSE(c, async (stream) => {
      stream.onAbort(stop)
      await stream.writeSSE({ data: session.owner ?? 'nobody' })
      await once(signal, 'abort')
      await stream.writeSSE({ event: 'ended', data: '' })
    })
  })
  const visit = browser((request) => app.fetch(request))
  await visit('/login')
  const stream = await visit('/events')
  await visit('/logout')
  assert.equal(await stream.text(), 'data: anna\n\nevent: ended\ndata: \n\n')
  assert.equal((await visit('/events', { headers: { origin: 'https://evil.test' } })).status, 403)
})
