// WebSockets and server-sent events of Chromium: an own page, a page of another origin, and a logout in another tab.

import assert from 'node:assert/strict'
import { createServer, type IncomingMessage } from 'node:http'
import { suite, type TestContext, test } from 'node:test'
import { type SessionEvent, session, sessionManager } from 'keepsake'
import { forNode } from 'keepsake/node'
import type { Page } from 'playwright-core'
import { WebSocketServer } from 'ws'
import { opened } from '../support/chromium.ts'
import { listening } from '../support/listening.ts'

const HTML = { 'content-type': 'text/html' }

/** Opens a socket in a page. Returns its first message, or the code with which it was closed before. */
const openSocket = (page: Page, url: string) =>
  page.evaluate(
    (url) =>
      new Promise<string | number>((resolve) => {
        const socket = new WebSocket(url)
        Object.assign(globalThis, { socketClosed: new Promise((resolve) => socket.addEventListener('close', resolve)) })
        socket.addEventListener('message', ({ data }) => resolve(data))
        socket.addEventListener('close', ({ code }) => resolve(code))
      }),
    url.replace('http', 'ws'),
  )

/** The code with which the socket of a page was closed. */
const closeCode = (page: Page) =>
  page.evaluate(async () => (await (globalThis as unknown as { socketClosed: Promise<CloseEvent> }).socketClosed).code)

/** Opens server-sent events in a page. Returns the first one, or `refused`. */
const openEvents = (page: Page, url: string) =>
  page.evaluate(
    (url) =>
      new Promise<string>((resolve) => {
        const source = new EventSource(url, { withCredentials: true })
        Object.assign(globalThis, { eventsEnded: new Promise((resolve) => source.addEventListener('ended', resolve)) })
        source.addEventListener('message', ({ data }) => resolve(data))
        source.addEventListener('ended', () => source.close())
        source.addEventListener('error', () => {
          if (source.readyState === source.CLOSED) resolve('refused')
        })
      }),
    url,
  )

/** The last event of a page. */
const lastEvent = (page: Page) =>
  page.evaluate(async () => (await (globalThis as unknown as { eventsEnded: Promise<MessageEvent> }).eventsEnded).data)

const start = async (t: TestContext) => {
  const events: SessionEvent[] = []
  const manager = sessionManager({ backend: 'memory:', watchInterval: 3600, onEvent: (event) => events.push(event) })
  const sessions = forNode(manager)
  const upgrades: IncomingMessage[] = []
  const server = createServer(async (request, response) => {
    sessions(request, response)
    if (request.url === '/events') {
      const watched = await manager.watch(request)
      if (!watched.ok) return response.writeHead(403).end()
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write(`data: ${watched.session.owner}\n\n`)
      response.once('close', watched.stop)
      void watched.ended.then((reason) => response.end(`event: ended\ndata: ${reason}\n\n`))
      return
    }
    const s = await session(request)
    if (request.url === '/login') s.login('anna')
    if (request.url === '/logout') s.invalidate()
    response.writeHead(200, HTML).end('<title>own</title>')
  })
  const sockets = new WebSocketServer({ noServer: true })
  server.on('upgrade', async (request, socket, head) => {
    upgrades.push(request)
    const watched = await manager.watch(request)
    if (!watched.ok) return socket.end('HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n')
    socket.once('close', watched.stop)
    sockets.handleUpgrade(request, socket, head, (webSocket) => {
      webSocket.send(watched.session.owner ?? 'nobody')
      void watched.ended.then(() => webSocket.close(4401))
    })
  })
  const own = await listening(server)
  const other = await listening(
    createServer((_, response) => response.writeHead(200, HTML).end('<title>other</title>')),
  )
  t.after(async () => {
    for (const socket of sockets.clients) socket.terminate()
    await own.close()
    await other.close()
    await manager.close()
  })
  const context = await (await opened(t)).newContext()
  const visit = async (url: string) => {
    const page = await context.newPage()
    await page.goto(url)
    return page
  }
  return { own: own.url, other: other.url, events, upgrades, visit }
}

suite('in Chromium, a socket', () => {
  test('CSRF-13: of a page of another origin is refused, although the browser sends the cookie of the visitor', async (t) => {
    const { own, other, events, upgrades, visit } = await start(t)
    const page = await visit(`${own}/login`)
    assert.equal(await openSocket(page, own), 'anna')
    assert.equal(await openSocket(await visit(other), own), 1006)
    const [, hijack] = upgrades
    assert.match(hijack?.headers.cookie ?? '', /^sid-/)
    assert.equal(hijack?.headers.origin, other)
    assert.equal(events.at(-1)?.type, 'cross_origin_rejected')
  })

  test('LIFE-16: is closed by a logout in another tab', async (t) => {
    const { own, visit } = await start(t)
    const page = await visit(`${own}/login`)
    assert.equal(await openSocket(page, own), 'anna')
    await visit(`${own}/logout`)
    assert.equal(await closeCode(page), 4401)
  })
})

test('in Chromium, server-sent events of an own page end with the session, and a page of another origin gets none', async (t) => {
  const { own, other, visit } = await start(t)
  const page = await visit(`${own}/login`)
  assert.equal(await openEvents(await visit(other), `${own}/events`), 'refused')
  assert.equal(await openEvents(page, `${own}/events`), 'anna')
  await visit(`${own}/logout`)
  assert.equal(await lastEvent(page), 'end')
})
