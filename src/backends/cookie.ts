// Sessions in the client's own cookie, sealed: nothing is kept here, but the ends of sessions if you say where.

import { hash } from 'node:crypto'
import type { Backend, Entry } from '../backend.ts'
import { type Awaitable, after, Fault } from '../outcome.ts'
import { type Ring, ring } from '../seal.ts'

export type CookieBackendOptions = {
  /** 32 random bytes or more, or several such secrets, newest first: the first seals, all of them open. */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[]
  /** Keeps applications apart that share a secret. Default none. */
  readonly namespace?: string
  /** Where ends are kept, so that a logout is one for every copy of the cookie. Without it, it only clears the browser's. */
  readonly ends?: Backend
  /** Seconds: how long an end is kept, so at least the longest life of a session. Default 30 days. */
  readonly absoluteLifetime?: number
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

type Sealed = Entry & { readonly label: string }

const FORMAT = 1
const LABEL = 12
const VERSION = 8
const FIXED = 1 + 8 + LABEL + VERSION + 1 + 2 + 1

/** format · expiry · label · version · length and head · length and owner · whether there is a value · value */
const packed = ({ value, head, expiresAt, version, owner = '', label }: Sealed): Buffer => {
  const body = Buffer.from(head + owner + (value ?? ''))
  const bytes = Buffer.allocUnsafe(FIXED + body.length)
  let at = bytes.writeUInt8(FORMAT)
  at = bytes.writeDoubleBE(expiresAt, at)
  at += bytes.write(label.padEnd(LABEL), at, LABEL, 'latin1')
  at += bytes.write(version.padEnd(VERSION), at, VERSION, 'latin1')
  at = bytes.writeUInt8(head.length, at)
  at = bytes.writeUInt16BE(Buffer.byteLength(owner), at)
  at = bytes.writeUInt8(value === undefined ? 0 : 1, at)
  body.copy(bytes, at)
  return bytes
}

const unpacked = (bytes: Buffer): Sealed | undefined => {
  if (bytes.length < FIXED || bytes[0] !== FORMAT) return undefined
  const expiresAt = bytes.readDoubleBE(1)
  const label = bytes.toString('latin1', 9, 9 + LABEL)
  const version = bytes.toString('latin1', 9 + LABEL, 9 + LABEL + VERSION)
  const ownerAt = FIXED + bytes.readUInt8(FIXED - 4)
  const valueAt = ownerAt + bytes.readUInt16BE(FIXED - 3)
  const owner = bytes.toString('utf8', ownerAt, valueAt)
  return {
    value: bytes[FIXED - 1] === 1 ? bytes.toString('utf8', valueAt) : undefined,
    head: bytes.toString('latin1', FIXED, ownerAt),
    expiresAt,
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

/**
 * A backend whose key is the session itself: the cookie, as `name=value`. What a client holds, it can present again:
 * without `ends`, a cookie that was copied before a logout opens to its end, and of two writes at once the later wins,
 * whole. With `ends`, an end is kept under the session's label, and looked for at every reading and every write.
 *
 * @throws Fault `bad_option`, `no_secret`
 */
export const cookieBackend = (options: CookieBackendOptions, kept?: string): Backend => {
  const { namespace = '', ends, absoluteLifetime = 30 * 86_400, now = Date.now } = options
  if (options.secret === undefined && kept === undefined) {
    throw new Fault('no_secret', 'Sessions in cookies are sealed, and need a secret that all processes share.')
  }
  const keys: Ring = ring([options.secret ?? []].flat(), kept)
  const seen = memory()
  const contextOf = (name: string) => ({ purpose: 'session', name, audience: namespace })
  const nameOf = (key: string): string => key.slice(0, key.indexOf('='))
  const endOf = (label: string): string => hash('sha256', `keepsake/1 end ${namespace} ${label}`, 'base64url')

  const opened = (key: string): Sealed | undefined => {
    const known = seen.get(key)
    if (known !== undefined) return known
    const name = nameOf(key)
    const bytes = keys.open(contextOf(name), key.slice(name.length + 1))
    const entry = bytes && unpacked(bytes)
    if (entry !== undefined) seen.put(key, entry)
    return entry
  }
  const sealed = (name: string, entry: Sealed): string => {
    const value = keys.seal(contextOf(name), packed(entry))
    seen.put(`${name}=${value}`, entry)
    return value
  }
  /** The entry in a key, unless its session has ended. */
  const living = (key: string): Awaitable<Sealed | undefined> => {
    const entry = opened(key)
    if (entry === undefined || ends === undefined) return entry
    return after(ends.get(endOf(entry.label)), (end) => (end === undefined ? entry : undefined))
  }

  return {
    name: 'cookie',
    stateless: true,
    ...(ends && { revocable: true }),
    get: living,
    generate(key, entry) {
      const name = nameOf(key)
      return sealed(name, { ...entry, label: key.slice(name.length + 1, name.length + 1 + LABEL) })
    },
    set: (key, change) =>
      after(living(key), (entry) => (entry === undefined ? 'gone' : sealed(nameOf(key), { ...entry, ...change }))),
    clear(key) {
      const named = key.slice(nameOf(key).length + 1)
      const label = named.length === LABEL ? named : opened(key)?.label
      if (label === undefined || ends === undefined) return undefined
      const time = now()
      const end: Entry = {
        value: undefined,
        head: 'ended',
        expiresAt: time + absoluteLifetime * 1000,
        version: 'ended---',
      }
      return after(ends.generate(endOf(label), end), () => undefined)
    },
    touch: (key, expiresAt) =>
      after(living(key), (entry) =>
        entry !== undefined && expiresAt > entry.expiresAt ? sealed(nameOf(key), { ...entry, expiresAt }) : undefined,
      ),
    ...(ends?.sweep && { sweep: (time, limit) => ends.sweep?.(time, limit) ?? 0 }),
    ...(ends?.secret && { secret: (fresh) => ends.secret?.(fresh) ?? fresh }),
    ...(ends?.close && { close: () => ends.close?.() }),
  }
}
