// From the keys that a request brought to the session that one of them opens.

import type { Budget } from '../budget.ts'
import type { Fields } from '../changes.ts'
import { type Standing, standing } from '../head.ts'
import { labelOf } from '../keys.ts'
import type { Names } from '../transport.ts'
import { addressOf, alive, forget, type House, reading, type Stored, stored, type Visit } from './visit.ts'

const nothing: Fields = Object.freeze({})

/** What a request brought, as its Cookie header has it. */
export type Brought = {
  readonly keys: readonly string[]
  readonly names: Names
  readonly preToken: string | undefined
}

const begun = (house: House, budget: Budget, { keys, names, preToken }: Brought): Visit => ({
  house,
  budget,
  stored: undefined,
  presented: keys.length > 0,
  names,
  preToken,
  pre: undefined,
  preUnread: preToken !== undefined,
  preChanged: false,
  changes: [],
  fields: nothing,
  owner: undefined,
  renew: false,
  turn: undefined,
  fresh: undefined,
  over: false,
})

type Found = { readonly stored: Stored; readonly fields: Fields }

/** Milliseconds that the clocks of two machines may differ. */
const SKEW = 60_000

/** How a key stands to what it led to: a sealed one that opened is right, unless its birth is still to come. */
const standsIn = ({ house }: Visit, { head, key }: Stored, now: number): Standing => {
  if (!house.backend.stateless) return standing(head, key, now)
  return head.bornAt <= now + SKEW ? 'current' : 'wrong'
}

/** What one key opens. Whatever does not is an event, and an expired entry is cleared on the way. */
const opened = async (visit: Visit, key: string): Promise<Found | undefined> => {
  const { house } = visit
  const address = addressOf(visit, key)
  const answer = reading(visit, (backend) => backend.get(address))
  const entry = answer instanceof Promise ? await answer : answer
  if (entry === undefined) {
    house.emit('unknown_key', house.backend.stateless ? {} : { label: labelOf(key) })
    return undefined
  }
  const found = stored(visit, key, entry)
  if (found === undefined) return undefined
  const { label } = found.stored
  const now = house.now()
  const stands = standsIn(visit, found.stored, now)
  if (stands === 'wrong' || stands === 'retired') {
    house.emit(stands === 'wrong' ? 'wrong_secret' : 'retired_key', { label })
    return undefined
  }
  if (alive(house, found.stored, now)) return found
  house.emit('expired', { label })
  try {
    await forget(visit, found.stored)
  } catch (error) {
    house.emit('store_error', { label, error })
  }
  return undefined
}

/**
 * A visit with the session that one of `keys` opens. Where two of them open two sessions somebody planted one of them,
 * and nobody can say which: the visit is a stranger's.
 *
 * @throws Fault `unavailable`
 */
export const open = async (house: House, budget: Budget, brought: Brought): Promise<Visit> => {
  const visit = begun(house, budget, brought)
  let found: Found | undefined
  for (const key of brought.keys) {
    const next = await opened(visit, key)
    if (next !== undefined && found !== undefined && next.stored.label !== found.stored.label) {
      house.emit('ambiguous_cookies', { label: next.stored.label })
      return visit
    }
    found ??= next
  }
  if (found === undefined) return visit
  visit.stored = found.stored
  visit.fields = found.fields
  visit.owner = found.stored.entry.owner
  return visit
}
