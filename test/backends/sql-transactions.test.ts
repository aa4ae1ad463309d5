// No call is answered that ran in a transaction of the application: whatever becomes of it, what was answered stays.

import assert from 'node:assert/strict'
import { connect, Socket } from 'node:net'
import { suite, type TestContext, test } from 'node:test'
import { PGlite } from '@electric-sql/pglite'
import { type Backend, type Entry, KeepsakeError } from 'keepsake'
import { type MysqlClient, mysqlBackend } from 'keepsake/mysql'
import { type PostgresClient, postgresBackend } from 'keepsake/postgres'
import * as mariadb from 'mariadb'
import * as callbacks from 'mysql2'
import { createConnection, createPool } from 'mysql2/promise'
import { Client, Pool } from 'pg'
import postgres from 'postgres'
import { freshKey, freshVersion } from '../support/entries.ts'
import { mariadbServer } from '../support/mariadb-server.ts'
import { closing, freshTable, mysqlUrl, postgresUrl } from '../support/stores.ts'

const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: 'h',
  version: freshVersion(),
  expiresAt: Date.now() + 3_600_000,
  owner: 'app:anna',
  ...more,
})
const unavailable = (error: unknown): boolean => error instanceof KeepsakeError && error.code === 'unavailable'
const outside = (error: unknown): boolean => {
  assert.match((error as Error).message, /in a transaction of the application/)
  return true
}

/** A client that an application also says statements by, on the same connection. */
type Shared<C> = { readonly client: C; readonly say: (sql: string) => PromiseLike<unknown> }

/** A configuration whose port leads nowhere, as with connectors of clouds: the socket goes its own way. */
const onItsOwnSocket = async () => {
  const url = new URL(await postgresUrl())
  const [port, host] = [Number(url.port || 5432), url.hostname]
  url.port = '1'
  const stream = () => {
    const socket = new Socket()
    const go = socket.connect.bind(socket)
    socket.connect = () => go(port, host)
    return socket
  }
  return { connectionString: url.href, stream }
}

const onPostgres: Record<string, (t: TestContext) => Promise<Shared<PostgresClient>>> = {
  'a Client of pg on a socket that the application made': async (t) => {
    const client = new Client(await onItsOwnSocket())
    await client.connect()
    closing(t, () => client.end())
    return { client, say: (sql) => client.query(sql) }
  },
  'the same, and it sends ahead': async (t) => {
    const client = new Client({ ...(await onItsOwnSocket()), pipeline: true } as object)
    await client.connect()
    closing(t, () => client.end())
    return { client, say: (sql) => client.query(sql) }
  },
  'a client that a Pool of pg lent': async (t) => {
    const pool = new Pool({ connectionString: await postgresUrl() })
    closing(t, () => pool.end())
    const client = await pool.connect()
    closing(t, () => client.release())
    return { client, say: (sql) => client.query(sql) }
  },
  'postgres.js with one connection': async (t) => {
    const sql = postgres(await postgresUrl(), { max: 1 })
    closing(t, () => sql.end())
    return { client: sql, say: (text) => sql.unsafe(text).execute() }
  },
  'postgres.js without prepared statements': async (t) => {
    const sql = postgres(await postgresUrl(), { max: 1, prepare: false })
    closing(t, () => sql.end())
    return { client: sql, say: (text) => sql.unsafe(text).execute() }
  },
  'a connection that postgres.js reserved': async (t) => {
    const sql = postgres(await postgresUrl())
    closing(t, () => sql.end())
    const reserved = await sql.reserve()
    closing(t, () => reserved.release())
    return { client: reserved, say: (text) => reserved.unsafe(text).execute() }
  },
  PGlite: async (t) => {
    const client = await PGlite.create()
    closing(t, () => client.close())
    return { client, say: (sql) => client.exec(sql) }
  },
}

const mysqlSocket = async () => {
  const { port, hostname } = new URL(await mysqlUrl())
  return connect(Number(port || 3306), hostname)
}

