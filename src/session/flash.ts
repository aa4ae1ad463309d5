// Flash messages of a visit: claimed at once, given back where the page was not shown, and delivered at the end.

import type { Awaitable } from '../error.ts'
import { type Draft, type Fields, FLASH, parseFields } from './changes.ts'
import { limitFlashes, type Flash, decodeFlashes, encodeFlashes } from './flash-messages.ts'
import { ensurePreSession, preSession } from './form-secret.ts'
import { nextMetadata, encodeMetadata } from './metadata.ts'
import { serialize } from './queue.ts'
import { retryUntilDeadline, isOwnWrite } from './save.ts'
import { callWrite, recordChange, reread, type Snapshot, type UnitOfWork } from './work.ts'

/*
 * Where a store keeps the session, messages lie beside its fields, and whoever removes them by compare-and-set has them
 * alone. For strangers, and where the session itself is a cookie, they travel in the sealed pre-session.
 */
const isStored = ({ house, stored }: UnitOfWork): boolean => stored !== undefined && house.backend.stateless !== true

const messagesIn = (fields: Fields): readonly Flash[] => (Object.hasOwn(fields, FLASH) ? decodeFlashes(fields[FLASH]) : [])

/** A copy of fields with these messages beside them, and with none where there are none. */
const withMessages = ({ [FLASH]: _, ...fields }: Fields, flashes: readonly Flash[]): Draft =>
  flashes.length === 0 ? fields : { ...fields, [FLASH]: encodeFlashes(limitFlashes(flashes)) }

/** Lays messages beside the fields as the visit has them, which are what it saves. */
const setMessages = (visit: UnitOfWork, flashes: readonly Flash[]): void => {
  const fields = withMessages(visit.fields, flashes)
  visit.fields = fields
  if (visit.draft !== undefined) visit.draft = fields
}

/**
 * Exchanges the messages in the entry, whatever else is changed there meanwhile.
 *
 * @returns what lay there; nothing where there was nothing to exchange, or the session has ended
 */
const swapMessages = async (
  visit: UnitOfWork,
  first: Snapshot,
  next: (there: readonly Flash[]) => readonly Flash[],
): Promise<readonly Flash[]> => {
  const goOn = retryUntilDeadline(visit)
  for (let stored = first; ; ) {
    goOn()
    const { key, address, entry, head } = stored
    const fields = parseFields(entry.value) ?? {}
    const there = messagesIn(fields)
    const then = next(there)
    if (there.length === 0 && then.length === 0) return []
    const version = visit.house.version()
    const value = JSON.stringify(withMessages(fields, then))
    const nextHeadOf = nextMetadata(head, key, [entry.version, version], false, visit.house.now())
    const change = { value, head: encodeMetadata(nextHeadOf), version }
    const answer = await callWrite(visit, (backend) => backend.set(address, change, entry.version))
    if (answer === 'gone') return []
    if (answer !== 'stale') {
      // On a newer entry than the visit began with, its own changes must meet that when they are saved, and be stale.
      if (stored === first) {
        visit.stored = { ...stored, entry: { ...entry, ...change }, head: nextHeadOf }
        setMessages(visit, then)
      }
      return there
    }
    const latest = await reread(visit, first)
    if (latest === undefined) return []
    if (isOwnWrite(visit, version, stored, latest.stored)) return there
    stored = latest.stored
  }
}

/** What the visit's own browser carries for it. */
const takeFromCookie = (visit: UnitOfWork): readonly Flash[] => {
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
export const takeMessages = async (visit: UnitOfWork): Promise<readonly Flash[]> => {
  const flashes = await findMessages(visit)
  if (flashes.length > 0) {
    visit.taken = [...visit.taken, ...flashes]
    visit.confidential = true
  }
  return flashes
}

const findMessages = (visit: UnitOfWork): Awaitable<readonly Flash[]> => {
  const { stored, turn, endedBy, withheld } = visit
  if (stored !== undefined && isStored(visit)) {
    if (messagesIn(visit.fields).length === 0) return []
    return serialize(visit, stored.address, () => swapMessages(visit, visit.stored as Snapshot, () => []))
  }
  // No cookie may leave that would say that they were taken.
  const unsaid = stored === undefined && (endedBy ?? withheld) !== undefined
  return turn === 'invalidate' || unsaid ? [] : takeFromCookie(visit)
}

/** Puts back, before any newer ones, what the visit claimed and did not show. @throws as `claim` */
export const returnMessages = async (visit: UnitOfWork): Promise<void> => {
  const { taken, stored } = visit
  visit.taken = []
  if (taken.length === 0) return
  if (stored !== undefined && isStored(visit)) {
    await serialize(visit, stored.address, () => swapMessages(visit, visit.stored as Snapshot, (there) => [...taken, ...there]))
  } else if (visit.pre !== undefined) {
    visit.pre = { ...visit.pre, flash: limitFlashes([...taken, ...visit.pre.flash]) }
  }
}

/** Whether the visit leaves a session in a store: then what it says to the next one lies there. */
const willBeStored = (visit: UnitOfWork, begins: boolean): boolean => {
  const { house, stored, turn, owner } = visit
  if (house.backend.stateless) return false
  if (turn === 'invalidate') return owner !== undefined || begins
  return turn !== undefined || stored !== undefined || begins
}

/**
 * Puts the visit's own messages where its visitor will be found. `begins`: a stranger's visit has something to save.
 * What he carried until now comes along into his session.
 */
export const storeMessages = (visit: UnitOfWork, begins: boolean): void => {
  const { outbox, stored, turn } = visit
  const stranger = stored === undefined && turn !== 'invalidate'
  if (willBeStored(visit, begins)) {
    const carried = stranger ? (preSession(visit)?.flash ?? []) : []
    const more = [...carried, ...outbox]
    if (more.length === 0) return
    recordChange(visit, { update: FLASH, by: (there) => encodeFlashes(limitFlashes([...decodeFlashes(there), ...more])) })
  } else if (outbox.length > 0) {
    const pre = ensurePreSession(visit)
    visit.pre = { ...pre, flash: limitFlashes([...pre.flash, ...outbox]) }
    visit.preChanged = true
  }
}
