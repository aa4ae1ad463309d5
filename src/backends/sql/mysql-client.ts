// One way to ask MariaDB or MySQL by mysql2 or mariadb, and never in a transaction of somebody else.

import type { Socket } from 'node:net'
import { isKeepsakeError, KeepsakeError } from '../../error.ts'
import { ANSWERING, type Asker, CONNECTING, ownBeside, preferring } from './own-connection.ts'
import { lending } from './pool.ts'
import { ignoreErrorEvents, OUTSIDE, property, type Row, refused, undecided } from './table.ts'

export type Value = string | number | Uint8Array | null
type Query = { readonly sql: string; readonly rowsAsArray: true }

/** A live pool or connection of `mysql2/promise` or of `mariadb`. */
type Promising = {
  /** By a statement that is prepared at the server, once on each connection. */
  execute(query: Query, values: Value[]): PromiseLike<unknown>
  /** By a text with its values in it, which leaves nothing at the server. */
  query?(query: Query, values: Value[]): PromiseLike<unknown>
}
/** A live pool or connection of `mysql2`, with callbacks. */
type Calling = { promise(): unknown; execute(...args: never[]): unknown }
export type MysqlClient = Promising | Calling

/** A connection, alone or lent by a pool. */
type Connection = Promising & {
  release?(): unknown
  destroy?(): void
  /** Of mysql2: the connection beneath, which is the same each time that it is lent. */
  readonly connection?: object
  /** Of mariadb. */
  readonly info?: { readonly status?: number }
}
/** What is beneath a connection of mysql2, and tells how it was configured. */
type Core = {
  readonly constructor: new (options: { readonly config: object }) => Core
  readonly config: { readonly connectTimeout: number }
  /** Once it is connected. */
  readonly threadId: number | null
  readonly stream: Socket
  promise(): Promising
  query(sql: string, done: (error: unknown) => void): void
  end(done: () => void): void
  destroy(): void
}
type Pool = {
  readonly most?: number
  getConnection(): PromiseLike<Connection>
  on?(event: 'acquire' | 'release', listener: (connection: object) => void): unknown
  on?(event: 'connection', listener: (connection: Connection) => void): unknown
}

type Answer = {
  readonly rows: readonly Row[]
  readonly affected: number
  /** What the server said of the connection with the end of the statement. mysql2 tells it of writes alone. */
  readonly status: number | undefined
}
/** `prepared` is false for a text that is not always the same: each would be prepared, and kept at the server. */
export type Ask = (sql: string, values: Value[], prepared?: boolean) => Promise<Answer>

const has = (value: unknown, method: string): boolean => typeof property(value, method) === 'function'

/** SERVER_STATUS_IN_TRANS and SERVER_STATUS_AUTOCOMMIT. */
const IN_TRANSACTION = 1
const AUTOCOMMIT = 2

/** What is wrong with a connection in this state, if anything is. */
const wrong = (status: number | undefined): string | undefined => {
  if (status === undefined) return undefined
  if ((status & AUTOCOMMIT) === 0) {
    return 'The connection has autocommit off, so that nothing of what sessions save would be committed. Have each connection of the pool say “set autocommit = 1” first.'
  }
  return (status & IN_TRANSACTION) === 0 ? undefined : OUTSIDE
}
const refuse = (why: string | undefined): void => {
  if (why !== undefined) throw new KeepsakeError('unavailable', `${why} Nothing was changed.`)
}

/** The mariadb driver writes the values of a statement, so what is in a session, into its errors. */
const withoutValues = (error: unknown): unknown => {
  const message = property(error, 'sqlMessage')
  if (typeof message !== 'string') return error
  const { code, errno, sqlState, fatal } = error as Record<string, unknown>
  return Object.assign(new Error(message), { code, errno, sqlState, fatal })
}

/** Only the mariadb driver has it. That gives a result itself; mysql2 gives it with the fields. */
const isMariadb = (client: Promising): boolean => has(client, 'batch')

