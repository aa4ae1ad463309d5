// The metadata of an entry: when its session was created, the hashes of its keys, and its recent versions.

import { hashKey, rotatedKey, sameHash, WRITER } from '../crypto/keys.ts'
import { random } from '../crypto/random.ts'

/*
 * An entry is in one of three states of a rotation (docs/decisions/003). These properties are set in each:
 *   settled    currentHash                              one key opens the session
 *   offered    currentHash, previousHash, salt          the previous key opens it, and its response sets the current key, which
 *                                                       is rotatedKey(previous key, salt)
 *   confirmed  currentHash, previousHash, confirmedAt   a request has used the current key; the previous key works for GRACE more
 */
export type Metadata = {
  /** Milliseconds since 1970. The absolute timeout is counted from here. */
  readonly createdAt: number
  /** Hash of the current key. Empty for a stateless backend. */
  readonly currentHash: string
  /** Hash of the previous key, from a rotation until the key stops working. */
  readonly previousHash?: string | undefined
  /** From a rotation until a request brings the new key. */
  readonly salt?: string | undefined
  /** When a request first brought the new key, in milliseconds since 1970. */
  readonly confirmedAt?: number | undefined
  /** The form secret, if it came from a pre-session. */
  readonly form?: string | undefined
  /** The label, if the session has an owner: lists of an owner's sessions show it. */
  readonly label?: string | undefined
  /** When a request last saved something, in milliseconds since 1970, if the session has an owner. */
  readonly lastSeenAt?: number | undefined
  /** Milliseconds, if the login set timeouts of its own. */
  readonly idleTimeout?: number | undefined
  readonly absoluteTimeout?: number | undefined
  /** Whether the cookie remains after the browser is closed, if the login chose it. */
  readonly persistent?: boolean | undefined
  /**
   * Recent versions, newest first, without a separator: the last one of each writer. A writer that finds its own version
   * knows that its write succeeded although the reply was lost.
   */
  readonly recentVersions: string
}

/** The settings that a login may give its session. */
export type LoginSettings = Pick<Metadata, 'idleTimeout' | 'absoluteTimeout' | 'persistent'>

/**
 * Milliseconds that an expired entry stays in the backend. The clock of one machine may be hours wrong, and then a session
 * that is expired there is alive at all other machines.
 */
export const EXPIRED_KEPT = 86_400_000

/** Milliseconds that the previous key works after the first use of the new one. */
export const GRACE = 30_000
/** Milliseconds that a response may take to the browser. An older offer could undo a newer rotation. */
const RESPONSE_TRANSIT = 10_000
/** The most milliseconds from the read of an entry to the response that sends its offered key. */
export const OFFER_MAX_AGE = GRACE - RESPONSE_TRANSIT

/** The format of a session whose login set timeouts or `persistent`, and the format of all others. */
const WITH_LOGIN_SETTINGS = '2'
const PLAIN = '1'

/** The most writers in `recentVersions`. */
const REMEMBERED_WRITERS = 16

const base36 = (value: number | undefined): string => value?.toString(36) ?? ''

/*
 * format . createdAt . currentHash . recentVersions [. previousHash . salt . confirmedAt . form [. label . lastSeenAt]]
 *
 * No part contains a dot. Format 2 has all of these parts, and then idleTimeout . absoluteTimeout . persistent.
 * The text is joined and not concatenated, because V8 keeps a concatenated string as a tree of its parts.
 */
export const encodeMetadata = (metadata: Metadata): string => {
  const { createdAt, currentHash, recentVersions, previousHash, salt, confirmedAt, form, label, lastSeenAt } = metadata
  const { idleTimeout, absoluteTimeout, persistent } = metadata
  const hasSettings = idleTimeout !== undefined || absoluteTimeout !== undefined || persistent !== undefined
  const created = base36(createdAt)
  const parts = [hasSettings ? WITH_LOGIN_SETTINGS : PLAIN, created, currentHash, recentVersions]
  if (!hasSettings && previousHash === undefined && form === undefined && label === undefined) return parts.join('.')
  parts.push(previousHash ?? '', salt ?? '', base36(confirmedAt), form ?? '')
  // At a login the two times are equal, and a text in base 36 costs a quarter of a microsecond.
  const seen = lastSeenAt === createdAt ? created : base36(lastSeenAt)
  if (hasSettings || label !== undefined) parts.push(label ?? '', seen)
  if (hasSettings) {
    const persists = persistent === undefined ? '' : String(Number(persistent))
    parts.push(base36(idleTimeout), base36(absoluteTimeout), persists)
  }
  return parts.join('.')
}

