// Beside a single connection of the application, a backend opens its own, which no rollback of the application reaches.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { suite, type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { type Backend, KeepsakeError } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import * as callbacks from 'mysql2'
import { createConnection, createPool } from 'mysql2/promise'
import { Client, Pool } from 'pg'
import { entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import type { SqlBackend } from '../support/sql-cases.ts'
import { closing, freshTable, mysqlUrl, postgresUrl } from '../support/stores.ts'
import { until } from '../support/until.ts'

const ownedEntry = () => entryWith({ owner: OWNER })

/** A single connection of the application, to a database that only this test uses. */
type SingleConnection = {
  readonly createBackend: () => SqlBackend
  /** Runs a statement of the application. */
  readonly run: (sql: string) => PromiseLike<unknown>
  readonly end: () => Promise<unknown>
  /** The number of connections to this database. */
  readonly count: () => Promise<number>
  /** Ends all of them at the server. */
  readonly kill: () => Promise<unknown>
}

const onPostgres = async (t: TestContext, options: object = {}): Promise<SingleConnection> => {
  const admin = new Pool({ connectionString: await postgresUrl() })
  closing(t, () => admin.end())
  const database = freshTable()
  await admin.query(`create database ${database}`)
  closing(t, () => admin.query(`drop database ${database} with (force)`))
  const url = new URL(await postgresUrl())
  url.pathname = database
  const client = new Client({ connectionString: url.href, ...options })
  client.on('error', () => {})
  await client.connect()
  closing(t, () => client.end())
  return {
    createBackend: () => postgresBackend(client),
    run: (sql) => client.query(sql),
    end: () => client.end(),
    count: async () => (await admin.query('select from pg_stat_activity where datname = $1', [database])).rowCount ?? 0,
    kill: () => admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [database]),
  }
}

const createMysqlDatabase = async (t: TestContext) => {
  const admin = createPool(await mysqlUrl())
  closing(t, () => admin.end())
  const database = freshTable()
  await admin.query(`create database ${database}`)
  closing(t, () => admin.query(`drop database ${database}`))
  const url = new URL(await mysqlUrl())
  url.pathname = database
  const connections = async () => {
    const [rows] = await admin.query('select id from information_schema.processlist where db = ?', [database])
    return rows as { id: number }[]
  }
  return {
    url: url.href,
    count: async () => (await connections()).length,
    kill: async () => {
      for (const { id } of await connections()) await admin.query(`kill ${id}`)
    },
  }
}

const onMysql = async (t: TestContext): Promise<SingleConnection> => {
  const { url, ...server } = await createMysqlDatabase(t)
  const client = await createConnection(url)
  const core = (client as unknown as { connection: callbacks.Connection }).connection
  core.on('error', () => {})
  closing(t, () => core.destroy())
  return {
    ...server,
    createBackend: () => mysqlBackend(client),
    run: (sql) => client.query(sql),
    end: () => client.end(),
  }
}

const onMysqlWithCallbacks = async (t: TestContext): Promise<SingleConnection> => {
  const { url, ...server } = await createMysqlDatabase(t)
  const client = callbacks.createConnection(url)
  client.on('error', () => {})
  closing(t, () => client.destroy())
  await client.promise().query('set session autocommit = 0')
  return {
    ...server,
    createBackend: () => mysqlBackend(client),
    run: (sql) => client.promise().query(sql),
    end: () => client.promise().end(),
  }
}

const clients: Record<string, (t: TestContext) => Promise<SingleConnection>> = {
  'a Client of pg': onPostgres,
  'a Client of pg with pipelining': (t) => onPostgres(t, { pipeline: true }),
  'a connection of mysql2': onMysql,
  'a connection of mysql2 with callbacks and without autocommit': onMysqlWithCallbacks,
}

for (const [name, open] of Object.entries(clients)) {
  suite(`a backend beside ${name}`, () => {
    test('a rollback of the application undoes no save and no end of a session', async (t) => {
      const { createBackend, run } = await open(t)
      const backend = createBackend()
      await backend.migrate()
      const [key, other] = [freshKey(), freshKey()]
      const entry = ownedEntry()
      const duringTransaction = async (call: () => unknown) => {
        await run('begin')
        await call()
        await run('rollback')
        // The same without waiting for the answers.
        await Promise.all([run('begin'), call(), run('rollback')])
      }
      await duringTransaction(() => backend.generate(key, entry))
      assert.deepEqual(await backend.get(key), entry)
      const change = { value: '{"n":2}', metadata: '1.def', version: freshVersion() }
      await duringTransaction(() => backend.set(key, change, entry.version))
      assert.deepEqual(await backend.get(key), { ...entry, ...change })
      await duringTransaction(() => backend.clear(key))
      assert.equal(await backend.get(key), undefined)
      await backend.generate(other, entry)
      await duringTransaction(() => backend.byOwner?.clear(OWNER))
      assert.equal(await backend.get(other), undefined)
      await backend.close?.()
    })

    test('all backends and calls share one connection, which close ends', async (t) => {
      const { createBackend, count, end } = await open(t)
      const [backend, another] = [createBackend(), createBackend()]
      assert.equal(await count(), 1, 'it is opened at the first use')
      await backend.migrate()
      await Promise.all(Array.from({ length: 20 }, async (_, i) => (i % 2 ? backend : another).get(freshKey())))
      assert.equal(await count(), 2)
      await Promise.all([backend.close?.(), backend.close?.(), another.close?.()])
      await until(async () => (await count()) === 1)
      await end()
      await until(async () => (await count()) === 0)
    })

    test('its connection ends with the connection of the application', async (t) => {
      const { createBackend, count, end } = await open(t)
      const backend = createBackend()
      await backend.migrate()
      assert.equal(await count(), 2)
      await end()
      await until(async () => (await count()) === 0)
      await backend.close?.()
    })

    test('it works again after the server has ended all connections', async (t) => {
      const { createBackend, kill } = await open(t)
      const backend = createBackend()
      await backend.migrate()
      const [key, entry] = [freshKey(), ownedEntry()]
      await backend.generate(key, entry)
      for (let i = 0; i < 2; i++) {
        await kill()
        const read = async () => backend.get(key)
        // The first calls may still use a connection that the server is about to end.
        await until(async () => (await read().catch(() => undefined)) !== undefined)
        assert.deepEqual(await backend.get(key), entry)
      }
      await backend.close?.()
    })
  })
}

