// Sessions in a SQLite file, by Node's own driver: they survive a restart, and several processes share them.

import { chmodSync, closeSync, openSync } from 'node:fs'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import type { Backend, Entry } from '../backend.ts'
import { type Awaitable, Fault } from '../outcome.ts'

export type SqliteOptions = {
  /**
   * `process` (the default): what was saved survives the end of the process, however sudden. `power`: also a loss of
   * power, for a wait on the disk at each write.
   */
  readonly durability?: 'process' | 'power'
}

/** Milliseconds that a statement blocks this process while another writes, and that it goes on trying without blocking. */
const BLOCKING = 20
const PATIENCE = 2_000

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
  create table if not exists keepsake_secrets (one integer primary key check (one = 1), secret text not null) strict;
`

/** SQLITE_BUSY and its variants: another process writes. */
const busy = (error: unknown): boolean =>
  error instanceof Error && 'errcode' in error && (error.errcode as number) % 256 === 5

/** Tries again, without holding up the process, while others write. */
const patiently = <T>(attempt: () => T): Awaitable<T> => {
  try {
    return attempt()
  } catch (error) {
    if (!busy(error)) throw error
    return again(attempt, performance.now() + PATIENCE)
  }
}

const again = async <T>(attempt: () => T, until: number): Promise<T> => {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 20))
    try {
      return attempt()
    } catch (error) {
      if (!busy(error) || performance.now() > until) throw error
    }
  }
}

const open = (path: string, durability: 'process' | 'power'): DatabaseSync => {
  try {
    if (path !== ':memory:') {
      // SQLite gives its -wal and -shm files the mode of the database, so that one has it before the first write.
      closeSync(openSync(path, 'a', 0o600))
      chmodSync(path, 0o600)
    }
    const database = new DatabaseSync(path, { timeout: PATIENCE })
    database.exec('pragma journal_mode = wal')
    database.exec(`pragma synchronous = ${durability === 'power' ? 'full' : 'normal'}`)
    // Little at a time: a checkpoint of SQLite's usual 1000 pages held up a process for 40 ms, one of 100 for 8.
    database.exec('pragma wal_autocheckpoint = 100')
    database.exec(SCHEMA)
    database.exec(`pragma busy_timeout = ${BLOCKING}`)
    return database
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new Fault(
      'unavailable',
      `The SQLite file ${JSON.stringify(path)} cannot be used: ${why}. Give a path in a folder that this process may write to, of a SQLite file or of none.`,
      { cause },
    )
  }
}

type Row = readonly [value: string | null, head: string, expiresAt: number, version: string, owner: string | null]

const entryOf = ([value, head, expiresAt, version, owner]: Row): Entry => ({
  value: value ?? undefined,
  head,
  expiresAt,
  version,
  owner: owner ?? undefined,
})

/**
 * A backend in the file at `path`, which is made where it is missing, readable for its owner alone.
 *
 * One statement is one transaction; readers never wait. Writers of other processes are waited for without blocking.
 *
 * @throws Fault `bad_option`, `unavailable` where the file cannot be opened
 */
export const sqliteBackend = (path: string, { durability = 'process' }: SqliteOptions = {}): Backend => {
  if (typeof path !== 'string' || path === '') {
    throw new Fault('bad_option', "A SQLite backend needs the path of its file, such as 'sqlite:sessions.db'.")
  }
  if (durability !== 'process' && durability !== 'power') {
    throw new Fault('bad_option', "durability has to be 'process' or 'power'.")
  }
  const database = open(path, durability)
  const statement = (sql: string): StatementSync => database.prepare(sql)
  const select = statement('select value, head, expires_at, version, owner from keepsake_sessions where key = ?')
  // Half as dear as rows that are objects.
  select.setReturnArrays(true)
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
  const versionOf = statement('select version from keepsake_sessions where key = ?')
  const remove = statement('delete from keepsake_sessions where key = ?')
  const removeVersion = statement('delete from keepsake_sessions where key = ? and version = ?')
  const touch = statement('update keepsake_sessions set expires_at = ?1 where key = ?2 and expires_at < ?1')
  const sweep = statement(
    'delete from keepsake_sessions where key in (select key from keepsake_sessions where expires_at <= ? limit ?)',
  )
  const keepSecret = statement('insert into keepsake_secrets (one, secret) values (1, ?) on conflict do nothing')
  const keptSecret = statement('select secret from keepsake_secrets')

  const bytes = (key: string) => Buffer.from(key, 'base64url')
  const version = (key: Buffer) => (versionOf.get(key) as { version: string } | undefined)?.version

  return {
    name: 'sqlite',
    defaultPeriod: 604_800,
    get: (key) =>
      patiently(() => {
        const row = select.get(bytes(key)) as unknown as Row | undefined
        return row && entryOf(row)
      }),
    generate: (name, entry) =>
      patiently(() => {
        const key = bytes(name)
        const { value = null, owner = null } = entry
        const { changes } = insert.run(key, entry.version, entry.expiresAt, entry.head, value, owner)
        return changes === 1 || version(key) === entry.version ? undefined : 'taken'
      }),
    set: (name, change, expected) =>
      patiently(() => {
        const key = bytes(name)
        const { value = null, expiresAt } = change
        const { changes } =
          expiresAt === undefined
            ? update.run(change.version, change.head, value, key, expected)
            : move.run(change.version, change.head, value, expiresAt, key, expected)
        if (changes === 1) return undefined
        const there = version(key)
        if (there === undefined) return 'gone'
        return there === change.version ? undefined : 'stale'
      }),
    clear: (key, expected) =>
      patiently(() => {
        if (expected === undefined) remove.run(bytes(key))
        else if (removeVersion.run(bytes(key), expected).changes === 0) return 'stale'
        return undefined
      }),
    touch: (key, expiresAt) =>
      patiently(() => {
        touch.run(expiresAt, bytes(key))
        return undefined
      }),
    sweep: (now, limit) => patiently(() => Number(sweep.run(now, limit).changes)),
    secret: (fresh) =>
      patiently(() => {
        keepSecret.run(fresh)
        return (keptSecret.get() as { secret: string }).secret
      }),
    close: () => database.close(),
  }
}
