// One visit: what it came with, what it has asked for so far, and the house that it is in.

import type { Backend, Entry, Mark } from '../backends/contract.ts'
import { callBackend, type Deadline } from '../backends/deadline.ts'
import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, KeepsakeError } from '../error.ts'
import type { CookieSettings } from '../http/cookie-names.ts'
import type { Withheld } from '../http/withheld.ts'
import { applyChange, type Draft, draftOf, type FieldChange, type Fields, parseFields } from './changes.ts'
import type { Mismatch } from './codec.ts'
import type { ManagerContext } from './context.ts'
import { isAlive } from './expiry.ts'
import type { Flash } from './flash-messages.ts'
import {
  decodeMark,
  decodeMetadata,
  type EndedBy,
  encodeMark,
  GRACE,
  type LoginSettings,
  type Metadata,
} from './metadata.ts'
import type { PreSession } from './pre-session.ts'

/** A session as the store told of it. */
export type Snapshot = {
  /** What the client holds, and where that leads. */
  readonly key: string
  readonly storageKey: string
  readonly label: string
  /** As last read: a save replaces the head here, and leaves this. */
  readonly entry: Entry
  readonly metadata: Metadata
  /** When it was told. */
  readonly at: number
}

/** A session that a key opens which came with the request, although this request cannot use it. */
type Unusable = Pick<Snapshot, 'storageKey' | 'label'> & {
  /** Whether the key has its secret: then it may end it. */
  readonly proven: boolean
}

/** Why a request can change nothing. */
type ReadOnly = {
  readonly error: KeepsakeError
  /** Whether its session can be asked what it holds, as an anonymous visitor's. */
  readonly reads: boolean
  /** Whether the request may log somebody in: the session that it came with can be ended. */
  readonly logsIn: boolean
}

export type UnitOfWork = {
  readonly context: ManagerContext
  readonly deadline: Deadline
  /** The session that the visit came with, as last read; undefined for a stranger. */
  snapshot: Snapshot | undefined
  /** Where a cookie of it led to nothing: a session that has ended, perhaps only a moment ago. */
  missing: Pick<Snapshot, 'storageKey' | 'label'> | undefined
  /** How that session ended, if it was a moment ago: the request was under way with its key. */
  endedBy: EndedBy | undefined
  /** Sessions of the keys that it came with, which it cannot use. */
  unusable: readonly Unusable[]
  /** The values that could be keys. */
  readonly keys: readonly string[]
  /** Why the browser sent no session cookie, where it may have one. */
  readonly withheld: Withheld | undefined
  /** Whether the request brought a session cookie, good or bad. */
  readonly hadCookie: boolean
  /** What its cookies are called, and what stands behind their values. */
  readonly cookies: CookieSettings
  /** The Cookie header, for who looks for the pre-session in it. */
  readonly cookieHeader: string | null
  /** The pre-session, once it was asked for. */
  preSession: PreSession | undefined
  /** Whether the cookie that came still counts, and was not looked into yet. */
  preSessionUnread: boolean
  /** Whether the client has to be told of it. */
  preSessionChanged: boolean
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
  loginSettings: LoginSettings | undefined
  rotate: boolean
  /** What becomes of the session that it came with; `reauthenticate` is a login of the owner that it has. */
  transition: 'login' | 'reauthenticate' | 'invalidate' | undefined
  /** The key of the session to begin, once somebody wants to know. */
  newKey: string | undefined
  /** Flash messages for the next visit, and those that this one took, oldest first. */
  flashAdded: readonly Flash[]
  flashTaken: readonly Flash[]
  /** The response has something in it that is this visitor's alone, such as a form's token. */
  privateResponse: boolean
  /** Why nothing can be changed: its session could not be read. */
  readOnly: ReadOnly | undefined
  /** Committed: nothing can be changed any more. */
  committed: boolean
}

/** What a backend is to be asked with for a key of this visit. */
export const storageKeyOf = ({ context, cookies }: UnitOfWork, key: string): string =>
  context.backend.stateless ? `${cookies.session}${cookies.place}=${key}` : context.storageKey(labelOf(key))

