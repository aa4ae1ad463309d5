// Saving: the visit's changes are replayed on the latest value, until a compare-and-set takes them.

import type { Held } from '../backends/contract.ts'
import { afterChange, untilDeadline } from '../backends/deadline.ts'
import { type Awaitable, chain, KeepsakeError } from '../error.ts'
import { formatSetCookie } from '../http/cookie.ts'
import { type Fields, replay } from './changes.ts'
import { isMismatch, type Mismatch } from './codec.ts'
import { type Metadata, nextMetadata, encodeMetadata, wasWritten } from './metadata.ts'
import {
  storageKeyOf,
  isAlive,
  callWrite,
  absoluteEndOf,
  type ManagerContext,
  idleTimeoutOf,
  reread,
  type Snapshot,
  decode,
  type UnitOfWork,
} from './work.ts'

/**
 * Whether a visit is to move the end of its session: at most once in half a lifetime, because the end is what a store
 * looks entries up by. A sealed session has no such store, but a new end is a new cookie, so it waits for longer.
 */
export const expiryDue = ({ house }: UnitOfWork, { entry, head }: Snapshot, now: number): boolean =>
  entry.expiresAt - now <= idleTimeoutOf(house, head) / (house.backend.stateless ? 4 : 2) &&
  expiryOf(house, head, now) > entry.expiresAt

/** Bytes of a whole Set-Cookie that every browser keeps. */
const LONGEST_COOKIE = 4093
const LONGEST_AGE = 34_560_000

/** The fields as a store keeps them. @throws Fault `too_large` */
const toJson = (house: ManagerContext, fields: Fields): string => {
  const value = JSON.stringify(fields)
  const bytes = value.length * 3 <= house.largest ? 0 : Buffer.byteLength(value)
  if (bytes <= house.largest) return value
  throw new KeepsakeError(
    'too_large',
    `The session would have ${bytes} bytes, and at most ${house.largest} are allowed (maxBytes). Keep large things elsewhere, and their names here.`,
  )
}

/** The fields as a store keeps them, if the application's schema takes them. @throws Fault `too_large` */
const encode = ({ house }: UnitOfWork, fields: Fields): Awaitable<string | Mismatch> =>
  house.shape === undefined
    ? toJson(house, fields)
    : chain(house.shape.write(fields), (whole) => (isMismatch(whole) ? whole : toJson(house, whole)))

/** The same for what the visit itself made of what it found: a misfit is its own doing. @throws Fault `too_large`, `bad_fields` */
export const encodeOwn = (visit: UnitOfWork): Awaitable<string> =>
  chain(encode(visit, visit.fields), (value) => {
    if (typeof value === 'string') return value
    throw new KeepsakeError('bad_fields', `The session's fields do not fit its schema, so nothing was saved: ${value.why}.`)
  })

/** The latest that a session may live, if it is used now. */
export const expiryOf = (house: ManagerContext, head: Metadata, now: number): number =>
  Math.min(now + idleTimeoutOf(house, head), absoluteEndOf(house, head))

/**
 * Where a session is found from now on: where it was, unless a stateless backend says what the client is to hold.
 *
 * @throws Fault `too_large` where the cookie would be longer than browsers keep: 4093 bytes, all of it
 */
export const locationAfter = (
  visit: UnitOfWork,
  key: string,
  address: string,
  held: Held,
): { readonly key: string; readonly address: string } => {
  if (held === undefined) return { key, address }
  const { session, attributes } = visit.names
  const { length } = formatSetCookie(session, held, attributes, LONGEST_AGE)
  if (length <= LONGEST_COOKIE) return { key: held, address: storageKeyOf(visit, held) }
  throw new KeepsakeError(
    'too_large',
    `The session would be a cookie of ${length} bytes, and browsers keep at most ${LONGEST_COOKIE}. Keep less in it, or use a backend with a store.`,
  )
}

/** Keeps a loop of attempts within the visit's time, also where no attempt waits. */
export const retryUntilDeadline = (visit: UnitOfWork): (() => void) => {
  const { budget } = visit
  const lasts = untilDeadline(budget)
  return () => {
    if (lasts()) return
    const message = 'Others kept changing the session until the time of the request was over. Nothing was saved.'
    throw afterChange(budget, new KeepsakeError('contended', message))
  }
}

