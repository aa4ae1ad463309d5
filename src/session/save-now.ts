// Saves a request's changes before its end, and lets the request continue with the session as it is stored.

import { replay } from './changes.ts'
import { isMismatch } from './codec.ts'
import { commitChanges } from './commit.ts'
import { type CommitOutcome, decode, reread, type UnitOfWork } from './work.ts'

/** The result of `save`. After a failure the response is 409, and nothing more of this request is saved. */
export type SaveResult =
  | { readonly ok: true }
  | { readonly ok: false; readonly error: NonNullable<CommitOutcome['failure']> }

const OK: SaveResult = Object.freeze({ ok: true })

const hasChanges = ({ changes, rotate, transition }: UnitOfWork): boolean =>
  changes.length > 0 || rotate || transition !== undefined

/** Moves the changes so far to a unit of work of their own. The request collects later changes. */
const takeChanges = (work: UnitOfWork): UnitOfWork => {
  const part = { ...work, flashAdded: [], saving: undefined }
  work.changes = []
  work.draft = undefined
  work.rotate = false
  work.transition = undefined
  work.loginSettings = undefined
  work.newKey = undefined
  return part
}

/** Gives the changes back, in front of those that the handler made in the meantime. */
const giveBack = (work: UnitOfWork, part: UnitOfWork): void => {
  const { changes, rotate, transition, loginSettings, newKey } = part
  work.changes = work.transition === 'invalidate' ? work.changes : [...changes, ...work.changes]
  work.rotate ||= rotate
  work.transition ??= transition
  work.loginSettings ??= loginSettings
  work.newKey ??= newKey
}

/** Continues the request with the session as it is stored now, and with the changes that the handler made in the meantime. */
const adopt = async (work: UnitOfWork, part: UnitOfWork, outcome: CommitOutcome): Promise<void> => {
  const { snapshot, preSession, preSessionUnread, preSessionChanged, missing, endedBy, unusable } = part
  Object.assign(work, { snapshot, preSession, preSessionUnread, preSessionChanged, missing, endedBy, unusable })
  work.readOnly = part.readOnly
  if (outcome.session !== undefined) work.hadCookie = outcome.session !== 'clear'
  work.saved = { ...work.saved, ...outcome }
  if (snapshot === undefined || work.transition === 'invalidate') return
  const latest = await reread(part, snapshot)
  // If the session has ended since, the next save or the commit reports that.
  if (latest === undefined) return
  work.snapshot = latest.snapshot
  work.draft = undefined
  const fields = await decode(work, latest.fields)
  if (!isMismatch(fields)) work.fields = work.changes.length > 0 ? replay(fields, work.changes) : fields
}

const saveChanges = async (work: UnitOfWork): Promise<SaveResult> => {
  if (work.failure !== undefined) return { ok: false, error: work.failure }
  if (!hasChanges(work)) return OK
  const part = takeChanges(work)
  let outcome: CommitOutcome
  try {
    outcome = await commitChanges(part)
  } catch (error) {
    giveBack(work, part)
    throw error
  }
  if (outcome.failure !== undefined) {
    work.failure = outcome.failure
    return { ok: false, error: outcome.failure }
  }
  await adopt(work, part, outcome)
  // The rest of the request has the whole time again, and its failures leave no doubt about this save.
  const { deadline } = work
  deadline.left = deadline.limit ?? deadline.left
  deadline.changed = false
  deadline.conflicts = 0
  return OK
}

/**
 * Saves the changes of a request so far. Calls of one request run one after another.
 *
 * @throws KeepsakeError as a commit. The changes stay, so the handler can call it again
 */
export const saveNow = (work: UnitOfWork): Promise<SaveResult> => {
  const saving = Promise.resolve(work.saving?.catch(() => {})).then(() => saveChanges(work))
  work.saving = saving
  return saving
}
