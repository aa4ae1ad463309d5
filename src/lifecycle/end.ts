// Ending a session: an invalidate clears it whatever its version, and says so where that may have failed.

import { changing, type Visit } from './visit.ts'

/**
 * Clears the session that the visit came with.
 *
 * @throws Fault `unknown_outcome`: it may still be there, and the event `not_ended` has its label
 */
export const end = async (visit: Visit): Promise<void> => {
  const { house, stored } = visit
  if (stored === undefined) return
  const { address, label } = stored
  try {
    await changing(visit, (backend) => backend.clear(address))
  } catch (error) {
    house.emit('not_ended', {
      label,
      error,
      message: 'A visitor logged out and the session may still be there until it expires.',
    })
    throw error
  }
  house.emit('invalidated', { label })
}
