// Beginning a session: at the first write, at a login, and after an invalidate.

import type { Held } from '../backends/contract.ts'
import { labelOf, newKey } from '../crypto/keys.ts'
import { type Awaitable, after, Fault } from '../error.ts'
import { endUnusable, onlyProven } from './end.ts'
import { newHead, printHead } from './metadata.ts'
import { ownedBy } from './owned.ts'
import { expiryOf, holding, type Lost, merged, ownKept, patience } from './save.ts'
import { addressOf, alive, changing, markOf, reread, type Stored, settled, type Visit } from './work.ts'

const TRIES = 3

/** The key of the session that this visit begins, or would begin. */
export const freshKey = (visit: Visit): string => {
  visit.fresh ??= newKey()
  return visit.fresh
}

/**
 * Inserts a session with the visit's fields under a fresh key.
 *
 * @returns `ended`: the owner's sessions were revoked meanwhile, and this one with them
 * @throws Fault `unknown_outcome`, `too_large`, `bad_fields`, `no_fresh_key`
 */
export const begin = (visit: Visit, form: string | undefined): Awaitable<Stored | 'ended'> =>
  after(ownKept(visit), (value) => inserted(visit, value, form, TRIES))

const inserted = (
  visit: Visit,
  value: string,
  form: string | undefined,
  tries: number,
): Awaitable<Stored | 'ended'> => {
  const { house, owner } = visit
  const key = freshKey(visit)
  const address = addressOf(visit, key)
  const now = house.now()
  const { stateless } = house.backend
  const head = newHead(
    stateless ? undefined : key,
    now,
    form,
    owner && !stateless ? labelOf(key) : undefined,
    visit.chosen,
  )
  const entry = {
    value,
    head: printHead(head),
    expiresAt: expiryOf(house, head, now),
    version: house.version(),
    owner: owner && house.owners.kept(owner),
  }
  const done = (answer: Held | 'taken' | 'gone'): Awaitable<Stored | 'ended'> => {
    if (answer === 'gone') return 'ended'
    if (answer !== 'taken') {
      if (house.tidies) house.sweeper.tidy()
      return { ...holding(visit, key, address, answer), label: labelOf(key), entry, head, at: now }
    }
    if (tries > 1) {
      visit.fresh = undefined
      return inserted(visit, value, form, tries - 1)
    }
    throw new Fault(
      'no_fresh_key',
      'Three fresh keys in a row were taken: the random numbers of this machine are not random.',
    )
  }
  return after(
    changing(visit, (backend) => backend.generate(address, entry)),
    done,
  )
}

/**
 * A login: the new session first, then the end of the old one; and only when that is dead may the new key leave. Where
 * others changed the old one meanwhile, what they saved comes along as well.
 *
 * @returns the new session, or `ended`: a login of the same owner is a renewal, and ends with its session
 */
export const login = (visit: Visit): Awaitable<Stored | Lost> => {
  const { house, stored, turn } = visit
  const living = stored !== undefined && alive(house, stored, house.now())
  if (!living && turn === 'same') return 'ended'
  // It expired while the request was served, by a clock that may be wrong.
  if (!living && stored !== undefined) visit.unusable = [...visit.unusable, { ...stored, proven: true }]
  onlyProven(visit)
  return after(
    after(begin(visit, undefined), (made) => {
      if (made === 'ended') return made
      return after(endUnusable(visit, 'login'), () =>
        living ? retire(visit, stored, made) : after(over(visit), () => made),
      )
    }),
    (made) =>
      typeof made === 'string' || house.mostOwned === undefined ? made : limited(visit, made, house.mostOwned),
  )
}

/** The session whose cookie led to nothing: the login counts once that is for good. */
const over = (visit: Visit): Awaitable<void> => visit.vanished && settled(visit, visit.vanished.address)

/**
 * Ends the owner's oldest sessions if there are more than allowed: every login of the owner counts the same ones. The
 * old session is dead by now, so a failure here is an event, and the new key leaves.
 */
const limited = async (visit: Visit, made: Stored, most: number): Promise<Stored | 'ended'> => {
  const { house } = visit
  try {
    const surplus = (await ownedBy(visit, made.entry.owner as string)).slice(most)
    for (const { address, label } of surplus) {
      await changing(visit, (backend) => backend.clear(address, undefined, markOf(house, 'end')))
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
const retire = (visit: Visit, { address, entry }: Stored, made: Stored): Awaitable<Stored | Lost> =>
  after(
    changing(visit, (backend) => backend.clear(address, entry.version, markOf(visit.house, 'login'))),
    (cleared) => (cleared === 'stale' ? overtaken(visit, made) : made),
  )

/** The login after others were faster: it looks again, as often as they are. */
const overtaken = async (visit: Visit, first: Stored): Promise<Stored | Lost> => {
  const old = visit.stored as Stored
  const { address } = first
  const goOn = patience(visit)
  for (let made = first; ; ) {
    goOn()
    const latest = await reread(visit, old)
    if (latest === undefined) {
      if (visit.turn !== 'same') {
        await settled(visit, old.address)
        return made
      }
      await changing(visit, (backend) => backend.clear(address))
      return 'ended'
    }
    const before = made.entry.version
    const value = await merged(visit, latest.fields)
    if (typeof value !== 'string') {
      await changing(visit, (backend) => backend.clear(address))
      return 'conflict'
    }
    const entry = { ...made.entry, value, version: visit.house.version() }
    const set = await changing(visit, (backend) => backend.set(address, entry, before))
    // Nobody else knows the new key: only an operator's sweep or a revocation can have ended it.
    if (set === 'gone' || set === 'stale') return 'ended'
    made = { ...made, entry }
    const { version } = latest.stored.entry
    const mark = markOf(visit.house, 'login')
    if ((await changing(visit, (backend) => backend.clear(old.address, version, mark))) !== 'stale') return made
  }
}
