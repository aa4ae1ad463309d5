// SQL servers that are full, become read-only, take no large value, or refuse: the errors, and the recovery.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { type Backend, backendFromUrl, KeepsakeError } from 'keepsake'
import { connectMysql, mysqlBackend } from 'keepsake/mysql'
import { connectPostgres, postgresBackend } from 'keepsake/postgres'
import * as mariadb from 'mariadb'
import { createConnection, createPool } from 'mysql2/promise'
import { Pool, type PoolClient } from 'pg'
import { code } from '../support/assert.ts'
import { entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { mariadbServer, noMariadb } from '../support/mariadb-server.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'
import { proxy } from '../support/proxy.ts'
import type { SqlBackend } from '../support/sql-cases.ts'
import { closing } from '../support/stores.ts'

/** A KeepsakeError with this reason, which states that nothing was changed. */
const isRefusal = (reason: RegExp) => (error: unknown) => {
  assert.match((error as Error).message, reason)
  assert.match((error as Error).message, /Nothing was changed\./)
  return code('unavailable')(error)
}

/** The URL of a role without privileges: no connection is reserved for it, and it may not write to a read-only server. */
const asWeb = (url: string): string => url.replace('//app@', '//web@')

const postgresForWeb = async (t: TestContext, settings: Record<string, string> = {}) => {
  const server = await postgresServer(settings)
  closing(t, () => server.stop())
  const admin = new Pool({ connectionString: server.url })
  admin.on('error', () => {})
  closing(t, () => admin.end())
  await admin.query('create role web login')
  await admin.query('grant all on schema public to web')
  return { url: asWeb(server.url), port: server.port, run: (sql: string) => admin.query(sql) }
}

const mariadbForWeb = async (t: TestContext, settings: string[] = []) => {
  const server = await mariadbServer(settings)
  closing(t, () => server.stop())
  const admin = await createConnection({ socketPath: `${server.folder}/s.sock`, user: 'root' })
  closing(t, () => admin.end())
  await admin.query("create user web@'127.0.0.1'")
  await admin.query("grant all on app.* to web@'127.0.0.1'")
  return { url: asWeb(server.url), port: server.port, run: (sql: string) => admin.query(sql) }
}

const opened = async (t: TestContext, url: string): Promise<Backend> => {
  const backend = await backendFromUrl(url)
  closing(t, () => backend.close?.())
  return backend
}

suite('a server that has no room for all connections', () => {
  const callConcurrently = async (t: TestContext, url: string) => {
    const processes = [await opened(t, url), await opened(t, url)]
    for (let round = 0; round < 5; round++) {
      await Promise.all(
        Array.from({ length: 60 }, async (_, i) => {
          const backend = processes[i % 2] as Backend
          const key = freshKey()
          assert.equal(await backend.generate(key, entryWith()), undefined)
          assert.ok(await backend.get(key))
        }),
      )
    }
  }
  test('PostgreSQL: two processes share its connections, and no call fails', { skip: noPostgres() }, async (t) => {
    const { url } = await postgresForWeb(t, { max_connections: '16', superuser_reserved_connections: '4' })
    await callConcurrently(t, url)
  })
  test('MariaDB: two processes share its connections, and no call fails', { skip: noMariadb() }, async (t) => {
    const { url } = await mariadbForWeb(t, ['--max-connections=12'])
    await callConcurrently(t, url)
  })
  test('PostgreSQL: a call waits for a connection, and after two seconds its error has the reason', {
    skip: noPostgres(),
  }, async (t) => {
    const { url } = await postgresForWeb(t, { max_connections: '10', superuser_reserved_connections: '5' })
    const others = new Pool({ connectionString: url })
    closing(t, () => others.end())
    const backend = await opened(t, url)
    await backend.get(freshKey())
    const taken: PoolClient[] = []
    const take = async () => taken.push(await others.connect())
    while (await take().catch(() => 0));
    // The backend has one connection, which one call after the other uses.
    await retryIfStalled(() => Promise.all(Array.from({ length: 40 }, async () => backend.get(freshKey()))))
    const late = await opened(t, url)
    await assert.rejects(async () => late.get(freshKey()), isRefusal(/too many clients|connection slots/))
    const call = late.get(freshKey())
    for (const one of taken) one.release(true)
    assert.equal(await call, undefined)
  })
})

const withPort = (url: string, port: number): string => {
  const other = new URL(url)
  other.port = String(port)
  return other.href
}

const postgresClients: Record<string, (t: TestContext, url: string) => Promise<Backend>> = {
  'a URL': opened,
  'a Pool of pg': async (t, url) => {
    const pool = new Pool({ connectionString: url })
    closing(t, () => pool.end())
    return postgresBackend(pool)
  },
}
const mysqlClients: Record<string, (t: TestContext, url: string) => Promise<Backend>> = {
  'a URL': opened,
  'a pool of mysql2': async (t, url) => {
    const pool = createPool(url)
    closing(t, () => pool.end())
    return mysqlBackend(pool)
  },
  'a pool of mariadb': async (t, url) => {
    const pool = mariadb.createPool(url.replace(/^mysql:/, 'mariadb:'))
    closing(t, () => pool.end())
    return mysqlBackend(pool)
  },
}

type TestServer = { readonly url: string; readonly port: number }

suite('a server that becomes read-only while its host name changes to another server', () => {
  const checkSwitch = async (
    t: TestContext,
    [old, next]: [TestServer, TestServer],
    open: (t: TestContext, url: string) => Promise<Backend>,
    { freeze, connect }: { freeze: () => Promise<unknown>; connect: (url: string) => Promise<SqlBackend> },
  ) => {
    const forwarder = await proxy(t, old.port)
    for (const { url } of [old, next]) {
      const ready = await connect(url)
      await ready.migrate()
      await ready.close?.()
    }
    const backend = await open(t, withPort(old.url, forwarder.port))
    const oldKey = freshKey()
    await backend.generate(oldKey, entryWith())
    // This opens as many connections as the backend may have.
    await Promise.all(Array.from({ length: 30 }, async () => backend.get(freshKey())))
    await freeze()
    forwarder.forwardTo(next.port)
    await assert.rejects(async () => backend.generate(freshKey(), entryWith()), isRefusal(/read.only/))
    const keys = Array.from({ length: 30 }, freshKey)
    for (const answer of await Promise.all(keys.map(async (key) => backend.generate(key, entryWith())))) {
      assert.equal(answer, undefined, 'writes go to the new server')
    }
    const read = await Promise.all([...keys, ...keys].map(async (key) => backend.get(key)))
    assert.ok(!read.includes(undefined), 'all reads go to the new server')
    const readOld = await Promise.all(Array.from({ length: 30 }, async () => backend.get(oldKey)))
    assert.ok(readOld.every((entry) => entry === undefined))
  }
  for (const [client, open] of Object.entries(postgresClients)) {
    test(`PostgreSQL by ${client}`, { skip: noPostgres() }, async (t) => {
      const [old, next] = [await postgresForWeb(t), await postgresForWeb(t)]
      const freeze = async () => {
        await old.run('alter system set default_transaction_read_only = on')
        await old.run('select pg_reload_conf()')
        await old.run("select pg_sleep(0.2) where current_setting('default_transaction_read_only') = 'off'")
      }
      await checkSwitch(t, [old, next], open, { freeze, connect: connectPostgres })
    })
  }
  for (const [client, open] of Object.entries(mysqlClients)) {
    test(`MariaDB by ${client}`, { skip: noMariadb() }, async (t) => {
      const [old, next] = [await mariadbForWeb(t), await mariadbForWeb(t)]
      await checkSwitch(t, [old, next], open, {
        freeze: () => old.run('set global read_only = 1'),
        connect: connectMysql,
      })
    })
  }
})

suite('a MariaDB with a max_allowed_packet of one mebibyte', { skip: noMariadb() }, () => {
  for (const [client, open] of Object.entries(mysqlClients)) {
    test(`by ${client}: a larger session is too_large, and no other call gets its connection`, async (t) => {
      const { url } = await mariadbForWeb(t, ['--max-allowed-packet=1M'])
      const ready = await connectMysql(url)
      await ready.migrate()
      await ready.close?.()
      const backend = await open(t, url)
      const [key, entry] = [freshKey(), entryWith()]
      await backend.generate(key, entry)
      for (const size of [1_048_576, 2_000_000, 9_000_000]) {
        const value = 'x'.repeat(size)
        await assert.rejects(async () => backend.generate(freshKey(), entryWith({ value })), code('too_large'))
        await assert.rejects(
          async () => backend.set(key, { ...entryWith({ value }) }, entry.version),
          /max_allowed_packet/,
        )
        const all = await Promise.all(Array.from({ length: 20 }, async () => backend.get(key)))
        for (const one of all) assert.deepEqual(one, { ...entry, owner: undefined })
      }
      assert.equal((await backend.scan?.(undefined, 5))?.entries.length, 1, 'no large session was saved')
      assert.equal(await backend.generate(freshKey(), entryWith({ value: 'x'.repeat(1_000_000) })), undefined)
    })
  }
})

suite('prepared statements', { skip: noMariadb() }, () => {
  for (const name of ['mysql2', 'mariadb']) {
    test(`${name}: the server keeps the same number after a hundred rounds, for any limits`, async (t) => {
      const { url, run } = await mariadbForWeb(t)
      const { hostname: host, port, username: user, pathname } = new URL(url)
      const settings = { host, port: Number(port), user, database: pathname.slice(1), connectionLimit: 1 }
      const pool = name === 'mysql2' ? createPool(settings) : mariadb.createPool(settings)
      closing(t, () => pool.end())
      const backend = mysqlBackend(pool)
      await backend.migrate()
      const count = async () => {
        const [rows] = await run("show global status like 'Prepared_stmt_count'")
        return Number((rows as { Value: string }[])[0]?.Value)
      }
      const round = async (i: number) => {
        const entry = entryWith({ owner: OWNER })
        const key = freshKey()
        const mark = { metadata: 'm', version: freshVersion(), expiresAt: 1 }
        await backend.generate(key, entry)
        await backend.get(key)
        await backend.set(key, entryWith(), entry.version)
        await backend.touch(key, Date.now() + 7_200_000)
        await backend.byOwner?.list(OWNER)
        await backend.byOwner?.clear(OWNER, i % 2 ? key : undefined, i % 3 ? mark : undefined)
        await backend.clear(key, i % 2 ? entry.version : undefined, i % 3 ? mark : undefined)
        for (let j = 0; j < i % 7; j++) await backend.generate(freshKey(), entryWith({ expiresAt: 5 }))
        await backend.scan?.(key, i + 1)
        while ((await backend.sweep?.(10, (i % 5) + 1)) ?? 0 > i % 5);
      }
      for (let i = 0; i < 12; i++) await round(i)
      const early = await count()
      for (let i = 12; i < 100; i++) await round(i)
      assert.equal(await count(), early)
    })
  }
})

test('a refusal by the database is unavailable, and any other error stays as it is', async () => {
  const codeOf = async (backend: Backend) => {
    const error: unknown = await Promise.resolve(backend.generate(freshKey(), entryWith())).catch((error) => error)
    return error instanceof KeepsakeError ? error.code : 'unknown'
  }
  const bySqlState = (sqlState: string) => {
    const query = async () => {
      throw Object.assign(new Error('no'), { code: sqlState })
    }
    return codeOf(postgresBackend({ connect: () => {}, query }))
  }
  for (const state of [
    '25006',
    '53300',
    '53400',
    '57P03',
    '08001',
    '08004',
    '28000',
    '28P01',
    '3D000',
    '42P01',
    '42501',
  ]) {
    assert.equal(await bySqlState(state), 'unavailable', state)
  }
  for (const state of ['08006', '08003', '08P01', '57P01', '57P02', '58000', 'XX000', 'ECONNRESET', 'EPIPE', '40003']) {
    assert.equal(await bySqlState(state), 'unknown', state)
  }
  const byNumber = (errno: number) => {
    const execute = async () => {
      throw Object.assign(new Error('no'), { errno })
    }
    return codeOf(mysqlBackend({ execute }))
  }
  for (const errno of [1290, 1792, 1836, 1040, 1203, 1129, 1130, 1045, 1044, 1142, 1146]) {
    assert.equal(await byNumber(errno), 'unavailable', String(errno))
  }
  for (const errno of [1053, 1158, 1159, 1160, 1161, 1317, 1927, 2006, 2013, 3024, -104]) {
    assert.equal(await byNumber(errno), 'unknown', String(errno))
  }
})

test('if a pool gives no connection, the error states that nothing was changed', async (t) => {
  const generate = (backend: Backend) => async () => backend.generate(freshKey(), entryWith())
  const nowhere = new Pool({ connectionString: 'postgres://app@127.0.0.1:1/app' })
  await assert.rejects(generate(postgresBackend(nowhere)), isRefusal(/ECONNREFUSED/))
  await nowhere.end()
  await assert.rejects(generate(postgresBackend(nowhere)), isRefusal(/after calling end/))
  const taken = createPool({ port: 1, connectionLimit: 1, queueLimit: 1 })
  closing(t, () => taken.end())
  await assert.rejects(generate(mysqlBackend(taken)), isRefusal(/ECONNREFUSED/))
  const limits = createPool({ port: 1, waitForConnections: false, connectionLimit: 1 })
  closing(t, () => limits.end())
  const calls = await Promise.allSettled([limits.getConnection(), generate(mysqlBackend(limits))()])
  assert.ok(calls[1].status === 'rejected' && isRefusal(/No connections available/)(calls[1].reason))
})

test('each import of a driver is in a try, because bundlers forgive a missing package only there', () => {
  for (const [file, driver] of [
    ['postgres', 'pg'],
    ['mysql', 'mysql2/promise'],
  ]) {
    const source = readFileSync(join(import.meta.dirname, `../../src/backends/sql/${file}.ts`), 'utf8')
    assert.equal(source.split(`import('${driver}')`).length, 2)
    assert.match(source, new RegExp(`try \\{\\s+return await import\\('${driver}'\\)`))
  }
})

suite('the number of connections', () => {
  test('it must be a whole number of at least 1, as an option and in a URL', async () => {
    for (const [open, scheme] of [
      [connectPostgres, 'postgres'],
      [connectMysql, 'mysql'],
    ] as const) {
      for (const connections of [0, -1, 1.5, Number.NaN, '5' as never]) {
        await assert.rejects(open(`${scheme}://app@127.0.0.1/app`, { connections }), code('invalid_option'))
      }
      for (const parameter of ['', '0', '-1', '1.5', 'many', '1e99', 'NaN']) {
        await assert.rejects(
          open(`${scheme}://app@127.0.0.1/app?connections=${parameter}`),
          /connections must be a whole number/,
        )
      }
    }
  })
  test('it is a maximum: the option, otherwise the parameter of the URL, otherwise 10', async (t) => {
    const postgres = await postgresForWeb(t)
    const maria = await mariadbForWeb(t)
    const connected = {
      postgres: async () =>
        Number((await postgres.run("select count(*) from pg_stat_activity where usename = 'web'")).rows[0].count),
      mysql: async () => {
        const [rows] = await maria.run("select count(*) as n from information_schema.processlist where user = 'web'")
        return Number((rows as { n: number }[])[0]?.n)
      },
    }
    for (const [scheme, url, open] of [
      ['postgres', postgres.url, connectPostgres],
      ['mysql', maria.url, connectMysql],
    ] as const) {
      for (const [query, option, expected] of [
        ['', {}, 10],
        ['?connections=13', {}, 13],
        ['?connections=13', { connections: 3 }, 3],
      ] as const) {
        const backend = await open(url + query, option)
        await backend.migrate()
        await Promise.all(Array.from({ length: 60 }, async () => backend.get(freshKey())))
        assert.equal(await connected[scheme](), expected, `${scheme} ${query} ${JSON.stringify(option)}`)
        await backend.close?.()
        while ((await connected[scheme]()) > 0);
      }
    }
  })
  test('a parameter that mysql2 does not know is refused, and mysql2 prints nothing', async (t) => {
    const printed = t.mock.method(console, 'error', () => {})
    for (const unknown of ['ssl-mode=REQUIRED', 'connection_limit=5', 'conections=5']) {
      const opening = connectMysql(`mysql://app@127.0.0.1/app?${unknown}&connections=5`)
      await assert.rejects(opening, (error) => {
        assert.match((error as Error).message, new RegExp(`the unknown parameter "${unknown.split('=')[0]}"\\.`))
        return code('invalid_option')(error)
      })
    }
    const known = await connectMysql('mysql://app@127.0.0.1/app?charset=utf8mb4&timezone=Z&connections=5')
    await known.close?.()
    assert.equal(printed.mock.callCount(), 0)
  })
})
