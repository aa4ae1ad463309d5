// A Redis client of our own, from a URL: it fails fast, recovers by itself, and sends nothing twice.

import type { Cluster, ClusterOptions, Redis, RedisOptions as ServerOptions } from 'ioredis'
import { Fault } from '../outcome.ts'
import { type Driver, driverOf, type RedisClient } from './redis-client.ts'

/** Milliseconds until a server that does not answer counts as failed; a visit may spend 2000. */
const CONNECTING = 500
const ANSWERING = 1_000
/** And until its connection is given up. */
const SILENT = 2_000

/** Tries again soon, at most half a second later, and not all processes at once. */
const retry = (times: number): number => Math.min(50 * times, 500) * (0.5 + Math.random() / 2)

const server = {
  lazyConnect: true,
  connectTimeout: CONNECTING,
  commandTimeout: ANSWERING,
  socketTimeout: SILENT,
  // A queue would carry a write out that its caller was told had failed.
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  enableAutoPipelining: true,
  retryStrategy: retry,
  sentinelRetryStrategy: retry,
  // A master that became a replica refused the command: it is asked for again where the master is now.
  reconnectOnError: (error: Error) => (error.message.startsWith('READONLY') ? 2 : false),
} satisfies ServerOptions

const cluster = {
  lazyConnect: true,
  enableOfflineQueue: false,
  enableAutoPipelining: true,
  clusterRetryStrategy: retry,
  slotsRefreshTimeout: CONNECTING,
} satisfies ClusterOptions

type Host = { readonly host: string; readonly port: number }
type Target = {
  readonly kind: 'server' | 'sentinel' | 'cluster'
  readonly hosts: readonly Host[]
  /** Of Sentinels: what they call the master. */
  readonly name: string
  readonly login: { username?: string; password?: string; db?: number; tls?: object }
}

const FORMS =
  "'redis://host:6379', 'rediss://user:password@host/0', 'redis+sentinel://host:26379,host:26379/mymaster', 'redis+cluster://host:6379,host:6379'"

/** What is wrong with a URL. The URL itself may hold a password: it stays out of the message, and so does the cause. */
const refused = (what: string): Fault => new Fault('bad_option', `${what} Redis is named by a URL such as ${FORMS}.`)

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
      ...(tls !== '' && { tls: {} }),
    },
  }
}

const ioredis = async () => {
  try {
    return await import('ioredis')
  } catch (error) {
    if (!String((error as { code?: unknown }).code).endsWith('MODULE_NOT_FOUND')) throw error
    throw new Fault('no_backend', 'The backend of this URL needs the package ioredis: npm install ioredis')
  }
}

/** What went wrong, in words: an error of the driver may hold the login. */
const why = (error: unknown): string => {
  const { lastNodeError, message } = (error ?? {}) as { lastNodeError?: Error; message?: string }
  return lastNodeError?.message ?? message ?? 'it does not answer'
}

/**
 * Waits for a client that is connecting, but not long; and not at all for one that is between two tries. All who come
 * meanwhile wait together.
 */
const readiness = (client: Redis | Cluster): (() => Promise<void>) => {
  let last: unknown
  let opening: Promise<void> | undefined
  client.on('error', (error) => {
    last = error
  })
  client.on('ready', () => {
    last = undefined
  })
  const outcome = () =>
    new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer)
        client.off('ready', done).off('close', done)
        resolve()
      }
      const timer = setTimeout(done, CONNECTING)
      client.on('ready', done).on('close', done)
      // It tells how it failed by its state, and goes on trying.
      if (client.status === 'wait') client.connect().catch(() => {})
    })
  return async () => {
    if (['wait', 'connecting', 'connect'].includes(client.status)) {
      opening ??= outcome().finally(() => {
        opening = undefined
      })
      await opening
    }
    if (client.status !== 'ready') throw new Error(`Redis cannot be reached: ${why(last)}.`)
  }
}

/**
 * A driver that connects when it is first used.
 *
 * @throws Fault `bad_option` where the URL cannot be read, `no_backend` where `ioredis` is not installed
 */
export const driverOfUrl = async (url: string): Promise<Driver & { close(): void }> => {
  const { kind, hosts, name, login } = parsed(url)
  const { Redis, Cluster } = await ioredis()
  const client =
    kind === 'cluster'
      ? new Cluster([...hosts], { ...cluster, redisOptions: { ...server, ...login } })
      : kind === 'sentinel'
        ? new Redis({
            ...server,
            ...login,
            sentinels: [...hosts],
            name,
            sentinelCommandTimeout: CONNECTING,
            ...(login.tls && { enableTLSForSentinelMode: true, sentinelTLS: login.tls }),
          })
        : new Redis({ ...server, ...login, ...(hosts[0] as Host) })
  const driver = driverOf(client as RedisClient)
  const ready = readiness(client)
  const { masters } = driver
  return {
    ...driver,
    async send(command) {
      if (client.status !== 'ready') await ready()
      return driver.send(command)
    },
    ...(masters && {
      async masters() {
        if (client.status !== 'ready') await ready()
        return masters()
      },
    }),
    close: () => client.disconnect(),
  }
}
