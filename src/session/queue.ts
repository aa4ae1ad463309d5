// Commits of one session in one process go one after another, so that they need not meet in the store.

import { callBackend } from '../backends/deadline.ts'
import { type Awaitable, isThenable } from '../error.ts'
import type { UnitOfWork } from './work.ts'

/**
 * Runs `job` when the commits of the same address that came before are over. Waiting is on the visit's own time. A job
 * that does not wait itself, and finds nobody before it, is over at once.
 */
export const serialize = <T>(work: UnitOfWork, storageKey: string, job: () => Awaitable<T>): Awaitable<T> => {
  const { commitQueues, backend } = work.context
  const before = commitQueues.get(storageKey)
  const result =
    before === undefined
      ? job()
      : Promise.resolve(callBackend(work.deadline, backend.name, false, () => before)).then(job)
  if (!isThenable(result)) return result
  const last: Promise<unknown> = Promise.allSettled([before, result]).then(() => {
    if (commitQueues.get(storageKey) === last) commitQueues.delete(storageKey)
  })
  commitQueues.set(storageKey, last)
  return result
}
