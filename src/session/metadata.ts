// What we keep of a session beside its value: its birth, the hashes of its secrets, its last versions.

import { hashKey, rotatedKey, sameHash, WRITER } from '../crypto/keys.ts'
import { random } from '../crypto/random.ts'

/*
 * A renewal (docs/decisions/003) is three states of one entry:
 *   settled       current
 *   offered       current, previous, salt        whoever holds the previous key is offered current = keyAfter(previous, salt)
 *   confirmed     current, previous, confirmedAt current was presented; previous opens for a grace longer
 */
export type Metadata = {
  /** Milliseconds since 1970: the absolute end is counted from here. */
  readonly createdAt: number
  /** Digest of the key that opens the session. */
  readonly currentHash: string
  /** Digest of the key before it, from a renewal to the end of its grace. */
  readonly previousHash?: string | undefined
  /** From a renewal until its key is first presented. */
  readonly salt?: string | undefined
  /** Milliseconds since 1970, when it was. */
  readonly confirmedAt?: number | undefined
  /** What forms are bound to, where it came along from a pre-session. */
  readonly form?: string | undefined
  /** Of an owner's session: its label, by which he finds it in his list. */
  readonly label?: string | undefined
  /** Of an owner's session, milliseconds since 1970: when a visit last saved something. */
  readonly lastSeenAt?: number | undefined
  /** Milliseconds that the login named in the place of the manager's own: how long it lives unused, and at the most. */
  readonly idleTimeout?: number | undefined
  readonly absoluteTimeout?: number | undefined
  /** Whether the login said that the cookie outlives the browser's window, or that it does not. */
  readonly persistent?: boolean | undefined
  /**
   * The last version of each writer before this one, newest first, put together. A writer that finds its own there
   * knows that its write was carried out, although the answer was lost.
   */
  readonly recentVersions: string
}

/** What a login may say of its session alone. */
export type LoginSettings = Pick<Metadata, 'idleTimeout' | 'absoluteTimeout' | 'persistent'>

/**
 * Milliseconds that what has expired is left alone: the clock of a machine may be hours wrong, and what it takes for
 * expired is alive at all others then.
 */
export const EXPIRED_KEPT = 86_400_000

/** Milliseconds that the key before still opens, counted from the first presentation of the new one. */
export const GRACE = 30_000
/** Milliseconds that a response may be under way: an offer older than the rest of a grace could undo a newer renewal. */
const RESPONSE_TRANSIT = 10_000
/** Milliseconds since the store last told of an entry, within which its offer may leave. */
export const OFFER_MAX_AGE = GRACE - RESPONSE_TRANSIT

/** The format of a session whose login named lifetimes, and of every other. */
const WITH_LOGIN_SETTINGS = '2'
const PLAIN = '1'

/** How many writers are remembered. */
const REMEMBERED_WRITERS = 16

const base36 = (value: number | undefined): string => value?.toString(36) ?? ''

/*
 * format . birth . current . versions before [. previous . salt . confirmation . form [. label . seen]], in characters
 * that have no dot. Format 2 has all of these, and lifetime . absolute . persistent behind them.
 * Joined, because a text that was added up is a tree of its parts for as long as it is kept.
 */
export const encodeMetadata = (metadata: Metadata): string => {
  const { createdAt, currentHash, recentVersions, previousHash, salt, confirmedAt, form, label, lastSeenAt } = metadata
  const { idleTimeout, absoluteTimeout, persistent } = metadata
  const loginSettings = idleTimeout !== undefined || absoluteTimeout !== undefined || persistent !== undefined
  const settled = [loginSettings ? WITH_LOGIN_SETTINGS : PLAIN, base36(createdAt), currentHash, recentVersions]
  if (!loginSettings && previousHash === undefined && form === undefined && label === undefined)
    return settled.join('.')
  const more = [previousHash ?? '', salt ?? '', base36(confirmedAt), form ?? '']
  const owned = label === undefined && !loginSettings ? [] : [label ?? '', base36(lastSeenAt)]
  const kept = persistent === undefined ? '' : String(Number(persistent))
  return [
    ...settled,
    ...more,
    ...owned,
    ...(loginSettings ? [base36(idleTimeout), base36(absoluteTimeout), kept] : []),
  ].join('.')
}

const time = (text: string | undefined): number | undefined => (text ? Number.parseInt(text, 36) : undefined)

/** A head as it was printed, or undefined where this is no head that this version can read. */
export const decodeMetadata = (text: string): Metadata | undefined => {
  const [format, born, currentHash, recentVersions, previousHash, salt, confirmed, form, label, seen, ...last] =
    text.split('.')
  const [idle, most, kept] = last
  if (format === WITH_LOGIN_SETTINGS ? last.length !== 3 : format !== PLAIN || last.length > 0) return undefined
  const createdAt = time(born)
  if (createdAt === undefined || currentHash === undefined) return undefined
  const times = {
    confirmedAt: time(confirmed),
    lastSeenAt: time(seen),
    idleTimeout: time(idle),
    absoluteTimeout: time(most),
  }
  if (Number.isNaN(createdAt) || Object.values(times).some(Number.isNaN)) return undefined
  const { confirmedAt, lastSeenAt, idleTimeout, absoluteTimeout } = times
  return {
    createdAt,
    currentHash,
    recentVersions: recentVersions ?? '',
    previousHash: previousHash || undefined,
    salt: salt || undefined,
    confirmedAt,
    form: form || undefined,
    ...(label && { label, lastSeenAt }),
    ...(format === WITH_LOGIN_SETTINGS && {
      idleTimeout,
      absoluteTimeout,
      persistent: kept === '' ? undefined : kept === '1',
    }),
  }
}

