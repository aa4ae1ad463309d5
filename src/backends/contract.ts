// The contract of a backend, the place where sessions are kept: types only.

import type { Awaitable } from '../error.ts'

/** What a backend keeps under one key. All of it is opaque to the backend but the expiry, the version and the owner. */
export type Entry = {
  /** The session's fields as JSON.stringify prints them, so never a NUL or half a character. Undefined: begun, never set. */
  readonly value: string | undefined
  /** The layer above's own words about the entry: ASCII, at most 400 characters. */
  readonly metadata: string
  /** Whole milliseconds since 1970. The session is alive while now < expiresAt; the layer above judges that. */
  readonly expiresAt: number
  /** Chosen above, new for every `set`: eight characters of base64url. */
  readonly version: string
  /** Of a stateless backend only: the label under which the session was generated. */
  readonly label?: string
  /** The account that the session belongs to: the namespace of the application, a colon, and the name of the account. Never changes within an entry. */
  readonly owner?: string | undefined
}

/**
 * The entry that `clear` leaves in the place of the one it removes, so that a request that was under way with the old
 * key can be told that its session has ended. It has no value and no owner.
 */
export type Mark = Pick<Entry, 'metadata' | 'expiresAt' | 'version'>

/** The sessions of an account: for a backend that can find entries by their owner. */
export type OwnerIndex = {
  /** An owner's entries with their keys, expired ones perhaps among them. */
  list(owner: string): Awaitable<readonly (Entry & { readonly key: string })[]>
  /**
   * Removes an owner's entries, but the one of the key `except`, and says how many. None that was there when it began
   * is there when it is over; one that is generated meanwhile counts as before it or as after it, as a whole. With
   * `mark`, that entry takes the place of each.
   */
  clear(owner: string, except?: string, mark?: Mark): Awaitable<number>
}

/** An entry of an owner that a sweep has removed. */
export type Removed = { readonly key: string; readonly metadata: string; readonly owner: string }

/** What `set` writes. Without `expiresAt` the expiry stays as it is. */
export type Change = {
  readonly value: string | undefined
  readonly metadata: string
  readonly version: string
  readonly expiresAt?: number
}

/** A part of all entries. */
export type ScanPage = {
  readonly entries: readonly (Entry & { readonly key: string })[]
  readonly cursor: string | undefined
}

/**
 * The new value of the client's cookie. Only a stateless backend gives one, because its key is the session itself. From
 * any other backend it is refused.
 */
export type Held = { readonly held: string }

/**
 * Where sessions are kept. A key has 1 to 64 characters of `A-Z a-z 0-9 _ - .`, for example `sid.Q2hhcmxvdHRl`: the
 * namespace of the application and the label of the session. Keys that differ in the case of a letter are two keys.
 *
 * Each operation takes effect at once and as a whole, or throws. A client's doings never make it throw: absence is a
 * value. After an error the outcome may be either way, and the layer above says so.
 */
export type Backend = {
  /** For messages: `sqlite`. */
  readonly name: string
  /**
   * The key is the session itself, as the client holds it: `name=value`, the name of the cookie bound into the value.
   * Nothing is kept, so nothing can be compared: `set` takes any version, and older keys stay good. `generate` is
   * called with the name and a fresh key, whose first 12 characters are the label.
   */
  readonly stateless?: true
  /**
   * A stateless backend that keeps the ends of sessions, so that `clear` is one for every copy of a key. It may be
   * called with the label in the place of the value, too.
   */
  readonly revocable?: true
  /** Seconds: how long a session of `keepsake/session` lives where its caller names no expiry. */
  readonly defaultPeriod?: number
  /** The entry, expired or not. A backend may forget an entry once it has expired, never before. */
  get(key: string): Awaitable<Entry | undefined>
  /**
   * Inserts an entry where there is none. `taken`: there is one, and it stays as it was; unless it has this very
   * version: then a driver sent twice, and the answer is as at the first time. An entry that has expired may be
   * replaced, or be in the way. `gone`: the owner's entries were cleared meanwhile, and this one is not there.
   */
  generate(key: string, entry: Entry): Awaitable<Held | undefined | 'taken' | 'gone'>
  /**
   * Replaces the entry that has `version`. `stale`: it has another, and stays as it was; unless it has the version of
   * the change itself: then a driver sent twice, and it is done. `gone`: there is none, and there is none afterwards.
   */
  set(key: string, change: Change, version: string): Awaitable<Held | undefined | 'stale' | 'gone'>
  /**
   * Removes the entry. With `version`, only one that has it, and else `stale`, also where there is none. With `mark`, that
   * entry takes its place, in the same step: `get` gives it, `set` finds another version there, and no owner has it. Where
   * there is no entry, none is left. Where the version there is the mark's own, a driver sent twice, and it is done.
   *
   * A stateless backend that keeps ends gives the mark for every copy of the key until the mark expires, then nothing.
   * With `version`, it answers `stale` where another mark is kept already.
   */
  clear(key: string, version?: string, mark?: Mark): Awaitable<undefined | 'stale'>
  /** Moves the expiry and nothing else: only forward, only where there is an entry. The version stays. */
  touch(key: string, expiresAt: number): Awaitable<Held | undefined>
  /**
   * Waits until what is under this key, or that nothing is, cannot be undone any more by the loss of a server. Throws
   * where it may be. Absent where what was answered stays so.
   */
  ensureDurable?(key: string): Awaitable<void>
  /**
   * Removes at most `limit` entries that have expired at `now`, and says how many. `removed` is called for each of them
   * that had an owner, once it is gone. Absent where expiry needs no help.
   */
  sweep?(now: number, limit: number, removed?: (entry: Removed) => void): Awaitable<number>
  /**
   * Keeps `fresh` as the secret of this store if it keeps none yet, and gives the kept one: the same to every process.
   * Only for a store that nobody else can read. Without it, the application must configure a secret.
   */
  keepSecret?(candidate: string): Awaitable<string>
  /**
   * Some entries with their keys, about `limit`, in any order; and from where to go on, undefined at the end. Without a
   * cursor, from the start. An entry that is there all the while is given at least once. A cursor that is not known any
   * more begins at the start. Absent where nothing is kept.
   */
  scan?(cursor: string | undefined, limit: number): Awaitable<ScanPage>
  /**
   * Looks whether the store may forget what is kept in it before it expires: sessions, or the ends of sessions. Gives a
   * warning in words, or undefined; it may throw while the store is down. Where ends would be forgotten, it has to throw:
   * a session that has ended would open again. Absent where nothing is ever forgotten.
   *
   * @throws KeepsakeError `invalid_option`
   */
  check?(use: 'sessions' | 'ends'): Awaitable<string | undefined>
  /** Absent where entries cannot be found by their owner: a stateless backend keeps none. */
  readonly byOwner?: OwnerIndex
  close?(): Awaitable<void>
}
