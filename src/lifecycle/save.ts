// Saving: the visit's changes are replayed on the latest value, until a compare-and-set takes them.

import type { Fields } from '../changes.ts'
import { replay } from '../changes.ts'
import { setCookie } from '../cookie.ts'
import { type Head, nextHead, printHead } from '../head.ts'
import { newVersion } from '../keys.ts'
import { Fault } from '../outcome.ts'
import { addressOf, alive, changing, forget, type House, reread, type Stored, type Visit } from './visit.ts'

/** Bytes of a whole Set-Cookie that every browser keeps. */
const LONGEST_COOKIE = 4093
const LONGEST_AGE = 34_560_000

/** The fields as a store keeps them. @throws Fault `too_large` */
export const printed = (house: House, fields: Fields): string => {
  const value = JSON.stringify(fields)
  const bytes = value.length * 3 <= house.largest ? 0 : Buffer.byteLength(value)
  if (bytes <= house.largest) return value
  throw new Fault(
    'too_large',
    `The session would have ${bytes} bytes, and at most ${house.largest} are allowed (maxBytes). Keep large things elsewhere, and their names here.`,
  )
}

/** The latest that a session born at `bornAt` may live, if it is used now. */
export const expiryOf = (house: House, bornAt: number, now: number): number =>
  Math.min(now + house.lifetime, bornAt + house.absolute)

/**
 * What the client is to hold from now on.
 *
 * @throws Fault `too_large` where the cookie would be longer than browsers keep: 4093 bytes, all of it
 */
export const holding = (visit: Visit, key: string): { readonly key: string; readonly address: string } => {
  const { session, attributes } = visit.names
  const { length } = setCookie(session, key, attributes, LONGEST_AGE)
  if (length <= LONGEST_COOKIE) return { key, address: addressOf(visit, key) }
  throw new Fault(
    'too_large',
    `The session would be a cookie of ${length} bytes, and browsers keep at most ${LONGEST_COOKIE}. Keep less in it, or use a backend with a store.`,
  )
}

/** Keeps a loop of attempts within the visit's time, also where no attempt waits. */
export const patience = (visit: Visit): (() => void) => {
  const until = performance.now() + visit.budget.left
  return () => {
    if (visit.budget.left > 0 && performance.now() < until) return
    throw new Fault(
      'contended',
      'Others kept changing the session until the time of the visit was over. Nothing was saved.',
    )
  }
}

/**
 * Saves what the visit changed, renews the key where that was asked for, and ends an offer where its key was presented.
 *
 * @returns the head as it stands now, or `ended`: then nothing was saved
 * @throws Fault `unknown_outcome`, `unavailable`, `contended`, `too_large`, and whatever an `update` throws
 */
export const save = async (visit: Visit, first: Stored): Promise<Head | 'ended'> => {
  const { house, changes, renew } = visit
  const { key, address, label } = first
  let latest = { stored: first, fields: visit.fields }
  let value = changes.length > 0 ? printed(house, visit.fields) : first.entry.value
  let goOn: (() => void) | undefined
  for (;;) {
    const { entry, head } = latest.stored
    const now = house.now()
    if (!alive(house, latest.stored, now)) {
      house.emit('expired', { label })
      await forget(visit, latest.stored)
      return 'ended'
    }
    const version = newVersion()
    const next = house.backend.stateless ? head : nextHead(head, key, entry.version, renew, now)
    const expiresAt = Math.max(entry.expiresAt, expiryOf(house, head.bornAt, now))
    const change = { value, head: printHead(next), version, expiresAt }
    const answer = changing(visit, (backend) => backend.set(address, change, entry.version))
    const outcome = answer instanceof Promise ? await answer : answer
    if (outcome === 'gone') return 'ended'
    if (outcome !== 'stale') {
      visit.stored = { ...holding(visit, outcome ?? key), label, entry: { ...entry, ...change }, head: next, at: now }
      return next
    }
    goOn ??= patience(visit)
    goOn()
    const again = await reread(visit, first)
    if (again === undefined) return 'ended'
    latest = again
    // It was ours, the answer was lost on the way, and others have written since.
    if (again.stored.head.before.includes(version)) return again.stored.head
    value = changes.length > 0 ? printed(house, replay(again.fields, changes)) : again.stored.entry.value
  }
}
