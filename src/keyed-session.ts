// The seed's Session.S: eight functions on any backend, for who wants no middleware (ocaml-session's session.mli).

import type { Backend, Entry } from './backends/contract.ts'
import { isKey, labelOf, newKey, newVersion, storageKeys } from './crypto/keys.ts'
import { checkOptionNames, KeepsakeError, type Result } from './error.ts'
import {
  type CookieAttributes,
  checkPrefix,
  cookieValues,
  formatAttributes,
  formatSetCookie,
  possibleName,
} from './http/cookie.ts'
import { frozenCopy, type Json } from './json.ts'
import { decodeMetadata, encodeMetadata, keyStatus, newMetadata } from './session/metadata.ts'

/** `not_found`: no session has the key, or it has expired, or cannot be read. `not_set`: it was begun, and no value was ever set. */
export type LookupError = 'not_found' | 'not_set'

declare const made: unique symbol

/**
 * A session as these functions made it: read it, and change it through `set` and `clear` alone. What changes there
 * changes here.
 */
export type KeyedSession<V = Json> = {
  readonly [made]: true
  /** The secret that the client holds, in its cookie. */
  readonly key: string
  /** Undefined where none was set, and after `clear`. */
  readonly value: V | undefined
  /** Seconds from the last look at the backend to the session's end. 0 after `clear`. */
  readonly expiryPeriod: number
  /** Whether the client has to be told: set by `generate`, `set` and `clear`. */
  readonly modified: boolean
}

export type ClockOptions = {
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
}
export type ExpiryOptions = ClockOptions & {
  /** Seconds from now. Default: the backend's period, a week where it has none. 0 or less: over at once. */
  readonly expiry?: number | undefined
}

/** Seconds: ocaml-session's default of all backends. */
const WEEK = 604_800

const storageKey = storageKeys('keepsake-session')
const storageKeyOf = (key: string): string => storageKey(labelOf(key))

const periodOf = (backend: Backend, { expiry }: ExpiryOptions): number => {
  const period = expiry ?? backend.defaultPeriod ?? WEEK
  if (Number.isFinite(period)) return period
  throw new KeepsakeError('invalid_option', 'expiry has to be a number of seconds.')
}

/** Milliseconds: the last moment that a Date can name. */
const LAST = 8.64e15

/** Whole milliseconds, because a backend may keep no others. What is over at once is over already. */
const endOf = (time: number, period: number): number => Math.min(Math.max(Math.ceil(time + period * 1000), -LAST), LAST)

/** What an entry keeps, or undefined where that is no JSON. The error of the parser would quote it. */
const readable = <V>(text: string): { readonly value: V } | undefined => {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}

/** A plain object: only the type has the mark that no other code can make one. */
const session = <V>(fields: Omit<KeyedSession<unknown>, typeof made>): KeyedSession<V> => fields as KeyedSession<V>

const keptBy = (backend: Backend): Backend => {
  if (!backend.stateless) return backend
  throw new KeepsakeError(
    'invalid_option',
    `The ${backend.name} backend keeps nothing under a key; sessionManager() can use it.`,
  )
}

/** The options that say when, and for how long. */
const timing = ['expiry', 'now'] as const

/** The live entry of a key: one that has another secret, or is over, is none. */
const found = async (backend: Backend, key: string, now: number): Promise<Entry | undefined> => {
  const entry = isKey(key) ? await keptBy(backend).get(storageKeyOf(key)) : undefined
  const metadata = entry && decodeMetadata(entry.metadata)
  return metadata && now < entry.expiresAt && keyStatus(metadata, key, now) === 'current' ? entry : undefined
}

/**
 * The session of a key.
 *
 * @throws whatever the backend throws
 */
export const ofKey = async <V = Json>(
  backend: Backend,
  key: string,
  options: ClockOptions = {},
): Promise<Result<KeyedSession<V>, LookupError>> => {
  checkOptionNames(options, timing, 'ofKey()')
  const { now = Date.now } = options
  const time = Math.floor(now())
  const entry = await found(backend, key, time)
  if (entry === undefined) return { ok: false, error: 'not_found' }
  if (entry.value === undefined) return { ok: false, error: 'not_set' }
  const kept = readable<V>(entry.value)
  if (kept === undefined) return { ok: false, error: 'not_found' }
  return { ok: true, value: session({ key, ...kept, expiryPeriod: (entry.expiresAt - time) / 1000, modified: false }) }
}

/**
 * The session whose key is in the Cookie header under `cookie`; undefined where there is no such cookie.
 *
 * @throws KeepsakeError `invalid_option` for a name that no cookie can have, and whatever the backend throws
 */
export const ofHeader = async <V = Json>(
  backend: Backend,
  cookie: string,
  headers: Headers,
  options: ClockOptions = {},
): Promise<Result<KeyedSession<V> | undefined, LookupError>> => {
  const [key] = cookieValues(headers.get('cookie') ?? '', possibleName(cookie), () => true)
  return key === undefined ? { ok: true, value: undefined } : ofKey(backend, key, options)
}

/**
 * The session of the Cookie header, or a new one with the value `usual` where there is none that is found and set.
 *
 * @throws KeepsakeError `not_json`, `invalid_option`, and whatever the backend throws
 */
