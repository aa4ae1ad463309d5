// The backend in MariaDB and MySQL: concurrent statements, the table, drivers and their settings, and silent connections.

import assert from 'node:assert/strict'
import type { EventEmitter } from 'node:events'
import { suite, type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import { connectMysql, type MysqlClient, type MysqlOptions, mysqlBackend } from 'keepsake/mysql'
import * as mariadb from 'mariadb'
import * as callbacks from 'mysql2'
import { createConnection, createPool, type Pool, type PoolOptions, type QueryOptions } from 'mysql2/promise'
import { code } from '../support/assert.ts'
import { change, entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { mariadbServer, noMariadb } from '../support/mariadb-server.ts'
import { proxy } from '../support/proxy.ts'
import { clearInDeadlock, generated, migrateInEightProcesses, openByUrl, sqlCases } from '../support/sql-cases.ts'
import { closing, freshTable, mysqlUrl, tableFor } from '../support/stores.ts'
import { until } from '../support/until.ts'

const openPool = async (t: TestContext, options: PoolOptions = {}): Promise<Pool> => {
  const pool = createPool({ uri: await mysqlUrl(), ...options })
  closing(t, () => pool.end())
  return pool
}

const mariadbUrl = async (): Promise<string> => (await mysqlUrl()).replace(/^mysql:/, 'mariadb:')

type Rows = { readonly n: number }[]
type Core = EventEmitter & { destroy(): void }

const stage = async (t: TestContext) => {
  const pool = await openPool(t)
  const table = tableFor(t, pool)
  const backend = mysqlBackend(pool, { table })
  await backend.migrate()
  const connection = await createConnection(await mysqlUrl())
  closing(t, () => connection.end())
  const other = {
    begin: () => connection.beginTransaction(),
    commit: () => connection.commit(),
    rollback: () => connection.rollback(),
    insert: (key: string, version: string, owner?: string) =>
      connection.execute(
        `insert into ${table} (\`key\`, version, expires_at, metadata, owner) values (?, ?, 1, 'other', ?)`,
        [key, version, owner === undefined ? null : Buffer.from(owner)],
      ),
    setVersion: (key: string, version: string) =>
      connection.execute(`update ${table} set version = ? where \`key\` = ?`, [version, key]),
    extend: (key: string, milliseconds: number) =>
      connection.execute(`update ${table} set expires_at = expires_at + ? where \`key\` = ?`, [milliseconds, key]),
    remove: (key: string) => connection.execute(`delete from ${table} where \`key\` = ?`, [key]),
    async valueOf(key: string) {
      const [rows] = await connection.execute(`select value from ${table} where \`key\` = ?`, [key])
      return (rows as { readonly value: string }[])[0]?.value
    },
  }
  /*
   * InnoDB refreshes this view only if nobody has read it for 100 ms, so reading it more often would return the same
   * forever. Its statements may be about any table.
   */
  const waiting = () =>
    until(async () => {
      const [rows] = await pool.query(
        "select count(*) as n from information_schema.innodb_trx where trx_state = 'LOCK WAIT' and instr(trx_query, ?)",
        [table],
      )
      return (rows as Rows)[0]?.n === 1
    }, 150)
  const fill = async (count: number) => {
    const rows = Array.from({ length: count }, (_, i) => {
      return [freshKey(), 'v', i + 1, 'h', (i + 1) % 10 === 0 ? Buffer.from(`app:${i + 1}`) : null]
    })
    await pool.query(`insert into ${table} (\`key\`, version, expires_at, metadata, owner) values ?`, [rows])
    await pool.query(`analyze table ${table}`)
  }
  const another = async () => mysqlBackend(await openPool(t), { table })
  return { table, backend, pool, connection, other, waiting, fill, another }
}

/** A user who may do nothing, at the server and the database of the tests. */
const createUser = async (t: TestContext) => {
  const pool = await openPool(t)
  const name = freshTable().slice(0, 20)
  const user = `'${name}'@'%'`
  await pool.query(`create user ${user} identified by 'x'`)
  closing(t, () => pool.query(`drop user ${user}`))
  const url = new URL(await mysqlUrl())
  url.username = name
  url.password = 'x'
  const database = url.pathname.slice(1)
  const grant = (table: string) => pool.query(`grant select, insert, update, delete on ${database}.${table} to ${user}`)
  return { url: url.href, name, user, database, pool, grant }
}

sqlCases({
  stage,
  backend: (client, options) => mysqlBackend(client as MysqlClient, options as MysqlOptions),
  connect: connectMysql,
  url: mysqlUrl,
  alias: 'mariadb:',
  codeProperty: 'errno',
  undone: [1213, 1205],
  unknown: [2013, 1317],
  clientOf: (run) => ({
    execute: async () => {
      await run()
      return [[], []]
    },
  }),
  async counted(t) {
    const { url, name, user, database, pool } = await createUser(t)
    await pool.query(`grant all on ${database}.* to ${user}`)
    const count = async () => {
      const sql = 'select count(*) as n from information_schema.processlist where user = ?'
      const [rows] = await pool.execute(sql, [name])
      return (rows as Rows)[0]?.n ?? Number.NaN
    }
    return { url: url.replace('mysql:', 'mariadb:'), table: tableFor(t, pool), count }
  },
  restricted: createUser,
  server: mariadbServer,
  noServer: noMariadb(),
  failingUrls: (login, host) => [
    `mysql://${login}@${host}/app`,
    `mysql://${login}%@${host}/app`,
    `mysql://${login}@${host}/app?ssl={}`,
  ],
  driver: { name: 'mysql2', file: 'mysql.ts', connect: 'connectMysql', url: 'mysql://app:x@127.0.0.1/a' },
})

suite('concurrent statements in MariaDB', () => {
  test('the clear of an owner waits for concurrent writes and inserts, and removes their entries', async (t) => {
    const { backend, other, waiting } = await stage(t)
    const { key } = await generated(backend, { owner: OWNER })
    const inserted = freshKey()
    await other.begin()
    await other.setVersion(key, 'another1')
    await other.extend(key, 1)
    await other.insert(inserted, 'v', OWNER)
    const clear = backend.byOwner?.clear(OWNER)
    await waiting()
    await other.commit()
    assert.equal(await clear, 2)
    for (const one of [key, inserted]) assert.equal(await backend.get(one), undefined)
  })
  test('a statement that the database undid because of a deadlock is sent again', async (t) => {
    const { table, backend, pool, other, waiting } = await stage(t)
    let undone = 0
    const isDeadlock = (error: unknown) => (error as { errno?: number }).errno === 1213
    const countingClient = {
      execute: (query: QueryOptions, values: (string | number | Buffer | null)[]) =>
        pool.execute(query, values).catch((error) => {
          if (isDeadlock(error)) undone++
          throw error
        }),
    }
    // The database mostly undoes the transaction that has changed less. If it undoes the other one, the test tries again.
    for (let tries = 0; undone === 0 && tries < 50; tries++) {
      const keys = [(await generated(backend, { owner: OWNER })).key, (await generated(backend, { owner: OWNER })).key]
      const [first, last] = keys.sort() as [string, string]
      await other.begin()
      for (let i = 0; i < 50; i++) await other.insert(freshKey(), 'v')
      const clear = () => mysqlBackend(countingClient, { table }).byOwner?.clear(OWNER)
      await clearInDeadlock({ other, waiting }, clear, [first, last], isDeadlock)
      assert.deepEqual(await backend.byOwner?.list(OWNER), [])
    }
    assert.ok(undone > 0, 'there was a deadlock, and the database undid the statement of the backend')
  })
})

suite('the table in MariaDB', () => {
  test('eight processes create it concurrently, and none of them fails', async (t) => {
    const pool = await openPool(t)
    const connect = `
      import { mysqlBackend } from 'keepsake/mysql'
      import { createConnection } from 'mysql2/promise'
      const connection = await createConnection(process.env.URL)
      const backend = mysqlBackend(connection, { table: process.env.TABLE })
    `
    const table = await migrateInEightProcesses(t, pool, await mysqlUrl(), connect)
    assert.equal(await mysqlBackend(pool, { table }).generate(freshKey(), entryWith()), undefined)
  })
  test('it may be in another database, and be created by the statements of schema() and by repeated migrations', async (t) => {
    const pool = await openPool(t)
    const database = freshTable()
    await pool.query(`create database ${database}`)
    closing(t, () => pool.query(`drop database ${database}`))
    const backend = mysqlBackend(pool, { table: `${database}.Sessions` })
    await pool.query(backend.schema())
    await backend.migrate()
    await backend.migrate()
    assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
  })
  test('if it does not exist, or the user may not create or use it, the error names the remedy', async (t) => {
    const { pool, table } = await stage(t)
    const missing = mysqlBackend(pool, { table: freshTable() })
    for (const call of [() => missing.get(freshKey()), () => missing.generate(freshKey(), entryWith())]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /The table `keepsake_\w+` does not exist: call migrate\(\)/)
    }
    const { url, database, grant } = await createUser(t)
    const withoutDatabase = new URL(url)
    withoutDatabase.pathname = ''
    const weakPool = await openPool(t, { uri: withoutDatabase.href })
    const weakBackend = (name: string) => mysqlBackend(weakPool, { table: `${database}.${name}` })
    for (const call of [() => weakBackend(table).get(freshKey()), () => weakBackend(freshTable()).migrate()]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /This user may not create or use/)
    }
    await grant(table)
    const generate = async () => weakBackend(table).generate(freshKey(), entryWith())
    assert.equal(await generate(), undefined, 'a user needs only these four rights')
  })
  test('a long sweep begins each batch at the end of the last one, and removes older entries with the last batch', async (t) => {
    const { pool, table } = await stage(t)
    const starts: unknown[] = []
    const execute = (query: { sql: string }, values: never[]) => {
      if (query.sql.startsWith('delete')) starts.push(values[1])
      return pool.execute(query, values)
    }
    const backend = mysqlBackend({ execute }, { table })
    for (let i = 10; i < 35; i++) await backend.generate(freshKey(), entryWith({ expiresAt: i }))
    assert.equal(await backend.sweep?.(100, 10), 10)
    await backend.generate(freshKey(), entryWith({ expiresAt: 5 }))
    assert.equal(await backend.sweep?.(100, 10), 10)
    assert.equal(await backend.sweep?.(100, 10), 6, 'the five that remain, and the older one')
    assert.equal(await backend.sweep?.(100, 10), 0)
    const [allTime, second, third, again, last] = starts
    assert.deepEqual([second, third, again, last], [19, 29, allTime, allTime])
  })
  test('a sweep reports removed entries of owners, and ignores a row whose key is not from keepsake', async (t) => {
    const { pool, table, backend } = await stage(t)
    const { key } = await generated(backend, { expiresAt: 1, owner: OWNER })
    const insert = `insert into ${table} (\`key\`, version, expires_at, metadata, owner) values (?, 'v', 1, 'h', 'app:x')`
    await pool.execute(insert, ["' or 1 = 1 -- "])
    const removed: string[] = []
    assert.equal(await backend.sweep?.(5, 50, (entry) => removed.push(entry.key)), 2)
    assert.deepEqual(removed, [key])
    const { key: kept } = await generated(backend)
    const page = await backend.scan?.("' or 1 = 1 -- ", 5)
    assert.deepEqual(
      page?.entries.map((entry) => entry.key),
      [kept],
      'an unknown cursor begins at the start',
    )
  })
  test('each statement uses an index', async (t) => {
    const { pool, table, backend: filled, fill } = await stage(t)
    await fill(5000)
    const sent: { sql: string; values: never[] }[] = []
    const execute = (query: { sql: string }, values: never[]) => {
      sent.push({ sql: query.sql, values })
      return pool.execute(query, values)
    }
    const backend = mysqlBackend({ execute }, { table })
    await backend.sweep?.(5, 50)
    await backend.byOwner?.list('app:100')
    await backend.byOwner?.clear('app:100')
    await backend.get((await generated(filled)).key)
    await backend.scan?.('app.A', 50)
    // No limit is a parameter: mysql2 sends each number as a floating-point one, which MySQL refuses as a limit.
    assert.equal(sent[0]?.values[0], 5)
    assert.equal(sent[0]?.values.length, 2)
    assert.equal(sent.at(-1)?.values.length, 1)
    const indexes = await Promise.all(
      sent.map(async ({ sql, values }) => {
        const [[plan]] = (await pool.execute(`explain ${sql}`, values)) as unknown as [[{ key: string; rows: number }]]
        assert.ok(plan.rows <= 100 || sql.includes('order by `key`'), sql)
        return plan.key
      }),
    )
    assert.deepEqual(indexes, ['expires_at', 'expires_at', 'owner', 'owner', 'PRIMARY', 'PRIMARY'])
  })
})

