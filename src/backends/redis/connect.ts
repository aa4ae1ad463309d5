// The driver on a Redis URL: keepsake opens the client, which fails fast, reconnects by itself, and sends nothing twice.

import { isIP } from 'node:net'
import { checkServerIdentity, type PeerCertificate } from 'node:tls'
import type { Cluster, ClusterOptions, Redis, RedisOptions as ServerOptions } from 'ioredis'
import { KeepsakeError, messageOf } from '../../error.ts'
import { importDriver } from '../../packages.ts'
import { driverOf, type RedisClient } from './client.ts'
import { nextTurn } from './client-state.ts'
import type { Driver } from './driver.ts'

/** Milliseconds until the next attempt to connect: soon, at most half a second, and random, so processes spread out. */
const retryDelay = (times: number): number => Math.min(50 * times, 500) * (0.5 + Math.random() / 2)

/** Milliseconds: a server always has at least this long to answer before its connection is cut. */
const MIN_SILENCE = 5_000
/** Milliseconds: a server always has at least this long to accept a connection. */
const MIN_HANDSHAKE = 2_000

/** The client's timeouts for a request that waits `storeTimeout` milliseconds: the client must not give up earlier. */
const timeoutsFor = (storeTimeout: number) => ({
  connecting: 0.75 * storeTimeout,
  silence: Math.max(MIN_SILENCE, Math.min(2.5 * storeTimeout, storeTimeout + 30_000)),
  handshake: Math.max(MIN_HANDSHAKE, storeTimeout),
})

const serverOptions = (handshake: number) =>
  ({
    lazyConnect: true,
    // No commandTimeout and no socketTimeout: the request has its own limit, and `cutIfSilent` cuts dead connections.
    connectTimeout: handshake,
    // A queue would carry out a write after its caller received an error.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableAutoPipelining: true,
    // The check uses INFO, and ioredis prints a line if the user may not. A server that is loading answers LOADING
    // anyway.
    enableReadyCheck: false,
    retryStrategy: retryDelay,
    sentinelRetryStrategy: retryDelay,
    sentinelCommandTimeout: handshake,
    // The master became a replica: the next connection goes to the new master.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  }) satisfies ServerOptions

const clusterOptions = (handshake: number) =>
  ({
    lazyConnect: true,
    enableOfflineQueue: false,
    enableAutoPipelining: true,
    enableReadyCheck: false,
    clusterRetryStrategy: retryDelay,
    slotsRefreshTimeout: handshake,
    // With a delay, ioredis would resend commands that the server may have carried out.
    retryDelayOnFailover: 0,
    // A certificate is for a name, so a looked-up address would not match it.
    dnsLookup: (name, callback) => callback(null, name),
  }) satisfies ClusterOptions

type Host = { readonly host: string; readonly port: number }
type Target = {
  readonly kind: 'server' | 'sentinel' | 'cluster'
  readonly hosts: readonly Host[]
  /** Only for Sentinels: their name for the master. */
  readonly name: string
  readonly login: { username?: string; password?: string; db?: number; tls?: ReturnType<typeof tlsFor> }
}

const EXAMPLES =
  "'redis://host:6379', 'rediss://user:password@host/0', 'redis+sentinel://host:26379,host:26379/mymaster', 'redis+cluster://host:6379,host:6379'"

/** The message never contains the URL, because the URL may contain a password. For the same reason there is no cause. */
const urlError = (problem: string): KeepsakeError =>
  new KeepsakeError('invalid_option', `${problem} Use a URL such as ${EXAMPLES}.`)

const parseHost = (text: string, port: number): Host => {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?$/.exec(text)
  if (match === null) throw urlError('A host in the Redis URL is invalid.')
  return { host: (match[1] ?? match[2]) as string, port: Number(match[3] ?? port) }
}

const decode = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    throw urlError('The user, the password or the name in the Redis URL is not percent-encoded.')
  }
}

