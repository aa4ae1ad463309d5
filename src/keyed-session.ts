// Sessions by key, without a middleware: eight functions on any backend, after ocaml-session's session.mli.

import { inspect } from 'node:util'
import type { Backend, Entry } from './backends/contract.ts'
import { isKey, labelOf, newKey, newVersion, storageKeys } from './crypto/keys.ts'
import { checkOptionNames, KeepsakeError, type Result } from './error.ts'
import {
  type CookieAttributes,
  checkName,
  checkPrefix,
  cookieValues,
  formatAttributes,
  formatSetCookie,
} from './http/cookie.ts'
import { frozenCopy, type Json } from './json.ts'
import { decodeMetadata, encodeMetadata, keyStatus, newMetadata } from './session/metadata.ts'

/**
 * `not_found`: no session has the key, or it expired or cannot be read. `not_set`: the session was created without a
 * value.
 */
export type LookupError = 'not_found' | 'not_set'

declare const keyedSession: unique symbol

/**
 * A session that these functions returned. Change it only with `set` and `clear`, which also update this object.
 */
export type KeyedSession<V = Json> = {
  readonly [keyedSession]: true
  /** The key: the secret in the browser's cookie. */
  readonly key: string
  /** Undefined if no value was set, and after `clear`. */
  readonly value: V | undefined
  /** Seconds from the last read or write until the session expires. 0 after `clear`. */
  readonly expiryPeriod: number
  /** Whether the response needs a Set-Cookie. `generate`, `set` and `clear` set it to true. */
  readonly modified: boolean
}

export type ClockOptions = {
  /** The current time in milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
}
export type ExpiryOptions = ClockOptions & {
  /**
   * Seconds until the session expires. Default: the backend's `defaultPeriod`, otherwise a week. 0 or less: it expires
   * at once.
   */
  readonly expiry?: number | undefined
}

/** A week in seconds: the default of every backend in ocaml-session. */
const WEEK = 604_800

const storageKey = storageKeys('keepsake-session')
const storageKeyOf = (key: string): string => storageKey(labelOf(key))

const periodOf = (backend: Backend, { expiry }: ExpiryOptions): number => {
  const period = expiry ?? backend.defaultPeriod ?? WEEK
  if (Number.isFinite(period)) return period
  throw new KeepsakeError('invalid_option', `The option expiry is ${inspect(period)}. It must be a number of seconds.`)
}

/** The latest time of a Date, in milliseconds since 1970. */
const LAST_TIME = 8.64e15

/** The time of the expiry in whole milliseconds, because a backend may not keep fractions. */
const expiryAfter = (time: number, period: number): number =>
  Math.min(Math.max(Math.ceil(time + period * 1000), -LAST_TIME), LAST_TIME)

/**
 * The value of an entry, or undefined if it is not JSON. The parser's error is dropped because it would quote the
 * value.
 */
const parseValue = <V>(text: string): { readonly value: V } | undefined => {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}

/** A plain object. Only its type has the symbol that prevents other code from creating one. */
const session = <V>(fields: Omit<KeyedSession<unknown>, typeof keyedSession>): KeyedSession<V> =>
  fields as KeyedSession<V>

const checkKeepsEntries = (backend: Backend): Backend => {
  if (!backend.stateless) return backend
  throw new KeepsakeError(
    'invalid_option',
    `The ${backend.name} backend keeps no entries, so these functions cannot use it. Use sessionManager(), or another backend.`,
  )
}

const timeOptions = ['expiry', 'now'] as const

/** The entry of a key. Undefined if it expired, or if the secret of the key is wrong. */
const findLive = async (backend: Backend, key: string, now: number): Promise<Entry | undefined> => {
  const entry = isKey(key) ? await checkKeepsEntries(backend).get(storageKeyOf(key)) : undefined
  const metadata = entry && decodeMetadata(entry.metadata)
  return metadata && now < entry.expiresAt && keyStatus(metadata, key, now) === 'current' ? entry : undefined
}

/**
 * The session of a key.
 *
 * @throws the errors of the backend
 */
export const ofKey = async <V = Json>(
  backend: Backend,
  key: string,
  options: ClockOptions = {},
): Promise<Result<KeyedSession<V>, LookupError>> => {
  checkOptionNames(options, timeOptions, 'ofKey()')
  const { now = Date.now } = options
  const time = Math.floor(now())
  const entry = await findLive(backend, key, time)
  if (entry === undefined) return { ok: false, error: 'not_found' }
  if (entry.value === undefined) return { ok: false, error: 'not_set' }
  const parsed = parseValue<V>(entry.value)
  if (parsed === undefined) return { ok: false, error: 'not_found' }
  return {
    ok: true,
    value: session({ key, ...parsed, expiryPeriod: (entry.expiresAt - time) / 1000, modified: false }),
  }
}

/**
 * The session whose key is in the cookie of this name. The value is undefined if there is no such cookie.
 *
 * @throws KeepsakeError `invalid_option` if `cookie` is no possible name, and errors of the backend
 */
