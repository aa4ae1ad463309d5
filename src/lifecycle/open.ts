// From the keys that a request brought to the session that one of them opens.

import type { Entry } from '../backend.ts'
import type { Budget } from '../budget.ts'
import type { Fields } from '../changes.ts'
import { type Standing, standing } from '../head.ts'
import { labelOf } from '../keys.ts'
import { type Awaitable, after, Fault, isThenable } from '../outcome.ts'
import { SKEW } from '../presession.ts'
import { isMisfit } from '../shape.ts'
import type { Names } from '../transport.ts'
import { addressOf, alive, forget, type House, reading, type Stored, shaped, stored, type Visit } from './visit.ts'

const nothing: Fields = Object.freeze({})

/** What a request brought, as its Cookie header has it. */
export type Brought = {
  readonly keys: readonly string[]
  readonly names: Names
  readonly header: string | null
}

const begun = (house: House, budget: Budget, { keys, names, header }: Brought): Visit => ({
  house,
  budget,
  stored: undefined,
  vanished: undefined,
  presented: keys.length > 0,
  names,
  header,
  pre: undefined,
  preUnread: header !== null,
  preChanged: false,
  changes: [],
  fields: nothing,
  draft: undefined,
  owner: undefined,
  renew: false,
  turn: undefined,
  fresh: undefined,
  outbox: [],
  taken: [],
  confidential: false,
  barred: undefined,
  over: false,
})

type Found = { readonly stored: Stored; readonly fields: Fields }

/** How a key stands to what it led to: a sealed one that opened is right. */
const standsIn = ({ house }: Visit, { head, key }: Stored, now: number): Standing =>
  house.backend.stateless ? 'current' : standing(head, key, now)

/** Whether an entry is the session of its key, and alive. Whatever is not is an event, and an expired one is cleared. */
const judged = (visit: Visit, key: string, address: string, entry: Entry | undefined): Awaitable<Found | undefined> => {
  const { house } = visit
  if (entry === undefined) {
    house.emit('unknown_key', house.backend.stateless ? {} : { label: labelOf(key) })
    visit.vanished = { address, label: labelOf(key) }
    return undefined
  }
  const found = stored(visit, key, address, entry)
  if (found === undefined) return undefined
  const { label, at } = found.stored
  const stands = standsIn(visit, found.stored, at)
  if (stands === 'wrong' || stands === 'retired') {
    house.emit(stands === 'wrong' ? 'wrong_secret' : 'retired_key', { label })
    return undefined
  }
  if (found.stored.head.bornAt > at + SKEW) {
    house.emit('clock_skew', {
      label,
      message:
        'A session was born more than a minute from now: set the clocks of the machines. It opens once it is born.',
    })
    return undefined
  }
  if (alive(house, found.stored, at)) return fitted(visit, found)
  house.emit('expired', { label })
  return forget(visit, found.stored).then(
    () => undefined,
    (error) => house.emit('store_error', { label, error }) as undefined,
  )
}

/** A session that the application's schema takes, as it takes it. One that it does not is left alone, for who knows it. */
const fitted = (visit: Visit, found: Found): Awaitable<Found | undefined> =>
  after(shaped(visit, found.fields), (fields) => {
    if (!isMisfit(fields)) return fields === found.fields ? found : { ...found, fields }
    const { label } = found.stored
    const message = `A session does not fit the schema, and its visitor starts anew: ${fields.why}.`
    visit.house.emit('misfit', { label, message, ...(fields.error !== undefined && { error: fields.error }) })
    return undefined
  })

/** What one key opens. */
const opened = (visit: Visit, key: string): Awaitable<Found | undefined> => {
  const address = addressOf(visit, key)
  return after(
    reading(visit, (backend) => backend.get(address)),
    (entry) => judged(visit, key, address, entry),
  )
}

const entered = (visit: Visit, found: Found | undefined): Awaitable<Visit> => {
  if (found === undefined) return blank(visit)
  visit.stored = found.stored
  visit.fields = found.fields
  const { owner } = found.stored.entry
  visit.owner = owner && visit.house.owners.name(owner)
  return visit
}

/** A stranger's visit: what the schema makes of nothing is what he has. */
const blank = (visit: Visit): Awaitable<Visit> => {
  if (visit.house.shape === undefined) return visit
  return after(shaped(visit, nothing), (fields) => {
    if (!isMisfit(fields)) visit.fields = fields
    return visit
  })
}

/** Where two keys open two sessions somebody planted one of them, and nobody can say which: the visit is a stranger's. */
const several = async (visit: Visit, keys: readonly string[]): Promise<Visit> => {
  let found: Found | undefined
  for (const key of keys) {
    const next = await opened(visit, key)
    if (next !== undefined && found !== undefined && next.stored.label !== found.stored.label) {
      visit.house.emit('ambiguous_cookies', { label: next.stored.label })
      return blank(visit)
    }
    found ??= next
  }
  return entered(visit, found)
}

const found = (visit: Visit, keys: readonly string[]): Awaitable<Visit> => {
  const [key] = keys
  if (key === undefined) return blank(visit)
  return keys.length > 1 ? several(visit, keys) : after(opened(visit, key), (found) => entered(visit, found))
}

/** The visit of somebody whose session cannot be read now: a stranger's, who can save nothing. */
const barred = (visit: Visit, fault: unknown): Awaitable<Visit> => {
  if (!(fault instanceof Fault) || fault.status !== 503) throw fault
  visit.house.emit('read_only', { error: fault })
  visit.barred = fault
  return blank(visit)
}

/**
 * A visit with the session that one of its keys opens.
 *
 * @throws Fault `unavailable`, unless the house is lenient
 */
export const open = (house: House, budget: Budget, { keys, ...brought }: Brought): Awaitable<Visit> => {
  const visit = begun(house, budget, { keys, ...brought })
  if (!house.lenient) return found(visit, keys)
  const failed = (error: unknown) => barred(visit, error)
  try {
    const opening = found(visit, keys)
    return isThenable(opening) ? opening.catch(failed) : opening
  } catch (error) {
    return failed(error)
  }
}
