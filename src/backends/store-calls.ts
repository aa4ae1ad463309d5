// Traces each call of a backend on the diagnostics channel `keepsake.store`, if anybody subscribes to it.

import * as diagnostics from 'node:diagnostics_channel'
import { type Awaitable, isThenable } from '../error.ts'

/**
 * The name of a call: the method of the contract of a backend. `queue` names the wait for an earlier commit of the same
 * session in this process.
 */
export type StoreOperation =
  | 'get'
  | 'generate'
  | 'set'
  | 'clear'
  | 'touch'
  | 'ensureDurable'
  | 'scan'
  | 'byOwner.list'
  | 'byOwner.clear'
  | 'queue'

/**
 * How a call ended:
 *
 * - `hit`: `get` found an entry. It may have expired, or be the mark of an ended session.
 * - `miss`: `get` found no entry.
 * - `conflict`: a write changed nothing, because another request was first. The backend answered `stale`, `taken` or `gone`.
 * - `done`: any other answer.
 * - `failed`: the backend threw an error, or had as many calls in progress as `maxInFlight` allows.
 * - `late`: the time of the request, `storeTimeout`, was used up before the answer came, or before the call began.
 */
export type StoreOutcome = 'hit' | 'miss' | 'done' | 'conflict' | 'failed' | 'late'

/**
 * One call of a backend: the message of the tracing channel `keepsake.store`. All messages of a call are the same object.
 * It contains no key, no cookie, no label and no field.
 */
export type StoreCall = {
  readonly operation: StoreOperation
  /** The `name` of the backend. */
  readonly backend: string
  /** 1, and 1 more for each conflict that the request met before this call, since its beginning or its last `save`. */
  readonly attempt: number
  /** Undefined until the call has ended. */
  outcome?: StoreOutcome
  /** The error that the caller gets, if the outcome is `failed` or `late`: a KeepsakeError. Its `cause` is the driver's error. */
  error?: unknown
}

/* Not a named import: an import of a name that the runtime lacks would stop the whole program. */
const channel = diagnostics.tracingChannel?.<StoreCall, StoreCall>('keepsake.store')

/** Whether anybody subscribes. False on a runtime whose tracing channels have no `hasSubscribers`. */
export const isTraced = (): boolean => channel?.hasSubscribers === true

const refusals: readonly unknown[] = ['stale', 'taken', 'gone']

/** Whether an answer of a write means that the backend changed nothing, because another request was first. */
export const isConflict = (answer: unknown): boolean => refusals.includes(answer)

const outcomeOf = (operation: StoreOperation, answer: unknown): StoreOutcome => {
  if (operation === 'get') return answer === undefined ? 'miss' : 'hit'
  return isConflict(answer) ? 'conflict' : 'done'
}

/**
 * Publishes the messages of one call, as `traceSync` and `tracePromise` of Node do. Neither fits here, because a backend may
 * answer with a value or with a promise. Unlike these it never publishes the answer, because an entry is secret.
 *
 * @param run makes the call. It sets the outcome `late` itself, because only it knows the time of the request
 */
export const traceCall = <T>(storeCall: StoreCall, run: () => Awaitable<T>): Awaitable<T> => {
  if (channel === undefined) return run()
  const { start, end, asyncStart, asyncEnd, error: errors } = channel
  const noteAnswer = (answer: T): T => {
    storeCall.outcome = outcomeOf(storeCall.operation, answer)
    return answer
  }
  const noteError = (error: unknown): void => {
    storeCall.outcome ??= 'failed'
    storeCall.error = error
    errors.publish(storeCall)
  }
  const publishAsyncEnd = (): void => {
    asyncStart.publish(storeCall)
    asyncEnd.publish(storeCall)
  }
  return start.runStores(storeCall, () => {
    try {
      const answer = run()
      if (!isThenable(answer)) return noteAnswer(answer)
      return answer.then(
        (value) => {
          noteAnswer(value)
          publishAsyncEnd()
          return value
        },
        (error) => {
          noteError(error)
          publishAsyncEnd()
          throw error
        },
      )
    } catch (error) {
      noteError(error)
      throw error
    } finally {
      end.publish(storeCall)
    }
  })
}
