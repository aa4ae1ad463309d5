// Sessions of server components: they are read, and every change throws, because a component can set no cookie.

import { chain, KeepsakeError } from '../../error.ts'
import type { Manager } from '../../request-context.ts'
import { commit } from '../../session/commit.ts'
import type { UnitOfWork } from '../../session/work.ts'

export const readOnlyError = (message: string): KeepsakeError => new KeepsakeError('read_only', message)

const changed = () =>
  readOnlyError(
    'A server component of Next.js changed the session, but its response can set no cookie. Nothing was changed. Change the session in an action or a route handler: saving(async () => { (await session()).set(…) }).',
  )

const extended = new WeakSet<UnitOfWork>()

/**
 * Extends a session that a page reads, as a request does that changes nothing. A page has no other commit, and it can set no
 * cookie, so `proxy` extends a session that is a cookie. If the store fails, the failure is an event.
 */
export const extendPage = async (work: UnitOfWork): Promise<void> => {
  if (!work.extend || work.snapshot === undefined || work.context.backend.stateless || extended.has(work)) return
  extended.add(work)
  await commit({ ...work, readOnly: undefined })
}

/** The same manager, whose sessions can only be read. */
export const readOnlyManager = (manager: Manager): Manager => ({
  ...manager,
  open: (...args) =>
    chain(manager.open(...args), (work) => {
      const failed = work.readOnly?.reads === false ? work.readOnly.error : undefined
      work.readOnly = { error: failed ?? changed(), reads: failed === undefined, logsIn: false, logsOut: false }
      return work
    }),
})
