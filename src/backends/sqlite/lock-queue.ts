// Work that waits for a lock of SQLite: the first in the queue tries again and again, and the process is never blocked.

import { type Awaitable, isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import { IN_TRANSACTION, isBusy } from './driver.ts'

/** Milliseconds that work waits for the lock. */
const MAX_WAIT = 2_000
/** Milliseconds between two tries, at most. */
const MAX_PAUSE = 10
/** Milliseconds after which waiting work lets the process do something else. */
const SLICE = 5

/** Does the work at once if nothing waits and no lock is held. Otherwise the work waits in the queue. */
export type LockQueue = <T>(work: () => T) => Awaitable<T>

type Waiting = {
  readonly until: number
  /** Tries the work and settles its promise. If the lock is still held, it returns the error for giving up. */
  attempt(): KeepsakeError | undefined
  giveUp(error: KeepsakeError): void
}

/** The error for work that waited too long. Undefined for an error that waiting cannot solve. */
const timeoutError = (error: unknown): KeepsakeError | undefined => {
  if (isKeepsakeError(error)) return error.message === IN_TRANSACTION ? error : undefined
  if (!isBusy(error)) return undefined
  return new KeepsakeError(
    'unavailable',
    `Another connection held the write lock of the SQLite database for ${MAX_WAIT / 1000} seconds (${messageOf(error)}). Nothing was changed. Find the connection: a backup, a VACUUM, a shell in a transaction.`,
    { cause: error },
  )
}

/**
 * A queue for one database. SQLite's own way to wait, `busy_timeout`, blocks the whole process, and it blocks it again for
 * each statement that waits.
 */
export const lockQueue = (): LockQueue => {
  const queue: Waiting[] = []
  let pause = 1

  const workOff = (): void => {
    const started = performance.now()
    for (let first = queue[0]; first !== undefined; first = queue[0]) {
      const tried = performance.now()
      const error = first.attempt()
      const now = performance.now()
      if (error !== undefined) {
        while (queue[0] !== undefined && now >= queue[0].until) queue.shift()?.giveUp(error)
        // A database of the application may block the process during the try. Then everything else gets as much time.
        if (queue.length > 0) setTimeout(workOff, Math.max(now - tried, pause * (0.5 + Math.random() / 2)))
        pause = Math.min(pause * 2, MAX_PAUSE)
        return
      }
      queue.shift()
      pause = 1
      if (queue.length > 0 && now - started > SLICE) {
        setImmediate(workOff)
        return
      }
    }
  }

  return <T>(work: () => T): Awaitable<T> => {
    if (queue.length === 0) {
      try {
        return work()
      } catch (error) {
        if (timeoutError(error) === undefined) throw error
      }
    }
    return new Promise<T>((resolve, reject) => {
      queue.push({
        until: performance.now() + MAX_WAIT,
        attempt() {
          try {
            resolve(work())
          } catch (error) {
            const timeout = timeoutError(error)
            if (timeout !== undefined) return timeout
            reject(error)
          }
          return undefined
        },
        giveUp: reject,
      })
      if (queue.length > 1) return
      pause = 1
      setTimeout(workOff, pause)
    })
  }
}
