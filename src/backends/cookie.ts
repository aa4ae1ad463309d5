// Sessions in the client's own cookie, sealed: nothing is kept here, but the ends of sessions if you say where.

import { newVersion, storageKeys } from '../crypto/keys.ts'
import { type KeyRing, keyRing } from '../crypto/seal.ts'
import { type Awaitable, chain, checkOptionNames, KeepsakeError } from '../error.ts'
import { decodeMetadata } from '../session/metadata.ts'
import type { Backend, Entry, Held, Mark } from './contract.ts'
import { checkedEnds } from './ends.ts'

export type CookieBackendOptions = {
  /** 32 random bytes or more, or several such secrets, newest first: the first seals, all of them open. */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[] | undefined
  /** Keeps applications apart that share a secret. Default none. */
  readonly namespace?: string | undefined
  /** Where ends are kept, so that a logout is one for every copy of the cookie. Without it, it only clears the browser's. */
  readonly ends?: Backend | undefined
  /**
   * Seconds from the birth of a session after which none of its cookies opens, and its end need not be kept. Default
   * 400 days, the most that `sessionManager` allows. Give the `absoluteTimeout` of `sessionManager`, so that ends are kept no longer
   * than needed; by a URL that is done for you. It is sealed into the cookie at birth: another value is for later births.
   * A login that names its own comes before it.
   */
  readonly absoluteTimeout?: number | undefined
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
}

/**
 * What a cookie holds. `endsAt` is decided at birth and the same in every cookie that is made of the first one: none of
 * them opens from then on, whatever is configured later, so an end that is kept until then outlives them all.
 */
type Sealed = Entry & { readonly label: string; readonly endsAt: number }

const FORMAT = 2
const LABEL = 12
const VERSION = 8
const FIXED = 1 + 8 + 8 + LABEL + VERSION + 1 + 2 + 1

/** format · expiry · latest end · label · version · length of head, of owner · whether there is a value · head, owner, value */
const encodeEntry = ({ value, metadata, expiresAt, endsAt, version, owner = '', label }: Sealed): Buffer => {
  const body = Buffer.from(metadata + owner + (value ?? ''))
  const bytes = Buffer.allocUnsafe(FIXED + body.length)
  let at = bytes.writeUInt8(FORMAT)
  at = bytes.writeDoubleBE(expiresAt, at)
  at = bytes.writeDoubleBE(endsAt, at)
  at += bytes.write(label.padEnd(LABEL), at, LABEL, 'latin1')
  at += bytes.write(version.padEnd(VERSION), at, VERSION, 'latin1')
  at = bytes.writeUInt8(metadata.length, at)
  at = bytes.writeUInt16BE(Buffer.byteLength(owner), at)
  at = bytes.writeUInt8(value === undefined ? 0 : 1, at)
  body.copy(bytes, at)
  return bytes
}

const decodeEntry = (bytes: Buffer): Sealed | undefined => {
  if (bytes.length < FIXED || bytes[0] !== FORMAT) return undefined
  const label = bytes.toString('latin1', 17, 17 + LABEL)
  const version = bytes.toString('latin1', 17 + LABEL, 17 + LABEL + VERSION)
  const ownerAt = FIXED + bytes.readUInt8(FIXED - 4)
  const valueAt = ownerAt + bytes.readUInt16BE(FIXED - 3)
  const owner = bytes.toString('utf8', ownerAt, valueAt)
  return {
    value: bytes[FIXED - 1] === 1 ? bytes.toString('utf8', valueAt) : undefined,
    metadata: bytes.toString('latin1', FIXED, ownerAt),
    expiresAt: bytes.readDoubleBE(1),
    endsAt: bytes.readDoubleBE(9),
    version,
    owner: owner === '' ? undefined : owner,
    label,
  }
}

/** Tokens of one generation of the memory below. */
const REMEMBERED = 2_000

/** What was opened or sealed lately, in two generations: opening a token again costs a look, and nothing is ever swept. */
const memory = () => {
  let young = new Map<string, Sealed>()
  let old = new Map<string, Sealed>()
  const put = (key: string, entry: Sealed): void => {
    if (young.size >= REMEMBERED) {
      old = young
      young = new Map()
    }
    young.set(key, entry)
  }
  const get = (key: string): Sealed | undefined => {
    const entry = young.get(key)
    if (entry !== undefined) return entry
    const older = old.get(key)
    if (older !== undefined) put(key, older)
    return older
  }
  return { get, put }
}

/** Seconds: the longest life that `sessionManager` allows. */
const LONGEST = 400 * 86_400

/*
 * An end is an entry of the store of ends, under a hash of the label. It is the mark that `clear` was given, kept for as
 * long as a cookie of the session may open; its value is when the mark itself expires.
 */
const endWith = (mark: Mark | undefined, expiresAt: number): Entry => ({
  value: mark && JSON.stringify(mark.expiresAt),
  metadata: mark?.metadata ?? 'ended',
  expiresAt,
  version: mark?.version ?? newVersion(),
})

/** The mark in an end, until it expires. */
const markIn = ({ value, metadata, version }: Entry, now: number): Entry | undefined => {
  const expiresAt = value === undefined ? 0 : Number(value)
  return now < expiresAt ? { value: undefined, metadata, expiresAt, version } : undefined
}