const onMysql: Record<string, (t: TestContext) => Promise<Shared<MysqlClient>>> = {
  'a connection of mysql2 on a socket that the application made': async (t) => {
    const client = await createConnection({ uri: await mysqlUrl(), stream: await mysqlSocket() })
    closing(t, () => client.end())
    return { client, say: (sql) => client.query(sql) }
  },
  'the same with callbacks': async (t) => {
    const client = callbacks.createConnection({ uri: await mysqlUrl(), stream: await mysqlSocket() })
    closing(t, () => client.promise().end())
    return { client, say: (sql) => client.promise().query(sql) }
  },
  'a connection that a pool of mysql2 lent': async (t) => {
    const pool = createPool(await mysqlUrl())
    closing(t, () => pool.end())
    const client = await pool.getConnection()
    closing(t, () => client.release())
    return { client, say: (sql) => client.query(sql) }
  },
  'a connection of mariadb': async (t) => {
    const client = await mariadb.createConnection((await mysqlUrl()).replace(/^mysql:/, 'mariadb:'))
    closing(t, () => client.end())
    return { client, say: (sql) => client.query(sql) }
  },
  'a connection that a pool of mariadb lent': async (t) => {
    const pool = mariadb.createPool((await mysqlUrl()).replace(/^mysql:/, 'mariadb:'))
    closing(t, () => pool.end())
    const client = await pool.getConnection()
    closing(t, () => client.release())
    return { client, say: (sql) => client.query(sql) }
  },
}

/** Every way to write, on an entry that is there. */
const writes = (backend: Backend, key: string, version: string): Record<string, () => unknown> => {
  const mark = { metadata: 'm', version: freshVersion(), expiresAt: Date.now() + 3_600_000 }
  return {
    generate: () => backend.generate(freshKey(), entryWith()),
    set: () => backend.set(key, { value: '{"n":2}', metadata: 'h', version: freshVersion() }, version),
    touch: () => backend.touch(key, Date.now() + 7_200_000),
    'clear on a version': () => backend.clear(key, version),
    'clear with a mark': () => backend.clear(key, undefined, mark),
    clear: () => backend.clear(key),
    sweep: () => backend.sweep?.(10, 5),
    'clear of an owner': () => backend.byOwner?.clear('app:anna'),
    'clear of an owner with a mark': () => backend.byOwner?.clear('app:anna', undefined, mark),
  }
}

const shared = async (backend: Backend & { migrate(): Promise<void> }, say: Shared<unknown>['say']) => {
  await backend.migrate()
  const key = freshKey()
  const entry = entryWith()
  assert.equal(await backend.generate(key, entry), undefined)
  await backend.generate(freshKey(), entryWith({ expiresAt: 5 }))
  for (const [name, write] of Object.entries(writes(backend, key, entry.version))) {
    await say('begin')
    await assert.rejects(async () => write(), outside, name)
    await say('rollback')
    assert.deepEqual(await backend.get(key), entry, name)
    // And when all is sent at once, so that the transaction is over before anybody looks.
    const sent = Promise.allSettled([say('begin'), write()])
    // Each driver sends in its own good time what it was given in one.
    await new Promise((resolve) => setImmediate(resolve))
    await say('rollback')
    const [, wrote] = await sent
    assert.deepEqual([name, wrote.status], [name, 'rejected'])
    assert.deepEqual(await backend.get(key), entry, name)
  }
  for (const [name, write] of Object.entries(writes(backend, key, entry.version))) {
    assert.notEqual(await write(), 'gone', `${name}, with no transaction`)
  }
  assert.equal(await backend.get(key), undefined)
}

