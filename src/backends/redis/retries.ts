// Sends a command again if it is certain that the first try changed nothing.

import { type KeepsakeError, messageOf } from '../../error.ts'
import { type ClientState, nextTurn, noticeClosedConnections } from './client-state.ts'
import type { Command } from './driver.ts'
import { isUnsent, refusalCode, refusalError, unreachableError } from './refusals.ts'

/** Commands that change nothing, so they can always be sent twice. */
const READS: readonly string[] = ['get', 'pttl', 'scan', 'info', 'cluster']
/** Milliseconds without a command, after which the server may have closed the connection without the client noticing. */
const IDLE = 20

/**
 * Returns a function that sends commands. It sends a command again if it is certain that nothing was changed: the server
 * had closed the connection before the client noticed, as happens to a process that was suspended, or the server is now a
 * replica and the client reconnects.
 *
 * @throws KeepsakeError `unavailable` if it is certain that nothing was changed, otherwise the client's error
 */
export const withRetries = (
  state: ClientState,
  send: (command: Command) => Promise<unknown>,
): ((command: Command) => Promise<unknown>) => {
  const { emitsEvents, isReady, lossCount, waitForConnection, lastError, unsentMessage, maxTries, waitBeforeRetry } =
    state
  let lastUse = performance.now()

  const requireConnection = async (earlierRefusal: KeepsakeError | undefined) => {
    await waitForConnection()
    if (!isReady()) throw earlierRefusal ?? unreachableError(lastError())
  }

  /** @param lossesBefore how many connections had been lost before the try */
  const classify = async (error: unknown, lossesBefore: number, [name = '']: Command) => {
    // A client that resends unanswered commands by itself may have succeeded the first time.
    const isFirst = lossCount() === lossesBefore
    const refusal = isFirst ? refusalCode(error) : undefined
    await nextTurn()
    const isLost = lossCount() !== lossesBefore
    const unsent =
      isUnsent(error, isFirst) || (!isLost && unsentMessage !== undefined && messageOf(error) === unsentMessage)
    return { refusal, unsent, canRetry: unsent || refusal === 'READONLY' || (isLost && READS.includes(name)) }
  }

  return async (command) => {
    const now = performance.now()
    // If a write is sent on a closed connection, nobody can know whether the server carried it out.
    if (emitsEvents && now - lastUse > IDLE && !READS.includes(command[0] as string)) await noticeClosedConnections()
    lastUse = now
    /** The server's answer to an earlier try. It explains more than the later error that the client is reconnecting. */
    let earlierRefusal: KeepsakeError | undefined
    for (let tries = 1; ; tries++) {
      if (!isReady()) await requireConnection(earlierRefusal)
      const lossesBefore = lossCount()
      try {
        return await send(command)
      } catch (error) {
        const { refusal, unsent, canRetry } = await classify(error, lossesBefore, command)
        if (refusal !== undefined) earlierRefusal = refusalError(error, refusal)
        if (!canRetry || tries === maxTries) {
          if (refusal !== undefined || unsent) throw earlierRefusal ?? unreachableError(error)
          throw error
        }
        if (refusal === undefined) await waitBeforeRetry(unsent)
      }
    }
  }
}
