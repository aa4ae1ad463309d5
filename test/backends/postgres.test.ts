// The backend in PostgreSQL: concurrent statements, the table, drivers and their settings, crashes, and silent connections.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { connectPostgres, type PostgresClient, type PostgresOptions, postgresBackend } from 'keepsake/postgres'
import { Client, Pool, type QueryArrayConfig } from 'pg'
import postgres from 'postgres'
import { code } from '../support/assert.ts'
import { change, entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'
import { clearInDeadlock, generated, migrateInEightProcesses, openByUrl, sqlCases } from '../support/sql-cases.ts'
import { closing, freshTable, postgresUrl, tableFor } from '../support/stores.ts'
import { until } from '../support/until.ts'

const HOUR = 3_600_000

const openPool = async (
  t: TestContext,
  config: ConstructorParameters<typeof Pool>[0] = {},
  url?: string,
): Promise<Pool> => {
  const pool = new Pool({ connectionString: url ?? (await postgresUrl()), ...config })
  closing(t, () => {
    // `end` does not wait until the connections are closed, so the server may end before them.
    pool.on('error', () => {})
    return pool.end()
  })
  return pool
}

const stage = async (t: TestContext) => {
  const pool = await openPool(t)
  const table = tableFor(t, pool)
  const backend = postgresBackend(pool, { table })
  await backend.migrate()
  const client = new Client({ connectionString: await postgresUrl() })
  await client.connect()
  closing(t, () => client.end())
  const other = {
    begin: () => client.query('begin'),
    commit: () => client.query('commit'),
    rollback: () => client.query('rollback'),
    insert: (key: string, version: string, owner?: string) =>
      client.query(`insert into ${table} (key, version, expires_at, metadata, owner) values ($1, $2, 1, 'other', $3)`, [
        key,
        version,
        owner,
      ]),
    setVersion: (key: string, version: string) =>
      client.query(`update ${table} set version = $1 where key = $2`, [version, key]),
    extend: (key: string, milliseconds: number) =>
      client.query(`update ${table} set expires_at = expires_at + $1 where key = $2`, [milliseconds, key]),
    remove: (key: string) => client.query(`delete from ${table} where key = $1`, [key]),
    valueOf: async (key: string) =>
      (await client.query(`select value from ${table} where key = $1`, [key])).rows[0]?.value,
  }
  const waiting = () =>
    until(async () => {
      // Only statements on this table, because other programs may use the server.
      const { rows } = await pool.query(
        `select count(*)::int4 as n from pg_locks join pg_stat_activity using (pid)
         where not granted and query like $1 and pid <> pg_backend_pid()`,
        [`%${table}%`],
      )
      return rows[0].n >= 1
    })
  const fill = async (count: number) => {
    await pool.query(
      `insert into ${table} (key, version, expires_at, metadata, owner)
       select md5(n::text), 'v', n, 'h', case when n % 10 = 0 then 'app:' || n end from generate_series(1, $1::int) n`,
      [count],
    )
    await pool.query(`analyze ${table}`)
  }
  const another = async () => postgresBackend(await openPool(t), { table })
  return { table, backend, pool, client, other, waiting, fill, another }
}

/** A role that may do nothing. */
const createRole = async (t: TestContext) => {
  const pool = await openPool(t)
  const role = freshTable()
  await pool.query(`create role ${role} login`)
  closing(t, async () => {
    await pool.query(`drop owned by ${role}`)
    await pool.query(`drop role ${role}`)
  })
  const grant = (table: string) => pool.query(`grant select, insert, update, delete on ${table} to ${role}`)
  return { role, grant }
}

sqlCases({
  stage,
  backend: (client, options) => postgresBackend(client as PostgresClient, options as PostgresOptions),
  connect: connectPostgres,
  url: postgresUrl,
  alias: 'postgresql:',
  codeProperty: 'code',
  undone: ['40P01', '40001'],
  unknown: ['08006', '57014'],
  clientOf: (run) => ({
    connect: () => {},
    query: async () => {
      await run()
      return { rows: [] }
    },
  }),
  async counted(t) {
    const url = new URL(await postgresUrl())
    const application = freshTable()
    url.searchParams.set('application_name', application)
    const pool = await openPool(t)
    const count = async () => {
      const sql = 'select pid from pg_stat_activity where application_name = $1'
      return (await pool.query(sql, [application])).rows.length
    }
    return { url: url.href, table: tableFor(t, pool), count }
  },
  async restricted(t) {
    const { role, grant } = await createRole(t)
    const url = new URL(await postgresUrl())
    url.searchParams.set('options', `-c role=${role}`)
    return { url: url.href, grant }
  },
  server: postgresServer,
  noServer: noPostgres(),
  failingUrls: (login, host) => [
    `postgres://${login}@${host}/nowhere`,
    `postgres://${login}@${host}/postgres?sslmode=verify-full`,
  ],
  driver: {
    name: 'pg',
    file: 'postgres.ts',
    connect: 'connectPostgres',
    url: 'postgres://app:x@127.0.0.1/a',
  },
})

suite('concurrent statements in PostgreSQL', () => {
  test('a sweep waits for no lock, and keeps an entry that is being extended', async (t) => {
    const { backend, other } = await stage(t)
    const one = await generated(backend, { expiresAt: 1 })
    const two = await generated(backend, { expiresAt: 2 })
    await other.begin()
    await other.extend(one.key, 999)
    assert.equal(await backend.sweep?.(10, 50), 1)
    await other.commit()
    assert.equal(await backend.sweep?.(10, 50), 0)
    assert.ok(await backend.get(one.key))
    assert.equal(await backend.get(two.key), undefined)
  })
  test('a statement that the database undid because of a deadlock is sent again', async (t) => {
    const { table, backend, client, other, waiting } = await stage(t)
    // Each connection looks for a deadlock once, after this time of waiting. The first that looks is the victim.
    const impatientPool = await openPool(t, { options: '-c deadlock_timeout=1s' })
    await client.query("set deadlock_timeout = '5s'")
    let undone = 0
    const isDeadlock = (error: unknown) => (error as { code?: string }).code === '40P01'
    const countingClient = {
      connect: () => {},
      query: (query: QueryArrayConfig) =>
        impatientPool.query(query).catch((error) => {
          if (isDeadlock(error)) undone++
          throw error
        }),
    }
    // If the machine stands still for seconds, the other connection is the victim. Then the test tries again.
    for (let tries = 0; undone === 0 && tries < 10; tries++) {
      const one = await generated(backend, { owner: OWNER })
      const two = await generated(backend, { owner: OWNER })
      await other.begin()
      const clear = () => postgresBackend(countingClient, { table }).byOwner?.clear(OWNER)
      await clearInDeadlock({ other, waiting }, clear, [one.key, two.key], isDeadlock)
      assert.equal(await backend.get(one.key), undefined)
    }
    assert.ok(undone > 0, 'there was a deadlock, and the database undid the statement of the backend')
  })
})

suite('the table in PostgreSQL', () => {
  test('eight processes create it concurrently, and none of them fails', async (t) => {
    const pool = await openPool(t)
    const connect = `
      import { postgresBackend } from 'keepsake/postgres'
      import { Client } from 'pg'
      const connection = new Client({ connectionString: process.env.URL })
      await connection.connect()
      const backend = postgresBackend(connection, { table: process.env.TABLE })
    `
    const table = await migrateInEightProcesses(t, pool, await postgresUrl(), connect)
    const { rows } = await pool.query('select 1 from pg_indexes where tablename = $1', [table])
    assert.equal(rows.length, 3, 'each index was created once')
  })
  test('it may be in a schema, and the statements of schema() create the same table', async (t) => {
    const pool = await openPool(t)
    const schema = freshTable()
    await pool.query(`create schema ${schema}`)
    closing(t, () => pool.query(`drop schema ${schema} cascade`))
    const backend = postgresBackend(pool, { table: `${schema}.Sessions` })
    await backend.migrate()
    await backend.migrate()
    assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
    const columns = async (table: string) => {
      const { rows } = await pool.query(
        'select column_name, data_type, is_nullable, collation_name from information_schema.columns where table_schema = $1 and table_name = $2 order by ordinal_position',
        [schema, table],
      )
      return rows
    }
    const byHand = postgresBackend(pool, { table: `${schema}.by_hand` })
    await pool.query(byHand.schema())
    assert.equal((await columns('Sessions')).length, 6)
    assert.deepEqual(await columns('by_hand'), await columns('Sessions'))
    await byHand.migrate()
  })
  test('if it does not exist, or the role may not create or use it, the error names the remedy', async (t) => {
    const { pool, table } = await stage(t)
    const missing = postgresBackend(pool, { table: freshTable() })
    await assert.rejects(async () => missing.get(freshKey()), code('unavailable'))
    await assert.rejects(
      async () => missing.get(freshKey()),
      /The table "keepsake_\w+" does not exist: call migrate\(\)/,
    )
    const { role, grant } = await createRole(t)
    const weakPool = await openPool(t, { options: `-c role=${role}` })
    for (const call of [
      () => postgresBackend(weakPool, { table }).get(freshKey()),
      () => postgresBackend(weakPool, { table: freshTable() }).migrate(),
    ]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /This role may not create or use/)
    }
    await grant(table)
    const granted = postgresBackend(weakPool, { table })
    await granted.migrate()
    assert.equal(await granted.generate(freshKey(), entryWith()), undefined, 'a role needs only these four rights')
  })
  test('each statement uses an index', async (t) => {
    const { pool, table, backend: filled, fill } = await stage(t)
    await fill(20_000)
    const sent: { text: string; values: unknown[] }[] = []
    const query = (config: { text: string; values: unknown[] }) => {
      sent.push(config)
      return pool.query(config) as never
    }
    const backend = postgresBackend({ connect: () => {}, query } as never, { table })
    await backend.sweep?.(5, 50)
    await backend.byOwner?.list('app:100')
    await backend.byOwner?.clear('app:100')
    await backend.get((await generated(filled)).key)
    await backend.scan?.('a'.repeat(32), 50)
    // This client does not know whether a transaction is open, so the backend also asks about the numbers of its writes.
    const statements = sent.filter(({ text }) => text.includes(table))
    const plans = await Promise.all(
      statements.map(async ({ text, values }) => {
        const { rows } = await pool.query(`explain ${text}`, values)
        return rows.map((row) => row['QUERY PLAN']).join('\n')
      }),
    )
    const indexes = ['expires_at_idx', 'owner_idx', 'owner_idx', 'pkey', 'pkey'].map((name) => `${table}_${name}`)
    assert.equal(plans.length, indexes.length)
    for (const [i, plan] of plans.entries()) {
      assert.ok(plan.includes(`using ${indexes[i]}`) || plan.includes(`on ${indexes[i]}`), `${indexes[i]} in ${plan}`)
      assert.doesNotMatch(plan, /Seq Scan/)
    }
  })
})

