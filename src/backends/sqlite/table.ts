// The table of sessions in a SQLite database, each operation one statement: everything here happens at once, or throws.

import { KeepsakeError } from '../../error.ts'
import type { Change, Entry, Mark, Removed } from '../contract.ts'
import { full, prepareRead, prepareWrite, type SqliteDatabase, type Value } from './driver.ts'

export const SCHEMA = `
  create table if not exists keepsake_sessions (
    key blob primary key,
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

type OwnedRow = readonly [...Row, key: Uint8Array]
type DueRow = readonly [key: Uint8Array, metadata: string, owner: string]

const entryOf = ([value, metadata, expiresAt, version, owner]: Row | OwnedRow): Entry => ({
  value: value ?? undefined,
  metadata,
  expiresAt: Number(expiresAt),
  version,
  owner: owner ?? undefined,
})

const keyed = (row: OwnedRow): Entry & { readonly key: string } => ({
  ...entryOf(row),
  key: keyOf(row[5]),
})

const bytes = (key: string): Buffer => Buffer.from(key, 'base64url')
const keyOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')

const noSpace = (cause: unknown): KeepsakeError =>
  new KeepsakeError(
    'unavailable',
    'The SQLite database cannot grow (database or disk is full), and to end a session takes a little space, too. Nothing was changed. Free space on its disk; who logged out meanwhile is in the event end_failed, by a label that revoke ends.',
    { cause },
  )

/** The table in a database that has it. @throws the error of the driver where it does not */
export const tableIn = (database: SqliteDatabase) => {
  const rows = (sql: string) => prepareRead(database, sql)
  const statement = (sql: string) => {
    const prepared = prepareWrite(database, sql)
    /** How many rows it changed. */
    return (...values: readonly Value[]): number => {
      try {
        return Number(prepared.run(...values).changes)
      } catch (error) {
        throw full(error) ? noSpace(error) : error
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
  // Apart, because whatever names expires_at moves it in its index too.
  const move = statement(
    'update keepsake_sessions set version = ?, metadata = ?, value = ?, expires_at = ? where key = ? and version = ?',
  )
  const versionOf = rows('select version from keepsake_sessions where key = ?')
  const remove = statement('delete from keepsake_sessions where key = ?')
  const removeVersion = statement('delete from keepsake_sessions where key = ? and version = ?')
  const marking = 'update keepsake_sessions set version = ?, metadata = ?, expires_at = ?, value = null, owner = null'
  const mark = statement(`${marking} where key = ?`)
  const markVersion = statement(`${marking} where key = ? and version = ?`)
  const touch = statement('update keepsake_sessions set expires_at = ? where key = ? and expires_at < ?')
  const due = 'select key from keepsake_sessions where expires_at <= ? limit ?'
  const sweep = statement(`delete from keepsake_sessions where key in (${due})`)
  const dueOwned = rows(
    `select key, metadata, owner from keepsake_sessions where owner is not null and key in (${due})`,
  )
  const listOwned = rows(
    'select value, metadata, expires_at, version, owner, key from keepsake_sessions where owner = ?',
  )
  const part = rows(
    'select value, metadata, expires_at, version, owner, key from keepsake_sessions where key > ? order by key limit ?',
  )
  // No key is not a null, so that a null excepts none.
  const removeOwned = statement('delete from keepsake_sessions where owner = ? and key is not ?')
  const markOwned = statement(`${marking} where owner = ? and key is not ?`)
  const keepSecret = statement('insert into keepsake_secrets (one, secret) values (1, ?) on conflict do nothing')
  const keptSecret = rows('select secret from keepsake_secrets')

  const version = (key: Buffer) => (versionOf.get(key) as [version: string] | undefined)?.[0]
  const secret = () => (keptSecret.get() as [secret: string] | undefined)?.[0]

  return {
    get(name: string): Entry | undefined {
      const row = select.get(bytes(name)) as Row | undefined
      return row && entryOf(row)
    },
    generate(name: string, entry: Entry): undefined | 'taken' {
      const key = bytes(name)
      const { value = null, owner = null } = entry
      const inserted = insert(key, entry.version, entry.expiresAt, entry.metadata, value, owner) === 1
      return inserted || version(key) === entry.version ? undefined : 'taken'
    },
    set(name: string, change: Change, expected: string): undefined | 'stale' | 'gone' {
      const key = bytes(name)
      const { value = null, expiresAt } = change
      const changes =
        expiresAt === undefined
          ? update(change.version, change.metadata, value, key, expected)
          : move(change.version, change.metadata, value, expiresAt, key, expected)
      if (changes === 1) return undefined
      const there = version(key)
      if (there === undefined) return 'gone'
      return there === change.version ? undefined : 'stale'
    },
    clear(name: string, expected: string | undefined, left: Mark | undefined): undefined | 'stale' {
      const key = bytes(name)
      if (left === undefined) {
        if (expected === undefined) remove(key)
        else if (removeVersion(key, expected) === 0) return 'stale'
        return undefined
      }
      const { version: fresh, metadata, expiresAt } = left
      if (expected === undefined) mark(fresh, metadata, expiresAt, key)
      else if (markVersion(fresh, metadata, expiresAt, key, expected) === 0 && version(key) !== fresh) return 'stale'
      return undefined
    },
    touch(name: string, expiresAt: number): undefined {
      touch(expiresAt, bytes(name), expiresAt)
    },
    sweep(now: number, limit: number, removed?: (entry: Removed) => void): number {
      const due = removed === undefined ? [] : (dueOwned.all(now, limit) as DueRow[])
      const swept = sweep(now, limit)
      // Another process may have moved an expiry in between.
      for (const [key, metadata, owner] of due)
        if (version(Buffer.from(key)) === undefined) removed?.({ key: keyOf(key), metadata, owner })
      return swept
    },
    scan(from: string | undefined, limit: number) {
      const entries = (part.all(bytes(from ?? ''), limit) as OwnedRow[]).map(keyed)
      return { entries, cursor: entries.length < limit ? undefined : entries.at(-1)?.key }
    },
    list: (owner: string) => (listOwned.all(owner) as OwnedRow[]).map(keyed),
    clearOwned(owner: string, except: string | undefined, left: Mark | undefined): number {
      const kept = except === undefined ? null : bytes(except)
      return left === undefined
        ? removeOwned(owner, kept)
        : markOwned(left.version, left.metadata, left.expiresAt, owner, kept)
    },
    /** The secret that is kept, which is `fresh` where there was none. Who finds one does not wait for other writers. */
    keepSecret(candidate: string): string {
      const kept = secret()
      if (kept !== undefined) return kept
      keepSecret(candidate)
      return secret() as string
    },
  }
}

export type Table = ReturnType<typeof tableIn>
