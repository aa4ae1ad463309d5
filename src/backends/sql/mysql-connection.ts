// Runs statements on one connection of mysql2 or mariadb, and never in a transaction of the application.

import { KeepsakeError } from '../../error.ts'
import { hasMethod, property } from './driver.ts'
import { inTransaction, undecided } from './statement-errors.ts'
import type { Row } from './table.ts'

export type Value = string | number | Uint8Array | null
type Query = { readonly sql: string; readonly rowsAsArray: true }

/** A live pool or connection of `mysql2/promise` or of `mariadb`. */
export type PromiseClient = {
  /** Runs a statement that the server prepares, once on each connection. */
  execute(query: Query, values: Value[]): PromiseLike<unknown>
  /** Runs a statement as a text that contains the values, so the server keeps nothing of it. */
  query?(query: Query, values: Value[]): PromiseLike<unknown>
}

/** A connection, from a pool or alone. */
export type Connection = PromiseClient & {
  release?(): unknown
  destroy?(): void
  /** mysql2: the connection below this object, which is the same each time that the pool lends it. */
  readonly connection?: object
  /** mariadb: the last status that the server sent. */
  readonly info?: { readonly status?: number }
}

type Result = {
  readonly rows: readonly Row[]
  readonly affected: number
  /** The status of the connection, which the server sends after a statement. mysql2 gives it only for writes. */
  readonly status: number | undefined
}
/**
 * Runs a statement.
 *
 * @param isPrepared false for a text with parts that change: the server would prepare and keep each of its forms
 */
export type Execute = (sql: string, values: Value[], isPrepared?: boolean) => Promise<Result>

/** SERVER_STATUS_IN_TRANS and SERVER_STATUS_AUTOCOMMIT. */
const IN_TRANSACTION = 1
const AUTOCOMMIT = 2

/** The reason not to use a connection with this status. Undefined if there is none, or if the status is unknown. */
export const statusError = (status: number | undefined): KeepsakeError | undefined => {
  if (status === undefined) return undefined
  if ((status & AUTOCOMMIT) === 0) {
    return new KeepsakeError(
      'unavailable',
      'The connection has autocommit off, so changes to sessions would not be committed. Nothing was changed. Run “set autocommit = 1” first on each connection of the pool.',
    )
  }
  return (status & IN_TRANSACTION) === 0 ? undefined : inTransaction()
}

/** @throws KeepsakeError `unavailable` */
export const assertStatus = (status: number | undefined): void => {
  const error = statusError(status)
  if (error !== undefined) throw error
}

/** An error of mariadb without the values of the statement, which mariadb writes into its errors: sessions are in them. */
export const withoutValues = (error: unknown): unknown => {
  const message = property(error, 'sqlMessage')
  if (typeof message !== 'string') return error
  const { code, errno, sqlState, fatal } = error as Record<string, unknown>
  return Object.assign(new Error(message), { code, errno, sqlState, fatal })
}

/** Only mariadb has `batch`. */
const isMariadb = (client: PromiseClient): boolean => hasMethod(client, 'batch')

/** Runs statements on a connection that no other call uses concurrently, or on an object that has only `execute`. */
export const executeOn = (connection: Connection): Execute => {
  const mariadb = isMariadb(connection)
  return async (sql, values, isPrepared = true) => {
    const query: Query = { sql, rowsAsArray: true }
    try {
      const answer = await (isPrepared || connection.query === undefined
        ? connection.execute(query, values)
        : connection.query(query, values))
      // mysql2 returns the result together with its columns.
      const result = mariadb ? answer : (answer as unknown[])[0]
      return {
        rows: Array.isArray(result) ? result : [],
        affected: Number(property(result, 'affectedRows') ?? 0),
        status: mariadb ? connection.info?.status : (property(result, 'serverStatus') as number | undefined),
      }
    } catch (error) {
      throw mariadb ? withoutValues(error) : error
    }
  }
}

/** The status of a connection that no other call uses concurrently. Any statement returns it; this one does nothing else. */
export const statusOf = async (connection: Connection): Promise<number | undefined> =>
  (await executeOn(connection)('do 0', [], false)).status

/**
 * The status of a connection that the application may use concurrently. mariadb keeps only the last status, which may
 * belong to a later statement already, so there the server is asked. Only MariaDB has the variable `in_transaction`.
 */
const statusOfShared = async (connection: Connection): Promise<number | undefined> => {
  if (!isMariadb(connection)) return statusOf(connection)
  const { rows } = await executeOn(connection)('select @@autocommit, @@in_transaction', [], false)
  const [[autocommit, transaction] = []] = rows
  return (Number(autocommit) === 1 ? AUTOCOMMIT : 0) | (Number(transaction) === 1 ? IN_TRANSACTION : 0)
}

/**
 * Runs statements on a single connection of the application. Its status is read before each statement, and again with a
 * statement that is sent directly after it.
 */
export const executeOnApplication = (connection: Connection): Execute => {
  const execute = executeOn(connection)
  // An object without `query` gives a status only with the result of a write.
  const readStatus = hasMethod(connection, 'query') ? () => statusOfShared(connection) : async () => undefined
  return async (sql, values, isPrepared) => {
    assertStatus(await readStatus())
    const [result, status] = await Promise.all([execute(sql, values, isPrepared), readStatus()])
    if (statusError(status ?? result.status) !== undefined) throw undecided()
    return result
  }
}
