// Stops a server without cutting a request that is in progress.

import type { Server, ServerResponse } from 'node:http'
import { Server as Listener, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'

/** Milliseconds that requests may still take after a server began to stop. */
export const STOP_TIMEOUT = 10_000

/**
 * Lets the process read the bytes that have arrived: two rounds of the event loop, because the first may be half done.
 */
const readArrived = async (): Promise<void> => {
  await setImmediate()
  await setImmediate()
}

/** Stops listening and keeps the connections. `http` would end idle ones, although a request may be on its way. */
const stopListening = (http: Server): Promise<void> =>
  new Promise((resolve) => {
    // Bun's server is not one of node:net, and ends its idle connections.
    if (http instanceof Listener) Listener.prototype.close.call(http, () => resolve())
    else (http as Server).close(() => resolve())
  })

/**
 * Watches a server, and returns a function that stops it. The server takes no new connections. Requests in progress,
 * and requests that still arrive on open connections, are answered with `Connection: close`. Then the idle connections
 * end. The promise settles when no connection is left. Connections that are left after ten seconds are cut.
 */
export const drainer = (http: Server): (() => Promise<void>) => {
  const sockets = new Set<Socket>()
  const answering = new Set<ServerResponse>()
  let draining = false
  let allAnswered = () => {}

  const closeAfter = (response: ServerResponse) => {
    if (!response.headersSent) response.setHeader('connection', 'close')
  }
  http.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  // Runs before the handler, because the handler may answer at once.
  http.prependListener('request', (_, response) => {
    answering.add(response)
    if (draining) closeAfter(response)
    response.once('close', () => {
      answering.delete(response)
      if (answering.size === 0) allAnswered()
    })
  })

  const finish = async () => {
    await readArrived()
    const ended = stopListening(http)
    while (answering.size > 0) {
      await new Promise<void>((resolve) => {
        allAnswered = resolve
      })
      await readArrived()
    }
    http.closeIdleConnections()
    // Browsers open some connections in advance. Node counts a connection without any bytes as one with a late request.
    for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy()
    await ended
    // Stops Node's timer that looks for late requests.
    http.close()
  }

  return async () => {
    draining = true
    for (const response of answering) closeAfter(response)
    const timer = setTimeout(() => http.closeAllConnections(), STOP_TIMEOUT)
    try {
      await finish()
    } finally {
      clearTimeout(timer)
    }
  }
}
