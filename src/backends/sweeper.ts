// Old entries are swept in small batches, now and then after a birth: no timer runs where nothing happens.

import { isThenable } from '../error.ts'
import type { Emit } from '../events.ts'
import { decodeMetadata, EXPIRED_KEPT } from '../session/metadata.ts'
import type { Backend, Removed } from './contract.ts'

/** Milliseconds between two sweeps. */
const EVERY = 60_000
/** Entries in one batch: few enough that a synchronous store holds nobody up. */
const BATCH = 50
/** Of a store that answers later: it holds up nobody here, and each batch is a round trip. Short there, too. */
const REMOTE_BATCH = 500

export type Sweeper = {
  /** To be called at each birth. Where a sweep fails, it is an event, and the next one tries again. */
  readonly tidy: () => void
  /** Sweeps all there is, batch by batch. @returns how many @throws whatever the backend throws */
  readonly sweep: () => Promise<number>
  /** Lets no batch begin any more. */
  readonly stop: () => void
}

export const sweeper = (
  backend: Backend,
  now: () => number,
  emit: Emit,
  nameOf: (owner: string) => string,
): Sweeper => {
  const removed = ({ metadata, owner }: Removed): void => {
    const label = decodeMetadata(metadata)?.label
    if (label !== undefined) emit('timed_out', { label, owner: nameOf(owner) })
  }
  let next = Number.NEGATIVE_INFINITY
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  /** Doubled at each promise. A synchronous store that gives one, because its file is busy now, is soon asked for few again. */
  let size = BATCH
  /** @returns whether there may be more, and how many there were */
  const batch = async (): Promise<{ readonly swept: number; readonly more: boolean }> => {
    const limit = size
    // The earlier of two clocks is believed, because one of them may be wrong.
    const answer = backend.sweep?.(Math.min(now(), Date.now()) - EXPIRED_KEPT, limit, removed) ?? 0
    size = isThenable(answer) ? Math.min(limit * 2, REMOTE_BATCH) : BATCH
    const swept = await answer
    return { swept, more: swept >= limit }
  }
  const quietly = async () => {
    try {
      if ((await batch()).more) later(2)
    } catch (error) {
      emit('store_error', { error, message: 'Expired sessions could not be swept. They open nothing, and lie there.' })
    }
  }
  const later = (milliseconds: number) => {
    if (stopped) return
    timer = setTimeout(quietly, milliseconds)
    timer.unref()
  }
  return {
    tidy() {
      if (backend.sweep === undefined || now() < next) return
      next = now() + EVERY
      later(0)
    },
    async sweep() {
      let all = 0
      for (let more = true; more && !stopped; ) {
        const done = await batch()
        all += done.swept
        more = done.more
        // Between two batches of a synchronous store, whatever else waits has its turn.
        await new Promise((resolve) => setImmediate(resolve))
      }
      return all
    },
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
