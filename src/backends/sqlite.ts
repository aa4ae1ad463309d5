// Sessions in SQLite, a file of their own or the application's database: several processes share them.

import { chmodSync, closeSync, openSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import type { Backend, Entry } from '../backend.ts'
import { Fault, messageOf } from '../outcome.ts'
import { alteration, busy, outside, PATIENCE, patiently, type SqliteDatabase, selection } from './sqlite-driver.ts'

export type { SqliteDatabase } from './sqlite-driver.ts'

export type SqliteOptions = {
  /**
   * `process` (the default): what was saved survives the end of the process, however sudden. `power`: also a loss of
   * power, for a wait on the disk at each write.
   */
  readonly durability?: 'process' | 'power'
}

/** Milliseconds that a statement blocks this process while another writes. */
const BLOCKING = 20

const SCHEMA = `
  create table if not exists keepsake_sessions (
    key blob primary key,
    version text not null,
    expires_at integer not null,
    head text not null,
    value text,
    owner text
  ) strict, without rowid;
  create index if not exists keepsake_sessions_expires_at on keepsake_sessions (expires_at);
  create index if not exists keepsake_sessions_owner on keepsake_sessions (owner) where owner is not null;
  create table if not exists keepsake_secrets (one integer primary key check (one = 1), secret text not null) strict;
`

const unavailable = (what: string, cause: unknown, help: string): Fault => {
  const why = messageOf(cause)
  return new Fault('unavailable', `${what} cannot be used: ${why}. ${help}`, { cause })
}

/** Tries again while others write, and holds up the process meanwhile, as opening does anyway. */
const insistently = (attempt: () => void): void => {
  const until = performance.now() + PATIENCE
  for (;;) {
    try {
      attempt()
      return
    } catch (cause) {
      if (!busy(cause) || performance.now() > until) throw cause
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BLOCKING)
    }
  }
}

const open = (path: string, durability: 'process' | 'power' = 'process'): DatabaseSync => {
  try {
    if (path !== ':memory:') {
      // SQLite gives its -wal and -shm files the mode of the database, so that one has it before the first write.
      closeSync(openSync(path, 'a', 0o600))
      chmodSync(path, 0o600)
    }
    const database = new DatabaseSync(path, { timeout: PATIENCE })
    // SQLite itself waits for nobody there: of two processes that open a new file at once, one is told that it is locked.
    insistently(() => database.exec('pragma journal_mode = wal'))
    database.exec(`pragma synchronous = ${durability === 'power' ? 'full' : 'normal'}`)
    // Little at a time: a checkpoint of SQLite's usual 1000 pages held up a process for 40 ms, one of 100 for 8.
    database.exec('pragma wal_autocheckpoint = 100')
    database.exec(SCHEMA)
    database.exec(`pragma busy_timeout = ${BLOCKING}`)
    return database
  } catch (cause) {
    throw unavailable(
      `The SQLite file ${JSON.stringify(path)}`,
      cause,
      'Give a path in a folder that this process may write to, of a SQLite file or of none.',
    )
  }
}

/** Makes the tables in a database of the application's, whose own patience may be none. */
const enter = (database: SqliteDatabase): void => {
  try {
    insistently(() => {
      outside(database)
      database.exec(SCHEMA)
    })
  } catch (cause) {
    if (cause instanceof Fault) throw cause
    throw unavailable('The SQLite database', cause, 'Give one that is open, and may be written to.')
  }
}

type Row = readonly [
  value: string | null,
  head: string,
  expiresAt: number | bigint,
  version: string,
  owner: string | null,
]

type OwnedRow = readonly [...Row, key: Uint8Array]

const entryOf = ([value, head, expiresAt, version, owner]: Row | OwnedRow): Entry => ({
  value: value ?? undefined,
  head,
  expiresAt: Number(expiresAt),
  version,
  owner: owner ?? undefined,
})

const keyed = (row: OwnedRow): Entry & { readonly key: string } => ({
  ...entryOf(row),
  key: Buffer.from(row[5]).toString('base64url'),
})

