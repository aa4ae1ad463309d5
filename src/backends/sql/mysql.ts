// Sessions in MariaDB or MySQL: one InnoDB table and prepared statements, with the drivers mysql2 or mariadb.

import { checkOptionNames, KeepsakeError } from '../../error.ts'
import { importDriver } from '../../packages.ts'
import type { Mark } from '../contract.ts'
import { withAutoMigrate } from './auto-migrate.ts'
import { fromUrl, withConnections } from './connection-url.ts'
import { ignoreErrorEvents } from './driver.ts'
import { createExecutor, FIRST_STATEMENT, type MysqlClient } from './mysql-client.ts'
import type { Value } from './mysql-connection.ts'
import { explainError, isDuplicate, isForbidden, isTooLarge, isUndone } from './mysql-errors.ts'
import { isStorageKey, type Statements, statementsFor } from './mysql-statements.ts'
import { createSweep } from './mysql-sweep.ts'
import { retry } from './statement-errors.ts'
import { entryOf, keyedEntries, quoteTable, type SqlBackend, scanPage } from './table.ts'
import { ANSWER_TIMEOUT, CONNECT_TIMEOUT } from './timeouts.ts'

export type { MysqlClient } from './mysql-client.ts'

export type MysqlOptions = {
  /**
   * The name of the table, or `database.table`: letters, digits and `_`. Default `keepsake_sessions`, in the database of
   * the connection.
   */
  readonly table?: string | undefined
}

export type ConnectMysqlOptions = MysqlOptions & {
  /** The most connections that this process makes. Default: the parameter `?connections=` of the URL, otherwise 10. */
  readonly connections?: number | undefined
}

/** A text as bytes, which no character set of a connection converts. */
const bytesOf = (text: string | undefined): Buffer | null => (text === undefined ? null : Buffer.from(text))

const loadMysql2 = async () => {
  try {
    return await import('mysql2/promise')
  } catch (error) {
    // biome-ignore lint/complexity/noUselessCatch: bundlers forgive a missing package only in a try
    throw error
  }
}

const createBackend = (client: MysqlClient, options: MysqlOptions, timeout?: number): SqlBackend => {
  checkOptionNames(options, ['table'], 'A MySQL backend')
  const table = quoteTable(options.table ?? 'keepsake_sessions', '`')
  const { execute, close } = createExecutor(client, timeout)
  const executeWithRetry = async (sql: string, values: Value[], isPrepared: boolean) => {
    try {
      return await retry(() => execute(sql, values, isPrepared), isUndone)
    } catch (error) {
      if (await isTooLarge(error, values, execute)) {
        throw new KeepsakeError(
          'too_large',
          'The session is larger than the database takes. Nothing was saved. Raise its max_allowed_packet, or lower maxBytes.',
          { cause: error },
        )
      }
      throw explainError(table, error)
    }
  }
  const run = (sql: string, ...values: Value[]) => executeWithRetry(sql, values, true)
  /** For statements that contain a limit: if they were prepared, the server would keep one for each limit. */
  const runUnprepared = (sql: string, ...values: Value[]) => executeWithRetry(sql, values, false)

  const statements = statementsFor(table)
  /** Removes the rows that the values name, or replaces them by a mark. @returns the number of rows */
  const clear = async (by: Statements['clear'], mark: Mark | undefined, ...values: Value[]): Promise<number> => {
    const { affected } =
      mark === undefined
        ? await run(by.remove, ...values)
        : await run(by.mark, mark.version, mark.metadata, mark.expiresAt, ...values)
    return affected
  }
  const versionOf = async (key: string): Promise<unknown> => (await run(statements.selectVersion, key)).rows[0]?.[0]

  return {
    name: 'mysql',
    defaultPeriod: 604_800,
    async get(key) {
      const [row] = (await run(statements.select, key)).rows
      return row && entryOf(row)
    },
    async generate(key, { version, expiresAt, metadata, value, owner }) {
      try {
        await run(statements.insert, key, version, expiresAt, metadata, bytesOf(value), bytesOf(owner))
        return undefined
      } catch (error) {
        if (!isDuplicate(error)) throw error
      }
      return (await versionOf(key)) === version ? undefined : 'taken'
    },
    async set(key, { version, metadata, value, expiresAt = null }, expected) {
      const { affected } = await run(statements.update, version, metadata, bytesOf(value), expiresAt, key, expected)
      if (affected > 0) return undefined
      const found = await versionOf(key)
      if (found === undefined) return 'gone'
      return found === version ? undefined : 'stale'
    },
    async clear(key, version, mark) {
      const affected =
        version === undefined
          ? await clear(statements.clear, mark, key)
          : await clear(statements.clearVersion, mark, key, version)
      if (affected > 0 || version === undefined) return undefined
      return mark !== undefined && (await versionOf(key)) === mark.version ? undefined : 'stale'
    },
    async touch(key, expiresAt) {
      await run(statements.touch, expiresAt, key, expiresAt)
      return undefined
    },
    sweep: createSweep(statements, runUnprepared),
    async scan(cursor = '', limit) {
      const last = isStorageKey(cursor) ? cursor : ''
      return scanPage((await runUnprepared(statements.selectPage(Math.trunc(limit)), last)).rows, limit)
    },
    byOwner: {
      async list(owner) {
        return keyedEntries((await run(statements.selectOwned, bytesOf(owner))).rows)
      },
      async clear(owner, except, mark) {
        const name = bytesOf(owner)
        return except === undefined
          ? clear(statements.clearOwned, mark, name)
          : clear(statements.clearOwnedExcept, mark, name, except)
      },
    },
    schema: () => statements.schema,
    async migrate() {
      await run(statements.schema)
    },
    ...(close && { close }),
  }
}

