// The state of a client's connections, as its events report it: ready, connecting, or lost.

import { messageOf } from '../../error.ts'
import type { EventSource } from './driver.ts'

export type ClientState = {
  /** Whether the client emits events about its connections. */
  readonly emitsEvents: boolean
  /** Whether the client sends a command at once. */
  isReady(): boolean
  /** How many good connections were lost. The server may have carried out unanswered commands of a lost connection. */
  lossCount(): number
  /** Counts a loss, if the client has several connections and one of them was lost. */
  countLoss(): void
  /**
   * Waits while the client connects, at most for the wait limit. Returns at once if an attempt to connect has failed
   * since the last good connection, so calls fail fast while a server is down. All callers wait together.
   */
  waitForConnection(): Promise<void>
  /**
   * Only for a cluster: the message of an error that the client also throws if it could not connect, so nothing was
   * sent.
   */
  readonly unsentMessage?: string
  /** How many times at most a command is sent, if sending it again is safe. */
  readonly maxTries: number
  /**
   * Waits between two tries. After a command that was not sent, it waits until the client reports the lost connection.
   */
  waitBeforeRetry(wasUnsent: boolean): Promise<void>
  /** The last error that the client reported while it had no connection. */
  lastError(): unknown
}

/** Milliseconds that a command waits for a connection, if the caller's own limit is unknown. */
const WAIT_LIMIT = 1_500

/** Waits for the next turn of the event loop: Node reads its sockets and emits the events of closed connections. */
export const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Waits until the client has emitted the events of connections that the server has closed. That takes several turns. */
export const noticeClosedConnections = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await nextTurn()
}

/** Lets many callers wait for one event together, at most for so many milliseconds. */
const sharedWait = (limit: number) => {
  let waiting: Promise<void> | undefined
  let release = () => {}
  return {
    wait() {
      waiting ??= new Promise((resolve) => {
        // A process that was suspended first reads its sockets, and only then gives up.
        const timer = setTimeout(() => nextTurn().then(() => release()), limit)
        release = () => {
          clearTimeout(timer)
          waiting = undefined
          resolve()
        }
      })
      return waiting
    },
    release: () => release(),
  }
}

type FollowOptions = {
  /** Used only if the client emits events. A client without events counts as ready. */
  readonly isReady: () => boolean
  /** Events with which the client reports that a connection was lost or could not be made. */
  readonly downEvents: readonly string[]
  /** Starts connecting, if the client does not connect by itself. */
  readonly connect?: () => void
  /** Milliseconds that callers wait for a connection. Default 1500. */
  readonly waitLimit?: number | undefined
}

/** Follows a client by its events. From now on, an `error` event of the client ends no process. */
export const followClient = (client: EventSource, options: FollowOptions): ClientState => {
  const { downEvents, connect, waitLimit = WAIT_LIMIT } = options
  let isGood = options.isReady()
  let losses = 0
  /** Whether an attempt to connect has failed since the last good connection. */
  let hasFailed = false
  let lastError: unknown
  let nodeError: unknown
  const connected = sharedWait(waitLimit)
  const disconnected = sharedWait(waitLimit)
  const fail = () => {
    hasFailed = true
    connected.release()
  }
  const emitsEvents = Boolean(
    client.on?.('ready', () => {
      isGood = true
      hasFailed = false
      lastError = undefined
      connected.release()
    }),
  )
  const isReady = emitsEvents ? options.isReady : () => true
  for (const event of downEvents) {
    client.on?.(event, () => {
      if (isGood) losses++
      else fail()
      isGood = false
      disconnected.release()
    })
  }
  client.on?.('error', (error: unknown) => {
    lastError = nodeError ?? error
    nodeError = undefined
    if (!isGood) fail()
  })
  // The client is closed for good.
  client.on?.('end', fail)
  // One server of a cluster failed, and the client goes on with the others. If none is left, its own error says less.
  client.on?.('node error', (error: unknown) => {
    if (messageOf(error) !== 'Connection is closed.') nodeError = error
  })
  return {
    emitsEvents,
    isReady,
    lossCount: () => losses,
    countLoss() {
      losses++
    },
    async waitForConnection() {
      connect?.()
      if (!isReady() && !hasFailed) await connected.wait()
    },
    maxTries: 3,
    async waitBeforeRetry(wasUnsent) {
      if (wasUnsent && isReady()) await disconnected.wait()
    },
    lastError: () => lastError,
  }
}