/** Statements on a connection that no other call uses meanwhile, or on what has only `execute`. */
const plain = (connection: Connection): Ask => {
  const mariadb = isMariadb(connection)
  return async (sql, values, prepared = true) => {
    const query: Query = { sql, rowsAsArray: true }
    try {
      const given = await (prepared || connection.query === undefined
        ? connection.execute(query, values)
        : connection.query(query, values))
      const result = mariadb ? given : (given as unknown[])[0]
      return {
        rows: Array.isArray(result) ? result : [],
        affected: Number(property(result, 'affectedRows') ?? 0),
        status: mariadb ? connection.info?.status : (property(result, 'serverStatus') as number | undefined),
      }
    } catch (error) {
      throw mariadb ? withoutValues(error) : error
    }
  }
}

/** The state of a connection that is used by nobody else meanwhile: any statement would tell it, this one does nothing. */
const stateOf = async (connection: Connection): Promise<number | undefined> =>
  (await plain(connection)('do 0', [], false)).status

/**
 * The state of a connection alone. The mariadb driver keeps only the last one, which may be that of a later statement
 * already; so there the server is asked, as only MariaDB can be.
 */
const stateOfShared = async (connection: Connection): Promise<number | undefined> => {
  if (!isMariadb(connection)) return stateOf(connection)
  const [[autocommit, transaction] = []] = (await plain(connection)('select @@autocommit, @@in_transaction', [], false))
    .rows
  return (Number(autocommit) === 1 ? AUTOCOMMIT : 0) | (Number(transaction) === 1 ? IN_TRANSACTION : 0)
}

/** A connection of the application's. Its state is asked for before each statement, and in the same breath after it. */
const alone = (connection: Connection): Ask => {
  const ask = plain(connection)
  // Of an object that has nothing else, what a write gives has to do.
  const state = has(connection, 'query') ? () => stateOfShared(connection) : async () => undefined
  return async (sql, values, prepared) => {
    refuse(wrong(await state()))
    const [answer, after] = await Promise.all([ask(sql, values, prepared), state()])
    if (wrong(after ?? answer.status) !== undefined) throw undecided()
    return answer
  }
}

/** ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the statement was undone. */
const UNDONE: readonly unknown[] = [1205, 1213]
export const undone = (error: unknown): boolean => UNDONE.includes(property(error, 'errno'))

export const DUPLICATE = 1062

/** ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED. */
const full = (error: unknown): boolean => [1040, 1203, 1226].includes(property(error, 'errno') as number)

/** ER_OPTION_PREVENTS_STATEMENT, ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, ER_READ_ONLY_MODE. */
const readOnly = (error: unknown): boolean => [1290, 1792, 1836].includes(property(error, 'errno') as number)

/**
 * Statements on a pool, each on a connection of its own. After any error but these, a connection is given to nobody any
 * more: the server may be about to close it, or may be one that writes went away from.
 *
 * @param patience of a pool that is ours alone: milliseconds until a statement that is not answered is given up, with its
 * connection
 */
