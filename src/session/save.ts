// Saving: replays the request's changes on the latest entry until a compare-and-set succeeds.

import type { Held } from '../backends/contract.ts'
import { afterChange, untilDeadline } from '../backends/deadline.ts'
import { type Awaitable, chain, KeepsakeError } from '../error.ts'
import { formatSetCookie, MAX_AGE_SECONDS, MAX_COOKIE_BYTES } from '../http/cookie.ts'
import { type Fields, replay } from './changes.ts'
import { isMismatch, type Mismatch } from './codec.ts'
import type { ManagerContext } from './context.ts'
import { expiryDue, expiryOf, isAlive } from './expiry.ts'
import { encodeMetadata, type Metadata, nextMetadata, wasWritten } from './metadata.ts'
import {
  callWrite,
  decode,
  extendsSession,
  heldIn,
  namesOf,
  reread,
  type Snapshot,
  storageKeyOf,
  type UnitOfWork,
} from './work.ts'

/** Fields as the JSON that a backend stores. @throws KeepsakeError `too_large` */
const toJson = (context: ManagerContext, fields: Fields): string => {
  const value = JSON.stringify(fields)
  // A character has at most three bytes, so the bytes of a short text need no count.
  const bytes = value.length * 3 <= context.maxBytes ? 0 : Buffer.byteLength(value)
  if (bytes <= context.maxBytes) return value
  throw new KeepsakeError(
    'too_large',
    `The session would have ${bytes} bytes, but maxBytes allows ${context.maxBytes}. Nothing was saved. Store large data elsewhere and keep a reference in the session.`,
  )
}

/** Fields as a backend stores them, if they fit the schema. @throws KeepsakeError `too_large` */
const encode = ({ context }: UnitOfWork, fields: Fields): Awaitable<string | Mismatch> =>
  context.codec === undefined
    ? toJson(context, fields)
    : chain(context.codec.write(fields), (written) => (isMismatch(written) ? written : toJson(context, written)))

/** The same for the fields that the handler saw and changed: a mismatch is its own error. @throws KeepsakeError `too_large`, `schema_mismatch` */
export const encodeOwn = (work: UnitOfWork): Awaitable<string> =>
  chain(encode(work, work.fields), (value) => {
    if (typeof value === 'string') return value
    throw new KeepsakeError(
      'schema_mismatch',
      `The session's fields do not fit its schema, so nothing was saved: ${value.why}.`,
    )
  })

/**
 * The key and the storage key of a session after a write: unchanged, unless a stateless backend returned a new cookie value.
 *
 * @throws KeepsakeError `invalid_backend`; `too_large` if the whole Set-Cookie line would be longer than 4093 bytes, the most
 *   that all browsers keep
 */
export const locationAfter = (
  work: UnitOfWork,
  key: string,
  storageKey: string,
  answer: unknown,
): { readonly key: string; readonly storageKey: string } => {
  const held = heldIn(work.context, answer)
  if (held === undefined) return { key, storageKey }
  const { session, attributes } = work.cookies
  const { length } = formatSetCookie(session, held, attributes, MAX_AGE_SECONDS)
  if (length <= MAX_COOKIE_BYTES) return { key: held, storageKey: storageKeyOf(work, held) }
  throw new KeepsakeError(
    'too_large',
    `The session cookie would have ${length} bytes, but browsers keep at most ${MAX_COOKIE_BYTES}. Nothing was saved. Keep less in the session, or use a backend that stores sessions.`,
  )
}

/** Limits a loop of attempts to the request's time, also if no attempt waits. The function that it returns throws after that. */
export const retryUntilDeadline = (work: UnitOfWork): (() => void) => {
  const { deadline } = work
  const hasTime = untilDeadline(deadline)
  return () => {
    if (hasTime()) return
    const message =
      'Other requests kept changing the session until the time of this request (storeTimeout) was used up. Nothing was saved. Try again.'
    throw afterChange(deadline, new KeepsakeError('contention', message))
  }
}

/** Why nothing was saved: another request ended the session, or changed it so that these changes no longer fit the schema. */
export type WriteFailure = 'ended' | 'conflict'

type WriteAttempt = { readonly version: string; readonly outcome: Metadata | 'ended' | 'stale' }

/** Whether a write of this request moves `lastSeenAt`, which only a session with an owner has. */
export const countsAsSeen = (work: UnitOfWork, { label }: Metadata): boolean =>
  label !== undefined && extendsSession(work)

