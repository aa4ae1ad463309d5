// A second connection beside the application's only one, because a rollback of the application does not reach it.

import type { Socket } from 'node:net'
import { ignoreErrorEvents } from './driver.ts'

/**
 * How a driver opens another connection with the configuration of the application's connection.
 *
 * @internal
 */
export type ConnectionDriver<C> = {
  /**
   * The socket of the application's connection. Undefined before it is connected, and if the driver cannot open another
   * connection to the same server.
   */
  applicationSocket(): Socket | undefined
  /** Opens another connection. It gives up by itself after a time. */
  open(): Promise<C>
  socket(connection: C): Socket
  /** @param isBroken true if a statement failed, so its answer may still arrive */
  end(connection: C, isBroken: boolean): void
}

/** Milliseconds that the server has to answer the end of a connection. */
const CLOSE_TIMEOUT = 2_000
/** Milliseconds for which keepsake uses the application's connection after it could not open another one. */
const RETRY_INTERVAL = 1_000

/** Runs statements on some connection. */
export type Executor<A extends unknown[], R> = {
  readonly execute: (...args: A) => Promise<R>
  close?(): Promise<void>
}

export type OwnConnection<C> = {
  /** Whether keepsake uses a connection of its own now. Opens it if there is none. */
  isReady(): Promise<boolean>
  /** Must be called before a statement. Opens the connection if there is none. */
  take(): Promise<C>
  /** Must be called after a statement. If the statement failed, the connection is closed, and the next call opens another. */
  release(connection: C, failed: boolean): void
  /** Closes the connection when no statement runs on it. */
  close(): Promise<void>
}

type Opened<C> = {
  readonly connection: C
  readonly socket: Socket
  readonly closed: Promise<void>
  /** Statements that run on it. */
  statements: number
  /** No new statement may use it. */
  isRetired: boolean
  isBroken: boolean
}

/** A connection that opens at its first use. It keeps no process alive while no statement runs on it. */
const createOwnConnection = <C extends object>(driver: ConnectionDriver<C>): OwnConnection<C> => {
  let applicationSocket = driver.applicationSocket()
  let isListening = false
  let current: Opened<C> | undefined
  let opening: Promise<Opened<C>> | undefined
  let failedAt = Number.NEGATIVE_INFINITY
  const all = new Map<C, Opened<C>>()

  const end = ({ connection, socket, isBroken }: Opened<C>) => {
    // `close` waits for the end, so the process must live until then. A server that has gone never answers.
    socket.ref()
    socket.setTimeout(CLOSE_TIMEOUT, () => socket.destroy())
    driver.end(connection, isBroken)
  }
  const retire = (opened: Opened<C>) => {
    if (current === opened) current = undefined
    if (opened.isRetired) return
    opened.isRetired = true
    if (opened.statements === 0 && !opened.socket.destroyed) end(opened)
  }
  const openAnother = async (): Promise<Opened<C>> => {
    const connection = await driver.open()
    ignoreErrorEvents(connection)
    const socket = driver.socket(connection)
    const closed = new Promise<void>((resolve) => {
      socket.once('close', () => {
        all.delete(connection)
        retire(opened)
        resolve()
      })
    })
    const opened: Opened<C> = { connection, socket, closed, statements: 0, isRetired: false, isBroken: false }
    all.set(connection, opened)
    current = opened
    socket.unref()
    return opened
  }
  const open = async (): Promise<Opened<C>> => {
    if (current !== undefined) return current
    opening ??= openAnother().finally(() => {
      opening = undefined
    })
    return opening
  }

  return {
    async isReady() {
      applicationSocket ??= driver.applicationSocket()
      if (applicationSocket === undefined) return false
      if (!isListening) applicationSocket.once('close', () => current && retire(current))
      isListening = true
      // If the application's connection has ended, there is no other to use.
      if (current !== undefined || applicationSocket.destroyed) return true
      if (performance.now() < failedAt + RETRY_INTERVAL) return false
      try {
        await open()
        return true
      } catch {
        failedAt = performance.now()
        return false
      }
    },
    async take() {
      let opened = await open()
      while (opened.isRetired) opened = await open()
      if (opened.statements++ === 0) opened.socket.ref()
      return opened.connection
    },
    release(connection, failed) {
      const opened = all.get(connection)
      if (opened === undefined) return
      opened.statements--
      opened.isBroken ||= failed
      if (opened.statements === 0) {
        if (opened.isRetired) end(opened)
        else opened.socket.unref()
      }
      if (failed) retire(opened)
    },
    async close() {
      await opening?.catch(() => {})
      const remaining = [...all.values()]
      for (const opened of remaining) retire(opened)
      await Promise.all(remaining.map(({ closed }) => closed))
    },
  }
}

const ownConnections = new WeakMap<object, OwnConnection<object>>()

/** The connection of keepsake beside this connection of the application: one, however many backends use it. */
const ownConnectionFor = <C extends object>(client: object, driver: ConnectionDriver<C>): OwnConnection<C> => {
  const own = (ownConnections.get(client) as OwnConnection<C> | undefined) ?? createOwnConnection(driver)
  ownConnections.set(client, own as unknown as OwnConnection<object>)
  return own
}

/**
 * Runs statements on a connection of keepsake beside this connection of the application, or on the application's if
 * keepsake cannot open one.
 *
 * @param createExecute makes the function that runs statements on the connection of keepsake
 * @internal
 */
export const executeBeside = <C extends object, A extends unknown[], R>(
  client: object,
  driver: ConnectionDriver<C>,
  createExecute: (own: OwnConnection<C>) => (...args: A) => Promise<R>,
  executeOnApplication: (...args: A) => Promise<R>,
): Executor<A, R> => {
  const own = ownConnectionFor(client, driver)
  const executeOnOwn = createExecute(own)
  let isClosed = false
  return {
    execute: async (...args) =>
      !isClosed && (await own.isReady()) ? executeOnOwn(...args) : executeOnApplication(...args),
    async close() {
      isClosed = true
      await own.close()
    },
  }
}
