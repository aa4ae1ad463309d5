// The contract of a backend, the place where sessions are kept: types only.

import type { Awaitable } from '../error.ts'

/** The data that a backend keeps under one storage key. It may interpret `expiresAt`, `version` and `owner`, and nothing else. */
export type Entry = {
  /** The fields of the session as `JSON.stringify` prints them, so without a NUL or half of a surrogate pair. Undefined: the session was created, and its fields were never set. */
  readonly value: string | undefined
  /** Text that keepsake keeps about the session: ASCII without line breaks, at most 400 characters. Store it, never read it. */
  readonly metadata: string
  /** Whole milliseconds since 1970. The session is alive while now < expiresAt. keepsake checks this after each `get`. */
  readonly expiresAt: number
  /** Eight characters of base64url. keepsake chooses a new one for each write. */
  readonly version: string
  /** Only from a stateless backend: the label with which the session was generated. */
  readonly label?: string
  /** The account of the session: the namespace of the application, a colon, the name of the account. An entry never changes its owner. */
  readonly owner?: string | undefined
}

/** An entry and its storage key. */
export type KeyedEntry = Entry & { readonly key: string }

/**
 * A small entry that `clear` puts in the place of the entry that it removes, so that requests in progress learn that the
 * session has ended. It has no value and no owner.
 */
export type Mark = Pick<Entry, 'metadata' | 'expiresAt' | 'version'>

/** Finds entries by their owner. Owners are equal only if all their characters are: `Anna` and `anna` are two owners. */
export type OwnerIndex = {
  /** The entries of an owner with their keys, in any order. Expired entries may be among them. */
  list(owner: string): Awaitable<readonly KeyedEntry[]>
  /**
   * Removes all entries of an owner, except the entry of the key `except`, and returns how many it removed. With `mark`,
   * the mark replaces each of them. Every entry that existed when the call began is gone when the call ends. A concurrent
   * `generate` counts as before the call or as after it.
   */
  clear(owner: string, except?: string, mark?: Mark): Awaitable<number>
}

/** An entry with an owner that a sweep has removed. */
export type Removed = { readonly key: string; readonly metadata: string; readonly owner: string }

/** The values that `set` writes. Without `expiresAt` the expiry stays as it is. */
export type Change = {
  readonly value: string | undefined
  readonly metadata: string
  readonly version: string
  readonly expiresAt?: number
}

/** One page of a scan. */
export type ScanPage = {
  readonly entries: readonly KeyedEntry[]
  /** Continues the scan. Undefined: this was the last page. */
  readonly cursor: string | undefined
}

/**
 * The new value of the session cookie. Only a stateless backend returns one, because its key is the session itself.
 * keepsake refuses it from any other backend.
 */
export type Held = { readonly held: string }

/**
 * Keeps sessions in a place. A storage key has 1 to 64 characters of `A-Z a-z 0-9 _ - .`, for example
 * `sid.Q2hhcmxvdHRl`: the namespace of the application, a dot, the label of the session. Upper and lower case differ, so
 * `sid.a` and `sid.A` are two keys.
 *
 * Each operation is atomic, or throws. After an error keepsake assumes that the operation may have happened or not.
 * A missing entry is no error: the operations return a value for it. A driver may send an operation twice, so a second
 * `generate`, `set` or `clear` with the same new version does nothing and returns undefined again.
 */
