// Old entries are swept in small batches, now and then after a birth: no timer runs where nothing happens.

import type { Backend } from './backend.ts'
import type { Emit } from './events.ts'

/** Milliseconds between two sweeps, and entries in one batch: short enough that a synchronous store holds nobody up. */
const EVERY = 60_000
const BATCH = 50

/** What to call at each birth. Where a sweep fails, it is an event, and the next one tries again. */
export const sweeper = (backend: Backend, now: () => number, emit: Emit): (() => void) => {
  let next = Number.NEGATIVE_INFINITY
  const batch = async () => {
    try {
      const swept = await backend.sweep?.(now(), BATCH)
      if (swept === BATCH) setTimeout(batch, 2).unref()
    } catch (error) {
      emit('store_error', { error, message: 'Expired sessions could not be swept. They open nothing, and lie there.' })
    }
  }
  return () => {
    if (backend.sweep === undefined || now() < next) return
    next = now() + EVERY
    setTimeout(batch, 0).unref()
  }
}
