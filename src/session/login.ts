// A login: it creates the new session, ends the previous one, and only then sends the new key.

import { type Awaitable, chain } from '../error.ts'
import { createSession } from './create.ts'
import { endUnusable, refuseUnproven } from './end.ts'
import { isAlive } from './expiry.ts'
import { sessionsOfOwner } from './owned.ts'
import { mergeOnto, retryUntilDeadline, type WriteFailure } from './save.ts'
import { callWrite, ensureDurable, markOf, namesOf, reread, type Snapshot, type UnitOfWork } from './work.ts'

/**
 * Carries out a login. If other requests changed the previous session in the meantime, their changes come along.
 *
 * @returns the new session; `ended` for a login of the same owner whose session ended, because such a login only renews it
 * @throws KeepsakeError as `createSession`; also `contention`, and any error of an `update`
 */
export const login = (work: UnitOfWork): Awaitable<Snapshot | WriteFailure> => {
  const { context, snapshot, transition } = work
  const alive = snapshot !== undefined && isAlive(context, snapshot, context.now())
  if (!alive && transition === 'reauthenticate') return 'ended'
  // It expired during the request, by a clock that may be wrong, so it must be ended too.
  if (!alive && snapshot !== undefined) work.unusable = [...work.unusable, { ...snapshot, proven: true }]
  refuseUnproven(work)
  return chain(
    chain(createSession(work, undefined), (created) => {
      if (created === 'ended') return created
      return chain(endUnusable(work, 'login'), () =>
        alive ? endPrevious(work, snapshot, created) : chain(confirmEnded(work), () => created),
      )
    }),
    (created) =>
      typeof created === 'string' || context.maxSessionsPerOwner === undefined
        ? created
        : enforceOwnerLimit(work, created, context.maxSessionsPerOwner),
  )
}

/** Waits until the end of the session that the request's key named, and that is not there any more, survives a failover. */
const confirmEnded = (work: UnitOfWork): Awaitable<void> => work.missing && ensureDurable(work, work.missing.storageKey)

/**
 * Ends the owner's oldest sessions if there are more than allowed. Concurrent logins of the owner sort them alike, so they
 * end the same ones. The previous session has ended by now, so a failure here is an event, and the login succeeds.
 */
const enforceOwnerLimit = async (work: UnitOfWork, created: Snapshot, max: number): Promise<Snapshot | 'ended'> => {
  const { context } = work
  try {
    const surplus = (await sessionsOfOwner(work, created.entry.owner as string)).slice(max)
    for (const stored of surplus) {
      const { storageKey } = stored
      await callWrite(work, 'clear', (backend) => backend.clear(storageKey, undefined, markOf(context, 'end')))
      context.emit('owner_limit', namesOf(context, stored))
    }
    return surplus.some(({ storageKey }) => storageKey === created.storageKey) ? 'ended' : created
  } catch (error) {
    context.emit('store_error', {
      label: created.label,
      error,
      message:
        'A login could not end the oldest sessions of its owner, so the owner has more than maxSessionsPerOwner. The next login tries again.',
    })
    return created
  }
}

/** Ends the previous session, if its version is still the one that the new session was made from. */
const endPrevious = (
  work: UnitOfWork,
  { storageKey, entry }: Snapshot,
  created: Snapshot,
): Awaitable<Snapshot | WriteFailure> =>
  chain(
    callWrite(work, 'clear', (backend) => backend.clear(storageKey, entry.version, markOf(work.context, 'login'))),
    (cleared) => (cleared === 'stale' ? retryLogin(work, created) : created),
  )

/**
 * Continues a login whose previous session was changed by others: copies their changes into the new session, and tries again
 * to end the previous one, until it succeeds or the time of the request is used up.
 */
const retryLogin = async (work: UnitOfWork, first: Snapshot): Promise<Snapshot | WriteFailure> => {
  const previous = work.snapshot as Snapshot
  const { storageKey } = first
  const assertTimeLeft = retryUntilDeadline(work)
  for (let created = first; ; ) {
    assertTimeLeft()
    const latest = await reread(work, previous)
    if (latest === undefined) {
      if (work.transition !== 'reauthenticate') {
        // It may have expired in the meantime, by a clock that may be wrong, and a late read may still extend it.
        await callWrite(work, 'clear', (backend) =>
          backend.clear(previous.storageKey, undefined, markOf(work.context, 'login')),
        )
        await ensureDurable(work, previous.storageKey)
        return created
      }
      await callWrite(work, 'clear', (backend) => backend.clear(storageKey))
      return 'ended'
    }
    const value = await mergeOnto(work, latest.fields)
    if (typeof value !== 'string') {
      await callWrite(work, 'clear', (backend) => backend.clear(storageKey))
      return 'conflict'
    }
    const entry = { ...created.entry, value, version: work.context.version() }
    const createdVersion = created.entry.version
    const answer = await callWrite(work, 'set', (backend) => backend.set(storageKey, entry, createdVersion))
    // No browser has the new key yet, so only a sweep or a revocation can have ended it.
    if (answer === 'gone' || answer === 'stale') return 'ended'
    created = { ...created, entry }
    const { version } = latest.snapshot.entry
    const mark = markOf(work.context, 'login')
    const cleared = await callWrite(work, 'clear', (backend) => backend.clear(previous.storageKey, version, mark))
    if (cleared !== 'stale') return created
  }
}
