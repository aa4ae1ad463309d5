// From the keys that a request brought to the session that one of them opens.

import type { Entry } from '../backends/contract.ts'
import type { Budget } from '../backends/deadline.ts'
import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, after, Fault, isThenable } from '../error.ts'
import type { Names } from '../http/cookie-names.ts'
import type { Withheld } from '../http/withheld.ts'
import type { Fields } from './changes.ts'
import { isMisfit } from './codec.ts'
import { LONG_OVER, parseMark, type Standing, standing } from './metadata.ts'
import { SKEW } from './pre-session.ts'
import { addressOf, alive, changing, type House, reading, type Stored, shaped, stored, type Visit } from './work.ts'

const nothing: Fields = Object.freeze({})

/** What a request brought, as its Cookie header has it. */
export type Brought = {
  readonly keys: readonly string[]
  readonly names: Names
  readonly header: string | null
  readonly withheld?: Withheld | undefined
}

const begun = (house: House, budget: Budget, { keys, names, header, withheld }: Brought): Visit => ({
  house,
  budget,
  stored: undefined,
  vanished: undefined,
  endedBy: undefined,
  unusable: [],
  keys,
  withheld,
  presented: keys.length > 0,
  names,
  header,
  pre: undefined,
  preUnread: header !== null,
  preChanged: false,
  tokens: [],
  changes: [],
  fields: nothing,
  draft: undefined,
  owner: undefined,
  chosen: undefined,
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

/** Notes a session that the request cannot use, but that it may be asked to end. */
const setAside = (visit: Visit, { address, label }: Pick<Stored, 'address' | 'label'>, proven: boolean): undefined => {
  visit.unusable = [...visit.unusable, { address, label, proven }]
}

/** The key of a session that is not there: it ended a moment ago, or earlier, or nobody ever gave it out. */
const missing = (visit: Visit, key: string, address: string, entry: Entry | undefined): undefined => {
  const { house } = visit
  const label = entry?.label ?? labelOf(key)
  const mark = entry && parseMark(entry.head)
  visit.vanished = { address, label }
  if (mark !== undefined && house.now() < mark.until) {
    visit.endedBy ??= mark.by
    house.emit('ended_key', { label })
  } else house.emit('unknown_key', house.backend.stateless ? {} : { label })
}

const UNREADABLE = 'An entry cannot be read by this version. It is left alone until it expires.'
const UNBORN =
  'A session was created more than a minute from now. Set the clocks of the machines. Until then the session can be ended here, and not used.'

/** Whether an entry is the session of its key, and alive. Whatever is not is an event. */
const judged = (visit: Visit, key: string, address: string, entry: Entry | undefined): Awaitable<Found | undefined> => {
  const { house } = visit
  if (entry === undefined || parseMark(entry.head) !== undefined) return missing(visit, key, address, entry)
  const { stored: there, fields } = stored(visit, key, address, entry)
  if (there === undefined) {
    const label = entry.label ?? labelOf(key)
    house.emit('corrupt', { label, message: UNREADABLE })
    // What was sealed by us proves itself.
    return setAside(visit, { address, label }, house.backend.stateless === true)
  }
  const { label, at, head } = there
  const stands = standsIn(visit, there, at)
  if (stands === 'wrong') {
    house.emit('wrong_secret', { label })
    return undefined
  }
  if (stands === 'retired') house.emit('retired_key', { label })
  else if (fields === undefined) house.emit('corrupt', { label, message: UNREADABLE })
  else if (head.bornAt > at + SKEW) {
    house.emit('clock_skew', { label, message: UNBORN })
    visit.barred = { fault: new Fault('unavailable', UNBORN), reads: true, logsIn: true }
  } else if (alive(house, there, at)) return fitted(visit, { stored: there, fields })
  else {
    house.emit('expired', { label })
    if (!alive(house, there, at - LONG_OVER)) return forget(visit, there)
    // What has expired lately is left alone: this clock may be wrong, and then the session is alive at other machines.
  }
  return setAside(visit, there, true)
}

/** Clears an entry that expired long ago. Where that fails, the sweep has it. */
const forget = (visit: Visit, { address, label, entry }: Stored): Awaitable<undefined> => {
  if (visit.house.backend.stateless) return undefined
  const failed = (error: unknown) => visit.house.emit('store_error', { label, error }) as undefined
  try {
    const cleared = changing(visit, (backend) => backend.clear(address, entry.version))
    return isThenable(cleared) ? cleared.then(() => undefined, failed) : undefined
  } catch (error) {
    return failed(error)
  }
}

/** A session that the application's schema takes, as it takes it. One that it does not is left alone, for who knows it. */
const fitted = (visit: Visit, found: Found): Awaitable<Found | undefined> =>
  after(shaped(visit, found.fields), (fields) => {
    if (!isMisfit(fields)) return fields === found.fields ? found : { ...found, fields }
    const { label } = found.stored
    const message = `A session does not fit the schema, and its visitor starts anew: ${fields.why}.`
    visit.house.emit('misfit', { label, message })
    return setAside(visit, found.stored, true)
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
  visit.endedBy = undefined
  visit.barred = undefined
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

/** Two keys open two sessions: somebody planted one of them, and nobody can say which, so the visitor is anonymous. */
const several = async (visit: Visit, keys: readonly string[]): Promise<Visit> => {
  const opening = new Map<string, Found>()
  for (const key of keys) {
    const next = await opened(visit, key)
    if (next !== undefined && !opening.has(next.stored.label)) opening.set(next.stored.label, next)
  }
  const [found, ...others] = opening.values()
  if (others.length === 0) return entered(visit, found)
  visit.house.emit('ambiguous_cookies', { label: (others[0] as Found).stored.label })
  for (const { stored } of opening.values()) setAside(visit, stored, true)
  return blank(visit)
}

const found = (visit: Visit): Awaitable<Visit> => {
  const [key, ...others] = visit.keys
  if (key === undefined) return blank(visit)
  return others.length > 0 ? several(visit, visit.keys) : after(opened(visit, key), (found) => entered(visit, found))
}

/** The request of somebody whose session cannot be read now: it can save nothing. */
const barred = (visit: Visit, fault: unknown): Awaitable<Visit> => {
  const { house } = visit
  if (!(fault instanceof Fault) || fault.status !== 503) throw fault
  visit.barred = { fault, reads: house.lenient, logsIn: false }
  if (!house.lenient) return visit
  house.emit('read_only', { error: fault })
  return blank(visit)
}

/**
 * A visit with the session that one of its keys opens. Where the backend fails, it is barred: it can be asked to end the
 * session all the same, so that a logout clears the browser's cookie whatever the store does.
 */
export const open = (house: House, budget: Budget, brought: Brought): Awaitable<Visit> => {
  const visit = begun(house, budget, brought)
  const failed = (error: unknown) => barred(visit, error)
  try {
    const opening = found(visit)
    return isThenable(opening) ? opening.catch(failed) : opening
  } catch (error) {
    return failed(error)
  }
}

/** Tries again to find the sessions of a request that could not read them, so that they can be ended. @throws Fault */
export const openAgain = async (visit: Visit): Promise<void> => {
  visit.barred = undefined
  await found(visit)
}
