// Whose sessions: an account's sessions listed and ended, from a page, a job or a console.

import type { Budget } from './backends/deadline.ts'
import { Fault } from './error.ts'
import { FLASH } from './session/changes.ts'
import { isMisfit } from './session/codec.ts'
import { ownedBy, seenAt } from './session/owned.ts'
import { type Asker, changing, endOf, type House, markOf, shaped } from './session/work.ts'

/** One session of an account. Times are in milliseconds since 1970. */
export type OwnedSession<F extends object> = {
  /** Names it in `revoke`, and in logs. */
  readonly label: string
  /** When it was logged in. */
  readonly bornAt: number
  /** When it was last seen: as exact as half its lifetime, or as the option `lastSeen` says. A visit that saved something counts at once. */
  readonly seenAt: number
  /** When it ends, if it is not used any more. */
  readonly expiresAt: number
  /** What the application keeps in it, such as the device that it noted at login; empty where the schema refuses it. */
  readonly fields: Readonly<Partial<F>>
}

const needsOwned = ({ backend }: House): void => {
  if (backend.owned !== undefined) return
  throw new Fault(
    'bad_option',
    `The ${backend.name} backend cannot find sessions by their owner. Use one that keeps them: memory, sqlite, file, or a database.`,
  )
}

/** The living sessions of an account, the youngest first. @throws Fault `bad_option`, `unavailable` */
export const listed = async <F extends object>(
  house: House,
  budget: Budget,
  owner: string,
): Promise<readonly OwnedSession<F>[]> => {
  needsOwned(house)
  const asker: Asker = { house, budget }
  const found = await ownedBy(asker, house.owners.kept(owner))
  return Promise.all(
    found.map(async ({ label, entry, head, fields }) => {
      const { [FLASH]: _, ...own } = fields
      const seen = await shaped(asker, own)
      return {
        label,
        bornAt: head.bornAt,
        seenAt: seenAt(house, entry, head),
        expiresAt: Math.min(entry.expiresAt, endOf(house, head)),
        fields: Object.freeze(isMisfit(seen) ? {} : seen) as Partial<F>,
      }
    }),
  )
}

const LABEL = /^[A-Za-z0-9_-]{12}$/

/**
 * Ends the session of a label, whoever has it; it does not matter whether there is one. Where sessions are cookies this
 * needs a place for ends.
 *
 * @throws Fault `bad_option`, `unknown_outcome`
 */
export const revoked = async (house: House, budget: Budget, label: string): Promise<void> => {
  if (typeof label !== 'string' || !LABEL.test(label)) {
    throw new Fault('bad_option', 'A label has 12 characters: the label of a session, as logs and lists name it.')
  }
  const { backend, address } = house
  if (backend.stateless && !backend.revocable) {
    throw new Fault('bad_option', "Sessions in cookies can be revoked where ends are kept: 'cookie:sqlite:ends.db'.")
  }
  const place = backend.stateless ? `=${label}` : address(label)
  await changing({ house, budget }, () => backend.clear(place, undefined, markOf(house, 'end')))
  house.emit('revoked', { label })
}

/**
 * Ends the sessions of an account, but the one of the label `except`: also those that are being renewed meanwhile. A
 * login that is under way counts as before it or as after it.
 *
 * @returns how many
 * @throws Fault `bad_option`, `unknown_outcome`: then some may be left, and it may be asked again
 */
export const revokedAll = async (
  house: House,
  budget: Budget,
  owner: string,
  except: string | undefined,
): Promise<number> => {
  needsOwned(house)
  const spared = except === undefined ? undefined : house.address(except)
  const count = await changing(
    { house, budget },
    ({ owned }) => owned?.clear(house.owners.kept(owner), spared, markOf(house, 'end')) ?? 0,
  )
  house.emit('revoked', { message: `${count} sessions of one owner were ended.` })
  return count
}
