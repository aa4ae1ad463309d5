// The unit of work of one request: the session as read, the changes so far, and the tasks of the commit.

import type { Backend, Entry, Mark } from '../backends/contract.ts'
import { callBackend, type Deadline } from '../backends/deadline.ts'
import type { StoreOperation } from '../backends/store-calls.ts'
import { labelOf } from '../crypto/keys.ts'
import { type Awaitable, KeepsakeError } from '../error.ts'
import type { CookieSettings } from '../http/cookie-names.ts'
import { isPrefetch } from '../http/prefetch.ts'
import type { RequestHead } from '../http/request-head.ts'
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

/** A session as the backend last returned it. */
export type Snapshot = {
  /** The value of the session cookie. */
  readonly key: string
  readonly storageKey: string
  readonly label: string
  /** As last read: a save replaces `metadata` below, and leaves the entry as it was read. */
  readonly entry: Entry
  readonly metadata: Metadata
  /** When it was read or written, in milliseconds since 1970. */
  readonly at: number
}

/** A session of a key that came with the request, but that the request cannot use. */
type Unusable = Pick<Snapshot, 'storageKey' | 'label'> & {
  /** Undefined if this version cannot read it. */
  readonly entry?: Entry | undefined
  /** Whether the secret of the key was checked: only then the request may end this session. */
  readonly proven: boolean
}

/** Why a request can change nothing. */
type ReadOnly = {
  readonly error: KeepsakeError
  /** Whether the handler can read the session, as that of an anonymous visitor. */
  readonly reads: boolean
  /** Whether the request may log the visitor in, because the session that it came with can be ended. */
  readonly logsIn: boolean
  /** Whether it may end the session. Default true: a logout must clear the browser's cookie although the backend failed. */
  readonly logsOut?: boolean
}

/** The cookies for the response, or why nothing was saved. Times are in milliseconds since 1970. */
export type CommitOutcome = {
  /**
   * Why nothing was saved. `ended`: the session ended in the meantime. `conflict`: the changes do not fit those of another
   * request. `withheld`: the browser did not send its session.
   */
  readonly failure?: 'ended' | 'conflict' | 'withheld' | undefined
  /** The key that the browser keeps from now on, and until when; `until` is undefined if the cookie ends with the browser. */
  readonly session?: { readonly key: string; readonly until: number | undefined } | 'clear'
  /** The new value of the pre-session cookie. */
  readonly preSession?: { readonly token: string; readonly until: number } | 'clear'
}

export type UnitOfWork = {
  readonly context: ManagerContext
  readonly deadline: Deadline
  readonly request: RequestHead
  /** Whether the request may extend its session: false if every caller asked for it with `extend: false`. */
  extend: boolean
  /** The session of the request, as last read. Undefined for a visitor without a session. */
  snapshot: Snapshot | undefined
  /** The entry that a key named and that is not there: the session has ended, perhaps a moment ago. */
  missing: Pick<Snapshot, 'storageKey' | 'label'> | undefined
  /** How that session ended, if it ended a moment ago: the request was in progress with its key. */
  endedBy: EndedBy | undefined
  /** Sessions whose keys came with the request, but which it cannot use. */
  unusable: readonly Unusable[]
  /** The cookie values that have the shape of a key. */
  readonly keys: readonly string[]
  /** Why the browser sent no session cookie, if it may have one. */
  readonly withheld: Withheld | undefined
  /** Whether the request brought a session cookie, valid or not. */
  hadCookie: boolean
  /** The names and attributes of the request's cookies. */
  readonly cookies: CookieSettings
  /** The Cookie header: the pre-session is read from it when it is first needed. */
  readonly cookieHeader: string | null
  /** The pre-session, once it was read or made. */
  preSession: PreSession | undefined
  /** Whether the pre-session cookie still counts, and was not read yet. */
  preSessionUnread: boolean
  /** Whether the response must set the pre-session cookie. */
  preSessionChanged: boolean
  /** The names of the form tokens of this page, if others can plant the visitor's cookies. */
  tokens: readonly string[]
  /** Changes since the request began, or since it invalidated its session. */
  changes: FieldChange[]
  /** The fields as the handler sees them. */
  fields: Fields
  /** The same fields, once the handler changed one. */
  draft: Draft | undefined
  owner: string | undefined
  /** The settings that a login gave its session. */
  loginSettings: LoginSettings | undefined
  rotate: boolean
  /** How the commit replaces or ends the session. `reauthenticate` is a login of the owner that it already has. */
  transition: 'login' | 'reauthenticate' | 'invalidate' | undefined
  /** The key of the session that the request creates, once a caller asked for it. */
  newKey: string | undefined
  /** Flash messages for the next page, and those that this request took, oldest first. */
  flashAdded: readonly Flash[]
  flashTaken: readonly Flash[]
  /** A message creates a session, because the page that takes it can set no cookie. A stateless backend ignores it. */
  storesFlash: boolean
  /** The response contains something of this visitor alone, such as a form token. */
  privateResponse: boolean
  /** Why the request can change nothing: its session could not be read. */
  readOnly: ReadOnly | undefined
  /** The commit has begun: nothing can be changed any more. */
  committed: boolean
  /** The cookies of earlier saves of this request, for its response. */
  saved: CommitOutcome | undefined
  /** Why an earlier save failed: then nothing more is saved. */
  failure: CommitOutcome['failure']
  /** The last call of `save`. */
  saving: Promise<unknown> | undefined
}

