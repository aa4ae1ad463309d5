// A second connection beside a single one of the application, whose transactions then take nothing back.

import type { Socket } from 'node:net'
import { ignoreErrorEvents } from './table.ts'

/**
 * How a driver opens another connection like the one that the application gave.
 *
 * @internal
 */
export type Driver<C> = {
  /**
   * The socket of the application's connection, once that is connected. Undefined before, and where the driver cannot
   * open another connection to the same server.
   */
  theirs(): Socket | undefined
  /** Opens another connection. It gives up by itself after a time. */
  open(): Promise<C>
  socket(connection: C): Socket
  /** @param broken whether a statement failed, so that an answer to it may still be on its way */
  end(connection: C, broken: boolean): void
}

/** Milliseconds that an attempt to connect may take: as long as a visit may. */
export const CONNECTING = 2_000
/** Milliseconds that a statement may take. A connection that does not answer for so long is given up. */
export const ANSWERING = 5_000
/** Milliseconds that the server has to answer the end of a connection. */
const CLOSING = 2_000
/** Milliseconds in which the application's connection is used, after no other could be opened. */
const PAUSE = 1_000

type Held<C> = { connection: C; socket: Socket; users: number; over: boolean; broken: boolean; closed: Promise<void> }

export type Own<C> = {
  /** Whether sessions use a connection of their own now. Opens it where there is none. */
  ready(): Promise<boolean>
  /** A statement is about to begin. Opens the connection where there is none. */
  take(): Promise<C>
  /** A statement has ended. After one that failed, the connection is closed, and the next call opens another. */
  release(connection: C, failed: boolean): void
  /** Closes the connection once no statement runs on it. */
  close(): Promise<void>
}

/** Opens the connection at its first use. It keeps no process alive while no statement runs. */
const owning = <C extends object>(driver: Driver<C>): Own<C> => {
  let theirs = driver.theirs()
  let listening = false
  let current: Held<C> | undefined
  let opening: Promise<Held<C>> | undefined
  let failedAt = Number.NEGATIVE_INFINITY
  const all = new Map<C, Held<C>>()

  const end = ({ connection, socket, broken }: Held<C>) => {
    // Who waits for the end needs the process to live until then. A server that is gone answers nothing.
    socket.ref()
    socket.setTimeout(CLOSING, () => socket.destroy())
    driver.end(connection, broken)
  }
  const retire = (held: Held<C>) => {
    if (current === held) current = undefined
    if (held.over) return
    held.over = true
    if (held.users === 0 && !held.socket.destroyed) end(held)
  }
  const make = async (): Promise<Held<C>> => {
    const connection = await driver.open()
    ignoreErrorEvents(connection)
    const socket = driver.socket(connection)
    const closed = new Promise<void>((resolve) => {
      socket.once('close', () => {
        all.delete(connection)
        retire(held)
        resolve()
      })
    })
    const held: Held<C> = { connection, socket, users: 0, over: false, broken: false, closed }
    all.set(connection, held)
    current = held
    socket.unref()
    return held
  }
  const open = async (): Promise<Held<C>> => {
    if (current !== undefined) return current
    opening ??= make().finally(() => {
      opening = undefined
    })
    return opening
  }

  return {
    async ready() {
      theirs ??= driver.theirs()
      if (theirs === undefined) return false
      if (!listening) theirs.once('close', () => current && retire(current))
      listening = true
      // Where the application's connection is over, there is nothing else to use.
      if (current !== undefined || theirs.destroyed) return true
      if (performance.now() < failedAt + PAUSE) return false
      try {
        await open()
        return true
      } catch {
        failedAt = performance.now()
        return false
      }
    },
    async take() {
      let held = await open()
      while (held.over) held = await open()
      if (held.users++ === 0) held.socket.ref()
      return held.connection
    },
    release(connection, failed) {
      const held = all.get(connection)
      if (held === undefined) return
      held.users--
      held.broken ||= failed
      if (held.users === 0) {
        if (held.over) end(held)
        else held.socket.unref()
      }
      if (failed) retire(held)
    },
    async close() {
      await opening?.catch(() => {})
      const held = [...all.values()]
      for (const one of held) retire(one)
      await Promise.all(held.map(({ closed }) => closed))
    },
  }
}

const owns = new WeakMap<object, Own<object>>()

/**
 * The one connection of sessions beside this one of the application, however many backends are made of it.
 *
 * @internal
 */
export const ownBeside = <C extends object>(client: object, driver: Driver<C>): Own<C> => {
  const own = (owns.get(client) as Own<C> | undefined) ?? owning(driver)
  owns.set(client, own as unknown as Own<object>)
  return own
}

export type Asker<A extends unknown[], R> = { readonly ask: (...args: A) => Promise<R>; close?(): Promise<void> }

/** Asks on the connection of sessions, and where there is none, on the application's. */
export const preferring = <C, A extends unknown[], R>(
  own: Own<C>,
  onOwn: (...args: A) => Promise<R>,
  onTheirs: (...args: A) => Promise<R>,
): Asker<A, R> => {
  let closed = false
  return {
    ask: async (...args) => (!closed && (await own.ready()) ? onOwn(...args) : onTheirs(...args)),
    async close() {
      closed = true
      await own.close()
    },
  }
}