/**
 * A backend in a table of MariaDB 10.6, MySQL 8, or newer. The application keeps its client: the backend uses it as it is,
 * and never closes it. The character set of its connections makes no difference.
 *
 * Pass a pool. No call succeeds if its statement ran in a transaction of the application, or with autocommit off:
 *
 * - A connection of a pool that is still in a transaction is ended.
 * - Beside a single connection of mysql2, the backend opens one of its own with the same configuration, at the first use.
 *   It ends with `close`, and with the application's connection.
 * - If it cannot open one, and on a connection of mariadb alone or one that a pool lent, a call fails while the
 *   application has a transaction open, and each statement costs two more. After the server has closed such a connection,
 *   all calls fail.
 *
 * The backend does not connect before its first use, and only `migrate` creates the table. Reads and writes must go to the
 * same server. If the database undoes a statement (1205, 1213), it is sent again, at most three times. The durability of
 * saves is a setting of the whole server: `innodb_flush_log_at_trx_commit`.
 *
 * Its calls throw a KeepsakeError `unavailable` if the database refused a statement, so nothing was changed; `too_large`
 * above its `max_allowed_packet`; and any other error of the driver as it is.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const mysqlBackend = (client: MysqlClient, options: MysqlOptions = {}): SqlBackend =>
  createBackend(client, options)

/** The parameters that a URL may have. mysql2 ignores any other, and prints a line to the console. */
const PARAMETERS = ['ssl', 'charset', 'compress', 'enableCleartextPlugin', 'flags', 'socketPath', 'timezone']

/** @throws KeepsakeError `invalid_option` */
const checkParameters = (url: string): void => {
  const unknown = [...(URL.parse(url)?.searchParams.keys() ?? [])].find((name) => !PARAMETERS.includes(name))
  if (unknown === undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `The URL of the database has the unknown parameter ${JSON.stringify(unknown)}. Use only connections, ${PARAMETERS.join(', ')}. For other settings, create a pool and pass it: mysqlBackend(pool).`,
  )
}

/**
 * A backend at a URL, `mysql://user:password@host/database` or `mariadb://…`, with a pool of `mysql2` of its own. At its
 * first use it connects, and creates its table if that does not exist. `close` ends its connections. While the server
 * takes no more connections, calls wait at most two seconds for those that exist.
 *
 * @throws KeepsakeError `unknown_backend` if `mysql2` is not installed, `invalid_option`
 */
export const connectMysql = async (url: string, options: ConnectMysqlOptions = {}): Promise<SqlBackend> => {
  const { connections: option, ...others } = options
  const { url: uri, connections } = withConnections(url, option)
  checkParameters(uri)
  const { createPool } = await importDriver('mysql2', loadMysql2)
  const pool = fromUrl(uri, () => createPool({ uri, connectTimeout: CONNECT_TIMEOUT, connectionLimit: connections }))
  ignoreErrorEvents(pool)
  pool.on('connection', (connection) => {
    // Its type has promises, but the object has callbacks. A connection runs its statements in order, so this one is first.
    const callbackConnection = connection as unknown as { query(sql: string, done: () => void): void }
    callbackConnection.query(FIRST_STATEMENT, () => {})
  })
  return withAutoMigrate(createBackend(pool, others, ANSWER_TIMEOUT), isForbidden, () => pool.end())
}
