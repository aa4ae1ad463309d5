// Sessions in MariaDB or MySQL: one InnoDB table, statements prepared at the server, over mysql2 or the mariadb driver.

import { Fault, onlyKnown } from '../outcome.ts'
import {
  bytesOf,
  driver,
  entryOf,
  fromUrl,
  hush,
  keyed,
  persistently,
  property,
  quoted,
  type Row,
  type SqlBackend,
  scanned,
  selfMade,
} from './sql.ts'

export type MysqlOptions = {
  /**
   * The table's name, or `database.table`: letters, digits and `_`. Default `keepsake_sessions`, in the database of the
   * connection.
   */
  readonly table?: string
}

type Query = { readonly sql: string; readonly rowsAsArray: true }
type Value = string | number | Uint8Array | null

/** A live pool or connection of `mysql2/promise` or of `mariadb`. */
type Promising = { execute(query: Query, values: Value[]): PromiseLike<unknown> }
/** A live pool or connection of `mysql2`, with callbacks. */
type Calling = { promise(): unknown; execute(...args: never[]): unknown }
export type MysqlClient = Promising | Calling

type Answer = { readonly rows: readonly Row[]; readonly affected: number }

/** Before all expiries. */
const EVER = Number.MIN_SAFE_INTEGER

const has = (value: unknown, method: string): boolean => typeof property(value, method) === 'function'

/** The mariadb driver writes the values of a statement, so what is in a session, into its errors. */
const withoutValues = (error: unknown): unknown => {
  const message = property(error, 'sqlMessage')
  if (typeof message !== 'string') return error
  const { code, errno, sqlState } = error as Record<string, unknown>
  return Object.assign(new Error(message), { code, errno, sqlState })
}

const asker = (client: MysqlClient): ((sql: string, values: Value[]) => Promise<Answer>) => {
  const promising = (has(client, 'promise') ? (client as Calling).promise() : client) as Promising
  if (!has(promising, 'execute')) {
    throw new Fault('bad_option', 'A MySQL backend needs a client: a pool or connection of mysql2 or of mariadb.')
  }
  hush(promising)
  const answer = (result: unknown): Answer => ({
    rows: Array.isArray(result) ? result : [],
    affected: Number(property(result, 'affectedRows') ?? 0),
  })
  // Only the mariadb driver has it, and it gives the result itself; mysql2 gives it with the fields.
  if (has(promising, 'batch')) {
    return async (sql, values) => {
      try {
        return answer(await promising.execute({ sql, rowsAsArray: true }, values))
      } catch (error) {
        throw withoutValues(error)
      }
    }
  }
  return async (sql, values) => {
    const [result] = (await promising.execute({ sql, rowsAsArray: true }, values)) as unknown[]
    return answer(result)
  }
}

/** ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the statement was undone. */
const undone = (error: unknown): boolean => [1205, 1213].includes(property(error, 'errno') as number)

const DUPLICATE = 1062
const NO_TABLE = 1146
/** ER_DBACCESS_DENIED_ERROR and ER_TABLEACCESS_DENIED_ERROR. */
const DENIED: readonly unknown[] = [1044, 1142]

/**
 * A backend in a table of MariaDB 10.6 or MySQL 8, or newer. The client is yours: it is used as it is, and never closed
 * here. What the character set of its connections is makes no difference.
 *
 * Nothing is asked of the database before the first use, and nobody makes the table but `migrate`. Reads and writes have
 * to go to the same server. Statements that the database undoes (1205, 1213) are sent again, three times at most. How
 * durable a save is, is set for the whole server: `innodb_flush_log_at_trx_commit`.
 *
 * @throws Fault `bad_option`
 */
