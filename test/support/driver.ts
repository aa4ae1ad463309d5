// Opens a backend by the name of its driver and a URL, with short or with long timeouts of its client.

import { type Backend, backendFromUrl } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import { redisBackend } from 'keepsake/redis'
import { retryIfStalled } from './lost.ts'

/** Milliseconds after which a client gives up. */
type Timeouts = { readonly connecting: number; readonly answering: number }

/** A request waits for two seconds, so after that a driver only needs to release its resources. */
export const SHORT: Timeouts = { connecting: 1_000, answering: 3_000 }
/** For tests that are not about timeouts, because the machine may stall. */
export const LONG: Timeouts = { connecting: 120_000, answering: 120_000 }

/** Milliseconds until the next attempt to connect: at most half a second, and random, so processes spread out. */
const retryDelay = (times: number): number => Math.min(50 * times, 500) * (0.5 + Math.random() / 2)

const ioredisOptions = ({ connecting, answering }: Timeouts) => ({
  connectTimeout: connecting,
  commandTimeout: answering,
  socketTimeout: answering,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  retryStrategy: retryDelay,
  reconnectOnError: ({ message }: Error) => message.startsWith('READONLY'),
})

/** Opens a backend in a given place of the server: a table, or a prefix. */
type Opener = (url: string, place: string, timeouts: Timeouts) => Promise<Backend>

const openers: Readonly<Record<string, Opener>> = {
  /** In the default place, because a URL cannot name another. */
  connect: (url) => backendFromUrl(url),
  async pg(url, table, { connecting, answering }) {
    const { Pool } = await import('pg')
    const options = {
      connectionTimeoutMillis: connecting,
      query_timeout: answering,
      statement_timeout: answering,
    }
    const backend = postgresBackend(new Pool({ connectionString: url, ...options }), { table })
    await backend.migrate()
    return backend
  },
  async 'postgres.js'(url, table, { connecting }) {
    const { default: postgres } = await import('postgres')
    const settings = {
      connect_timeout: connecting / 1000,
      // By default its delays grow to 20 seconds.
      backoff: (times: number) => retryDelay(times) / 1000,
      // Otherwise it reads the types on each new connection, and ends the process if the connection is reset then.
      fetch_types: false,
    }
    const backend = postgresBackend(postgres(url, settings as object), { table })
    await backend.migrate()
    return backend
  },
  async PGlite(_, table) {
    const { PGlite } = await import('@electric-sql/pglite')
    const backend = postgresBackend(await PGlite.create(), { table })
    await backend.migrate()
    return backend
  },
  async mysql2(url, table, { connecting }) {
    const { createPool } = await import('mysql2/promise')
    const backend = mysqlBackend(createPool({ uri: url, connectTimeout: connecting }), { table })
    await backend.migrate()
    return backend
  },
  async mariadb(url, table, { connecting, answering }) {
    const { createPool } = await import('mariadb')
    const { hostname, port, username, password, pathname } = new URL(url)
    const pool = createPool({
      host: hostname,
      port: Number(port || 3306),
      user: decodeURIComponent(username),
      password: decodeURIComponent(password),
      database: pathname.slice(1),
      connectTimeout: connecting,
      acquireTimeout: connecting,
      initializationTimeout: connecting,
      socketTimeout: answering,
    })
    const backend = mysqlBackend(pool, { table })
    await backend.migrate()
    return backend
  },
  async ioredis(url, prefix, timeouts) {
    const { Redis } = await import('ioredis')
    const client = new Redis(url, { ...ioredisOptions(timeouts), lazyConnect: true })
    await client.connect()
    return redisBackend(client, { prefix })
  },
  async 'node-redis'(url, prefix, { connecting, answering }) {
    const { createClient } = await import('redis')
    const socket = { connectTimeout: connecting, socketTimeout: answering, reconnectStrategy: retryDelay }
    const client = createClient({ url, disableOfflineQueue: true, pingInterval: connecting, socket })
    // Before it connects, because without a listener for `error` a failure ends the process.
    const backend = redisBackend(client, { prefix })
    await client.connect()
    return backend
  },
  /** The URL is that of one of its servers. */
  async 'ioredis cluster'(url, prefix, timeouts) {
    const { Cluster } = await import('ioredis')
    const client = new Cluster([url], { lazyConnect: true, redisOptions: ioredisOptions(timeouts) })
    await client.connect()
    return redisBackend(client, { prefix })
  },
}

export const openBackend = async (driver: string, url: string, place: string, timeouts = LONG): Promise<Backend> => {
  const open = openers[driver]
  if (open === undefined) throw new Error(`There is no driver ${driver}.`)
  return retryIfStalled(() => open(url, place, timeouts))
}

/** Opens a backend on a cluster, whose logins and logouts wait up to a minute for a replica. */
export const patientCluster = async (url: string): Promise<Backend> => {
  const { Cluster } = await import('ioredis')
  const hosts = url.replace(/^.*\/\//, '').split(',')
  const redisOptions = { connectTimeout: LONG.connecting }
  const client = new Cluster(
    hosts.map((host) => `redis://${host}`),
    { slotsRefreshTimeout: LONG.connecting, redisOptions },
  )
  const backend = redisBackend(client, { waitReplicas: 1, waitTimeout: 60 })
  return {
    ...backend,
    async close() {
      await backend.close?.()
      client.disconnect()
    },
  }
}
