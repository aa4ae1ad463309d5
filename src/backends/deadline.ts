// The time that one request may spend waiting for its backend, whatever the driver does.

import { type Awaitable, isThenable, KeepsakeError } from '../error.ts'

/** How many calls of an application are under way, and how many may be: one backend that hangs must not fill the memory. */
type Bulkhead = { inFlight: number; readonly most: number }

export type Deadline = {
  /** Milliseconds that are left. Only promises are waited for, so a synchronous backend spends nothing. */
  left: number
  readonly bulkhead?: Bulkhead
  /** Whether a call of this request has changed something, or may have: from then on no failure means “nothing was changed”. */
  changed?: boolean
}

/** Milliseconds after which a call that was given up counts no more, whether its driver ever answers or not. */
const ABANDONED = 30_000

type Waiting = { readonly until: number; readonly giveUp: () => void }

/* As they were when this module was loaded: a test that replaces timers must not stop the clock of budgets. */
const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = globalThis
const realTime = performance.now.bind(performance)

/* Cloudflare's Workers end a timer with the request that made it, so there each call has one of its own. */
const OWN_TIMERS = globalThis.navigator?.userAgent === 'Cloudflare-Workers'

/* One coarse clock for all that is waited for: it runs while anything is, and keeps no process alive. */
const TICK = 25
/** Milliseconds between two ticks from which on the process stood still: the machine was suspended, or a handler computed. */
const STANDSTILL = 250
const waiting = new Set<Waiting>()
let clock: ReturnType<typeof setInterval> | undefined
let ticked = 0
let stoodStill = 0

/**
 * Milliseconds in which this process ran: while it stood still it could not read the answer, so that time counts for
 * nobody.
 */
const time = (): number => {
  const now = realTime()
  if (clock !== undefined && now - ticked > STANDSTILL) stoodStill += now - ticked - TICK
  ticked = now
  return now - stoodStill
}

const overdue = (now: number) => {
  for (const one of waiting) if (now >= one.until) one.giveUp()
}

const tick = () => {
  const now = time()
  // What has arrived meanwhile is read first, and only what is late then is given up.
  for (const { until } of waiting) {
    if (now < until) continue
    setImmediate(() => overdue(now))
    break
  }
  if (waiting.size > 0) return
  clearInterval(clock)
  clock = undefined
}

/** Asks the clock, which runs from now on. */
const startClock = (): number => {
  const now = time()
  if (!OWN_TIMERS) clock ??= setInterval(tick, TICK)
  return now
}

/** One promise, and nothing else to collect, for each call that is waited for: a read of a fast server is mostly this. */
const withTimer = <T>(
  deadline: Deadline,
  promise: PromiseLike<T>,
  taken: (answer: T) => T,
  failure: (error: unknown) => KeepsakeError,
  late: () => KeepsakeError,
): Promise<T> => {
  const { bulkhead } = deadline
  const started = startClock()
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
      clearTimeout(own)
      waits = false
      waiting.delete(entry)
      deadline.left -= time() - started
    }
    const entry: Waiting = {
      until: started + deadline.left,
      giveUp() {
        end()
        if (counts) globalThis.setTimeout(uncount, ABANDONED).unref()
        reject(late())
      },
    }
    waiting.add(entry)
    const own = OWN_TIMERS ? setTimeout(entry.giveUp, deadline.left) : undefined
    promise.then(
      (value) => {
        uncount()
        if (waits) end()
        resolve(taken(value))
      },
      (error) => {
        uncount()
        if (waits) end()
        reject(failure(error))
      },
    )
  })
}

/** Asks whether the time is over, also in a loop that never waits. */
export const untilDeadline = (deadline: Deadline): (() => boolean) => {
  const until = time() + deadline.left
  return () => deadline.left > 0 && time() < until
}

const PARTLY =
  'An earlier step of this request has changed something already, so the outcome is unknown: read the session again.'

/** A failure of a request that has changed something: whatever it is, nobody can say any more that nothing was changed. */
export const afterChange = ({ changed }: Deadline, fault: KeepsakeError): KeepsakeError =>
  changed && (fault.code === 'unavailable' || fault.code === 'contention')
    ? new KeepsakeError(
        'unknown_outcome',
        `${fault.message.replace(/ Nothing was (changed|saved)\b[^.]*\./, '')} ${PARTLY}`,
        {
          cause: fault.cause ?? fault,
        },
      )
    : fault

const failureOf = (name: string, changing: boolean, why: string, cause?: unknown): KeepsakeError =>
  changing
    ? new KeepsakeError(
        'unknown_outcome',
        `The ${name} backend ${why} while it was changing a session: it may be either way.`,
        cause === undefined ? {} : { cause },
      )
    : new KeepsakeError(
        'unavailable',
        `The ${name} backend ${why}. Nothing was changed; see whether it is up.`,
        cause === undefined ? {} : { cause },
      )

/** The answers of a backend that changed nothing. */
const refusals: readonly unknown[] = ['stale', 'taken', 'gone']

/**
 * What a call to a backend gives, within the budget.
 *
 * @throws KeepsakeError `unavailable` where a reading call fails or is late, `unknown_outcome` where a changing one does, and
 *   where an earlier one of this request has changed something
 */
export const callBackend = <T>(
  deadline: Deadline,
  name: string,
  changing: boolean,
  call: () => Awaitable<T>,
): Awaitable<T> => {
  const noted = (fault: KeepsakeError): KeepsakeError => {
    const told = afterChange(deadline, fault)
    if (changing && told.code === 'unknown_outcome') deadline.changed = true
    return told
  }
  const failure = (error: unknown): KeepsakeError =>
    noted(error instanceof KeepsakeError ? error : failureOf(name, changing, 'failed', error))
  const taken = (answer: T): T => {
    if (changing && !refusals.includes(answer)) deadline.changed = true
    return answer
  }
  if (deadline.left <= 0) throw noted(failureOf(name, false, 'used up the time of the request'))
  const { bulkhead } = deadline
  if (bulkhead !== undefined && bulkhead.inFlight >= bulkhead.most) {
    throw noted(failureOf(name, false, `has ${bulkhead.most} calls under way, as many as it may (maxInFlight)`))
  }
  try {
    const answer = call()
    if (!isThenable(answer)) return taken(answer)
    return withTimer(deadline, answer, taken, failure, () => noted(failureOf(name, changing, 'did not answer in time')))
  } catch (error) {
    throw failure(error)
  }
}
