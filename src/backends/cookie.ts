// Keeps sessions in the browser's cookie, sealed. Only the ends of sessions may be stored, in another backend.

import { LABEL_LENGTH, newVersion, storageKeys, VERSION_LENGTH } from '../crypto/keys.ts'
import { type KeyRing, keyRing } from '../crypto/seal.ts'
import { type Awaitable, chain, checkOptionNames, KeepsakeError } from '../error.ts'
import { decodeMetadata } from '../session/metadata.ts'
import type { Backend, Entry, Held, Mark } from './contract.ts'
import { checkedEnds } from './ends.ts'

export type CookieBackendOptions = {
  /** 32 random bytes or more, or a list of such secrets, newest first: the first one seals, all of them open. */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[] | undefined
  /**
   * Separates applications that share a secret. Default none. If the option `namespace` of the manager is a function, the
   * manager uses the namespaces of its requests instead.
   */
  readonly namespace?: string | undefined
  /** The backend that remembers ends, so that a logout ends every copy of the cookie. Without it a logout only deletes the browser's. */
  readonly ends?: Backend | undefined
  /**
   * Seconds after the creation of a session after which none of its cookies opens, so that its end can be forgotten.
   * Default 400 days, the most that `sessionManager` allows. Pass the `absoluteTimeout` of `sessionManager`, so that ends are
   * kept no longer than necessary (`backendFromUrl` does it for you). Each new session seals the value into its cookie, so
   * a change affects only later sessions. The `absoluteTimeout` of a login has precedence.
   */
  readonly absoluteTimeout?: number | undefined
  /** Milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
}

/**
 * The content of a cookie. `endsAt` is set when the session is created, and every later cookie of the session copies it. No
 * cookie opens after `endsAt`, even if options change, so an end that is kept until then outlives all cookies.
 */
type SealedEntry = Entry & { readonly label: string; readonly endsAt: number }

const FORMAT = 2
const HEADER_LENGTH = 1 + 8 + 8 + LABEL_LENGTH + VERSION_LENGTH + 1 + 2 + 1
/** Bits of the last byte of the header: there is a value; the metadata has 256 characters more than their byte has. */
const HAS_VALUE = 1
const LONG_METADATA = 2

/** format · expiry · endsAt · label · version · length of metadata · length of owner · bits · metadata, owner, value */
const encodeEntry = ({ value, metadata, expiresAt, endsAt, version, owner = '', label }: SealedEntry): Buffer => {
  const body = Buffer.from(metadata + owner + (value ?? ''))
  const bytes = Buffer.allocUnsafe(HEADER_LENGTH + body.length)
  let at = bytes.writeUInt8(FORMAT)
  at = bytes.writeDoubleBE(expiresAt, at)
  at = bytes.writeDoubleBE(endsAt, at)
  at += bytes.write(label.padEnd(LABEL_LENGTH), at, LABEL_LENGTH, 'latin1')
  at += bytes.write(version.padEnd(VERSION_LENGTH), at, VERSION_LENGTH, 'latin1')
  at = bytes.writeUInt8(metadata.length & 255, at)
  at = bytes.writeUInt16BE(Buffer.byteLength(owner), at)
  at = bytes.writeUInt8((value === undefined ? 0 : HAS_VALUE) | (metadata.length > 255 ? LONG_METADATA : 0), at)
  body.copy(bytes, at)
  return bytes
}

const decodeEntry = (bytes: Buffer): SealedEntry | undefined => {
  if (bytes.length < HEADER_LENGTH || bytes[0] !== FORMAT) return undefined
  const label = bytes.toString('latin1', 17, 17 + LABEL_LENGTH)
  const version = bytes.toString('latin1', 17 + LABEL_LENGTH, 17 + LABEL_LENGTH + VERSION_LENGTH)
  const bits = bytes.readUInt8(HEADER_LENGTH - 1)
  const ownerAt = HEADER_LENGTH + bytes.readUInt8(HEADER_LENGTH - 4) + (bits & LONG_METADATA ? 256 : 0)
  const valueAt = ownerAt + bytes.readUInt16BE(HEADER_LENGTH - 3)
  const owner = bytes.toString('utf8', ownerAt, valueAt)
  return {
    value: bits & HAS_VALUE ? bytes.toString('utf8', valueAt) : undefined,
    metadata: bytes.toString('latin1', HEADER_LENGTH, ownerAt),
    expiresAt: bytes.readDoubleBE(1),
    endsAt: bytes.readDoubleBE(9),
    version,
    owner: owner === '' ? undefined : owner,
    label,
  }
}

/** Entries in one generation of the cache. */
const CACHE_SIZE = 2_000

/** A cache of entries that were opened or sealed lately, by key. It drops them by generations, so it never needs a sweep. */
const entryCache = () => {
  let young = new Map<string, SealedEntry>()
  let old = new Map<string, SealedEntry>()
  const put = (key: string, entry: SealedEntry): void => {
    if (young.size >= CACHE_SIZE) {
      old = young
      young = new Map()
    }
    young.set(key, entry)
  }
  const get = (key: string): SealedEntry | undefined => {
    const entry = young.get(key)
    if (entry !== undefined) return entry
    const oldEntry = old.get(key)
    if (oldEntry !== undefined) put(key, oldEntry)
    return oldEntry
  }
  return { get, put }
}

/** A view on a cache in which all keys have a prefix. */
const prefixedCache = (cache: ReturnType<typeof entryCache>, prefix: string): ReturnType<typeof entryCache> =>
  prefix === '' ? cache : { get: (key) => cache.get(prefix + key), put: (key, entry) => cache.put(prefix + key, entry) }

/** Seconds: the longest `absoluteTimeout` that `sessionManager` allows. */
const MAX_TIMEOUT = 400 * 86_400

/*
 * An end is an entry in the backend for ends, with the label in its storage key. It contains the mark that `clear` got, and
 * is kept as long as a cookie of the session may open. Its value is the expiry of the mark.
 */
const endWith = (mark: Mark | undefined, expiresAt: number): Entry => ({
  value: mark && JSON.stringify(mark.expiresAt),
  metadata: mark?.metadata ?? 'ended',
  expiresAt,
  version: mark?.version ?? newVersion(),
})

/** The mark in an end. Undefined if it has expired. */
const markIn = ({ value, metadata, version }: Entry, now: number): Entry | undefined => {
  const expiresAt = value === undefined ? 0 : Number(value)
  return now < expiresAt ? { value: undefined, metadata, expiresAt, version } : undefined
}

/**
 * Keeps each session in its cookie: the key, `name=value`, is the session itself. A client can present every cookie again
 * that it ever had. So without `ends`, a cookie that was copied before a logout opens until it expires. If two requests
 * write at the same time, the later response wins as a whole. With `ends`, an end is stored for the session's label, and each
 * read and write looks for it.
 *
 * A new key makes another cookie. The previous cookie opens until the session ends.
 *
 * @param storedSecret the secret of the backend for ends, if it keeps one
 * @throws KeepsakeError `invalid_option`, `no_secret`
 */
export const cookieBackend = (options: CookieBackendOptions, storedSecret?: string): Backend => {
  checkOptionNames(options, ['secret', 'namespace', 'ends', 'absoluteTimeout', 'now'], 'cookieBackend()')
  const { namespace = '', absoluteTimeout: defaultTimeout = MAX_TIMEOUT, now = () => Date.now() } = options
  const ends = options.ends && checkedEnds(options.ends)
  if (options.secret === undefined && storedSecret === undefined) {
    throw new KeepsakeError(
      'no_secret',
      'Sessions in cookies are encrypted, so the option secret is required, the same in all processes.',
    )
  }
  if (!(defaultTimeout > 0 && defaultTimeout <= MAX_TIMEOUT)) {
    throw new KeepsakeError(
      'invalid_option',
      `The option absoluteTimeout must be a number of seconds above 0 and at most ${MAX_TIMEOUT}.`,
    )
  }
  const secrets = keyRing([options.secret ?? []].flat(), storedSecret)
  return inNamespace(namespace, '', { ends, secrets, defaultTimeout, now, cache: entryCache() })
}

/** The part of the backend that all its namespaces share. */
type Shared = {
  readonly ends: Backend | undefined
  readonly secrets: KeyRing
  /** Seconds. */
  readonly defaultTimeout: number
  readonly now: () => number
  readonly cache: ReturnType<typeof entryCache>
}

/**
 * The backend for the sessions of one namespace.
 *
 * @param cachePrefix separates the entries of this namespace in the shared cache. It is empty, or begins with a number and a
 *   colon, which no name of a cookie contains
 */
const inNamespace = (namespace: string, cachePrefix: string, shared: Shared): Backend => {
  const { ends, secrets, defaultTimeout, now } = shared
  const cache = prefixedCache(shared.cache, cachePrefix)
  const contextOf = (name: string) => ({ purpose: 'session', name, audience: namespace })
  const nameOf = (key: string): string => key.slice(0, key.indexOf('='))
  const endKey = storageKeys(namespace, 'end.')

  const unsealEntry = (key: string): SealedEntry | undefined => {
    const cached = cache.get(key)
    if (cached !== undefined) return cached
    const name = nameOf(key)
    const bytes = secrets.open(contextOf(name), key.slice(name.length + 1))
    const entry = bytes && decodeEntry(bytes)
    if (entry !== undefined) cache.put(key, entry)
    return entry
  }
  const sealEntry = (name: string, entry: SealedEntry): Held => {
    const limited = { ...entry, expiresAt: Math.min(entry.expiresAt, entry.endsAt) }
    const value = secrets.seal(contextOf(name), encodeEntry(limited))
    cache.put(`${name}=${value}`, limited)
    return { held: value }
  }
  /** The entry in a key, and the end of its session if it has ended. */
  const read = (
    key: string,
  ): Awaitable<{ readonly entry: SealedEntry; readonly end: Entry | undefined } | undefined> => {
    const entry = unsealEntry(key)
    if (entry === undefined || ends === undefined) return entry && { entry, end: undefined }
    return chain(ends.get(endKey(entry.label)), (end) => ({ entry, end }))
  }
  /** The entry in a key, unless its session has ended. */
  const readUnended = (key: string): Awaitable<SealedEntry | undefined> =>
    chain(read(key), (found) => (found?.end === undefined ? found?.entry : undefined))
  /** The label in a key. The value of the key may be the label itself. */
  const labelIn = (key: string): string | undefined => {
    const value = key.slice(nameOf(key).length + 1)
    return value.length === LABEL_LENGTH ? value : unsealEntry(key)?.label
  }

  return {
    name: 'cookie',
    stateless: true,
    ...(ends && { revocable: true }),
    forNamespace: (other) => inNamespace(other, `${other.length}:${other}`, shared),
    get: (key) =>
      chain(read(key), (found) => {
        if (found === undefined) return undefined
        const { endsAt: _, ...entry } = found.entry
        if (found.end === undefined) return entry
        const mark = markIn(found.end, now())
        return mark && { ...mark, label: entry.label }
      }),
    generate(key, entry) {
      const name = nameOf(key)
      const { createdAt = 0, absoluteTimeout = defaultTimeout * 1000 } = decodeMetadata(entry.metadata) ?? {}
      // The manager's clock or this one, the later of the two: an end that is kept too long does no harm.
      const endsAt = Math.max(Math.max(createdAt, now()) + absoluteTimeout, entry.expiresAt)
      const label = key.slice(name.length + 1, name.length + 1 + LABEL_LENGTH)
      return sealEntry(name, { ...entry, endsAt, label })
    },
    set: (key, change) =>
      chain(readUnended(key), (entry) =>
        entry === undefined ? 'gone' : sealEntry(nameOf(key), { ...entry, ...change }),
      ),
    clear(key, version, mark) {
      const label = labelIn(key)
      if (label === undefined || ends === undefined) return undefined
      // A label does not tell when its session was created, so its end is kept for the longest possible time.
      const end = endWith(mark, unsealEntry(key)?.endsAt ?? now() + MAX_TIMEOUT * 1000)
      const storageKey = endKey(label)
      return chain(ends.generate(storageKey, end), (answer) => {
        // An end that is confirmed must survive a failover of the server that stores it.
        return chain(ends.ensureDurable?.(storageKey), () =>
          answer === 'taken' && version !== undefined ? 'stale' : undefined,
        )
      })
    },
    touch: (key, expiresAt) =>
      chain(readUnended(key), (entry) =>
        entry !== undefined && Math.min(expiresAt, entry.endsAt) > entry.expiresAt
          ? sealEntry(nameOf(key), { ...entry, expiresAt })
          : undefined,
      ),
    ...(ends?.ensureDurable && {
      ensureDurable(key: string) {
        const label = labelIn(key)
        return label === undefined ? undefined : ends.ensureDurable?.(endKey(label))
      },
    }),
    ...(ends?.check && { check: () => ends.check?.('ends') }),
    ...(ends?.sweep && { sweep: (time, limit) => ends.sweep?.(time, limit) ?? 0 }),
    ...(ends?.keepSecret && { keepSecret: (candidate) => ends.keepSecret?.(candidate) ?? candidate }),
    ...(ends?.close && { close: () => ends.close?.() }),
  }
}