suite('a connection that is in a transaction of the application, if sessions cannot open another', () => {
  for (const [name, open] of Object.entries(onPostgres)) {
    test(name, async (t) => {
      const { client, say } = await open(t)
      const table = freshTable()
      closing(t, () => say(`drop table ${table}`))
      await shared(postgresBackend(client, { table }), say)
    })
  }
  for (const [name, open] of Object.entries(onMysql)) {
    test(name, async (t) => {
      const { client, say } = await open(t)
      const table = freshTable()
      closing(t, () => say(`drop table ${table}`))
      await shared(mysqlBackend(client, { table }), say)
    })
  }
  test('a client of pg answers no read from it, and changes nothing there', async (t) => {
    const { client, say } = await (onPostgres['a Client of pg on a socket that the application made'] ?? assert.fail())(
      t,
    )
    const table = freshTable()
    closing(t, () => say(`drop table ${table}`))
    const backend = postgresBackend(client, { table })
    await backend.migrate()
    await say('begin isolation level repeatable read')
    await assert.rejects(async () => backend.get(freshKey()), unavailable)
    await assert.rejects(async () => backend.generate(freshKey(), entryWith()), unavailable)
    await say('select nonsense').then(undefined, () => {})
    await assert.rejects(async () => backend.get(freshKey()), unavailable, 'after an error in it, too')
    await say('commit')
    assert.deepEqual((await backend.scan?.(undefined, 5))?.entries, [])
  })
  test('the transaction that postgres.js or PGlite runs a function in', async (t) => {
    const sql = postgres(await postgresUrl())
    closing(t, () => sql.end())
    const table = freshTable()
    closing(t, () => sql.unsafe(`drop table ${table}`))
    await postgresBackend(sql, { table }).migrate()
    const lite = await PGlite.create()
    closing(t, () => lite.close())
    await postgresBackend(lite, { table }).migrate()
    const tried = (client: PostgresClient) =>
      assert.rejects(async () => postgresBackend(client, { table }).generate(freshKey(), entryWith()), outside)
    await sql.begin(async (client) => tried(client))
    await lite.transaction(async (client) => tried(client))
  })
})

/** A pool with one connection, and a way to leave that one in a transaction that has read. */
type Leaky<C> = {
  readonly client: C
  /** Runs these on one connection, and gives it back as it is. */
  readonly leave: (...statements: string[]) => Promise<unknown>
}

const leakyPostgres: Record<string, (t: TestContext) => Promise<Leaky<PostgresClient>>> = {
  'a Pool of pg': async (t) => {
    const pool = new Pool({ connectionString: await postgresUrl(), max: 1 })
    closing(t, () => pool.end())
    const leave = async (...statements: string[]) => {
      const one = await pool.connect()
      for (const sql of statements) await one.query(sql)
      one.release()
    }
    return { client: pool, leave }
  },
  'postgres.js': async (t) => {
    const sql = postgres(await postgresUrl(), { max: 1 })
    closing(t, () => sql.end())
    const leave = async (...statements: string[]) => {
      const one = await sql.reserve()
      for (const text of statements) await one.unsafe(text)
      one.release()
    }
    return { client: sql, leave }
  },
}

const leakyMysql: Record<string, (t: TestContext) => Promise<Leaky<MysqlClient>>> = {
  'a pool of mysql2': async (t) => {
    const pool = createPool({ uri: await mysqlUrl(), connectionLimit: 1 })
    closing(t, () => pool.end())
    const leave = async (...statements: string[]) => {
      const one = await pool.getConnection()
      for (const sql of statements) await one.query(sql)
      one.release()
    }
    return { client: pool, leave }
  },
  'a pool of mariadb that does not look at what it gets back': async (t) => {
    const { hostname: host, port, username: user, pathname } = new URL(await mysqlUrl())
    const pool = mariadb.createPool({
      ...{ host, port: Number(port), user, database: pathname.slice(1) },
      ...{ connectionLimit: 1, noControlAfterUse: true },
    })
    closing(t, () => pool.end())
    const leave = async (...statements: string[]) => {
      const one = await pool.getConnection()
      for (const sql of statements) await one.query(sql)
      await one.release()
    }
    return { client: pool, leave }
  },
}