/** All but what only a file of its own has. */
const backendOn = (database: SqliteDatabase, soon: typeof patiently): Backend => {
  const statement = (sql: string) => alteration(database, sql)
  const rows = (sql: string) => selection(database, sql)
  const select = rows('select value, head, expires_at, version, owner from keepsake_sessions where key = ?')
  const insert = statement(
    'insert into keepsake_sessions (key, version, expires_at, head, value, owner) values (?, ?, ?, ?, ?, ?) on conflict do nothing',
  )
  const update = statement(
    'update keepsake_sessions set version = ?, head = ?, value = ? where key = ? and version = ?',
  )
  // Apart, because whatever names expires_at moves it in its index too.
  const move = statement(
    'update keepsake_sessions set version = ?, head = ?, value = ?, expires_at = ? where key = ? and version = ?',
  )
  const versionOf = rows('select version from keepsake_sessions where key = ?')
  const remove = statement('delete from keepsake_sessions where key = ?')
  const removeVersion = statement('delete from keepsake_sessions where key = ? and version = ?')
  const touch = statement('update keepsake_sessions set expires_at = ? where key = ? and expires_at < ?')
  const sweep = statement(
    'delete from keepsake_sessions where key in (select key from keepsake_sessions where expires_at <= ? limit ?)',
  )
  const listOwned = rows('select value, head, expires_at, version, owner, key from keepsake_sessions where owner = ?')
  const part = rows(
    'select value, head, expires_at, version, owner, key from keepsake_sessions where key > ? order by key limit ?',
  )
  // No key is not a null, so that a null excepts none.
  const clearOwned = statement('delete from keepsake_sessions where owner = ? and key is not ?')
  const bytes = (key: string) => Buffer.from(key, 'base64url')
  const version = (key: Buffer) => (versionOf.get(key) as [version: string] | undefined)?.[0]

  return {
    name: 'sqlite',
    defaultPeriod: 604_800,
    get: (key) =>
      soon(() => {
        const row = select.get(bytes(key)) as Row | undefined
        return row && entryOf(row)
      }),
    generate: (name, entry) =>
      soon(() => {
        const key = bytes(name)
        const { value = null, owner = null } = entry
        const { changes } = insert.run(key, entry.version, entry.expiresAt, entry.head, value, owner)
        return Number(changes) === 1 || version(key) === entry.version ? undefined : 'taken'
      }),
    set: (name, change, expected) =>
      soon(() => {
        const key = bytes(name)
        const { value = null, expiresAt } = change
        const { changes } =
          expiresAt === undefined
            ? update.run(change.version, change.head, value, key, expected)
            : move.run(change.version, change.head, value, expiresAt, key, expected)
        if (Number(changes) === 1) return undefined
        const there = version(key)
        if (there === undefined) return 'gone'
        return there === change.version ? undefined : 'stale'
      }),
    clear: (key, expected) =>
      soon(() => {
        if (expected === undefined) remove.run(bytes(key))
        else if (Number(removeVersion.run(bytes(key), expected).changes) === 0) return 'stale'
        return undefined
      }),
    touch: (key, expiresAt) =>
      soon(() => {
        touch.run(expiresAt, bytes(key), expiresAt)
        return undefined
      }),
    sweep: (now, limit) => soon(() => Number(sweep.run(now, limit).changes)),
    scan: (from, limit) =>
      soon(() => {
        const entries = (part.all(bytes(from ?? ''), limit) as OwnedRow[]).map(keyed)
        return { entries, cursor: entries.length < limit ? undefined : entries.at(-1)?.key }
      }),
    owned: {
      list: (owner) => soon(() => (listOwned.all(owner) as OwnedRow[]).map(keyed)),
      clear: (owner, except) =>
        soon(() => Number(clearOwned.run(owner, except === undefined ? null : bytes(except)).changes)),
    },
  }
}

/**
 * A backend in the file at `path`, which is made where it is missing, readable for its owner alone; or in a live
 * database of the application's, opened by `node:sqlite`, better-sqlite3 or libsql.
 *
 * One statement is one transaction. Writers of other processes are waited for without blocking, for two seconds, and in
 * a file of its own readers never wait.
 *
 * A live database stays the application's: it is not closed here, its file keeps its mode and its pragmas are left as
 * they are. So set `busy_timeout` to 20: all its milliseconds block the whole process while another writes, five seconds
 * of them if better-sqlite3 opened it; and set `journal_mode` to `wal`, or readers wait too. While the application has a
 * transaction open, sessions wait for its end, two seconds at most. No secret is kept in it, because others may read it:
 * configure one. Never name the path of a file that another driver has open in this process: two copies of SQLite in one
 * process do not see each other's locks, and break the file (sqlite.org/howtocorrupt.html §2.2.1).
 *
 * @throws Fault `bad_option`, `unavailable` where the file or the database cannot be used
 */
export const sqliteBackend = (pathOrDatabase: string | SqliteDatabase, { durability }: SqliteOptions = {}): Backend => {
  const live = typeof pathOrDatabase === 'object' && pathOrDatabase !== null
  if (
    live ? typeof pathOrDatabase.prepare !== 'function' : typeof pathOrDatabase !== 'string' || pathOrDatabase === ''
  ) {
    throw new Fault(
      'bad_option',
      "A SQLite backend needs the path of its file, such as 'sqlite:sessions.db', or a database of node:sqlite, better-sqlite3 or libsql.",
    )
  }
  if (live && durability !== undefined) {
    throw new Fault('bad_option', 'durability is of a file: of a live database, the pragma synchronous says it.')
  }
  if (durability !== undefined && durability !== 'process' && durability !== 'power') {
    throw new Fault('bad_option', "durability has to be 'process' or 'power'.")
  }
  if (live) {
    enter(pathOrDatabase)
    return backendOn(pathOrDatabase, (attempt) =>
      patiently(() => {
        outside(pathOrDatabase)
        return attempt()
      }),
    )
  }
  const database = open(pathOrDatabase, durability)
  const keepSecret = database.prepare('insert into keepsake_secrets (one, secret) values (1, ?) on conflict do nothing')
  const keptSecret = database.prepare('select secret from keepsake_secrets')
  return {
    ...backendOn(database, patiently),
    secret: (fresh) =>
      patiently(() => {
        keepSecret.run(fresh)
        return (keptSecret.get() as { secret: string }).secret
      }),
    close: () => database.close(),
  }
}