export type Backend = {
  /** A name for messages, for example `sqlite`. */
  readonly name: string
  /**
   * The backend stores nothing: its key is the session itself, as the browser keeps it, `name=value`. The value is bound to
   * the name of the cookie. There is nothing to compare with, so `set` accepts any version, and earlier keys still open.
   * keepsake calls `generate` with the name and a fresh key, whose first 12 characters are the label.
   */
  readonly stateless?: true
  /**
   * A stateless backend that remembers which sessions have ended, so that `clear` ends every copy of a key. keepsake may
   * call `clear` with `name=label` too, in the place of `name=value`.
   */
  readonly revocable?: true
  /**
   * The backend for the sessions of another namespace, on the same secrets and ends. A key of one namespace opens nothing in
   * another, and its end is an end in its own namespace alone. A stateless backend needs it if the option `namespace` of a
   * manager is a function. Absent if the backend stores entries, because their storage keys contain the namespace.
   */
  forNamespace?(namespace: string): Backend
  /** Seconds: how long a session of `keepsake/session` lives if its caller passes no expiry. */
  readonly defaultPeriod?: number
  /** Returns the entry, also if it has expired. A backend may forget an entry once it has expired, never earlier. */
  get(key: string): Awaitable<Entry | undefined>
  /**
   * Inserts an entry if the key has none.
   *
   * @returns undefined: the entry is stored. `taken`: the key has an entry with another version, which stays as it is. An
   *   expired entry may be replaced or count as taken. `gone`: a concurrent `byOwner.clear` removed the new entry.
   */
  generate(key: string, entry: Entry): Awaitable<Held | undefined | 'taken' | 'gone'>
  /**
   * Replaces the entry that has this version.
   *
   * @returns undefined: the change is stored, also if the entry already has the version of the change. `stale`: the entry
   *   has another version and stays as it is. `gone`: the key has no entry, and still has none.
   */
  set(key: string, change: Change, version: string): Awaitable<Held | undefined | 'stale' | 'gone'>
  /**
   * Removes the entry. With `version`, only the entry that has it. With `mark`, the mark replaces the entry in the same
   * step: `get` returns the mark, `set` finds another version, no owner has it. No mark is left if there was no entry.
   *
   * A stateless backend that is `revocable` returns the mark for every copy of the key until the mark expires, and then
   * undefined.
   *
   * @returns undefined: the key has no entry any more, or the mark. `stale`: `version` was given, and the key has no entry
   *   with it (of a stateless backend: another mark was kept first).
   */
  clear(key: string, version?: string, mark?: Mark): Awaitable<undefined | 'stale'>
  /** Moves the expiry forward, never back, and changes nothing else: the version stays. Without an entry it does nothing. */
  touch(key: string, expiresAt: number): Awaitable<Held | undefined>
  /**
   * Waits until the present state of this key, entry or no entry, survives the loss of a server. Throws if it may not.
   * Absent if every answer of the backend is durable already.
   */
  ensureDurable?(key: string): Awaitable<void>
  /**
   * Removes at most `limit` entries that have expired at `now`, and returns how many. Calls `removed` for each of them that
   * had an owner, after its removal. Absent if the store removes expired entries by itself.
   */
  sweep?(now: number, limit: number, removed?: (entry: Removed) => void): Awaitable<number>
  /**
   * Stores `candidate` as the secret of the application if the store has none, and returns the stored one: the same to
   * every process. Only for a store that nobody else can read. If absent, the application must pass the option `secret`.
   */
  keepSecret?(candidate: string): Awaitable<string>
  /**
   * Returns about `limit` entries, in any order, and a cursor for the next page. Without a cursor the scan starts. An entry
   * that exists during the whole scan is returned at least once. The scan ends although requests change entries
   * concurrently. An unknown cursor starts the scan again. Absent if the backend stores nothing.
   */
  scan?(cursor: string | undefined, limit: number): Awaitable<ScanPage>
  /**
   * Checks whether the store may forget entries before they expire. `use` names its entries: sessions, or the ends of
   * sessions for a `cookie:` backend. Returns a warning, or undefined. It may throw while the store is down. If ends may be
   * forgotten it must throw, because a session that has ended would open again. Absent if the store never forgets.
   *
   * @throws KeepsakeError `invalid_option`
   */
  check?(use: 'sessions' | 'ends'): Awaitable<string | undefined>
  /** Absent if the backend cannot find entries by their owner. A stateless backend cannot. */
  readonly byOwner?: OwnerIndex
  /** Releases connections and files. */
  close?(): Awaitable<void>
}