const fromBase36 = (text: string | undefined): number | undefined => (text ? Number.parseInt(text, 36) : undefined)

/** The number of parts after those of both formats. */
const SETTINGS = 3
const COMMON = 10

/**
 * Metadata from its text. Undefined if this version cannot read it. It runs once for each request, so it makes one list and one
 * object: destructuring with a rest and a spread of parts cost half a microsecond more.
 */
export const decodeMetadata = (text: string): Metadata | undefined => {
  const parts = text.split('.')
  const hasSettings = parts[0] === WITH_LOGIN_SETTINGS
  if (hasSettings ? parts.length !== COMMON + SETTINGS : parts[0] !== PLAIN || parts.length > COMMON) return undefined
  const createdAt = fromBase36(parts[1])
  const currentHash = parts[2]
  if (createdAt === undefined || currentHash === undefined || Number.isNaN(createdAt)) return undefined
  const confirmedAt = fromBase36(parts[6])
  const lastSeenAt = fromBase36(parts[9])
  const idleTimeout = fromBase36(parts[10])
  const absoluteTimeout = fromBase36(parts[11])
  if (Number.isNaN(confirmedAt) || Number.isNaN(lastSeenAt)) return undefined
  if (Number.isNaN(idleTimeout) || Number.isNaN(absoluteTimeout)) return undefined
  const label = parts[8] || undefined
  const metadata: Metadata = {
    createdAt,
    currentHash,
    recentVersions: parts[3] ?? '',
    previousHash: parts[4] || undefined,
    salt: parts[5] || undefined,
    confirmedAt,
    form: parts[7] || undefined,
    label,
    lastSeenAt: label === undefined ? undefined : lastSeenAt,
  }
  if (!hasSettings) return metadata
  const persistent = parts[12] === '' ? undefined : parts[12] === '1'
  return { ...metadata, idleTimeout, absoluteTimeout, persistent }
}

const versionsIn = (recentVersions: string): string[] => recentVersions.match(/.{8}/gs) ?? []

const writerOf = (version: string): string => version.slice(0, WRITER)

/** The recent versions of the state `next` that follows `version`: the newest version of each writer but that of `next`. */
const nextVersions = (recentVersions: string, version: string, next: string): string => {
  const earlier = [version, ...versionsIn(recentVersions)]
  const others = earlier.filter(
    (one, i) => writerOf(one) !== writerOf(next) && (i === 0 || writerOf(one) !== writerOf(version)),
  )
  return others.slice(0, REMEMBERED_WRITERS).join('')
}

/** An entry, as far as its history depends on it. */
type State = { readonly entry: { readonly version: string }; readonly metadata: Metadata }

const historyOf = ({ entry: { version }, metadata: { recentVersions } }: State): readonly string[] => [
  version,
  ...versionsIn(recentVersions),
]

/**
 * Whether a write that made the state `version` from the state `base` is part of the history of the state `latest`.
 * `unknown`: so many other writers came after it that the history would no longer contain it.
 */
export const wasWritten = (version: string, base: State, latest: State): 'yes' | 'no' | 'unknown' => {
  const history = historyOf(latest)
  if (history.includes(version)) return 'yes'
  if (history.length <= REMEMBERED_WRITERS) return 'no'
  // The oldest versions are dropped first, so if a version from before the write is left, the write would be left too.
  const older = historyOf(base)
  return history.some((one) => older.includes(one)) ? 'no' : 'unknown'
}

/*
 * The format of a mark, which an ended session leaves while requests with its key may be in progress. It shows them that
 * their session has ended, and that the visitor is not a new one.
 */