export const mysqlBackend = (client: MysqlClient, options: MysqlOptions = {}): SqlBackend => {
  onlyKnown(options, ['table'], 'A MySQL backend')
  const table = quoted(options.table ?? 'keepsake_sessions', '`')
  const ask = asker(client)

  /** What the driver threw, or what an operator has to do about it. */
  const explained = (error: unknown): unknown => {
    const number = property(error, 'errno')
    if (number !== NO_TABLE && !DENIED.includes(number)) return error
    return new Fault(
      'unavailable',
      number === NO_TABLE
        ? `The database has no table ${table}: call migrate() once, or run what schema() gives.`
        : `The database does not let this user make or use the table ${table}: run what schema() gives as one that may, and grant this one select, insert, update and delete.`,
      { cause: error },
    )
  }
  const run = async (sql: string, ...values: Value[]): Promise<Answer> => {
    try {
      return await persistently(() => ask(sql, values), undone)
    } catch (error) {
      throw explained(error)
    }
  }

  /*
   * Text goes there and back as bytes, whose character set nobody converts. Not so head and version, which are ASCII.
   */
  const columns = 'cast(value as binary), head, expires_at, version, owner'
  const select = `select ${columns} from ${table} where \`key\` = ?`
  const insert = `insert into ${table} (\`key\`, version, expires_at, head, value, owner) values (?, ?, ?, ?, ?, ?)`
  const update = `update ${table} set version = ?, head = ?, value = ?, expires_at = coalesce(?, expires_at) where \`key\` = ? and version = ?`
  const versionOf = `select version from ${table} where \`key\` = ?`
  const remove = `delete from ${table} where \`key\` = ?`
  const removeVersion = `${remove} and version = ?`
  const asMark = `update ${table} set version = ?, head = ?, expires_at = ?, value = null, owner = null`
  const mark = `${asMark} where \`key\` = ?`
  const markVersion = `${mark} and version = ?`
  const touch = `update ${table} set expires_at = ? where \`key\` = ? and expires_at < ?`
  const expired = `${table} where expires_at <= ? and expires_at >= ? order by expires_at limit`
  const sweep = `delete from ${expired}`
  const endOfBatch = `select expires_at from ${expired} 1 offset`
  /*
   * Where the last batch of many ended. What was deleted stays in the index until InnoDB purges it, and each batch would
   * walk over all of it.
   */
  let swept = EVER
  const all = `select ${columns}, \`key\` from ${table}`
  const part = `${all} where \`key\` > ? order by \`key\` limit`
  const list = `${all} where owner = ?`
  const butOne = ' and `key` <> ?'
  const clear = `delete from ${table} where owner = ?`
  const markOwned = `${asMark} where owner = ?`

  const schema = `create table if not exists ${table} (
  \`key\` binary(32) not null primary key,
  version varchar(16) character set ascii collate ascii_bin not null,
  expires_at bigint not null,
  head varchar(400) character set ascii collate ascii_bin not null,
  value longtext character set utf8mb4 collate utf8mb4_bin,
  owner varbinary(1100),
  key expires_at (expires_at),
  key owner (owner)
) engine = innodb row_format = dynamic;
`

  const text = (value: string | undefined): Buffer | null => (value === undefined ? null : Buffer.from(value))
  const version = async (key: Buffer): Promise<unknown> => {
    const { rows } = await run(versionOf, key)
    return rows[0]?.[0]
  }

  return {
    name: 'mysql',
    defaultPeriod: 604_800,
    async get(key) {
      const [row] = (await run(select, bytesOf(key))).rows
      return row && entryOf(row)
    },
    async generate(name, entry) {
      const key = bytesOf(name)
      try {
        await run(insert, key, entry.version, entry.expiresAt, entry.head, text(entry.value), text(entry.owner))
        return undefined
      } catch (error) {
        if (property(error, 'errno') !== DUPLICATE) throw error
      }
      return (await version(key)) === entry.version ? undefined : 'taken'
    },
    async set(name, change, expected) {
      const key = bytesOf(name)
      const { head, value, expiresAt = null } = change
      const { affected } = await run(update, change.version, head, text(value), expiresAt, key, expected)
      if (affected > 0) return undefined
      const there = await version(key)
      if (there === undefined) return 'gone'
      return there === change.version ? undefined : 'stale'
    },
    async clear(name, expected, left) {
      const key = bytesOf(name)
      const where = expected === undefined ? [key] : [key, expected]
      const { affected } =
        left === undefined
          ? await run(expected === undefined ? remove : removeVersion, ...where)
          : await run(expected === undefined ? mark : markVersion, left.version, left.head, left.expiresAt, ...where)
      if (affected > 0 || expected === undefined) return undefined
      return left !== undefined && (await version(key)) === left.version ? undefined : 'stale'
    },
    async touch(key, expiresAt) {
      await run(touch, expiresAt, bytesOf(key), expiresAt)
      return undefined
    },
    // Limits are in the text, because MySQL takes none that comes as the floating number that mysql2 makes of it.
    async sweep(now, limit) {
      const most = Math.trunc(limit)
      const from = swept
      swept = EVER
      const [[end] = []] = most > 0 ? (await run(`${endOfBatch} ${most - 1}`, now, from)).rows : []
      const { affected } = await run(`${sweep} ${most}`, end === undefined ? now : Number(end), from)
      if (end !== undefined) swept = Number(end)
      // The last batch of many: what others had locked, or is older, is taken in the same sweep.
      else if (from !== EVER) return affected + (await run(`${sweep} ${most - affected}`, now, EVER)).affected
      return affected
    },
    async scan(cursor = '', limit) {
      return scanned((await run(`${part} ${Math.trunc(limit)}`, bytesOf(cursor))).rows, limit)
    },
    owned: {
      async list(owner) {
        return keyed((await run(list, text(owner))).rows)
      },
      async clear(owner, except, left) {
        const where = [text(owner), ...(except === undefined ? [] : [bytesOf(except)])]
        const but = except === undefined ? '' : butOne
        const { affected } =
          left === undefined
            ? await run(clear + but, ...where)
            : await run(markOwned + but, left.version, left.head, left.expiresAt, ...where)
        return affected
      },
    },
    schema: () => schema,
    async migrate() {
      await run(schema)
    },
  }
}

