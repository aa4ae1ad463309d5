// Runs statements of sessions on a client of pg, postgres.js or PGlite, and never in a transaction of the application.

import type { Socket } from 'node:net'
import { KeepsakeError } from '../../error.ts'
import { hasMethod, ignoreErrorEvents, listenToConnections, property } from './driver.ts'
import { type ConnectionDriver, type Executor, executeBeside, type OwnConnection } from './own-connection.ts'
import { createLender } from './pool.ts'
import { isFull, isReadOnly } from './postgres-errors.ts'
import { inTransaction, refusal, undecided } from './statement-errors.ts'
import type { Row } from './table.ts'
import { ANSWER_TIMEOUT, CONNECT_TIMEOUT } from './timeouts.ts'

export type Value = string | number | null

type Query = { name?: string; text: string; values: Value[]; rowMode: 'array' }
type Result = { readonly rows: readonly Row[] }

/** A live Pool or Client of `pg`, or an object with its interface. */
type Pg = {
  connect(...args: never[]): unknown
  query(query: Query): Promise<Result>
}
/** A live PGlite. */
type Lite = {
  query(text: string, values: Value[], options: { rowMode: 'array' }): Promise<{ readonly rows: readonly unknown[] }>
}
/**
 * The function that `postgres()` of postgres.js returns. Pass the option `fetch_types: false` to it. Without it,
 * postgres.js queries types on each new connection, and if that connection is reset, an unhandled rejection ends the
 * process.
 */
type PostgresJs = {
  unsafe(text: string, values: Value[], options: { prepare: boolean }): { values(): PromiseLike<readonly unknown[]> }
}
export type PostgresClient = Pg | Lite | PostgresJs

/** A statement under a name made from its text: drivers refuse another text under a name that is already prepared. */
export type Statement = {
  readonly name: string
  readonly text: string
  /** A write that also returns the number of its transaction, in the last column (`transactionNumber`). */
  readonly numbered?: { readonly name: string; readonly text: string }
}
export type Execute = (statement: Statement, values: Value[]) => Promise<readonly Row[]>

/** A client of `pg` that knows whether it is in a transaction. */
type PgWithStatus = {
  query(query: Query, done: (error: unknown, result: Result) => void): void
  getTransactionStatus(): string | null
}
type PoolClient = Pg & { release(end: boolean): void }
type PgPool = {
  readonly limit?: number
  connect(): unknown
  on?(event: 'connect', listener: (client: PoolClient) => void): unknown
}
/** A Client of `pg` that knows its configuration. */
type ConfiguredClient = Pg & {
  readonly constructor: new (config: object) => ConfiguredClient
  readonly connectionParameters: { readonly password?: unknown; readonly query_timeout?: unknown }
  readonly host: string
  readonly port: number
  /** Null until it is connected. */
  readonly processID: number | null
  readonly connection: { readonly stream: Socket }
  readonly enableChannelBinding?: boolean
  readonly scramMaxIterations?: number
  readonly _connectionTimeoutMillis?: number
  connect(): Promise<unknown>
  end(): Promise<void>
}

const isLite = (client: unknown): client is Lite => hasMethod(client, 'query') && !hasMethod(client, 'connect')

/**
 * Runs statements on one client of `pg`, and checks whether a transaction is open when the end of each statement arrives.
 * A moment later would be too late, because the next statement may have ended by then.
 *
 * @param isFromPool the pool ends this client after an error, and with it the transaction
 */
const executeWithStatus = (client: PgWithStatus, prepare: boolean, isFromPool: boolean): Execute => {
  const status = () => client.getTransactionStatus()
  return ({ name, text }, values) =>
    new Promise((resolve, reject) => {
      if (status() === 'T' || status() === 'E') return reject(inTransaction())
      client.query({ ...(prepare && { name }), text, values, rowMode: 'array' }, (error, result) => {
        if (error) reject(error)
        else if (status() === 'I') resolve(result.rows)
        else reject(isFromPool ? inTransaction() : undecided())
      })
    })
}

/** The number of the transaction of a statement. The server can be asked later whether it was committed. */
const NUMBER = 'pg_current_xact_id()::text'
/**
 * The same, or null if the statement is certainly a transaction of its own, so that no question is necessary.
 *
 * A transaction begins with its first message. If that is the message that binds the values to a prepared statement, the
 * cursor has the time at which the transaction began, to the microsecond. In a transaction of the application it has a
 * later time. It also has a later time while the statement is being prepared. And if the clock did not move between two
 * messages, the times prove nothing. In both cases the number is returned.
 */
const NUMBER_UNLESS_ALONE = `case when exists (
  select from pg_cursors where name = '' and creation_time = now() and creation_time < statement_timestamp()
) then null else ${NUMBER} end`

/**
 * The last column of a write, for drivers that do not know whether a transaction is open. With PGlite a question costs
 * no message, and its clock has milliseconds only, so it always returns the number.
 */
export const transactionNumber = (client: PostgresClient): string => (isLite(client) ? NUMBER : NUMBER_UNLESS_ALONE)

const CONFIRM = { name: 'keepsake_confirm', text: 'select pg_xact_status($1::text::xid8)' }

/**
 * Runs statements with a driver that does not know whether a transaction is open. After a write it asks the server about
 * the number of the transaction. Any connection of the pool can ask.
 */
