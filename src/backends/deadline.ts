// The time that one request may wait for its backend, even if the driver never answers.

import { type Awaitable, isThenable, KeepsakeError } from '../error.ts'
import { isConflict, isTraced, type StoreCall, type StoreOperation, traceCall } from './store-calls.ts'

/** The calls of a manager that its backend has not answered yet: without a limit, a backend that hangs fills the memory. */
type InFlight = { count: number; readonly max: number }

export type Deadline = {
  /** Milliseconds that are left. Only waiting for promises uses them, so a synchronous backend uses none. */
  left: number
  /** Milliseconds of the whole request, or of the time since its last `save`. */
  readonly limit?: number
  readonly inFlight?: InFlight
  /** Whether a call of this request has changed something, or may have. After that no error may claim that nothing was changed. */
  changed?: boolean
  /** How often the backend answered a write of this request that another request was first. */
  conflicts?: number
}

/** Milliseconds after which a call that was given up no longer counts as in flight, even if its driver never answers. */
const FORGET_AFTER = 30_000

type Waiting = { readonly until: number; readonly giveUp: () => void }

/* Read once, when this module is loaded: a test that replaces timers must not stop the clock of deadlines. */
const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = globalThis
const realTime = performance.now.bind(performance)

/* Cloudflare Workers stop a timer when the request that started it ends, so each call gets its own timer there. */
const OWN_TIMERS = globalThis.navigator?.userAgent === 'Cloudflare-Workers'

/* Elsewhere one interval serves all calls. It runs only while a call waits, and does not keep the process alive. */
const TICK = 25
/** Milliseconds between two ticks that mean that the process did not run: the machine was suspended, or a handler computed. */
const STANDSTILL = 250
const waiting = new Set<Waiting>()
let interval: ReturnType<typeof setInterval> | undefined
let lastTick = 0
let stoodStill = 0

/** Milliseconds for which this process ran. A process that stands still cannot read an answer, so that time does not count. */
const runningTime = (): number => {
  const now = realTime()
  if (interval !== undefined && now - lastTick > STANDSTILL) stoodStill += now - lastTick - TICK
  lastTick = now
  return now - stoodStill
}

const giveUpLate = (now: number) => {
  for (const call of waiting) if (now >= call.until) call.giveUp()
}

const tick = () => {
  const now = runningTime()
  // After a standstill answers may be ready to read. They are read before setImmediate, and only the other calls are late.
  for (const { until } of waiting) {
    if (now < until) continue
    setImmediate(() => giveUpLate(now))
    break
  }
  if (waiting.size > 0) return
  clearInterval(interval)
  interval = undefined
}

/** Starts the interval if it does not run, and returns the time. */
const startClock = (): number => {
  const now = runningTime()
  if (!OWN_TIMERS) interval ??= setInterval(tick, TICK)
  return now
}

/** Waits for a promise until the deadline. It creates one promise and no more for each call: a read of a fast server costs little else. */
const withTimer = <T>(
  deadline: Deadline,
  promise: PromiseLike<T>,
  noteAnswer: (answer: T) => T,
  failure: (error: unknown) => KeepsakeError,
  lateError: () => KeepsakeError,
): Promise<T> => {
  const { inFlight } = deadline
  const started = startClock()
  return new Promise((resolve, reject) => {
    let isCounted = inFlight !== undefined
    let isWaiting = true
    if (inFlight !== undefined) inFlight.count++
    /** A call that was given up stays counted until its answer, or until FORGET_AFTER. */
    const uncount = () => {
      if (isCounted && inFlight !== undefined) inFlight.count--
      isCounted = false
    }
    const stopWaiting = () => {
      clearTimeout(ownTimer)
      isWaiting = false
      waiting.delete(call)
      deadline.left -= runningTime() - started
    }
    const call: Waiting = {
      until: started + deadline.left,
      giveUp() {
        stopWaiting()
        if (isCounted) globalThis.setTimeout(uncount, FORGET_AFTER).unref()
        reject(lateError())
      },
    }
    waiting.add(call)
    const ownTimer = OWN_TIMERS ? setTimeout(call.giveUp, deadline.left) : undefined
    promise.then(
      (answer) => {
        uncount()
        if (isWaiting) stopWaiting()
        resolve(noteAnswer(answer))
      },
      (error) => {
        uncount()
        if (isWaiting) stopWaiting()
        reject(failure(error))
      },
    )
  })
}

