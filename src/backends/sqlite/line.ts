// Who waits for a lock of SQLite: one tries now and then, the others stand behind it, and the process goes on meanwhile.

import { type Awaitable, isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import { busy, IN_TRANSACTION } from './driver.ts'

/** Milliseconds that one waits; between two tries, at most; that waiting work may hold up the process at a time. */
const PATIENCE = 2_000
const PAUSE = 10
const SLICE = 5

/** Does work at once if nobody waits and no lock is in the way, else in its turn. */
export type Line = <T>(work: () => T) => Awaitable<T>

type Waiting = {
  readonly until: number
  /** Settles its promise; or gives what to say if this goes on for too long. */
  attempt(): KeepsakeError | undefined
  giveUp(fault: KeepsakeError): void
}

/** What to say if one waited in vain; undefined for an error that waiting does not mend. */
const passing = (error: unknown): KeepsakeError | undefined => {
  if (isKeepsakeError(error)) return error.message === IN_TRANSACTION ? error : undefined
  if (!busy(error)) return undefined
  return new KeepsakeError(
    'unavailable',
    `Another connection wrote to the SQLite database for ${PATIENCE / 1000} seconds (${messageOf(error)}). Nothing was changed. Find what holds its lock: a backup, a VACUUM, a shell in a transaction.`,
    { cause: error },
  )
}

/**
 * A line before one database. SQLite's own way of waiting, `busy_timeout`, blocks the whole process, and each who waits
 * blocks it again.
 */
export const line = (): Line => {
  const queue: Waiting[] = []
  let pause = 1

  const goOn = (): void => {
    const started = performance.now()
    for (let first = queue[0]; first !== undefined; first = queue[0]) {
      const tried = performance.now()
      const fault = first.attempt()
      const now = performance.now()
      if (fault !== undefined) {
        while (queue[0] !== undefined && now >= queue[0].until) queue.shift()?.giveUp(fault)
        // A database of the application's may block in each try: for that long, others have their turn.
        if (queue.length > 0) setTimeout(goOn, Math.max(now - tried, pause * (0.5 + Math.random() / 2)))
        pause = Math.min(pause * 2, PAUSE)
        return
      }
      queue.shift()
      pause = 1
      if (queue.length > 0 && now - started > SLICE) {
        setImmediate(goOn)
        return
      }
    }
  }

  return <T>(work: () => T): Awaitable<T> => {
    if (queue.length === 0) {
      try {
        return work()
      } catch (error) {
        if (passing(error) === undefined) throw error
      }
    }
    return new Promise<T>((resolve, reject) => {
      queue.push({
        until: performance.now() + PATIENCE,
        attempt() {
          try {
            resolve(work())
          } catch (error) {
            const fault = passing(error)
            if (fault !== undefined) return fault
            reject(error)
          }
          return undefined
        },
        giveUp: reject,
      })
      if (queue.length > 1) return
      pause = 1
      setTimeout(goOn, pause)
    })
  }
}
