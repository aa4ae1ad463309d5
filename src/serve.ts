// A handler on a port, on Node, until somebody says stop.

import type { Handler } from './handler.ts'
import { Fault } from './outcome.ts'

export type RunOptions = {
  /** Default 8080. 0 takes a free one. */
  readonly port?: number
  /** What to listen on. Default 127.0.0.1, this machine alone; '0.0.0.0' is every network it is on. */
  readonly hostname?: string
}

export type Running = {
  readonly url: string
  readonly port: number
  /** Takes no more requests, lets those under way finish (10 seconds at most), and closes what the handler stands on. */
  close(): Promise<void>
}

/** Milliseconds that a response under way may take after a close. */
const PATIENCE = 10_000

const printed = (error: unknown): Response => {
  console.error(error)
  return new Response('Internal Server Error\n', { status: 500 })
}

const portOf = (port: number): number => {
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw new Fault('bad_option', 'port has to be a whole number from 0 to 65535.')
}

/**
 * Serves a handler, prints its address to standard output, and closes it cleanly at SIGINT and SIGTERM. What a handler
 * throws is printed to standard error and answered with 500.
 *
 * @throws Fault `bad_option`, `unavailable` where the port cannot be had or the store not be opened
 */
export const run = async (handler: Handler, options: RunOptions = {}): Promise<Running> => {
  const { hostname = '127.0.0.1' } = options
  const wanted = portOf(options.port ?? 8080)
  await handler.ready?.()
  const { serve } = await import('srvx')
  const server = serve({
    fetch: (request) => handler(request),
    error: printed,
    port: wanted,
    hostname,
    manual: true,
    silent: true,
    gracefulShutdown: false,
  })
  try {
    await server.serve()
  } catch (cause) {
    await handler.close?.()
    throw new Fault(
      'unavailable',
      `Port ${wanted} of ${hostname} cannot be had: ${(cause as Error).message}. Choose another port.`,
      { cause },
    )
  }
  const http = server.node?.server
  const address = http?.address()
  const port = typeof address === 'object' && address !== null ? address.port : wanted
  const loopback = hostname === '127.0.0.1' || hostname === '::1'
  const url = `http://${loopback ? 'localhost' : hostname.includes(':') ? `[${hostname}]` : hostname}:${port}`

  const shut = async () => {
    process.off('SIGINT', stop).off('SIGTERM', stop)
    // A connection that was busy stays open when it falls idle, so it is looked for again.
    const idle = setInterval(() => http && 'closeIdleConnections' in http && http.closeIdleConnections(), 50)
    const patience = setTimeout(() => http && 'closeAllConnections' in http && http.closeAllConnections(), PATIENCE)
    try {
      await server.close()
    } finally {
      clearInterval(idle)
      clearTimeout(patience)
      await handler.close?.()
    }
  }
  let closing: Promise<void> | undefined
  const close = () => {
    closing ??= shut()
    return closing
  }
  const stop = () => {
    close().then(
      () => process.exit(0),
      (error) => {
        console.error(error)
        process.exit(1)
      },
    )
  }
  process.on('SIGINT', stop).on('SIGTERM', stop)
  console.log(`Running at ${url}`)
  return { url, port, close }
}
