// The sessions of an owner, found in the store: those that live, the youngest first.

import type { Entry } from '../backends/contract.ts'
import { type Awaitable, chain } from '../error.ts'
import { type Fields, parseFields } from './changes.ts'
import { type Metadata, decodeMetadata } from './metadata.ts'
import { type StoreCaller, isAlive, absoluteEndOf, type ManagerContext, idleTimeoutOf, callRead } from './work.ts'

export type OwnedEntry = {
  readonly address: string
  readonly label: string
  readonly entry: Entry
  readonly head: Metadata
  readonly fields: Fields
}

/** When a session was last seen: when it last saved something, or when its end was last moved. */
export const lastSeenAt = (house: ManagerContext, entry: Entry, head: Metadata): number => {
  const { bornAt, seenAt = bornAt } = head
  const moved = entry.expiresAt < absoluteEndOf(house, head) ? entry.expiresAt - idleTimeoutOf(house, head) : 0
  return Math.max(bornAt, seenAt, moved)
}

/** Of two sessions that were born at the same millisecond every process has to think the same one older. */
const youngestFirst = (a: OwnedEntry, b: OwnedEntry): number =>
  b.head.bornAt - a.head.bornAt || (a.address < b.address ? -1 : 1)

/** The sessions of an owner, as entries name him, that this version can read and that live. @throws Fault `unavailable` */
export const sessionsOfOwner = (asker: StoreCaller, owner: string): Awaitable<readonly OwnedEntry[]> => {
  const { house } = asker
  return chain(
    callRead(asker, ({ owned }) => owned?.list(owner) ?? []),
    (entries) => {
      const now = house.now()
      const living = entries.flatMap(({ key: address, ...entry }): OwnedEntry[] => {
        const head = decodeMetadata(entry.head)
        const fields = parseFields(entry.value)
        if (head?.label === undefined || fields === undefined || !isAlive(house, { entry, head }, now)) return []
        return [{ address, label: head.label, entry, head, fields }]
      })
      return living.sort(youngestFirst)
    },
  )
}
