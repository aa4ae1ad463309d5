// A backend by the name of its driver and a URL, its client set up as an application would that wants calls to end.

import { type Backend, connect } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import { redisBackend } from 'keepsake/redis'

/** Milliseconds. A visit waits for 2000, so a driver that gives up later only has to free what it holds. */
const CONNECTING = 1_000
const ANSWERING = 3_000

/** Soon again, at most half a second later, and not all processes at once. */
const again = (times: number): number => Math.min(50 * times, 500) * (0.5 + Math.random() / 2)

const ioredisOptions = {
  connectTimeout: CONNECTING,
  commandTimeout: ANSWERING,
  socketTimeout: ANSWERING,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  retryStrategy: again,
  reconnectOnError: ({ message }: Error) => message.startsWith('READONLY'),
}

/** Opens a backend in a place of its own there: a table, or a prefix. */
type Opener = (url: string, place: string) => Promise<Backend>

const openers: Readonly<Record<string, Opener>> = {
  /** In the usual place, which nobody chooses in a URL. */
  connect: (url) => connect(url),
  async pg(url, table) {
    const { Pool } = await import('pg')
    const timeouts = {
      connectionTimeoutMillis: CONNECTING,
      query_timeout: ANSWERING,
      statement_timeout: ANSWERING,
    }
    const backend = postgresBackend(new Pool({ connectionString: url, ...timeouts }), { table })
    await backend.migrate()
    return backend
  },
  async 'postgres.js'(url, table) {
    const { default: postgres } = await import('postgres')
    const settings = {
      connect_timeout: CONNECTING / 1000,
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
  async mysql2(url, table) {
    const { createPool } = await import('mysql2/promise')
    const backend = mysqlBackend(createPool({ uri: url, connectTimeout: CONNECTING }), { table })
    await backend.migrate()
    return backend
  },
  async mariadb(url, table) {
    const { createPool } = await import('mariadb')
    const { hostname, port, username, password, pathname } = new URL(url)
    const pool = createPool({
      host: hostname,
      port: Number(port || 3306),
      user: decodeURIComponent(username),
      password: decodeURIComponent(password),
      database: pathname.slice(1),
      connectTimeout: CONNECTING,
      acquireTimeout: CONNECTING,
      initializationTimeout: CONNECTING,
      socketTimeout: ANSWERING,
    })
    const backend = mysqlBackend(pool, { table })
    await backend.migrate()
    return backend
  },
  async ioredis(url, prefix) {
    const { Redis } = await import('ioredis')
    const client = new Redis(url, { ...ioredisOptions, lazyConnect: true })
    await client.connect()
    return redisBackend(client, { prefix })
  },
  async 'node-redis'(url, prefix) {
    const { createClient } = await import('redis')
    const socket = { connectTimeout: CONNECTING, socketTimeout: ANSWERING, reconnectStrategy: again }
    const client = createClient({ url, disableOfflineQueue: true, pingInterval: CONNECTING, socket })
    // Before it connects, because it tells nobody else of its failures.
    const backend = redisBackend(client, { prefix })
    await client.connect()
    return backend
  },
  /** A URL for one of its servers. */
  async 'ioredis cluster'(url, prefix) {
    const { Cluster } = await import('ioredis')
    const client = new Cluster([url], { lazyConnect: true, redisOptions: ioredisOptions })
    await client.connect()
    return redisBackend(client, { prefix })
  },
}

export const opened = async (driver: string, url: string, place: string): Promise<Backend> => {
  const open = openers[driver]
  if (open === undefined) throw new Error(`There is no driver ${driver}.`)
  return open(url, place)
}
