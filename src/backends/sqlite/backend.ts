// Sessions in SQLite, a file of their own or the application's database: several processes share them.

import { checkOptionNames, isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import type { Backend } from '../contract.ts'
import { identityAt, same } from '../ownership.ts'
import { assertNoTransaction, busy, prepareRead, type SqliteDatabase } from './driver.ts'
import { sqliteFile } from './file.ts'
import { line } from './line.ts'
import { SCHEMA, type Table, tableIn } from './table.ts'

export type { SqliteDatabase } from './driver.ts'

export type SqliteOptions = {
  /**
   * `process` (the default): what was saved survives the end of the process, however sudden. `power`: also a loss of
   * power, for a wait on the disk at each write.
   */
  readonly durability?: 'process' | 'power' | undefined
}

/** Gives the table, opening it where that was not done yet; throws where it cannot be used now. */
type Opening = (writing: boolean) => Table

/** The file of a live database; undefined where it has none. */
const pathOf = (database: SqliteDatabase): string | undefined => {
  const rows = prepareRead(database, 'pragma database_list').all() as readonly (readonly unknown[])[]
  return (rows.find(([, name]) => name === 'main')?.[2] as string | null | undefined) || undefined
}

const liveTable = (database: SqliteDatabase): Opening => {
  const opened = () => {
    try {
      assertNoTransaction(database)
      database.exec(SCHEMA)
      const path = pathOf(database)
      return { table: tableIn(database), path, file: path === undefined ? undefined : identityAt(path) }
    } catch (cause) {
      if (busy(cause) || isKeepsakeError(cause)) throw cause
      throw new KeepsakeError(
        'unavailable',
        `The SQLite database cannot be used: ${messageOf(cause)}. Give one that is open, and may be written to.`,
        { cause },
      )
    }
  }
  let current: ReturnType<typeof opened> | undefined
  return () => {
    if (current === undefined) current = opened()
    else assertNoTransaction(database)
    const { table, path, file } = current
    if (path === undefined || file === undefined || same(file, identityAt(path))) return table
    throw new KeepsakeError(
      'unavailable',
      `The SQLite file ${JSON.stringify(path)} was deleted or replaced, and the database is open in what it was. Nothing was changed. Put the file back, or open the database anew.`,
    )
  }
}

/** All but what only a file of its own has. */
const backendOn = (table: Opening) => {
  const [reads, writes] = [line(), line()]
  const reading = <T>(work: (table: Table) => T) => reads(() => work(table(false)))
  const writing = <T>(work: (table: Table) => T) => writes(() => work(table(true)))
  try {
    table(false)
  } catch (error) {
    // It is opened at the first use, which can wait without holding up the process.
    if (!busy(error)) throw error
  }
  const backend: Backend = {
    name: 'sqlite',
    defaultPeriod: 604_800,
    get: (key) => reading((table) => table.get(key)),
    generate: (key, entry) => writing((table) => table.generate(key, entry)),
    set: (key, change, version) => writing((table) => table.set(key, change, version)),
    clear: (key, version, mark) => writing((table) => table.clear(key, version, mark)),
    touch: (key, expiresAt) => writing((table) => table.touch(key, expiresAt)),
    sweep: (now, limit, removed) => writing((table) => table.sweep(now, limit, removed)),
    scan: (cursor, limit) => reading((table) => table.scan(cursor, limit)),
    byOwner: {
      list: (owner) => reading((table) => table.list(owner)),
      clear: (owner, except, mark) => writing((table) => table.clearOwned(owner, except, mark)),
    },
  }
  return { backend, writing }
}

/**
 * A backend in the file at `path`, which is made where it is missing, readable for its owner alone; or in a live
 * database of the application's, opened by `node:sqlite`, better-sqlite3 or libsql.
 *
 * One statement is one transaction. While another connection writes, a write waits for two seconds at most, and holds up
 * nothing else: one tries now and then, the others stand behind it in the order in which they came. In a file of its own
 * readers never wait. A file that is locked now is opened at the first use that can.
 *
 * A file that belongs to another user than root or this process's is refused (docs/decisions/017). Once the file was
 * deleted or moved, every operation throws `unavailable`, until it is back, or another whole database of sessions lies
 * at its path: that one is used then.
 *
 * A live database stays the application's: it is not closed here, its file keeps its mode and its pragmas are left as
 * they are. So set `busy_timeout` to 0: all its milliseconds block the whole process while another writes, five seconds
 * of them if better-sqlite3 opened it; and set `journal_mode` to `wal`, or readers wait too. While the application has a
 * transaction open, sessions wait for its end, two seconds at most. No secret is kept in it, because others may read it:
 * configure one. Never name the path of a file that another driver has open in this process: two copies of SQLite in one
 * process do not see each other's locks, and break the file (sqlite.org/howtocorrupt.html §2.2.1).
 *
 * @throws KeepsakeError `invalid_option`, also for a file of another user; `unavailable` where the file or the database cannot be used
 */
export const sqliteBackend = (pathOrDatabase: string | SqliteDatabase, options: SqliteOptions = {}): Backend => {
  checkOptionNames(options, ['durability'], 'sqliteBackend()')
  const { durability } = options
  const live = typeof pathOrDatabase === 'object' && pathOrDatabase !== null
  if (
    live ? typeof pathOrDatabase.prepare !== 'function' : typeof pathOrDatabase !== 'string' || pathOrDatabase === ''
  ) {
    throw new KeepsakeError(
      'invalid_option',
      "A SQLite backend needs the path of its file, such as 'sqlite:sessions.db', or a database of node:sqlite, better-sqlite3 or libsql.",
    )
  }
  if (live && durability !== undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'durability is of a file: of a live database, the pragma synchronous says it.',
    )
  }
  if (durability !== undefined && durability !== 'process' && durability !== 'power') {
    throw new KeepsakeError('invalid_option', "durability has to be 'process' or 'power'.")
  }
  if (live) return backendOn(liveTable(pathOrDatabase)).backend
  const file = sqliteFile(pathOrDatabase, durability ?? 'process')
  const { backend, writing } = backendOn(file.table)
  return {
    ...backend,
    keepSecret: (fresh) => writing((table) => table.keepSecret(fresh)),
    close: file.close,
  }
}
