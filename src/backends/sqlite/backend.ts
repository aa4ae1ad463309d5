// Keeps sessions in SQLite, in a file of their own or in a database of the application, for several processes.

import { checkOptionNames, isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import type { Backend } from '../contract.ts'
import { identityAt, isSameFile } from '../ownership.ts'
import { assertNoTransaction, isBusy, prepareRead, type SqliteDatabase } from './driver.ts'
import { sqliteFile } from './file.ts'
import { lockQueue } from './lock-queue.ts'
import { SCHEMA, type Table, tableIn } from './table.ts'

export type { SqliteDatabase } from './driver.ts'

export type SqliteOptions = {
  /**
   * `process` (default): a saved session survives the sudden end of the process. `power`: it also survives a loss of power,
   * but each write waits for the disk. Only for a path.
   */
  readonly durability?: 'process' | 'power' | undefined
}

/** Opens the table if necessary and returns it. Throws if it cannot be used now. */
type OpenTable = (writing: boolean) => Table

/** The path of a live database. Undefined if it is in memory. */
const pathOf = (database: SqliteDatabase): string | undefined => {
  const rows = prepareRead(database, 'pragma database_list').all() as readonly (readonly unknown[])[]
  return (rows.find(([, name]) => name === 'main')?.[2] as string | null | undefined) || undefined
}

const liveTable = (database: SqliteDatabase): OpenTable => {
  const open = () => {
    try {
      assertNoTransaction(database)
      database.exec(SCHEMA)
      const path = pathOf(database)
      return { table: tableIn(database), path, file: path === undefined ? undefined : identityAt(path) }
    } catch (cause) {
      if (isBusy(cause) || isKeepsakeError(cause)) throw cause
      throw new KeepsakeError(
        'unavailable',
        `The SQLite database cannot be used: ${messageOf(cause)}. Pass one that is open and that may be written to.`,
        { cause },
      )
    }
  }
  let current: ReturnType<typeof open> | undefined
  return () => {
    if (current === undefined) current = open()
    else assertNoTransaction(database)
    const { table, path, file } = current
    if (path === undefined || file === undefined || isSameFile(file, identityAt(path))) return table
    throw new KeepsakeError(
      'unavailable',
      `The SQLite file ${JSON.stringify(path)} was deleted or replaced, and the application's database still uses the previous file. Nothing was changed. Put the file back, or open the database again.`,
    )
  }
}

/** The operations that a file of its own and a database of the application have in common. */
const backendOn = (openTable: OpenTable) => {
  // Two queues, so that a read does not wait for the writes.
  const [reads, writes] = [lockQueue(), lockQueue()]
  const reading = <T>(work: (table: Table) => T) => reads(() => work(openTable(false)))
  const writing = <T>(work: (table: Table) => T) => writes(() => work(openTable(true)))
  try {
    openTable(false)
  } catch (error) {
    // The first operation opens it, which can wait without blocking the process.
    if (!isBusy(error)) throw error
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
 * Keeps sessions in SQLite: in the file at a path, which is created if it is missing and is private to its user (0600), or
 * in an open database of the application (`node:sqlite`, `bun:sqlite`, better-sqlite3 or libsql).
 *
 * Each operation is one statement, which is one transaction. If another connection holds the write lock, a write waits for
 * at most two seconds. It does not block the process: the first waiting write tries again every few milliseconds, and the
 * others follow in their order. With a path, reads never wait, and a file that is locked now is opened by the first
 * operation that can.
 *
 * With a path, a file that belongs to another user is refused, except one of root (docs/decisions/017). If the file is
 * deleted or moved, every operation throws `unavailable` until the file is back, or until another whole database of
 * sessions is at its path. That database is used from then on.
 *
 * A database of the application stays the application's: keepsake does not close it, and does not change its pragmas or
 * the mode of its file. Set `busy_timeout` to 0, because SQLite blocks the whole process for that time while another
 * connection writes (better-sqlite3 sets five seconds). Set `journal_mode` to `wal`, because reads wait for writes
 * otherwise. While the application has a transaction open, operations wait for its end, for at most two seconds. The
 * database may have other readers, so keepsake stores no secret in it: pass the option `secret`.
 *
 * Never pass the path of a file that another driver has open in this process: two copies of SQLite in one process do not
 * respect each other's locks, and damage the file (sqlite.org/howtocorrupt.html §2.2.1).
 *
 * @throws KeepsakeError `invalid_option`, also for a file of another user; `unavailable` if the file or the database cannot be used
 */
export const sqliteBackend = (pathOrDatabase: string | SqliteDatabase, options: SqliteOptions = {}): Backend => {
  checkOptionNames(options, ['durability'], 'sqliteBackend()')
  const { durability } = options
  const isDatabase = typeof pathOrDatabase === 'object' && pathOrDatabase !== null
  if (
    isDatabase
      ? typeof pathOrDatabase.prepare !== 'function'
      : typeof pathOrDatabase !== 'string' || pathOrDatabase === ''
  ) {
    throw new KeepsakeError(
      'invalid_option',
      "sqliteBackend() got neither a path nor a database. Pass the path of a file ('sessions.db'), or an open database of node:sqlite, bun:sqlite, better-sqlite3 or libsql.",
    )
  }
  if (isDatabase && durability !== undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'The option durability is only for a path. For an open database, set the pragma synchronous.',
    )
  }
  if (durability !== undefined && durability !== 'process' && durability !== 'power') {
    throw new KeepsakeError('invalid_option', "The option durability must be 'process' or 'power'.")
  }
  if (isDatabase) return backendOn(liveTable(pathOrDatabase)).backend
  const file = sqliteFile(pathOrDatabase, durability ?? 'process')
  const { backend, writing } = backendOn(file.table)
  return {
    ...backend,
    keepSecret: (candidate) => writing((table) => table.keepSecret(candidate)),
    close: file.close,
  }
}
