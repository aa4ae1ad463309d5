// The sessions of an owner, found in the store: those that live, the youngest first.

import type { Entry } from '../backends/contract.ts'
import { type Awaitable, chain } from '../error.ts'
import { type Fields, parseFields } from './changes.ts'
import type { ManagerContext } from './context.ts'
import { absoluteEndOf, idleTimeoutOf, isAlive } from './expiry.ts'
import { decodeMetadata, type Metadata } from './metadata.ts'
import { callRead, type StoreCaller } from './work.ts'

export type OwnedEntry = {
  readonly storageKey: string
  readonly label: string
  readonly entry: Entry
  readonly metadata: Metadata
  readonly fields: Fields
}

/** When a session was last seen: when it last saved something, or when its end was last moved. */
export const lastSeenAt = (context: ManagerContext, entry: Entry, metadata: Metadata): number => {
  const { createdAt, lastSeenAt = createdAt } = metadata
  const moved =
    entry.expiresAt < absoluteEndOf(context, metadata) ? entry.expiresAt - idleTimeoutOf(context, metadata) : 0
  return Math.max(createdAt, lastSeenAt, moved)
}

/** Of two sessions that were born at the same millisecond every process has to think the same one older. */
const youngestFirst = (a: OwnedEntry, b: OwnedEntry): number =>
  b.metadata.createdAt - a.metadata.createdAt || (a.storageKey < b.storageKey ? -1 : 1)

/** The sessions of an owner, as entries name him, that this version can read and that live. @throws KeepsakeError `unavailable` */
export const sessionsOfOwner = (asker: StoreCaller, owner: string): Awaitable<readonly OwnedEntry[]> => {
  const { context } = asker
  return chain(
    callRead(asker, ({ byOwner: owned }) => owned?.list(owner) ?? []),
    (entries) => {
      const now = context.now()
      const living = entries.flatMap(({ key: storageKey, ...entry }): OwnedEntry[] => {
        const metadata = decodeMetadata(entry.metadata)
        const fields = parseFields(entry.value)
        if (metadata?.label === undefined || fields === undefined || !isAlive(context, { entry, metadata }, now))
          return []
        return [{ storageKey, label: metadata.label, entry, metadata, fields }]
      })
      return living.sort(youngestFirst)
    },
  )
}
