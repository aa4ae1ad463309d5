// The table of sessions in a SQL database: its checked name, and its rows as entries.

import { KeepsakeError } from '../../error.ts'
import type { Backend, Entry, ScanPage } from '../contract.ts'

/** A backend in a table of a database. */
export type SqlBackend = Backend & {
  /** The statements that create the table and its indexes, for an application with migrations of its own. */
  schema(): string
  /**
   * Creates the table if it does not exist. Any number of processes may call it concurrently, and any number of times.
   *
   * @throws KeepsakeError `unavailable` if the account may not create tables
   */
  migrate(): Promise<void>
}

/** PostgreSQL names have 63 characters: 48 leave room for the names of the indexes, which begin with the table's. */
const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,47}$/

/**
 * The name of a table, or of a schema and a table, between quotes. No other text is ever put into a statement: all values
 * are parameters.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const quoteTable = (table: unknown, quote: '"' | '`'): string => {
  const parts = typeof table === 'string' ? table.split('.') : []
  if (parts.length > 0 && parts.length <= 2 && parts.every((part) => NAME.test(part))) {
    return parts.map((part) => quote + part + quote).join('.')
  }
  throw new KeepsakeError(
    'invalid_option',
    `table must be a name such as 'keepsake_sessions' or 'auth.keepsake_sessions', but is ${JSON.stringify(table)}. Each part may have at most 48 letters, digits and _, and must not begin with a digit.`,
  )
}

/** A text, which some drivers return as bytes. */
export const textOf = (value: unknown): string =>
  typeof value === 'string' ? value : Buffer.from(value as Uint8Array).toString('utf8')

/**
 * Value, metadata, expiry, version, owner, and the key if the statement selects it. Rows are arrays because a driver may
 * rename columns.
 */
export type Row = readonly unknown[]

export const entryOf = ([value, metadata, expiresAt, version, owner]: Row): Entry => ({
  value: value === null ? undefined : textOf(value),
  metadata: textOf(metadata),
  // A bigint column arrives as a text, a bigint or a number, depending on the driver.
  expiresAt: Number(expiresAt),
  version: textOf(version),
  owner: owner === null ? undefined : textOf(owner),
})

/** Entries with their keys. */
export const keyedEntries = (rows: readonly Row[]): ScanPage['entries'] =>
  rows.map((row) => ({ ...entryOf(row), key: textOf(row[5]) }))

/** One page of all entries. They are in the order of their keys, so the last key is the cursor of the next page. */
export const scanPage = (rows: readonly Row[], limit: number): ScanPage => {
  const entries = keyedEntries(rows)
  return { entries, cursor: entries.length < limit ? undefined : entries.at(-1)?.key }
}
