// From the keys that a request brought to the session that one of them opens.

import type { Entry } from '../backends/contract.ts'
import type { Deadline } from '../backends/deadline.ts'
import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, chain, isThenable, KeepsakeError } from '../error.ts'
import type { CookieSettings } from '../http/cookie-names.ts'
import type { Withheld } from '../http/withheld.ts'
import type { Fields } from './changes.ts'
import { isMismatch } from './codec.ts'
import type { ManagerContext } from './context.ts'
import { isAlive } from './expiry.ts'
import { decodeMark, EXPIRED_KEPT, type KeyStatus, keyStatus } from './metadata.ts'
import { CLOCK_SKEW } from './pre-session.ts'
import { callRead, callWrite, decode, parseEntry, type Snapshot, storageKeyOf, type UnitOfWork } from './work.ts'

const NO_FIELDS: Fields = Object.freeze({})

/** What a request brought, as its Cookie header has it. */
export type CookieInput = {
  readonly keys: readonly string[]
  readonly cookies: CookieSettings
  readonly cookieHeader: string | null
  readonly withheld?: Withheld | undefined
}

const newWork = (
  context: ManagerContext,
  deadline: Deadline,
  { keys, cookies, cookieHeader: header, withheld }: CookieInput,
): UnitOfWork => ({
  context,
  deadline,
  snapshot: undefined,
  missing: undefined,
  endedBy: undefined,
  unusable: [],
  keys,
  withheld,
  hadCookie: keys.length > 0,
  cookies,
  cookieHeader: header,
  preSession: undefined,
  preSessionUnread: header !== null,
  preSessionChanged: false,
  tokens: [],
  changes: [],
  fields: NO_FIELDS,
  draft: undefined,
  owner: undefined,
  loginSettings: undefined,
  rotate: false,
  transition: undefined,
  newKey: undefined,
  flashAdded: [],
  flashTaken: [],
  privateResponse: false,
  readOnly: undefined,
  committed: false,
})

type Loaded = { readonly snapshot: Snapshot; readonly fields: Fields }

/** How a key stands to what it led to: a sealed one that opened is right. */
const keyStatusOf = ({ context }: UnitOfWork, { metadata, key }: Snapshot, now: number): KeyStatus =>
  context.backend.stateless ? 'current' : keyStatus(metadata, key, now)

/** Notes a session that the request cannot use, but that it may be asked to end. */
const setAside = (
  work: UnitOfWork,
  { storageKey, label }: Pick<Snapshot, 'storageKey' | 'label'>,
  proven: boolean,
): undefined => {
  work.unusable = [...work.unusable, { storageKey, label, proven }]
}

/** The key of a session that is not there: it ended a moment ago, or earlier, or nobody ever gave it out. */
const reportMissing = (work: UnitOfWork, key: string, storageKey: string, entry: Entry | undefined): undefined => {
  const { context } = work
  const label = entry?.label ?? labelOf(key)
  const mark = entry && decodeMark(entry.metadata)
  work.missing = { storageKey, label }
  if (mark !== undefined && context.now() < mark.until) {
    work.endedBy ??= mark.by
    context.emit('ended_key', { label })
  } else context.emit('unknown_key', context.backend.stateless ? {} : { label })
}

const UNREADABLE = 'An entry cannot be read by this version. It is left alone until it expires.'
const FUTURE =
  'A session was created more than a minute from now. Set the clocks of the machines. Until then the session can be ended here, and not used.'

/** Whether an entry is the session of its key, and alive. Whatever is not is an event. */
const checkEntry = (
  work: UnitOfWork,
  key: string,
  storageKey: string,
  entry: Entry | undefined,
): Awaitable<Loaded | undefined> => {
  const { context } = work
  if (entry === undefined || decodeMark(entry.metadata) !== undefined)
    return reportMissing(work, key, storageKey, entry)
  const { snapshot: there, fields } = parseEntry(work, key, storageKey, entry)
  if (there === undefined) {
    const label = entry.label ?? labelOf(key)
    context.emit('corrupt_entry', { label, message: UNREADABLE })
    // What was sealed by us proves itself.
    return setAside(work, { storageKey, label }, context.backend.stateless === true)
  }
  const { label, at, metadata } = there
  const stands = keyStatusOf(work, there, at)
  if (stands === 'wrong') {
    context.emit('wrong_secret', { label })
    return undefined
  }
  if (stands === 'retired') context.emit('retired_key', { label })
  else if (fields === undefined) context.emit('corrupt_entry', { label, message: UNREADABLE })
  else if (metadata.createdAt > at + CLOCK_SKEW) {
    context.emit('clock_skew', { label, message: FUTURE })
    work.readOnly = { error: new KeepsakeError('unavailable', FUTURE), reads: true, logsIn: true }
  } else if (isAlive(context, there, at)) return decodeFields(work, { snapshot: there, fields })
  else {
    context.emit('expired', { label })
    if (!isAlive(context, there, at - EXPIRED_KEPT)) return removeExpired(work, there)
    // What has expired lately is left alone: this clock may be wrong, and then the session is alive at other machines.
  }
  return setAside(work, there, true)
}

