// Beside a single connection of the application, sessions open one of their own: no rollback of the application reaches it.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { suite, type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { type Backend, type Entry, KeepsakeError } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import * as callbacks from 'mysql2'
import { createConnection, createPool } from 'mysql2/promise'
import { Client, Pool } from 'pg'
import { freshKey, freshVersion } from '../support/entries.ts'
import { closing, freshTable, mysqlUrl, postgresUrl } from '../support/stores.ts'

const entryWith = (): Entry => ({
  value: '{"n":1}',
  metadata: 'h',
  version: freshVersion(),
  expiresAt: Date.now() + 3_600_000,
  owner: 'app:anna',
})

/** Asks until it is so: what a server does after a connection has ended is seen a moment later. The test has its own limit. */
const until = async (condition: () => Promise<boolean>): Promise<void> => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5))
}

type Made = Backend & { migrate(): Promise<void> }
/** A single connection of the application, in a database where nobody else is. */
type Alone = {
  readonly backend: () => Made
  readonly say: (sql: string) => PromiseLike<unknown>
  readonly end: () => Promise<unknown>
  /** How many connections the server has to this database. */
  readonly count: () => Promise<number>
  /** Ends all of them at the server. */
  readonly kill: () => Promise<unknown>
}

const onPostgres = async (t: TestContext, options: object = {}): Promise<Alone> => {
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
  const all = 'from pg_stat_activity where datname = $1'
  return {
    backend: () => postgresBackend(client),
    say: (sql) => client.query(sql),
    end: () => client.end(),
    count: async () => (await admin.query(`select ${all}`, [database])).rowCount ?? 0,
    kill: () => admin.query(`select pg_terminate_backend(pid) ${all}`, [database]),
  }
}

const mysqlDatabase = async (t: TestContext) => {
  const admin = createPool(await mysqlUrl())
  closing(t, () => admin.end())
  const database = freshTable()
  await admin.query(`create database ${database}`)
  closing(t, () => admin.query(`drop database ${database}`))
  const url = new URL(await mysqlUrl())
  url.pathname = database
  const all = async () => {
    const [rows] = await admin.query('select id from information_schema.processlist where db = ?', [database])
    return rows as { id: number }[]
  }
  return {
    url: url.href,
    count: async () => (await all()).length,
    kill: async () => {
      for (const { id } of await all()) await admin.query(`kill ${id}`)
    },
  }
}

const onMysql = async (t: TestContext): Promise<Alone> => {
  const { url, ...server } = await mysqlDatabase(t)
  const client = await createConnection(url)
  const calling = (client as unknown as { connection: callbacks.Connection }).connection
  calling.on('error', () => {})
  closing(t, () => calling.destroy())
  return {
    ...server,
    backend: () => mysqlBackend(client),
    say: (sql) => client.query(sql),
    end: () => client.end(),
  }
}

const onMysqlWithCallbacks = async (t: TestContext): Promise<Alone> => {
  const { url, ...server } = await mysqlDatabase(t)
  const client = callbacks.createConnection(url)
  client.on('error', () => {})
  closing(t, () => client.destroy())
  await client.promise().query('set session autocommit = 0')
  return {
    ...server,
    backend: () => mysqlBackend(client),
    say: (sql) => client.promise().query(sql),
    end: () => client.promise().end(),
  }
}

const clients: Record<string, (t: TestContext) => Promise<Alone>> = {
  'a Client of pg': onPostgres,
  'a Client of pg that sends ahead': (t) => onPostgres(t, { pipeline: true }),
  'a connection of mysql2': onMysql,
  'a connection of mysql2 with callbacks and without autocommit': onMysqlWithCallbacks,
}

