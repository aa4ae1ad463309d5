// One visit: what it came with, what it has asked for so far, and the house that it is in.

import type { Backend, Entry, Mark } from '../backends/contract.ts'
import { type Deadline, callBackend } from '../backends/deadline.ts'
import type { Sweeper } from '../backends/sweeper.ts'
import { labelOf, type OwnerNames } from '../crypto/keys.ts'
import type { KeyRing } from '../crypto/seal.ts'
import type { Awaitable, KeepsakeError } from '../error.ts'
import type { Emit } from '../events.ts'
import type { CookieSettings } from '../http/cookie-names.ts'
import type { Withheld } from '../http/withheld.ts'
import { applyChange, type Draft, draftOf, type FieldChange, type Fields, parseFields } from './changes.ts'
import type { Mismatch, FieldCodec } from './codec.ts'
import type { Flash } from './flash-messages.ts'
import { type LoginSettings, type EndedBy, GRACE, type Metadata, decodeMetadata, decodeMark, encodeMark } from './metadata.ts'
import type { PreSession } from './pre-session.ts'

/** What all visits of one `sessions` share. Times are in milliseconds. */
export type ManagerContext = {
  readonly backend: Backend
  /** @internal */
  readonly ring: KeyRing
  /** Keeps what is sealed or signed here from applications under the same secret. */
  readonly namespace: string
  /** Where the session of a label lies. */
  readonly address: (label: string) => string
  readonly owners: OwnerNames
  readonly now: () => number
  readonly lifetime: number
  readonly absolute: number
  /** Whether a session's cookie outlives the window of the browser, unless a login says otherwise. */
  readonly persistent: boolean
  /** Names for the states of entries, of this writer. */
  readonly version: () => string
  /** Bytes that the fields of a session may have as JSON. */
  readonly largest: number
  /** How many sessions an owner may have. */
  readonly mostOwned: number | undefined
  /** How old the time may be at which a session was last seen. */
  readonly seenWithin: number | undefined
  /** Whether a visit whose session cannot be read goes on as a stranger's who can save nothing. */
  readonly lenient: boolean
  /** What the application's fields look like, where it says so. */
  readonly shape: FieldCodec | undefined
  readonly emit: Emit
  /** The last commit under way, by address. */
  readonly turns: Map<string, Promise<unknown>>
  readonly sweeper: Sweeper
  /** Whether old entries are swept now and then, after a birth. */
  readonly tidies: boolean
}

/** A session as the store told of it. */
export type Snapshot = {
  /** What the client holds, and where that leads. */
  readonly key: string
  readonly address: string
  readonly label: string
  /** As last read: a save replaces the head here, and leaves this. */
  readonly entry: Entry
  readonly head: Metadata
  /** When it was told. */
  readonly at: number
}

/** A session that a key opens which came with the request, although this request cannot use it. */
type Unusable = Pick<Snapshot, 'address' | 'label'> & {
  /** Whether the key has its secret: then it may end it. */
  readonly proven: boolean
}

/** Why a request can change nothing. */
type ReadOnly = {
  readonly fault: KeepsakeError
  /** Whether its session can be asked what it holds, as an anonymous visitor's. */
  readonly reads: boolean
  /** Whether the request may log somebody in: the session that it came with can be ended. */
  readonly logsIn: boolean
}

export type UnitOfWork = {
  readonly house: ManagerContext
  readonly budget: Deadline
  /** The session that the visit came with, as last read; undefined for a stranger. */
  stored: Snapshot | undefined
  /** Where a cookie of it led to nothing: a session that has ended, perhaps only a moment ago. */
  vanished: Pick<Snapshot, 'address' | 'label'> | undefined
  /** How that session ended, if it was a moment ago: the request was under way with its key. */
  endedBy: EndedBy | undefined
  /** Sessions of the keys that it came with, which it cannot use. */
  unusable: readonly Unusable[]
  /** The values that could be keys. */
  readonly keys: readonly string[]
  /** Why the browser sent no session cookie, where it may have one. */
  readonly withheld: Withheld | undefined
  /** Whether the request brought a session cookie, good or bad. */
  readonly presented: boolean
  /** What its cookies are called, and what stands behind their values. */
  readonly names: CookieSettings
  /** The Cookie header, for who looks for the pre-session in it. */
  readonly header: string | null
  /** The pre-session, once it was asked for. */
  pre: PreSession | undefined
  /** Whether the cookie that came still counts, and was not looked into yet. */
  preUnread: boolean
  /** Whether the client has to be told of it. */
  preChanged: boolean
  /** The names of the form tokens that the page gets, where others can plant its cookies. */
  tokens: readonly string[]
  /** Changes since the visit began, or since it invalidated its session. */
  changes: FieldChange[]
  /** The fields as the handler sees them. */
  fields: Fields
  /** The same, once they were changed. */
  draft: Draft | undefined
  owner: string | undefined
  /** What a login said of its session alone. */
  chosen: LoginSettings | undefined
  renew: boolean
  /** What becomes of the session that it came with; `same` is a login of the owner that it has. */
  turn: 'login' | 'same' | 'invalidate' | undefined
  /** The key of the session to begin, once somebody wants to know. */
  fresh: string | undefined
  /** Flash messages for the next visit, and those that this one took, oldest first. */
  outbox: readonly Flash[]
  taken: readonly Flash[]
  /** The response has something in it that is this visitor's alone, such as a form's token. */
  confidential: boolean
  /** Why nothing can be changed: its session could not be read. */
  barred: ReadOnly | undefined
  /** Committed: nothing can be changed any more. */
  over: boolean
}