suite('a live client of MariaDB', () => {
  const value = JSON.stringify({ a: 'Ἀ日本語🦊é' })
  /** Checks each operation whose result the settings of a client could change. */
  const checkOperations = async (client: MysqlClient, table: string) => {
    const backend = mysqlBackend(client, { table })
    await backend.migrate()
    const [key, owner] = [freshKey(), `app:Zoë 🦊${freshVersion()}`]
    const entry = entryWith({ value, owner })
    assert.equal(await backend.generate(key, entry), undefined)
    assert.equal(await backend.generate(key, entry), undefined)
    assert.equal(await backend.generate(key, entryWith()), 'taken')
    assert.deepEqual(await backend.get(key), entry)
    const next = change({ value })
    assert.equal(await backend.set(key, next, freshVersion()), 'stale')
    assert.equal(await backend.set(key, next, entry.version), undefined)
    assert.equal(await backend.set(key, next, entry.version), undefined)
    assert.equal(await backend.touch(key, entry.expiresAt + 1), undefined)
    const now = { ...entry, ...next, expiresAt: entry.expiresAt + 1 }
    assert.deepEqual(await backend.byOwner?.list(owner), [{ ...now, key }])
    assert.deepEqual((await backend.scan?.(undefined, 5))?.entries, [{ ...now, key }])
    assert.deepEqual((await backend.scan?.(key, 5))?.entries, [])
    assert.equal(await backend.byOwner?.clear(owner, key), 0)
    assert.equal(await backend.clear(key, freshVersion()), 'stale')
    assert.equal(await backend.byOwner?.clear(owner), 1)
    assert.equal(await backend.set(key, next, next.version), 'gone')
    await backend.generate(key, entryWith({ expiresAt: 1, owner }))
    const removed: string[] = []
    assert.equal(await backend.sweep?.(1, 50, (one) => removed.push(one.key)), 1)
    assert.deepEqual(removed, [key])
  }
  const settings: Record<string, PoolOptions> = {
    'connections in latin1': { charset: 'latin1' },
    'affected rows that count only changed rows': { flags: ['-FOUND_ROWS'] },
    'rows as arrays, numbers as texts, and named placeholders': {
      rowsAsArray: true,
      supportBigNumbers: true,
      bigNumberStrings: true,
      namedPlaceholders: true,
    },
  }
  for (const [name, options] of Object.entries(settings)) {
    test(`mysql2 with ${name}`, async (t) => {
      const { table } = await stage(t)
      await checkOperations(await openPool(t, options), table)
    })
  }
  test('any SQL mode and isolation level of the connection', async (t) => {
    const { table } = await stage(t)
    // The backend uses a connection from a pool as it is. Beside a single connection it would open another one.
    const connection = await (await openPool(t)).getConnection()
    closing(t, () => connection.release())
    for (const mode of ['', 'ansi', 'traditional,no_backslash_escapes', 'pad_char_to_full_length']) {
      await connection.query('set session sql_mode = ?', [mode])
      await checkOperations(connection, table)
    }
    for (const level of ['read committed', 'serializable', 'repeatable read']) {
      await connection.query(`set session transaction isolation level ${level}`)
      await checkOperations(connection, table)
    }
  })
  test('pools and connections of mysql2 with callbacks', async (t) => {
    const { table } = await stage(t)
    const pool = callbacks.createPool(await mysqlUrl())
    const connection = callbacks.createConnection(await mysqlUrl())
    closing(t, () => pool.promise().end())
    closing(t, () => connection.promise().end())
    await checkOperations(pool, table)
    await checkOperations(connection, table)
  })
  test('pools and connections of mariadb, with any options for numbers and rows', async (t) => {
    const { table } = await stage(t)
    const { hostname, port, username, pathname } = new URL(await mysqlUrl())
    const base = { host: hostname, port: Number(port), user: username, database: pathname.slice(1) }
    for (const options of [
      {},
      { bigIntAsNumber: true, insertIdAsNumber: true },
      { foundRows: false, rowsAsArray: true },
    ]) {
      const pool = mariadb.createPool({ ...base, ...options })
      closing(t, () => pool.end())
      await checkOperations(pool, table)
    }
    const connection = await mariadb.createConnection(await mariadbUrl())
    closing(t, () => connection.end())
    await checkOperations(connection, table)
  })
  test('no error of mariadb contains a value of a session', async (t) => {
    const { table } = await stage(t)
    const pool = mariadb.createPool(await mariadbUrl())
    closing(t, () => pool.end())
    const backend = mysqlBackend(pool, { table })
    const missing = mysqlBackend(pool, { table: freshTable() })
    const secret = 'hunter2secret'
    const errors: unknown[] = []
    for (const call of [
      () => missing.generate(freshKey(), entryWith({ value: secret, owner: secret })),
      () => backend.generate(freshKey(), entryWith({ value: secret, metadata: secret.repeat(40) })),
      () => missing.set(freshKey(), change({ value: secret, metadata: secret }), secret),
    ]) {
      await assert.rejects(
        async () => call(),
        (error) => errors.push(error) > 0,
      )
    }
    for (const error of errors) {
      const text = inspect(error, { depth: 12, showHidden: true })
      assert.ok(!text.includes(secret), text)
    }
  })
  test('its error events do not end the process, even if the application has no listener', async (t) => {
    const { table, connection: admin } = await stage(t)
    const pool = await openPool(t)
    const single = await createConnection(await mysqlUrl())
    const mariadbConnection = await mariadb.createConnection(await mariadbUrl())
    closing(t, () => mariadbConnection.end().catch(() => {}))
    await mysqlBackend(pool, { table }).get(freshKey())
    // mysql2 listens only to the first error of a connection.
    const { connection: core } = (await pool.getConnection()) as unknown as { connection: Core }
    for (let i = 0; i < 2; i++) core.emit('error', new Error('lost'))
    core.destroy()
    for (const client of [pool, single, mariadbConnection]) {
      const backend = mysqlBackend(client, { table })
      await backend.get(freshKey())
      const { query } = client as { query(sql: string): Promise<unknown[]> }
      const answer = await query.call(client, 'select connection_id() as n')
      const rows = (Array.isArray(answer[0]) ? answer[0] : answer) as Rows
      await admin.query(`kill ${rows[0]?.n}`)
      // The backend continues on another connection. Only for a connection of mariadb it cannot open one.
      await until(async () => {
        const get = async () => backend.get(freshKey())
        return get().then(
          () => client !== mariadbConnection,
          () => client === mariadbConnection,
        )
      })
      await backend.close?.()
    }
  })
})

