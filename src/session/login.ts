// A login: it creates the new session, ends the previous one, and only then releases the new key.

import { type Awaitable, chain } from '../error.ts'
import { createSession } from './create.ts'
import { endUnusable, refuseUnproven } from './end.ts'
import { isAlive } from './expiry.ts'
import { sessionsOfOwner } from './owned.ts'
import { mergeOnto, retryUntilDeadline, type WriteFailure } from './save.ts'
import { callWrite, ensureDurable, markOf, reread, type Snapshot, type UnitOfWork } from './work.ts'
/**
 * A login: the new session first, then the end of the old one; and only when that is dead may the new key leave. Where
 * others changed the old one meanwhile, what they saved comes along as well.
 *
 * @returns the new session, or `ended`: a login of the same owner is a renewal, and ends with its session
 */
export const login = (work: UnitOfWork): Awaitable<Snapshot | WriteFailure> => {
  const { context, snapshot, transition } = work
  const living = snapshot !== undefined && isAlive(context, snapshot, context.now())
  if (!living && transition === 'reauthenticate') return 'ended'
  // It expired while the request was served, by a clock that may be wrong.
  if (!living && snapshot !== undefined) work.unusable = [...work.unusable, { ...snapshot, proven: true }]
  refuseUnproven(work)
  return chain(
    chain(createSession(work, undefined), (made) => {
      if (made === 'ended') return made
      return chain(endUnusable(work, 'login'), () =>
        living ? endPrevious(work, snapshot, made) : chain(confirmEnded(work), () => made),
      )
    }),
    (made) =>
      typeof made === 'string' || context.maxSessionsPerOwner === undefined
        ? made
        : enforceOwnerLimit(work, made, context.maxSessionsPerOwner),
  )
}

/** The session whose cookie led to nothing: the login counts once that is for good. */
const confirmEnded = (work: UnitOfWork): Awaitable<void> => work.missing && ensureDurable(work, work.missing.storageKey)

/**
 * Ends the owner's oldest sessions if there are more than allowed: every login of the owner counts the same ones. The
 * old session is dead by now, so a failure here is an event, and the new key leaves.
 */
const enforceOwnerLimit = async (work: UnitOfWork, made: Snapshot, most: number): Promise<Snapshot | 'ended'> => {
  const { context } = work
  try {
    const surplus = (await sessionsOfOwner(work, made.entry.owner as string)).slice(most)
    for (const { storageKey, label } of surplus) {
      await callWrite(work, (backend) => backend.clear(storageKey, undefined, markOf(context, 'end')))
      context.emit('owner_limit', { label })
    }
    return surplus.some(({ storageKey }) => storageKey === made.storageKey) ? 'ended' : made
  } catch (error) {
    context.emit('store_error', {
      label: made.label,
      error,
      message: 'A login could not end the oldest sessions of its owner, who has more than maxSessionsPerOwner now.',
    })
    return made
  }
}

/** Ends the old session, on the version that the new one was made from. */
const endPrevious = (
  work: UnitOfWork,
  { storageKey, entry }: Snapshot,
  made: Snapshot,
): Awaitable<Snapshot | WriteFailure> =>
  chain(
    callWrite(work, (backend) => backend.clear(storageKey, entry.version, markOf(work.context, 'login'))),
    (cleared) => (cleared === 'stale' ? retryLogin(work, made) : made),
  )

/** The login after others were faster: it looks again, as often as they are. */
const retryLogin = async (work: UnitOfWork, first: Snapshot): Promise<Snapshot | WriteFailure> => {
  const old = work.snapshot as Snapshot
  const { storageKey } = first
  const goOn = retryUntilDeadline(work)
  for (let made = first; ; ) {
    goOn()
    const latest = await reread(work, old)
    if (latest === undefined) {
      if (work.transition !== 'reauthenticate') {
        await ensureDurable(work, old.storageKey)
        return made
      }
      await callWrite(work, (backend) => backend.clear(storageKey))
      return 'ended'
    }
    const recentVersions = made.entry.version
    const value = await mergeOnto(work, latest.fields)
    if (typeof value !== 'string') {
      await callWrite(work, (backend) => backend.clear(storageKey))
      return 'conflict'
    }
    const entry = { ...made.entry, value, version: work.context.version() }
    const set = await callWrite(work, (backend) => backend.set(storageKey, entry, recentVersions))
    // Nobody else knows the new key: only an operator's sweep or a revocation can have ended it.
    if (set === 'gone' || set === 'stale') return 'ended'
    made = { ...made, entry }
    const { version } = latest.snapshot.entry
    const mark = markOf(work.context, 'login')
    if ((await callWrite(work, (backend) => backend.clear(old.storageKey, version, mark))) !== 'stale') return made
  }
}
