// One way to speak to a SQLite database, whichever driver has opened it: node:sqlite, better-sqlite3 or libsql.

import { type Awaitable, Fault } from '../outcome.ts'

/** Milliseconds that one goes on trying, without blocking, while others write. */
export const PATIENCE = 2_000

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
  /** Whether it is open: better-sqlite3 and libsql say it so. */
  readonly open?: unknown
  /** Of libsql alone. */
  sync?(): unknown
}

type Value = string | number | null | Uint8Array

/** Numbers that are read may be bigints, if the database was opened so. */
export type Selection = {
  get(...values: readonly Value[]): unknown
  all(...values: readonly Value[]): unknown
}

/** A statement that gives rows: as arrays, which is half as dear as objects. */
export const selection = (database: SqliteDatabase, sql: string): Selection => {
  const statement = database.prepare(sql) as unknown as Selection & {
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
export type Alteration = { run(...values: readonly Value[]): { readonly changes: number | bigint } }

export const alteration = (database: SqliteDatabase, sql: string): Alteration => {
  const statement = database.prepare(sql) as unknown as Alteration & { setReturnArrays?: unknown }
  if (statement.setReturnArrays) return statement
  const run: Alteration['run'] = (...values) => statement.run(values as never)
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

/** SQLITE_BUSY and its variants, each driver in its own words: another process writes. */
export const busy = (error: unknown): boolean => {
  const { errcode, rawCode = errcode, code } = (error ?? {}) as { errcode?: unknown; rawCode?: unknown; code?: unknown }
  return typeof rawCode === 'number' ? rawCode % 256 === 5 : String(code).startsWith('SQLITE_BUSY')
}

/**
 * Not in the middle of a transaction of the application's own, which may yet be rolled back.
 *
 * @throws Error where the database is closed, which libsql would end the process for; Fault `unavailable`
 */
export const outside = (database: SqliteDatabase): void => {
  if (database.open === false) throw new Error('The SQLite database is closed.')
  if (!(database.inTransaction ?? database.isTransaction)) return
  throw new Fault(
    'unavailable',
    'The SQLite database was in a transaction of the application, which might take back what sessions save. Give sessions a connection of their own, or await nothing in a transaction.',
  )
}

/** What passes: another process writes, or the application is in a transaction, of which the Fault is. */
const passing = (error: unknown): boolean => busy(error) || error instanceof Fault

/** Tries again, without holding up the process, while others write. */
export const patiently = <T>(attempt: () => T): Awaitable<T> => {
  try {
    return attempt()
  } catch (error) {
    if (!passing(error)) throw error
    return again(attempt, performance.now() + PATIENCE)
  }
}

const again = async <T>(attempt: () => T, until: number): Promise<T> => {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 20))
    try {
      return attempt()
    } catch (error) {
      if (!passing(error) || performance.now() > until) throw error
    }
  }
}
