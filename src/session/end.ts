// Ending sessions: the one of a request, and those that its keys open although the request cannot use them.

import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, KeepsakeError } from '../error.ts'
import { decodeMark, type EndedBy } from './metadata.ts'
import { openAgain } from './open.ts'
import { callRead, callWrite, ensureDurable, markOf, type Snapshot, type UnitOfWork } from './work.ts'

const END_FAILED = 'A visitor logged out, and the session may still be there until it expires.'

/** Reports a session that should have ended, by its label. */
const reportEndFailed = ({ context }: UnitOfWork, label: string, error: unknown): void =>
  context.emit('end_failed', { ...(!context.backend.stateless && { label }), error, message: END_FAILED })

/**
 * Refuses to go on if a key came whose session nobody can check: it may be a newer version's, or damaged.
 *
 * @throws KeepsakeError `unavailable`
 */
export const refuseUnproven = (work: UnitOfWork): void => {
  const unproven = work.unusable.find(({ proven }) => !proven)
  if (unproven === undefined) return
  const error = new KeepsakeError(
    'unavailable',
    'The session of this cookie cannot be read by this version, so it was not ended. The cookie is removed from the browser.',
  )
  reportEndFailed(work, unproven.label, error)
  throw error
}

/** Ends the sessions that the request has the keys of and cannot use. @throws KeepsakeError `unknown_outcome` */
export const endUnusable = (work: UnitOfWork, by: EndedBy): Awaitable<void> => {
  if (work.unusable.length > 0) return endEach(work, by)
}

const endEach = async (work: UnitOfWork, by: EndedBy): Promise<void> => {
  const { context } = work
  for (const { storageKey, label, proven } of work.unusable) {
    if (!proven) continue
    try {
      await callWrite(work, (backend) => backend.clear(storageKey, undefined, markOf(context, by)))
    } catch (error) {
      reportEndFailed(work, label, error)
      throw error
    }
    context.emit('invalidated', { label })
  }
  work.unusable = work.unusable.filter(({ proven }) => !proven)
}

/** Finds what a request brought that could not be read before. @throws KeepsakeError `unavailable` */
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
 * Ends the sessions that the request came with, in whatever state they are.
 *
 * @throws KeepsakeError `unknown_outcome` or `unavailable`: one may still be there, and the event `end_failed` has its label
 */
export const end = async (work: UnitOfWork): Promise<void> => {
  const { context } = work
  if (work.readOnly !== undefined && !work.readOnly.logsIn) await reopen(work)
  const { snapshot, missing } = work
  const ending = snapshot ?? missing
  if (ending !== undefined) {
    const { storageKey, label } = ending
    try {
      if (snapshot !== undefined) work.endedBy = await endSnapshot(work, snapshot)
      // Another request may have ended it without waiting for replicas: this one waits, before it says that it ended.
      if (snapshot === undefined || work.endedBy !== undefined) await ensureDurable(work, storageKey)
    } catch (error) {
      reportEndFailed(work, label, error)
      throw error
    }
    work.missing = undefined
    if (snapshot !== undefined && work.endedBy === undefined) context.emit('invalidated', { label })
  }
  await endUnusable(work, 'end')
  refuseUnproven(work)
}

/** How often a logout compares versions, before it ends the session whatever its version is. */
const COMPARISONS = 3

/**
 * Ends the session of the request.
 *
 * @returns how another request has ended it first; undefined if this one did
 */
const endSnapshot = async (work: UnitOfWork, snapshot: Snapshot): Promise<EndedBy | undefined> => {
  const { storageKey } = snapshot
  const mark = markOf(work.context, 'end')
  let { version } = snapshot.entry
  for (let left = COMPARISONS; left > 0; left--) {
    const expected = version
    if ((await callWrite(work, (backend) => backend.clear(storageKey, expected, mark))) !== 'stale') return undefined
    const there = await callRead(work, (backend) => backend.get(storageKey))
    if (there === undefined) return 'end'
    const ended = decodeMark(there.metadata)
    if (ended !== undefined) return ended.by
    version = there.version
  }
  await callWrite(work, (backend) => backend.clear(storageKey, undefined, mark))
  return undefined
}
