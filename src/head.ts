// What we keep of a session beside its value: its birth, the hashes of its secrets, its last versions.

import { digest, keyAfter, sameDigest } from './keys.ts'
import { random } from './random.ts'

/*
 * A renewal (docs/decisions/003) is three states of one entry:
 *   settled       current
 *   offered       current, previous, salt        whoever holds the previous key is offered current = keyAfter(previous, salt)
 *   confirmed     current, previous, confirmedAt current was presented; previous opens for a grace longer
 */
export type Head = {
  /** Milliseconds since 1970: the absolute end is counted from here. */
  readonly bornAt: number
  /** Digest of the key that opens the session. */
  readonly current: string
  /** Digest of the key before it, from a renewal to the end of its grace. */
  readonly previous?: string | undefined
  /** From a renewal until its key is first presented. */
  readonly salt?: string | undefined
  /** Milliseconds since 1970, when it was. */
  readonly confirmedAt?: number | undefined
  /** What forms are bound to, where it came along from a pre-session. */
  readonly form?: string | undefined
  /** Of an owner's session: its label, by which he finds it in his list. */
  readonly label?: string | undefined
  /** Of an owner's session, milliseconds since 1970: when a visit last saved something. */
  readonly seenAt?: number | undefined
  /** The versions before this one, newest first, put together: whoever finds his own there was answered, and did not hear it. */
  readonly before: string
}

/** Milliseconds that the key before still opens, counted from the first presentation of the new one. */
const GRACE = 30_000
/** Milliseconds that a response may be under way: an offer older than the rest of a grace could undo a newer renewal. */
const FLIGHT = 10_000
/** Milliseconds since the store last told of an entry, within which its offer may leave. */
export const OFFER = GRACE - FLIGHT

const FORMAT = '1'
/** Characters of a version, and how many versions are remembered. */
const VERSION = 8
const REMEMBERED = 4

/*
 * format . birth . current . versions before [. previous . salt . confirmation . form [. label . seen]], in characters
 * that have no dot.
 * Joined, because a text that was added up is a tree of its parts for as long as it is kept.
 */
export const printHead = (head: Head): string => {
  const { bornAt, current, before, previous, salt, confirmedAt, form, label, seenAt } = head
  const settled = [FORMAT, bornAt.toString(36), current, before]
  if (previous === undefined && form === undefined && label === undefined) return settled.join('.')
  const more = [previous ?? '', salt ?? '', confirmedAt?.toString(36) ?? '', form ?? '']
  const owned = label === undefined ? [] : [label, seenAt?.toString(36) ?? '']
  return [...settled, ...more, ...owned].join('.')
}

const time = (text: string | undefined): number | undefined => (text ? Number.parseInt(text, 36) : undefined)

/** A head as it was printed, or undefined where this is no head that this version can read. */
export const parseHead = (text: string): Head | undefined => {
  const [format, born, current, before, previous, salt, confirmed, form, label, seen, more] = text.split('.')
  const bornAt = time(born)
  const confirmedAt = time(confirmed)
  const seenAt = time(seen)
  if (format !== FORMAT || bornAt === undefined || current === undefined || more !== undefined) return undefined
  if (Number.isNaN(bornAt) || Number.isNaN(confirmedAt) || Number.isNaN(seenAt)) return undefined
  return {
    bornAt,
    current,
    before: before ?? '',
    previous: previous || undefined,
    salt: salt || undefined,
    confirmedAt,
    form: form || undefined,
    ...(label && { label, seenAt }),
  }
}

/** Whether an entry had this version before the one that it has. */
export const hadVersion = ({ before }: Head, version: string): boolean => before.indexOf(version) % VERSION === 0

/** The head of a session that `key` opens, or, without one, that opens itself; with the label of an owner's. */
export const newHead = (key: string | undefined, bornAt: number, form: string | undefined, label?: string): Head => ({
  bornAt,
  current: key === undefined ? '' : digest(key),
  form,
  before: '',
  ...(label !== undefined && { label, seenAt: bornAt }),
})

/** How a key stands to a session. `offered` and `retiring` open it as `current` does; `retired` and `wrong` do not. */
export type Standing = 'current' | 'offered' | 'retiring' | 'retired' | 'wrong'

export const standing = (head: Head, key: string, now: number): Standing => {
  const mine = digest(key)
  if (sameDigest(mine, head.current)) return 'current'
  if (head.previous === undefined || !sameDigest(mine, head.previous)) return 'wrong'
  if (head.confirmedAt === undefined) return 'offered'
  return now < head.confirmedAt + GRACE ? 'retiring' : 'retired'
}

/** Whether the presentation of `key` ends an offer: then the head must be saved, so that the key before gets its grace. */
export const confirms = (head: Head, key: string): boolean =>
  head.salt !== undefined && sameDigest(digest(key), head.current)

/** The key to which whoever holds `key` is to go over, where one is on offer. */
export const offered = (head: Head, key: string): string | undefined =>
  head.salt !== undefined && head.previous !== undefined && sameDigest(digest(key), head.previous)
    ? keyAfter(key, head.salt)
    : undefined

/** The head as a visit that holds `key` leaves it: a grace that is over is forgotten, an offer confirmed, a renewal begun. */
export const nextHead = (head: Head, key: string, version: string, renew: boolean, now: number): Head => {
  const before = (version + head.before).slice(0, REMEMBERED * VERSION)
  const over = head.confirmedAt !== undefined && now >= head.confirmedAt + GRACE
  const seen: Head = head.label === undefined ? { ...head, before } : { ...head, before, seenAt: now }
  const next: Head = over ? { ...seen, previous: undefined, confirmedAt: undefined } : seen
  if (confirms(next, key)) return { ...next, salt: undefined, confirmedAt: now }
  if (!renew || next.previous !== undefined || !sameDigest(digest(key), next.current)) return next
  const salt = random(12)
  return { ...next, current: digest(keyAfter(key, salt)), previous: next.current, salt }
}
