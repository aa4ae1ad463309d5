// One interface to a SQLite database that node:sqlite, bun:sqlite, better-sqlite3 or libsql has opened.

import { KeepsakeError } from '../../error.ts'

/** An open database of `node:sqlite`, `bun:sqlite`, better-sqlite3 or libsql: the part that keepsake uses. */
export type SqliteDatabase = {
  exec(sql: string): unknown
  prepare(sql: string): {
    get(...values: never[]): unknown
    all(...values: never[]): unknown
    run(...values: never[]): { readonly changes: number | bigint }
  }
  /** Whether a transaction is open, in `bun:sqlite`, better-sqlite3 and libsql. */
  readonly inTransaction?: boolean
  /** Whether a transaction is open, in `node:sqlite`. */
  readonly isTransaction?: boolean
  /** Whether the database is open, in better-sqlite3 and libsql. */
  readonly open?: unknown
  /** Whether the database is open, in `node:sqlite`. */
  readonly isOpen?: boolean
  /** Only libsql has it: it tells a database of libsql from the others. */
  sync?(): unknown
}

export type Value = string | number | null | Uint8Array

/** Numbers in rows may be bigints: that is an option of the application's database. */
export type PreparedRead = {
  get(...values: readonly Value[]): unknown
  all(...values: readonly Value[]): unknown
}

/** A statement that returns rows, as arrays: they cost half of the time of objects. */
export const prepareRead = (database: SqliteDatabase, sql: string): PreparedRead => {
  const statement = database.prepare(sql) as unknown as PreparedRead & {
    setReturnArrays?(on: boolean): void
    raw?(on: boolean): void
    values?(...values: readonly Value[]): readonly unknown[]
  }
  if (statement.setReturnArrays) {
    statement.setReturnArrays(true)
    return statement
  }
  // Only bun:sqlite has it. Its `raw` is something else.
  if (statement.values) {
    const all: PreparedRead['all'] = (...values) => statement.values?.(...values)
    return { get: (...values) => (all(...values) as readonly unknown[])[0], all }
  }
  statement.raw?.(true)
  // One array for all values, because libsql takes a single buffer for an object of named values.
  return { get: (...values) => statement.get(values as never), all: (...values) => statement.all(values as never) }
}

/** A statement that changes rows. */
export type PreparedWrite = { run(...values: readonly Value[]): { readonly changes: number | bigint } }

export const prepareWrite = (database: SqliteDatabase, sql: string): PreparedWrite => {
  const statement = database.prepare(sql) as unknown as PreparedWrite & { setReturnArrays?: unknown }
  if (statement.setReturnArrays) return statement
  const run: PreparedWrite['run'] = (...values) => statement.run(values as never)
  return { run: database.sync ? (...values) => inTransaction(database, () => run(...values)) : run }
}

/*
 * libsql leaves a statement in progress that found the database busy (libsql-js, pull request 238; still so in 0.5.29). While
 * it is in progress, SQLite does not commit the statements that follow: they succeed, other connections see nothing of them,
 * and they are rolled back in the end. A transaction is committed, or its `commit` throws.
 */
const inTransaction = <T>(database: SqliteDatabase, work: () => T): T => {
  database.exec('begin immediate')
  try {
    const result = work()
    database.exec('commit')
    return result
  } catch (error) {
    if (database.inTransaction) database.exec('rollback')
    throw error
  }
}

/** Whether a driver's error has this number, or this name if it has no number. */
const hasCode = (error: unknown, number: number, name: string): boolean => {
  const { errcode, rawCode = errcode, code } = (error ?? {}) as { errcode?: unknown; rawCode?: unknown; code?: unknown }
  return typeof rawCode === 'number' ? rawCode % 256 === number : String(code).startsWith(name)
}

/** SQLITE_BUSY and its variants, from any of the drivers: another connection writes. */
export const isBusy = (error: unknown): boolean => hasCode(error, 5, 'SQLITE_BUSY')

/** SQLITE_FULL: the disk is full, or the file has reached its greatest size. The statement changed nothing. */
export const isFull = (error: unknown): boolean => hasCode(error, 13, 'SQLITE_FULL')

/** The message of the error that `assertNoTransaction` throws. The queue recognises the error by it. */
export const IN_TRANSACTION =
  'The SQLite database has a transaction of the application open, and a rollback would undo the writes of sessions. Nothing was changed. Use a separate connection for sessions, or await nothing inside a transaction.'

/**
 * The application must have no transaction open, because its rollback would undo the writes of sessions too.
 *
 * @throws KeepsakeError `unavailable`, also if the database is closed: libsql ends the process if a closed one is used
 */
export const assertNoTransaction = (database: SqliteDatabase): void => {
  if (database.open === false || database.isOpen === false) {
    throw new KeepsakeError('unavailable', 'The application closed the SQLite database. Pass one that is open.')
  }
  if (database.inTransaction ?? database.isTransaction) throw new KeepsakeError('unavailable', IN_TRANSACTION)
}
