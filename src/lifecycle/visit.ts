// One visit: what it came with, what it has asked for so far, and the house that it is in.

import type { Backend, Entry } from '../backend.ts'
import { type Budget, within } from '../budget.ts'
import { applied, type Draft, draftOf, type FieldChange, type Fields, parsed } from '../changes.ts'
import type { Emit } from '../events.ts'
import type { Flash } from '../flashes.ts'
import { type Head, parseHead } from '../head.ts'
import { labelOf, type Owners } from '../keys.ts'
import type { Awaitable, Fault } from '../outcome.ts'
import type { PreSession } from '../presession.ts'
import type { Ring } from '../seal.ts'
import type { Misfit, Shape } from '../shape.ts'
import type { Sweeper } from '../sweeper.ts'
import type { Names } from '../transport.ts'

/** What all visits of one `sessions` share. Times are in milliseconds. */
export type House = {
  readonly backend: Backend
  readonly ring: Ring
  /** Where the session of a label lies. */
  readonly address: (label: string) => string
  readonly owners: Owners
  readonly now: () => number
  readonly lifetime: number
  readonly absolute: number
  /** Bytes that the fields of a session may have as JSON. */
  readonly largest: number
  /** How many sessions an owner may have. */
  readonly mostOwned: number | undefined
  /** How old the time may be at which a session was last seen. */
  readonly seenWithin: number | undefined
  /** Whether a visit whose session cannot be read goes on as a stranger's who can save nothing. */
  readonly lenient: boolean
  /** What the application's fields look like, where it says so. */
  readonly shape: Shape | undefined
  readonly emit: Emit
  /** The last commit under way, by address. */
  readonly turns: Map<string, Promise<unknown>>
  readonly sweeper: Sweeper
  /** Whether old entries are swept now and then, after a birth. */
  readonly tidies: boolean
}

/** A session as the store told of it. */
export type Stored = {
  /** What the client holds, and where that leads. */
  readonly key: string
  readonly address: string
  readonly label: string
  /** As last read: a save replaces the head here, and leaves this. */
  readonly entry: Entry
  readonly head: Head
  /** When it was told. */
  readonly at: number
}

export type Visit = {
  readonly house: House
  readonly budget: Budget
  /** The session that the visit came with, as last read; undefined for a stranger. */
  stored: Stored | undefined
  /** Where a cookie of it led to nothing: a session that has ended, perhaps only a moment ago. */
  vanished: Pick<Stored, 'address' | 'label'> | undefined
  /** Whether the request brought a session cookie, good or bad. */
  readonly presented: boolean
  /** What its cookies are called, and what stands behind their values. */
  readonly names: Names
  /** The Cookie header, for who looks for the pre-session in it. */
  readonly header: string | null
  /** The pre-session, once it was asked for. */
  pre: PreSession | undefined
  /** Whether the cookie that came still counts, and was not looked into yet. */
  preUnread: boolean
  /** Whether the client has to be told of it. */
  preChanged: boolean
  /** Changes since the visit began, or since it invalidated its session. */
  changes: FieldChange[]
  /** The fields as the handler sees them. */
  fields: Fields
  /** The same, once they were changed. */
  draft: Draft | undefined
  owner: string | undefined
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
  /** Why nothing can be changed: its session could not be read, and it goes on as a stranger's. */
  barred: Fault | undefined
  /** Committed: nothing can be changed any more. */
  over: boolean
}

/** What a backend is to be asked with for a key of this visit. */
export const addressOf = ({ house, names }: Visit, key: string): string =>
  house.backend.stateless ? `${names.session}=${key}` : house.address(labelOf(key))

export const alive = (house: House, { entry, head }: Pick<Stored, 'entry' | 'head'>, now: number): boolean =>
  now < entry.expiresAt && now < head.bornAt + house.absolute

/** Who asks a backend: a visit, or somebody without one who has as much time. */
export type Asker = Pick<Visit, 'house' | 'budget'>

export const reading = <T>(visit: Asker, call: (backend: Backend) => Awaitable<T>): Awaitable<T> =>
  within(visit.budget, visit.house.backend.name, false, () => call(visit.house.backend))

export const changing = <T>(visit: Asker, call: (backend: Backend) => Awaitable<T>): Awaitable<T> =>
  within(visit.budget, visit.house.backend.name, true, () => call(visit.house.backend))

/** Waits until what a store says of an address can be told to a client: where that is not so at once, the store says. */
export const settled = ({ house, budget }: Asker, address: string): Awaitable<void> =>
  house.backend.settle === undefined ? undefined : changing({ house, budget }, (backend) => backend.settle?.(address))

/** An entry with its head and fields read, or undefined, with an event, where that cannot be. */
export const stored = (
  visit: Visit,
  key: string,
  address: string,
  entry: Entry,
): { stored: Stored; fields: Fields } | undefined => {
  const { house } = visit
  const label = entry.label ?? labelOf(key)
  const head = parseHead(entry.head)
  const fields = parsed(entry.value)
  if (head !== undefined && fields !== undefined && Number.isFinite(entry.expiresAt)) {
    return { stored: { key, address, label, entry, head, at: house.now() }, fields }
  }
  house.emit('corrupt', {
    label,
    message: 'An entry cannot be read by this version. It is left alone until it expires.',
  })
  return undefined
}

/** Kept fields as the application sees them, where it says how they look. */
export const shaped = ({ house: { shape } }: Pick<Visit, 'house'>, fields: Fields): Awaitable<Fields | Misfit> =>
  shape === undefined ? fields : shape.read(fields)

/** Notes a change, and makes it in what the handler sees. @throws as `applied` */
export const record = (visit: Visit, change: FieldChange): void => {
  visit.draft = applied(visit.draft ?? draftOf(visit.fields), change)
  visit.fields = visit.draft
  visit.changes.push(change)
}

/** The session that the visit came with, read anew and as it is kept: undefined where it has ended meanwhile. */
export const reread = async (
  visit: Visit,
  { key, address }: Stored,
): Promise<{ stored: Stored; fields: Fields } | undefined> => {
  const entry = await reading(visit, (backend) => backend.get(address))
  const found = entry && stored(visit, key, address, entry)
  return found && alive(visit.house, found.stored, visit.house.now()) ? found : undefined
}

/** Clears an entry that was found expired: of a sealed one nothing is kept. */
export const forget = async (visit: Visit, { address, entry }: Stored): Promise<void> => {
  if (visit.house.backend.stateless) return
  await changing(visit, (backend) => backend.clear(address, entry.version))
}
