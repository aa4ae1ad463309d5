// Ending sessions: the one of a request, and those that its keys open although the request cannot use them.

import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, KeepsakeError } from '../error.ts'
import { type EndedBy, decodeMark } from './metadata.ts'
import { openAgain } from './open.ts'
import { callWrite, markOf, callRead, type Snapshot, ensureDurable, type UnitOfWork } from './work.ts'

const END_FAILED = 'A visitor logged out, and the session may still be there until it expires.'

/** Reports a session that should have ended, by its label. */
const reportEndFailed = ({ house }: UnitOfWork, label: string, error: unknown): void =>
  house.emit('not_ended', { ...(!house.backend.stateless && { label }), error, message: END_FAILED })

/**
 * Refuses to go on if a key came whose session nobody can check: it may be a newer version's, or damaged.
 *
 * @throws Fault `unavailable`
 */
export const refuseUnproven = (visit: UnitOfWork): void => {
  const unproven = visit.unusable.find(({ proven }) => !proven)
  if (unproven === undefined) return
  const error = new KeepsakeError(
    'unavailable',
    'The session of this cookie cannot be read by this version, so it was not ended. The cookie is removed from the browser.',
  )
  reportEndFailed(visit, unproven.label, error)
  throw error
}

/** Ends the sessions that the request has the keys of and cannot use. @throws Fault `unknown_outcome` */
export const endUnusable = (visit: UnitOfWork, by: EndedBy): Awaitable<void> => {
  if (visit.unusable.length > 0) return endEach(visit, by)
}

const endEach = async (visit: UnitOfWork, by: EndedBy): Promise<void> => {
  const { house } = visit
  for (const { address, label, proven } of visit.unusable) {
    if (!proven) continue
    try {
      await callWrite(visit, (backend) => backend.clear(address, undefined, markOf(house, by)))
    } catch (error) {
      reportEndFailed(visit, label, error)
      throw error
    }
    house.emit('invalidated', { label })
  }
  visit.unusable = visit.unusable.filter(({ proven }) => !proven)
}

/** Finds what a request brought that could not be read before. @throws Fault `unavailable` */
const reopen = async (visit: UnitOfWork): Promise<void> => {
  try {
    await openAgain(visit)
    visit.fields = Object.freeze({})
    visit.owner = undefined
  } catch (error) {
    for (const key of visit.keys) reportEndFailed(visit, labelOf(key), error)
    throw error
  }
}

/**
 * Ends the sessions that the request came with, in whatever state they are.
 *
 * @throws Fault `unknown_outcome` or `unavailable`: one may still be there, and the event `not_ended` has its label
 */
export const end = async (visit: UnitOfWork): Promise<void> => {
  const { house } = visit
  if (visit.barred !== undefined && !visit.barred.logsIn) await reopen(visit)
  const { stored, vanished } = visit
  const ending = stored ?? vanished
  if (ending !== undefined) {
    const { address, label } = ending
    try {
      if (stored !== undefined) visit.endedBy = await endSnapshot(visit, stored)
      // Another request may have ended it without waiting for replicas: this one waits, before it says that it ended.
      if (stored === undefined || visit.endedBy !== undefined) await ensureDurable(visit, address)
    } catch (error) {
      reportEndFailed(visit, label, error)
      throw error
    }
    visit.vanished = undefined
    if (stored !== undefined && visit.endedBy === undefined) house.emit('invalidated', { label })
  }
  await endUnusable(visit, 'end')
  refuseUnproven(visit)
}

/** How often a logout compares versions, before it ends the session whatever its version is. */
const COMPARISONS = 3

/**
 * Ends the session of the request.
 *
 * @returns how another request has ended it first; undefined if this one did
 */
const endSnapshot = async (visit: UnitOfWork, stored: Snapshot): Promise<EndedBy | undefined> => {
  const { address } = stored
  const mark = markOf(visit.house, 'end')
  let { version } = stored.entry
  for (let left = COMPARISONS; left > 0; left--) {
    const expected = version
    if ((await callWrite(visit, (backend) => backend.clear(address, expected, mark))) !== 'stale') return undefined
    const there = await callRead(visit, (backend) => backend.get(address))
    if (there === undefined) return 'end'
    const ended = decodeMark(there.head)
    if (ended !== undefined) return ended.by
    version = there.version
  }
  await callWrite(visit, (backend) => backend.clear(address, undefined, mark))
  return undefined
}
