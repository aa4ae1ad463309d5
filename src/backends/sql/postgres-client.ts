// One way to ask PostgreSQL by pg, postgres.js or PGlite, and never in a transaction of somebody else.

import type { Socket } from 'node:net'
import { isKeepsakeError, KeepsakeError } from '../../error.ts'
import { ANSWERING, type Asker, CONNECTING, ownBeside, preferring } from './own-connection.ts'
import { lending } from './pool.ts'
import { ignoreErrorEvents, OUTSIDE, property, type Row, refused, undecided } from './table.ts'

export type Value = string | number | Uint8Array | null

type Query = { name?: string; text: string; values: Value[]; rowMode: 'array' }
type Result = { readonly rows: readonly Row[] }

/** A live Pool or Client of `pg`, or of what has its interface. */
type Pg = {
  connect(...args: never[]): unknown
  query(query: Query): Promise<Result>
}
/** A live PGlite. */
type Lite = {
  query(text: string, values: Value[], options: { rowMode: 'array' }): Promise<{ readonly rows: readonly unknown[] }>
}
/**
 * What `postgres()` of postgres.js gives. Give it `fetch_types: false`: else it asks for types on each new connection,
 * and where that one is reset meanwhile, nobody hears of it but the process, which ends.
 */
type PostgresJs = {
  unsafe(text: string, values: Value[], options: { prepare: boolean }): { values(): PromiseLike<readonly unknown[]> }
}
export type PostgresClient = Pg | Lite | PostgresJs

/** Named after its text: drivers refuse another text under a name that a connection has prepared. */
export type Statement = {
  readonly name: string
  readonly text: string
  /** Of one that writes: the same, and behind what it gives, what `witnessOf` says. */
  readonly witnessed?: { readonly name: string; readonly text: string }
}
export type Ask = (statement: Statement, values: Value[]) => Promise<readonly Row[]>

/** A client of a pool of `pg`, or one alone, that tells the state of its transaction. */
type Watched = {
  query(query: Query, done: (error: unknown, result: Result) => void): void
  getTransactionStatus(): string | null
}
type Lent = Pg & { release(end: boolean): void }
type PgPool = {
  readonly most?: number
  connect(): unknown
  on?(event: 'connect', listener: (client: Lent) => void): unknown
}
/** A Client of `pg` that tells how it was configured. */
type Configured = Pg & {
  readonly constructor: new (config: object) => Configured
  readonly connectionParameters: { readonly password?: unknown; readonly query_timeout?: unknown }
  readonly host: string
  readonly port: number
  /** Once it is connected. */
  readonly processID: number | null
  readonly connection: { readonly stream: Socket }
  readonly enableChannelBinding?: boolean
  readonly scramMaxIterations?: number
  readonly _connectionTimeoutMillis?: number
  connect(): Promise<unknown>
  end(): Promise<void>
}

const has = (value: unknown, method: string): boolean => typeof property(value, method) === 'function'

const isLite = (client: unknown): client is Lite => has(client, 'query') && !has(client, 'connect')

/** too_many_connections: of the server, of the database or of the role. */
const full = (error: unknown): boolean => property(error, 'code') === '53300'

/** read_only_sql_transaction */
const readOnly = (error: unknown): boolean => property(error, 'code') === '25006'

/** insufficient_privilege, and a server that takes no writes. */
export const forbidden = (error: unknown): boolean => property(error, 'code') === '42501' || readOnly(error)

/**
 * Statements on one client of `pg`, judged by what the server says with the end of each: whether a transaction is still
 * open then. It is looked at when that end arrives, not a moment later: the next statement may be over by then.
 */
const watched = (client: Watched, prepare: boolean, lent: boolean): Ask => {
  const open = () => client.getTransactionStatus()
  return ({ name, text }, values) =>
    new Promise((resolve, reject) => {
      if (open() === 'T' || open() === 'E')
        return reject(new KeepsakeError('unavailable', `${OUTSIDE} Nothing was changed.`))
      client.query({ ...(prepare && { name }), text, values, rowMode: 'array' }, (error, result) => {
        if (error) reject(error)
        else if (open() === 'I') resolve(result.rows)
        // One that is lent is ended now, and with it the transaction.
        else reject(lent ? new KeepsakeError('unavailable', `${OUTSIDE} Nothing was changed.`) : undecided())
      })
    })
}

