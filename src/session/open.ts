// Opening a session: from the keys in a request's cookies to the one session that a key opens.

import type { Entry } from '../backends/contract.ts'
import type { Deadline } from '../backends/deadline.ts'
import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, chain, isThenable, KeepsakeError } from '../error.ts'
import type { CookieSettings } from '../http/cookie-names.ts'
import type { RequestHead } from '../http/request-head.ts'
import type { Withheld } from '../http/withheld.ts'
import type { Fields } from './changes.ts'
import { isMismatch } from './codec.ts'
import type { ManagerContext } from './context.ts'
import { isAlive } from './expiry.ts'
import { decodeMark, EXPIRED_KEPT, type KeyStatus, keyStatus } from './metadata.ts'
import { CLOCK_SKEW } from './pre-session.ts'
import {
  callRead,
  callWrite,
  decode,
  namesOf,
  ownerOf,
  parseEntry,
  type Snapshot,
  storageKeyOf,
  type UnitOfWork,
} from './work.ts'

const NO_FIELDS: Fields = Object.freeze({})

/** A request and its cookies. */
export type CookieInput = {
  readonly request: RequestHead
  /** The values of the session cookie that have the shape of a key. */
  readonly keys: readonly string[]
  readonly cookies: CookieSettings
  readonly cookieHeader: string | null
  readonly withheld?: Withheld | undefined
}

const newWork = (
  context: ManagerContext,
  deadline: Deadline,
  { request, keys, cookies, cookieHeader, withheld }: CookieInput,
): UnitOfWork => ({
  context,
  deadline,
  request,
  extend: true,
  snapshot: undefined,
  missing: undefined,
  endedBy: undefined,
  unusable: [],
  keys,
  withheld,
  hadCookie: keys.length > 0,
  cookies,
  cookieHeader,
  preSession: undefined,
  preSessionUnread: cookieHeader !== null,
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
  storesFlash: false,
  privateResponse: false,
  readOnly: undefined,
  committed: false,
  saved: undefined,
  failure: undefined,
  saving: undefined,
})

type LoadedSession = { readonly snapshot: Snapshot; readonly fields: Fields }

/** The status of the key that led to a session. A stateless backend has checked the key when it unsealed the cookie. */
const keyStatusOf = ({ context }: UnitOfWork, { metadata, key }: Snapshot, now: number): KeyStatus =>
  context.backend.stateless ? 'current' : keyStatus(metadata, key, now)

/** Records a session that the request cannot use, but may end. */
const setAside = (
  work: UnitOfWork,
  { storageKey, label, entry }: Omit<UnitOfWork['unusable'][number], 'proven'>,
  proven: boolean,
): undefined => {
  work.unusable = [...work.unusable, { storageKey, label, entry, proven }]
}

/** Reports a key without a session: the session ended a moment ago or earlier, or keepsake never made the key. */
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

const UNREADABLE =
  'This version of keepsake cannot read the entry of a session, so the request was anonymous. The entry stays until it expires.'
const FUTURE =
  'A session was created more than a minute in the future, so it cannot be used until then. Synchronize the clocks of your machines. The visitor can still log out.'

/** Checks that an entry is the session of its key, and that it is alive. Any other outcome emits an event. */
const checkEntry = (
  work: UnitOfWork,
  key: string,
  storageKey: string,
  entry: Entry | undefined,
): Awaitable<LoadedSession | undefined> => {
  const { context } = work
  if (entry === undefined || decodeMark(entry.metadata) !== undefined)
    return reportMissing(work, key, storageKey, entry)
  const { snapshot, fields } = parseEntry(work, key, storageKey, entry)
  if (snapshot === undefined) {
    const label = entry.label ?? labelOf(key)
    context.emit('corrupt_entry', { label, message: UNREADABLE })
    // A stateless backend returns only entries that it unsealed, so the key is proven.
    return setAside(work, { storageKey, label }, context.backend.stateless === true)
  }
  const { label, at, metadata } = snapshot
  const status = keyStatusOf(work, snapshot, at)
  if (status === 'wrong') {
    context.emit('wrong_secret', { label })
    return undefined
  }
  if (status === 'retired') context.emit('retired_key', { label })
  else if (fields === undefined) context.emit('corrupt_entry', { label, message: UNREADABLE })
  else if (metadata.createdAt > at + CLOCK_SKEW) {
    context.emit('clock_skew', { label, message: FUTURE })
    work.readOnly = { error: new KeepsakeError('unavailable', FUTURE), reads: true, logsIn: true }
  } else if (isAlive(context, snapshot, at)) return decodeFields(work, { snapshot, fields })
  else {
    context.emit('expired', namesOf(context, snapshot))
    if (!isAlive(context, snapshot, at - EXPIRED_KEPT)) return removeExpired(work, snapshot)
    // An entry that expired lately stays: if the clock of this machine is wrong, the session is alive at other machines.
  }
  return setAside(work, snapshot, true)
}

