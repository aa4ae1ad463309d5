// Saving: the visit's changes are replayed on the latest value, until a compare-and-set takes them.

import type { Held } from '../backends/contract.ts'
import { afterChange, lasting } from '../backends/deadline.ts'
import { type Awaitable, after, Fault } from '../error.ts'
import { setCookie } from '../http/cookie.ts'
import { type Fields, replay } from './changes.ts'
import { isMisfit, type Misfit } from './codec.ts'
import { type Head, nextHead, printHead, wrote } from './metadata.ts'
import {
  addressOf,
  alive,
  changing,
  endOf,
  type House,
  lifetimeOf,
  reread,
  type Stored,
  shaped,
  type Visit,
} from './work.ts'

/**
 * Whether a visit is to move the end of its session: at most once in half a lifetime, because the end is what a store
 * looks entries up by. A sealed session has no such store, but a new end is a new cookie, so it waits for longer.
 */
export const due = ({ house }: Visit, { entry, head }: Stored, now: number): boolean =>
  entry.expiresAt - now <= lifetimeOf(house, head) / (house.backend.stateless ? 4 : 2) &&
  expiryOf(house, head, now) > entry.expiresAt

/** Bytes of a whole Set-Cookie that every browser keeps. */
const LONGEST_COOKIE = 4093
const LONGEST_AGE = 34_560_000

/** The fields as a store keeps them. @throws Fault `too_large` */
const printed = (house: House, fields: Fields): string => {
  const value = JSON.stringify(fields)
  const bytes = value.length * 3 <= house.largest ? 0 : Buffer.byteLength(value)
  if (bytes <= house.largest) return value
  throw new Fault(
    'too_large',
    `The session would have ${bytes} bytes, and at most ${house.largest} are allowed (maxBytes). Keep large things elsewhere, and their names here.`,
  )
}

/** The fields as a store keeps them, if the application's schema takes them. @throws Fault `too_large` */
const kept = ({ house }: Visit, fields: Fields): Awaitable<string | Misfit> =>
  house.shape === undefined
    ? printed(house, fields)
    : after(house.shape.write(fields), (whole) => (isMisfit(whole) ? whole : printed(house, whole)))

/** The same for what the visit itself made of what it found: a misfit is its own doing. @throws Fault `too_large`, `bad_fields` */
export const ownKept = (visit: Visit): Awaitable<string> =>
  after(kept(visit, visit.fields), (value) => {
    if (typeof value === 'string') return value
    throw new Fault('bad_fields', `The session's fields do not fit its schema, so nothing was saved: ${value.why}.`)
  })

/** The latest that a session may live, if it is used now. */
export const expiryOf = (house: House, head: Head, now: number): number =>
  Math.min(now + lifetimeOf(house, head), endOf(house, head))

/**
 * Where a session is found from now on: where it was, unless a stateless backend says what the client is to hold.
 *
 * @throws Fault `too_large` where the cookie would be longer than browsers keep: 4093 bytes, all of it
 */
export const holding = (
  visit: Visit,
  key: string,
  address: string,
  held: Held,
): { readonly key: string; readonly address: string } => {
  if (held === undefined) return { key, address }
  const { session, attributes } = visit.names
  const { length } = setCookie(session, held, attributes, LONGEST_AGE)
  if (length <= LONGEST_COOKIE) return { key: held, address: addressOf(visit, held) }
  throw new Fault(
    'too_large',
    `The session would be a cookie of ${length} bytes, and browsers keep at most ${LONGEST_COOKIE}. Keep less in it, or use a backend with a store.`,
  )
}

/** Keeps a loop of attempts within the visit's time, also where no attempt waits. */
export const patience = (visit: Visit): (() => void) => {
  const { budget } = visit
  const lasts = lasting(budget)
  return () => {
    if (lasts()) return
    const message = 'Others kept changing the session until the time of the request was over. Nothing was saved.'
    throw afterChange(budget, new Fault('contended', message))
  }
}

/** Why nothing was saved: another ended the session meanwhile, or left it so that the changes do not fit any more. */
export type Lost = 'ended' | 'conflict'

type Attempt = { readonly version: string; readonly outcome: Head | 'ended' | 'stale' }

/** One compare-and-set. */
const attempt = (visit: Visit, from: Stored, value: string | undefined): Awaitable<Attempt> => {
  const { house, renew } = visit
  const { key, address, label, entry, head } = from
  const version = house.version()
  const now = house.now()
  if (!alive(house, from, now)) {
    house.emit('expired', { label })
    return { version, outcome: 'ended' }
  }
  const next = house.backend.stateless ? head : nextHead(head, key, [entry.version, version], renew, now)
  const moves = house.backend.stateless || due(visit, from, now)
  const expiresAt = Math.max(entry.expiresAt, expiryOf(house, head, now))
  const change = { value, head: printHead(next), version, ...(moves && { expiresAt }) }
  const done = (answer: Held | 'stale' | 'gone'): Attempt => {
    if (answer === 'gone') return { version, outcome: 'ended' }
    if (answer === 'stale') return { version, outcome: 'stale' }
    const held = holding(visit, key, address, answer)
    if (renew && (house.backend.stateless || (next.salt !== undefined && next.salt !== head.salt))) {
      house.emit('renewed', { label })
    }
    visit.stored = { key: held.key, address: held.address, label, entry, head: next, at: now }
    return { version, outcome: next }
  }
  return after(
    changing(visit, (backend) => backend.set(address, change, entry.version)),
    done,
  )
}

/** The visit's changes on what the store has by now, as it is to be kept. */
export const merged = async (visit: Visit, latest: Fields): Promise<string | Misfit> => {
  const fields = await shaped(visit, latest)
  return isMisfit(fields) ? fields : kept(visit, replay(fields, visit.changes))
}

/**
 * Whether a write that was answered with `stale` was carried out all the same: a driver sent it twice, and others have
 * written in between.
 *
 * @throws Fault `unknown_outcome` if nobody can say: it is not replayed then
 */
export const wasOurs = ({ budget }: Visit, version: string, base: Stored, latest: Stored): boolean => {
  const answer = wrote(version, base, latest)
  if (answer !== 'unknown') return answer === 'yes'
  budget.changed = true
  throw new Fault(
    'unknown_outcome',
    'More than 16 servers changed the session while this request saved its change. It may have been saved or not; read the session again.',
  )
}

/** The attempts after a first one that was stale: each on what the store has by then. */
const again = async (visit: Visit, first: Stored, tried: string): Promise<Head | Lost> => {
  const { changes } = visit
  const goOn = patience(visit)
  let base = first
  for (let before = tried; ; ) {
    goOn()
    const latest = await reread(visit, first)
    if (latest === undefined) return 'ended'
    const { stored, fields } = latest
    if (wasOurs(visit, before, base, stored)) return stored.head
    const value = changes.length > 0 ? await merged(visit, fields) : stored.entry.value
    if (typeof value === 'object') return 'conflict'
    const { version, outcome } = await attempt(visit, stored, value)
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
export const save = (visit: Visit, first: Stored): Awaitable<Head | Lost> =>
  after(visit.changes.length > 0 ? ownKept(visit) : first.entry.value, (value) =>
    after(attempt(visit, first, value), ({ version, outcome }) =>
      outcome === 'stale' ? again(visit, first, version) : outcome,
    ),
  )
