// Sessions in MariaDB or MySQL: one InnoDB table, statements prepared at the server, over mysql2 or the mariadb driver.

import { checkOptionNames, KeepsakeError } from '../../error.ts'
import { importDriver } from '../../packages.ts'
import {
  asker,
  DUPLICATE,
  explained,
  FIRST,
  forbidden,
  type MysqlClient,
  tooLarge,
  undone,
  type Value,
} from './mysql-client.ts'
import { ANSWERING, CONNECTING } from './own-connection.ts'
import {
  bytesOf,
  entryOf,
  fromUrl,
  ignoreErrorEvents,
  keyed,
  keyOf,
  property,
  quoted,
  retry,
  type SqlBackend,
  scanned,
  textOf,
  withAutoMigrate,
  withConnections,
} from './table.ts'

export type { MysqlClient } from './mysql-client.ts'

export type MysqlOptions = {
  /**
   * The table's name, or `database.table`: letters, digits and `_`. Default `keepsake_sessions`, in the database of the
   * connection.
   */
  readonly table?: string | undefined
}

export type ConnectMysqlOptions = MysqlOptions & {
  /**
   * How many connections this process makes at most. Default 10. Also as `?connections=` in the URL, where the option is
   * not given.
   */
  readonly connections?: number | undefined
}

/** Before all expiries. */
const EVER = Number.MIN_SAFE_INTEGER

const backendOn = (client: MysqlClient, options: MysqlOptions, patience?: number): SqlBackend => {
  checkOptionNames(options, ['table'], 'A MySQL backend')
  const table = quoted(options.table ?? 'keepsake_sessions', '`')
  const { ask, close } = asker(client, patience)
  const answered = async (sql: string, values: Value[], prepared: boolean) => {
    try {
      return await retry(() => ask(sql, values, prepared), undone)
    } catch (error) {
      if (await tooLarge(error, values, ask)) {
        throw new KeepsakeError(
          'too_large',
          'The session is larger than the database takes. Nothing was saved. Raise its max_allowed_packet, or lower maxBytes.',
          { cause: error },
        )
      }
      throw explained(table, error)
    }
  }
  const run = (sql: string, ...values: Value[]) => answered(sql, values, true)
  /** With a limit in the text: prepared, each would be another statement that the server keeps. */
  const runText = (sql: string, ...values: Value[]) => answered(sql, values, false)

  /*
   * Text goes there and back as bytes, whose character set nobody converts. Not so metadata and version, which are ASCII.
   */
  const columns = 'cast(value as binary), metadata, expires_at, version, owner'
  const select = `select ${columns} from ${table} where \`key\` = ?`
  const insert = `insert into ${table} (\`key\`, version, expires_at, metadata, value, owner) values (?, ?, ?, ?, ?, ?)`
  const update = `update ${table} set version = ?, metadata = ?, value = ?, expires_at = coalesce(?, expires_at) where \`key\` = ? and version = ?`
  const versionOf = `select version from ${table} where \`key\` = ?`
  const remove = `delete from ${table} where \`key\` = ?`
  const removeVersion = `${remove} and version = ?`
  const asMark = `update ${table} set version = ?, metadata = ?, expires_at = ?, value = null, owner = null`
  const mark = `${asMark} where \`key\` = ?`
  const markVersion = `${mark} and version = ?`
  const touch = `update ${table} set expires_at = ? where \`key\` = ? and expires_at < ?`
  const expired = `${table} where expires_at <= ? and expires_at >= ? order by expires_at limit`
  const sweep = `delete from ${expired}`
  const dueOwned = `select \`key\`, metadata, owner from ${table} where expires_at <= ? and expires_at >= ? and owner is not null order by expires_at limit`
  const endOfBatch = `select expires_at from ${expired} 1 offset`
  /*
   * Where the last batch of many ended. What was deleted stays in the index until InnoDB purges it, and each batch would
   * walk over all of it.
   */
  let swept = EVER
  const all = `select ${columns}, \`key\` from ${table}`
  // As hexadecimal digits, because drivers write bytes into a text each in their own way.
  const part = `${all} where \`key\` > unhex(?) order by \`key\` limit`
  const list = `${all} where owner = ?`
  const butOne = ' and `key` <> ?'
  const clear = `delete from ${table} where owner = ?`
  const markOwned = `${asMark} where owner = ?`

  const schema = `create table if not exists ${table} (
  \`key\` binary(32) not null primary key,
  version varchar(16) character set ascii collate ascii_bin not null,
  expires_at bigint not null,
  metadata varchar(400) character set ascii collate ascii_bin not null,
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
        await run(insert, key, entry.version, entry.expiresAt, entry.metadata, text(entry.value), text(entry.owner))
        return undefined
      } catch (error) {
        if (property(error, 'errno') !== DUPLICATE) throw error
      }
      return (await version(key)) === entry.version ? undefined : 'taken'
    },
    async set(name, change, expected) {
      const key = bytesOf(name)
      const { metadata, value, expiresAt = null } = change
      const { affected } = await run(update, change.version, metadata, text(value), expiresAt, key, expected)
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
          : await run(
              expected === undefined ? mark : markVersion,
              left.version,
              left.metadata,
              left.expiresAt,
              ...where,
            )
      if (affected > 0 || expected === undefined) return undefined
      return left !== undefined && (await version(key)) === left.version ? undefined : 'stale'
    },
    async touch(key, expiresAt) {
      await run(touch, expiresAt, bytesOf(key), expiresAt)
      return undefined
    },
    // Limits are in the text, because MySQL takes none that comes as the floating number that mysql2 makes of one.
    async sweep(now, limit, removed) {
      const most = Math.trunc(limit)
      const from = swept
      swept = EVER
      const [[end] = []] = most > 0 ? (await runText(`${endOfBatch} ${most - 1}`, now, from)).rows : []
      const due = removed === undefined ? [] : (await runText(`${dueOwned} ${most}`, now, from)).rows
      const { affected } = await runText(`${sweep} ${most}`, end === undefined ? now : Number(end), from)
      if (due.length > 0) {
        // What was moved in between, or is of the next batch, is still there.
        const keys = due.map(([key]) => `0x${Buffer.from(key as Uint8Array).toString('hex')}`)
        const left = (await runText(`select \`key\` from ${table} where \`key\` in (${keys})`)).rows
        const there = new Set(left.map(([key]) => keyOf(key)))
        for (const [bytes, metadata, owner] of due) {
          const key = keyOf(bytes)
          if (!there.has(key)) removed?.({ key, metadata: textOf(metadata), owner: textOf(owner) })
        }
      }
      if (end !== undefined) swept = Number(end)
      // The last batch of many: what others had locked, or is older, is taken in the same sweep.
      else if (from !== EVER) return affected + (await runText(`${sweep} ${most - affected}`, now, EVER)).affected
      return affected
    },
    async scan(cursor = '', limit) {
      return scanned((await runText(`${part} ${Math.trunc(limit)}`, bytesOf(cursor).toString('hex'))).rows, limit)
    },
    byOwner: {
      async list(owner) {
        return keyed((await run(list, text(owner))).rows)
      },
      async clear(owner, except, left) {
        const where = [text(owner), ...(except === undefined ? [] : [bytesOf(except)])]
        const but = except === undefined ? '' : butOne
        const { affected } =
          left === undefined
            ? await run(clear + but, ...where)
            : await run(markOwned + but, left.version, left.metadata, left.expiresAt, ...where)
        return affected
      },
    },
    schema: () => schema,
    async migrate() {
      await run(schema)
    },
    ...(close && { close }),
  }
}

