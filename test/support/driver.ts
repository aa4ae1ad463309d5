// A backend by the name of its driver and a URL, its client set up to end calls soon, or to wait as long as it takes.

import { type Backend, backendFromUrl } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import { redisBackend } from 'keepsake/redis'
import { allowing } from './lost.ts'

/** Milliseconds after which a client gives up. */
type Patience = { readonly connecting: number; readonly answering: number }

/** A visit waits for two seconds, so a driver that gives up later only has to free what it holds. */
export const HASTY: Patience = { connecting: 1_000, answering: 3_000 }
/** For tests that are not about that: their machine may stand still. */
export const LASTING: Patience = { connecting: 120_000, answering: 120_000 }

/** Soon again, at most half a second later, and not all processes at once. */
const again = (times: number): number => Math.min(50 * times, 500) * (0.5 + Math.random() / 2)

const ioredisOptions = ({ connecting, answering }: Patience) => ({
  connectTimeout: connecting,
  commandTimeout: answering,
  socketTimeout: answering,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  retryStrategy: again,
  reconnectOnError: ({ message }: Error) => message.startsWith('READONLY'),
})

/** Opens a backend in a place of its own there: a table, or a prefix. */
type Opener = (url: string, place: string, patience: Patience) => Promise<Backend>

const openers: Readonly<Record<string, Opener>> = {
  /** In the usual place, which nobody chooses in a URL. */
  connect: (url) => backendFromUrl(url),
  async pg(url, table, { connecting, answering }) {
    const { Pool } = await import('pg')
    const timeouts = {
      connectionTimeoutMillis: connecting,
      query_timeout: answering,
      statement_timeout: answering,
    }
    const backend = postgresBackend(new Pool({ connectionString: url, ...timeouts }), { table })
    await backend.migrate()
    return backend
  },
  async 'postgres.js'(url, table, { connecting }) {
    const { default: postgres } = await import('postgres')
    const settings = {
      connect_timeout: connecting / 1000,
      // Its own waits grow to 20 seconds.
      backoff: (times: number) => again(times) / 1000,
      // Else it asks for them on each new connection, and ends the process when that one is reset meanwhile.
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
  async ioredis(url, prefix, patience) {
    const { Redis } = await import('ioredis')
    const client = new Redis(url, { ...ioredisOptions(patience), lazyConnect: true })
    await client.connect()
    return redisBackend(client, { prefix })
  },
  async 'node-redis'(url, prefix, { connecting, answering }) {
    const { createClient } = await import('redis')
    const socket = { connectTimeout: connecting, socketTimeout: answering, reconnectStrategy: again }
    const client = createClient({ url, disableOfflineQueue: true, pingInterval: connecting, socket })
    // Before it connects, because it tells nobody else of its failures.
    const backend = redisBackend(client, { prefix })
    await client.connect()
    return backend
  },
  /** A URL for one of its servers. */
  async 'ioredis cluster'(url, prefix, patience) {
    const { Cluster } = await import('ioredis')
    const client = new Cluster([url], { lazyConnect: true, redisOptions: ioredisOptions(patience) })
    await client.connect()
    return redisBackend(client, { prefix })
  },
}

export const opened = async (driver: string, url: string, place: string, patience = LASTING): Promise<Backend> => {
  const open = openers[driver]
  if (open === undefined) throw new Error(`There is no driver ${driver}.`)
  return allowing(() => open(url, place, patience))
}

/** A cluster at a URL whose logins and logouts wait for a replica, however long it takes. */
export const patientCluster = async (url: string): Promise<Backend> => {
  const { Cluster } = await import('ioredis')
  const hosts = url.replace(/^.*\/\//, '').split(',')
  const redisOptions = { connectTimeout: LASTING.connecting }
  const client = new Cluster(
    hosts.map((host) => `redis://${host}`),
    { slotsRefreshTimeout: LASTING.connecting, redisOptions },
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
