// Commits of one session in one process go one after another, so that they need not meet in the store.

import { within } from '../budget.ts'
import type { Visit } from './visit.ts'

/** Runs `job` when the commits of the same address that came before are over. Waiting is on the visit's own time. */
export const inTurn = async <T>(visit: Visit, address: string, job: () => Promise<T>): Promise<T> => {
  const { turns, backend } = visit.house
  const before = turns.get(address)
  let over = () => {}
  const mine = new Promise<void>((resolve) => {
    over = resolve
  })
  const last = before === undefined ? mine : before.then(() => mine)
  turns.set(address, last)
  try {
    if (before !== undefined) await within(visit.budget, backend.name, false, () => before)
    return await job()
  } finally {
    over()
    if (turns.get(address) === last) turns.delete(address)
  }
}
