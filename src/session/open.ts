// From the keys that a request brought to the session that one of them opens.

import type { Entry } from '../backends/contract.ts'
import type { Deadline } from '../backends/deadline.ts'
import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, chain, KeepsakeError, isThenable } from '../error.ts'
import type { CookieSettings } from '../http/cookie-names.ts'
import type { Withheld } from '../http/withheld.ts'
import type { Fields } from './changes.ts'
import { isMismatch } from './codec.ts'
import { EXPIRED_KEPT, decodeMark, type KeyStatus, keyStatus } from './metadata.ts'
import { CLOCK_SKEW } from './pre-session.ts'
import { storageKeyOf, isAlive, callWrite, type ManagerContext, callRead, type Snapshot, decode, parseEntry, type UnitOfWork } from './work.ts'

const NO_FIELDS: Fields = Object.freeze({})

/** What a request brought, as its Cookie header has it. */
export type CookieInput = {
  readonly keys: readonly string[]
  readonly names: CookieSettings
  readonly header: string | null
  readonly withheld?: Withheld | undefined
}

const newWork = (house: ManagerContext, budget: Deadline, { keys, names, header, withheld }: CookieInput): UnitOfWork => ({
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
  fields: NO_FIELDS,
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

type Loaded = { readonly stored: Snapshot; readonly fields: Fields }

/** How a key stands to what it led to: a sealed one that opened is right. */
const keyStatusOf = ({ house }: UnitOfWork, { head, key }: Snapshot, now: number): KeyStatus =>
  house.backend.stateless ? 'current' : keyStatus(head, key, now)

/** Notes a session that the request cannot use, but that it may be asked to end. */
const setAside = (visit: UnitOfWork, { address, label }: Pick<Snapshot, 'address' | 'label'>, proven: boolean): undefined => {
  visit.unusable = [...visit.unusable, { address, label, proven }]
}

/** The key of a session that is not there: it ended a moment ago, or earlier, or nobody ever gave it out. */
const reportMissing = (visit: UnitOfWork, key: string, address: string, entry: Entry | undefined): undefined => {
  const { house } = visit
  const label = entry?.label ?? labelOf(key)
  const mark = entry && decodeMark(entry.head)
  visit.vanished = { address, label }
  if (mark !== undefined && house.now() < mark.until) {
    visit.endedBy ??= mark.by
    house.emit('ended_key', { label })
  } else house.emit('unknown_key', house.backend.stateless ? {} : { label })
}

const UNREADABLE = 'An entry cannot be read by this version. It is left alone until it expires.'
const FUTURE =
  'A session was created more than a minute from now. Set the clocks of the machines. Until then the session can be ended here, and not used.'

/** Whether an entry is the session of its key, and alive. Whatever is not is an event. */
const checkEntry = (visit: UnitOfWork, key: string, address: string, entry: Entry | undefined): Awaitable<Loaded | undefined> => {
  const { house } = visit
  if (entry === undefined || decodeMark(entry.head) !== undefined) return reportMissing(visit, key, address, entry)
  const { stored: there, fields } = parseEntry(visit, key, address, entry)
  if (there === undefined) {
    const label = entry.label ?? labelOf(key)
    house.emit('corrupt', { label, message: UNREADABLE })
    // What was sealed by us proves itself.
    return setAside(visit, { address, label }, house.backend.stateless === true)
  }
  const { label, at, head } = there
  const stands = keyStatusOf(visit, there, at)
  if (stands === 'wrong') {
    house.emit('wrong_secret', { label })
    return undefined
  }
  if (stands === 'retired') house.emit('retired_key', { label })
  else if (fields === undefined) house.emit('corrupt', { label, message: UNREADABLE })
  else if (head.bornAt > at + CLOCK_SKEW) {
    house.emit('clock_skew', { label, message: FUTURE })
    visit.barred = { fault: new KeepsakeError('unavailable', FUTURE), reads: true, logsIn: true }
  } else if (isAlive(house, there, at)) return decodeFields(visit, { stored: there, fields })
  else {
    house.emit('expired', { label })
    if (!isAlive(house, there, at - EXPIRED_KEPT)) return removeExpired(visit, there)
    // What has expired lately is left alone: this clock may be wrong, and then the session is alive at other machines.
  }
  return setAside(visit, there, true)
}

/** Clears an entry that expired long ago. Where that fails, the sweep has it. */
const removeExpired = (visit: UnitOfWork, { address, label, entry }: Snapshot): Awaitable<undefined> => {
  if (visit.house.backend.stateless) return undefined
  const failed = (error: unknown) => visit.house.emit('store_error', { label, error }) as undefined
  try {
    const cleared = callWrite(visit, (backend) => backend.clear(address, entry.version))
    return isThenable(cleared) ? cleared.then(() => undefined, failed) : undefined
  } catch (error) {
    return failed(error)
  }
}

/** A session that the application's schema takes, as it takes it. One that it does not is left alone, for who knows it. */
const decodeFields = (visit: UnitOfWork, found: Loaded): Awaitable<Loaded | undefined> =>
  chain(decode(visit, found.fields), (fields) => {
    if (!isMismatch(fields)) return fields === found.fields ? found : { ...found, fields }
    const { label } = found.stored
    const message = `A session does not fit the schema, and its visitor starts anew: ${fields.why}.`
    visit.house.emit('misfit', { label, message })
    return setAside(visit, found.stored, true)
  })

/** What one key opens. */
const openKey = (visit: UnitOfWork, key: string): Awaitable<Loaded | undefined> => {
  const address = storageKeyOf(visit, key)
  return chain(
    callRead(visit, (backend) => backend.get(address)),
    (entry) => checkEntry(visit, key, address, entry),
  )
}

const adoptSnapshot = (visit: UnitOfWork, found: Loaded | undefined): Awaitable<UnitOfWork> => {
  if (found === undefined) return asAnonymous(visit)
  visit.stored = found.stored
  visit.fields = found.fields
  visit.endedBy = undefined
  visit.barred = undefined
  const { owner } = found.stored.entry
  visit.owner = owner && visit.house.owners.name(owner)
  return visit
}

/** A stranger's visit: what the schema makes of nothing is what he has. */
const asAnonymous = (visit: UnitOfWork): Awaitable<UnitOfWork> => {
  if (visit.house.shape === undefined) return visit
  return chain(decode(visit, NO_FIELDS), (fields) => {
    if (!isMismatch(fields)) visit.fields = fields
    return visit
  })
}

/** Two keys open two sessions: somebody planted one of them, and nobody can say which, so the visitor is anonymous. */
const openSeveral = async (visit: UnitOfWork, keys: readonly string[]): Promise<UnitOfWork> => {
  const opening = new Map<string, Loaded>()
  for (const key of keys) {
    const next = await openKey(visit, key)
    if (next !== undefined && !opening.has(next.stored.label)) opening.set(next.stored.label, next)
  }
  const [found, ...others] = opening.values()
  if (others.length === 0) return adoptSnapshot(visit, found)
  visit.house.emit('ambiguous_cookies', { label: (others[0] as Loaded).stored.label })
  for (const { stored } of opening.values()) setAside(visit, stored, true)
  return asAnonymous(visit)
}

const openKeys = (visit: UnitOfWork): Awaitable<UnitOfWork> => {
  const [key, ...others] = visit.keys
  if (key === undefined) return asAnonymous(visit)
  return others.length > 0 ? openSeveral(visit, visit.keys) : chain(openKey(visit, key), (found) => adoptSnapshot(visit, found))
}

/** The request of somebody whose session cannot be read now: it can save nothing. */
const asReadOnly = (visit: UnitOfWork, fault: unknown): Awaitable<UnitOfWork> => {
  const { house } = visit
  if (!(fault instanceof KeepsakeError) || fault.status !== 503) throw fault
  visit.barred = { fault, reads: house.lenient, logsIn: false }
  if (!house.lenient) return visit
  house.emit('read_only', { error: fault })
  return asAnonymous(visit)
}

/**
 * A visit with the session that one of its keys opens. Where the backend fails, it is barred: it can be asked to end the
 * session all the same, so that a logout clears the browser's cookie whatever the store does.
 */
export const open = (house: ManagerContext, budget: Deadline, brought: CookieInput): Awaitable<UnitOfWork> => {
  const visit = newWork(house, budget, brought)
  const failed = (error: unknown) => asReadOnly(visit, error)
  try {
    const opening = openKeys(visit)
    return isThenable(opening) ? opening.catch(failed) : opening
  } catch (error) {
    return failed(error)
  }
}

/** Tries again to find the sessions of a request that could not read them, so that they can be ended. @throws Fault */
export const openAgain = async (visit: UnitOfWork): Promise<void> => {
  visit.barred = undefined
  await openKeys(visit)
}
