// Reads, counts and ends the sessions of a whole application, batch by batch, for its operator.

import { type OwnedSession, sessionFrom } from './accounts.ts'
import type { KeyedEntry } from './backends/contract.ts'
import type { Deadline } from './backends/deadline.ts'
import { isCopy, isTombstone } from './backends/move-entry.ts'
import { isLabel } from './crypto/keys.ts'
import { type Awaitable, checkOptionNames, KeepsakeError } from './error.ts'
import { parseFields } from './session/changes.ts'
import type { ManagerContext } from './session/context.ts'
import { isAlive } from './session/expiry.ts'
import { decodeMark, decodeMetadata } from './session/metadata.ts'
import type { StoredEntry } from './session/owned.ts'
import { callRead, callWrite, markOf, namesOf, ownerOf, type StoreCaller } from './session/work.ts'

/** One session of an application. `createdAt` is the time of the first change of an anonymous visitor, or of the login. */
export type StoredSession<F extends object> = Omit<OwnedSession<F>, 'authenticatedAt'> & {
  /** The time of the login. Undefined for an anonymous visitor. */
  readonly authenticatedAt: number | undefined
  /** The account of the session, as `login` named it. Undefined for an anonymous visitor. */
  readonly owner: string | undefined
}

/** Some sessions of an application. */
export type SessionPage<F extends object> = {
  /** In no order. A page may be empty although others follow. */
  readonly sessions: readonly StoredSession<F>[]
  /** The labels of entries that this version of keepsake cannot read. `revoke` ends them. */
  readonly unreadable: readonly string[]
  /** Continues the scan after this page, also in another process. Undefined: this was the last page. */
  readonly cursor: string | undefined
}

export type ScanOptions = {
  /** Entries that one call of the backend reads: they are in memory together. From 1 to 10 000, default 500. */
  readonly batch?: number | undefined
  /** The cursor of an earlier page, or of an earlier progress. Default: from the start. */
  readonly cursor?: string | undefined
}

/** The progress of `revokeWhere`. No number ever decreases. */
export type RevokeProgress = {
  /** Sessions that the condition was called for. */
  readonly seen: number
  /** Sessions that ended. */
  readonly ended: number
  /** Entries that this version of keepsake cannot read, so they were left. `scan` returns their labels. */
  readonly unreadable: number
  /** Continues in a later call. Undefined at the end. */
  readonly cursor: string | undefined
}

export type RevokeWhereOptions = ScanOptions & {
  /** Called after each batch. If it returns a promise, the next batch waits for it. If it throws, `revokeWhere` stops with its error. */
  readonly onProgress?: ((progress: RevokeProgress) => Awaitable<void>) | undefined
}

/** Whether a session must end. */
export type RevokeCondition<F extends object> = (session: StoredSession<F>) => Awaitable<boolean>

/** The open manager that an operator works on. */
export type OperatorAccess = {
  readonly opened: () => Promise<ManagerContext>
  /** A job may take hours, so each call of the backend has a deadline of its own. */
  readonly newDeadline: () => Deadline
}

const DEFAULT_BATCH = 500
const MAX_BATCH = 10_000
/** Sessions that are ended at a time, so that visitors' requests come in between. */
const AT_A_TIME = 16
/** How often `revokeWhere` compares versions before it ends a session without a comparison. */
const COMPARISONS = 10

const checkPaging = ({ batch = DEFAULT_BATCH, cursor }: ScanOptions): void => {
  if (!Number.isInteger(batch) || batch < 1 || batch > MAX_BATCH) {
    throw new KeepsakeError('invalid_option', `The option batch must be a whole number from 1 to ${MAX_BATCH}.`)
  }
  if (cursor !== undefined && (typeof cursor !== 'string' || cursor === '')) {
    throw new KeepsakeError(
      'invalid_option',
      'The option cursor must be the cursor of an earlier page or progress. Omit it to begin at the start.',
    )
  }
}