/** Milliseconds. */
const CONNECTING = 2_000
const AT_ALL = 5_000
/** Seconds that a statement waits for the lock of another, at each of its tries. The servers' own are 50 and 86 400. */
const LOCKED = 1
/** Callers that wait for a connection: more fail at once. */
const WAITING = 1_000

/**
 * A backend at a URL, `mysql://user:password@host/database` or `mariadb://…`, by a pool of `mysql2` of its own. It
 * connects when it is first used, makes its table where that is missing, and ends with `close`.
 *
 * @throws Fault `no_backend` where `mysql2` is not installed, `bad_option`
 */
export const connectMysql = async (url: string, options: MysqlOptions = {}): Promise<SqlBackend> => {
  const { createPool } = await driver('mysql2', () => import('mysql2/promise'))
  const pool = fromUrl(url, () => createPool({ uri: url, connectTimeout: CONNECTING, queueLimit: WAITING }))
  hush(pool)
  pool.on('connection', (connection) => {
    // Its types say that it is one with promises. What it is given it carries out in turn, so this before all else.
    const calling = connection as unknown as { query(sql: string, done: () => void): void }
    calling.query(`set session innodb_lock_wait_timeout = ${LOCKED}, lock_wait_timeout = ${LOCKED}`, () => {})
  })
  const client: Promising = {
    /** The driver's own timeout would leave the connection in the pool, and who gets it next would wait behind it. */
    async execute(query, values) {
      const connection = await pool.getConnection()
      const { promise: late, reject } = Promise.withResolvers<never>()
      const timer = setTimeout(() => {
        connection.destroy()
        reject(new Error(`The database did not answer within ${AT_ALL} ms.`))
      }, AT_ALL)
      try {
        return await Promise.race([connection.execute(query, values), late])
      } finally {
        clearTimeout(timer)
        connection.release()
      }
    },
  }
  return selfMade(mysqlBackend(client, options), () => pool.end())
}