suite('a live client of PostgreSQL', () => {
  test('each statement is prepared once on a connection, for any number of calls', async (t) => {
    const { table } = await stage(t)
    // The backend uses a client from a pool as it is. Beside a single Client it would open another one.
    const client = await (await openPool(t)).connect()
    closing(t, () => client.release())
    const sql = postgres(await postgresUrl(), { max: 1 })
    closing(t, () => sql.end())
    for (const [one, count] of [
      [client, async () => (await client.query('select name from pg_prepared_statements')).rows.length],
      [sql, async () => (await sql.unsafe('select name from pg_prepared_statements')).length],
    ] as const) {
      const backend = postgresBackend(one, { table })
      const round = async (i: number) => {
        const key = freshKey()
        const entry = entryWith({ owner: OWNER })
        await backend.generate(key, entry)
        await backend.get(key)
        await backend.set(key, change(i % 2 ? { expiresAt: Date.now() + HOUR } : {}), entry.version)
        await backend.touch(key, Date.now() + 2 * HOUR)
        await backend.sweep?.(i, i + 1)
        await backend.scan?.(i % 2 ? key : undefined, 5)
        await backend.byOwner?.list(OWNER)
        await backend.byOwner?.clear(OWNER, i % 2 ? key : undefined)
        await backend.clear(key, entry.version)
        await backend.clear(key)
      }
      for (let i = 0; i < 2; i++) await round(i)
      const prepared = await count()
      // One for each operation. postgres.js adds one if a value may be null, and one of its own.
      assert.ok(prepared >= 10 && prepared <= 13, `${prepared} statements`)
      for (let i = 2; i < 20; i++) await round(i)
      await postgresBackend(one, { table }).get(freshKey())
      assert.equal(await count(), prepared)
    }
  })
  test('with prepare: false, no statement is prepared', async (t) => {
    const { table } = await stage(t)
    // The backend uses a client from a pool as it is. Beside a single Client it would open another one.
    const client = await (await openPool(t)).connect()
    closing(t, () => client.release())
    const backend = postgresBackend(client, { table, prepare: false })
    assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
    assert.deepEqual((await client.query('select name from pg_prepared_statements')).rows, [])
  })
  test('it may parse numbers in its own way, and rename columns', async (t) => {
    const { table } = await stage(t)
    const { types } = await import('pg')
    const getTypeParser = ((oid: number, format: 'text') =>
      oid === types.builtins.INT8 ? BigInt : types.getTypeParser(oid, format)) as never
    const pool = await openPool(t, { types: { getTypeParser } })
    const sql = postgres(await postgresUrl(), { transform: postgres.toPascal })
    closing(t, () => sql.end())
    for (const client of [pool, sql]) {
      const backend = postgresBackend(client, { table })
      const [key, owner] = [freshKey(), `app:${freshVersion()}`]
      const entry = entryWith({ owner })
      await backend.generate(key, entry)
      assert.deepEqual(await backend.get(key), entry)
      assert.deepEqual(await backend.byOwner?.list(owner), [{ ...entry, key }])
      const all = (await backend.scan?.(undefined, 1000))?.entries
      assert.deepEqual(all, [{ ...entry, key }])
      assert.equal(await backend.byOwner?.clear(owner), 1)
    }
  })
  test('its error events do not end the process, even if the application has no listener', async (t) => {
    const { client, table } = await stage(t)
    const application = freshTable()
    const pool = await openPool(t, { application_name: application })
    const backend = postgresBackend(pool, { table })
    await backend.get(freshKey())
    const sql = 'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1'
    await client.query(sql, [application])
    await until(async () => pool.totalCount === 0)
    assert.equal(await backend.get(freshKey()), undefined, 'the pool works again')
  })
})