const parseUrl = (url: string): Target => {
  const match = /^redis(s?)(?:\+(cluster|sentinel))?:\/\/(?:([^@]*)@)?([^/?#@]+)(?:\/([^?#]*))?$/.exec(url)
  if (match === null) {
    throw urlError('The Redis URL is invalid. In a password, characters such as @ and / must be percent-encoded.')
  }
  const [, tls, kind = 'server', userinfo, hosts = '', path = ''] = match
  const [user = '', password] = userinfo?.split(/:(.*)/s) ?? []
  const [name, db = '', ...rest] = kind === 'sentinel' ? path.split('/') : ['', ...path.split('/')]
  if (rest.length > 0 || !/^\d{0,5}$/.test(db)) {
    throw urlError('The path of the Redis URL is too long, or its database is not a number.')
  }
  if (kind === 'sentinel' && !name) throw urlError('The Redis URL has no name of a master after its Sentinels.')
  if (kind === 'cluster' && path !== '')
    throw urlError('The URL of a Redis Cluster has a path. A cluster has no databases, so remove the path.')
  const all = hosts.split(',')
  if (kind === 'server' && all.length > 1)
    throw urlError(
      'The URL of a single Redis server has several hosts. For several hosts, use redis+cluster or redis+sentinel.',
    )
  return {
    kind: kind as Target['kind'],
    hosts: all.map((host) => parseHost(host, kind === 'sentinel' ? 26_379 : 6_379)),
    name: decode(name ?? ''),
    login: {
      ...(user !== '' && { username: decode(user) }),
      ...(password !== undefined && { password: decode(password) }),
      ...(db !== '' && { db: Number(db) }),
      ...(tls !== '' && { tls: tlsFor(all.map((host) => parseHost(host, 0).host)) }),
    },
  }
}

/**
 * Clusters and Sentinels may name their servers by address, although the certificates are for names. For an address, a
 * certificate is also accepted if it is for a name in the URL.
 */
const tlsFor = (names: readonly string[]) => ({
  checkServerIdentity(host: string, certificate: PeerCertificate): Error | undefined {
    const error = checkServerIdentity(host, certificate)
    if (error === undefined || !isIP(host)) return error
    return names.some((name) => !isIP(name) && checkServerIdentity(name, certificate) === undefined) ? undefined : error
  },
})

/** In a `try`: without it, bundlers refuse an application that has not installed ioredis. */
const loadIoredis = async () => {
  try {
    return await import('ioredis')
  } catch (error) {
    // biome-ignore lint/complexity/noUselessCatch: bundlers require the try
    throw error
  }
}

/** Cuts a new connection on which no answer comes: the server is suspended, or is not a Redis server. */
const limitHandshake = (redis: Redis, milliseconds: number): void => {
  redis.on('connect', () => {
    const { stream } = redis
    const timer = setTimeout(async () => {
      await nextTurn()
      if (redis.status === 'connect' && redis.stream === stream) stream.destroy(new Error('the server does not answer'))
    }, milliseconds)
    const stop = () => {
      clearTimeout(timer)
      redis.off('ready', stop).off('close', stop)
    }
    redis.on('ready', stop).on('close', stop)
  })
}

/**
 * ioredis reads the slots of a cluster over duplicates of its connections, and drops their errors, for example that of a
 * certificate. This emits them on the cluster.
 */
const emitNodeErrors = (cluster: Cluster, node: Redis): void => {
  const { duplicate } = node
  node.duplicate = (options) => duplicate.call(node, options).on('error', (error) => cluster.emit('node error', error))
}

/**
 * Shortly after a failover, Sentinels may still name the old master, so ioredis asks a server for its role by INFO. A
 * user who may not use INFO gets an empty answer here, because ioredis would print a line for the error.
 */
const allowForbiddenInfo = (redis: Redis): void => {
  const { info } = redis
  const infoOrEmpty = async (...args: string[]): Promise<string> => {
    try {
      return await (info as (...args: string[]) => Promise<string>).apply(redis, args)
    } catch (error) {
      if (messageOf(error).includes('NOPERM')) return ''
      throw error
    }
  }
  redis.info = ((...args: unknown[]) => {
    const callback = args.at(-1)
    if (typeof callback !== 'function') return infoOrEmpty(...(args as string[]))
    const answer = infoOrEmpty(...(args.slice(0, -1) as string[]))
    answer.then(
      (text) => callback(null, text),
      (error) => callback(error),
    )
    return answer
  }) as typeof redis.info
}

/**
 * Returns a driver that connects when it is first used.
 *
 * @param storeTimeout milliseconds that a request waits for Redis
 * @throws KeepsakeError `invalid_option` if the URL is invalid, `unknown_backend` if `ioredis` is not installed
 */
export const driverFromUrl = async (url: string, storeTimeout: number): Promise<Driver & { close(): void }> => {
  const { kind, hosts, name, login } = parseUrl(url)
  const { Redis, Cluster } = await importDriver('ioredis', loadIoredis)
  const { handshake, ...timeouts } = timeoutsFor(storeTimeout)
  const server = { ...serverOptions(handshake), ...login }
  const withHandshakeLimit = (redis: Redis) => {
    limitHandshake(redis, handshake)
    return redis
  }
  const openCluster = () => {
    const cluster = new Cluster([...hosts], { ...clusterOptions(handshake), redisOptions: server })
    return cluster.on('+node', (node: Redis) => emitNodeErrors(cluster, withHandshakeLimit(node)))
  }
  const openBehindSentinels = () => {
    const sentinelTLS = login.tls && { enableTLSForSentinelMode: true, sentinelTLS: login.tls }
    const redis = new Redis({ ...server, sentinels: [...hosts], name, enableReadyCheck: true, ...sentinelTLS })
    allowForbiddenInfo(redis)
    return withHandshakeLimit(redis)
  }
  const client =
    kind === 'cluster'
      ? openCluster()
      : kind === 'sentinel'
        ? openBehindSentinels()
        : withHandshakeLimit(new Redis({ ...server, ...(hosts[0] as Host) }))
  return { ...driverOf(client as RedisClient, timeouts), close: () => client.disconnect() }
}
