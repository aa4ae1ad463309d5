// What the backends in SQL databases share: checked names, second tries, tables that are made before their first use.

import { KeepsakeError, messageOf } from '../../error.ts'
import type { Backend, Entry, ScanPage } from '../contract.ts'

/** A backend in a table of a database. */
export type SqlBackend = Backend & {
  /** The statements that make the table and its indexes, for who keeps a schema in migrations. */
  schema(): string
  /**
   * Makes the table where it is missing. Any number of processes may do so at once, and any number of times.
   *
   * @throws KeepsakeError `unavailable` where the account may not
   */
  migrate(): Promise<void>
}

/** The index of an owner, and PostgreSQL's own names of indexes, need room behind it. */
const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,47}$/

/**
 * A table's name between quotes, the name of its schema before it, if there is one. No other text than this is ever put
 * into a statement: values are parameters.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const quoted = (table: unknown, quote: '"' | '`'): string => {
  const parts = typeof table === 'string' ? table.split('.') : []
  if (parts.length > 0 && parts.length <= 2 && parts.every((part) => NAME.test(part))) {
    return parts.map((part) => quote + part + quote).join('.')
  }
  throw new KeepsakeError(
    'invalid_option',
    "table has to be a name such as 'keepsake_sessions' or 'auth.keepsake_sessions': letters, digits and _, at most 48.",
  )
}

/** A text as drivers give it, in characters or in bytes. */
export const textOf = (bytes: unknown): string =>
  typeof bytes === 'string' ? bytes : Buffer.from(bytes as Uint8Array).toString('utf8')

/** Value, head, expiry, version, owner, and where it is asked for, key: in arrays, because drivers may rename columns. */
export type Row = readonly unknown[]

export const entryOf = ([value, metadata, expiresAt, version, owner]: Row): Entry => ({
  value: value === null ? undefined : textOf(value),
  metadata: textOf(metadata),
  // A text, a bigint or a number: every driver has its own idea of eight bytes.
  expiresAt: Number(expiresAt),
  version: textOf(version),
  owner: owner === null ? undefined : textOf(owner),
})

/** The bytes of a key, and the key of bytes. @internal */
export const bytesOf = (key: string): Buffer => Buffer.from(key, 'base64url')
export const keyOf = (bytes: unknown): string => Buffer.from(bytes as Uint8Array).toString('base64url')

/** Entries with their keys. */
export const keyed = (rows: readonly Row[]): ScanPage['entries'] =>
  rows.map((row) => ({ ...entryOf(row), key: keyOf(row[5]) }))

/** A part of all entries in the order of their keys, so that the last one says where to go on. */
export const scanned = (rows: readonly Row[], limit: number): ScanPage => {
  const entries = keyed(rows)
  return { entries, cursor: entries.length < limit ? undefined : entries.at(-1)?.key }
}

/** A property of whatever was thrown. */
export const property = (error: unknown, name: string): unknown =>
  typeof error === 'object' && error !== null ? (error as Record<string, unknown>)[name] : undefined

const TRIES = 3

/** Tries again, three times at most, what the database undid because it was in the way of others. */
export const retry = async <T>(attempt: () => Promise<T>, undone: (error: unknown) => boolean): Promise<T> => {
  for (let left = TRIES; ; left--) {
    try {
      return await attempt()
    } catch (error) {
      if (left === 0 || !undone(error)) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 30))
  }
}

const hushed = new WeakSet<object>()
const ignore = () => {}

/**
 * Hears the errors of a client and of the connections that its pool makes, because an emitter whose errors nobody hears
 * ends the process. A call that fails says so itself.
 */
export const ignoreErrorEvents = (client: object): void => {
  const { on } = client as { on?: unknown }
  if (typeof on !== 'function' || hushed.has(client)) return
  hushed.add(client)
  on.call(client, 'error', ignore)
  on.call(client, 'connection', ignoreErrorEvents)
}

/** A refusal by the database, or on the way to it, that surely changed nothing. `help` says what to do about it. */
export const refused = (database: string, error: unknown, help = 'See whether it is up.'): KeepsakeError => {
  const why = messageOf(error) || String(property(error, 'code'))
  return new KeepsakeError(
    'unavailable',
    `${database} refused: ${why.replace(/\.?$/, '.')} Nothing was changed. ${help}`,
    {
      cause: error,
    },
  )
}

/** A transaction of the application, or the lack of autocommit, that sessions would not survive. */
export const OUTSIDE =
  'The connection is in a transaction of the application, which might take back what sessions save. Give sessions a pool of their own.'

/** A statement whose transaction is not over. Somebody else decides what becomes of it. */
export const undecided = (): Error => new Error(OUTSIDE)

/** How many connections a process makes at most, where nobody says. */
const CONNECTIONS = 10

/**
 * The number of connections that an option or the parameter `connections` of a URL gives, and the URL without it.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const withConnections = (url: string, option: number | undefined): { url: string; connections: number } => {
  const parsed = URL.parse(url)
  const parameter = parsed?.searchParams.get('connections')
  const connections = option ?? (parameter == null ? CONNECTIONS : Number(parameter || Number.NaN))
  if (!Number.isSafeInteger(connections) || connections < 1) {
    throw new KeepsakeError(
      'invalid_option',
      `connections has to be a whole number of at least 1, not ${JSON.stringify(option ?? parameter)}.`,
    )
  }
  if (parsed == null || parameter == null) return { url, connections }
  parsed.searchParams.delete('connections')
  return { url: parsed.href, connections }
}

/**
 * What `make` makes of a URL. The URL may hold a password, so that no error of the driver about it is passed on.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const fromUrl = <T>(url: string, make: () => T): T => {
  try {
    new URL(url)
    return make()
  } catch (error) {
    const [scheme] = url.split(':', 1)
    throw new KeepsakeError(
      'invalid_option',
      `This ${scheme}: URL cannot be read (${property(error, 'code') ?? 'no code'}). It has to look like ${scheme}://user:password@host/database, special characters in the password percent-encoded.`,
    )
  }
}

/**
 * A backend that makes its table before its first use, and closes with `end`. It connects to nothing until then. Where
 * the database answers that this account may not make tables, as `forbidden` says, another may have made this one.
 */
export const withAutoMigrate = (
  backend: SqlBackend,
  forbidden: (error: unknown) => boolean,
  end: () => Promise<unknown>,
): SqlBackend => {
  let made = false
  let making: Promise<void> | undefined
  let ended: Promise<void> | undefined

  const make = async () => {
    try {
      await backend.migrate()
    } catch (error) {
      if (!forbidden(property(error, 'cause'))) throw error
      const there = async () => backend.get('A'.repeat(43))
      await there().catch(() => {
        throw error
      })
    }
    made = true
  }
  const first = (): Promise<void> => {
    making ??= make().finally(() => {
      making = undefined
    })
    return making
  }
  const then =
    <A extends unknown[], R>(call: (...args: A) => R) =>
    (...args: A): R | Promise<Awaited<R>> =>
      made ? call(...args) : first().then(() => call(...args) as Awaited<R>)

  return {
    ...backend,
    get: then(backend.get),
    generate: then(backend.generate),
    set: then(backend.set),
    clear: then(backend.clear),
    touch: then(backend.touch),
    ...(backend.sweep && { sweep: then(backend.sweep) }),
    ...(backend.scan && { scan: then(backend.scan) }),
    ...(backend.byOwner && { byOwner: { list: then(backend.byOwner.list), clear: then(backend.byOwner.clear) } }),
    async close() {
      ended ??= end().then(ignore)
      await ended
    },
  }
}