/** What an ended session leaves behind for requests that are under way with its key. */
export const markOf = ({ now, version }: ManagerContext, by: EndedBy): Mark => {
  const until = now() + GRACE
  return { metadata: encodeMark(by, until), expiresAt: until, version: version() }
}

/** Who asks a backend: a visit, or somebody without one who has as much time. */
export type StoreCaller = Pick<UnitOfWork, 'context' | 'deadline'>

export const callRead = <T>(work: StoreCaller, call: (backend: Backend) => Awaitable<T>): Awaitable<T> =>
  callBackend(work.deadline, work.context.backend.name, false, () => call(work.context.backend))

export const callWrite = <T>(work: StoreCaller, call: (backend: Backend) => Awaitable<T>): Awaitable<T> =>
  callBackend(work.deadline, work.context.backend.name, true, () => call(work.context.backend))

/**
 * The new cookie value in the answer of a stateless backend to a write; undefined from any other backend.
 *
 * @throws KeepsakeError `invalid_backend` if the backend answered something that the contract does not allow
 */
export const heldIn = ({ backend }: ManagerContext, answer: unknown): string | undefined => {
  if (answer === undefined && !backend.stateless) return undefined
  const { held } = (answer ?? {}) as { held?: unknown }
  if (backend.stateless && (typeof held === 'string' || answer === undefined)) return held as string | undefined
  // Anything longer may be a key or a sealed session.
  const what =
    typeof answer === 'string' && answer.length < 10 ? JSON.stringify(answer) : `a value of type ${typeof answer}`
  throw new KeepsakeError(
    'invalid_backend',
    `The ${backend.name} backend answered a write with ${what}. ${
      backend.stateless
        ? 'A stateless backend answers { held } with the new value of the cookie.'
        : 'It must answer undefined once it has written.'
    } backendCases of keepsake/testing shows what the contract asks for.`,
  )
}

/** Waits until what a store says of an address can be told to a client: where that is not so at once, the store says. */
export const ensureDurable = ({ context, deadline }: StoreCaller, storageKey: string): Awaitable<void> =>
  context.backend.ensureDurable === undefined
    ? undefined
    : callWrite({ context, deadline }, (backend) => backend.ensureDurable?.(storageKey))

/** An entry as this version reads it: the head, and the fields, each only if it can be read. */
export const parseEntry = (
  { context }: Pick<UnitOfWork, 'context'>,
  key: string,
  storageKey: string,
  entry: Entry,
): { readonly snapshot: Snapshot | undefined; readonly fields: Fields | undefined } => {
  const metadata = decodeMetadata(entry.metadata)
  if (metadata === undefined || !Number.isFinite(entry.expiresAt)) return { snapshot: undefined, fields: undefined }
  const label = entry.label ?? labelOf(key)
  return { snapshot: { key, storageKey, label, entry, metadata, at: context.now() }, fields: parseFields(entry.value) }
}

/** Kept fields as the application sees them, where it says how they look. */
export const decode = (
  { context: { codec } }: Pick<UnitOfWork, 'context'>,
  fields: Fields,
): Awaitable<Fields | Mismatch> => (codec === undefined ? fields : codec.read(fields))

/** Notes a change, and makes it in what the handler sees. @throws as `applied` */
export const recordChange = (work: UnitOfWork, change: FieldChange): void => {
  work.draft = applyChange(work.draft ?? draftOf(work.fields), change)
  work.fields = work.draft
  work.changes.push(change)
}

/** The session that the visit came with, read anew and as it is kept: undefined where it has ended meanwhile. */
export const reread = async (
  work: UnitOfWork,
  { key, storageKey }: Snapshot,
): Promise<{ snapshot: Snapshot; fields: Fields } | undefined> => {
  const entry = await callRead(work, (backend) => backend.get(storageKey))
  if (entry === undefined || decodeMark(entry.metadata) !== undefined) return undefined
  const found = parseEntry(work, key, storageKey, entry)
  if (found.snapshot === undefined || found.fields === undefined) return undefined
  return isAlive(work.context, found.snapshot, work.context.now())
    ? { snapshot: found.snapshot, fields: found.fields }
    : undefined
}