/**
 * A backend in a table of MariaDB 10.6 or MySQL 8, or newer. The client is yours: it is used as it is, and never closed
 * here. What the character set of its connections is makes no difference.
 *
 * Give it a pool. No statement is answered that ran in a transaction of the application, or with autocommit off. Beside a
 * connection of mysql2 alone, sessions open one of their own with the same configuration, at their first use; `close`
 * closes it, and so does the end of the application's. Where that cannot be opened, on a connection of mariadb alone, and
 * on one that a pool lent, a call fails while the application has a transaction open, each statement costs two more, and
 * once its server has closed it, it never comes back. A connection of a pool that was left in a transaction is ended.
 *
 * Nothing is asked of the database before the first use, and nobody makes the table but `migrate`. Reads and writes have
 * to go to the same server. Statements that the database undoes (1205, 1213) are sent again, three times at most. How
 * durable a save is, is set for the whole server: `innodb_flush_log_at_trx_commit`.
 *
 * Its calls throw a KeepsakeError `unavailable` for what the database refused, so that nothing was changed; `too_large` for what
 * is above its `max_allowed_packet`; and for everything else what the driver throws.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const mysqlBackend = (client: MysqlClient, options: MysqlOptions = {}): SqlBackend => backendOn(client, options)

/** What a URL may say beside where the database is. mysql2 writes a line to the console for what it does not know. */
const PARAMETERS = ['ssl', 'charset', 'compress', 'enableCleartextPlugin', 'flags', 'socketPath', 'timezone']

/** @throws KeepsakeError `invalid_option` */
const checkParameters = (url: string): void => {
  const unknown = [...(URL.parse(url)?.searchParams.keys() ?? [])].find((name) => !PARAMETERS.includes(name))
  if (unknown === undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `The URL of the database has the parameter ${JSON.stringify(unknown)}, which is not known. There are: connections, ${PARAMETERS.join(', ')}. For anything else, make a pool yourself: mysqlBackend(pool).`,
  )
}

/**
 * A backend at a URL, `mysql://user:password@host/database` or `mariadb://…`, by a pool of `mysql2` of its own. It
 * connects when it is first used, makes its table where that is missing, and ends with `close`. While the server takes
 * no more connections, calls wait for those that there are, two seconds at most.
 *
 * @throws KeepsakeError `unknown_backend` where `mysql2` is not installed, `invalid_option`
 */
export const connectMysql = async (url: string, options: ConnectMysqlOptions = {}): Promise<SqlBackend> => {
  const { connections: wanted, ...others } = options
  const { url: uri, connections } = withConnections(url, wanted)
  checkParameters(uri)
  const load = async () => {
    try {
      return await import('mysql2/promise')
    } catch (error) {
      // biome-ignore lint/complexity/noUselessCatch: bundlers forgive a missing package only in a try
      throw error
    }
  }
  const { createPool } = await importDriver('mysql2', load)
  const pool = fromUrl(uri, () => createPool({ uri, connectTimeout: CONNECTING, connectionLimit: connections }))
  ignoreErrorEvents(pool)
  pool.on('connection', (connection) => {
    // Its types say that it is one with promises. What it is given it carries out in turn, so this before all else.
    const calling = connection as unknown as { query(sql: string, done: () => void): void }
    calling.query(FIRST, () => {})
  })
  return withAutoMigrate(backendOn(pool, others, ANSWERING), forbidden, () => pool.end())
}
