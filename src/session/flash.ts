// Flash messages of a visit: claimed at once, given back where the page was not shown, and delivered at the end.

import type { Awaitable } from '../error.ts'
import { type Draft, type Fields, FLASH, parseFields } from './changes.ts'
import { decodeFlashes, encodeFlashes, type Flash, limitFlashes } from './flash-messages.ts'
import { ensurePreSession, preSession } from './form-secret.ts'
import { encodeMetadata, nextMetadata } from './metadata.ts'
import { serialize } from './queue.ts'
import { isOwnWrite, retryUntilDeadline } from './save.ts'
import { callWrite, recordChange, reread, type Snapshot, type UnitOfWork } from './work.ts'

/*
 * Where a store keeps the session, messages lie beside its fields, and whoever removes them by compare-and-set has them
 * alone. For strangers, and where the session itself is a cookie, they travel in the sealed pre-session.
 */
const isStored = ({ context, snapshot }: UnitOfWork): boolean =>
  snapshot !== undefined && context.backend.stateless !== true

const messagesIn = (fields: Fields): readonly Flash[] =>
  Object.hasOwn(fields, FLASH) ? decodeFlashes(fields[FLASH]) : []

/** A copy of fields with these messages beside them, and with none where there are none. */
const withMessages = ({ [FLASH]: _, ...fields }: Fields, flashes: readonly Flash[]): Draft =>
  flashes.length === 0 ? fields : { ...fields, [FLASH]: encodeFlashes(limitFlashes(flashes)) }

/** Lays messages beside the fields as the visit has them, which are what it saves. */
const setMessages = (work: UnitOfWork, flashes: readonly Flash[]): void => {
  const fields = withMessages(work.fields, flashes)
  work.fields = fields
  if (work.draft !== undefined) work.draft = fields
}

/**
 * Exchanges the messages in the entry, whatever else is changed there meanwhile.
 *
 * @returns what lay there; nothing where there was nothing to exchange, or the session has ended
 */
const swapMessages = async (
  work: UnitOfWork,
  first: Snapshot,
  next: (there: readonly Flash[]) => readonly Flash[],
): Promise<readonly Flash[]> => {
  const goOn = retryUntilDeadline(work)
  for (let snapshot = first; ; ) {
    goOn()
    const { key, storageKey, entry, metadata } = snapshot
    const fields = parseFields(entry.value) ?? {}
    const there = messagesIn(fields)
    const then = next(there)
    if (there.length === 0 && then.length === 0) return []
    const version = work.context.version()
    const value = JSON.stringify(withMessages(fields, then))
    const nextHeadOf = nextMetadata(metadata, key, [entry.version, version], false, work.context.now())
    const change = { value, metadata: encodeMetadata(nextHeadOf), version }
    const answer = await callWrite(work, (backend) => backend.set(storageKey, change, entry.version))
    if (answer === 'gone') return []
    if (answer !== 'stale') {
      // On a newer entry than the visit began with, its own changes must meet that when they are saved, and be stale.
      if (snapshot === first) {
        work.snapshot = { ...snapshot, entry: { ...entry, ...change }, metadata: nextHeadOf }
        setMessages(work, then)
      }
      return there
    }
    const latest = await reread(work, first)
    if (latest === undefined) return []
    if (isOwnWrite(work, version, snapshot, latest.snapshot)) return there
    snapshot = latest.snapshot
  }
}

/** What the visit's own browser carries for it. */
const takeFromCookie = (work: UnitOfWork): readonly Flash[] => {
  const pre = preSession(work)
  if (pre === undefined || pre.flash.length === 0) return []
  work.preSession = { ...pre, flash: [] }
  work.preSessionChanged = true
  return pre.flash
}

/**
 * The messages that wait for this visitor, claimed: nobody else gets them, unless the visit gives them back.
 *
 * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`
 */
export const takeMessages = async (work: UnitOfWork): Promise<readonly Flash[]> => {
  const flashes = await findMessages(work)
  if (flashes.length > 0) {
    work.flashTaken = [...work.flashTaken, ...flashes]
    work.privateResponse = true
  }
  return flashes
}

const findMessages = (work: UnitOfWork): Awaitable<readonly Flash[]> => {
  const { snapshot, transition, endedBy, withheld } = work
  if (snapshot !== undefined && isStored(work)) {
    if (messagesIn(work.fields).length === 0) return []
    return serialize(work, snapshot.storageKey, () => swapMessages(work, work.snapshot as Snapshot, () => []))
  }
  // No cookie may leave that would say that they were taken.
  const unsaid = snapshot === undefined && (endedBy ?? withheld) !== undefined
  return transition === 'invalidate' || unsaid ? [] : takeFromCookie(work)
}

/** Puts back, before any newer ones, what the visit claimed and did not show. @throws as `claim` */
export const returnMessages = async (work: UnitOfWork): Promise<void> => {
  const { flashTaken, snapshot } = work
  work.flashTaken = []
  if (flashTaken.length === 0) return
  if (snapshot !== undefined && isStored(work)) {
    await serialize(work, snapshot.storageKey, () =>
      swapMessages(work, work.snapshot as Snapshot, (there) => [...flashTaken, ...there]),
    )
  } else if (work.preSession !== undefined) {
    work.preSession = { ...work.preSession, flash: limitFlashes([...flashTaken, ...work.preSession.flash]) }
  }
}

/** Whether the visit leaves a session in a store: then what it says to the next one lies there. */
const willBeStored = (work: UnitOfWork, begins: boolean): boolean => {
  const { context, snapshot, transition, owner } = work
  if (context.backend.stateless) return false
  if (transition === 'invalidate') return owner !== undefined || begins
  return transition !== undefined || snapshot !== undefined || begins
}

/**
 * Puts the visit's own messages where its visitor will be found. `begins`: a stranger's visit has something to save.
 * What he carried until now comes along into his session.
 */
export const storeMessages = (work: UnitOfWork, begins: boolean): void => {
  const { flashAdded, snapshot, transition } = work
  const stranger = snapshot === undefined && transition !== 'invalidate'
  if (willBeStored(work, begins)) {
    const carried = stranger ? (preSession(work)?.flash ?? []) : []
    const more = [...carried, ...flashAdded]
    if (more.length === 0) return
    recordChange(work, {
      update: FLASH,
      by: (there) => encodeFlashes(limitFlashes([...decodeFlashes(there), ...more])),
    })
  } else if (flashAdded.length > 0) {
    const pre = ensurePreSession(work)
    work.preSession = { ...pre, flash: limitFlashes([...pre.flash, ...flashAdded]) }
    work.preSessionChanged = true
  }
}
