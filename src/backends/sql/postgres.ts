// Sessions in PostgreSQL: one table, one statement an operation, over pg, postgres.js or PGlite.

import { hash } from 'node:crypto'
import { checkOptionNames } from '../../error.ts'
import { importDriver } from '../../packages.ts'
import {
  asker,
  explained,
  forbidden,
  type PostgresClient,
  type Statement,
  type Value,
  witnessOf,
} from './postgres-client.ts'
import {
  bytesOf,
  entryOf,
  fromUrl,
  keyed,
  property,
  quoted,
  type Row,
  retry,
  type SqlBackend,
  scanned,
  withAutoMigrate,
  withConnections,
} from './table.ts'

export type { PostgresClient } from './postgres-client.ts'

export type PostgresOptions = {
  /**
   * The table's name, or `schema.table`, where the schema has to be there: letters, digits and `_`, capitals kept as they
   * are. Default `keepsake_sessions`.
   */
  readonly table?: string | undefined
  /**
   * `migrate` and `schema` make the table UNLOGGED: no write waits for the database's disk, none goes to its replicas,
   * and a crash of the database, or a failover, ends every session. A table that is there stays as it is. Default false.
   */
  readonly unlogged?: boolean | undefined
  /**
   * False: a save is answered before it is on the database's disk (`synchronous_commit = off`, of these statements
   * alone). On the disk where this was measured it took 0.4 ms in place of 3. A crash of the database, not of this
   * process, then takes back what was saved in its last moments: three times its `wal_writer_delay` at most, together
   * 0.6 s. The end of a session is waited for all the same: what ended stays ended. Default true: as the database is set.
   */
  readonly synchronousCommit?: boolean | undefined
  /**
   * False: no prepared statements, for a PgBouncer that pools transactions and whose `max_prepared_statements` is 0, as
   * its default was before 1.24. Default true.
   */
  readonly prepare?: boolean | undefined
}

export type ConnectPostgresOptions = PostgresOptions & {
  /**
   * How many connections this process makes at most. Default 10. Also as `?connections=` in the URL, where the option is
   * not given.
   */
  readonly connections?: number | undefined
}

/** serialization_failure and deadlock_detected: the statement was undone. */
const undone = (error: unknown): boolean => ['40001', '40P01'].includes(property(error, 'code') as string)

/** Our own number of an advisory lock: two processes that make tables at once wait for each other. */
const LOCK = 0x6b_65_65_70

/** Before all expiries. */
const EVER = Number.MIN_SAFE_INTEGER

/** How often a statement is sent again that met another one on the same key. */
const MEETINGS = 3