/** Runs a program, which must end by itself. */
const runToEnd = async (program: string) => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    timeout: 60_000,
    cwd: import.meta.dirname,
  })
  assert.equal(stdout.trim(), 'saved')
}

suite('a process ends by itself although the connection of a backend is open', () => {
  const key = freshKey()
  const moduleOf = (name: string) => JSON.stringify(import.meta.resolve(`../../src/backends/sql/${name}.ts`))
  const saveAndPrint = `
    await backend.migrate()
    await backend.generate('${key}', ${JSON.stringify(ownedEntry())})
    if (await backend.get('${key}')) console.log('saved')`
  test('PostgreSQL', async (t) => {
    const table = freshTable()
    const admin = new Pool({ connectionString: await postgresUrl() })
    closing(t, () => admin.end())
    closing(t, () => admin.query(`drop table ${table}`))
    await runToEnd(`
      import { Client } from 'pg'
      import { postgresBackend } from ${moduleOf('postgres')}
      const client = new Client({ connectionString: ${JSON.stringify(await postgresUrl())} })
      await client.connect()
      client.connection.stream.unref()
      const backend = postgresBackend(client, { table: '${table}' })
      ${saveAndPrint}`)
  })
  test('MySQL', async (t) => {
    const table = freshTable()
    const admin = createPool(await mysqlUrl())
    closing(t, () => admin.end())
    closing(t, () => admin.query(`drop table ${table}`))
    await runToEnd(`
      import { createConnection } from 'mysql2/promise'
      import { mysqlBackend } from ${moduleOf('mysql')}
      const client = await createConnection(${JSON.stringify(await mysqlUrl())})
      client.connection.stream.unref()
      const backend = mysqlBackend(client, { table: '${table}' })
      ${saveAndPrint}`)
  })
})

const isInTransaction = (error: unknown): boolean => {
  assert.match((error as Error).message, /in a transaction of the application/)
  return error instanceof KeepsakeError && error.code === 'unavailable'
}

suite('if a backend cannot open a connection, it uses that of the application outside of its transactions', () => {
  const checkCalls = async (backend: Backend, run: (sql: string) => PromiseLike<unknown>) => {
    const key = freshKey()
    const entry = ownedEntry()
    for (let i = 0; i < 2; i++) {
      await run('begin')
      await assert.rejects(async () => backend.generate(key, entry), isInTransaction)
      await run('rollback')
    }
    assert.equal(await backend.generate(key, entry), undefined)
    assert.deepEqual(await backend.get(key), entry)
    await backend.close?.()
    assert.deepEqual(await backend.get(key), entry)
  }
  test('PostgreSQL: the role may have only one connection', async (t) => {
    const admin = new Pool({ connectionString: await postgresUrl() })
    closing(t, () => admin.end())
    const [table, role] = [freshTable(), freshTable()]
    await postgresBackend(admin, { table }).migrate()
    await admin.query(`create role ${role} login password 'word' connection limit 1`)
    await admin.query(`grant all on ${table} to ${role}`)
    closing(t, () => admin.query(`drop table ${table}; drop role ${role}`))
    const url = new URL(await postgresUrl())
    const client = new Client({
      host: url.hostname,
      port: Number(url.port || 5432),
      database: url.pathname.slice(1),
      user: role,
      password: 'word',
    })
    await client.connect()
    closing(t, () => client.end())
    await checkCalls(postgresBackend(client, { table }), (sql) => client.query(sql))
  })
  test('MySQL: the user may have only one connection', async (t) => {
    const admin = createPool(await mysqlUrl())
    closing(t, () => admin.end())
    const [table, user] = [freshTable(), randomBytes(8).toString('hex')]
    await mysqlBackend(admin, { table }).migrate()
    await admin.query(`create user '${user}'@'%' identified by 'word' with max_user_connections 1`)
    await admin.query(`grant all on ${table} to '${user}'@'%'`)
    closing(t, async () => {
      await admin.query(`drop table ${table}`)
      await admin.query(`drop user '${user}'@'%'`)
    })
    const url = new URL(await mysqlUrl())
    url.username = user
    url.password = 'word'
    const client = await createConnection(url.href)
    closing(t, () => client.end())
    await checkCalls(mysqlBackend(client, { table }), (sql) => client.query(sql))
  })
  test('MySQL: the application chose the database after it had connected', async (t) => {
    const url = new URL(await mysqlUrl())
    const database = url.pathname.slice(1)
    url.pathname = '/'
    const client = await createConnection(url.href)
    closing(t, () => client.end())
    await client.query(`use ${database}`)
    const table = freshTable()
    const backend = mysqlBackend(client, { table })
    await backend.migrate()
    closing(t, () => client.query(`drop table ${table}`))
    await checkCalls(backend, (sql) => client.query(sql))
  })
})