/** The number of the transaction that a statement is in, which the server can be asked about afterwards. */
const NUMBER = 'pg_current_xact_id()::text'
/**
 * The same, or null where the statement is surely a transaction of its own, so that nothing has to be asked.
 *
 * A transaction begins with its first message. Where that is the one that binds the values to a prepared statement, it
 * has the time of its beginning, to the microsecond; in a transaction of the application it has a later one. A statement
 * that is being prepared has, too, and a clock that does not move between two messages tells nothing: then it is asked.
 */
const NUMBER_UNLESS_ALONE = `case when exists (
  select from pg_cursors where name = '' and creation_time = now() and creation_time < statement_timestamp()
) then null else ${NUMBER} end`

/**
 * What a writing statement has to give last, where the driver tells no state of transactions. PGlite asks its own
 * process, and has a clock of milliseconds.
 */
export const witnessOf = (client: PostgresClient): string => (isLite(client) ? NUMBER : NUMBER_UNLESS_ALONE)

const CONFIRM = { name: 'keepsake_confirm', text: 'select pg_xact_status($1::text::xid8)' }

/** Statements by a driver that tells no state of transactions. Any connection of its pool can be asked for a number. */
const confirmed =
  (ask: Ask): Ask =>
  async ({ witnessed, ...plain }, values) => {
    if (witnessed === undefined) return ask(plain, values)
    const rows = await ask(witnessed, values)
    const transaction = rows[0]?.at(-1) as string | null | undefined
    if (transaction == null) return rows
    const state = (await ask(CONFIRM, [transaction]))[0]?.[0]
    if (state === 'committed') return rows
    throw state === 'aborted' ? new KeepsakeError('unavailable', `${OUTSIDE} Nothing was changed.`) : undecided()
  }

/** A client of `pg`, alone or lent, or what has its interface. */
const single = (client: Pg, prepare: boolean, lent = false): Ask =>
  has(client, 'getTransactionStatus')
    ? watched(client as unknown as Watched, prepare, lent)
    : confirmed(
        async ({ name, text }, values) =>
          (await client.query({ ...(prepare && { name }), text, values, rowMode: 'array' })).rows,
      )

/** A pool of `pg`. A client that answered with an error, or was left in a transaction, is given to nobody any more. */
const pooled = (pool: PgPool, prepare: boolean): Ask => {
  const lend = lending<Lent>({
    ...(pool.most !== undefined && { most: pool.most }),
    async connect() {
      const client = (await pool.connect()) as Lent
      // While it is lent, its pool does not hear it.
      ignoreErrorEvents(client)
      return client
    },
    births(hear) {
      if (!has(pool, 'on')) return false
      pool.on?.('connect', hear)
      return true
    },
    full,
    readOnly,
    identity: (client) => client,
    refused: (error) => refused('PostgreSQL', error, 'See whether it is up, and takes connections of this role.'),
    giveBack: (client, error) => client.release(error !== undefined),
  })
  return (statement, values) => lend((client) => single(client, prepare, true)(statement, values))
}

/** A client that a pool lent is left out: nobody says when it is given back, and then it may be anybody's. */
const isConfigured = (client: unknown): client is Configured =>
  typeof property(client, 'connectionParameters') === 'object' &&
  has(client, 'end') &&
  !has(client, 'release') &&
  has(property(property(client, 'connection'), 'stream'), 'unref')

/** Where the configuration leads to: a socket that the application made may lead anywhere. */
const leadsThere = ({ host, port, connection: { stream } }: Configured): boolean =>
  host?.startsWith('/') ? stream.remotePort === undefined : stream.remotePort === Number(port)

