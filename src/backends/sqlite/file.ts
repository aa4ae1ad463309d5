// The SQLite file at a path: it notices if the file is deleted or replaced, and opens it again when it is back.

import { chmodSync, closeSync, lstatSync, openSync, realpathSync, type Stats, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import { type Identity, identityAt, isSameFile, isTrustedUser } from '../ownership.ts'
import { isBusy } from './driver.ts'
import { SCHEMA, type Table, tableIn } from './table.ts'

/** Bytes of the log that stay on the disk for later writes. A checkpoint frees the rest, for example after a long read. */
const LOG_LIMIT = 1_048_576

/** Writes between two checks of the log. It is lost more rarely than the file, and a check takes 2 µs of the 10 of a write. */
const WRITES_PER_CHECK = 32

const quoted = (path: string): string => JSON.stringify(path)

const unusable = (path: string, cause: unknown): KeepsakeError =>
  new KeepsakeError(
    'unavailable',
    `The SQLite file ${quoted(path)} cannot be used: ${messageOf(cause)}. Give a path in a folder that this process may write to. A file at the path must be a SQLite database.`,
    { cause },
  )

const ownerError = (path: string, { uid }: Stats): KeepsakeError =>
  new KeepsakeError(
    'invalid_option',
    `${quoted(path)} belongs to user ${uid}, but this process runs as user ${process.geteuid?.()}. The owner of the file could write sessions into it. Give the file to this user or to root (chown), or use another path.`,
  )

/** Creates the file if it is missing. It never opens an existing file, because closing it would release SQLite's locks. */
const createIfMissing = (path: string): void => {
  try {
    closeSync(openSync(path, 'ax', 0o600))
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'EEXIST') throw error
  }
}

/**
 * Checks that the files that SQLite is about to read belong to this user or to root (docs/decisions/017). Makes a file of
 * this user private (0600): SQLite gives its -wal and -shm the mode of the database.
 *
 * @throws KeepsakeError `invalid_option`, and the errors of the file system
 */
const checkOwnership = (path: string): void => {
  // A link and its target may have different owners.
  const [link, target] = [lstatSync(path), statSync(path)]
  for (const stats of [link, target]) if (!isTrustedUser(stats.uid)) throw ownerError(path, stats)
  const { mode, uid } = target
  const isOurs = uid === process.geteuid?.()
  if (isOurs && (mode & 0o077) !== 0) chmodSync(path, 0o600)
  // Root lets others write to the database, so the files beside it may be theirs.
  if (!isOurs && (mode & 0o022) !== 0) return
  const real = realpathSync(path)
  for (const suffix of ['-wal', '-shm', '-journal']) {
    const stats = lstatSync(real + suffix, { throwIfNoEntry: false })
    if (stats !== undefined && !isTrustedUser(stats.uid)) throw ownerError(real + suffix, stats)
  }
}

export type Durability = 'process' | 'power'

type Opened = {
  readonly database: DatabaseSync
  readonly table: Table
  /** Undefined for a database in memory. `log` is undefined too if the file system allows no -wal. */
  readonly file: Identity | undefined
  readonly log: Identity | undefined
  readonly logPath: string
}

const configure = (database: DatabaseSync, durability: Durability): void => {
  // SQLite does not wait for a lock here: if two processes open a new file at the same time, this throws in one of them.
  database.exec('pragma journal_mode = wal')
  database.exec(`pragma synchronous = ${durability === 'power' ? 'full' : 'normal'}`)
  // Small checkpoints: one of SQLite's default 1000 pages blocked a process for 40 ms, one of 100 pages for 8 ms.
  database.exec('pragma wal_autocheckpoint = 100')
  database.exec(`pragma journal_size_limit = ${LOG_LIMIT}`)
}

/** @param again the file replaces one that this process had open */
const openFile = (path: string, durability: Durability, again: boolean): Opened => {
  const inMemory = path === ':memory:'
  let database: DatabaseSync | undefined
  try {
    if (!inMemory) {
      if (!again) createIfMissing(path)
      checkOwnership(path)
    }
    const file = inMemory ? undefined : identityAt(path)
    database = new DatabaseSync(path, { timeout: 0 })
    // A file that replaces another must have the tables already: it may be a copy that is still being written.
    if (again) tableIn(database)
    configure(database, durability)
    database.exec(SCHEMA)
    const table = tableIn(database)
    if (inMemory) return { database, table, file, log: undefined, logPath: '' }
    const logPath = `${realpathSync(path)}-wal`
    if (!isSameFile(file, identityAt(path))) throw new Error('the file was replaced while this process opened it')
    return { database, table, file, log: identityAt(logPath), logPath }
  } catch (cause) {
    database?.close()
    throw isBusy(cause) || isKeepsakeError(cause) ? cause : unusable(path, cause)
  }
}

export type SqliteFile = {
  /**
   * The table, if the path still leads to the file that is open. Otherwise writes would be lost.
   *
   * @throws SQLITE_BUSY if another connection has locked the file, so try later; KeepsakeError `unavailable`, `invalid_option`
   */
  table(writing: boolean): Table
  close(): void
}

/** The file at `path`, or `:memory:`. The first call of `table` opens it. After `close` it stays closed. */
export const sqliteFile = (given: string, durability: Durability): SqliteFile => {
  // Absolute, so that a change of the working directory does no harm, and SQLite does not read the path as a URI.
  const path = given === ':memory:' ? given : resolve(given)
  let current: Opened | undefined
  let writes = 0
  let closed = false

  const unavailable = (what: string, help: string): KeepsakeError =>
    new KeepsakeError('unavailable', `The SQLite file ${quoted(path)} ${what}. Nothing was changed. ${help}`)

  /**
   * Opens the file that replaced the one before, if it is a whole database of sessions. It may hold another secret. This
   * process keeps the secret that it has.
   */
  const openReplacement = (before: Opened): Opened => {
    if (before.log !== undefined && isSameFile(before.log, identityAt(before.logPath))) {
      throw unavailable(
        'was replaced, but the -wal of the previous file is still beside it and would damage it',
        'Stop all processes that use it, remove its -wal and -shm, and start them again.',
      )
    }
    const help = 'Put a whole copy of the database there, or restart the process to use the present file.'
    let after: Opened
    try {
      after = openFile(path, durability, true)
    } catch (error) {
      if (isBusy(error)) throw error
      throw new KeepsakeError('unavailable', `${unavailable('was replaced', help).message} ${messageOf(error)}`, {
        cause: error,
      })
    }
    // SQLite notices that its file has moved, so closing it does not remove the -wal of the new file.
    before.database.close()
    return after
  }

  return {
    table(writing) {
      if (closed) throw new KeepsakeError('unavailable', 'The SQLite backend was closed.')
      current ??= openFile(path, durability, false)
      const { file, log, logPath } = current
      if (file === undefined) return current.table
      const present = identityAt(path)
      if (present === undefined) {
        throw unavailable('was deleted or moved', 'Put it back, or restart the process to create a new one.')
      }
      if (!isSameFile(present, file)) current = openReplacement(current)
      else if (
        writing &&
        log !== undefined &&
        writes++ % WRITES_PER_CHECK === 0 &&
        !isSameFile(log, identityAt(logPath))
      ) {
        writes = 0
        throw unavailable(
          'has lost its -wal, which was deleted or replaced, so other processes would not see new writes',
          'Stop all processes that use it, and start them again.',
        )
      }
      return current.table
    },
    close() {
      closed = true
      current?.database.close()
      current = undefined
    },
  }
}