test('a crash of the server loses no save and no end that was answered', { skip: noPostgres() }, async (t) => {
  // With these settings, only a commit writes to the disk during the test.
  const server = await postgresServer({ wal_writer_delay: '10s', autovacuum: 'off' })
  closing(t, () => server.stop())
  const pool = await openPool(t, {}, server.url)
  const backend = postgresBackend(pool)
  await backend.migrate()
  const crash = async () => {
    await server.restart()
    await until(async () =>
      pool.query('select 1').then(
        () => true,
        () => false,
      ),
    )
  }
  const saved = [await generated(backend), await generated(backend), await generated(backend)] as const
  const owned = await generated(backend, { owner: OWNER })
  const next = change()
  await backend.set(saved[0].key, next, saved[0].entry.version)
  await backend.touch(saved[0].key, Date.now() + 9 * HOUR)
  const before = await backend.get(saved[0].key)
  await crash()
  assert.equal(before?.version, next.version)
  assert.deepEqual(await backend.get(saved[0].key), before)
  for (const { key, entry } of [...saved.slice(1), owned]) {
    assert.equal((await backend.get(key))?.version, entry.version, 'a saved entry exists')
  }
  for (const end of [
    () => backend.clear(saved[1].key),
    () => backend.clear(saved[2].key, saved[2].entry.version),
    () => backend.byOwner?.clear(OWNER),
  ]) {
    await end()
    await crash()
  }
  assert.equal(await backend.get(saved[1].key), undefined, 'an ended session does not exist')
  assert.equal(await backend.get(saved[2].key), undefined)
  assert.deepEqual(await backend.byOwner?.list(OWNER), [])
  assert.ok(await backend.get(saved[0].key))
})

