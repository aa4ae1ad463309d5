// Beginning a session: at the first write, at a login, and after an invalidate.

import type { Held } from '../backends/contract.ts'
import { labelOf, newKey } from '../crypto/keys.ts'
import { type Awaitable, chain, KeepsakeError } from '../error.ts'
import { endUnusable, refuseUnproven } from './end.ts'
import { newMetadata, encodeMetadata } from './metadata.ts'
import { sessionsOfOwner } from './owned.ts'
import { expiryOf, locationAfter, type WriteFailure, mergeOnto, encodeOwn, retryUntilDeadline } from './save.ts'
import { storageKeyOf, isAlive, callWrite, markOf, reread, type Snapshot, ensureDurable, type UnitOfWork } from './work.ts'

const TRIES = 3

/** The key of the session that this visit begins, or would begin. */
export const reserveKey = (visit: UnitOfWork): string => {
  visit.fresh ??= newKey()
  return visit.fresh
}

/**
 * Inserts a session with the visit's fields under a fresh key.
 *
 * @returns `ended`: the owner's sessions were revoked meanwhile, and this one with them
 * @throws Fault `unknown_outcome`, `too_large`, `bad_fields`, `no_fresh_key`
 */
export const createSession = (visit: UnitOfWork, form: string | undefined): Awaitable<Snapshot | 'ended'> =>
  chain(encodeOwn(visit), (value) => insert(visit, value, form, TRIES))

const insert = (
  visit: UnitOfWork,
  value: string,
  form: string | undefined,
  tries: number,
): Awaitable<Snapshot | 'ended'> => {
  const { house, owner } = visit
  const key = reserveKey(visit)
  const address = storageKeyOf(visit, key)
  const now = house.now()
  const { stateless } = house.backend
  const head = newMetadata(
    stateless ? undefined : key,
    now,
    form,
    owner && !stateless ? labelOf(key) : undefined,
    visit.chosen,
  )
  const entry = {
    value,
    head: encodeMetadata(head),
    expiresAt: expiryOf(house, head, now),
    version: house.version(),
    owner: owner && house.owners.kept(owner),
  }
  const done = (answer: Held | 'taken' | 'gone'): Awaitable<Snapshot | 'ended'> => {
    if (answer === 'gone') return 'ended'
    if (answer !== 'taken') {
      if (house.tidies) house.sweeper.tidy()
      return { ...locationAfter(visit, key, address, answer), label: labelOf(key), entry, head, at: now }
    }
    if (tries > 1) {
      visit.fresh = undefined
      return insert(visit, value, form, tries - 1)
    }
    throw new KeepsakeError(
      'no_fresh_key',
      'Three fresh keys in a row were taken: the random numbers of this machine are not random.',
    )
  }
  return chain(
    callWrite(visit, (backend) => backend.generate(address, entry)),
    done,
  )
}

/**
 * A login: the new session first, then the end of the old one; and only when that is dead may the new key leave. Where
 * others changed the old one meanwhile, what they saved comes along as well.
 *
 * @returns the new session, or `ended`: a login of the same owner is a renewal, and ends with its session
 */
export const login = (visit: UnitOfWork): Awaitable<Snapshot | WriteFailure> => {
  const { house, stored, turn } = visit
  const living = stored !== undefined && isAlive(house, stored, house.now())
  if (!living && turn === 'same') return 'ended'
  // It expired while the request was served, by a clock that may be wrong.
  if (!living && stored !== undefined) visit.unusable = [...visit.unusable, { ...stored, proven: true }]
  refuseUnproven(visit)
  return chain(
    chain(createSession(visit, undefined), (made) => {
      if (made === 'ended') return made
      return chain(endUnusable(visit, 'login'), () =>
        living ? endPrevious(visit, stored, made) : chain(confirmEnded(visit), () => made),
      )
    }),
    (made) =>
      typeof made === 'string' || house.mostOwned === undefined ? made : enforceOwnerLimit(visit, made, house.mostOwned),
  )
}

/** The session whose cookie led to nothing: the login counts once that is for good. */
const confirmEnded = (visit: UnitOfWork): Awaitable<void> => visit.vanished && ensureDurable(visit, visit.vanished.address)

/**
 * Ends the owner's oldest sessions if there are more than allowed: every login of the owner counts the same ones. The
 * old session is dead by now, so a failure here is an event, and the new key leaves.
 */
const enforceOwnerLimit = async (visit: UnitOfWork, made: Snapshot, most: number): Promise<Snapshot | 'ended'> => {
  const { house } = visit
  try {
    const surplus = (await sessionsOfOwner(visit, made.entry.owner as string)).slice(most)
    for (const { address, label } of surplus) {
      await callWrite(visit, (backend) => backend.clear(address, undefined, markOf(house, 'end')))
      house.emit('displaced', { label })
    }
    return surplus.some(({ address }) => address === made.address) ? 'ended' : made
  } catch (error) {
    house.emit('store_error', {
      label: made.label,
      error,
      message: 'A login could not end the oldest sessions of its owner, who has more than sessionsPerOwner now.',
    })
    return made
  }
}

/** Ends the old session, on the version that the new one was made from. */
const endPrevious = (visit: UnitOfWork, { address, entry }: Snapshot, made: Snapshot): Awaitable<Snapshot | WriteFailure> =>
  chain(
    callWrite(visit, (backend) => backend.clear(address, entry.version, markOf(visit.house, 'login'))),
    (cleared) => (cleared === 'stale' ? retryLogin(visit, made) : made),
  )

/** The login after others were faster: it looks again, as often as they are. */
const retryLogin = async (visit: UnitOfWork, first: Snapshot): Promise<Snapshot | WriteFailure> => {
  const old = visit.stored as Snapshot
  const { address } = first
  const goOn = retryUntilDeadline(visit)
  for (let made = first; ; ) {
    goOn()
    const latest = await reread(visit, old)
    if (latest === undefined) {
      if (visit.turn !== 'same') {
        await ensureDurable(visit, old.address)
        return made
      }
      await callWrite(visit, (backend) => backend.clear(address))
      return 'ended'
    }
    const before = made.entry.version
    const value = await mergeOnto(visit, latest.fields)
    if (typeof value !== 'string') {
      await callWrite(visit, (backend) => backend.clear(address))
      return 'conflict'
    }
    const entry = { ...made.entry, value, version: visit.house.version() }
    const set = await callWrite(visit, (backend) => backend.set(address, entry, before))
    // Nobody else knows the new key: only an operator's sweep or a revocation can have ended it.
    if (set === 'gone' || set === 'stale') return 'ended'
    made = { ...made, entry }
    const { version } = latest.stored.entry
    const mark = markOf(visit.house, 'login')
    if ((await callWrite(visit, (backend) => backend.clear(old.address, version, mark))) !== 'stale') return made
  }
}
