// A queue per session: commits of one session in one process run one after another, so they do not compete in the backend.

import { callBackend } from '../backends/deadline.ts'
import { type Awaitable, isThenable } from '../error.ts'
import type { UnitOfWork } from './work.ts'

/**
 * Runs `job` after the earlier commits of the same storage key. The wait counts against the request's time. If no commit is
 * in progress and the job is synchronous, it has finished when this returns.
 */
export const serialize = <T>(work: UnitOfWork, storageKey: string, job: () => Awaitable<T>): Awaitable<T> => {
  const { commitQueues, backend } = work.context
  const previous = commitQueues.get(storageKey)
  const result =
    previous === undefined
      ? job()
      : Promise.resolve(callBackend(work.deadline, backend.name, 'queue', false, () => previous)).then(job)
  if (!isThenable(result)) return result
  const last: Promise<unknown> = Promise.allSettled([previous, result]).then(() => {
    if (commitQueues.get(storageKey) === last) commitQueues.delete(storageKey)
  })
  commitQueues.set(storageKey, last)
  return result
}
