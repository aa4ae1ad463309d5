// A Redis client of our own, from a URL: it fails fast, recovers by itself, and sends nothing twice.

import { isIP } from 'node:net'
import { checkServerIdentity, type PeerCertificate } from 'node:tls'
import type { Cluster, ClusterOptions, Redis, RedisOptions as ServerOptions } from 'ioredis'
import { KeepsakeError, messageOf } from '../../error.ts'
import { importDriver } from '../../packages.ts'
import { type Driver, driverOf, type RedisClient } from './client.ts'
import { turn } from './link.ts'

/** Tries again soon, at most half a second later, and not all processes at once. */
const retry = (times: number): number => Math.min(50 * times, 500) * (0.5 + Math.random() / 2)

/** Milliseconds that a server has to answer at least, before its connection is cut. */
const SILENT = 5_000
/** And to take a connection. */
const CONNECTING = 2_000

/** How long the client waits, when a visit may wait for so many milliseconds: it must not give up before the visit does. */
const patienceOf = (storeTimeout: number) => ({
  connecting: 0.75 * storeTimeout,
  silent: Math.max(SILENT, Math.min(2.5 * storeTimeout, storeTimeout + 30_000)),
  handshake: Math.max(CONNECTING, storeTimeout),
})

const serverOptions = (handshake: number) =>
  ({
    lazyConnect: true,
    // No commandTimeout and no socketTimeout: the visit itself says how long it waits, and `cutting` cuts.
    connectTimeout: handshake,
    // A queue would carry a write out that its caller was told had failed.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableAutoPipelining: true,
    // It asks for INFO, and prints to the console where that is forbidden. A server that is loading says so itself.
    enableReadyCheck: false,
    retryStrategy: retry,
    sentinelRetryStrategy: retry,
    sentinelCommandTimeout: handshake,
    // A master that became a replica: the next connection finds the master of now.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  }) satisfies ServerOptions

const clusterOptions = (handshake: number) =>
  ({
    lazyConnect: true,
    enableOfflineQueue: false,
    enableAutoPipelining: true,
    enableReadyCheck: false,
    clusterRetryStrategy: retry,
    slotsRefreshTimeout: handshake,
    // It would send again what may have been carried out.
    retryDelayOnFailover: 0,
    // A certificate is for a name: an address that was looked up would not fit.
    dnsLookup: (name, found) => found(null, name),
  }) satisfies ClusterOptions

type Host = { readonly host: string; readonly port: number }
type Target = {
  readonly kind: 'server' | 'sentinel' | 'cluster'
  readonly hosts: readonly Host[]
  /** Of Sentinels: what they call the master. */
  readonly name: string
  readonly login: { username?: string; password?: string; db?: number; tls?: ReturnType<typeof tlsFor> }
}

const FORMS =
  "'redis://host:6379', 'rediss://user:password@host/0', 'redis+sentinel://host:26379,host:26379/mymaster', 'redis+cluster://host:6379,host:6379'"

/** What is wrong with a URL. The URL itself may hold a password: it stays out of the message, and so does the cause. */
const refused = (what: string): KeepsakeError =>
  new KeepsakeError('invalid_option', `${what} Redis is named by a URL such as ${FORMS}.`)

const hostOf = (text: string, port: number): Host => {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?$/.exec(text)
  if (match === null) throw refused('One of the hosts in the URL is none.')
  return { host: (match[1] ?? match[2]) as string, port: Number(match[3] ?? port) }
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    throw refused('What the URL has before its @ is not percent-encoded.')
  }
}

const parsed = (url: string): Target => {
  const match = /^redis(s?)(?:\+(cluster|sentinel))?:\/\/(?:([^@]*)@)?([^/?#@]+)(?:\/([^?#]*))?$/.exec(url)
  if (match === null)
    throw refused('The URL cannot be read; characters such as @ and / in a password are percent-encoded.')
  const [, tls, kind = 'server', userinfo, hosts = '', path = ''] = match
  const [user = '', password] = userinfo?.split(/:(.*)/s) ?? []
  const [name, db = '', ...rest] = kind === 'sentinel' ? path.split('/') : ['', ...path.split('/')]
  if (rest.length > 0 || !/^\d{0,5}$/.test(db))
    throw refused('The path of the URL is too long, or its database is no number.')
  if (kind === 'sentinel' && !name) throw refused('The URL lacks the name of the master behind its hosts.')
  if (kind === 'cluster' && path !== '') throw refused('A cluster has no databases, and its URL has no path.')
  const all = hosts.split(',')
  if (kind === 'server' && all.length > 1) throw refused('Several hosts are a cluster, or Sentinels.')
  return {
    kind: kind as Target['kind'],
    hosts: all.map((host) => hostOf(host, kind === 'sentinel' ? 26_379 : 6_379)),
    name: decoded(name ?? ''),
    login: {
      ...(user !== '' && { username: decoded(user) }),
      ...(password !== undefined && { password: decoded(password) }),
      ...(db !== '' && { db: Number(db) }),
      ...(tls !== '' && { tls: tlsFor(all.map((host) => hostOf(host, 0).host)) }),
    },
  }
}

/**
 * Clusters and Sentinels may name their servers by address, and have no certificates for those: then one is as good that
 * is for a name in the URL.
 */
const tlsFor = (names: readonly string[]) => ({
  checkServerIdentity(host: string, certificate: PeerCertificate): Error | undefined {
    const error = checkServerIdentity(host, certificate)
    if (error === undefined || !isIP(host)) return error
    return names.some((name) => !isIP(name) && checkServerIdentity(name, certificate) === undefined) ? undefined : error
  },
})

/** In a `try`, or bundlers refuse what has no ioredis. */
const load = async () => {
  try {
    return await import('ioredis')
  } catch (error) {
    // biome-ignore lint/complexity/noUselessCatch: bundlers look for the try
    throw error
  }
}

/** Cuts a connection that was made, and is not answered: by a server that stands still, or is none of Redis. */
const cutUnanswered = (redis: Redis, milliseconds: number): void => {
  redis.on('connect', () => {
    const { stream } = redis
    const timer = setTimeout(async () => {
      await turn()
      if (redis.status === 'connect' && redis.stream === stream) stream.destroy(new Error('it does not answer'))
    }, milliseconds)
    const done = () => {
      clearTimeout(timer)
      redis.off('ready', done).off('close', done)
    }
    redis.on('ready', done).on('close', done)
  })
}

/** A cluster asks what it is by copies of its connections, and drops why they failed: a certificate, say. */
const tellErrors = (cluster: Cluster, node: Redis): void => {
  const { duplicate } = node
  node.duplicate = (options) => duplicate.call(node, options).on('error', (error) => cluster.emit('node error', error))
}

/** Sentinels may not know yet of the last failover: behind them, the role of a server is asked for, where that is allowed. */
const quietInfo = (redis: Redis): void => {
  const { info } = redis
  const quiet = async (...args: string[]): Promise<string> => {
    try {
      return await (info as (...args: string[]) => Promise<string>).apply(redis, args)
    } catch (error) {
      // Of which ioredis would print a line.
      if (messageOf(error).includes('NOPERM')) return ''
      throw error
    }
  }
  redis.info = ((...args: unknown[]) => {
    const callback = args.at(-1)
    if (typeof callback !== 'function') return quiet(...(args as string[]))
    const asked = quiet(...(args.slice(0, -1) as string[]))
    asked.then(
      (text) => callback(null, text),
      (error) => callback(error),
    )
    return asked
  }) as typeof redis.info
}

/**
 * A driver that connects when it is first used.
 *
 * @param budget milliseconds that a visit may wait
 * @throws KeepsakeError `invalid_option` where the URL cannot be read, `unknown_backend` where `ioredis` is not installed
 */
export const driverOfUrl = async (url: string, storeTimeout: number): Promise<Driver & { close(): void }> => {
  const { kind, hosts, name, login } = parsed(url)
  const { Redis, Cluster } = await importDriver('ioredis', load)
  const { handshake, ...patience } = patienceOf(storeTimeout)
  const server = { ...serverOptions(handshake), ...login }
  const followed = (redis: Redis) => {
    cutUnanswered(redis, handshake)
    return redis
  }
  const clustered = () => {
    const cluster = new Cluster([...hosts], { ...clusterOptions(handshake), redisOptions: server })
    return cluster.on('+node', (node: Redis) => tellErrors(cluster, followed(node)))
  }
  const behindSentinels = () => {
    const sentinelTLS = login.tls && { enableTLSForSentinelMode: true, sentinelTLS: login.tls }
    const redis = new Redis({ ...server, sentinels: [...hosts], name, enableReadyCheck: true, ...sentinelTLS })
    quietInfo(redis)
    return followed(redis)
  }
  const client =
    kind === 'cluster'
      ? clustered()
      : kind === 'sentinel'
        ? behindSentinels()
        : followed(new Redis({ ...server, ...(hosts[0] as Host) }))
  return { ...driverOf(client as RedisClient, patience), close: () => client.disconnect() }
}