/** Why nothing was saved: another ended the session meanwhile, or left it so that the changes do not fit any more. */
export type WriteFailure = 'ended' | 'conflict'

type WriteAttempt = { readonly version: string; readonly outcome: Metadata | 'ended' | 'stale' }

/** One compare-and-set. */
const compareAndSet = (visit: UnitOfWork, from: Snapshot, value: string | undefined): Awaitable<WriteAttempt> => {
  const { house, renew } = visit
  const { key, address, label, entry, head } = from
  const version = house.version()
  const now = house.now()
  if (!isAlive(house, from, now)) {
    house.emit('expired', { label })
    return { version, outcome: 'ended' }
  }
  const next = house.backend.stateless ? head : nextMetadata(head, key, [entry.version, version], renew, now)
  const moves = house.backend.stateless || expiryDue(visit, from, now)
  const expiresAt = Math.max(entry.expiresAt, expiryOf(house, head, now))
  const change = { value, head: encodeMetadata(next), version, ...(moves && { expiresAt }) }
  const done = (answer: Held | 'stale' | 'gone'): WriteAttempt => {
    if (answer === 'gone') return { version, outcome: 'ended' }
    if (answer === 'stale') return { version, outcome: 'stale' }
    const held = locationAfter(visit, key, address, answer)
    if (renew && (house.backend.stateless || (next.salt !== undefined && next.salt !== head.salt))) {
      house.emit('renewed', { label })
    }
    visit.stored = { key: held.key, address: held.address, label, entry, head: next, at: now }
    return { version, outcome: next }
  }
  return chain(
    callWrite(visit, (backend) => backend.set(address, change, entry.version)),
    done,
  )
}

/** The visit's changes on what the store has by now, as it is to be kept. */
export const mergeOnto = async (visit: UnitOfWork, latest: Fields): Promise<string | Mismatch> => {
  const fields = await decode(visit, latest)
  return isMismatch(fields) ? fields : encode(visit, replay(fields, visit.changes))
}

/**
 * Whether a write that was answered with `stale` was carried out all the same: a driver sent it twice, and others have
 * written in between.
 *
 * @throws Fault `unknown_outcome` if nobody can say: it is not replayed then
 */
export const isOwnWrite = ({ budget }: UnitOfWork, version: string, base: Snapshot, latest: Snapshot): boolean => {
  const answer = wasWritten(version, base, latest)
  if (answer !== 'unknown') return answer === 'yes'
  budget.changed = true
  throw new KeepsakeError(
    'unknown_outcome',
    'More than 16 servers changed the session while this request saved its change. It may have been saved or not; read the session again.',
  )
}

/** The attempts after a first one that was stale: each on what the store has by then. */
const retrySave = async (visit: UnitOfWork, first: Snapshot, tried: string): Promise<Metadata | WriteFailure> => {
  const { changes } = visit
  const goOn = retryUntilDeadline(visit)
  let base = first
  for (let before = tried; ; ) {
    goOn()
    const latest = await reread(visit, first)
    if (latest === undefined) return 'ended'
    const { stored, fields } = latest
    if (isOwnWrite(visit, before, base, stored)) return stored.head
    const value = changes.length > 0 ? await mergeOnto(visit, fields) : stored.entry.value
    if (typeof value === 'object') return 'conflict'
    const { version, outcome } = await compareAndSet(visit, stored, value)
    if (outcome !== 'stale') return outcome
    before = version
    base = stored
  }
}

/**
 * Saves what the visit changed, renews the key where that was asked for, and ends an offer where its key was presented.
 *
 * @returns the head as it stands now, or why nothing was saved
 * @throws Fault `unknown_outcome`, `unavailable`, `contended`, `too_large`, `bad_fields`, and whatever an `update` throws
 */
export const save = (visit: UnitOfWork, first: Snapshot): Awaitable<Metadata | WriteFailure> =>
  chain(visit.changes.length > 0 ? encodeOwn(visit) : first.entry.value, (value) =>
    chain(compareAndSet(visit, first, value), ({ version, outcome }) =>
      outcome === 'stale' ? retrySave(visit, first, version) : outcome,
    ),
  )