/** Statements on a connection of our own beside a Client of the application, with the same configuration. */
const apart = (client: Configured, prepare: boolean, onTheirs: Ask): Asker<Parameters<Ask>, readonly Row[]> => {
  // Once the client is connected, what its password function gave has taken the function's place.
  const { password } = client.connectionParameters
  const own = ownBeside<Configured>(client, {
    theirs: () => (typeof client.processID === 'number' && leadsThere(client) ? client.connection.stream : undefined),
    async open() {
      const { connectionParameters, enableChannelBinding, scramMaxIterations, _connectionTimeoutMillis } = client
      const another = new client.constructor({
        ...connectionParameters,
        ...{ password, enableChannelBinding, scramMaxIterations, keepAlive: true },
        query_timeout: connectionParameters.query_timeout || ANSWERING,
        connectionTimeoutMillis: Math.min(_connectionTimeoutMillis || CONNECTING, CONNECTING),
      })
      ignoreErrorEvents(another)
      await another.connect()
      return another
    },
    socket: ({ connection }) => connection.stream,
    end: (another) => void another.end(),
  })
  const pool = {
    most: 1,
    async connect() {
      const another = await own.take()
      return Object.assign(another, { release: (failed: boolean) => own.release(another, failed) })
    },
  }
  return preferring(own, pooled(pool, prepare), onTheirs)
}

/** Statements on what the application gave. */
const shared = (client: PostgresClient, prepare: boolean): Ask => {
  if (has(client, 'on')) ignoreErrorEvents(client)
  if (typeof client === 'function' && 'unsafe' in client) {
    const sql = client as PostgresJs
    return confirmed(
      async ({ text }, values) => (await sql.unsafe(text, values, { prepare }).values()) as readonly Row[],
    )
  }
  if (isLite(client)) {
    return confirmed(
      async ({ text }, values) => (await client.query(text, values, { rowMode: 'array' })).rows as readonly Row[],
    )
  }
  if (has(client, 'query')) {
    const pg = client as Pg
    return typeof property(pg, 'totalCount') === 'number' ? pooled(pg as PgPool, prepare) : single(pg, prepare)
  }
  throw new KeepsakeError(
    'invalid_option',
    'A PostgreSQL backend needs a client: a Pool or Client of pg, what postgres() of postgres.js gives, or a PGlite.',
  )
}

/** @throws KeepsakeError `invalid_option` */
export const asker = (client: PostgresClient, prepare: boolean): Asker<Parameters<Ask>, readonly Row[]> => {
  const ask = shared(client, prepare)
  return isConfigured(client) ? apart(client, prepare, ask) : { ask }
}

/** SQLSTATEs of refusals: the statement was not carried out, or undone as a whole. */
const REFUSED: Readonly<Record<string, string>> = {
  25006: 'The server, or this role, is read-only: name the primary.',
  '25P02': OUTSIDE,
  '28': 'See the user and the password, and pg_hba.conf.',
  '3D000': 'See the name of the database.',
  '3F000': 'See the name of the schema.',
  40001: 'It may be tried again.',
  '40P01': 'It may be tried again.',
  '53': 'The server has run out of connections, memory or disk.',
  '57P03': 'The server is starting or stopping.',
  '08001': 'See whether the server is up.',
  '08004': 'See whether the server takes connections of this user.',
}

/** Of a refusal that surely changed nothing: the KeepsakeError that says so. Else what the driver threw. */
export const explained = (table: string, error: unknown): unknown => {
  if (isKeepsakeError(error)) return error
  const code = property(error, 'code')
  if (typeof code !== 'string') return error
  if (code === '42P01') {
    return refused('PostgreSQL', error, `It has no table ${table}: call migrate() once, or run what schema() gives.`)
  }
  if (code === '42501') {
    return refused(
      'PostgreSQL',
      error,
      `It does not let this role make or use the table ${table}: run what schema() gives as one that may, and grant this one select, insert, update and delete.`,
    )
  }
  const help = REFUSED[code] ?? REFUSED[code.slice(0, 2)]
  const unreached = property(error, 'syscall') === 'connect' || property(error, 'syscall') === 'getaddrinfo'
  return help === undefined && !unreached ? error : refused('PostgreSQL', error, help)
}