/** Of the first write at most: after it, the connection is another one. */
const afterLeak = async (backend: Backend, other: Backend, leave: () => Promise<unknown>) => {
  const [key, fresh] = [freshKey(), freshKey()]
  const entry = entryWith()
  await backend.generate(key, entry)
  await leave()
  const wrote = await Promise.allSettled([backend.generate(fresh, entry)])
  const there = await other.get(fresh)
  assert.deepEqual(there, wrote[0].status === 'fulfilled' ? entry : undefined, 'what is answered is there for others')
  return { key, entry }
}

suite('a pool that got a connection back in the middle of a transaction', () => {
  for (const [name, open] of Object.entries(leakyPostgres)) {
    test(name, async (t) => {
      const { client, leave } = await open(t)
      const admin = new Pool({ connectionString: await postgresUrl() })
      closing(t, () => admin.end())
      const table = freshTable()
      closing(t, () => admin.query(`drop table ${table}`))
      const other = postgresBackend(admin, { table })
      await other.migrate()
      const backend = postgresBackend(client, { table })
      await afterLeak(backend, other, () => leave('begin'))
      if (name === 'postgres.js') {
        await leave('rollback')
        return
      }
      const { key } = await afterLeak(backend, other, () =>
        leave('begin isolation level repeatable read', `select * from ${table}`),
      )
      await leave('begin isolation level repeatable read', `select * from ${table}`)
      await other.clear(key)
      const read = await Promise.allSettled([backend.get(key)])
      assert.notEqual(read[0].status === 'fulfilled' && read[0].value !== undefined, true, 'no ended session is read')
      assert.equal(await backend.get(key), undefined)
    })
  }
  for (const [name, open] of Object.entries(leakyMysql)) {
    test(name, async (t) => {
      const { client, leave } = await open(t)
      const admin = createPool(await mysqlUrl())
      closing(t, () => admin.end())
      const table = freshTable()
      closing(t, () => admin.query(`drop table ${table}`))
      const other = mysqlBackend(admin, { table })
      await other.migrate()
      const backend = mysqlBackend(client, { table })
      for (let i = 0; i < 3; i++) {
        const { key, entry } = await afterLeak(backend, other, () => leave('begin', `select * from ${table}`))
        assert.equal(
          await backend.generate(freshKey(), entryWith()),
          undefined,
          'the next write has another connection',
        )
        assert.deepEqual(await backend.get(key), entry)
        await leave('begin', `select * from ${table}`)
        await other.clear(key)
        const read = await Promise.allSettled([backend.get(key)])
        assert.notEqual(read[0].status === 'fulfilled' && read[0].value !== undefined, true, 'no ended session is read')
        assert.equal(await backend.get(key), undefined)
      }
    })
  }
})

test('a pool whose connections have autocommit off is refused, and told what to do', async (t) => {
  const { url } = await mariadbServer(['--autocommit=0'])
  const good = createPool(url)
  good.on('connection', (connection) => connection.query('set autocommit = 1'))
  closing(t, () => good.end())
  const other = mysqlBackend(good)
  await other.migrate()
  assert.equal(await other.generate(freshKey(), entryWith()), undefined, 'one that says it first is served')
  const mysql2 = createPool(url)
  closing(t, () => mysql2.end())
  const maria = mariadb.createPool(url.replace(/^mysql:/, 'mariadb:'))
  closing(t, () => maria.end())
  for (const client of [mysql2, maria]) {
    const backend = mysqlBackend(client)
    const key = freshKey()
    for (const call of [() => backend.get(key), () => backend.generate(key, entryWith())]) {
      await assert.rejects(async () => call(), unavailable)
      await assert.rejects(async () => call(), /autocommit off.*“set autocommit = 1”.*Nothing was changed/)
    }
    assert.equal(await other.get(key), undefined)
  }
})
