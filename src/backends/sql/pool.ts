// Connections of a pool, each lent to one call at a time. While the server has no room for another, calls wait.

import type { KeepsakeError } from '../../error.ts'

/** What the lender knows of a pool and its driver. */
export type Lender<C> = {
  /** How many calls may have a connection at once: the others wait here, and not in the pool. Default: as many as come. */
  readonly most?: number
  connect(): PromiseLike<C>
  /** Tells of each connection that the pool makes, a moment later at most. False: this pool tells of none. */
  births(hear: (connection: C) => void): boolean
  /** The server refused a connection, because it has as many as it takes. */
  full(error: unknown): boolean
  /** The server takes no writes, so that another one may by now. */
  readOnly(error: unknown): boolean
  /** What is the same each time that a connection is lent, where the connection is not. */
  identity(connection: C): object
  /** What to throw where no connection can be had. Nothing was sent. */
  refused(error: unknown): KeepsakeError
  /** Puts a connection back after a call, or ends it, where the call failed so that nobody should get it. */
  giveBack(connection: C, error: unknown): void
}

/** What a connection is given back with that was made before its server was found to be read-only. */
const OUTDATED = new Error('The connection is older than the change of its server.')

/** Milliseconds in which all connections are given up once at most, and after which those are that were on their way. */
const RENEWAL = 1_000
/** How often a call is tried again that was refused on a connection that was on its way at a renewal. */
const STRAYS = 3
/** Milliseconds that a call waits for a connection while the server is full: as long as a visit may take. */
const PATIENCE = 2_000
/** Milliseconds after which a full server is asked for one more connection. */
const FULL = 500
/** The same while this process has no connection at all. */
const ALONE = 50

/**
 * Runs calls, each with a connection that it has for itself.
 *
 * Pools answer each call with the error of its own attempt to connect. With a full server that fails visits that could
 * have had a connection of others a moment later, and sends the server one attempt after the other. So after a refusal
 * only as many calls are let through as there are connections, and the others wait in turn.
 *
 * A server that was made read-only answers reads as before, from a copy that gets older. So after a refusal all
 * connections that were made until then are given up, and the pool makes others, to what the name means now. One that was
 * on its way to the old server just then counts as new: a write that it refuses is tried on another, and a moment later
 * it is given up as well, since it would answer reads.
 */
export const lending = <C extends object>(
  lender: Lender<C>,
): (<T>(use: (connection: C) => Promise<T>) => Promise<T>) => {
  /** How many calls have a connection, and how many have one or are getting one. */
  let held = 0
  let admitted = 0
  const { most: usual = Number.POSITIVE_INFINITY } = lender
  let most = usual
  let timed = false
  const waiting: (() => void)[] = []

  const bornIn = new WeakMap<object, number>()
  let era = 0
  let renewed = Number.NEGATIVE_INFINITY
  const tells = lender.births((connection) => bornIn.set(lender.identity(connection), era))
  /** Whether it was time to. */
  const renew = (): boolean => {
    if (performance.now() < renewed + RENEWAL) return false
    renewed = performance.now()
    era++
    setTimeout(() => era++, RENEWAL).unref()
    return true
  }
  /** A connection that is not too old. There are no more old ones than the pool has. */
  const current = async (): Promise<C> => {
    for (;;) {
      const connection = await lender.connect()
      const identity = lender.identity(connection)
      if (tells && era > 0 && !bornIn.has(identity)) await new Promise((resolve) => setImmediate(resolve))
      // One of which was not told is older than this, or else there is nothing to go by but that it is seen now.
      const born = bornIn.get(identity) ?? (tells ? 0 : era)
      bornIn.set(identity, born)
      if (born === era) return connection
      lender.giveBack(connection, OUTDATED)
    }
  }

  const admit = () => {
    while (admitted < most) {
      const next = waiting.shift()
      if (next === undefined) return
      admitted++
      next()
    }
  }
  /** One more at a time, because each attempt that is refused costs the server as much as one that is not. */
  const oneMoreLater = () => {
    if (timed) return
    timed = true
    setTimeout(() => {
      timed = false
      most = waiting.length === 0 ? usual : Math.min(most + 1, usual)
      admit()
      if (most < usual) oneMoreLater()
    }, FULL).unref()
  }
  const serverIsFull = () => {
    most = Math.max(1, held)
    oneMoreLater()
  }
  /** Until it is this call's turn. One that has waited already goes first. */
  const turn = (until: number, first: boolean): Promise<void> =>
    new Promise((resolve, reject) => {
      const go = () => {
        clearTimeout(timer)
        resolve()
      }
      const giveUp = () => {
        waiting.splice(waiting.indexOf(go), 1)
        reject(new Error(`no connection was free within ${PATIENCE} ms`))
      }
      const timer = setTimeout(giveUp, until - performance.now())
      if (first) waiting.unshift(go)
      else waiting.push(go)
    })
  const connected = async (): Promise<C> => {
    const until = performance.now() + PATIENCE
    for (let tries = 0; ; tries++) {
      if (admitted < most) admitted++
      else await turn(until, tries > 0)
      try {
        const connection = await current()
        held++
        return connection
      } catch (error) {
        const full = lender.full(error)
        if (full) serverIsFull()
        if (full && held === 0) await new Promise((resolve) => setTimeout(resolve, ALONE))
        admitted--
        admit()
        if (!full || performance.now() > until) throw error
      }
    }
  }

  const once = async <T>(use: (connection: C) => Promise<T>): Promise<T> => {
    let connection: C
    try {
      connection = await connected()
    } catch (error) {
      throw lender.refused(error)
    }
    let failure: unknown
    try {
      return await use(connection)
    } catch (error) {
      failure = error
      throw error
    } finally {
      held--
      lender.giveBack(connection, failure)
      admitted--
      admit()
    }
  }
  return async (use) => {
    for (let left = STRAYS; ; left--) {
      try {
        return await once(use)
      } catch (error) {
        if (!lender.readOnly(error) || renew() || left === 0) throw error
      }
    }
  }
}