/** What a backend is to be asked with for a key of this visit. */
export const storageKeyOf = ({ house, names }: UnitOfWork, key: string): string =>
  house.backend.stateless ? `${names.session}${names.place}=${key}` : house.address(labelOf(key))

/** Milliseconds that a session lives unused, and at the most: as its login said, else as the manager is set. */
export const idleTimeoutOf = (house: ManagerContext, { lifetime = house.lifetime }: LoginSettings): number => lifetime
export const absoluteEndOf = (house: ManagerContext, { bornAt, absolute = house.absolute }: Metadata): number => bornAt + absolute

export const isAlive = (house: ManagerContext, { entry, head }: Pick<Snapshot, 'entry' | 'head'>, now: number): boolean =>
  now < entry.expiresAt && now < absoluteEndOf(house, head)

/** What an ended session leaves behind for requests that are under way with its key. */
export const markOf = ({ now, version }: ManagerContext, by: EndedBy): Mark => {
  const until = now() + GRACE
  return { head: encodeMark(by, until), expiresAt: until, version: version() }
}

/** Who asks a backend: a visit, or somebody without one who has as much time. */
export type StoreCaller = Pick<UnitOfWork, 'house' | 'budget'>

export const callRead = <T>(visit: StoreCaller, call: (backend: Backend) => Awaitable<T>): Awaitable<T> =>
  callBackend(visit.budget, visit.house.backend.name, false, () => call(visit.house.backend))

export const callWrite = <T>(visit: StoreCaller, call: (backend: Backend) => Awaitable<T>): Awaitable<T> =>
  callBackend(visit.budget, visit.house.backend.name, true, () => call(visit.house.backend))

/** Waits until what a store says of an address can be told to a client: where that is not so at once, the store says. */
export const ensureDurable = ({ house, budget }: StoreCaller, address: string): Awaitable<void> =>
  house.backend.settle === undefined ? undefined : callWrite({ house, budget }, (backend) => backend.settle?.(address))

/** An entry as this version reads it: the head, and the fields, each only if it can be read. */
export const parseEntry = (
  { house }: Pick<UnitOfWork, 'house'>,
  key: string,
  address: string,
  entry: Entry,
): { readonly stored: Snapshot | undefined; readonly fields: Fields | undefined } => {
  const head = decodeMetadata(entry.head)
  if (head === undefined || !Number.isFinite(entry.expiresAt)) return { stored: undefined, fields: undefined }
  const label = entry.label ?? labelOf(key)
  return { stored: { key, address, label, entry, head, at: house.now() }, fields: parseFields(entry.value) }
}

/** Kept fields as the application sees them, where it says how they look. */
export const decode = ({ house: { shape } }: Pick<UnitOfWork, 'house'>, fields: Fields): Awaitable<Fields | Mismatch> =>
  shape === undefined ? fields : shape.read(fields)

/** Notes a change, and makes it in what the handler sees. @throws as `applied` */
export const recordChange = (visit: UnitOfWork, change: FieldChange): void => {
  visit.draft = applyChange(visit.draft ?? draftOf(visit.fields), change)
  visit.fields = visit.draft
  visit.changes.push(change)
}

/** The session that the visit came with, read anew and as it is kept: undefined where it has ended meanwhile. */
export const reread = async (
  visit: UnitOfWork,
  { key, address }: Snapshot,
): Promise<{ stored: Snapshot; fields: Fields } | undefined> => {
  const entry = await callRead(visit, (backend) => backend.get(address))
  if (entry === undefined || decodeMark(entry.head) !== undefined) return undefined
  const found = parseEntry(visit, key, address, entry)
  if (found.stored === undefined || found.fields === undefined) return undefined
  return isAlive(visit.house, found.stored, visit.house.now())
    ? { stored: found.stored, fields: found.fields }
    : undefined
}
