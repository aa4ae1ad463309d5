// The table of sessions in a SQLite database: one statement for each operation, so each is atomic.

import { KeepsakeError } from '../../error.ts'
import type { Change, Entry, KeyedEntry, Mark, Removed } from '../contract.ts'
import { isFull, prepareRead, prepareWrite, type SqliteDatabase, type Value } from './driver.ts'

export const SCHEMA = `
  create table if not exists keepsake_sessions (
    key text primary key,
    version text not null,
    expires_at integer not null,
    metadata text not null,
    value text,
    owner text
  ) strict, without rowid;
  create index if not exists keepsake_sessions_expires_at on keepsake_sessions (expires_at);
  create index if not exists keepsake_sessions_owner on keepsake_sessions (owner) where owner is not null;
  create table if not exists keepsake_secrets (one integer primary key check (one = 1), secret text not null) strict;
`

type Row = readonly [
  value: string | null,
  metadata: string,
  expiresAt: number | bigint,
  version: string,
  owner: string | null,
]

type KeyedRow = readonly [...Row, key: string]
type ExpiredRow = readonly [key: string, metadata: string, owner: string]

const entryOf = ([value, metadata, expiresAt, version, owner]: Row | KeyedRow): Entry => ({
  value: value ?? undefined,
  metadata,
  expiresAt: Number(expiresAt),
  version,
  owner: owner ?? undefined,
})

const keyedEntry = (row: KeyedRow): KeyedEntry => ({ ...entryOf(row), key: row[5] })

const noSpace = (cause: unknown): KeepsakeError =>
  new KeepsakeError(
    'unavailable',
    'The SQLite database cannot grow (database or disk is full). Nothing was changed. Free space on its disk. A logout needs a little space too: each one that failed is in an event end_failed with the label of its session, which manager.revoke ends.',
    { cause },
  )

/**
 * The table in a database.
 *
 * @throws the error of the driver if the database has no such table
 */
