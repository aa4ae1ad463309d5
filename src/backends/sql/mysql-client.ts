// Runs statements of sessions on a client of mysql2 or mariadb: a pool, a single connection, or one more beside it.

import type { Socket } from 'node:net'
import { KeepsakeError } from '../../error.ts'
import { hasMethod, ignoreErrorEvents, listenToConnections, property } from './driver.ts'
import {
  assertStatus,
  type Connection,
  type Execute,
  executeOn,
  executeOnApplication,
  type PromiseClient,
  statusError,
  statusOf,
  withoutValues,
} from './mysql-connection.ts'
import { isDuplicate, isFull, isReadOnly, isUndone } from './mysql-errors.ts'
import { type ConnectionDriver, type Executor, executeBeside, type OwnConnection } from './own-connection.ts'
import { createLender } from './pool.ts'
import { refusal } from './statement-errors.ts'
import { ANSWER_TIMEOUT, CONNECT_TIMEOUT } from './timeouts.ts'

/** A live pool or connection of `mysql2`, with callbacks. */
type CallbackClient = { promise(): unknown; execute(...args: never[]): unknown }
export type MysqlClient = PromiseClient | CallbackClient

type Pool = {
  readonly limit?: number
  getConnection(): PromiseLike<Connection>
  on?(event: 'acquire' | 'release', listener: (connection: object) => void): unknown
}

/** The connection below a connection of mysql2, which has its configuration. */
type Core = {
  readonly constructor: new (options: { readonly config: object }) => Core
  readonly config: { readonly connectTimeout: number }
  /** Null until it is connected. */
  readonly threadId: number | null
  readonly stream: Socket
  promise(): PromiseClient
  query(sql: string, done: (error: unknown) => void): void
  end(done: () => void): void
  destroy(): void
}

type Answer = Awaited<ReturnType<Execute>>

