// The sessions of an owner, found in the store: those that live, the youngest first.

import type { Entry } from '../backends/contract.ts'
import { type Awaitable, after } from '../error.ts'
import { type Fields, parsed } from './changes.ts'
import { type Head, parseHead } from './metadata.ts'
import { type Asker, alive, endOf, type House, lifetimeOf, reading } from './work.ts'

export type OwnedEntry = {
  readonly address: string
  readonly label: string
  readonly entry: Entry
  readonly head: Head
  readonly fields: Fields
}

/** When a session was last seen: when it last saved something, or when its end was last moved. */
export const seenAt = (house: House, entry: Entry, head: Head): number => {
  const { bornAt, seenAt = bornAt } = head
  const moved = entry.expiresAt < endOf(house, head) ? entry.expiresAt - lifetimeOf(house, head) : 0
  return Math.max(bornAt, seenAt, moved)
}

/** Of two sessions that were born at the same millisecond every process has to think the same one older. */
const youngestFirst = (a: OwnedEntry, b: OwnedEntry): number =>
  b.head.bornAt - a.head.bornAt || (a.address < b.address ? -1 : 1)

/** The sessions of an owner, as entries name him, that this version can read and that live. @throws Fault `unavailable` */
export const ownedBy = (asker: Asker, owner: string): Awaitable<readonly OwnedEntry[]> => {
  const { house } = asker
  return after(
    reading(asker, ({ owned }) => owned?.list(owner) ?? []),
    (entries) => {
      const now = house.now()
      const living = entries.flatMap(({ key: address, ...entry }): OwnedEntry[] => {
        const head = parseHead(entry.head)
        const fields = parsed(entry.value)
        if (head?.label === undefined || fields === undefined || !alive(house, { entry, head }, now)) return []
        return [{ address, label: head.label, entry, head, fields }]
      })
      return living.sort(youngestFirst)
    },
  )
}