/**
 * A backend in a table of PostgreSQL 13 or newer. The client is yours: it is used as it is, and never closed here.
 *
 * Give it a pool. No statement is answered that ran in a transaction of the application. Beside a Client alone, sessions
 * open one connection of their own with the same configuration, at their first use; `close` closes it, and so does the
 * end of the Client. Where that cannot be opened, and on a client that a pool lent, a call fails while the application has
 * a transaction open. A client of a pool that was left in a transaction is ended. postgres.js and PGlite do not say whether they are in one: there a write is checked by the number of its
 * transaction, and a read sees what the transaction sees.
 *
 * Nothing is asked of the database before the first use, and nobody makes the table but `migrate`. Reads and writes have
 * to go to the same server. Statements that the database undoes (40001, 40P01) are sent again, three times at most.
 *
 * Its calls throw a KeepsakeError `unavailable` for what the database refused, so that nothing was changed, and for everything
 * else what the driver throws.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const postgresBackend = (client: PostgresClient, options: PostgresOptions = {}): SqlBackend => {
  checkOptionNames(options, ['table', 'unlogged', 'synchronousCommit', 'prepare'], 'A PostgreSQL backend')
  const { unlogged = false, synchronousCommit = true, prepare = true } = options
  const table = quoted(options.table ?? 'keepsake_sessions', '"')
  const { ask, close } = asker(client, prepare)
  const run = async (statement: Statement, ...values: Value[]): Promise<readonly Row[]> => {
    try {
      return await retry(() => ask(statement, values), undone)
    } catch (error) {
      throw explained(table, error)
    }
  }
  const witness = witnessOf(client)
  const named = (text: string) => ({ name: `keepsake_${hash('sha256', text).slice(0, 16)}`, text })
  const reading = named
  /** One that does this work, and gives this of what is `done`. */
  const writing = (work: string, answer: string): Statement => {
    const text = `with done as (${work}) select ${answer}`
    return { ...named(text), witnessed: named(`${text}, ${witness}`) }
  }

  // Of the transaction, so of this statement alone.
  const soon = synchronousCommit ? '' : `, set_config('synchronous_commit', 'off', true)`
  const select = reading(`select value, metadata, expires_at, version, owner from ${table} where key = $1`)
  /*
   * The version that is there afterwards. The select sees what was committed when the statement began, the insert and the
   * update wait for others and see what those leave: so a select that sees what the write did not meet (no entry, or the
   * version that was expected) says that another write came between, and is asked again.
   */
  const there = `coalesce((select version from done), (select version from ${table} where key = $1))`
  const count = '(select count(*) from done)'
  const insert = writing(
    `insert into ${table} (key, version, expires_at, metadata, value, owner) values ($1, $2, $3, $4, $5, $6)
    on conflict (key) do nothing returning version`,
    there + soon,
  )
  // An expiry that stays as it was costs its index nothing: PostgreSQL compares the values.
  const update = writing(
    `update ${table} set version = $3, metadata = $4, value = $5, expires_at = coalesce($6, expires_at)
    where key = $1 and version = $2 returning version`,
    there + soon,
  )
  const remove = writing(`delete from ${table} where key = $1 returning 1`, count)
  const removeVersion = writing(`delete from ${table} where key = $1 and version = $2 returning 1`, count)
  const asMark = `update ${table} set version = $3, metadata = $4, expires_at = $5, value = null, owner = null`
  const mark = writing(`${asMark} where key = $1 and ($2::text is null or version = $2) returning version`, there)
  const touch = writing(
    `update ${table} set expires_at = $2 where key = $1 and expires_at < $2 returning 1`,
    count + soon,
  )
  // The keys as an array, because a subquery of `in` may be run more than once, with more rows each time.
  const sweep = writing(
    `delete from ${table} where key = any (array(
      select key from ${table} where expires_at <= $1 and expires_at >= $3
      order by expires_at limit $2 for update skip locked
    )) returning expires_at, key, metadata, owner`,
    `${count}, (select max(expires_at) from done),
    (select json_agg(json_build_array(encode(key, 'hex'), metadata, owner))::text from done where owner is not null)${soon}`,
  )
  /*
   * Where the last batch of many ended. What was deleted stays at the start of the index until a vacuum, and each batch
   * would walk over all of it: of a million, the last batches took three times as long as the first.
   */
  let swept = EVER
  const all = `select value, metadata, expires_at, version, owner, key from ${table}`
  const part = reading(`${all} where key > $1 order by key limit $2`)
  const list = reading(`${all} where owner = $1`)
  // An insert that has not been committed when these begin comes after them, as a whole.
  const owned = 'where owner = $1 and key is distinct from $2'
  const clear = writing(`delete from ${table} ${owned} returning 1`, count)
  const markOwned = writing(`${asMark} ${owned} returning 1`, count)

  const schema = `create ${unlogged ? 'unlogged ' : ''}table ${table} (
  key bytea primary key,
  version text collate "C" not null,
  expires_at bigint not null,
  metadata text collate "C" not null,
  value text,
  owner text collate "C"
) with (fillfactor = 90);
create index on ${table} (expires_at);
create index on ${table} (owner) where owner is not null;
`
  const migrate = reading(
    `do $keepsake$ begin
  if current_setting('server_encoding') not in ('UTF8', 'SQL_ASCII') then
    raise 'keepsake needs a database whose encoding is UTF8, and this one has %', current_setting('server_encoding');
  end if;
  perform pg_advisory_xact_lock(${LOCK});
  if to_regclass('${table}') is null then
    ${schema}
  end if;
end $keepsake$`,
  )

  return {
    name: 'postgres',
    defaultPeriod: 604_800,
    async get(key) {
      const [row] = await run(select, bytesOf(key))
      return row && entryOf(row)
    },
    async generate(key, { version, expiresAt, metadata, value = null, owner = null }) {
      for (let meeting = 0; meeting < MEETINGS; meeting++) {
        const [row] = await run(insert, bytesOf(key), version, expiresAt, metadata, value, owner)
        const there = row?.[0]
        if (there === version) return undefined
        if (there !== null) return 'taken'
      }
      return 'taken'
    },
    async set(key, { version, metadata, value = null, expiresAt }, expected) {
      for (let meeting = 0; meeting < MEETINGS; meeting++) {
        const [row] = await run(update, bytesOf(key), expected, version, metadata, value, expiresAt ?? null)
        const there = row?.[0]
        if (there === version) return undefined
        if (there === null) return 'gone'
        if (there !== expected) return 'stale'
      }
      return 'stale'
    },
    async clear(key, version, left) {
      if (left === undefined) {
        const [row] =
          version === undefined ? await run(remove, bytesOf(key)) : await run(removeVersion, bytesOf(key), version)
        return version !== undefined && Number(row?.[0]) === 0 ? 'stale' : undefined
      }
      for (let meeting = 0; meeting < MEETINGS; meeting++) {
        const [row] = await run(mark, bytesOf(key), version ?? null, left.version, left.metadata, left.expiresAt)
        const there = row?.[0]
        if (version === undefined || there === left.version) return undefined
        if (there !== version) return 'stale'
      }
      return 'stale'
    },
    async touch(key, expiresAt) {
      await run(touch, bytesOf(key), expiresAt)
      return undefined
    },
    async sweep(now, limit, removed) {
      const batch = async (most: number, after: number) => {
        const [[count, last, owned] = []] = await run(sweep, now, most, after)
        for (const [key, metadata, owner] of JSON.parse(String(owned ?? '[]'))) {
          removed?.({ key: Buffer.from(key, 'hex').toString('base64url'), metadata, owner })
        }
        return { gone: Number(count), last }
      }
      const from = swept
      swept = EVER
      const { gone, last } = await batch(limit, from)
      if (gone < limit) return from === EVER ? gone : gone + (await batch(limit - gone, EVER)).gone
      swept = limit > 0 ? Number(last) : EVER
      return gone
    },
    async scan(cursor = '', limit) {
      return scanned(await run(part, bytesOf(cursor), limit), limit)
    },
    byOwner: {
      async list(owner) {
        return keyed(await run(list, owner))
      },
      async clear(owner, except, left) {
        const spared = except === undefined ? null : bytesOf(except)
        const [row] =
          left === undefined
            ? await run(clear, owner, spared)
            : await run(markOwned, owner, spared, left.version, left.metadata, left.expiresAt)
        return Number(row?.[0])
      },
    },
    schema: () => schema,
    async migrate() {
      await run({ ...migrate, name: '' })
    },
    ...(close && { close }),
  }
}