/**
 * A backend whose key is the session itself: the cookie, as `name=value`. What a client holds, it can present again:
 * without `ends`, a cookie that was copied before a logout opens to its end, and of two writes at once the later wins,
 * whole. With `ends`, an end is kept under the session's label, and looked for at every reading and every write.
 *
 * A renewal makes another cookie and ends none: the one before opens until the session ends.
 *
 * @throws KeepsakeError `invalid_option`, `no_secret`
 */
export const cookieBackend = (options: CookieBackendOptions, kept?: string): Backend => {
  checkOptionNames(options, ['secret', 'namespace', 'ends', 'absoluteTimeout', 'now'], 'cookieBackend()')
  const { namespace = '', absoluteTimeout: longestLife = LONGEST, now = () => Date.now() } = options
  const ends = options.ends && checkedEnds(options.ends)
  if (options.secret === undefined && kept === undefined) {
    throw new KeepsakeError('no_secret', 'Sessions in cookies are sealed, and need a secret that all processes share.')
  }
  if (!(longestLife > 0 && longestLife <= LONGEST)) {
    throw new KeepsakeError(
      'invalid_option',
      `absoluteTimeout has to be a number of seconds above 0, and at most ${LONGEST}.`,
    )
  }
  const keys: KeyRing = keyRing([options.secret ?? []].flat(), kept)
  const seen = memory()
  const contextOf = (name: string) => ({ purpose: 'session', name, audience: namespace })
  const nameOf = (key: string): string => key.slice(0, key.indexOf('='))
  const endOf = storageKeys(namespace, 'end.')

  const opened = (key: string): Sealed | undefined => {
    const known = seen.get(key)
    if (known !== undefined) return known
    const name = nameOf(key)
    const bytes = keys.open(contextOf(name), key.slice(name.length + 1))
    const entry = bytes && decodeEntry(bytes)
    if (entry !== undefined) seen.put(key, entry)
    return entry
  }
  const sealed = (name: string, entry: Sealed): Held => {
    const within = { ...entry, expiresAt: Math.min(entry.expiresAt, entry.endsAt) }
    const value = keys.seal(contextOf(name), encodeEntry(within))
    seen.put(`${name}=${value}`, within)
    return { held: value }
  }
  /** The entry in a key, and the end of its session where there is one. */
  const found = (key: string): Awaitable<{ readonly entry: Sealed; readonly end: Entry | undefined } | undefined> => {
    const entry = opened(key)
    if (entry === undefined || ends === undefined) return entry && { entry, end: undefined }
    return chain(ends.get(endOf(entry.label)), (end) => ({ entry, end }))
  }
  /** The entry in a key, unless its session has ended. */
  const living = (key: string): Awaitable<Sealed | undefined> =>
    chain(found(key), (there) => (there?.end === undefined ? there?.entry : undefined))
  /** The label in a key, which may be the label itself in the place of the value. */
  const labelIn = (key: string): string | undefined => {
    const value = key.slice(nameOf(key).length + 1)
    return value.length === LABEL ? value : opened(key)?.label
  }

  return {
    name: 'cookie',
    stateless: true,
    ...(ends && { revocable: true }),
    get: (key) =>
      chain(found(key), (there) => {
        if (there === undefined) return undefined
        const { endsAt: _, ...entry } = there.entry
        if (there.end === undefined) return entry
        const mark = markIn(there.end, now())
        return mark && { ...mark, label: entry.label }
      }),
    generate(key, entry) {
      const name = nameOf(key)
      const { createdAt = 0, absoluteTimeout = longestLife * 1000 } = decodeMetadata(entry.metadata) ?? {}
      // By the clock of who gave birth or by this one, whichever is ahead: an end is rather kept too long.
      const endsAt = Math.max(Math.max(createdAt, now()) + absoluteTimeout, entry.expiresAt)
      return sealed(name, { ...entry, endsAt, label: key.slice(name.length + 1, name.length + 1 + LABEL) })
    },
    set: (key, change) =>
      chain(living(key), (entry) => (entry === undefined ? 'gone' : sealed(nameOf(key), { ...entry, ...change }))),
    clear(key, version, mark) {
      const label = labelIn(key)
      if (label === undefined || ends === undefined) return undefined
      // Of a session that is named by its label alone nobody knows the birth: its end is kept as long as any can live.
      const end = endWith(mark, opened(key)?.endsAt ?? now() + LONGEST * 1000)
      const place = endOf(label)
      return chain(ends.generate(place, end), (answer) => {
        // Where ends are kept by servers that fail over, an end that is told has to outlive that.
        const sure = ends.ensureDurable?.(place)
        return chain(sure, () => (answer === 'taken' && version !== undefined ? 'stale' : undefined))
      })
    },
    touch: (key, expiresAt) =>
      chain(living(key), (entry) =>
        entry !== undefined && Math.min(expiresAt, entry.endsAt) > entry.expiresAt
          ? sealed(nameOf(key), { ...entry, expiresAt })
          : undefined,
      ),
    ...(ends?.ensureDurable && {
      ensureDurable(key: string) {
        const label = labelIn(key)
        return label === undefined ? undefined : ends.ensureDurable?.(endOf(label))
      },
    }),
    ...(ends?.check && { check: () => ends.check?.('ends') }),
    ...(ends?.sweep && { sweep: (time, limit) => ends.sweep?.(time, limit) ?? 0 }),
    ...(ends?.keepSecret && { keepSecret: (fresh) => ends.keepSecret?.(fresh) ?? fresh }),
    ...(ends?.close && { close: () => ends.close?.() }),
  }
}
