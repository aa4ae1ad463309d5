// The sessions of one owner: those that are alive, the newest first.

import type { Entry } from '../backends/contract.ts'
import { type Awaitable, chain } from '../error.ts'
import { type Fields, parseFields } from './changes.ts'
import type { ManagerContext } from './context.ts'
import { absoluteEndOf, idleTimeoutOf, isAlive } from './expiry.ts'
import { decodeMetadata, type Metadata } from './metadata.ts'
import { callRead, type StoreCaller } from './work.ts'

/** A live session as a backend returned it, and its label. */
export type StoredEntry = {
  readonly storageKey: string
  readonly label: string
  readonly entry: Entry
  readonly metadata: Metadata
  readonly fields: Fields
}

/**
 * When a session was last seen, in milliseconds since 1970: its last save, or the last extension of its expiry if that is
 * later. An expiry at the absolute timeout does not show when it was extended.
 */
export const lastSeenAt = (context: ManagerContext, entry: Entry, metadata: Metadata): number => {
  const { createdAt, lastSeenAt = createdAt } = metadata
  const extendedAt =
    entry.expiresAt < absoluteEndOf(context, metadata) ? entry.expiresAt - idleTimeoutOf(context, metadata) : 0
  return Math.max(createdAt, lastSeenAt, extendedAt)
}

/**
 * When the owner of a session logged in last, in milliseconds since 1970. Each login creates a session, also a login of the
 * same owner, and nothing else creates one with an owner: so it is the time of the creation.
 */
export const authenticatedAt = ({
  entry,
  metadata,
}: {
  readonly entry: Pick<Entry, 'owner'>
  readonly metadata: Metadata
}): number | undefined => (entry.owner ? metadata.createdAt : undefined)

/** Sessions of the same millisecond are sorted by storage key, so that every process sorts them alike. */
const newestFirst = (a: StoredEntry, b: StoredEntry): number =>
  b.metadata.createdAt - a.metadata.createdAt || (a.storageKey < b.storageKey ? -1 : 1)

/**
 * The sessions of an owner that are alive and that this version can read, the newest first.
 *
 * @param owner the owner as entries name it: with the prefix of the namespace
 * @throws KeepsakeError `unavailable`
 */
export const sessionsOfOwner = (caller: StoreCaller, owner: string): Awaitable<readonly StoredEntry[]> => {
  const { context } = caller
  return chain(
    callRead(caller, 'byOwner.list', ({ byOwner }) => byOwner?.list(owner) ?? []),
    (entries) => {
      const now = context.now()
      const alive = entries.flatMap(({ key: storageKey, ...entry }): StoredEntry[] => {
        const metadata = decodeMetadata(entry.metadata)
        const fields = parseFields(entry.value)
        if (metadata?.label === undefined || fields === undefined || !isAlive(context, { entry, metadata }, now))
          return []
        return [{ storageKey, label: metadata.label, entry, metadata, fields }]
      })
      return alive.sort(newestFirst)
    },
  )
}
