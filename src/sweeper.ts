// Old entries are swept in small batches, now and then after a birth: no timer runs where nothing happens.

import type { Backend } from './backend.ts'
import type { Emit } from './events.ts'

/** Milliseconds between two sweeps, and entries in one batch: short enough that a synchronous store holds nobody up. */
const EVERY = 60_000
const BATCH = 50

export type Sweeper = {
  /** To be called at each birth. Where a sweep fails, it is an event, and the next one tries again. */
  readonly tidy: () => void
  /** Sweeps all there is, batch by batch. @returns how many @throws whatever the backend throws */
  readonly sweep: () => Promise<number>
  /** Lets no batch begin any more. */
  readonly stop: () => void
}

export const sweeper = (backend: Backend, now: () => number, emit: Emit): Sweeper => {
  let next = Number.NEGATIVE_INFINITY
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  const batch = async () => {
    try {
      const swept = await backend.sweep?.(now(), BATCH)
      if (swept === BATCH) later(2)
    } catch (error) {
      emit('store_error', { error, message: 'Expired sessions could not be swept. They open nothing, and lie there.' })
    }
  }
  const later = (milliseconds: number) => {
    if (stopped) return
    timer = setTimeout(batch, milliseconds)
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
      for (let swept = BATCH; swept >= BATCH && !stopped; ) {
        swept = (await backend.sweep?.(now(), BATCH)) ?? 0
        all += swept
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
