// Sessions in PostgreSQL: one table, one statement an operation, over pg, postgres.js or PGlite.

import { hash } from 'node:crypto'
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

export type PostgresOptions = {
  /**
   * The table's name, or `schema.table`, where the schema has to be there: letters, digits and `_`, capitals kept as they
   * are. Default `keepsake_sessions`.
   */
  readonly table?: string
  /**
   * `migrate` and `schema` make the table UNLOGGED: no write waits for the database's disk, none goes to its replicas,
   * and a crash of the database, or a failover, ends every session. A table that is there stays as it is. Default false.
   */
  readonly unlogged?: boolean
  /**
   * False: a save is answered before it is on the database's disk (`synchronous_commit = off`, of these statements
   * alone). On the disk where this was measured it took 0.4 ms in place of 3. A crash of the database, not of this
   * process, then takes back what was saved in its last moments: three times its `wal_writer_delay` at most, together
   * 0.6 s. The end of a session is waited for all the same: what ended stays ended. Default true: as the database is set.
   */
  readonly synchronousCommit?: boolean
  /** False: no prepared statements, for a PgBouncer before 1.21 that pools transactions. Default true. */
  readonly prepare?: boolean
}

type Value = string | number | Uint8Array | null

/** A live Pool or Client of `pg`, or of what has its interface. */
type Pg = {
  connect(...args: never[]): unknown
  query(query: {
    name?: string
    text: string
    values: Value[]
    rowMode: 'array'
  }): Promise<{ readonly rows: readonly Row[] }>
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

type Statement = { readonly name: string; readonly text: string }
type Ask = (statement: Statement, values: Value[]) => PromiseLike<readonly Row[]>

const has = (value: unknown, method: string): boolean => typeof property(value, method) === 'function'

const asker = (client: PostgresClient, prepare: boolean): Ask => {
  if (typeof client === 'function' && 'unsafe' in client) {
    const sql = client as PostgresJs
    return ({ text }, values) => sql.unsafe(text, values, { prepare }).values() as PromiseLike<readonly Row[]>
  }
  if (has(client, 'query') && has(client, 'connect')) {
    const pg = client as Pg
    return async ({ name, text }, values) =>
      (await pg.query({ ...(prepare && { name }), text, values, rowMode: 'array' })).rows
  }
  if (has(client, 'query')) {
    const lite = client as Lite
    return async ({ text }, values) => (await lite.query(text, values, { rowMode: 'array' })).rows as readonly Row[]
  }
  throw new Fault(
    'bad_option',
    'A PostgreSQL backend needs a client: a Pool or Client of pg, what postgres() of postgres.js gives, or a PGlite.',
  )
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
 * Nothing is asked of the database before the first use, and nobody makes the table but `migrate`. Reads and writes have
 * to go to the same server. Statements that the database undoes (40001, 40P01) are sent again, three times at most.
 *
 * @throws Fault `bad_option`
 */
export const postgresBackend = (client: PostgresClient, options: PostgresOptions = {}): SqlBackend => {
  onlyKnown(options, ['table', 'unlogged', 'synchronousCommit', 'prepare'], 'A PostgreSQL backend')
  const { unlogged = false, synchronousCommit = true, prepare = true } = options
  const table = quoted(options.table ?? 'keepsake_sessions', '"')
  const ask = asker(client, prepare)
  hush(client)

  /** What the driver threw, or what an operator has to do about it. */
  const explained = (error: unknown): unknown => {
    const code = property(error, 'code')
    if (code !== '42P01' && code !== '42501') return error
    return new Fault(
      'unavailable',
      code === '42P01'
        ? `PostgreSQL has no table ${table}: call migrate() once, or run what schema() gives.`
        : `PostgreSQL does not let this role make or use the table ${table}: run what schema() gives as one that may, and grant this one select, insert, update and delete.`,
      { cause: error },
    )
  }
  const run = async (statement: Statement, ...values: Value[]): Promise<readonly Row[]> => {
    try {
      return await persistently(async () => ask(statement, values), undone)
    } catch (error) {
      throw explained(error)
    }
  }
  // Named after its text: drivers refuse another text under a name that a connection has prepared.
  const statement = (text: string): Statement => ({ name: `keepsake_${hash('sha256', text).slice(0, 16)}`, text })

  // Of the transaction, so of this statement alone.
  const soon = synchronousCommit ? '' : `, set_config('synchronous_commit', 'off', true)`
  const select = statement(`select value, head, expires_at, version, owner from ${table} where key = $1`)
  /*
   * The next two give the version that is there afterwards. Their select sees what was committed when the statement
   * began, the insert and the update wait for others and see what those leave: so a select that sees what the write did
   * not meet (no entry, or the version that was expected) says that another write came between, and is asked again.
   */
  const insert = statement(
    `with born as (
      insert into ${table} (key, version, expires_at, head, value, owner) values ($1, $2, $3, $4, $5, $6)
      on conflict (key) do nothing returning version
    )
    select coalesce((select version from born), (select version from ${table} where key = $1))${soon}`,
  )
  // An expiry that stays as it was costs its index nothing: PostgreSQL compares the values.
  const update = statement(
    `with done as (
      update ${table} set version = $3, head = $4, value = $5, expires_at = coalesce($6, expires_at)
      where key = $1 and version = $2 returning version
    )
    select coalesce((select version from done), (select version from ${table} where key = $1))${soon}`,
  )
  const remove = statement(`delete from ${table} where key = $1`)
  const removeVersion = statement(`delete from ${table} where key = $1 and version = $2 returning 1`)
  const asMark = `update ${table} set version = $3, head = $4, expires_at = $5, value = null, owner = null`
  const mark = statement(
    `with done as (${asMark} where key = $1 and ($2::text is null or version = $2) returning version)
    select coalesce((select version from done), (select version from ${table} where key = $1))`,
  )
  const touch = statement(
    `with moved as (update ${table} set expires_at = $2 where key = $1 and expires_at < $2 returning 1)
    select count(*)${soon} from moved`,
  )
  // The keys as an array, because a subquery of `in` may be run more than once, with more rows each time.
  const sweep = statement(
    `with gone as (
      delete from ${table} where key = any (array(
        select key from ${table} where expires_at <= $1 and expires_at >= $3
        order by expires_at limit $2 for update skip locked
      )) returning expires_at
    )
    select count(*), max(expires_at)${soon} from gone`,
  )
  /*
   * Where the last batch of many ended. What was deleted stays at the start of the index until a vacuum, and each batch
   * would walk over all of it: of a million, the last batches took three times as long as the first.
   */
  let swept = EVER
  const all = `select value, head, expires_at, version, owner, key from ${table}`
  const part = statement(`${all} where key > $1 order by key limit $2`)
  const list = statement(`${all} where owner = $1`)
  // An insert that has not been committed when this begins comes after it, as a whole.
  const clear = statement(
    `with gone as (delete from ${table} where owner = $1 and key is distinct from $2 returning 1)
    select count(*) from gone`,
  )

  const markOwned = statement(
    `with gone as (${asMark} where owner = $1 and key is distinct from $2 returning 1) select count(*) from gone`,
  )

  const schema = `create ${unlogged ? 'unlogged ' : ''}table ${table} (
  key bytea primary key,
  version text collate "C" not null,
  expires_at bigint not null,
  head text collate "C" not null,
  value text,
  owner text collate "C"
) with (fillfactor = 90);
create index on ${table} (expires_at);
create index on ${table} (owner) where owner is not null;
`
  const migrate = statement(
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
    async generate(key, { version, expiresAt, head, value = null, owner = null }) {
      for (let meeting = 0; meeting < MEETINGS; meeting++) {
        const [row] = await run(insert, bytesOf(key), version, expiresAt, head, value, owner)
        const there = row?.[0]
        if (there === version) return undefined
        if (there !== null) return 'taken'
      }
      return 'taken'
    },
    async set(key, { version, head, value = null, expiresAt }, expected) {
      for (let meeting = 0; meeting < MEETINGS; meeting++) {
        const [row] = await run(update, bytesOf(key), expected, version, head, value, expiresAt ?? null)
        const there = row?.[0]
        if (there === version) return undefined
        if (there === null) return 'gone'
        if (there !== expected) return 'stale'
      }
      return 'stale'
    },
    async clear(key, version, left) {
      if (left === undefined) {
        if (version === undefined) await run(remove, bytesOf(key))
        else if ((await run(removeVersion, bytesOf(key), version)).length === 0) return 'stale'
        return undefined
      }
      for (let meeting = 0; meeting < MEETINGS; meeting++) {
        const [row] = await run(mark, bytesOf(key), version ?? null, left.version, left.head, left.expiresAt)
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
    async sweep(now, limit) {
      const from = swept
      swept = EVER
      const [[count, last] = []] = await run(sweep, now, limit, from)
      const gone = Number(count)
      if (gone < limit) return from === EVER ? gone : gone + Number((await run(sweep, now, limit - gone, EVER))[0]?.[0])
      swept = limit > 0 ? Number(last) : EVER
      return gone
    },
    async scan(cursor = '', limit) {
      return scanned(await run(part, bytesOf(cursor), limit), limit)
    },
    owned: {
      async list(owner) {
        return keyed(await run(list, owner))
      },
      async clear(owner, except, left) {
        const spared = except === undefined ? null : bytesOf(except)
        const [row] =
          left === undefined
            ? await run(clear, owner, spared)
            : await run(markOwned, owner, spared, left.version, left.head, left.expiresAt)
        return Number(row?.[0])
      },
    },
    schema: () => schema,
    async migrate() {
      await run({ ...migrate, name: '' })
    },
  }
}

/** Milliseconds. The database gives up first, so that no statement that nobody waits for goes on there. */
const CONNECTING = 2_000
const AT_THE_DATABASE = 4_000
const AT_ALL = 5_000

/**
 * A backend at a URL, `postgres://user:password@host/database`, by a pool of `pg` of its own. It connects when it is
 * first used, makes its table where that is missing, and ends with `close`.
 *
 * A PgBouncer has to be told `ignore_startup_parameters = statement_timeout`; or make a pool yourself.
 *
 * @throws Fault `no_backend` where `pg` is not installed, `bad_option`
 */
export const connectPostgres = async (url: string, options: PostgresOptions = {}): Promise<SqlBackend> => {
  const { Pool } = await driver('pg', () => import('pg'))
  const pool = fromUrl(
    url,
    () =>
      new Pool({
        connectionString: url,
        connectionTimeoutMillis: CONNECTING,
        statement_timeout: AT_THE_DATABASE,
        query_timeout: AT_ALL,
        keepAlive: true,
        fallback_application_name: 'keepsake',
        allowExitOnIdle: true,
      }),
  )
  return selfMade(postgresBackend(pool, options), () => pool.end())
}