suite('a backend by URL of MariaDB', { concurrency: true }, () => {
  test('a statement that waits for a lock fails after some seconds, and the pool works again', async (t) => {
    const { table, other, connection, backend } = await stage(t)
    const limited = await openByUrl(t, connectMysql, await mysqlUrl(), table)
    const key = freshKey()
    await retryIfStalled(() => limited.generate(key, entryWith()))
    await other.begin()
    await connection.query(`select * from ${table} for update`)
    await retryIfStalled(() => assert.rejects(async () => limited.clear(key), code('unavailable')))
    assert.ok(await retryIfStalled(() => limited.get(key)), 'a read waits for no lock')
    await other.rollback()
    await retryIfStalled(() => limited.clear(key))
    assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
  })
  test('connections without answers fail only the calls that use them', async (t) => {
    const { table } = await stage(t)
    const faulty = await proxy(t, Number(new URL(await mysqlUrl()).port))
    const url = new URL(await mysqlUrl())
    url.port = String(faulty.port)
    const backend = await openByUrl(t, connectMysql, url.href, table)
    // This opens all connections that the pool may have.
    await Promise.all(Array.from({ length: 20 }, async () => backend.get(freshKey())))
    assert.equal(faulty.connections(), 10)
    faulty.silence()
    const calls = await Promise.allSettled(Array.from({ length: 10 }, async () => backend.get(freshKey())))
    assert.deepEqual(new Set(calls.map(({ status }) => status)), new Set(['rejected']))
    assert.equal(await retryIfStalled(() => backend.get(freshKey())), undefined)
  })
})
