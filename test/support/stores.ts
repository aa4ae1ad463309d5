// The backends that store entries: each with a function that opens handles on a fresh store.

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type Backend, backendFromUrl } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import { PATIENT } from './clock.ts'
import { folder } from './folder.ts'
import { mariadbServer } from './mariadb-server.ts'
import { postgresServer } from './postgres-server.ts'
import { QUICK } from './quick.ts'
import { redisStores } from './redis-stores.ts'

export type Store = {
  readonly name: string
  /** Opens handles on one fresh store: the same handle again if the store can have only one. */
  readonly opener: (t: TestContext) => () => Promise<Backend>
  /** The store is a server, so tests that run a thousand times on others run a few times on it. */
  readonly far?: true
}

const memory: Store = {
  name: 'memory',
  opener: () => {
    const backend = backendFromUrl('memory:')
    return () => backend
  },
}

/** A store that several handles open by its path. */
const onDisk = (name: string): Store => ({
  name,
  opener: (t) => {
    const path = join(folder(t), 'sessions')
    return async () => {
      const backend = await backendFromUrl(`${name}:${path}`)
      t.after(() => backend.close?.())
      return backend
    }
  },
})

/** Calls `make` once, and returns the same promise from then on. */
const once = <T>(make: () => Promise<T>): (() => Promise<T>) => {
  let promise: Promise<T> | undefined
  return () => {
    promise ??= make()
    return promise
  }
}

const closers = new WeakMap<TestContext, (() => unknown)[]>()

/** Closes this after the test, in the reverse order of opening. */
export const closing = (t: TestContext, close: () => unknown): void => {
  const stack = closers.get(t) ?? []
  if (stack.length === 0) {
    closers.set(t, stack)
    t.after(async () => {
      for (const one of stack.reverse()) await one()
    })
  }
  stack.push(close)
}

/** The URL of a database: from the environment, or of a server that this process starts at its first use. */
export const postgresUrl = once(async () => process.env.TEST_POSTGRES_URL ?? (await postgresServer()).url)
export const mysqlUrl = once(async () => process.env.TEST_MYSQL_URL ?? (await mariadbServer()).url)

export const freshTable = (): string => `keepsake_${randomBytes(8).toString('hex')}`

/** The name of a fresh table that `pool` drops after the test. */
export const tableFor = (t: TestContext, pool: { query(sql: string): unknown }): string => {
  const table = freshTable()
  closing(t, () => pool.query(`drop table if exists ${table}`))
  return table
}

type Opened = {
  readonly backend: ReturnType<typeof postgresBackend>
  readonly drop: (sql: string) => PromiseLike<unknown>
  readonly close: () => unknown
}

/** A store in a fresh table, with a client for each handle. */
const inTable = (name: string, connected: (table: string) => Promise<Opened>): Store => ({
  name,
  far: true,
  opener: (t) => {
    const table = freshTable()
    let dropped = false
    return async () => {
      const { backend, drop, close } = await connected(table)
      t.after(async () => {
        // The server may belong to somebody, so the table is removed.
        if (!dropped) await drop(`drop table ${table}`)
        dropped = true
        await close()
      })
      await backend.migrate()
      return backend
    }
  },
})

const pg = inTable('postgres (pg)', async (table) => {
  const { Pool } = await import('pg')
  const pool = new Pool({ connectionString: await postgresUrl() })
  return { backend: postgresBackend(pool, { table }), drop: (sql) => pool.query(sql), close: () => pool.end() }
})

const postgresJs = inTable('postgres (postgres.js)', async (table) => {
  const { default: postgres } = await import('postgres')
  const sql = postgres(await postgresUrl())
  return { backend: postgresBackend(sql, { table }), drop: (text) => sql.unsafe(text), close: () => sql.end() }
})

const lite = once(async () => {
  const { PGlite } = await import('@electric-sql/pglite')
  return PGlite.create()
})
const pglite = inTable('postgres (PGlite)', async (table) => {
  const database = await lite()
  return { backend: postgresBackend(database, { table }), drop: (sql) => database.query(sql), close: () => {} }
})

const mysql2 = inTable('mysql (mysql2)', async (table) => {
  const { createPool } = await import('mysql2/promise')
  const pool = createPool({ uri: await mysqlUrl(), connectTimeout: PATIENT * 1000 })
  return { backend: mysqlBackend(pool, { table }), drop: (sql) => pool.query(sql), close: () => pool.end() }
})

const mariadb = inTable('mysql (mariadb)', async (table) => {
  const { createPool } = await import('mariadb')
  const url = new URL((await mysqlUrl()).replace(/^mysql:/, 'mariadb:'))
  // The defaults of the driver are one second and ten.
  for (const wait of ['connectTimeout', 'acquireTimeout', 'initializationTimeout']) {
    url.searchParams.set(wait, String(PATIENT * 1000))
  }
  const pool = createPool(url.href)
  return { backend: mysqlBackend(pool, { table }), drop: (sql) => pool.query(sql), close: () => pool.end() }
})

const near = [memory, onDisk('sqlite'), onDisk('file')]

/** One store for each database and each driver. */
export const stores: readonly Store[] = QUICK ? near : [...near, pg, postgresJs, mysql2, mariadb, ...redisStores]

/** The same, and PGlite: PostgreSQL in this process, which takes seconds and 800 MB to start. */
export const everyStore: readonly Store[] = QUICK ? near : [...stores, pglite]
