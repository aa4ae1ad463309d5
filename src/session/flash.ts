// Flash messages of a visit: claimed at once, given back where the page was not shown, and delivered at the end.

import type { Awaitable } from '../error.ts'
import { type Draft, type Fields, FLASH, parsed } from './changes.ts'
import { bounded, type Flash, parsedFlashes, printedFlashes } from './flash-messages.ts'
import { keptPreSession, preSession } from './form-secret.ts'
import { nextHead, printHead } from './metadata.ts'
import { inTurn } from './queue.ts'
import { patience, wasOurs } from './save.ts'
import { changing, record, reread, type Stored, type Visit } from './work.ts'

/*
 * Where a store keeps the session, messages lie beside its fields, and whoever removes them by compare-and-set has them
 * alone. For strangers, and where the session itself is a cookie, they travel in the sealed pre-session.
 */
const inEntry = ({ house, stored }: Visit): boolean => stored !== undefined && house.backend.stateless !== true

const lying = (fields: Fields): readonly Flash[] => (Object.hasOwn(fields, FLASH) ? parsedFlashes(fields[FLASH]) : [])

/** A copy of fields with these messages beside them, and with none where there are none. */
const beside = ({ [FLASH]: _, ...fields }: Fields, flashes: readonly Flash[]): Draft =>
  flashes.length === 0 ? fields : { ...fields, [FLASH]: printedFlashes(bounded(flashes)) }

/** Lays messages beside the fields as the visit has them, which are what it saves. */
const lay = (visit: Visit, flashes: readonly Flash[]): void => {
  const fields = beside(visit.fields, flashes)
  visit.fields = fields
  if (visit.draft !== undefined) visit.draft = fields
}

/**
 * Exchanges the messages in the entry, whatever else is changed there meanwhile.
 *
 * @returns what lay there; nothing where there was nothing to exchange, or the session has ended
 */
const exchanged = async (
  visit: Visit,
  first: Stored,
  next: (there: readonly Flash[]) => readonly Flash[],
): Promise<readonly Flash[]> => {
  const goOn = patience(visit)
  for (let stored = first; ; ) {
    goOn()
    const { key, address, entry, head } = stored
    const fields = parsed(entry.value) ?? {}
    const there = lying(fields)
    const then = next(there)
    if (there.length === 0 && then.length === 0) return []
    const version = visit.house.version()
    const value = JSON.stringify(beside(fields, then))
    const nextHeadOf = nextHead(head, key, [entry.version, version], false, visit.house.now())
    const change = { value, head: printHead(nextHeadOf), version }
    const answer = await changing(visit, (backend) => backend.set(address, change, entry.version))
    if (answer === 'gone') return []
    if (answer !== 'stale') {
      // On a newer entry than the visit began with, its own changes must meet that when they are saved, and be stale.
      if (stored === first) {
        visit.stored = { ...stored, entry: { ...entry, ...change }, head: nextHeadOf }
        lay(visit, then)
      }
      return there
    }
    const latest = await reread(visit, first)
    if (latest === undefined) return []
    if (wasOurs(visit, version, stored, latest.stored)) return there
    stored = latest.stored
  }
}

/** What the visit's own browser carries for it. */
const claimedFromCookie = (visit: Visit): readonly Flash[] => {
  const pre = preSession(visit)
  if (pre === undefined || pre.flash.length === 0) return []
  visit.pre = { ...pre, flash: [] }
  visit.preChanged = true
  return pre.flash
}

/**
 * The messages that wait for this visitor, claimed: nobody else gets them, unless the visit gives them back.
 *
 * @throws Fault `unavailable`, `unknown_outcome`, `contended`
 */
export const claim = async (visit: Visit): Promise<readonly Flash[]> => {
  const flashes = await claimed(visit)
  if (flashes.length > 0) {
    visit.taken = [...visit.taken, ...flashes]
    visit.confidential = true
  }
  return flashes
}

const claimed = (visit: Visit): Awaitable<readonly Flash[]> => {
  const { stored, turn, endedBy, withheld } = visit
  if (stored !== undefined && inEntry(visit)) {
    if (lying(visit.fields).length === 0) return []
    return inTurn(visit, stored.address, () => exchanged(visit, visit.stored as Stored, () => []))
  }
  // No cookie may leave that would say that they were taken.
  const unsaid = stored === undefined && (endedBy ?? withheld) !== undefined
  return turn === 'invalidate' || unsaid ? [] : claimedFromCookie(visit)
}

/** Puts back, before any newer ones, what the visit claimed and did not show. @throws as `claim` */
export const giveBack = async (visit: Visit): Promise<void> => {
  const { taken, stored } = visit
  visit.taken = []
  if (taken.length === 0) return
  if (stored !== undefined && inEntry(visit)) {
    await inTurn(visit, stored.address, () => exchanged(visit, visit.stored as Stored, (there) => [...taken, ...there]))
  } else if (visit.pre !== undefined) {
    visit.pre = { ...visit.pre, flash: bounded([...taken, ...visit.pre.flash]) }
  }
}

/** Whether the visit leaves a session in a store: then what it says to the next one lies there. */
const leavesEntry = (visit: Visit, begins: boolean): boolean => {
  const { house, stored, turn, owner } = visit
  if (house.backend.stateless) return false
  if (turn === 'invalidate') return owner !== undefined || begins
  return turn !== undefined || stored !== undefined || begins
}

/**
 * Puts the visit's own messages where its visitor will be found. `begins`: a stranger's visit has something to save.
 * What he carried until now comes along into his session.
 */
export const deliver = (visit: Visit, begins: boolean): void => {
  const { outbox, stored, turn } = visit
  const stranger = stored === undefined && turn !== 'invalidate'
  if (leavesEntry(visit, begins)) {
    const carried = stranger ? (preSession(visit)?.flash ?? []) : []
    const more = [...carried, ...outbox]
    if (more.length === 0) return
    record(visit, { update: FLASH, by: (there) => printedFlashes(bounded([...parsedFlashes(there), ...more])) })
  } else if (outbox.length > 0) {
    const pre = keptPreSession(visit)
    visit.pre = { ...pre, flash: bounded([...pre.flash, ...outbox]) }
    visit.preChanged = true
  }
}