const pooled = (pool: Pool, patience?: number): Ask => {
  /*
   * mysql2 tells no state with rows, and a read in a transaction that was left open would see the sessions of its start.
   * So a connection is asked for its state that somebody else may have had since it was last used here. What passes from
   * hand to hand in a full pool has no event, and so is not known either. The mariadb driver keeps the last state, which
   * it makes up after an error.
   */
  const known = new WeakSet<object>()
  let ours = patience !== undefined
  if (!ours && has(pool, 'on')) {
    pool.on?.('acquire', (one) => ours || known.delete(one))
    pool.on?.('release', (one) => ours && known.add(one))
  }
  const byUs = <T>(work: () => T): T => {
    const before = ours
    ours = true
    try {
      return work()
    } finally {
      ours = before
    }
  }
  const settled = ({ connection, info }: Connection): boolean =>
    ours || (info === undefined ? connection !== undefined && known.has(connection) : wrong(info.status) === undefined)

  const limit = pool.most ?? property(property(property(pool, 'pool'), 'config'), 'connectionLimit')
  const lend = lending<Connection>({
    ...(typeof limit === 'number' && limit > 0 && { most: limit }),
    async connect() {
      const connection = await byUs(() => pool.getConnection())
      // mysql2 itself hears only the first error of a connection.
      if (connection.connection !== undefined) ignoreErrorEvents(connection.connection)
      return connection
    },
    births(hear) {
      if (!has(pool, 'on')) return false
      pool.on?.('connection', hear)
      return true
    },
    full,
    readOnly,
    identity: (connection) => connection.connection ?? connection.info ?? connection,
    refused: (error) =>
      refused('The database', withoutValues(error), 'See whether it is up, and takes connections of this user.'),
    giveBack(connection, error) {
      if (error !== undefined && property(error, 'errno') !== DUPLICATE && !undone(error)) return connection.destroy?.()
      Promise.resolve(byUs(() => connection.release?.())).catch(() => {})
    },
  })
  const ask: (connection: Connection, ...args: Parameters<Ask>) => Promise<Answer> = async (connection, ...args) => {
    if (!settled(connection)) refuse(wrong(await stateOf(connection)))
    const answer = await plain(connection)(...args)
    // The connection is ended now, and with it the transaction.
    refuse(wrong(answer.status))
    return answer
  }
  if (patience === undefined) return (...args) => lend((connection) => ask(connection, ...args))
  return (...args) =>
    lend(async (connection) => {
      const { promise: late, reject } = Promise.withResolvers<never>()
      const timer = setTimeout(() => reject(new Error(`The database did not answer within ${patience} ms.`)), patience)
      try {
        return await Promise.race([ask(connection, ...args), late])
      } finally {
        clearTimeout(timer)
      }
    })
}

/** Seconds that a statement waits for the lock of another, at each of its tries. The servers' own are 50 and 86 400. */
const LOCKED = 1
/** What each connection of our own says first. */
export const FIRST = `set session autocommit = 1, innodb_lock_wait_timeout = ${LOCKED}, lock_wait_timeout = ${LOCKED}`

/**
 * What is beneath a connection of mysql2 alone, if another one can be opened like it. Not so if a pool lent it, because
 * nobody says when it is given back; if the application made its socket; and if the application chooses the database only
 * after it has connected.
 */
const coreOf = (client: unknown): Core | undefined => {
  const core = has(client, 'promise') ? client : property(client, 'connection')
  const config = property(core, 'config')
  const alone = has(core, 'promise') && has(property(core, 'stream'), 'unref') && !has(core, 'release')
  const again = Boolean(property(config, 'database')) && typeof property(config, 'stream') !== 'object'
  return alone && again ? (core as Core) : undefined
}

/** Statements on a connection of our own beside one of the application, with the same configuration. */
const apart = (core: Core, onTheirs: Ask): Asker<Parameters<Ask>, Answer> => {
  const own = ownBeside<Core>(core, {
    theirs: () => (core.threadId === null ? undefined : core.stream),
    open: () =>
      new Promise((resolve, reject) => {
        const { connectTimeout } = core.config
        // It tells a configuration by its class, and anything else is read as options.
        const config = Object.assign(Object.create(Object.getPrototypeOf(core.config)), core.config, {
          connectTimeout: Math.min(connectTimeout || CONNECTING, CONNECTING),
        })
        const another = new core.constructor({ config })
        ignoreErrorEvents(another)
        // Of the driver's own errors this hears, too: they are given to the first that waits.
        another.query(FIRST, (error) => {
          if (error == null) return resolve(another)
          another.destroy()
          reject(error)
        })
      }),
    socket: ({ stream }) => stream,
    end: (another, broken) => (broken ? another.destroy() : another.end(() => {})),
  })
  const pool: Pool = {
    most: 1,
    async getConnection() {
      const another = await own.take()
      const promising = another.promise()
      return {
        connection: another,
        execute: (query, values) => promising.execute(query, values),
        query: (query, values) => (promising.query ?? promising.execute).call(promising, query, values),
        release: () => own.release(another, false),
        destroy: () => own.release(another, true),
      }
    },
  }
  return preferring(own, pooled(pool, ANSWERING), onTheirs)
}

