// Sessions in PostgreSQL: one table, and one statement for each operation, with the drivers pg, postgres.js or PGlite.

import { checkOptionNames } from '../../error.ts'
import { importDriver } from '../../packages.ts'
import { withAutoMigrate } from './auto-migrate.ts'
import { fromUrl, withConnections } from './connection-url.ts'
import {
  createExecutor,
  type PostgresClient,
  type Statement,
  transactionNumber,
  type Value,
} from './postgres-client.ts'
import { explainError, isForbidden, isUndone } from './postgres-errors.ts'
import { statementsFor } from './postgres-statements.ts'
import { retry } from './statement-errors.ts'
import { entryOf, keyedEntries, quoteTable, type Row, type SqlBackend, scanPage } from './table.ts'
import { ANSWER_TIMEOUT, CONNECT_TIMEOUT } from './timeouts.ts'

export type { PostgresClient } from './postgres-client.ts'

export type PostgresOptions = {
  /**
   * The name of the table, or `schema.table` if the schema exists: letters, digits and `_`, in upper or lower case as
   * given. Default `keepsake_sessions`.
   */
  readonly table?: string | undefined
  /**
   * False: the backend does not prepare statements, for a PgBouncer that pools transactions and has
   * `max_prepared_statements = 0`, the default before 1.24. Default true.
   */
  readonly prepare?: boolean | undefined
}

export type ConnectPostgresOptions = PostgresOptions & {
  /** The most connections that this process makes. Default: the parameter `?connections=` of the URL, otherwise 10. */
  readonly connections?: number | undefined
}

/** Earlier than all expiries. */
const ALL_TIME = Number.MIN_SAFE_INTEGER

/** How often a statement is sent if each time another one changes the same entry concurrently. */
const TRIES = 3

const loadPg = async () => {
  try {
    return await import('pg')
  } catch (error) {
    // biome-ignore lint/complexity/noUselessCatch: bundlers forgive a missing package only in a try
    throw error
  }
}

