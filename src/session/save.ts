// Saving: the visit's changes are replayed on the latest value, until a compare-and-set takes them.

import type { Held } from '../backends/contract.ts'
import { afterChange, untilDeadline } from '../backends/deadline.ts'
import { type Awaitable, chain, KeepsakeError } from '../error.ts'
import { formatSetCookie } from '../http/cookie.ts'
import { type Fields, replay } from './changes.ts'
import { isMismatch, type Mismatch } from './codec.ts'
import type { ManagerContext } from './context.ts'
import { expiryDue, expiryOf, isAlive } from './expiry.ts'
import { encodeMetadata, type Metadata, nextMetadata, wasWritten } from './metadata.ts'
import { callWrite, decode, heldIn, reread, type Snapshot, storageKeyOf, type UnitOfWork } from './work.ts'

/** Bytes of a whole Set-Cookie that every browser keeps. */
const LONGEST_COOKIE = 4093
const LONGEST_AGE = 34_560_000

/** The fields as a store keeps them. @throws KeepsakeError `too_large` */
const toJson = (context: ManagerContext, fields: Fields): string => {
  const value = JSON.stringify(fields)
  const bytes = value.length * 3 <= context.maxBytes ? 0 : Buffer.byteLength(value)
  if (bytes <= context.maxBytes) return value
  throw new KeepsakeError(
    'too_large',
    `The session would have ${bytes} bytes, and at most ${context.maxBytes} are allowed (maxBytes). Keep large things elsewhere, and their names here.`,
  )
}

/** The fields as a store keeps them, if the application's schema takes them. @throws KeepsakeError `too_large` */
const encode = ({ context }: UnitOfWork, fields: Fields): Awaitable<string | Mismatch> =>
  context.codec === undefined
    ? toJson(context, fields)
    : chain(context.codec.write(fields), (whole) => (isMismatch(whole) ? whole : toJson(context, whole)))

/** The same for what the visit itself made of what it found: a misfit is its own doing. @throws KeepsakeError `too_large`, `schema_mismatch` */
export const encodeOwn = (work: UnitOfWork): Awaitable<string> =>
  chain(encode(work, work.fields), (value) => {
    if (typeof value === 'string') return value
    throw new KeepsakeError(
      'schema_mismatch',
      `The session's fields do not fit its schema, so nothing was saved: ${value.why}.`,
    )
  })

/**
 * Where a session is found from now on: where it was, unless a stateless backend says what the client is to hold.
 *
 * @throws KeepsakeError `invalid_backend`; `too_large` where the cookie would be longer than browsers keep: 4093 bytes, all of it
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
  const { length } = formatSetCookie(session, held, attributes, LONGEST_AGE)
  if (length <= LONGEST_COOKIE) return { key: held, storageKey: storageKeyOf(work, held) }
  throw new KeepsakeError(
    'too_large',
    `The session would be a cookie of ${length} bytes, and browsers keep at most ${LONGEST_COOKIE}. Keep less in it, or use a backend with a store.`,
  )
}

/** Keeps a loop of attempts within the visit's time, also where no attempt waits. */
export const retryUntilDeadline = (work: UnitOfWork): (() => void) => {
  const { deadline } = work
  const lasts = untilDeadline(deadline)
  return () => {
    if (lasts()) return
    const message = 'Others kept changing the session until the time of the request was over. Nothing was saved.'
    throw afterChange(deadline, new KeepsakeError('contention', message))
  }
}

/** Why nothing was saved: another ended the session meanwhile, or left it so that the changes do not fit any more. */
export type WriteFailure = 'ended' | 'conflict'

type WriteAttempt = { readonly version: string; readonly outcome: Metadata | 'ended' | 'stale' }

/** One compare-and-set. */
const compareAndSet = (work: UnitOfWork, from: Snapshot, value: string | undefined): Awaitable<WriteAttempt> => {
  const { context, rotate } = work
  const { key, storageKey, label, entry, metadata } = from
  const version = context.version()
  const now = context.now()
  if (!isAlive(context, from, now)) {
    context.emit('expired', { label })
    return { version, outcome: 'ended' }
  }
  const next = context.backend.stateless ? metadata : nextMetadata(metadata, key, [entry.version, version], rotate, now)
  const moves = context.backend.stateless || expiryDue(context, from, now)
  const expiresAt = Math.max(entry.expiresAt, expiryOf(context, metadata, now))
  const change = { value, metadata: encodeMetadata(next), version, ...(moves && { expiresAt }) }
  const done = (answer: Held | undefined | 'stale' | 'gone'): WriteAttempt => {
    if (answer === 'gone') return { version, outcome: 'ended' }
    if (answer === 'stale') return { version, outcome: 'stale' }
    const held = locationAfter(work, key, storageKey, answer)
    if (rotate && (context.backend.stateless || (next.salt !== undefined && next.salt !== metadata.salt))) {
      context.emit('renewed', { label })
    }
    work.snapshot = { key: held.key, storageKey: held.storageKey, label, entry, metadata: next, at: now }
    return { version, outcome: next }
  }
  return chain(
    callWrite(work, (backend) => backend.set(storageKey, change, entry.version)),
    done,
  )
}

/** The visit's changes on what the store has by now, as it is to be kept. */
export const mergeOnto = async (work: UnitOfWork, latest: Fields): Promise<string | Mismatch> => {
  const fields = await decode(work, latest)
  return isMismatch(fields) ? fields : encode(work, replay(fields, work.changes))
}

/**
 * Whether a write that was answered with `stale` was carried out all the same: a driver sent it twice, and others have
 * written in between.
 *
 * @throws KeepsakeError `unknown_outcome` if nobody can say: it is not replayed then
 */
export const isOwnWrite = ({ deadline }: UnitOfWork, version: string, base: Snapshot, latest: Snapshot): boolean => {
  const answer = wasWritten(version, base, latest)
  if (answer !== 'unknown') return answer === 'yes'
  deadline.changed = true
  throw new KeepsakeError(
    'unknown_outcome',
    'More than 16 servers changed the session while this request saved its change. It may have been saved or not; read the session again.',
  )
}

/** The attempts after a first one that was stale: each on what the store has by then. */
const retrySave = async (work: UnitOfWork, first: Snapshot, tried: string): Promise<Metadata | WriteFailure> => {
  const { changes } = work
  const goOn = retryUntilDeadline(work)
  let base = first
  for (let recentVersions = tried; ; ) {
    goOn()
    const latest = await reread(work, first)
    if (latest === undefined) return 'ended'
    const { snapshot, fields } = latest
    if (isOwnWrite(work, recentVersions, base, snapshot)) return snapshot.metadata
    const value = changes.length > 0 ? await mergeOnto(work, fields) : snapshot.entry.value
    if (typeof value === 'object') return 'conflict'
    const { version, outcome } = await compareAndSet(work, snapshot, value)
    if (outcome !== 'stale') return outcome
    recentVersions = version
    base = snapshot
  }
}

/**
 * Saves what the visit changed, renews the key where that was asked for, and ends an offer where its key was presented.
 *
 * @returns the head as it stands now, or why nothing was saved
 * @throws KeepsakeError `unknown_outcome`, `unavailable`, `contention`, `too_large`, `schema_mismatch`, and whatever an `update` throws
 */
export const save = (work: UnitOfWork, first: Snapshot): Awaitable<Metadata | WriteFailure> =>
  chain(work.changes.length > 0 ? encodeOwn(work) : first.entry.value, (value) =>
    chain(compareAndSet(work, first, value), ({ version, outcome }) =>
      outcome === 'stale' ? retrySave(work, first, version) : outcome,
    ),
  )
