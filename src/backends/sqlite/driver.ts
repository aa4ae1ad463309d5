// One way to speak to a SQLite database, whichever driver has opened it: node:sqlite, better-sqlite3 or libsql.

import { KeepsakeError } from '../../error.ts'

/** A live database, so far as it is used: of `node:sqlite`, of better-sqlite3, of libsql. */
export type SqliteDatabase = {
  exec(sql: string): unknown
  prepare(sql: string): {
    get(...values: never[]): unknown
    all(...values: never[]): unknown
    run(...values: never[]): { readonly changes: number | bigint }
  }
  /** Whether a transaction is open: better-sqlite3 and libsql say it so, */
  readonly inTransaction?: boolean
  /** and `node:sqlite` so. */
  readonly isTransaction?: boolean
  /** Whether it is open: better-sqlite3 and libsql say it so, */
  readonly open?: unknown
  /** and `node:sqlite` so. */
  readonly isOpen?: boolean
  /** Of libsql alone. */
  sync?(): unknown
}

export type Value = string | number | null | Uint8Array

/** Numbers that are read may be bigints, if the database was opened so. */
export type PreparedRead = {
  get(...values: readonly Value[]): unknown
  all(...values: readonly Value[]): unknown
}

/** A statement that gives rows: as arrays, which is half as dear as objects. */
export const prepareRead = (database: SqliteDatabase, sql: string): PreparedRead => {
  const statement = database.prepare(sql) as unknown as PreparedRead & {
    setReturnArrays?(on: boolean): void
    raw?(on: boolean): void
  }
  if (statement.setReturnArrays) {
    statement.setReturnArrays(true)
    return statement
  }
  statement.raw?.(true)
  // In an array, because libsql takes a single value that is a buffer for names of values.
  return { get: (...values) => statement.get(values as never), all: (...values) => statement.all(values as never) }
}

/** A statement that changes rows. */
export type PreparedWrite = { run(...values: readonly Value[]): { readonly changes: number | bigint } }

export const prepareWrite = (database: SqliteDatabase, sql: string): PreparedWrite => {
  const statement = database.prepare(sql) as unknown as PreparedWrite & { setReturnArrays?: unknown }
  if (statement.setReturnArrays) return statement
  const run: PreparedWrite['run'] = (...values) => statement.run(values as never)
  return { run: database.sync ? (...values) => committed(database, () => run(...values)) : run }
}

/*
 * libsql leaves a statement in progress that found the database busy (libsql-js, pull request 238). Others then run
 * without being committed, and what they did is rolled back when that one ends: saved, it was said, and it is lost. A
 * transaction of our own is committed, or says that it cannot be.
 */
const committed = <T>(database: SqliteDatabase, work: () => T): T => {
  database.exec('begin immediate')
  try {
    const done = work()
    database.exec('commit')
    return done
  } catch (error) {
    if (database.inTransaction) database.exec('rollback')
    throw error
  }
}

/** The number and the name of a driver's error, so far as it has them. */
const is = (error: unknown, number: number, name: string): boolean => {
  const { errcode, rawCode = errcode, code } = (error ?? {}) as { errcode?: unknown; rawCode?: unknown; code?: unknown }
  return typeof rawCode === 'number' ? rawCode % 256 === number : String(code).startsWith(name)
}

/** SQLITE_BUSY and its variants, each driver in its own words: another connection writes. */
export const busy = (error: unknown): boolean => is(error, 5, 'SQLITE_BUSY')

/** SQLITE_FULL: the disk is full, or the file as large as it may be. The statement changed nothing. */
export const full = (error: unknown): boolean => is(error, 13, 'SQLITE_FULL')

/** The message of the KeepsakeError that `outside` throws, by which those who wait know it. */
export const IN_TRANSACTION =
  'The SQLite database was in a transaction of the application, which might take back what sessions save. Give sessions a connection of their own, or await nothing in a transaction.'

/**
 * Not in the middle of a transaction of the application's own, which may yet be rolled back.
 *
 * @throws KeepsakeError `unavailable`, also where the database is closed: to use it then ends the process with libsql
 */
export const assertNoTransaction = (database: SqliteDatabase): void => {
  if (database.open === false || database.isOpen === false) {
    throw new KeepsakeError('unavailable', 'The SQLite database was closed by the application. Give one that is open.')
  }
  if (database.inTransaction ?? database.isTransaction) throw new KeepsakeError('unavailable', IN_TRANSACTION)
}
