// The connections of a server, so that it can stop without cutting a request that is under way.

import type { Server, ServerResponse } from 'node:http'
import { Server as Listener, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'

/** Milliseconds that requests may still take once a server is to stop. */
export const PATIENCE = 10_000

/** Lets the process read what has arrived: two turns of its loop, because the first may be half over. */
const readArrived = async (): Promise<void> => {
  await setImmediate()
  await setImmediate()
}

/** Stops listening, and leaves the connections: `http` would end the idle ones, though a request may be on its way there. */
const stopListening = (http: Server): Promise<void> =>
  new Promise((resolve) => {
    // Bun's server is none of node:net, and ends its idle connections.
    if (http instanceof Listener) Listener.prototype.close.call(http, () => resolve())
    else (http as Server).close(() => resolve())
  })

/**
 * Watches a server from now on. What it returns stops the server: no new connections; requests under way, and those
 * that still arrive on open connections, are answered with `Connection: close`; then the idle connections end. It
 * settles when none is left, and after ten seconds it cuts those that are.
 */
export const drainOf = (http: Server): (() => Promise<void>) => {
  const sockets = new Set<Socket>()
  const answering = new Set<ServerResponse>()
  let draining = false
  let answered = () => {}

  const last = (response: ServerResponse) => {
    if (!response.headersSent) response.setHeader('connection', 'close')
  }
  http.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  // Before the handler, which may answer at once.
  http.prependListener('request', (_, response) => {
    answering.add(response)
    if (draining) last(response)
    response.once('close', () => {
      answering.delete(response)
      if (answering.size === 0) answered()
    })
  })

  const finish = async () => {
    await readArrived()
    const ended = stopListening(http)
    while (answering.size > 0) {
      await new Promise<void>((resolve) => {
        answered = resolve
      })
      await readArrived()
    }
    http.closeIdleConnections()
    // Node counts a connection on which nothing ever came as one whose request is late; browsers open some in advance.
    for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy()
    await ended
    // Ends Node's timer that looks for late requests.
    http.close()
  }

  return async () => {
    draining = true
    for (const response of answering) last(response)
    const patience = setTimeout(() => http.closeAllConnections(), PATIENCE)
    try {
      await finish()
    } finally {
      clearTimeout(patience)
    }
  }
}