/** One compare-and-set, on the version of `from`. */
const compareAndSet = (work: UnitOfWork, from: Snapshot, value: string | undefined): Awaitable<WriteAttempt> => {
  const { context, rotate } = work
  const { key, storageKey, label, entry, metadata } = from
  const version = context.version()
  const now = context.now()
  if (!isAlive(context, from, now)) {
    context.emit('expired', namesOf(context, from))
    return { version, outcome: 'ended' }
  }
  const { stateless } = context.backend
  const next = stateless
    ? metadata
    : nextMetadata(metadata, key, [entry.version, version], { rotate, seen: countsAsSeen(work, metadata) }, now)
  const movesExpiry = (stateless || expiryDue(context, from, now)) && extendsSession(work)
  const expiresAt = Math.max(entry.expiresAt, expiryOf(context, metadata, now))
  const change = { value, metadata: encodeMetadata(next), version, ...(movesExpiry && { expiresAt }) }
  const outcomeOf = (answer: Held | undefined | 'stale' | 'gone'): WriteAttempt => {
    if (answer === 'gone') return { version, outcome: 'ended' }
    if (answer === 'stale') return { version, outcome: 'stale' }
    const location = locationAfter(work, key, storageKey, answer)
    if (rotate && (stateless || (next.salt !== undefined && next.salt !== metadata.salt))) {
      context.emit('renewed', namesOf(context, from))
    }
    work.snapshot = { key: location.key, storageKey: location.storageKey, label, entry, metadata: next, at: now }
    return { version, outcome: next }
  }
  return chain(
    callWrite(work, 'set', (backend) => backend.set(storageKey, change, entry.version)),
    outcomeOf,
  )
}

/** The request's changes applied to the latest fields, encoded for the backend. */
export const mergeOnto = async (work: UnitOfWork, latest: Fields): Promise<string | Mismatch> => {
  const fields = await decode(work, latest)
  return isMismatch(fields) ? fields : encode(work, replay(fields, work.changes))
}

/**
 * Whether a write succeeded although its answer was `stale`: a driver sent it twice, and the answer belongs to the second
 * one. Other requests may have written since.
 *
 * @throws KeepsakeError `unknown_outcome` if the history is too short to decide: then the write must not be repeated
 */
export const isOwnWrite = ({ deadline }: UnitOfWork, version: string, base: Snapshot, latest: Snapshot): boolean => {
  const written = wasWritten(version, base, latest)
  if (written !== 'unknown') return written === 'yes'
  deadline.changed = true
  throw new KeepsakeError(
    'unknown_outcome',
    'More than 16 processes changed the session while this request saved its change. The change may or may not have been saved. Read the session again.',
  )
}

/** The attempts after a stale first one: each applies the changes to the entry as it is then. */
const retrySave = async (work: UnitOfWork, first: Snapshot, firstVersion: string): Promise<Metadata | WriteFailure> => {
  const { changes } = work
  const assertTimeLeft = retryUntilDeadline(work)
  let base = first
  for (let lastVersion = firstVersion; ; ) {
    assertTimeLeft()
    const latest = await reread(work, first)
    if (latest === undefined) return 'ended'
    const { snapshot, fields } = latest
    if (isOwnWrite(work, lastVersion, base, snapshot)) return snapshot.metadata
    const value = changes.length > 0 ? await mergeOnto(work, fields) : snapshot.entry.value
    if (typeof value === 'object') return 'conflict'
    const { version, outcome } = await compareAndSet(work, snapshot, value)
    if (outcome !== 'stale') return outcome
    lastVersion = version
    base = snapshot
  }
}

/**
 * Saves the request's changes, rotates the key if the handler asked for it, and confirms a rotation if the request brought
 * the new key.
 *
 * @returns the metadata as saved, or why nothing was saved
 * @throws KeepsakeError `unknown_outcome`, `unavailable`, `contention`, `too_large`, `schema_mismatch`; any error of an `update`
 */
export const save = (work: UnitOfWork, first: Snapshot): Awaitable<Metadata | WriteFailure> =>
  chain(work.changes.length > 0 ? encodeOwn(work) : first.entry.value, (value) =>
    chain(compareAndSet(work, first, value), ({ version, outcome }) =>
      outcome === 'stale' ? retrySave(work, first, version) : outcome,
    ),
  )
