// A handler on a port, until somebody says stop.

import type { Server as HttpServer } from 'node:http'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { chain, checkOptionNames, KeepsakeError, messageOf } from './error.ts'
import { drainOf, PATIENCE } from './http/draining.ts'
import type { Handler } from './http/handler.ts'
import { trace } from './http/trace.ts'
import { importPackage } from './packages.ts'

export { type LoggerOptions, logger } from './logger.ts'

export type ServeOptions = {
  /** Default 8080. 0 takes a free one. */
  readonly port?: number | undefined
  /**
   * An address of this machine to listen on, or a name of one. Default 127.0.0.1, for this machine alone; '0.0.0.0' is
   * every network it is on, '::' the same with IPv6.
   */
  readonly hostname?: string | undefined
}

export type Server = {
  /** Where this machine reaches it: what was listened on, as an address; the name where a name was given. */
  readonly url: string
  readonly port: number
  /**
   * Takes no new connections, lets requests under way finish (10 seconds at most), and closes what the handler stands
   * on, unless another server of this process runs the same handler.
   *
   * @throws what the handler's `close` throws; KeepsakeError `unavailable` where that takes more than 10 seconds
   */
  close(): Promise<void>
}

/** A server of this process: first all stop, then what they stand on is closed, because they may share it. */
type Stoppable = { readonly handler: Handler; drain(): Promise<void>; close(): Promise<void> }

const printed = (error: unknown): Response => {
  console.error(trace(error))
  return new Response('Internal Server Error\n', { status: 500 })
}

const portOf = (port: unknown): number => {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw new KeepsakeError('invalid_option', 'port has to be a whole number from 0 to 65535.')
}

const hostnameOf = (hostname: unknown): string => {
  if (typeof hostname === 'string' && hostname !== '') return hostname
  throw new KeepsakeError(
    'invalid_option',
    "hostname has to be an address or a name of this machine, such as '127.0.0.1'.",
  )
}

/** Whether this machine has ::1. A container often has none, and listens on :: all the same. */
const hasLoopback6 = (): boolean =>
  Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === '::1'))

/**
 * What to open. Not `localhost` for 127.0.0.1: where that name is ::1, it leads to no server, or to another one. Not
 * 0.0.0.0 or :: either, which are no addresses to connect to.
 */
const urlOf = (hostname: string, address: string, port: number): string => {
  const loopback = { '0.0.0.0': '127.0.0.1', '::': hasLoopback6() ? '::1' : '127.0.0.1' }[address]
  const host = loopback ?? (isIP(hostname) === 0 ? hostname : address)
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** @throws TypeError for what is no response: a forgotten `return`, mostly */
const responseOf = (given: Response): Response => {
  if (typeof given?.status === 'number') return given
  throw new TypeError(`A handler has to give a Response, and gave ${given === null ? 'null' : typeof given}.`)
}

/** @throws KeepsakeError `unavailable` where the work takes too long */
const inTime = async (work: Promise<unknown> | undefined, what: string): Promise<void> => {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => reject(new KeepsakeError('unavailable', `${what} took more than ${PATIENCE / 1000} seconds, and was left.`)),
    PATIENCE,
  )
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** At SIGINT and SIGTERM. A second one finds the default, which ends the process at once. */
const stop = async () => {
  unhook()
  const servers = [...shared.running]
  await Promise.allSettled(servers.map((server) => server.drain()))
  const outcomes = await Promise.allSettled(servers.map((server) => server.close()))
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  for (const { reason } of failed) console.error(trace(reason))
  process.exit(failed.length === 0 ? 0 : 1)
}

/** One for all copies of this package in the process, so that the first to stop does not end it under the others. */
const SHARED = Symbol.for('keepsake.run')
const scope = globalThis as { [SHARED]?: { readonly running: Set<Stoppable>; readonly stop: () => Promise<void> } }
scope[SHARED] ??= { running: new Set(), stop }
const shared = scope[SHARED]
const hook = () => process.on('SIGINT', shared.stop).on('SIGTERM', shared.stop)
const unhook = () => process.off('SIGINT', shared.stop).off('SIGTERM', shared.stop)

/**
 * Serves a handler on Node, Bun or Deno, prints its address to standard output, and closes it cleanly at SIGINT and
 * SIGTERM: once all servers of the process have, it ends with 0. What a handler throws is printed to standard error,
 * with its causes, and answered with 500.
 *
 * @throws KeepsakeError `invalid_option`, `unavailable` where the port cannot be had or the store not be opened
 */
export const serve = async (handler: Handler, options: ServeOptions = {}): Promise<Server> => {
  checkOptionNames(options, ['port', 'hostname'], 'serve()')
  const hostname = hostnameOf(options.hostname ?? '127.0.0.1')
  const wanted = portOf(options.port ?? 8080)
  await handler.ready?.()
  // By its path: a bundler that knows of no conditions takes a server that does not listen.
  const { serve } = await importPackage('keepsake/serve', 'srvx', async () => {
    return await import('srvx/node')
  })
  const server = serve({
    fetch: (request) => chain(handler(request), responseOf),
    error: printed,
    port: wanted,
    hostname,
    manual: true,
    silent: true,
    gracefulShutdown: false,
  })
  const http = server.node?.server as HttpServer
  const drain = drainOf(http)
  // A body that breaks off cannot be answered any more, but it can be heard of.
  http.on('request', (_, response) => {
    response.once('close', () => response.errored && console.error(trace(response.errored)))
  })
  try {
    await server.serve()
  } catch (cause) {
    await handler.close?.()
    throw new KeepsakeError(
      'unavailable',
      `Port ${wanted} of ${hostname} cannot be had: ${messageOf(cause)}. Choose another port or hostname.`,
      { cause },
    )
  }
  // A pipe has a text for an address, and this is a port.
  const { address, port } = http.address() as { address: string; port: number }
  const url = urlOf(hostname, address, port)

  let draining: Promise<void> | undefined
  let closing: Promise<void> | undefined
  const shut = async () => {
    await own.drain()
    try {
      await inTime(server.close(), 'What the handler gave to waitUntil')
    } finally {
      shared.running.delete(own)
      if (shared.running.size === 0) unhook()
      const needed = [...shared.running].some((other) => other.handler === handler)
      if (!needed) await inTime(handler.close?.(), 'Closing what the handler stands on')
    }
  }
  const own: Stoppable = {
    handler,
    drain() {
      draining ??= drain()
      return draining
    },
    close() {
      closing ??= shut()
      return closing
    },
  }
  if (shared.running.size === 0) hook()
  shared.running.add(own)
  console.log(`Running at ${url}`)
  return { url, port, close: own.close }
}