const ENDED = 'ended'

/** How a session ended. After a `login` the visitor has another session. */
export type EndedBy = 'login' | 'end'

/** The metadata of a mark. It contains the time, because a read in progress may still extend the expiry of the entry. */
export const encodeMark = (by: EndedBy, until: number): string => [ENDED, by, base36(until)].join('.')

export const decodeMark = (text: string): { readonly by: EndedBy; readonly until: number } | undefined => {
  if (!text.startsWith(ENDED)) return undefined
  const [format, by, until] = text.split('.')
  return format === ENDED && (by === 'login' || by === 'end') ? { by, until: fromBase36(until) ?? 0 } : undefined
}

/** The metadata of a new session. A stateless backend has no `key`. Only a session with an owner has a `label`. */
export const newMetadata = (
  key: string | undefined,
  createdAt: number,
  form: string | undefined,
  label: string | undefined,
  loginSettings: LoginSettings | undefined,
): Metadata => ({
  createdAt,
  currentHash: key === undefined ? '' : hashKey(key),
  form,
  recentVersions: '',
  label,
  lastSeenAt: label === undefined ? undefined : createdAt,
  idleTimeout: loginSettings?.idleTimeout,
  absoluteTimeout: loginSettings?.absoluteTimeout,
  persistent: loginSettings?.persistent,
})

/** How a key relates to a session: `current`, `offered` and `retiring` open it; `retired` and `wrong` do not. */
export type KeyStatus = 'current' | 'offered' | 'retiring' | 'retired' | 'wrong'

export const keyStatus = (metadata: Metadata, key: string, now: number): KeyStatus => {
  const keyHash = hashKey(key)
  if (sameHash(keyHash, metadata.currentHash)) return 'current'
  if (metadata.previousHash === undefined || !sameHash(keyHash, metadata.previousHash)) return 'wrong'
  if (metadata.confirmedAt === undefined) return 'offered'
  return now < metadata.confirmedAt + GRACE ? 'retiring' : 'retired'
}

/**
 * Whether a request with `key` confirms a rotation. Then the metadata must be saved, so that the grace of the previous key
 * begins.
 */
export const confirmsRotation = (metadata: Metadata, key: string): boolean =>
  metadata.salt !== undefined && sameHash(hashKey(key), metadata.currentHash)

/** The new key for a browser that has the previous key `key`, if one is offered. */
export const offeredKey = (metadata: Metadata, key: string): string | undefined =>
  metadata.salt !== undefined && metadata.previousHash !== undefined && sameHash(hashKey(key), metadata.previousHash)
    ? rotatedKey(key, metadata.salt)
    : undefined

/**
 * The metadata after a write by a request with `key`. It drops a previous key whose grace is over, confirms an offered key,
 * and starts a rotation if `rotate` asks for one and none is in progress. If the session has an owner and `seen` is true, it
 * moves `lastSeenAt`.
 *
 * @param versions the version that the write was made from, and the version that it makes
 */
export const nextMetadata = (
  metadata: Metadata,
  key: string,
  versions: readonly [version: string, next: string],
  { rotate, seen }: { readonly rotate: boolean; readonly seen: boolean },
  now: number,
): Metadata => {
  const recentVersions = nextVersions(metadata.recentVersions, ...versions)
  const graceIsOver = metadata.confirmedAt !== undefined && now >= metadata.confirmedAt + GRACE
  const movesLastSeen = seen && metadata.label !== undefined
  const moved: Metadata = { ...metadata, recentVersions, ...(movesLastSeen && { lastSeenAt: now }) }
  const next: Metadata = graceIsOver ? { ...moved, previousHash: undefined, confirmedAt: undefined } : moved
  if (confirmsRotation(next, key)) return { ...next, salt: undefined, confirmedAt: now }
  if (!rotate || next.previousHash !== undefined || !sameHash(hashKey(key), next.currentHash)) return next
  const salt = random(12)
  return { ...next, currentHash: hashKey(rotatedKey(key, salt)), previousHash: next.currentHash, salt }
}
