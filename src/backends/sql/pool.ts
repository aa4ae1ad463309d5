// Lends each connection of a pool to one call at a time, and lets calls wait while the server takes no more connections.

import type { KeepsakeError } from '../../error.ts'

/** How `createLender` uses a pool of a driver. */
export type PoolDriver<C> = {
  /** The most calls that may have a connection: other calls wait here, not in the pool. Default: no limit. */
  readonly limit?: number
  connect(): PromiseLike<C>
  /** Calls the listener with each connection that the pool creates, at once or a moment later. False: the pool has no such event. */
  onConnection(listener: (connection: C) => void): boolean
  /** Whether the server refused a connection because it has as many as it takes. */
  isFull(error: unknown): boolean
  /** Whether the server takes no writes. Another server may have taken its place. */
  isReadOnly(error: unknown): boolean
  /** An object that is the same each time that a connection is lent, because the connection itself may be another object. */
  identity(connection: C): object
  /** The error to throw if no connection could be had. Nothing was sent. */
  refused(error: unknown): KeepsakeError
  /** Returns a connection to the pool after a call. If the call failed so that no other may use the connection, ends it. */
  release(connection: C, error: unknown): void
}

/** The reason to end a connection that was created before its server was found to be read-only. */
const OUTDATED = new Error('The connection is older than the change of its server.')

/** Milliseconds between two generations of connections. After as long, connections that were being made count as old, too. */
const GENERATION = 1_000
/** How often a call is tried again after a server refused it on a connection that was being made at the change. */
const RETRIES = 3
/** Milliseconds that a call waits for a connection while the server is full: the default of `storeTimeout`. */
const WAIT_TIMEOUT = 2_000
/** Milliseconds after which a full server is asked for one more connection. */
const GROW_INTERVAL = 500
/** The same while this process has no connection at all. */
const FIRST_INTERVAL = 50

/** Ends connections to a server that has become read-only: a connection must belong to the current generation. */
const createGenerations = <C extends object>(driver: PoolDriver<C>) => {
  const createdIn = new WeakMap<object, number>()
  let generation = 0
  let startedAt = Number.NEGATIVE_INFINITY
  const hasEvents = driver.onConnection((connection) => createdIn.set(driver.identity(connection), generation))

  return {
    /** Starts a generation. @returns false if the last one started less than a second ago */
    startNext(): boolean {
      if (performance.now() < startedAt + GENERATION) return false
      startedAt = performance.now()
      generation++
      setTimeout(() => generation++, GENERATION).unref()
      return true
    },
    /** A connection of the current generation. The pool has only as many older ones as its size, so this ends. */
    async connect(): Promise<C> {
      for (;;) {
        const connection = await driver.connect()
        const identity = driver.identity(connection)
        if (hasEvents && generation > 0 && !createdIn.has(identity))
          await new Promise((resolve) => setImmediate(resolve))
        // Without an event for it, it is older than the listener. A pool without events gives no other clue than this use.
        const created = createdIn.get(identity) ?? (hasEvents ? 0 : generation)
        createdIn.set(identity, created)
        if (created === generation) return connection
        driver.release(connection, OUTDATED)
      }
    },
  }
}

/**
 * Runs calls, each with a connection that no other call has at the same time.
 *
 * A pool fails each call with the error of that call's attempt to connect. If the server is full, calls would fail that
 * could have a connection of another call a moment later, and the server would get one attempt after the other. So after
 * a refusal, only as many calls pass as there are connections, and the others wait in a queue.
 *
 * A server that became read-only still answers reads, from a copy that gets older. So after its refusal, all connections
 * that were created before are ended, and the pool creates others, to the server that the host name means now. A connection
 * that was being made to the old server at that moment counts as new. If the server refuses a write on it, the write is
 * tried on another one. A moment later it is ended too, because it would answer reads.
 */
export const createLender = <C extends object>(
  driver: PoolDriver<C>,
): (<T>(use: (connection: C) => Promise<T>) => Promise<T>) => {
  const { limit: usualLimit = Number.POSITIVE_INFINITY } = driver
  let limit = usualLimit
  /** Calls that have a connection. */
  let lent = 0
  /** Calls that have a connection, or are getting one. */
  let admitted = 0
  let isGrowing = false
  const queue: (() => void)[] = []
  const generations = createGenerations(driver)

  const admitNext = () => {
    while (admitted < limit) {
      const next = queue.shift()
      if (next === undefined) return
      admitted++
      next()
    }
  }
  /** Raises the limit by one at a time, because each refused attempt costs the server as much as an accepted one. */
  const growLater = () => {
    if (isGrowing) return
    isGrowing = true
    setTimeout(() => {
      isGrowing = false
      limit = queue.length === 0 ? usualLimit : Math.min(limit + 1, usualLimit)
      admitNext()
      if (limit < usualLimit) growLater()
    }, GROW_INTERVAL).unref()
  }
  const shrink = () => {
    limit = Math.max(1, lent)
    growLater()
  }
  /** Waits until this call may connect. A call that has waited before goes first. */
  const waitInQueue = (until: number, isFirst: boolean): Promise<void> =>
    new Promise((resolve, reject) => {
      const admit = () => {
        clearTimeout(timer)
        resolve()
      }
      const giveUp = () => {
        queue.splice(queue.indexOf(admit), 1)
        reject(new Error(`no connection was free within ${WAIT_TIMEOUT} ms`))
      }
      const timer = setTimeout(giveUp, until - performance.now())
      if (isFirst) queue.unshift(admit)
      else queue.push(admit)
    })
  const connect = async (): Promise<C> => {
    const until = performance.now() + WAIT_TIMEOUT
    for (let attempts = 0; ; attempts++) {
      if (admitted < limit) admitted++
      else await waitInQueue(until, attempts > 0)
      try {
        const connection = await generations.connect()
        lent++
        return connection
      } catch (error) {
        const isFull = driver.isFull(error)
        if (isFull) shrink()
        if (isFull && lent === 0) await new Promise((resolve) => setTimeout(resolve, FIRST_INTERVAL))
        admitted--
        admitNext()
        if (!isFull || performance.now() > until) throw error
      }
    }
  }

  const lendOnce = async <T>(use: (connection: C) => Promise<T>): Promise<T> => {
    let connection: C
    try {
      connection = await connect()
    } catch (error) {
      throw driver.refused(error)
    }
    let failure: unknown
    try {
      return await use(connection)
    } catch (error) {
      failure = error
      throw error
    } finally {
      lent--
      driver.release(connection, failure)
      admitted--
      admitNext()
    }
  }
  return async (use) => {
    for (let left = RETRIES; ; left--) {
      try {
        return await lendOnce(use)
      } catch (error) {
        if (!driver.isReadOnly(error) || generations.startNext() || left === 0) throw error
      }
    }
  }
}