export const tableIn = (database: SqliteDatabase) => {
  const rows = (sql: string) => prepareRead(database, sql)
  const statement = (sql: string) => {
    const prepared = prepareWrite(database, sql)
    /** Returns how many rows it changed. */
    return (...values: readonly Value[]): number => {
      try {
        return Number(prepared.run(...values).changes)
      } catch (error) {
        throw isFull(error) ? noSpace(error) : error
      }
    }
  }
  const select = rows('select value, metadata, expires_at, version, owner from keepsake_sessions where key = ?')
  const insert = statement(
    'insert into keepsake_sessions (key, version, expires_at, metadata, value, owner) values (?, ?, ?, ?, ?, ?) on conflict do nothing',
  )
  const update = statement(
    'update keepsake_sessions set version = ?, metadata = ?, value = ? where key = ? and version = ?',
  )
  // A statement of its own, because SQLite rewrites the index of expires_at for each statement that sets the column.
  const updateWithExpiry = statement(
    'update keepsake_sessions set version = ?, metadata = ?, value = ?, expires_at = ? where key = ? and version = ?',
  )
  const selectVersion = rows('select version from keepsake_sessions where key = ?')
  const remove = statement('delete from keepsake_sessions where key = ?')
  const removeVersion = statement('delete from keepsake_sessions where key = ? and version = ?')
  const updateToMark =
    'update keepsake_sessions set version = ?, metadata = ?, expires_at = ?, value = null, owner = null'
  const mark = statement(`${updateToMark} where key = ?`)
  const markVersion = statement(`${updateToMark} where key = ? and version = ?`)
  const touch = statement('update keepsake_sessions set expires_at = ? where key = ? and expires_at < ?')
  const expired = 'select key from keepsake_sessions where expires_at <= ? limit ?'
  const sweep = statement(`delete from keepsake_sessions where key in (${expired})`)
  const expiredOwned = rows(
    `select key, metadata, owner from keepsake_sessions where owner is not null and key in (${expired})`,
  )
  const selectOwned = rows(
    'select value, metadata, expires_at, version, owner, key from keepsake_sessions where owner = ?',
  )
  const selectPage = rows(
    'select value, metadata, expires_at, version, owner, key from keepsake_sessions where key > ? order by key limit ?',
  )
  // `key is not null` is true for every row, so a null excepts no key.
  const removeOwned = statement('delete from keepsake_sessions where owner = ? and key is not ?')
  const markOwned = statement(`${updateToMark} where owner = ? and key is not ?`)
  const insertSecret = statement('insert into keepsake_secrets (one, secret) values (1, ?) on conflict do nothing')
  const selectSecret = rows('select secret from keepsake_secrets')

  const versionOf = (key: string) => (selectVersion.get(key) as [version: string] | undefined)?.[0]
  const storedSecret = () => (selectSecret.get() as [secret: string] | undefined)?.[0]

  return {
    get(key: string): Entry | undefined {
      const row = select.get(key) as Row | undefined
      return row && entryOf(row)
    },
    generate(key: string, entry: Entry): undefined | 'taken' {
      const { value = null, owner = null } = entry
      const inserted = insert(key, entry.version, entry.expiresAt, entry.metadata, value, owner) === 1
      return inserted || versionOf(key) === entry.version ? undefined : 'taken'
    },
    set(key: string, change: Change, version: string): undefined | 'stale' | 'gone' {
      const { value = null, expiresAt } = change
      const changes =
        expiresAt === undefined
          ? update(change.version, change.metadata, value, key, version)
          : updateWithExpiry(change.version, change.metadata, value, expiresAt, key, version)
      if (changes === 1) return undefined
      const current = versionOf(key)
      if (current === undefined) return 'gone'
      return current === change.version ? undefined : 'stale'
    },
    clear(key: string, version: string | undefined, left: Mark | undefined): undefined | 'stale' {
      if (left === undefined) {
        if (version === undefined) remove(key)
        else if (removeVersion(key, version) === 0) return 'stale'
        return undefined
      }
      const { metadata, expiresAt } = left
      if (version === undefined) mark(left.version, metadata, expiresAt, key)
      else if (markVersion(left.version, metadata, expiresAt, key, version) === 0 && versionOf(key) !== left.version)
        return 'stale'
      return undefined
    },
    touch(key: string, expiresAt: number): undefined {
      touch(expiresAt, key, expiresAt)
    },
    sweep(now: number, limit: number, removed?: (entry: Removed) => void): number {
      const owned = removed === undefined ? [] : (expiredOwned.all(now, limit) as ExpiredRow[])
      const swept = sweep(now, limit)
      // Between the two statements another process may have moved an expiry, so the entry may still exist.
      for (const [key, metadata, owner] of owned) if (versionOf(key) === undefined) removed?.({ key, metadata, owner })
      return swept
    },
    /** The cursor is the last key of the page before: every key is greater than the empty text. */
    scan(cursor: string | undefined, limit: number) {
      const entries = (selectPage.all(cursor ?? '', limit) as KeyedRow[]).map(keyedEntry)
      return { entries, cursor: entries.length < limit ? undefined : entries.at(-1)?.key }
    },
    list: (owner: string) => (selectOwned.all(owner) as KeyedRow[]).map(keyedEntry),
    clearOwned(owner: string, except: string | undefined, left: Mark | undefined): number {
      return left === undefined
        ? removeOwned(owner, except ?? null)
        : markOwned(left.version, left.metadata, left.expiresAt, owner, except ?? null)
    },
    /** Returns the stored secret: `candidate` if the store had none. A process that finds one waits for no other writer. */
    keepSecret(candidate: string): string {
      const stored = storedSecret()
      if (stored !== undefined) return stored
      insertSecret(candidate)
      return storedSecret() as string
    },
  }
}

export type Table = ReturnType<typeof tableIn>
