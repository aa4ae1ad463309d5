// Flash messages of a request: taken at once, returned if the page was not shown, and stored at the commit.

import type { Awaitable } from '../error.ts'
import { type Draft, type Fields, FLASH, parseFields } from './changes.ts'
import { decodeFlashes, encodeFlashes, type Flash, limitFlashes } from './flash-messages.ts'
import { ensurePreSession, preSession } from './form-secret.ts'
import { encodeMetadata, nextMetadata } from './metadata.ts'
import { serialize } from './queue.ts'
import { countsAsSeen, isOwnWrite, retryUntilDeadline } from './save.ts'
import { callWrite, recordChange, reread, type Snapshot, type UnitOfWork } from './work.ts'

/*
 * If a backend stores the session, its messages are stored beside the fields, and only one request can remove them, by a
 * compare-and-set. For an anonymous visitor, and if the session itself is a cookie, the messages are in the pre-session.
 */
const isStored = ({ context, snapshot }: UnitOfWork): boolean =>
  snapshot !== undefined && context.backend.stateless !== true

const messagesIn = (fields: Fields): readonly Flash[] =>
  Object.hasOwn(fields, FLASH) ? decodeFlashes(fields[FLASH]) : []

/** A copy of fields with these messages beside them in place of any others. */
const withMessages = ({ [FLASH]: _, ...fields }: Fields, flashes: readonly Flash[]): Draft =>
  flashes.length === 0 ? fields : { ...fields, [FLASH]: encodeFlashes(limitFlashes(flashes)) }

/** Sets the messages beside the fields that the request has and saves. */
const setMessages = (work: UnitOfWork, flashes: readonly Flash[]): void => {
  const fields = withMessages(work.fields, flashes)
  work.fields = fields
  if (work.draft !== undefined) work.draft = fields
}

/**
 * Replaces the messages in the entry, and keeps all that other requests change there in the meantime.
 *
 * @returns the messages that were there; none if there was nothing to replace, or if the session has ended
 */
const swapMessages = async (
  work: UnitOfWork,
  first: Snapshot,
  replacement: (stored: readonly Flash[]) => readonly Flash[],
): Promise<readonly Flash[]> => {
  const assertTimeLeft = retryUntilDeadline(work)
  for (let snapshot = first; ; ) {
    assertTimeLeft()
    const { key, storageKey, entry, metadata } = snapshot
    const fields = parseFields(entry.value) ?? {}
    const stored = messagesIn(fields)
    const replaced = replacement(stored)
    if (stored.length === 0 && replaced.length === 0) return []
    const version = work.context.version()
    const value = JSON.stringify(withMessages(fields, replaced))
    const seen = countsAsSeen(work, metadata)
    const next = nextMetadata(metadata, key, [entry.version, version], { rotate: false, seen }, work.context.now())
    const change = { value, metadata: encodeMetadata(next), version }
    const answer = await callWrite(work, 'set', (backend) => backend.set(storageKey, change, entry.version))
    if (answer === 'gone') return []
    if (answer !== 'stale') {
      // If the entry is newer than the snapshot, the snapshot stays, so that the save is stale and is applied to the newer one.
      if (snapshot === first) {
        work.snapshot = { ...snapshot, entry: { ...entry, ...change }, metadata: next }
        setMessages(work, replaced)
      }
      return stored
    }
    const latest = await reread(work, first)
    if (latest === undefined) return []
    if (isOwnWrite(work, version, snapshot, latest.snapshot)) return stored
    snapshot = latest.snapshot
  }
}

/** Takes the messages out of the pre-session cookie. */
const takeFromCookie = (work: UnitOfWork): readonly Flash[] => {
  const pre = preSession(work)
  if (pre === undefined || pre.flash.length === 0) return []
  work.preSession = { ...pre, flash: [] }
  work.preSessionChanged = true
  return pre.flash
}

/**
 * Takes the visitor's messages. No other request gets them, unless this one returns them.
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
  // The response must set no cookie, so it could not remove the messages from the browser.
  const setsNoCookie = snapshot === undefined && (endedBy ?? withheld) !== undefined
  return transition === 'invalidate' || setsNoCookie ? [] : takeFromCookie(work)
}

/** Returns the messages that the request took and did not show, before any newer ones. @throws as `takeMessages` */
export const returnMessages = async (work: UnitOfWork): Promise<void> => {
  const { flashTaken, snapshot } = work
  work.flashTaken = []
  if (flashTaken.length === 0) return
  if (snapshot !== undefined && isStored(work)) {
    await serialize(work, snapshot.storageKey, () =>
      swapMessages(work, work.snapshot as Snapshot, (stored) => [...flashTaken, ...stored]),
    )
  } else if (work.preSession !== undefined) {
    work.preSession = { ...work.preSession, flash: limitFlashes([...flashTaken, ...work.preSession.flash]) }
  }
}

/** The same after the response or the commit failed. If it fails too, the failure is an event. */
export const giveBackMessages = async (work: UnitOfWork): Promise<void> => {
  if (work.flashTaken.length > 0) {
    await returnMessages(work).catch((error) => work.context.emit('store_error', { error }))
  }
}

/** Whether a backend stores the session after this request: then its messages are stored with it. */
const willBeStored = (work: UnitOfWork, creates: boolean): boolean => {
  const { context, snapshot, transition, owner } = work
  if (context.backend.stateless) return false
  if (transition === 'invalidate') return owner !== undefined || creates
  return transition !== undefined || snapshot !== undefined || creates
}

/**
 * Puts the request's messages into the session or the pre-session. When an anonymous visitor gets a session, the messages of
 * their pre-session move into it.
 *
 * @param creates whether the request creates a session by its changes
 */
export const storeMessages = (work: UnitOfWork, creates: boolean): void => {
  const { flashAdded, snapshot, transition } = work
  const anonymous = snapshot === undefined && transition !== 'invalidate'
  if (willBeStored(work, creates)) {
    const carried = anonymous ? (preSession(work)?.flash ?? []) : []
    const more = [...carried, ...flashAdded]
    if (more.length === 0) return
    recordChange(work, {
      update: FLASH,
      by: (stored) => encodeFlashes(limitFlashes([...decodeFlashes(stored), ...more])),
    })
  } else if (flashAdded.length > 0) {
    const pre = ensurePreSession(work)
    work.preSession = { ...pre, flash: limitFlashes([...pre.flash, ...flashAdded]) }
    work.preSessionChanged = true
  }
}
