// The SQLite file at a path: opened when it can be, told when it has gone, and opened anew when it is back.

import { chmodSync, closeSync, lstatSync, openSync, realpathSync, type Stats, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import { type Identity, identityAt, same, trusted } from '../ownership.ts'
import { busy } from './driver.ts'
import { SCHEMA, type Table, tableIn } from './table.ts'

/** Bytes of the log that stay on the disk, to be written over. What a long reader made it grow by is given back. */
const LOG = 1_048_576

/** Writes from one look at the log to the next. Its loss is rarer than the file's, and a look costs 2 µs of a write's 10. */
const LOOK = 32

const quoted = (path: string): string => JSON.stringify(path)

const unusable = (path: string, cause: unknown): KeepsakeError =>
  new KeepsakeError(
    'unavailable',
    `The SQLite file ${quoted(path)} cannot be used: ${messageOf(cause)}. Give a path in a folder that this process may write to, of a SQLite file or of none.`,
    { cause },
  )

const refused = (path: string, { uid }: Stats): KeepsakeError =>
  new KeepsakeError(
    'invalid_option',
    `${quoted(path)} belongs to user ${uid}, who could write sessions into it, and this process runs as user ${process.geteuid?.()}. Give it to this user or to root (chown), or name another file.`,
  )

/** Makes the file where it is missing. One that is there is never opened here: to close it would end SQLite's locks. */
const make = (path: string): void => {
  try {
    closeSync(openSync(path, 'ax', 0o600))
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'EEXIST') throw error
  }
}

/**
 * Sees to it that what SQLite is about to read is from nobody but this user and root (docs/decisions/017), and that a
 * file of this user's is for him alone: SQLite gives its -wal and -shm the mode of the database.
 *
 * @throws KeepsakeError `invalid_option`, and the error of the file system
 */
const examine = (path: string): void => {
  const [named, there] = [lstatSync(path), statSync(path)]
  for (const one of [named, there]) if (!trusted(one.uid)) throw refused(path, one)
  const { mode, uid } = there
  const mine = uid === process.geteuid?.()
  if (mine && (mode & 0o077) !== 0) chmodSync(path, 0o600)
  // Where its owner lets others write to the database itself, what SQLite puts beside it may be theirs.
  if (!mine && (mode & 0o022) !== 0) return
  const real = realpathSync(path)
  for (const suffix of ['-wal', '-shm', '-journal']) {
    const beside = lstatSync(real + suffix, { throwIfNoEntry: false })
    if (beside !== undefined && !trusted(beside.uid)) throw refused(real + suffix, beside)
  }
}

export type Durability = 'process' | 'power'

type Opened = {
  readonly database: DatabaseSync
  readonly table: Table
  /** Undefined of a database in memory, and of a log that the file system did not allow. */
  readonly file: Identity | undefined
  readonly log: Identity | undefined
  readonly logPath: string
}

const configure = (database: DatabaseSync, durability: Durability): void => {
  // SQLite itself waits for nobody there: of two processes that open a new file at once, one is told that it is locked.
  database.exec('pragma journal_mode = wal')
  database.exec(`pragma synchronous = ${durability === 'power' ? 'full' : 'normal'}`)
  // Little at a time: a checkpoint of SQLite's usual 1000 pages held up a process for 40 ms, one of 100 for 8.
  database.exec('pragma wal_autocheckpoint = 100')
  database.exec(`pragma journal_size_limit = ${LOG}`)
}

const opened = (path: string, durability: Durability, anew: boolean): Opened => {
  const inMemory = path === ':memory:'
  let database: DatabaseSync | undefined
  try {
    if (!inMemory) {
      if (!anew) make(path)
      examine(path)
    }
    const file = inMemory ? undefined : identityAt(path)
    database = new DatabaseSync(path, { timeout: 0 })
    // Of a file that was put in the place of another, nothing is made: it may be half of a copy that is under way.
    if (anew) tableIn(database)
    configure(database, durability)
    database.exec(SCHEMA)
    const table = tableIn(database)
    if (inMemory) return { database, table, file, log: undefined, logPath: '' }
    const logPath = `${realpathSync(path)}-wal`
    if (!same(file, identityAt(path))) throw new Error('it was replaced while it was opened')
    return { database, table, file, log: identityAt(logPath), logPath }
  } catch (cause) {
    database?.close()
    throw busy(cause) || isKeepsakeError(cause) ? cause : unusable(path, cause)
  }
}

export type SqliteFile = {
  /**
   * The table, while its file is where it was: to write somewhere else would be to lose what is written.
   *
   * @throws SQLITE_BUSY where it cannot be opened yet; KeepsakeError `unavailable`, `invalid_option`
   */
  table(writing: boolean): Table
  close(): void
}

/** The file at `path`, or `:memory:`. Opened when its table is first asked for, and closed for good by `close`. */
export const sqliteFile = (given: string, durability: Durability): SqliteFile => {
  // Absolute, so that it stays the same wherever the process goes, and SQLite takes none for one of its URIs.
  const path = given === ':memory:' ? given : resolve(given)
  let current: Opened | undefined
  let writes = 0
  let closed = false

  const gone = (what: string, help: string): KeepsakeError =>
    new KeepsakeError('unavailable', `The SQLite file ${quoted(path)} ${what}. Nothing was changed. ${help}`)

  /**
   * Another file lies at the path: it is used if it is a whole database of sessions. It may keep another secret: this
   * process goes on sealing under the one that it has.
   */
  const reopened = (before: Opened): Opened => {
    if (before.log !== undefined && same(before.log, identityAt(before.logPath))) {
      throw gone(
        'was replaced, and beside it lies the -wal of the one before, which would damage it',
        'Stop all processes that use it, remove its -wal and -shm, and start again.',
      )
    }
    const help = 'Put a whole copy of it there; or start again, to begin with what is there.'
    let after: Opened
    try {
      after = opened(path, durability, true)
    } catch (error) {
      if (busy(error)) throw error
      throw new KeepsakeError('unavailable', `${gone('was replaced', help).message} ${messageOf(error)}`, {
        cause: error,
      })
    }
    // SQLite sees that this file has moved, and leaves the -wal at its path to the other.
    before.database.close()
    return after
  }

  return {
    table(writing) {
      if (closed) throw new KeepsakeError('unavailable', 'The SQLite backend was closed.')
      current ??= opened(path, durability, false)
      const { file, log, logPath } = current
      if (file === undefined) return current.table
      const there = identityAt(path)
      if (there === undefined) {
        throw gone('has gone: it was deleted or moved', 'Put it back; or start again, to begin with a new one.')
      }
      if (!same(there, file)) current = reopened(current)
      else if (writing && log !== undefined && writes++ % LOOK === 0 && !same(log, identityAt(logPath))) {
        writes = 0
        throw gone(
          'has lost its -wal, which was deleted or replaced: others would not see what is saved',
          'Stop all processes that use it, and start again.',
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