/** Browsers prefetch with these methods only. A socket or a job may have no method. */
const mayBePrefetch: readonly unknown[] = ['GET', 'HEAD', undefined]

/** Whether the request may move the expiry and the `lastSeenAt` of its session. Prefetches never do. */
export const extendsSession = ({ extend, request }: UnitOfWork): boolean =>
  extend && !(mayBePrefetch.includes(request.method) && isPrefetch(request))

/** The storage key of a key. For a stateless backend it is the cookie itself, as `name` + `place` + `=value`. */
export const storageKeyOf = ({ context, cookies }: UnitOfWork, key: string): string =>
  context.backend.stateless ? `${cookies.session}${cookies.place}=${key}` : context.storageKey(labelOf(key))

/** The mark that an ended session leaves for requests in progress with its key. */
export const markOf = ({ now, version }: ManagerContext, by: EndedBy): Mark => {
  const until = now() + GRACE
  return { metadata: encodeMark(by, until), expiresAt: until, version: version() }
}

/** The caller of a backend: a request, or a call of the manager, which has a deadline too. */
export type StoreCaller = Pick<UnitOfWork, 'context' | 'deadline'>

export const callRead = <T>(
  { deadline, context: { backend } }: StoreCaller,
  operation: StoreOperation,
  call: (backend: Backend) => Awaitable<T>,
): Awaitable<T> => callBackend(deadline, backend.name, operation, false, () => call(backend))

export const callWrite = <T>(
  { deadline, context: { backend } }: StoreCaller,
  operation: StoreOperation,
  call: (backend: Backend) => Awaitable<T>,
): Awaitable<T> => callBackend(deadline, backend.name, operation, true, () => call(backend))

/**
 * The new cookie value in the answer of a stateless backend to a write; undefined from any other backend.
 *
 * @throws KeepsakeError `invalid_backend` if the contract does not allow the answer
 */
export const heldIn = ({ backend }: ManagerContext, answer: unknown): string | undefined => {
  if (answer === undefined && !backend.stateless) return undefined
  const { held } = (answer ?? {}) as { held?: unknown }
  if (backend.stateless && (typeof held === 'string' || answer === undefined)) return held as string | undefined
  // A longer text may be a key or a sealed session, so it is not printed.
  const printed =
    typeof answer === 'string' && answer.length < 10 ? JSON.stringify(answer) : `a value of type ${typeof answer}`
  throw new KeepsakeError(
    'invalid_backend',
    `The ${backend.name} backend answered a write with ${printed}. ${
      backend.stateless
        ? 'A stateless backend answers { held } with the new value of the cookie.'
        : 'It must answer undefined once it has written.'
    } Check it with backendCases from keepsake/testing.`,
  )
}

/**
 * Waits until the backend guarantees that the last write to this key survives a failover. A backend without
 * `ensureDurable` guarantees it when it answers the write.
 */
export const ensureDurable = ({ context, deadline }: StoreCaller, storageKey: string): Awaitable<void> =>
  context.backend.ensureDurable === undefined
    ? undefined
    : callWrite({ context, deadline }, 'ensureDurable', (backend) => backend.ensureDurable?.(storageKey))

/** The account of an entry, as `login` named it. */
export const ownerOf = ({ ownerNames }: ManagerContext, { owner }: Pick<Entry, 'owner'>): string | undefined =>
  owner && ownerNames.decode(owner)

/** The members of an event that name a session: its label, and its owner if it has one. */
export const namesOf = (
  context: ManagerContext,
  { label, entry }: Pick<Snapshot, 'label'> & { readonly entry?: Pick<Entry, 'owner'> | undefined },
): { readonly label: string; readonly owner?: string } => {
  const owner = entry && ownerOf(context, entry)
  return owner === undefined ? { label } : { label, owner }
}

/** Parses an entry: the metadata and the fields, each undefined if this version cannot read it. */
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

/** Stored fields as the application sees them, through its schema if there is one. */
export const decode = (
  { context: { codec } }: Pick<UnitOfWork, 'context'>,
  fields: Fields,
): Awaitable<Fields | Mismatch> => (codec === undefined ? fields : codec.read(fields))

/** Records a change, and applies it to the fields that the handler sees. @throws as `applyChange` */
export const recordChange = (work: UnitOfWork, change: FieldChange): void => {
  work.draft = applyChange(work.draft ?? draftOf(work.fields), change)
  work.fields = work.draft
  work.changes.push(change)
}

/** Reads the session of the request again, without its schema. Undefined if it ended in the meantime. */
export const reread = async (
  work: UnitOfWork,
  { key, storageKey }: Snapshot,
): Promise<{ snapshot: Snapshot; fields: Fields } | undefined> => {
  const entry = await callRead(work, 'get', (backend) => backend.get(storageKey))
  if (entry === undefined || decodeMark(entry.metadata) !== undefined) return undefined
  const { snapshot, fields } = parseEntry(work, key, storageKey, entry)
  if (snapshot === undefined || fields === undefined) return undefined
  return isAlive(work.context, snapshot, work.context.now()) ? { snapshot, fields } : undefined
}
