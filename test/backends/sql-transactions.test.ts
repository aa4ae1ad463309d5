// No call succeeds in a transaction of the application, so a rollback never undoes a successful call.

import assert from 'node:assert/strict'
import { connect, Socket } from 'node:net'
import { suite, type TestContext, test } from 'node:test'
import { PGlite } from '@electric-sql/pglite'
import type { Backend, Entry } from 'keepsake'
import { type MysqlClient, mysqlBackend } from 'keepsake/mysql'
import { type PostgresClient, postgresBackend } from 'keepsake/postgres'
import * as mariadb from 'mariadb'
import * as callbacks from 'mysql2'
import { createConnection, createPool } from 'mysql2/promise'
import { Client, Pool } from 'pg'
import postgres from 'postgres'
import { code } from '../support/assert.ts'
import { entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { mariadbServer } from '../support/mariadb-server.ts'
import type { SqlBackend } from '../support/sql-cases.ts'
import { closing, freshTable, mysqlUrl, postgresUrl } from '../support/stores.ts'

const ownedEntry = (more: Partial<Entry> = {}): Entry => entryWith({ owner: OWNER, ...more })

const isInTransaction = (error: unknown): boolean => {
  assert.match((error as Error).message, /in a transaction of the application/)
  return true
}

/** A client of a backend. With `run` the application runs statements on the same connection. */
type SharedClient<C> = { readonly client: C; readonly run: (sql: string) => PromiseLike<unknown> }

/** A configuration with a port that nothing uses, as with the connectors of clouds: only its socket leads to the server. */
const configWithSocket = async () => {
  const url = new URL(await postgresUrl())
  const [port, host] = [Number(url.port || 5432), url.hostname]
  url.port = '1'
  const stream = () => {
    const socket = new Socket()
    const connectSocket = socket.connect.bind(socket)
    socket.connect = () => connectSocket(port, host)
    return socket
  }
  return { connectionString: url.href, stream }
}

/** Shares a client with the backend, and closes it after the test. */
const shareClient = <C extends { query(sql: string): PromiseLike<unknown> }>(
  t: TestContext,
  client: C,
  close: () => unknown,
): SharedClient<C> => {
  closing(t, close)
  return { client, run: (sql) => client.query(sql) }
}

const connectPg = async (t: TestContext, options: object = {}) => {
  const client = new Client({ ...(await configWithSocket()), ...options })
  await client.connect()
  return shareClient(t, client, () => client.end())
}

const openPostgresJs = async (t: TestContext, options: object = {}) => {
  const sql = postgres(await postgresUrl(), { max: 1, ...options })
  closing(t, () => sql.end())
  return { client: sql, run: (text: string) => sql.unsafe(text).execute() }
}

const onPostgres: Record<string, (t: TestContext) => Promise<SharedClient<PostgresClient>>> = {
  'a Client of pg on a socket that the application made': connectPg,
  'the same with pipelining': (t) => connectPg(t, { pipeline: true }),
  'a client that a Pool of pg lent': async (t) => {
    const pool = new Pool({ connectionString: await postgresUrl() })
    closing(t, () => pool.end())
    const client = await pool.connect()
    return shareClient(t, client, () => client.release())
  },
  'postgres.js with one connection': openPostgresJs,
  'postgres.js without prepared statements': (t) => openPostgresJs(t, { prepare: false }),
  'a connection that postgres.js reserved': async (t) => {
    const sql = postgres(await postgresUrl())
    closing(t, () => sql.end())
    const reserved = await sql.reserve()
    closing(t, () => reserved.release())
    return { client: reserved, run: (text) => reserved.unsafe(text).execute() }
  },
  PGlite: async (t) => {
    const client = await PGlite.create()
    closing(t, () => client.close())
    return { client, run: (sql) => client.exec(sql) }
  },
}

const mysqlSocket = async () => {
  const { port, hostname } = new URL(await mysqlUrl())
  return connect(Number(port || 3306), hostname)
}

/** Shares a connection that this pool lent. */
const shareLent = async <C extends { query(sql: string): PromiseLike<unknown>; release(): unknown }>(
  t: TestContext,
  pool: { getConnection(): Promise<C>; end(): Promise<unknown> },
): Promise<SharedClient<C>> => {
  closing(t, () => pool.end())
  const client = await pool.getConnection()
  return shareClient(t, client, () => client.release())
}

const mariadbUrl = async () => (await mysqlUrl()).replace(/^mysql:/, 'mariadb:')

const onMysql: Record<string, (t: TestContext) => Promise<SharedClient<MysqlClient>>> = {
  'a connection of mysql2 on a socket that the application made': async (t) => {
    const client = await createConnection({ uri: await mysqlUrl(), stream: await mysqlSocket() })
    return shareClient(t, client, () => client.end())
  },
  'the same with callbacks': async (t) => {
    const client = callbacks.createConnection({ uri: await mysqlUrl(), stream: await mysqlSocket() })
    closing(t, () => client.promise().end())
    return { client, run: (sql) => client.promise().query(sql) }
  },
  'a connection that a pool of mysql2 lent': async (t) => shareLent(t, createPool(await mysqlUrl())),
  'a connection of mariadb': async (t) => {
    const client = await mariadb.createConnection(await mariadbUrl())
    return shareClient(t, client, () => client.end())
  },
  'a connection that a pool of mariadb lent': async (t) => shareLent(t, mariadb.createPool(await mariadbUrl())),
}

/** All operations that write, on an entry that exists. */
const writes = (backend: Backend, key: string, version: string): Record<string, () => unknown> => {
  const mark = { metadata: 'm', version: freshVersion(), expiresAt: Date.now() + 3_600_000 }
  return {
    generate: () => backend.generate(freshKey(), ownedEntry()),
    set: () => backend.set(key, { value: '{"n":2}', metadata: '1.def', version: freshVersion() }, version),
    touch: () => backend.touch(key, Date.now() + 7_200_000),
    'clear with a version': () => backend.clear(key, version),
    'clear with a mark': () => backend.clear(key, undefined, mark),
    clear: () => backend.clear(key),
    sweep: () => backend.sweep?.(10, 5),
    'clear of an owner': () => backend.byOwner?.clear(OWNER),
    'clear of an owner with a mark': () => backend.byOwner?.clear(OWNER, undefined, mark),
  }
}

const checkWrites = async (backend: SqlBackend, run: SharedClient<unknown>['run']) => {
  await backend.migrate()
  const key = freshKey()
  const entry = ownedEntry()
  assert.equal(await backend.generate(key, entry), undefined)
  await backend.generate(freshKey(), ownedEntry({ expiresAt: 5 }))
  for (const [name, write] of Object.entries(writes(backend, key, entry.version))) {
    await run('begin')
    await assert.rejects(async () => write(), isInTransaction, name)
    await run('rollback')
    assert.deepEqual(await backend.get(key), entry, name)
    // The same without waiting for the answers, so that the transaction has ended before the backend can check it.
    const results = Promise.allSettled([run('begin'), write()])
    // Some drivers send their statements only after this tick.
    await new Promise((resolve) => setImmediate(resolve))
    await run('rollback')
    const [, result] = await results
    assert.deepEqual([name, result.status], [name, 'rejected'])
    assert.deepEqual(await backend.get(key), entry, name)
  }
  for (const [name, write] of Object.entries(writes(backend, key, entry.version))) {
    assert.notEqual(await write(), 'gone', `${name}, without a transaction`)
  }
  assert.equal(await backend.get(key), undefined)
}

suite('a connection in a transaction of the application, if the backend cannot open another one', () => {
  const testEach = <C>(
    clients: Record<string, (t: TestContext) => Promise<SharedClient<C>>>,
    createBackend: (client: C, options: { readonly table: string }) => SqlBackend,
  ) => {
    for (const [name, open] of Object.entries(clients)) {
      test(name, async (t) => {
        const { client, run } = await open(t)
        const table = freshTable()
        closing(t, () => run(`drop table ${table}`))
        await checkWrites(createBackend(client, { table }), run)
      })
    }
  }
  testEach(onPostgres, postgresBackend)
  testEach(onMysql, mysqlBackend)
  test('on a client of pg reads fail, too, and nothing is changed', async (t) => {
    const { client, run } = await (onPostgres['a Client of pg on a socket that the application made'] ?? assert.fail())(
      t,
    )
    const table = freshTable()
    closing(t, () => run(`drop table ${table}`))
    const backend = postgresBackend(client, { table })
    await backend.migrate()
    await run('begin isolation level repeatable read')
    await assert.rejects(async () => backend.get(freshKey()), code('unavailable'))
    await assert.rejects(async () => backend.generate(freshKey(), ownedEntry()), code('unavailable'))
    await run('select nonsense').then(undefined, () => {})
    await assert.rejects(
      async () => backend.get(freshKey()),
      code('unavailable'),
      'also after an error in the transaction',
    )
    await run('commit')
    assert.deepEqual((await backend.scan?.(undefined, 5))?.entries, [])
  })
  test('a function that postgres.js or PGlite runs in a transaction', async (t) => {
    const sql = postgres(await postgresUrl())
    closing(t, () => sql.end())
    const table = freshTable()
    closing(t, () => sql.unsafe(`drop table ${table}`))
    await postgresBackend(sql, { table }).migrate()
    const lite = await PGlite.create()
    closing(t, () => lite.close())
    await postgresBackend(lite, { table }).migrate()
    const rejects = (client: PostgresClient) =>
      assert.rejects(async () => postgresBackend(client, { table }).generate(freshKey(), ownedEntry()), isInTransaction)
    await sql.begin(async (client) => rejects(client))
    await lite.transaction(async (client) => rejects(client))
  })
})

/** A pool with one connection, which the application can return in the middle of a transaction. */
type LeakyPool<C> = {
  readonly client: C
  /** Runs statements on the connection, and returns it to the pool. */
  readonly leak: (...statements: string[]) => Promise<unknown>
}

/** Shares a pool with the backend, and closes it after the test. */
const shareLeakyPool = <C extends { end(): Promise<unknown> }, Connection extends { release(): unknown }>(
  t: TestContext,
  client: C,
  take: () => PromiseLike<Connection>,
  run: (connection: Connection, sql: string) => PromiseLike<unknown>,
): LeakyPool<C> => {
  closing(t, () => client.end())
  const leak = async (...statements: string[]) => {
    const connection = await take()
    for (const sql of statements) await run(connection, sql)
    await connection.release()
  }
  return { client, leak }
}

const leakyPostgres: Record<string, (t: TestContext) => Promise<LeakyPool<PostgresClient>>> = {
  'a Pool of pg': async (t) => {
    const pool = new Pool({ connectionString: await postgresUrl(), max: 1 })
    return shareLeakyPool(
      t,
      pool,
      () => pool.connect(),
      (connection, sql) => connection.query(sql),
    )
  },
  'postgres.js': async (t) => {
    const pool = postgres(await postgresUrl(), { max: 1 })
    return shareLeakyPool(
      t,
      pool,
      () => pool.reserve(),
      (connection, sql) => connection.unsafe(sql),
    )
  },
}

const leakyMysql: Record<string, (t: TestContext) => Promise<LeakyPool<MysqlClient>>> = {
  'a pool of mysql2': async (t) => {
    const pool = createPool({ uri: await mysqlUrl(), connectionLimit: 1 })
    return shareLeakyPool(
      t,
      pool,
      () => pool.getConnection(),
      (connection, sql) => connection.query(sql),
    )
  },
  'a pool of mariadb that does not check returned connections': async (t) => {
    const { hostname: host, port, username: user, pathname } = new URL(await mysqlUrl())
    const pool = mariadb.createPool({
      ...{ host, port: Number(port), user, database: pathname.slice(1) },
      ...{ connectionLimit: 1, noControlAfterUse: true },
    })
    return shareLeakyPool(
      t,
      pool,
      () => pool.getConnection(),
      (connection, sql) => connection.query(sql),
    )
  },
}

/** Writes after a leak. The write may fail, but if it succeeds, another connection can read the entry. */
const writeAfterLeak = async (backend: Backend, other: Backend, leak: () => Promise<unknown>) => {
  const [key, fresh] = [freshKey(), freshKey()]
  const entry = ownedEntry()
  await backend.generate(key, entry)
  await leak()
  const [result] = await Promise.allSettled([backend.generate(fresh, entry)])
  assert.deepEqual(await other.get(fresh), result.status === 'fulfilled' ? entry : undefined)
  return { key, entry }
}

/** Ends a session through another connection, and checks that the backend does not return it. */
const checkEnd = async (backend: Backend, other: Backend, key: string) => {
  await other.clear(key)
  const [result] = await Promise.allSettled([backend.get(key)])
  const hasEntry = result.status === 'fulfilled' && result.value !== undefined
  assert.equal(hasEntry, false, 'the backend does not return an ended session')
  assert.equal(await backend.get(key), undefined)
}

suite('a pool to which a connection was returned in the middle of a transaction', () => {
  /** A backend with a leaky pool, and another one in the same table. */
  const openBoth = async <C>(
    t: TestContext,
    client: C,
    admin: C & { query(sql: string): PromiseLike<unknown>; end(): Promise<unknown> },
    createBackend: (client: C, options: { readonly table: string }) => SqlBackend,
  ) => {
    closing(t, () => admin.end())
    const table = freshTable()
    closing(t, () => admin.query(`drop table ${table}`))
    const other = createBackend(admin, { table })
    await other.migrate()
    return { table, other, backend: createBackend(client, { table }) }
  }

  for (const [name, open] of Object.entries(leakyPostgres)) {
    test(name, async (t) => {
      const { client, leak } = await open(t)
      const admin = new Pool({ connectionString: await postgresUrl() })
      const { table, other, backend } = await openBoth(t, client, admin, postgresBackend)
      await writeAfterLeak(backend, other, () => leak('begin'))
      if (name === 'postgres.js') {
        await leak('rollback')
        return
      }
      const { key } = await writeAfterLeak(backend, other, () =>
        leak('begin isolation level repeatable read', `select * from ${table}`),
      )
      await leak('begin isolation level repeatable read', `select * from ${table}`)
      await checkEnd(backend, other, key)
    })
  }
  for (const [name, open] of Object.entries(leakyMysql)) {
    test(name, async (t) => {
      const { client, leak } = await open(t)
      const admin = createPool(await mysqlUrl())
      const { table, other, backend } = await openBoth(t, client, admin, mysqlBackend)
      for (let i = 0; i < 3; i++) {
        const { key, entry } = await writeAfterLeak(backend, other, () => leak('begin', `select * from ${table}`))
        assert.equal(
          await backend.generate(freshKey(), ownedEntry()),
          undefined,
          'the next write uses another connection',
        )
        assert.deepEqual(await backend.get(key), entry)
        await leak('begin', `select * from ${table}`)
        await checkEnd(backend, other, key)
      }
    })
  }
})

test('a pool of connections with autocommit off is refused, and the error names the remedy', async (t) => {
  const { url } = await mariadbServer(['--autocommit=0'])
  const corrected = createPool(url)
  corrected.on('connection', (connection) => connection.query('set autocommit = 1'))
  closing(t, () => corrected.end())
  const other = mysqlBackend(corrected)
  await other.migrate()
  assert.equal(
    await other.generate(freshKey(), ownedEntry()),
    undefined,
    'a pool that turns autocommit on first is accepted',
  )
  const mysql2 = createPool(url)
  closing(t, () => mysql2.end())
  const maria = mariadb.createPool(url.replace(/^mysql:/, 'mariadb:'))
  closing(t, () => maria.end())
  for (const client of [mysql2, maria]) {
    const backend = mysqlBackend(client)
    const key = freshKey()
    for (const call of [() => backend.get(key), () => backend.generate(key, ownedEntry())]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /autocommit off.*Nothing was changed.*“set autocommit = 1”/)
    }
    assert.equal(await other.get(key), undefined)
  }
})