/**
 * A backend in a table of PostgreSQL 13 or newer. The application keeps its client: the backend uses it as it is, and
 * never closes it.
 *
 * Pass a pool. No write succeeds if its statement ran in a transaction of the application:
 *
 * - A client of a pool that is still in a transaction is ended.
 * - Beside a single Client, the backend opens one connection of its own with the same configuration, at the first use. It
 *   ends with `close`, and with the application's Client.
 * - If it cannot open one, and on a client that a pool lent, a call fails while the application has a transaction open.
 * - postgres.js and PGlite do not know whether they are in a transaction. The backend checks a write by the number of its
 *   transaction, and a read returns sessions as that transaction sees them.
 *
 * The backend does not connect before its first use, and only `migrate` creates the table. Reads and writes must go to the
 * same server. If the database undoes a statement (40001, 40P01), it is sent again, at most three times. The durability of
 * saves is a setting of the role (`alter role … set synchronous_commit`) or of the table (`alter table … set unlogged`).
 *
 * Its calls throw a KeepsakeError `unavailable` if the database refused a statement, so nothing was changed, and any other
 * error of the driver as it is.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const postgresBackend = (client: PostgresClient, options: PostgresOptions = {}): SqlBackend => {
  checkOptionNames(options, ['table', 'prepare'], 'A PostgreSQL backend')
  const table = quoteTable(options.table ?? 'keepsake_sessions', '"')
  const { execute, close } = createExecutor(client, options.prepare ?? true)
  const run = async (statement: Statement, ...values: Value[]): Promise<readonly Row[]> => {
    try {
      return await retry(() => execute(statement, values), isUndone)
    } catch (error) {
      throw explainError(table, error)
    }
  }
  const statements = statementsFor(table, transactionNumber(client))
  /*
   * The end of the last batch. PostgreSQL keeps removed rows at the start of the index until a vacuum, and without this
   * start each batch would read all of them again: of a million, the last batches took three times as long as the first.
   */
  let lastEnd = ALL_TIME

  return {
    name: 'postgres',
    defaultPeriod: 604_800,
    async get(key) {
      const [row] = await run(statements.select, key)
      return row && entryOf(row)
    },
    async generate(key, { version, expiresAt, metadata, value = null, owner = null }) {
      for (let tries = 0; tries < TRIES; tries++) {
        const [row] = await run(statements.insert, key, version, expiresAt, metadata, value, owner)
        const found = row?.[0]
        if (found === version) return undefined
        if (found !== null) return 'taken'
      }
      return 'taken'
    },
    async set(key, { version, metadata, value = null, expiresAt = null }, expected) {
      for (let tries = 0; tries < TRIES; tries++) {
        const [row] = await run(statements.update, key, expected, version, metadata, value, expiresAt)
        const found = row?.[0]
        if (found === version) return undefined
        if (found === null) return 'gone'
        if (found !== expected) return 'stale'
      }
      return 'stale'
    },
    async clear(key, version, mark) {
      if (mark === undefined) {
        const [row] =
          version === undefined ? await run(statements.remove, key) : await run(statements.removeVersion, key, version)
        return version !== undefined && Number(row?.[0]) === 0 ? 'stale' : undefined
      }
      for (let tries = 0; tries < TRIES; tries++) {
        const [row] = await run(statements.mark, key, version ?? null, mark.version, mark.metadata, mark.expiresAt)
        const found = row?.[0]
        if (version === undefined || found === mark.version) return undefined
        if (found !== version) return 'stale'
      }
      return 'stale'
    },
    async touch(key, expiresAt) {
      await run(statements.touch, key, expiresAt)
      return undefined
    },
    async sweep(now, limit, removed) {
      const removeBatch = async (most: number, start: number) => {
        const [[count, end, owned] = []] = await run(statements.removeExpired, now, most, start)
        for (const [key, metadata, owner] of JSON.parse(String(owned ?? '[]'))) removed?.({ key, metadata, owner })
        return { count: Number(count), end }
      }
      const start = lastEnd
      lastEnd = ALL_TIME
      const { count, end } = await removeBatch(limit, start)
      if (count < limit) return start === ALL_TIME ? count : count + (await removeBatch(limit - count, ALL_TIME)).count
      lastEnd = limit > 0 ? Number(end) : ALL_TIME
      return count
    },
    async scan(cursor = '', limit) {
      return scanPage(await run(statements.selectPage, cursor, limit), limit)
    },
    byOwner: {
      async list(owner) {
        return keyedEntries(await run(statements.selectOwned, owner))
      },
      async clear(owner, except, mark) {
        const spared = except ?? null
        const [row] =
          mark === undefined
            ? await run(statements.removeOwned, owner, spared)
            : await run(statements.markOwned, owner, spared, mark.version, mark.metadata, mark.expiresAt)
        return Number(row?.[0])
      },
    },
    schema: () => statements.schema,
    async migrate() {
      await run(statements.migrate)
    },
    ...(close && { close }),
  }
}

/** Milliseconds. The server gives up before the driver, so that no statement runs on after its call has failed. */
const STATEMENT_TIMEOUT = 4_000

/**
 * A backend at a URL, `postgres://user:password@host/database`, with a pool of `pg` of its own. At its first use it
 * connects, and creates its table if that does not exist. `close` ends its connections. While the server takes no more
 * connections, calls wait at most two seconds for those that exist. All parameters of the URL except `connections` go to
 * `pg`.
 *
 * PgBouncer needs the setting `ignore_startup_parameters = statement_timeout`. If you cannot change it, create a pool and
 * pass it to `postgresBackend`.
 *
 * @throws KeepsakeError `unknown_backend` if `pg` is not installed, `invalid_option`
 */
export const connectPostgres = async (url: string, options: ConnectPostgresOptions = {}): Promise<SqlBackend> => {
  const { connections: option, ...others } = options
  const { url: connectionString, connections } = withConnections(url, option)
  const { Pool } = await importDriver('pg', loadPg)
  const pool = fromUrl(
    connectionString,
    () =>
      new Pool({
        connectionString,
        max: connections,
        connectionTimeoutMillis: CONNECT_TIMEOUT,
        statement_timeout: STATEMENT_TIMEOUT,
        query_timeout: ANSWER_TIMEOUT,
        keepAlive: true,
        fallback_application_name: 'keepsake',
        allowExitOnIdle: true,
      }),
  )
  return withAutoMigrate(postgresBackend(pool, others), isForbidden, () => pool.end())
}