const executeAndConfirm =
  (execute: Execute): Execute =>
  async ({ numbered, ...statement }, values) => {
    if (numbered === undefined) return execute(statement, values)
    const rows = await execute(numbered, values)
    const transaction = rows[0]?.at(-1) as string | null | undefined
    if (transaction == null) return rows
    const outcome = (await execute(CONFIRM, [transaction]))[0]?.[0]
    if (outcome === 'committed') return rows
    throw outcome === 'aborted' ? inTransaction() : undecided()
  }

/** Runs statements on one client of `pg`, or on an object with its interface. */
const executeOnPg = (client: Pg, prepare: boolean, isFromPool = false): Execute =>
  hasMethod(client, 'getTransactionStatus')
    ? executeWithStatus(client as unknown as PgWithStatus, prepare, isFromPool)
    : executeAndConfirm(
        async ({ name, text }, values) =>
          (await client.query({ ...(prepare && { name }), text, values, rowMode: 'array' })).rows,
      )

/** Runs statements on a pool of `pg`. After an error, or if a client is still in a transaction, that client is ended. */
const executeOnPool = (pool: PgPool, prepare: boolean): Execute => {
  const lend = createLender<PoolClient>({
    ...(pool.limit !== undefined && { limit: pool.limit }),
    async connect() {
      const client = (await pool.connect()) as PoolClient
      // While a client is lent, its pool does not listen to its errors.
      ignoreErrorEvents(client)
      return client
    },
    onConnection: (listener) => listenToConnections(pool, 'connect', listener),
    isFull,
    isReadOnly,
    identity: (client) => client,
    refused: (error) =>
      refusal('PostgreSQL', error, 'Check that it is running, and that it takes connections of this role.'),
    release: (client, error) => client.release(error !== undefined),
  })
  return (statement, values) => lend((client) => executeOnPg(client, prepare, true)(statement, values))
}

/**
 * Whether keepsake may open another client like this one. Not if a pool lent it: the driver has no event for its return,
 * and after that another user may have it.
 */
const isConfigured = (client: unknown): client is ConfiguredClient =>
  typeof property(client, 'connectionParameters') === 'object' &&
  hasMethod(client, 'end') &&
  !hasMethod(client, 'release') &&
  hasMethod(property(property(client, 'connection'), 'stream'), 'unref')

/** Whether the client is connected to the port of its configuration: a socket of the application may lead to any other. */
const isAtConfiguredPort = ({ host, port, connection: { stream } }: ConfiguredClient): boolean =>
  host?.startsWith('/') ? stream.remotePort === undefined : stream.remotePort === Number(port)

/** How to open a connection of keepsake's own beside a Client of the application, with the same configuration. */
const driverBeside = (client: ConfiguredClient): ConnectionDriver<ConfiguredClient> => {
  // When a client connects, pg replaces a password function by the password that it returned.
  const { password } = client.connectionParameters
  return {
    applicationSocket: () =>
      typeof client.processID === 'number' && isAtConfiguredPort(client) ? client.connection.stream : undefined,
    async open() {
      const { connectionParameters, enableChannelBinding, scramMaxIterations, _connectionTimeoutMillis } = client
      const another = new client.constructor({
        ...connectionParameters,
        ...{ password, enableChannelBinding, scramMaxIterations, keepAlive: true },
        query_timeout: connectionParameters.query_timeout || ANSWER_TIMEOUT,
        connectionTimeoutMillis: Math.min(_connectionTimeoutMillis || CONNECT_TIMEOUT, CONNECT_TIMEOUT),
      })
      ignoreErrorEvents(another)
      await another.connect()
      return another
    },
    socket: ({ connection }) => connection.stream,
    end: (another) => void another.end(),
  }
}

/** The own connection as a pool. */
const poolOf = (own: OwnConnection<ConfiguredClient>) => ({
  limit: 1,
  async connect() {
    const another = await own.take()
    return Object.assign(another, { release: (failed: boolean) => own.release(another, failed) })
  },
})

/** Runs statements on the client itself. @throws KeepsakeError `invalid_option` */
const executeOnClient = (client: PostgresClient, prepare: boolean): Execute => {
  if (hasMethod(client, 'on')) ignoreErrorEvents(client)
  if (typeof client === 'function' && 'unsafe' in client) {
    const sql = client as PostgresJs
    return executeAndConfirm(
      async ({ text }, values) => (await sql.unsafe(text, values, { prepare }).values()) as readonly Row[],
    )
  }
  if (isLite(client)) {
    return executeAndConfirm(
      async ({ text }, values) => (await client.query(text, values, { rowMode: 'array' })).rows as readonly Row[],
    )
  }
  if (hasMethod(client, 'query')) {
    const pg = client as Pg
    const isPool = typeof property(pg, 'totalCount') === 'number'
    return isPool ? executeOnPool(pg as PgPool, prepare) : executeOnPg(pg, prepare)
  }
  throw new KeepsakeError(
    'invalid_option',
    'A PostgreSQL backend got no client that it can use. Pass a Pool or Client of pg, the result of postgres() of postgres.js, or a PGlite.',
  )
}

/** Runs statements on a client. @throws KeepsakeError `invalid_option` */
export const createExecutor = (
  client: PostgresClient,
  prepare: boolean,
): Executor<Parameters<Execute>, readonly Row[]> => {
  const execute = executeOnClient(client, prepare)
  if (!isConfigured(client)) return { execute }
  return executeBeside(client, driverBeside(client), (own) => executeOnPool(poolOf(own), prepare), execute)
}
