// Serves a handler on a port, and stops cleanly at a signal.

import type { Server as HttpServer } from 'node:http'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { inspect } from 'node:util'
import { chain, checkOptionNames, KeepsakeError, messageOf } from './error.ts'
import { drainer, STOP_TIMEOUT } from './http/draining.ts'
import type { Handler } from './http/handler.ts'
import { trace } from './http/trace.ts'
import { importPackage } from './packages.ts'

export { type LoggerOptions, logger } from './logger.ts'

export type ServeOptions = {
  /** Default 8080. 0: any free port. */
  readonly port?: number | undefined
  /**
   * An address of this machine, or a name for one. Default 127.0.0.1, so only this machine can connect. '0.0.0.0'
   * listens on all its networks, and '::' also with IPv6.
   */
  readonly hostname?: string | undefined
}

export type Server = {
  /** The URL for browsers on this machine: with the name if `hostname` is a name, otherwise with an address. */
  readonly url: string
  readonly port: number
  /**
   * Takes no new connections, lets requests in progress finish (at most 10 seconds), and calls the handler's `close`,
   * unless another server of this process runs the same handler.
   *
   * @throws the error of the handler's `close`; KeepsakeError `unavailable` if that takes more than 10 seconds
   */
  close(): Promise<void>
}

/** A server of this process. All servers drain before the first one closes its backend, because they may share it. */
type Stoppable = { readonly handler: Handler; drain(): Promise<void>; close(): Promise<void> }

const printAndAnswer = (error: unknown): Response => {
  console.error(trace(error))
  return new Response('Internal Server Error\n', { status: 500 })
}

const checkPort = (port: unknown): number => {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw new KeepsakeError(
    'invalid_option',
    `The option port is ${inspect(port)}. It must be a whole number from 0 to 65535.`,
  )
}

const checkHostname = (hostname: unknown): string => {
  if (typeof hostname === 'string' && hostname !== '') return hostname
  throw new KeepsakeError(
    'invalid_option',
    `The option hostname is ${inspect(hostname)}. It must be an address or a name of this machine, such as '127.0.0.1'.`,
  )
}

/** Whether this machine has the address ::1. A container often has none, although it can listen on ::. */
const hasLoopback6 = (): boolean =>
  Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === '::1'))

/**
 * The URL to print. It has no `localhost` for 127.0.0.1, because that name may be ::1, with no server or another one.
 * It has no 0.0.0.0 or :: either, because browsers cannot connect to those.
 */
const urlOf = (hostname: string, address: string, port: number): string => {
  const loopback = { '0.0.0.0': '127.0.0.1', '::': hasLoopback6() ? '::1' : '127.0.0.1' }[address]
  const host = loopback ?? (isIP(hostname) === 0 ? hostname : address)
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** @throws TypeError if the handler returned no Response: mostly a forgotten `return` */
const checkResponse = (answer: Response): Response => {
  if (typeof answer?.status === 'number') return answer
  throw new TypeError(`The handler returned ${answer === null ? 'null' : typeof answer}. Return a Response.`)
}

/** @throws KeepsakeError `unavailable` if the work takes more than 10 seconds */
const withTimeout = async (work: Promise<unknown> | undefined, name: string): Promise<void> => {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(
    () =>
      reject(
        new KeepsakeError(
          'unavailable',
          `${name} took more than ${STOP_TIMEOUT / 1000} seconds. The server stopped without waiting for it.`,
        ),
      ),
    STOP_TIMEOUT,
  )
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Handles SIGINT and SIGTERM. A second signal has the default effect: it ends the process at once. */
const stop = async () => {
  unhook()
  const servers = [...shared.running]
  await Promise.allSettled(servers.map((server) => server.drain()))
  const outcomes = await Promise.allSettled(servers.map((server) => server.close()))
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  for (const { reason } of failed) console.error(trace(reason))
  process.exit(failed.length === 0 ? 0 : 1)
}

/**
 * Shared by all copies of this package in the process, so that the first to stop does not end the process too early.
 */
const SHARED = Symbol.for('keepsake.run')
const scope = globalThis as { [SHARED]?: { readonly running: Set<Stoppable>; readonly stop: () => Promise<void> } }
scope[SHARED] ??= { running: new Set(), stop }
const shared = scope[SHARED]
const hook = () => process.on('SIGINT', shared.stop).on('SIGTERM', shared.stop)
const unhook = () => process.off('SIGINT', shared.stop).off('SIGTERM', shared.stop)

const load = async () => {
  try {
    // The path `/node`, because a bundler that ignores export conditions takes a server that does not listen.
    return await import('srvx/node')
  } catch (error) {
    // biome-ignore lint/complexity/noUselessCatch: bundlers forgive a missing package only in a try
    throw error
  }
}

/**
 * Serves a handler on Node, Bun or Deno, and prints the URL to standard output. SIGINT and SIGTERM stop all servers of
 * the process cleanly, then the process ends with 0, or with 1 if closing failed. If a handler throws, the error and
 * its causes are printed to standard error, and the response is 500.
 *
 * It needs the package srvx.
 *
 * @throws KeepsakeError `invalid_option`; `missing_package` without srvx; `unavailable` if the port is not free; and
 *   the errors of the handler's `ready`
 */
export const serve = async (handler: Handler, options: ServeOptions = {}): Promise<Server> => {
  checkOptionNames(options, ['port', 'hostname'], 'serve()')
  const hostname = checkHostname(options.hostname ?? '127.0.0.1')
  const wanted = checkPort(options.port ?? 8080)
  const { serve } = await importPackage('keepsake/serve', 'srvx', load)
  await handler.ready?.()
  const server = serve({
    fetch: (request) => chain(handler(request), checkResponse),
    error: printAndAnswer,
    port: wanted,
    hostname,
    manual: true,
    silent: true,
    gracefulShutdown: false,
  })
  const http = server.node?.server as HttpServer
  const drain = drainer(http)
  // If the body of a response breaks off, no other response can be sent, but the error is printed.
  http.on('request', (_, response) => {
    response.once('close', () => response.errored && console.error(trace(response.errored)))
  })
  try {
    await server.serve()
  } catch (cause) {
    await handler.close?.()
    throw new KeepsakeError(
      'unavailable',
      `The server cannot listen on port ${wanted} of ${hostname}: ${messageOf(cause)}. Choose another port or hostname.`,
      { cause },
    )
  }
  // Only a pipe has a string as its address.
  const { address, port } = http.address() as { address: string; port: number }
  const url = urlOf(hostname, address, port)

  let draining: Promise<void> | undefined
  let closing: Promise<void> | undefined
  const stopServer = async () => {
    await stoppable.drain()
    try {
      await withTimeout(server.close(), 'The work that the handler passed to waitUntil')
    } finally {
      shared.running.delete(stoppable)
      if (shared.running.size === 0) unhook()
      const needed = [...shared.running].some((other) => other.handler === handler)
      if (!needed) await withTimeout(handler.close?.(), "The handler's close()")
    }
  }
  const stoppable: Stoppable = {
    handler,
    drain() {
      draining ??= drain()
      return draining
    },
    close() {
      closing ??= stopServer()
      return closing
    },
  }
  if (shared.running.size === 0) hook()
  shared.running.add(stoppable)
  console.log(`Running at ${url}`)
  return { url, port, close: stoppable.close }
}