for (const [name, open] of Object.entries(clients)) {
  suite(`sessions beside ${name}`, () => {
    test('what is saved and ended during its transaction is so after its rollback', async (t) => {
      const { backend: made, say } = await open(t)
      const backend = made()
      await backend.migrate()
      const [key, other] = [freshKey(), freshKey()]
      const entry = entryWith()
      const during = async (call: () => unknown) => {
        await say('begin')
        await call()
        await say('rollback')
        // And if all is sent at once.
        const sent = [say('begin'), call(), say('rollback')]
        await Promise.all(sent)
      }
      await during(() => backend.generate(key, entry))
      assert.deepEqual(await backend.get(key), entry)
      const change = { value: '{"n":2}', metadata: 'h', version: freshVersion() }
      await during(() => backend.set(key, change, entry.version))
      assert.deepEqual(await backend.get(key), { ...entry, ...change })
      await during(() => backend.clear(key))
      assert.equal(await backend.get(key), undefined)
      await backend.generate(other, entry)
      await during(() => backend.byOwner?.clear('app:anna'))
      assert.equal(await backend.get(other), undefined)
      await backend.close?.()
    })

    test('they have one connection, for all backends and calls; it is closed with the backend', async (t) => {
      const { backend: made, count, end } = await open(t)
      const [backend, another] = [made(), made()]
      assert.equal(await count(), 1, 'none is opened before it is needed')
      await backend.migrate()
      await Promise.all(Array.from({ length: 20 }, async (_, i) => (i % 2 ? backend : another).get(freshKey())))
      assert.equal(await count(), 2)
      await Promise.all([backend.close?.(), backend.close?.(), another.close?.()])
      await until(async () => (await count()) === 1)
      await end()
      await until(async () => (await count()) === 0)
    })

    test('it is closed when the connection of the application ends', async (t) => {
      const { backend: made, count, end } = await open(t)
      const backend = made()
      await backend.migrate()
      assert.equal(await count(), 2)
      await end()
      await until(async () => (await count()) === 0)
      await backend.close?.()
    })

    test('they come back after the server has ended all connections', async (t) => {
      const { backend: made, kill } = await open(t)
      const backend = made()
      await backend.migrate()
      const [key, entry] = [freshKey(), entryWith()]
      await backend.generate(key, entry)
      for (let i = 0; i < 2; i++) {
        await kill()
        const read = async () => backend.get(key)
        // A call may be under way on what the server is about to end.
        await until(async () => (await read().catch(() => undefined)) !== undefined)
        assert.deepEqual(await backend.get(key), entry)
      }
      await backend.close?.()
    })
  })
}

const ends = async (program: string) => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    timeout: 60_000,
    cwd: import.meta.dirname,
  })
  assert.equal(stdout.trim(), 'saved')
}

suite('a process ends by itself, though the connection of sessions is open', () => {
  const key = freshKey()
  const backends = (name: string) => JSON.stringify(import.meta.resolve(`../../src/backends/sql/${name}.ts`))
  const done = `
    await backend.migrate()
    await backend.generate('${key}', ${JSON.stringify(entryWith())})
    if (await backend.get('${key}')) console.log('saved')`
  test('PostgreSQL', async (t) => {
    const table = freshTable()
    const admin = new Pool({ connectionString: await postgresUrl() })
    closing(t, () => admin.end())
    closing(t, () => admin.query(`drop table ${table}`))
    await ends(`
      import { Client } from 'pg'
      import { postgresBackend } from ${backends('postgres')}
      const client = new Client({ connectionString: ${JSON.stringify(await postgresUrl())} })
      await client.connect()
      client.connection.stream.unref()
      const backend = postgresBackend(client, { table: '${table}' })
      ${done}`)
  })
  test('MySQL', async (t) => {
    const table = freshTable()
    const admin = createPool(await mysqlUrl())
    closing(t, () => admin.end())
    closing(t, () => admin.query(`drop table ${table}`))
    await ends(`
      import { createConnection } from 'mysql2/promise'
      import { mysqlBackend } from ${backends('mysql')}
      const client = await createConnection(${JSON.stringify(await mysqlUrl())})
      client.connection.stream.unref()
      const backend = mysqlBackend(client, { table: '${table}' })
      ${done}`)
  })
})

const outside = (error: unknown): boolean => {
  assert.match((error as Error).message, /in a transaction of the application/)
  return error instanceof KeepsakeError && error.code === 'unavailable'
}

suite('where no other connection can be opened, that of the application is used outside its transactions', () => {
  const used = async (backend: Backend, say: (sql: string) => PromiseLike<unknown>) => {
    const key = freshKey()
    const entry = entryWith()
    for (let i = 0; i < 2; i++) {
      await say('begin')
      await assert.rejects(async () => backend.generate(key, entry), outside)
      await say('rollback')
    }
    assert.equal(await backend.generate(key, entry), undefined)
    assert.deepEqual(await backend.get(key), entry)
    await backend.close?.()
    assert.deepEqual(await backend.get(key), entry)
  }
  test('PostgreSQL: the role may have one', async (t) => {
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
    await used(postgresBackend(client, { table }), (sql) => client.query(sql))
  })
  test('MySQL: the user may have one', async (t) => {
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
    await used(mysqlBackend(client, { table }), (sql) => client.query(sql))
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
    await used(backend, (sql) => client.query(sql))
  })
})
