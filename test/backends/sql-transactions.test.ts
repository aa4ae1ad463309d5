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

const onPostgres: Record<string, (t: TestContext) => Promise<SharedClient<PostgresClient>>> = {
  'a Client of pg on a socket that the application made': async (t) => {
    const client = new Client(await configWithSocket())
    await client.connect()
    closing(t, () => client.end())
    return { client, run: (sql) => client.query(sql) }
  },
  'the same with pipelining': async (t) => {
    const client = new Client({ ...(await configWithSocket()), pipeline: true } as object)
    await client.connect()
    closing(t, () => client.end())
    return { client, run: (sql) => client.query(sql) }
  },
  'a client that a Pool of pg lent': async (t) => {
    const pool = new Pool({ connectionString: await postgresUrl() })
    closing(t, () => pool.end())
    const client = await pool.connect()
    closing(t, () => client.release())
    return { client, run: (sql) => client.query(sql) }
  },
  'postgres.js with one connection': async (t) => {
    const sql = postgres(await postgresUrl(), { max: 1 })
    closing(t, () => sql.end())
    return { client: sql, run: (text) => sql.unsafe(text).execute() }
  },
  'postgres.js without prepared statements': async (t) => {
    const sql = postgres(await postgresUrl(), { max: 1, prepare: false })
    closing(t, () => sql.end())
    return { client: sql, run: (text) => sql.unsafe(text).execute() }
  },
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

const onMysql: Record<string, (t: TestContext) => Promise<SharedClient<MysqlClient>>> = {
  'a connection of mysql2 on a socket that the application made': async (t) => {
    const client = await createConnection({ uri: await mysqlUrl(), stream: await mysqlSocket() })
    closing(t, () => client.end())
    return { client, run: (sql) => client.query(sql) }
  },
  'the same with callbacks': async (t) => {
    const client = callbacks.createConnection({ uri: await mysqlUrl(), stream: await mysqlSocket() })
    closing(t, () => client.promise().end())
    return { client, run: (sql) => client.promise().query(sql) }
  },
  'a connection that a pool of mysql2 lent': async (t) => {
    const pool = createPool(await mysqlUrl())
    closing(t, () => pool.end())
    const client = await pool.getConnection()
    closing(t, () => client.release())
    return { client, run: (sql) => client.query(sql) }
  },
  'a connection of mariadb': async (t) => {
    const client = await mariadb.createConnection((await mysqlUrl()).replace(/^mysql:/, 'mariadb:'))
    closing(t, () => client.end())
    return { client, run: (sql) => client.query(sql) }
  },
  'a connection that a pool of mariadb lent': async (t) => {
    const pool = mariadb.createPool((await mysqlUrl()).replace(/^mysql:/, 'mariadb:'))
    closing(t, () => pool.end())
    const client = await pool.getConnection()
    closing(t, () => client.release())
    return { client, run: (sql) => client.query(sql) }
  },
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
  for (const [name, open] of Object.entries(onPostgres)) {
    test(name, async (t) => {
      const { client, run } = await open(t)
      const table = freshTable()
      closing(t, () => run(`drop table ${table}`))
      await checkWrites(postgresBackend(client, { table }), run)
    })
  }
  for (const [name, open] of Object.entries(onMysql)) {
    test(name, async (t) => {
      const { client, run } = await open(t)
      const table = freshTable()
      closing(t, () => run(`drop table ${table}`))
      await checkWrites(mysqlBackend(client, { table }), run)
    })
  }
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

const leakyPostgres: Record<string, (t: TestContext) => Promise<LeakyPool<PostgresClient>>> = {
  'a Pool of pg': async (t) => {
    const pool = new Pool({ connectionString: await postgresUrl(), max: 1 })
    closing(t, () => pool.end())
    const leak = async (...statements: string[]) => {
      const connection = await pool.connect()
      for (const sql of statements) await connection.query(sql)
      connection.release()
    }
    return { client: pool, leak }
  },
  'postgres.js': async (t) => {
    const sql = postgres(await postgresUrl(), { max: 1 })
    closing(t, () => sql.end())
    const leak = async (...statements: string[]) => {
      const connection = await sql.reserve()
      for (const text of statements) await connection.unsafe(text)
      connection.release()
    }
    return { client: sql, leak }
  },
}

const leakyMysql: Record<string, (t: TestContext) => Promise<LeakyPool<MysqlClient>>> = {
  'a pool of mysql2': async (t) => {
    const pool = createPool({ uri: await mysqlUrl(), connectionLimit: 1 })
    closing(t, () => pool.end())
    const leak = async (...statements: string[]) => {
      const connection = await pool.getConnection()
      for (const sql of statements) await connection.query(sql)
      connection.release()
    }
    return { client: pool, leak }
  },
  'a pool of mariadb that does not check returned connections': async (t) => {
    const { hostname: host, port, username: user, pathname } = new URL(await mysqlUrl())
    const pool = mariadb.createPool({
      ...{ host, port: Number(port), user, database: pathname.slice(1) },
      ...{ connectionLimit: 1, noControlAfterUse: true },
    })
    closing(t, () => pool.end())
    const leak = async (...statements: string[]) => {
      const connection = await pool.getConnection()
      for (const sql of statements) await connection.query(sql)
      await connection.release()
    }
    return { client: pool, leak }
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

suite('a pool to which a connection was returned in the middle of a transaction', () => {
  for (const [name, open] of Object.entries(leakyPostgres)) {
    test(name, async (t) => {
      const { client, leak } = await open(t)
      const admin = new Pool({ connectionString: await postgresUrl() })
      closing(t, () => admin.end())
      const table = freshTable()
      closing(t, () => admin.query(`drop table ${table}`))
      const other = postgresBackend(admin, { table })
      await other.migrate()
      const backend = postgresBackend(client, { table })
      await writeAfterLeak(backend, other, () => leak('begin'))
      if (name === 'postgres.js') {
        await leak('rollback')
        return
      }
      const { key } = await writeAfterLeak(backend, other, () =>
        leak('begin isolation level repeatable read', `select * from ${table}`),
      )
      await leak('begin isolation level repeatable read', `select * from ${table}`)
      await other.clear(key)
      const [result] = await Promise.allSettled([backend.get(key)])
      const hasEntry = result.status === 'fulfilled' && result.value !== undefined
      assert.equal(hasEntry, false, 'the backend does not return an ended session')
      assert.equal(await backend.get(key), undefined)
    })
  }
  for (const [name, open] of Object.entries(leakyMysql)) {
    test(name, async (t) => {
      const { client, leak } = await open(t)
      const admin = createPool(await mysqlUrl())
      closing(t, () => admin.end())
      const table = freshTable()
      closing(t, () => admin.query(`drop table ${table}`))
      const other = mysqlBackend(admin, { table })
      await other.migrate()
      const backend = mysqlBackend(client, { table })
      for (let i = 0; i < 3; i++) {
        const { key, entry } = await writeAfterLeak(backend, other, () => leak('begin', `select * from ${table}`))
        assert.equal(
          await backend.generate(freshKey(), ownedEntry()),
          undefined,
          'the next write uses another connection',
        )
        assert.deepEqual(await backend.get(key), entry)
        await leak('begin', `select * from ${table}`)
        await other.clear(key)
        const [result] = await Promise.allSettled([backend.get(key)])
        const hasEntry = result.status === 'fulfilled' && result.value !== undefined
        assert.equal(hasEntry, false, 'the backend does not return an ended session')
        assert.equal(await backend.get(key), undefined)
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