const versionsIn = (recentVersions: string): string[] => recentVersions.match(/.{8}/gs) ?? []

const writerOf = (version: string): string => version.slice(0, WRITER)

/** What was written up to `version`, before `next`: the newest version of each other writer, so many at most. */
const nextVersions = (recentVersions: string, version: string, next: string): string => {
  const known = [version, ...versionsIn(recentVersions)]
  const others = known.filter(
    (one, i) => writerOf(one) !== writerOf(next) && (i === 0 || writerOf(one) !== writerOf(version)),
  )
  return others.slice(0, REMEMBERED_WRITERS).join('')
}

/** An entry, so far as its history goes. */
type State = { readonly entry: { readonly version: string }; readonly metadata: Metadata }

const historyOf = ({ entry: { version }, metadata: { recentVersions } }: State): readonly string[] => [
  version,
  ...versionsIn(recentVersions),
]

/**
 * Whether a write under `version`, made from the state `base`, is one of those that led to the state `latest`.
 * `unknown`: so many other writers came since that its version would be forgotten by now.
 */
export const wasWritten = (version: string, base: State, latest: State): 'yes' | 'no' | 'unknown' => {
  const history = historyOf(latest)
  if (history.includes(version)) return 'yes'
  if (history.length <= REMEMBERED_WRITERS) return 'no'
  // The oldest are forgotten first: where something older than the write is still there, the write would be too.
  const older = historyOf(base)
  return history.some((one) => older.includes(one)) ? 'no' : 'unknown'
}

/*
 * What a session leaves behind when it ends, for as long as a request with its key may be under way: so that such a
 * request is not taken for one of a visitor who never had a session.
 */
const ENDED = 'ended'

/** Whether the visitor goes on with another session, because of a login, or not. */
export type EndedBy = 'login' | 'end'

/** The head of a mark. The time is in it, because a read that is under way may still move the expiry of the entry. */
export const encodeMark = (by: EndedBy, until: number): string => [ENDED, by, base36(until)].join('.')

export const decodeMark = (text: string): { readonly by: EndedBy; readonly until: number } | undefined => {
  const [format, by, until] = text.split('.')
  return format === ENDED && (by === 'login' || by === 'end') ? { by, until: time(until) ?? 0 } : undefined
}

/** The head of a session that `key` opens, or, without one, that opens itself; with the label of an owner's. */
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
  ...(label !== undefined && { label, lastSeenAt: createdAt }),
  ...loginSettings,
})

/** How a key stands to a session. `offered` and `retiring` open it as `current` does; `retired` and `wrong` do not. */
export type KeyStatus = 'current' | 'offered' | 'retiring' | 'retired' | 'wrong'

export const keyStatus = (metadata: Metadata, key: string, now: number): KeyStatus => {
  const mine = hashKey(key)
  if (sameHash(mine, metadata.currentHash)) return 'current'
  if (metadata.previousHash === undefined || !sameHash(mine, metadata.previousHash)) return 'wrong'
  if (metadata.confirmedAt === undefined) return 'offered'
  return now < metadata.confirmedAt + GRACE ? 'retiring' : 'retired'
}

/** Whether the presentation of `key` ends an offer: then the head must be saved, so that the key before gets its grace. */
export const confirmsRotation = (metadata: Metadata, key: string): boolean =>
  metadata.salt !== undefined && sameHash(hashKey(key), metadata.currentHash)

/** The key to which whoever holds `key` is to go over, where one is on offer. */
export const offeredKey = (metadata: Metadata, key: string): string | undefined =>
  metadata.salt !== undefined && metadata.previousHash !== undefined && sameHash(hashKey(key), metadata.previousHash)
    ? rotatedKey(key, metadata.salt)
    : undefined

/**
 * The head as a visit that holds `key` leaves it, which makes the state `next` of the state `version`: a grace that is
 * over is forgotten, an offer confirmed, a renewal begun.
 */
export const nextMetadata = (
  metadata: Metadata,
  key: string,
  versions: readonly [version: string, next: string],
  rotate: boolean,
  now: number,
): Metadata => {
  const recentVersions = nextVersions(metadata.recentVersions, ...versions)
  const over = metadata.confirmedAt !== undefined && now >= metadata.confirmedAt + GRACE
  const seen: Metadata =
    metadata.label === undefined ? { ...metadata, recentVersions } : { ...metadata, recentVersions, lastSeenAt: now }
  const next: Metadata = over ? { ...seen, previousHash: undefined, confirmedAt: undefined } : seen
  if (confirmsRotation(next, key)) return { ...next, salt: undefined, confirmedAt: now }
  if (!rotate || next.previousHash !== undefined || !sameHash(hashKey(key), next.currentHash)) return next
  const salt = random(12)
  return { ...next, currentHash: hashKey(rotatedKey(key, salt)), previousHash: next.currentHash, salt }
}