/** Removes an entry that expired long ago. If that fails, the next sweep removes it. */
const removeExpired = (work: UnitOfWork, snapshot: Snapshot): Awaitable<undefined> => {
  const { context } = work
  const { storageKey, label, entry } = snapshot
  if (context.backend.stateless) return undefined
  const onError = (error: unknown) => context.emit('store_error', { label, error }) as undefined
  // As a sweep reports it, because no sweep finds this entry any more.
  const report = (cleared: undefined | 'stale') => {
    if (cleared === undefined && entry.owner !== undefined) context.emit('timed_out', namesOf(context, snapshot))
    return undefined
  }
  try {
    const cleared = callWrite(work, 'clear', (backend) => backend.clear(storageKey, entry.version))
    return isThenable(cleared) ? cleared.then(report, onError) : report(cleared)
  } catch (error) {
    return onError(error)
  }
}

/** Reads a session through the schema. A session that does not fit stays, because another deployment may know its schema. */
const decodeFields = (work: UnitOfWork, loaded: LoadedSession): Awaitable<LoadedSession | undefined> =>
  chain(decode(work, loaded.fields), (fields) => {
    if (!isMismatch(fields)) return fields === loaded.fields ? loaded : { ...loaded, fields }
    const { label } = loaded.snapshot
    const message = `A session does not fit the schema, so its visitor is anonymous: ${fields.why}.`
    work.context.emit('schema_mismatch', { label, message })
    return setAside(work, loaded.snapshot, true)
  })

/** The session that one key opens. */
const openKey = (work: UnitOfWork, key: string): Awaitable<LoadedSession | undefined> => {
  const storageKey = storageKeyOf(work, key)
  return chain(
    callRead(work, 'get', (backend) => backend.get(storageKey)),
    (entry) => checkEntry(work, key, storageKey, entry),
  )
}

const adoptSnapshot = (work: UnitOfWork, loaded: LoadedSession | undefined): Awaitable<UnitOfWork> => {
  if (loaded === undefined) return asAnonymous(work)
  work.snapshot = loaded.snapshot
  work.fields = loaded.fields
  work.endedBy = undefined
  work.readOnly = undefined
  work.owner = ownerOf(work.context, loaded.snapshot.entry)
  return work
}

/** An anonymous visitor's request: its fields are the defaults of the schema. */
const asAnonymous = (work: UnitOfWork): Awaitable<UnitOfWork> => {
  if (work.context.codec === undefined) return work
  return chain(decode(work, NO_FIELDS), (fields) => {
    if (!isMismatch(fields)) work.fields = fields
    return work
  })
}

/**
 * Opens the session of several keys. If they open two sessions, somebody planted one of the cookies, and keepsake cannot
 * know which, so the visitor is anonymous.
 */
const openSeveral = async (work: UnitOfWork, keys: readonly string[]): Promise<UnitOfWork> => {
  const byLabel = new Map<string, LoadedSession>()
  for (const key of keys) {
    const loaded = await openKey(work, key)
    if (loaded !== undefined && !byLabel.has(loaded.snapshot.label)) byLabel.set(loaded.snapshot.label, loaded)
  }
  const [first, second] = byLabel.values()
  if (second === undefined) return adoptSnapshot(work, first)
  work.context.emit('ambiguous_cookies', { label: second.snapshot.label })
  for (const { snapshot } of byLabel.values()) setAside(work, snapshot, true)
  return asAnonymous(work)
}

const openKeys = (work: UnitOfWork): Awaitable<UnitOfWork> => {
  const [key, ...others] = work.keys
  if (key === undefined) return asAnonymous(work)
  return others.length > 0
    ? openSeveral(work, work.keys)
    : chain(openKey(work, key), (loaded) => adoptSnapshot(work, loaded))
}

/** A request whose session cannot be read now: it can save nothing. @throws the error, if it is not one of the backend */
const asReadOnly = (work: UnitOfWork, error: unknown): Awaitable<UnitOfWork> => {
  const { context } = work
  if (!(error instanceof KeepsakeError) || error.status !== 503) throw error
  work.readOnly = { error, reads: context.anonymousOnError, logsIn: false }
  if (!context.anonymousOnError) return work
  context.emit('read_only', { error })
  return asAnonymous(work)
}

/**
 * Begins the work of a request, with the session that one of its keys opens. If the backend fails, the work is read-only.
 * The handler can still end the session, so that a logout clears the browser's cookie although the backend failed.
 */
export const open = (context: ManagerContext, deadline: Deadline, input: CookieInput): Awaitable<UnitOfWork> => {
  const work = newWork(context, deadline, input)
  const onError = (error: unknown) => asReadOnly(work, error)
  try {
    const opened = openKeys(work)
    return isThenable(opened) ? opened.catch(onError) : opened
  } catch (error) {
    return onError(error)
  }
}

/** Reads the sessions of a read-only request again, so that they can be ended. @throws KeepsakeError `unavailable` */
export const openAgain = async (work: UnitOfWork): Promise<void> => {
  work.readOnly = undefined
  await openKeys(work)
}
