// Lists and ends the sessions of an account, for a page of the application, a job or a console.

import type { Deadline } from './backends/deadline.ts'
import { isLabel } from './crypto/keys.ts'
import { KeepsakeError } from './error.ts'
import { FLASH } from './session/changes.ts'
import { isMismatch } from './session/codec.ts'
import type { ManagerContext } from './session/context.ts'
import { absoluteEndOf } from './session/expiry.ts'
import { lastSeenAt, type StoredEntry, sessionsOfOwner } from './session/owned.ts'
import { callRead, callWrite, decode, markOf, namesOf } from './session/work.ts'

/** One session of an account. Times are in milliseconds since 1970. */
export type OwnedSession<F extends object> = {
  /** The argument of `revoke`, and the name of the session in logs. */
  readonly label: string
  /** The time of the login. */
  readonly createdAt: number
  /** The time of the last `login` of this session. It equals `createdAt`, because each login creates a session. */
  readonly authenticatedAt: number
  /**
   * The time of the last request: exact to half the idle timeout, or to the option `lastSeenInterval`. A request that
   * saved something counts at once. A prefetch and a request with `extend: false` never count.
   */
  readonly lastSeenAt: number
  /** The time at which it expires if there are no more requests. */
  readonly expiresAt: number
  /** The fields, for example the device that the application saved at login. Empty if the schema refuses them. */
  readonly fields: Readonly<Partial<F>>
}

/** A session as lists show it, from its entry. Its flash messages are left out. */
export const sessionFrom = async <F extends object>(
  context: ManagerContext,
  { label, entry, metadata, fields }: StoredEntry,
): Promise<OwnedSession<F>> => {
  const { [FLASH]: _, ...withoutFlash } = fields
  const decoded = await decode({ context }, withoutFlash)
  return {
    label,
    createdAt: metadata.createdAt,
    authenticatedAt: metadata.createdAt,
    lastSeenAt: lastSeenAt(context, entry, metadata),
    expiresAt: Math.min(entry.expiresAt, absoluteEndOf(context, metadata)),
    fields: Object.freeze(isMismatch(decoded) ? {} : decoded) as Partial<F>,
  }
}

const checkFindsOwners = ({ backend }: ManagerContext): void => {
  if (backend.byOwner !== undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `The ${backend.name} backend cannot find sessions by owner. Use a backend that can: memory, sqlite, file, or a database.`,
  )
}

/** The live sessions of an account, newest first. @throws KeepsakeError `invalid_option`, `unavailable` */
export const listSessions = async <F extends object>(
  context: ManagerContext,
  deadline: Deadline,
  owner: string,
): Promise<readonly OwnedSession<F>[]> => {
  checkFindsOwners(context)
  const found = await sessionsOfOwner({ context, deadline }, context.ownerNames.encode(owner))
  return Promise.all(found.map((stored) => sessionFrom<F>(context, stored)))
}

/**
 * Ends the session with this label. If there is none, nothing happens. Sessions in cookies need a store that keeps
 * their ends.
 *
 * @throws KeepsakeError `invalid_option`; `unavailable` or `unknown_outcome`: the session may be left, so call it again
 */
export const revokeSession = async (context: ManagerContext, deadline: Deadline, label: string): Promise<void> => {
  if (typeof label !== 'string' || !isLabel(label)) {
    throw new KeepsakeError(
      'invalid_option',
      'The argument of revoke() is not a label. It must be the 12 characters that logs and list() give.',
    )
  }
  const { backend, storageKey } = context
  if (backend.stateless && !backend.revocable) {
    throw new KeepsakeError(
      'invalid_option',
      "Sessions in cookies cannot be revoked without a store for their ends. Use a backend such as 'cookie:sqlite:ends.db'.",
    )
  }
  const caller = { context, deadline }
  const key = backend.stateless ? `=${label}` : storageKey(label)
  // A stateless backend finds no session by its label.
  const entry = backend.stateless ? undefined : await callRead(caller, 'get', () => backend.get(key))
  await callWrite(caller, 'clear', () => backend.clear(key, undefined, markOf(context, 'end')))
  context.emit('revoked', namesOf(context, { label, entry }))
}

/**
 * Ends all sessions of an account except the one with the label `except`, also sessions whose key is being rotated. A
 * login in progress counts either as before or as after.
 *
 * @returns the number of sessions that ended
 * @throws KeepsakeError `invalid_option`, or `unknown_outcome`: some sessions may be left, so call it again
 */
export const revokeAllSessions = async (
  context: ManagerContext,
  deadline: Deadline,
  owner: string,
  except: string | undefined,
): Promise<number> => {
  checkFindsOwners(context)
  const exceptKey = except === undefined ? undefined : context.storageKey(except)
  const count = await callWrite(
    { context, deadline },
    'byOwner.clear',
    ({ byOwner }) => byOwner?.clear(context.ownerNames.encode(owner), exceptKey, markOf(context, 'end')) ?? 0,
  )
  context.emit('revoked', { owner, message: `${count} sessions of one owner were ended.` })
  return count
}
