// Saving: the visit's changes are replayed on the latest value, until a compare-and-set takes them.

import type { Fields } from '../changes.ts'
import { replay } from '../changes.ts'
import { type Head, nextHead, printHead } from '../head.ts'
import { labelOf, newVersion } from '../keys.ts'
import { Fault } from '../outcome.ts'
import { addressOf, alive, changing, type House, reread, type Stored, type Visit } from './visit.ts'

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
  const { key } = first
  const address = addressOf(visit, key)
  let latest = { stored: first, fields: visit.fields }
  let value = changes.length > 0 ? printed(house, visit.fields) : first.entry.value
  let goOn: (() => void) | undefined
  for (;;) {
    const { entry, head } = latest.stored
    const now = house.now()
    if (!alive(house, latest.stored, now)) {
      house.emit('expired', { label: labelOf(key) })
      await changing(visit, (backend) => backend.clear(address, entry.version))
      return 'ended'
    }
    const version = newVersion()
    const next = nextHead(head, key, entry.version, renew, now)
    const expiresAt = Math.max(entry.expiresAt, expiryOf(house, head.bornAt, now))
    const change = { value, head: printHead(next), version, expiresAt }
    const answer = changing(visit, (backend) => backend.set(address, change, entry.version))
    const outcome = answer instanceof Promise ? await answer : answer
    if (outcome === 'gone') return 'ended'
    if (outcome !== 'stale') {
      visit.stored = { key, entry: { ...entry, ...change }, head: next, at: now }
      return next
    }
    goOn ??= patience(visit)
    goOn()
    const again = await reread(visit, key)
    if (again === undefined) return 'ended'
    latest = again
    // It was ours, the answer was lost on the way, and others have written since.
    if (again.stored.head.before.includes(version)) return again.stored.head
    value = changes.length > 0 ? printed(house, replay(again.fields, changes)) : again.stored.entry.value
  }
}