/** Milliseconds. The database gives up first, so that no statement that nobody waits for goes on there. */
const CONNECTING = 2_000
const AT_THE_DATABASE = 4_000
const AT_ALL = 5_000

/**
 * A backend at a URL, `postgres://user:password@host/database`, by a pool of `pg` of its own. It connects when it is
 * first used, makes its table where that is missing, and ends with `close`. While the server takes no more connections,
 * calls wait for those that there are, two seconds at most. What the URL says beside `connections` is passed to `pg`.
 *
 * A PgBouncer has to be told `ignore_startup_parameters = statement_timeout`; or make a pool yourself.
 *
 * @throws KeepsakeError `unknown_backend` where `pg` is not installed, `invalid_option`
 */
export const connectPostgres = async (url: string, options: ConnectPostgresOptions = {}): Promise<SqlBackend> => {
  const { connections: wanted, ...others } = options
  const { url: connectionString, connections } = withConnections(url, wanted)
  const load = async () => {
    try {
      return await import('pg')
    } catch (error) {
      // biome-ignore lint/complexity/noUselessCatch: bundlers forgive a missing package only in a try
      throw error
    }
  }
  const { Pool } = await importDriver('pg', load)
  const pool = fromUrl(
    connectionString,
    () =>
      new Pool({
        connectionString,
        max: connections,
        connectionTimeoutMillis: CONNECTING,
        statement_timeout: AT_THE_DATABASE,
        query_timeout: AT_ALL,
        keepAlive: true,
        fallback_application_name: 'keepsake',
        allowExitOnIdle: true,
      }),
  )
  return withAutoMigrate(postgresBackend(pool, others), forbidden, () => pool.end())
}
