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
 * format . birth . current . versions before [. previous . salt . confirmation . form], in characters that have no dot.
 * Joined, because a text that was added up is a tree of its parts for as long as it is kept.
 */
export const printHead = ({ bornAt, current, before, previous, salt, confirmedAt, form }: Head): string => {
  const settled = [FORMAT, bornAt.toString(36), current, before]
  if (previous === undefined && form === undefined) return settled.join('.')
  return [...settled, previous ?? '', salt ?? '', confirmedAt?.toString(36) ?? '', form ?? ''].join('.')
}

const time = (text: string | undefined): number | undefined => (text ? Number.parseInt(text, 36) : undefined)

/** A head as it was printed, or undefined where this is no head that this version can read. */
export const parseHead = (text: string): Head | undefined => {
  const [format, born, current, before, previous, salt, confirmed, form, more] = text.split('.')
  const bornAt = time(born)
  const confirmedAt = time(confirmed)
  if (format !== FORMAT || bornAt === undefined || current === undefined || more !== undefined) return undefined
  if (Number.isNaN(bornAt) || Number.isNaN(confirmedAt)) return undefined
  return {
    bornAt,
    current,
    before: before ?? '',
    previous: previous || undefined,
    salt: salt || undefined,
    confirmedAt,
    form: form || undefined,
  }
}

/** Whether an entry had this version before the one that it has. */
export const hadVersion = ({ before }: Head, version: string): boolean => before.indexOf(version) % VERSION === 0

/** The head of a session that `key` opens, or, without one, that opens itself. */
export const newHead = (key: string | undefined, bornAt: number, form: string | undefined): Head => ({
  bornAt,
  current: key === undefined ? '' : digest(key),
  form,
  before: '',
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
  const next: Head = over ? { ...head, before, previous: undefined, confirmedAt: undefined } : { ...head, before }
  if (confirms(next, key)) return { ...next, salt: undefined, confirmedAt: now }
  if (!renew || next.previous !== undefined || !sameDigest(digest(key), next.current)) return next
  const salt = random(12)
  return { ...next, current: digest(keyAfter(key, salt)), previous: next.current, salt }
}
