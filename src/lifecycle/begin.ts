// Beginning a session: at the first write, at a login, and after an invalidate.

import { type Fields, replay } from '../changes.ts'
import { newHead, printHead } from '../head.ts'
import { labelOf, newKey, newVersion } from '../keys.ts'
import { Fault } from '../outcome.ts'
import { expiryOf, holding, patience, printed } from './save.ts'
import { addressOf, alive, changing, reread, type Stored, type Visit } from './visit.ts'

const TRIES = 3

/** The key of the session that this visit begins, or would begin. */
export const freshKey = (visit: Visit): string => {
  visit.fresh ??= newKey()
  return visit.fresh
}

/**
 * Inserts a session with these fields under a fresh key.
 *
 * @throws Fault `unknown_outcome`, `too_large`, `no_fresh_key`
 */
export const begin = async (visit: Visit, fields: Fields, form: string | undefined): Promise<Stored> => {
  const { house, owner } = visit
  const value = printed(house, fields)
  for (let tries = 0; tries < TRIES; tries++) {
    const key = freshKey(visit)
    const now = house.now()
    const head = newHead(house.backend.stateless ? undefined : key, now, form)
    const entry = {
      value,
      head: printHead(head),
      expiresAt: expiryOf(house, now, now),
      version: newVersion(),
      owner,
    }
    const answer = changing(visit, (backend) => backend.generate(addressOf(visit, key), entry))
    const outcome = answer instanceof Promise ? await answer : answer
    if (outcome !== 'taken') {
      house.tidy()
      return { ...holding(visit, outcome ?? key), label: labelOf(key), entry, head, at: now }
    }
    visit.fresh = undefined
  }
  throw new Fault(
    'no_fresh_key',
    'Three fresh keys in a row were taken: the random numbers of this machine are not random.',
  )
}

/**
 * A login: the new session first, then the end of the old one; and only when that is dead may the new key leave. Where
 * others changed the old one meanwhile, what they saved comes along as well.
 *
 * @returns the new session, or `ended`: a login of the same owner is a renewal, and ends with its session
 */
export const login = async (visit: Visit): Promise<Stored | 'ended'> => {
  const { house, changes } = visit
  let old = visit.stored
  if (old !== undefined && !alive(house, old, house.now())) {
    if (visit.turn === 'same') return 'ended'
    old = undefined
  }
  let made = await begin(visit, visit.fields, undefined)
  if (old === undefined) return made
  const { address } = made
  const { address: oldAddress } = old
  let goOn: (() => void) | undefined
  for (let latest = old; ; ) {
    const { version } = latest.entry
    const cleared = await changing(visit, (backend) => backend.clear(oldAddress, version))
    if (cleared !== 'stale') return made
    goOn ??= patience(visit)
    goOn()
    const again = await reread(visit, latest)
    if (again === undefined) {
      if (visit.turn !== 'same') return made
      await changing(visit, (backend) => backend.clear(address))
      return 'ended'
    }
    latest = again.stored
    const entry = { ...made.entry, value: printed(house, replay(again.fields, changes)), version: newVersion() }
    const before = made.entry.version
    const set = await changing(visit, (backend) => backend.set(address, entry, before))
    // Nobody else knows the new key: only an operator's sweep or a revocation can have ended it.
    if (set === 'gone' || set === 'stale') return 'ended'
    made = { ...made, entry }
  }
}
