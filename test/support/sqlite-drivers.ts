// The drivers that open a SQLite database for an application, with the options that change their rows.

import { DatabaseSync } from 'node:sqlite'
import Better from 'better-sqlite3'
import type { sqliteBackend } from 'keepsake/sqlite'
import Libsql from 'libsql'

/** An open database, with the members that the tests use. */
export type Live = Exclude<Parameters<typeof sqliteBackend>[0], string> & { close(): unknown }

export const drivers: Readonly<Record<string, (path: string) => Live>> = {
  'node:sqlite': (path) => new DatabaseSync(path),
  'better-sqlite3': (path) => new Better(path),
  libsql: (path) => new Libsql(path),
  'node:sqlite with bigints and arrays': (path) => new DatabaseSync(path, { readBigInts: true, returnArrays: true }),
  'better-sqlite3 with bigints': (path) => new Better(path).defaultSafeIntegers(true),
}
