// Removes expired entries in small batches after new sessions, so no timer runs while nothing happens.

import type { OwnerNames } from '../crypto/keys.ts'
import { isThenable } from '../error.ts'
import type { Emit } from '../events.ts'
import { decodeMetadata, EXPIRED_KEPT } from '../session/metadata.ts'
import type { Backend, Removed } from './contract.ts'

/** The least milliseconds between two sweeps. */
const INTERVAL = 60_000
/** Entries in one batch: so few that a synchronous store blocks the process only for a moment. */
const BATCH = 50
/** The same for an asynchronous store: it does not block this process, and each batch costs a round trip. */
const REMOTE_BATCH = 500

export type Sweeper = {
  /** Called for each new session. It starts a sweep if the last one is a minute ago. A failed sweep is an event `store_error`, and the next one tries again. */
  readonly tidy: () => void
  /**
   * Removes all expired entries, batch by batch.
   *
   * @returns how many
   * @throws the errors of the backend
   */
  readonly sweep: () => Promise<number>
  /** Starts no more batches. */
  readonly stop: () => void
}

export const sweeper = (backend: Backend, now: () => number, emit: Emit, owners: OwnerNames): Sweeper => {
  const removed = ({ metadata, owner }: Removed): void => {
    const label = decodeMetadata(metadata)?.label
    // A sweep also removes the sessions of other applications in the store, whose owners may have the same names.
    if (label !== undefined && owners.owns(owner)) emit('timed_out', { label, owner: owners.decode(owner) })
  }
  let nextSweep = Number.NEGATIVE_INFINITY
  let timer: NodeJS.Timeout | undefined
  let isStopped = false
  /** Doubles with each promise. A synchronous store may return one because its file is busy: the next answer resets the size. */
  let size = BATCH
  const sweepBatch = async (): Promise<{ readonly swept: number; readonly mayBeMore: boolean }> => {
    const limit = size
    // One of the two clocks may be wrong: by the earlier one no entry is removed too early.
    const answer = backend.sweep?.(Math.min(now(), Date.now()) - EXPIRED_KEPT, limit, removed) ?? 0
    size = isThenable(answer) ? Math.min(limit * 2, REMOTE_BATCH) : BATCH
    const swept = await answer
    return { swept, mayBeMore: swept >= limit }
  }
  const sweepQuietly = async () => {
    try {
      if ((await sweepBatch()).mayBeMore) schedule(2)
    } catch (error) {
      emit('store_error', { error, message: 'A sweep failed: expired sessions stay in the store, but open nothing.' })
    }
  }
  const schedule = (milliseconds: number) => {
    if (isStopped) return
    timer = setTimeout(sweepQuietly, milliseconds)
    timer.unref()
  }
  return {
    tidy() {
      if (backend.sweep === undefined || now() < nextSweep) return
      nextSweep = now() + INTERVAL
      schedule(0)
    },
    async sweep() {
      let total = 0
      for (let mayBeMore = true; mayBeMore && !isStopped; ) {
        const batch = await sweepBatch()
        total += batch.swept
        mayBeMore = batch.mayBeMore
        // Other work of the process runs between two batches of a synchronous store.
        await new Promise((resolve) => setImmediate(resolve))
      }
      return total
    },
    stop() {
      isStopped = true
      clearTimeout(timer)
    },
  }
}