const checkScans = ({ backend }: ManagerContext): void => {
  if (backend.scan !== undefined) return
  throw new KeepsakeError(
    'invalid_option',
    backend.stateless
      ? 'Sessions in cookies are not stored, so the manager cannot count, read or end all of them. Use a backend that stores sessions. To end all sessions in cookies, change the secret.'
      : `The ${backend.name} backend has no scan, so the manager cannot count, read or end all sessions. Use a backend with scan.`,
  )
}

/**
 * Returns whether a label is new. A backend may return an entry twice: Redis does while its table changes its size, and a
 * moving backend if the entry moves. The last 50 000 to 100 000 labels are kept, so memory stays bounded.
 */
const labelFilter = (): ((label: string) => boolean) => {
  let young = new Set<string>()
  let old = new Set<string>()
  return (label) => {
    if (young.has(label) || old.has(label)) return false
    if (young.size >= 50_000) {
      old = young
      young = new Set()
    }
    young.add(label)
    return true
  }
}

/** The label in a storage key. Undefined for a key of another application, and for the end of a session in a cookie. */
const labelIn = ({ storageKey }: ManagerContext, key: string): string | undefined => {
  const prefix = storageKey('')
  const label = key.slice(prefix.length)
  return key.startsWith(prefix) && isLabel(label) ? label : undefined
}

/** The session in an entry. Undefined if the entry has no live session of this application; a label if it is unreadable. */
const readEntry = (
  context: ManagerContext,
  { key: storageKey, ...entry }: KeyedEntry,
): StoredEntry | string | undefined => {
  const label = labelIn(context, storageKey)
  if (label === undefined || isCopy(entry) || isTombstone(entry) || decodeMark(entry.metadata) !== undefined)
    return undefined
  const now = context.now()
  if (now >= entry.expiresAt) return undefined
  const metadata = decodeMetadata(entry.metadata)
  const fields = parseFields(entry.value)
  if (metadata === undefined || fields === undefined || !Number.isFinite(entry.expiresAt)) return label
  return isAlive(context, { entry, metadata }, now) ? { storageKey, label, entry, metadata, fields } : undefined
}

type EntryPage = Pick<SessionPage<object>, 'unreadable' | 'cursor'> & {
  readonly context: ManagerContext
  readonly entries: readonly StoredEntry[]
}

/** Reads all entries of the application. @param changed returns whether the caller has changed something */
async function* entryPages(
  { opened, newDeadline }: OperatorAccess,
  options: ScanOptions,
  changed = () => false,
): AsyncGenerator<EntryPage, void, void> {
  checkPaging(options)
  const { batch = DEFAULT_BATCH } = options
  const context = await opened()
  checkScans(context)
  const isNew = labelFilter()
  let { cursor } = options
  do {
    const start = cursor
    const deadline: Deadline = { ...newDeadline(), changed: changed() }
    const page = await callRead({ context, deadline }, 'scan', (backend) => backend.scan?.(start, batch))
    const found = (page?.entries ?? [])
      .map((entry) => readEntry(context, entry))
      .filter((one) => one !== undefined && isNew(typeof one === 'string' ? one : one.label))
    cursor = page?.cursor
    yield {
      context,
      entries: found.filter((one) => typeof one === 'object'),
      unreadable: found.filter((one) => typeof one === 'string'),
      cursor,
    }
    // Requests run between two pages of a synchronous store.
    await nextTurn()
  } while (cursor !== undefined)
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve))

const storedSession = async <F extends object>(
  context: ManagerContext,
  stored: StoredEntry,
): Promise<StoredSession<F>> => ({
  ...(await sessionFrom<F>(context, stored)),
  owner: ownerOf(context, stored.entry),
  authenticatedAt: stored.entry.owner === undefined ? undefined : stored.metadata.createdAt,
})

/**
 * Reads all live sessions of the application, page by page.
 *
 * @throws KeepsakeError `invalid_option`, `unavailable`: the cursor of the last page is still valid
 */
