// Whose sessions: an account's sessions listed and ended, from a page, a job or a console.

import type { Deadline } from './backends/deadline.ts'
import { KeepsakeError } from './error.ts'
import { FLASH } from './session/changes.ts'
import { isMismatch } from './session/codec.ts'
import type { ManagerContext } from './session/context.ts'
import { absoluteEndOf } from './session/expiry.ts'
import { lastSeenAt, sessionsOfOwner } from './session/owned.ts'
import { callWrite, decode, markOf, type StoreCaller } from './session/work.ts'

/** One session of an account. Times are in milliseconds since 1970. */
export type OwnedSession<F extends object> = {
  /** Names it in `revoke`, and in logs. */
  readonly label: string
  /** When it was logged in. */
  readonly createdAt: number
  /** When it was last seen: as exact as half its lifetime, or as the option `lastSeenInterval` says. A visit that saved something counts at once. */
  readonly lastSeenAt: number
  /** When it ends, if it is not used any more. */
  readonly expiresAt: number
  /** What the application keeps in it, such as the device that it noted at login; empty where the schema refuses it. */
  readonly fields: Readonly<Partial<F>>
}

const checkFindsOwners = ({ backend }: ManagerContext): void => {
  if (backend.byOwner !== undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `The ${backend.name} backend cannot find sessions by their owner. Use one that keeps them: memory, sqlite, file, or a database.`,
  )
}

/** The living sessions of an account, the youngest first. @throws KeepsakeError `invalid_option`, `unavailable` */
export const listSessions = async <F extends object>(
  context: ManagerContext,
  deadline: Deadline,
  owner: string,
): Promise<readonly OwnedSession<F>[]> => {
  checkFindsOwners(context)
  const asker: StoreCaller = { context, deadline }
  const found = await sessionsOfOwner(asker, context.ownerNames.encode(owner))
  return Promise.all(
    found.map(async ({ label, entry, metadata, fields }) => {
      const { [FLASH]: _, ...own } = fields
      const seen = await decode(asker, own)
      return {
        label,
        createdAt: metadata.createdAt,
        lastSeenAt: lastSeenAt(context, entry, metadata),
        expiresAt: Math.min(entry.expiresAt, absoluteEndOf(context, metadata)),
        fields: Object.freeze(isMismatch(seen) ? {} : seen) as Partial<F>,
      }
    }),
  )
}

const LABEL = /^[A-Za-z0-9_-]{12}$/

/**
 * Ends the session of a label, whoever has it; it does not matter whether there is one. Where sessions are cookies this
 * needs a place for ends.
 *
 * @throws KeepsakeError `invalid_option`, `unknown_outcome`
 */
export const revokeSession = async (context: ManagerContext, deadline: Deadline, label: string): Promise<void> => {
  if (typeof label !== 'string' || !LABEL.test(label)) {
    throw new KeepsakeError(
      'invalid_option',
      'A label has 12 characters: the label of a session, as logs and lists name it.',
    )
  }
  const { backend, storageKey } = context
  if (backend.stateless && !backend.revocable) {
    throw new KeepsakeError(
      'invalid_option',
      "Sessions in cookies can be revoked where ends are kept: 'cookie:sqlite:ends.db'.",
    )
  }
  const place = backend.stateless ? `=${label}` : storageKey(label)
  await callWrite({ context, deadline }, () => backend.clear(place, undefined, markOf(context, 'end')))
  context.emit('revoked', { label })
}

/**
 * Ends the sessions of an account, but the one of the label `except`: also those that are being renewed meanwhile. A
 * login that is under way counts as before it or as after it.
 *
 * @returns how many
 * @throws KeepsakeError `invalid_option`, `unknown_outcome`: then some may be left, and it may be asked again
 */
export const revokeAllSessions = async (
  context: ManagerContext,
  deadline: Deadline,
  owner: string,
  except: string | undefined,
): Promise<number> => {
  checkFindsOwners(context)
  const spared = except === undefined ? undefined : context.storageKey(except)
  const count = await callWrite(
    { context, deadline },
    ({ byOwner: owned }) => owned?.clear(context.ownerNames.encode(owner), spared, markOf(context, 'end')) ?? 0,
  )
  context.emit('revoked', { message: `${count} sessions of one owner were ended.` })
  return count
}
