// The time that one visit may spend waiting for its backend, whatever the driver does.

import { type Awaitable, Fault, isThenable } from './outcome.ts'

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

/** One promise, and nothing else to collect, for each call that is waited for: a read of a fast server is mostly this. */
const bounded = <T>(
  budget: Budget,
  promise: Promise<T>,
  failure: (error: unknown) => Fault,
  late: () => Fault,
): Promise<T> => {
  const { bulkhead } = budget
  const started = performance.now()
  return new Promise((resolve, reject) => {
    let counts = bulkhead !== undefined
    let waits = true
    if (bulkhead !== undefined) bulkhead.inFlight++
    /** A call that was given up counts until it is answered, or forgotten. */
    const uncount = () => {
      if (counts && bulkhead !== undefined) bulkhead.inFlight--
      counts = false
    }
    const end = () => {
      waits = false
      waiting.delete(entry)
      budget.left -= performance.now() - started
    }
    const entry: Waiting = {
      until: started + budget.left,
      giveUp() {
        end()
        if (counts) setTimeout(uncount, FORGOTTEN).unref()
        reject(late())
      },
    }
    waiting.add(entry)
    clock ??= setInterval(tick, TICK)
    promise.then(
      (value) => {
        uncount()
        if (waits) end()
        resolve(value)
      },
      (error) => {
        uncount()
        if (waits) end()
        reject(failure(error))
      },
    )
  })
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
  const failure = (error: unknown): Fault => (error instanceof Fault ? error : failed(name, changing, 'failed', error))
  if (budget.left <= 0) throw failed(name, false, 'used up the time of the visit')
  const { bulkhead } = budget
  if (bulkhead !== undefined && bulkhead.inFlight >= bulkhead.most) {
    throw failed(name, false, `has ${bulkhead.most} calls under way, as many as it may (maxInFlight)`)
  }
  try {
    const answer = call()
    if (!isThenable(answer)) return answer
    return bounded(budget, answer, failure, () => failed(name, changing, 'did not answer in time'))
  } catch (error) {
    throw failure(error)
  }
}