suite('a backend by URL of PostgreSQL', { concurrency: true }, () => {
  test('a statement that waits for a lock fails after some seconds, and the pool works again', async (t) => {
    const { table, client } = await stage(t)
    const backend = await openByUrl(t, connectPostgres, await postgresUrl(), table)
    await retryIfStalled(() => backend.get(freshKey()))
    await client.query('begin')
    await client.query(`lock table ${table}`)
    await retryIfStalled(() => assert.rejects(async () => backend.get(freshKey()), { code: '57014' }))
    await client.query('rollback')
    assert.equal(await retryIfStalled(() => backend.get(freshKey())), undefined)
  })
  test('a connection without answers fails only the call that uses it', { skip: noPostgres() }, async (t) => {
    const server = await postgresServer()
    closing(t, () => server.stop())
    const backend = await openByUrl(t, connectPostgres, server.url)
    await retryIfStalled(() => backend.get(freshKey()))
    const pool = await openPool(t, {}, server.url)
    // At its end, the server may send an error to clients that have gone.
    pool.on('error', () => {})
    const { rows } = await pool.query("select pid from pg_stat_activity where application_name = 'keepsake'")
    assert.equal(rows.length, 1)
    process.kill(rows[0].pid, 'SIGSTOP')
    closing(t, () => process.kill(rows[0].pid, 'SIGCONT'))
    await assert.rejects(async () => backend.get(freshKey()), /timeout/)
    assert.equal(
      await retryIfStalled(() => backend.get(freshKey())),
      undefined,
      'the next call uses another connection',
    )
  })
})