/** @throws KeepsakeError `invalid_option` */
export const asker = (client: MysqlClient, patience?: number): Asker<Parameters<Ask>, Answer> => {
  const promising = (has(client, 'promise') ? (client as Calling).promise() : client) as Promising
  if (!has(promising, 'execute')) {
    throw new KeepsakeError(
      'invalid_option',
      'A MySQL backend needs a client: a pool or connection of mysql2 or of mariadb.',
    )
  }
  ignoreErrorEvents(promising)
  if (has(promising, 'getConnection')) return { ask: pooled(promising as unknown as Pool, patience) }
  const core = coreOf(client)
  const ask = alone(promising)
  return core === undefined ? { ask } : apart(core, ask)
}

/** ER_NET_PACKET_TOO_LARGE. */
const TOO_LARGE = 1153
/** Bytes: a connection that is lost with less on its way was not closed because of it. */
const LARGE = 65_536

/**
 * Whether an error is of a statement that is larger than the server takes. It says so, or closes the connection while it
 * is still being written to, and then has to be asked.
 */
export const tooLarge = async (error: unknown, values: readonly Value[], ask: Ask): Promise<boolean> => {
  if (property(error, 'errno') === TOO_LARGE) return true
  // What the statement has beside its values is at least this.
  const bytes = values.reduce<number>(
    (sum, one) => sum + (one === null ? 0 : typeof one === 'number' ? 8 : Buffer.byteLength(one)),
    10,
  )
  if (bytes < LARGE || property(error, 'fatal') !== true) return false
  const answer = await ask('select @@max_allowed_packet', [], false).catch(() => undefined)
  return bytes >= Number(answer?.rows[0]?.[0] ?? Number.POSITIVE_INFINITY)
}

const READ_ONLY = 'The server, or this user, is read-only: name the primary.'
const NOT_ALLOWED = 'See the user, the password and the host that this user may come from.'

/** Numbers of refusals: the statement was not carried out, or undone as a whole. */
const REFUSED: Readonly<Record<number, string>> = {
  1040: 'The server takes no more connections.',
  1044: NOT_ALLOWED,
  1045: NOT_ALLOWED,
  1049: 'See the name of the database.',
  1129: 'The server has blocked this host: see FLUSH HOSTS.',
  1130: NOT_ALLOWED,
  1203: 'This user has as many connections as it may.',
  1205: 'It may be tried again.',
  1213: 'It may be tried again.',
  1226: 'This user has as many connections as it may.',
  1290: READ_ONLY,
  1461: 'The server keeps as many prepared statements as it may: see max_prepared_stmt_count.',
  1698: NOT_ALLOWED,
  1792: READ_ONLY,
  1836: READ_ONLY,
}
const NO_TABLE = 1146
/** ER_DBACCESS_DENIED_ERROR and ER_TABLEACCESS_DENIED_ERROR. */
const DENIED: readonly unknown[] = [1044, 1142]

/** An account that may not make tables, or a server that takes no writes. */
export const forbidden = (error: unknown): boolean => DENIED.includes(property(error, 'errno')) || readOnly(error)

/** Of a refusal that surely changed nothing: the KeepsakeError that says so. Else what the driver threw. */
export const explained = (table: string, error: unknown): unknown => {
  if (isKeepsakeError(error)) return error
  const number = property(error, 'errno')
  if (number === NO_TABLE) {
    return refused('The database', error, `It has no table ${table}: call migrate() once, or run what schema() gives.`)
  }
  if (DENIED.includes(number)) {
    return refused(
      'The database',
      error,
      `It does not let this user make or use the table ${table}: run what schema() gives as one that may, and grant this one select, insert, update and delete.`,
    )
  }
  const help = REFUSED[number as number]
  const unreached = property(error, 'syscall') === 'connect' || property(error, 'syscall') === 'getaddrinfo'
  return help === undefined && !unreached ? error : refused('The database', error, help)
}