/** Returns a function that checks whether time is left. It also counts the time of a loop that never waits. */
export const untilDeadline = (deadline: Deadline): (() => boolean) => {
  const until = runningTime() + deadline.left
  return () => deadline.left > 0 && runningTime() < until
}

const CHANGED_EARLIER =
  'An earlier step of this request changed something, so the outcome is unknown: read the session again.'

/** The error of a request that has changed something: it must not claim that nothing was changed. */
export const afterChange = ({ changed }: Deadline, error: KeepsakeError): KeepsakeError =>
  changed && (error.code === 'unavailable' || error.code === 'contention')
    ? new KeepsakeError(
        'unknown_outcome',
        `${error.message.replace(/ Nothing was (changed|saved)\b[^.]*\./, '')} ${CHANGED_EARLIER}`,
        { cause: error.cause ?? error },
      )
    : error

const failureOf = (name: string, isWrite: boolean, problem: string, cause?: unknown): KeepsakeError => {
  const options = cause === undefined ? {} : { cause }
  return isWrite
    ? new KeepsakeError(
        'unknown_outcome',
        `The ${name} backend ${problem} during a write. The change may or may not have been saved.`,
        options,
      )
    : new KeepsakeError(
        'unavailable',
        `The ${name} backend ${problem}. Nothing was changed. Check that it is running.`,
        options,
      )
}

/** Makes a call without tracing it. @param storeCall gets the outcome `late`, if the call is traced */
const callInTime = <T>(
  deadline: Deadline,
  name: string,
  isWrite: boolean,
  call: () => Awaitable<T>,
  storeCall: StoreCall | undefined,
): Awaitable<T> => {
  const noteError = (error: KeepsakeError): KeepsakeError => {
    const noted = afterChange(deadline, error)
    if (isWrite && noted.code === 'unknown_outcome') deadline.changed = true
    return noted
  }
  const failure = (error: unknown): KeepsakeError =>
    noteError(error instanceof KeepsakeError ? error : failureOf(name, isWrite, 'failed', error))
  const late = (error: KeepsakeError): KeepsakeError => {
    if (storeCall !== undefined) storeCall.outcome = 'late'
    return noteError(error)
  }
  const noteAnswer = (answer: T): T => {
    if (!isWrite) return answer
    if (isConflict(answer)) deadline.conflicts = (deadline.conflicts ?? 0) + 1
    else deadline.changed = true
    return answer
  }
  if (deadline.left <= 0) {
    throw late(failureOf(name, false, "exceeded this request's time limit (storeTimeout)"))
  }
  const { inFlight } = deadline
  if (inFlight !== undefined && inFlight.count >= inFlight.max) {
    throw noteError(failureOf(name, false, `has ${inFlight.max} calls in progress, as many as maxInFlight allows`))
  }
  try {
    const answer = call()
    if (!isThenable(answer)) return noteAnswer(answer)
    return withTimer(deadline, answer, noteAnswer, failure, () =>
      late(failureOf(name, isWrite, 'did not answer in time (storeTimeout)')),
    )
  } catch (error) {
    throw failure(error)
  }
}

/**
 * Calls a backend, and waits for its answer until the deadline.
 *
 * @throws KeepsakeError `unavailable` if a read fails or is late; `unknown_outcome` if a write fails or is late, or if a read
 *   does after this request has changed something; and every KeepsakeError of the backend itself
 */
export const callBackend = <T>(
  deadline: Deadline,
  name: string,
  operation: StoreOperation,
  isWrite: boolean,
  call: () => Awaitable<T>,
): Awaitable<T> => {
  if (!isTraced()) return callInTime(deadline, name, isWrite, call, undefined)
  const storeCall: StoreCall = { operation, backend: name, attempt: 1 + (deadline.conflicts ?? 0) }
  return traceCall(storeCall, () => callInTime(deadline, name, isWrite, call, storeCall))
}