export async function* scanSessions<F extends object>(
  access: OperatorAccess,
  options: ScanOptions,
): AsyncGenerator<SessionPage<F>, void, void> {
  checkOptionNames(options, ['batch', 'cursor'], 'scan()')
  for await (const { context, entries, unreadable, cursor } of entryPages(access, options)) {
    yield { sessions: await Promise.all(entries.map((one) => storedSession<F>(context, one))), unreadable, cursor }
  }
}

/** The number of live sessions of the application. @throws KeepsakeError `invalid_option`, `unavailable` */
export const countSessions = async (access: OperatorAccess): Promise<number> => {
  let count = 0
  for await (const { entries } of entryPages(access, {})) count += entries.length
  return count
}

/**
 * Ends a session if it fits the condition. If a request changes the session in the meantime, the condition is called again
 * with its new state.
 *
 * @returns whether this call ended it
 */
const endIf = async <F extends object>(
  newCaller: () => StoreCaller,
  context: ManagerContext,
  first: StoredEntry,
  condition: RevokeCondition<F>,
): Promise<boolean> => {
  const { storageKey } = first
  let stored = first
  for (let comparisons = COMPARISONS; ; comparisons--) {
    const fits = await condition(await storedSession<F>(context, stored))
    if (typeof fits !== 'boolean') {
      throw new KeepsakeError(
        'invalid_option',
        `The condition of revokeWhere() returned a value of type ${fits === null ? 'null' : typeof fits}. It must return true or false, so that a misspelt field ends no session.`,
      )
    }
    if (!fits) return false
    const version = comparisons > 0 ? stored.entry.version : undefined
    const mark = markOf(context, 'end')
    if ((await callWrite(newCaller(), 'clear', (backend) => backend.clear(storageKey, version, mark))) !== 'stale') {
      context.emit('revoked', namesOf(context, stored))
      return true
    }
    const entry = await callRead(newCaller(), 'get', (backend) => backend.get(storageKey))
    const latest = entry && readEntry(context, { ...entry, key: storageKey })
    if (typeof latest !== 'object') return false
    stored = latest
  }
}

/**
 * Ends all sessions of the application that fit a condition.
 *
 * @throws KeepsakeError `invalid_option`; `unavailable`: nothing ended; `unknown_outcome`: some sessions that fit may be
 *   left, so call it again; the errors of `condition` and of `onProgress`
 */
export const revokeSessionsWhere = async <F extends object>(
  access: OperatorAccess,
  condition: RevokeCondition<F>,
  options: RevokeWhereOptions,
): Promise<RevokeProgress> => {
  checkOptionNames(options, ['batch', 'cursor', 'onProgress'], 'revokeWhere()')
  const { onProgress } = options
  if (typeof condition !== 'function' || (onProgress !== undefined && typeof onProgress !== 'function')) {
    throw new KeepsakeError(
      'invalid_option',
      'The condition of revokeWhere() and its option onProgress must be functions. To end all sessions: revokeWhere(() => true).',
    )
  }
  let progress: RevokeProgress = { seen: 0, ended: 0, unreadable: 0, cursor: options.cursor }
  let ended = 0
  const hasEnded = () => ended > 0
  for await (const { context, entries, unreadable, cursor } of entryPages(access, options, hasEnded)) {
    const newCaller = () => ({ context, deadline: { ...access.newDeadline(), changed: hasEnded() } })
    for (let at = 0; at < entries.length; at += AT_A_TIME) {
      const group = entries.slice(at, at + AT_A_TIME)
      // Settled, because no session may end after this call has thrown.
      const results = await Promise.allSettled(group.map((one) => endIf(newCaller, context, one, condition)))
      ended += results.filter((result) => result.status === 'fulfilled' && result.value).length
      for (const result of results) if (result.status === 'rejected') throw result.reason
      await nextTurn()
    }
    progress = {
      seen: progress.seen + entries.length,
      ended,
      unreadable: progress.unreadable + unreadable.length,
      cursor,
    }
    await onProgress?.(progress)
  }
  return progress
}