export const ofHeaderOrCreate = async <V>(
  backend: Backend,
  cookie: string,
  usual: V,
  headers: Headers,
  options: ExpiryOptions = {},
): Promise<KeyedSession<V>> => {
  const known = await ofHeader<V>(backend, cookie, headers, options)
  return known.ok && known.value !== undefined ? known.value : generate(backend, usual, options)
}

/**
 * Stores a new session. Without a value it is begun: `ofKey` says `not_set` until `set` gives it one.
 *
 * @throws KeepsakeError `not_json`, `invalid_option`, `key_collision`, and whatever the backend throws
 */
export const generate = async <V>(
  backend: Backend,
  value: V | undefined,
  options: ExpiryOptions = {},
): Promise<KeyedSession<V>> => {
  checkOptionNames(options, timing, 'generate()')
  const { now = Date.now } = options
  const period = periodOf(backend, options)
  const copy = value === undefined ? undefined : frozenCopy(value, 'value')
  for (let tries = 0; tries < 3; tries++) {
    const key = newKey()
    const time = Math.floor(now())
    const taken = await keptBy(backend).generate(storageKeyOf(key), {
      value: copy === undefined ? undefined : JSON.stringify(copy),
      metadata: encodeMetadata(newMetadata(key, time, undefined, undefined, undefined)),
      expiresAt: endOf(time, period),
      version: newVersion(),
    })
    if (taken !== 'taken') return session({ key, value: copy, expiryPeriod: period, modified: true })
  }
  throw new KeepsakeError(
    'key_collision',
    'Three fresh keys in a row were taken: the random numbers of this machine are not random.',
  )
}

/**
 * Sets the value, and lets the session end `expiry` seconds from now: without `expiry`, after the backend's period.
 * Without a value only the end moves. Of two who set at once the later wins; but nobody sets what was cleared or is
 * over: that is `not_found`, and changes nothing, here or there.
 *
 * @throws KeepsakeError `not_json`, `invalid_option`, and whatever the backend throws
 */
export const set = async <V>(
  backend: Backend,
  one: KeyedSession<V>,
  options: ExpiryOptions & { readonly value?: NoInfer<V> | undefined } = {},
): Promise<Result<void, 'not_found'>> => {
  checkOptionNames(options, [...timing, 'value'], 'set()')
  const { now = Date.now, value } = options
  const period = periodOf(backend, options)
  const copy = value === undefined ? undefined : frozenCopy(value, 'value')
  for (;;) {
    const time = Math.floor(now())
    const entry = await found(backend, one.key, time)
    if (entry === undefined) return { ok: false, error: 'not_found' }
    const change = {
      value: copy === undefined ? entry.value : JSON.stringify(copy),
      metadata: entry.metadata,
      version: newVersion(),
      expiresAt: endOf(time, period),
    }
    const outcome = await backend.set(storageKeyOf(one.key), change, entry.version)
    if (outcome === 'gone') return { ok: false, error: 'not_found' }
    if (outcome === 'stale') continue
    Object.assign(one, { ...(copy !== undefined && { value: copy }), expiryPeriod: period, modified: true })
    return { ok: true, value: undefined }
  }
}

/**
 * Ends the session. Its key opens nothing from then on; the value and the period are gone from `one`, and
 * `toCookieHeaders` clears the cookie. A session that has ended already is no error.
 *
 * @throws whatever the backend throws
 */
export const clear = async (backend: Backend, one: KeyedSession): Promise<void> => {
  await keptBy(backend).clear(storageKeyOf(one.key))
  Object.assign(one, { value: undefined, expiryPeriod: 0, modified: true })
}

export type CookieHeaderOptions = CookieAttributes & {
  /** Without Max-Age: the browser forgets the cookie when it is closed. */
  readonly discard?: boolean | undefined
}

const VARY = ['Vary', 'Cookie'] as const
const attributeNames = ['domain', 'path', 'secure', 'httpOnly', 'sameSite', 'partitioned', 'priority'] as const
type Header = readonly [name: string, value: string]

/**
 * The headers that a response needs: Vary always, Set-Cookie where the session was modified. After `clear` it removes
 * the cookie, which takes the same `path` and `domain` that it was set with.
 *
 * @throws KeepsakeError `invalid_option` for a name or attributes that a browser would refuse
 */
export const toCookieHeaders = (cookie: string, one: KeyedSession, options: CookieHeaderOptions = {}): Header[] => {
  checkOptionNames(options, [...attributeNames, 'discard'], 'toCookieHeaders()')
  const { discard = false, ...attributes } = options
  if (!one.modified) return [VARY]
  if (one.expiryPeriod === 0) return [...clearHeaders(cookie, attributes), VARY]
  const maxAge = discard ? undefined : one.expiryPeriod
  return [
    ['Set-Cookie', formatSetCookie(checkPrefix(cookie, attributes), one.key, formatAttributes(attributes), maxAge)],
    VARY,
  ]
}

/**
 * The header that removes a cookie set with the same `path`, `domain` and prefix.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const clearHeaders = (cookie: string, attributes: CookieAttributes = {}): Header[] => {
  checkOptionNames(attributes, attributeNames, 'clearHeaders()')
  return [['Set-Cookie', formatSetCookie(checkPrefix(cookie, attributes), '', formatAttributes(attributes), 0)]]
}