/** A promise that rejects if another one is not settled in time. */
const withTimeout = async <T>(promise: Promise<T>, milliseconds: number): Promise<T> => {
  const { promise: timeout, reject } = Promise.withResolvers<never>()
  const giveUp = () => reject(new Error(`The database did not answer within ${milliseconds} ms.`))
  const timer = setTimeout(giveUp, milliseconds)
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Which connections of a pool the application may have changed since keepsake used them.
 *
 * mysql2 gives no status with rows, and a read in an open transaction would return sessions as they were at its start. So
 * keepsake reads the status of a connection that the application may have used since. If a full pool passes a connection
 * directly from one user to the next, it emits no event, so such a connection is not trusted either. mariadb keeps the
 * last status, but invents one after an error.
 *
 * @param isOurs true for a pool that only keepsake uses
 */
const createTrust = (pool: Pool, isOurs: boolean) => {
  const trusted = new WeakSet<object>()
  let isOurCall = isOurs
  if (!isOurs && hasMethod(pool, 'on')) {
    pool.on?.('acquire', (connection) => isOurCall || trusted.delete(connection))
    pool.on?.('release', (connection) => isOurCall && trusted.add(connection))
  }
  return {
    /** Calls the pool. Events during the call are not about the application. */
    call<T>(callPool: () => T): T {
      const before = isOurCall
      isOurCall = true
      try {
        return callPool()
      } finally {
        isOurCall = before
      }
    },
    isTrusted: ({ connection, info }: Connection): boolean =>
      isOurs ||
      (info === undefined
        ? connection !== undefined && trusted.has(connection)
        : statusError(info.status) === undefined),
  }
}

/**
 * Runs statements on a pool, each on a connection of its own. After most errors the connection is ended: the server may
 * be about to close it, or another server may have taken its place.
 *
 * @param timeout for a pool that only keepsake uses: milliseconds until a statement without an answer is given up, and its
 * connection ended
 */
const executeOnPool = (pool: Pool, timeout?: number): Execute => {
  const trust = createTrust(pool, timeout !== undefined)
  const limit = pool.limit ?? property(property(property(pool, 'pool'), 'config'), 'connectionLimit')
  const lend = createLender<Connection>({
    ...(typeof limit === 'number' && limit > 0 && { limit }),
    async connect() {
      const connection = await trust.call(() => pool.getConnection())
      // mysql2 listens only to the first error of a connection.
      if (connection.connection !== undefined) ignoreErrorEvents(connection.connection)
      return connection
    },
    onConnection: (listener) => listenToConnections(pool, 'connection', listener),
    isFull,
    isReadOnly,
    identity: (connection) => connection.connection ?? connection.info ?? connection,
    refused: (error) =>
      refusal(
        'The database',
        withoutValues(error),
        'Check that it is running, and that it takes connections of this user.',
      ),
    release(connection, error) {
      if (error !== undefined && !isDuplicate(error) && !isUndone(error)) return connection.destroy?.()
      Promise.resolve(trust.call(() => connection.release?.())).catch(() => {})
    },
  })
  const execute = async (connection: Connection, ...args: Parameters<Execute>): Promise<Answer> => {
    if (!trust.isTrusted(connection)) assertStatus(await statusOf(connection))
    const answer = await executeOn(connection)(...args)
    // If this throws, the connection is ended, and its transaction is rolled back.
    assertStatus(answer.status)
    return answer
  }
  return (...args) =>
    lend((connection) =>
      timeout === undefined ? execute(connection, ...args) : withTimeout(execute(connection, ...args), timeout),
    )
}

/** Seconds that a statement waits for a lock, at each try. The servers' defaults are 50 and 86 400. */
const LOCK_TIMEOUT = 1
/** The first statement on each connection that keepsake opens. */
export const FIRST_STATEMENT = `set session autocommit = 1, innodb_lock_wait_timeout = ${LOCK_TIMEOUT}, lock_wait_timeout = ${LOCK_TIMEOUT}`

/**
 * The core of a single connection of mysql2, if keepsake can open another one like it. It cannot if a pool lent the
 * connection, because the driver has no event for its return; if the application made its socket; and if the application
 * chose the database only after it had connected.
 */
const coreOf = (client: unknown): Core | undefined => {
  const core = hasMethod(client, 'promise') ? client : property(client, 'connection')
  const config = property(core, 'config')
  const isSingle =
    hasMethod(core, 'promise') && hasMethod(property(core, 'stream'), 'unref') && !hasMethod(core, 'release')
  const isRepeatable = Boolean(property(config, 'database')) && typeof property(config, 'stream') !== 'object'
  return isSingle && isRepeatable ? (core as Core) : undefined
}

/** Another connection with the configuration of the core. */
const openLike = (core: Core): Promise<Core> =>
  new Promise((resolve, reject) => {
    const connectTimeout = Math.min(core.config.connectTimeout || CONNECT_TIMEOUT, CONNECT_TIMEOUT)
    // mysql2 recognises a configuration by its class, and reads any other object as options.
    const config = Object.assign(Object.create(Object.getPrototypeOf(core.config)), core.config, { connectTimeout })
    const another = new core.constructor({ config })
    ignoreErrorEvents(another)
    // If the connection fails, mysql2 gives the error to the first statement that waits.
    another.query(FIRST_STATEMENT, (error) => {
      if (error == null) return resolve(another)
      another.destroy()
      reject(error)
    })
  })

/** How to open a connection of keepsake's own beside a single one of the application, with the same configuration. */
const driverBeside = (core: Core): ConnectionDriver<Core> => ({
  applicationSocket: () => (core.threadId === null ? undefined : core.stream),
  open: () => openLike(core),
  socket: ({ stream }) => stream,
  end: (another, isBroken) => (isBroken ? another.destroy() : another.end(() => {})),
})

/** The own connection as a pool. */
const poolOf = (own: OwnConnection<Core>): Pool => ({
  limit: 1,
  async getConnection() {
    const another = await own.take()
    const client = another.promise()
    return {
      connection: another,
      execute: (query, values) => client.execute(query, values),
      query: (query, values) => (client.query ?? client.execute).call(client, query, values),
      release: () => own.release(another, false),
      destroy: () => own.release(another, true),
    }
  },
})

/**
 * Runs statements on a client.
 *
 * @param timeout for a pool that only keepsake uses: milliseconds until a statement without an answer is given up
 * @throws KeepsakeError `invalid_option`
 */
export const createExecutor = (client: MysqlClient, timeout?: number): Executor<Parameters<Execute>, Answer> => {
  const promiseClient = (hasMethod(client, 'promise') ? (client as CallbackClient).promise() : client) as PromiseClient
  if (!hasMethod(promiseClient, 'execute')) {
    throw new KeepsakeError(
      'invalid_option',
      'A MySQL backend got no client that it can use. Pass a pool or a connection of mysql2 or mariadb.',
    )
  }
  ignoreErrorEvents(promiseClient)
  if (hasMethod(promiseClient, 'getConnection')) {
    return { execute: executeOnPool(promiseClient as unknown as Pool, timeout) }
  }
  const core = coreOf(client)
  const execute = executeOnApplication(promiseClient)
  if (core === undefined) return { execute }
  return executeBeside(core, driverBeside(core), (own) => executeOnPool(poolOf(own), ANSWER_TIMEOUT), execute)
}