export const ofHeader = async <V = Json>(
  backend: Backend,
  cookie: string,
  headers: Headers,
  options: ClockOptions = {},
): Promise<Result<KeyedSession<V> | undefined, LookupError>> => {
  const [key] = cookieValues(headers.get('cookie') ?? '', checkName(cookie), () => true)
  return key === undefined ? { ok: true, value: undefined } : ofKey(backend, key, options)
}

/**
 * The session of the Cookie header, or a new one with the value `initial` if there is none, or none with a value.
 *
 * @throws KeepsakeError `not_json`, `invalid_option`, and errors of the backend
 */
export const ofHeaderOrCreate = async <V>(
  backend: Backend,
  cookie: string,
  initial: V,
  headers: Headers,
  options: ExpiryOptions = {},
): Promise<KeyedSession<V>> => {
  const existing = await ofHeader<V>(backend, cookie, headers, options)
  return existing.ok && existing.value !== undefined ? existing.value : generate(backend, initial, options)
}

/**
 * Stores a new session. If it has no value, `ofKey` returns `not_set` until `set` gives it one.
 *
 * @throws KeepsakeError `not_json`, `invalid_option`, `key_collision`, and errors of the backend
 */
export const generate = async <V>(
  backend: Backend,
  value: V | undefined,
  options: ExpiryOptions = {},
): Promise<KeyedSession<V>> => {
  checkOptionNames(options, timeOptions, 'generate()')
  const { now = Date.now } = options
  const period = periodOf(backend, options)
  const copy = value === undefined ? undefined : frozenCopy(value, 'value')
  for (let tries = 0; tries < 3; tries++) {
    const key = newKey()
    const time = Math.floor(now())
    const outcome = await checkKeepsEntries(backend).generate(storageKeyOf(key), {
      value: copy === undefined ? undefined : JSON.stringify(copy),
      metadata: encodeMetadata(newMetadata(key, time, undefined, undefined, undefined)),
      expiresAt: expiryAfter(time, period),
      version: newVersion(),
    })
    if (outcome !== 'taken') return session({ key, value: copy, expiryPeriod: period, modified: true })
  }
  throw new KeepsakeError(
    'key_collision',
    'Three new keys in a row existed already. The random numbers of this machine are not random: check its random generator.',
  )
}

/**
 * Sets the value, and sets the expiry to `expiry` seconds from now, by default the backend's period. Without a value,
 * only the expiry changes. Of two concurrent calls the later one wins. If the session was cleared or expired, the
 * result is `not_found`, and neither the store nor `one` changes.
 *
 * @throws KeepsakeError `not_json`, `invalid_option`, and errors of the backend
 */
export const set = async <V>(
  backend: Backend,
  one: KeyedSession<V>,
  options: ExpiryOptions & { readonly value?: NoInfer<V> | undefined } = {},
): Promise<Result<void, 'not_found'>> => {
  checkOptionNames(options, [...timeOptions, 'value'], 'set()')
  const { now = Date.now, value } = options
  const period = periodOf(backend, options)
  const copy = value === undefined ? undefined : frozenCopy(value, 'value')
  for (;;) {
    const time = Math.floor(now())
    const entry = await findLive(backend, one.key, time)
    if (entry === undefined) return { ok: false, error: 'not_found' }
    const change = {
      value: copy === undefined ? entry.value : JSON.stringify(copy),
      metadata: entry.metadata,
      version: newVersion(),
      expiresAt: expiryAfter(time, period),
    }
    const outcome = await backend.set(storageKeyOf(one.key), change, entry.version)
    if (outcome === 'gone') return { ok: false, error: 'not_found' }
    if (outcome === 'stale') continue
    Object.assign(one, { ...(copy !== undefined && { value: copy }), expiryPeriod: period, modified: true })
    return { ok: true, value: undefined }
  }
}

/**
 * Ends the session. Its key opens nothing after that. `one` loses its value and its period, so `toCookieHeaders` clears
 * the cookie. It is no error if the session has ended already.
 *
 * @throws the errors of the backend
 */
export const clear = async (backend: Backend, one: KeyedSession): Promise<void> => {
  await checkKeepsEntries(backend).clear(storageKeyOf(one.key))
  Object.assign(one, { value: undefined, expiryPeriod: 0, modified: true })
}

export type CookieHeaderOptions = CookieAttributes & {
  /** true: the cookie has no Max-Age, so the browser deletes it when it closes. Default false. */
  readonly discard?: boolean | undefined
}

const VARY = ['Vary', 'Cookie'] as const
const attributeNames = ['domain', 'path', 'secure', 'httpOnly', 'sameSite', 'partitioned', 'priority'] as const
type Header = readonly [name: string, value: string]

/**
 * The headers that a response needs: always Vary, and Set-Cookie if the session was modified. After `clear`, the
 * Set-Cookie deletes the cookie, which requires the `path` and `domain` that it was set with.
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
 * The header that deletes a cookie. It requires the `path`, `domain` and prefix that the cookie was set with.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const clearHeaders = (cookie: string, attributes: CookieAttributes = {}): Header[] => {
  checkOptionNames(attributes, attributeNames, 'clearHeaders()')
  return [['Set-Cookie', formatSetCookie(checkPrefix(cookie, attributes), '', formatAttributes(attributes), 0)]]
}
