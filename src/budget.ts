// The time that one visit may spend waiting for its backend, whatever the driver does.

import { type Awaitable, Fault } from './outcome.ts'

/** How many calls of an application are under way, and how many may be: one backend that hangs must not fill the memory. */
type Bulkhead = { inFlight: number; readonly most: number }

/** Milliseconds that are left of it. Only promises are waited for, so a synchronous backend spends nothing. */
export type Budget = { left: number; readonly bulkhead?: Bulkhead }

/** Milliseconds after which a call that was given up counts no more, whether its driver ever answers or not. */
const FORGOTTEN = 30_000

type Waiting = { readonly until: number; readonly giveUp: () => void }

/* One coarse clock for all that is waited for: it runs while anything is, and keeps no process alive. */
const TICK = 25
const waiting = new Set<Waiting>()
let clock: NodeJS.Timeout | undefined

const tick = () => {
  const now = performance.now()
  for (const one of waiting) if (now >= one.until) one.giveUp()
  if (waiting.size > 0) return
  clearInterval(clock)
  clock = undefined
}

/** Counts a call until it is answered; gives what to call where nobody waits for that any longer. */
const counted = (bulkhead: Bulkhead, promise: Promise<unknown>): (() => void) => {
  let counts = true
  const done = () => {
    if (counts) bulkhead.inFlight--
    counts = false
  }
  bulkhead.inFlight++
  promise.then(done, done)
  return () => {
    if (counts) setTimeout(done, FORGOTTEN).unref()
  }
}

const bounded = async <T>(budget: Budget, promise: Promise<T>, late: () => Fault): Promise<T> => {
  const abandoned = budget.bulkhead && counted(budget.bulkhead, promise)
  const started = performance.now()
  let entry: Waiting | undefined
  const deadline = new Promise<never>((_, reject) => {
    const giveUp = () => {
      abandoned?.()
      reject(late())
    }
    entry = { until: started + budget.left, giveUp }
    waiting.add(entry)
    clock ??= setInterval(tick, TICK)
  })
  try {
    return await Promise.race([promise, deadline])
  } finally {
    waiting.delete(entry as Waiting)
    budget.left -= performance.now() - started
  }
}

const failed = (name: string, changing: boolean, why: string, cause?: unknown): Fault =>
  changing
    ? new Fault(
        'unknown_outcome',
        `The ${name} backend ${why} while it was changing a session: it may be either way.`,
        { cause },
      )
    : new Fault('unavailable', `The ${name} backend ${why}. Nothing was changed; see whether it is up.`, { cause })

/**
 * What a call to a backend gives, within the budget.
 *
 * @throws Fault `unavailable` where a reading call fails or is late, `unknown_outcome` where a changing one does
 */
export const within = <T>(budget: Budget, name: string, changing: boolean, call: () => Awaitable<T>): Awaitable<T> => {
  const rethrow = (error: unknown): never => {
    throw error instanceof Fault ? error : failed(name, changing, 'failed', error)
  }
  if (budget.left <= 0) throw failed(name, false, 'used up the time of the visit')
  const { bulkhead } = budget
  if (bulkhead !== undefined && bulkhead.inFlight >= bulkhead.most) {
    throw failed(name, false, `has ${bulkhead.most} calls under way, as many as it may (maxInFlight)`)
  }
  try {
    const answer = call()
    if (!(answer instanceof Promise)) return answer
    return bounded(budget, answer, () => failed(name, changing, 'did not answer in time')).catch(rethrow)
  } catch (error) {
    return rethrow(error)
  }
}