/** Clears an entry that expired long ago. Where that fails, the sweep has it. */
const removeExpired = (work: UnitOfWork, { storageKey, label, entry }: Snapshot): Awaitable<undefined> => {
  if (work.context.backend.stateless) return undefined
  const failed = (error: unknown) => work.context.emit('store_error', { label, error }) as undefined
  try {
    const cleared = callWrite(work, (backend) => backend.clear(storageKey, entry.version))
    return isThenable(cleared) ? cleared.then(() => undefined, failed) : undefined
  } catch (error) {
    return failed(error)
  }
}

/** A session that the application's schema takes, as it takes it. One that it does not is left alone, for who knows it. */
const decodeFields = (work: UnitOfWork, found: Loaded): Awaitable<Loaded | undefined> =>
  chain(decode(work, found.fields), (fields) => {
    if (!isMismatch(fields)) return fields === found.fields ? found : { ...found, fields }
    const { label } = found.snapshot
    const message = `A session does not fit the schema, and its visitor starts anew: ${fields.why}.`
    work.context.emit('schema_mismatch', { label, message })
    return setAside(work, found.snapshot, true)
  })

/** What one key opens. */
const openKey = (work: UnitOfWork, key: string): Awaitable<Loaded | undefined> => {
  const storageKey = storageKeyOf(work, key)
  return chain(
    callRead(work, (backend) => backend.get(storageKey)),
    (entry) => checkEntry(work, key, storageKey, entry),
  )
}

const adoptSnapshot = (work: UnitOfWork, found: Loaded | undefined): Awaitable<UnitOfWork> => {
  if (found === undefined) return asAnonymous(work)
  work.snapshot = found.snapshot
  work.fields = found.fields
  work.endedBy = undefined
  work.readOnly = undefined
  const { owner } = found.snapshot.entry
  work.owner = owner && work.context.ownerNames.decode(owner)
  return work
}

/** A stranger's visit: what the schema makes of nothing is what he has. */
const asAnonymous = (work: UnitOfWork): Awaitable<UnitOfWork> => {
  if (work.context.codec === undefined) return work
  return chain(decode(work, NO_FIELDS), (fields) => {
    if (!isMismatch(fields)) work.fields = fields
    return work
  })
}

/** Two keys open two sessions: somebody planted one of them, and nobody can say which, so the visitor is anonymous. */
const openSeveral = async (work: UnitOfWork, keys: readonly string[]): Promise<UnitOfWork> => {
  const opening = new Map<string, Loaded>()
  for (const key of keys) {
    const next = await openKey(work, key)
    if (next !== undefined && !opening.has(next.snapshot.label)) opening.set(next.snapshot.label, next)
  }
  const [found, ...others] = opening.values()
  if (others.length === 0) return adoptSnapshot(work, found)
  work.context.emit('ambiguous_cookies', { label: (others[0] as Loaded).snapshot.label })
  for (const { snapshot } of opening.values()) setAside(work, snapshot, true)
  return asAnonymous(work)
}

const openKeys = (work: UnitOfWork): Awaitable<UnitOfWork> => {
  const [key, ...others] = work.keys
  if (key === undefined) return asAnonymous(work)
  return others.length > 0
    ? openSeveral(work, work.keys)
    : chain(openKey(work, key), (found) => adoptSnapshot(work, found))
}

/** The request of somebody whose session cannot be read now: it can save nothing. */
const asReadOnly = (work: UnitOfWork, error: unknown): Awaitable<UnitOfWork> => {
  const { context } = work
  if (!(error instanceof KeepsakeError) || error.status !== 503) throw error
  work.readOnly = { error, reads: context.anonymousOnError, logsIn: false }
  if (!context.anonymousOnError) return work
  context.emit('read_only', { error })
  return asAnonymous(work)
}

/**
 * A visit with the session that one of its keys opens. Where the backend fails, it is barred: it can be asked to end the
 * session all the same, so that a logout clears the browser's cookie whatever the store does.
 */
export const open = (context: ManagerContext, deadline: Deadline, brought: CookieInput): Awaitable<UnitOfWork> => {
  const work = newWork(context, deadline, brought)
  const failed = (error: unknown) => asReadOnly(work, error)
  try {
    const opening = openKeys(work)
    return isThenable(opening) ? opening.catch(failed) : opening
  } catch (error) {
    return failed(error)
  }
}

/** Tries again to find the sessions of a request that could not read them, so that they can be ended. @throws KeepsakeError */
export const openAgain = async (work: UnitOfWork): Promise<void> => {
  work.readOnly = undefined
  await openKeys(work)
}
