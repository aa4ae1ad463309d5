// Beginning a session: at the first write, at a login, and after an invalidate.

import type { Held } from '../backends/contract.ts'
import { labelOf, newKey } from '../crypto/keys.ts'
import { type Awaitable, chain, KeepsakeError } from '../error.ts'
import { endUnusable, refuseUnproven } from './end.ts'
import { encodeMetadata, newMetadata } from './metadata.ts'
import { sessionsOfOwner } from './owned.ts'
import { encodeOwn, expiryOf, locationAfter, mergeOnto, retryUntilDeadline, type WriteFailure } from './save.ts'
import {
  callWrite,
  ensureDurable,
  isAlive,
  markOf,
  reread,
  type Snapshot,
  storageKeyOf,
  type UnitOfWork,
} from './work.ts'

const TRIES = 3

/** The key of the session that this visit begins, or would begin. */
export const reserveKey = (work: UnitOfWork): string => {
  work.newKey ??= newKey()
  return work.newKey
}

/**
 * Inserts a session with the visit's fields under a fresh key.
 *
 * @returns `ended`: the owner's sessions were revoked meanwhile, and this one with them
 * @throws KeepsakeError `unknown_outcome`, `too_large`, `schema_mismatch`, `key_collision`
 */
export const createSession = (work: UnitOfWork, form: string | undefined): Awaitable<Snapshot | 'ended'> =>
  chain(encodeOwn(work), (value) => insert(work, value, form, TRIES))

const insert = (
  work: UnitOfWork,
  value: string,
  form: string | undefined,
  tries: number,
): Awaitable<Snapshot | 'ended'> => {
  const { context, owner } = work
  const key = reserveKey(work)
  const storageKey = storageKeyOf(work, key)
  const now = context.now()
  const { stateless } = context.backend
  const metadata = newMetadata(
    stateless ? undefined : key,
    now,
    form,
    owner && !stateless ? labelOf(key) : undefined,
    work.loginSettings,
  )
  const entry = {
    value,
    metadata: encodeMetadata(metadata),
    expiresAt: expiryOf(context, metadata, now),
    version: context.version(),
    owner: owner && context.ownerNames.kept(owner),
  }
  const done = (answer: Held | 'taken' | 'gone'): Awaitable<Snapshot | 'ended'> => {
    if (answer === 'gone') return 'ended'
    if (answer !== 'taken') {
      if (context.autoSweep) context.sweeper.tidy()
      return { ...locationAfter(work, key, storageKey, answer), label: labelOf(key), entry, metadata, at: now }
    }
    if (tries > 1) {
      work.newKey = undefined
      return insert(work, value, form, tries - 1)
    }
    throw new KeepsakeError(
      'key_collision',
      'Three fresh keys in a row were taken: the random numbers of this machine are not random.',
    )
  }
  return chain(
    callWrite(work, (backend) => backend.generate(storageKey, entry)),
    done,
  )
}

/**
 * A login: the new session first, then the end of the old one; and only when that is dead may the new key leave. Where
 * others changed the old one meanwhile, what they saved comes along as well.
 *
 * @returns the new session, or `ended`: a login of the same owner is a renewal, and ends with its session
 */
export const login = (work: UnitOfWork): Awaitable<Snapshot | WriteFailure> => {
  const { context, snapshot, transition } = work
  const living = snapshot !== undefined && isAlive(context, snapshot, context.now())
  if (!living && transition === 'same') return 'ended'
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
      if (work.transition !== 'same') {
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
