// Ending a session: an invalidate clears it whatever its version, and says so where that may have failed.

import { changing, settled, type Visit } from './visit.ts'

/**
 * Clears the session that the visit came with.
 *
 * @throws Fault `unknown_outcome`: it may still be there, and the event `not_ended` has its label
 */
export const end = async (visit: Visit): Promise<void> => {
  const { house, stored, vanished } = visit
  const ending = stored ?? vanished
  if (ending === undefined) return
  const { address, label } = ending
  try {
    // Whoever ended it before may not have heard that it cannot come back: who is told now has to.
    await (stored ? changing(visit, (backend) => backend.clear(address)) : settled(visit, address))
  } catch (error) {
    house.emit('not_ended', {
      label,
      error,
      message: 'A visitor logged out and the session may still be there until it expires.',
    })
    throw error
  }
  visit.vanished = undefined
  if (stored) house.emit('invalidated', { label })
}
