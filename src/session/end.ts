// Ending sessions: the session of a request, and the sessions of its other keys, which it cannot use.

import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, KeepsakeError } from '../error.ts'
import { decodeMark, type EndedBy } from './metadata.ts'
import { openAgain } from './open.ts'
import { callRead, callWrite, ensureDurable, markOf, namesOf, type Snapshot, type UnitOfWork } from './work.ts'

const END_FAILED =
  'A session was not ended, for the reason in error. It may remain until it expires. If the event has a label, end the session with revoke(label).'

/** Reports the label of a session that should have ended. A session in a cookie has no label to revoke. */
const reportEndFailed = ({ context }: UnitOfWork, label: string, error: unknown): void =>
  context.emit('end_failed', { ...(!context.backend.stateless && { label }), error, message: END_FAILED })

/**
 * Throws if a key of the request leads to an entry that this version cannot read: it may be damaged, or a newer version
 * wrote it. Without its metadata nobody can check the key, so the request must not end the session.
 *
 * @throws KeepsakeError `unavailable`
 */
export const refuseUnproven = (work: UnitOfWork): void => {
  const unproven = work.unusable.find(({ proven }) => !proven)
  if (unproven === undefined) return
  const error = new KeepsakeError(
    'unavailable',
    "This version of keepsake cannot read the entry of this session, so it did not end the session. The browser's cookie is cleared. End the session with revoke(label).",
  )
  reportEndFailed(work, unproven.label, error)
  throw error
}

/** Ends the sessions that the request has keys of and cannot use. @throws KeepsakeError `unknown_outcome` */
export const endUnusable = (work: UnitOfWork, by: EndedBy): Awaitable<void> => {
  if (work.unusable.length > 0) return endEach(work, by)
}

const endEach = async (work: UnitOfWork, by: EndedBy): Promise<void> => {
  const { context } = work
  for (const unusable of work.unusable) {
    const { storageKey, label, proven } = unusable
    if (!proven) continue
    try {
      await callWrite(work, 'clear', (backend) => backend.clear(storageKey, undefined, markOf(context, by)))
    } catch (error) {
      reportEndFailed(work, label, error)
      throw error
    }
    context.emit('invalidated', namesOf(context, unusable))
  }
  work.unusable = work.unusable.filter(({ proven }) => !proven)
}

/** Reads the sessions again that the backend failed to return before. @throws KeepsakeError `unavailable` */
const reopen = async (work: UnitOfWork): Promise<void> => {
  try {
    await openAgain(work)
    work.fields = Object.freeze({})
    work.owner = undefined
  } catch (error) {
    for (const key of work.keys) reportEndFailed(work, labelOf(key), error)
    throw error
  }
}

/**
 * Ends all sessions of the request's keys, also those that the request cannot use.
 *
 * @throws KeepsakeError `unknown_outcome` or `unavailable` if one may remain: the event `end_failed` has its label
 */
export const end = async (work: UnitOfWork): Promise<void> => {
  const { context } = work
  if (work.readOnly !== undefined && !work.readOnly.logsIn) await reopen(work)
  const { snapshot, missing } = work
  const target = snapshot ?? missing
  if (target !== undefined) {
    const { storageKey, label } = target
    try {
      if (snapshot !== undefined) work.endedBy = await endSnapshot(work, snapshot)
      // Another request may have ended it without waiting for replicas. Wait for them before confirming this logout.
      if (snapshot === undefined || work.endedBy !== undefined) await ensureDurable(work, storageKey)
    } catch (error) {
      reportEndFailed(work, label, error)
      throw error
    }
    work.missing = undefined
    if (snapshot !== undefined && work.endedBy === undefined) context.emit('invalidated', namesOf(context, snapshot))
  }
  await endUnusable(work, 'end')
  refuseUnproven(work)
}

/** How often a logout compares versions before it ends the session without a comparison. */
const COMPARISONS = 3

/**
 * Ends the session of the request.
 *
 * @returns how another request ended it first; undefined if this request ended it
 */
const endSnapshot = async (work: UnitOfWork, snapshot: Snapshot): Promise<EndedBy | undefined> => {
  const { storageKey } = snapshot
  const mark = markOf(work.context, 'end')
  let { version } = snapshot.entry
  for (let left = COMPARISONS; left > 0; left--) {
    const expected = version
    if ((await callWrite(work, 'clear', (backend) => backend.clear(storageKey, expected, mark))) !== 'stale')
      return undefined
    const entry = await callRead(work, 'get', (backend) => backend.get(storageKey))
    if (entry === undefined) return 'end'
    const ended = decodeMark(entry.metadata)
    if (ended !== undefined) return ended.by
    version = entry.version
  }
  await callWrite(work, 'clear', (backend) => backend.clear(storageKey, undefined, mark))
  return undefined
}
