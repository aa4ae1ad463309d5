// Servers of SQL that are full, become read-only, take no large value, or refuse: what is told of them, and who comes back.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, connect as connectTo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { type Backend, backendFromUrl, KeepsakeError } from 'keepsake'
import { connectMysql, mysqlBackend } from 'keepsake/mysql'
import { connectPostgres, postgresBackend } from 'keepsake/postgres'
import * as mariadb from 'mariadb'
import { createConnection, createPool } from 'mysql2/promise'
import { Pool, type PoolClient } from 'pg'
import { code } from '../support/assert.ts'
import { entryWith, freshKey, freshVersion } from '../support/entries.ts'
import { mariadbServer, noMariadb } from '../support/mariadb-server.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'
import { closing } from '../support/stores.ts'

/** A KeepsakeError that says that nothing was changed, and why. */
const refusal = (why: RegExp) => (error: unknown) => {
  assert.match((error as Error).message, why)
  assert.match((error as Error).message, /Nothing was changed\./)
  return code('unavailable')(error)
}

type Made = Backend & { migrate(): Promise<void> }

/** A role that has no place kept for it, and may not write where others may not. */
const asWeb = (url: string): string => url.replace('//app@', '//web@')

const postgresForWeb = async (t: TestContext, settings: Record<string, string> = {}) => {
  const server = await postgresServer(settings)
  closing(t, () => server.stop())
  const admin = new Pool({ connectionString: server.url })
  admin.on('error', () => {})
  closing(t, () => admin.end())
  await admin.query('create role web login')
  await admin.query('grant all on schema public to web')
  return { url: asWeb(server.url), port: server.port, say: (sql: string) => admin.query(sql) }
}

const mariadbForWeb = async (t: TestContext, settings: string[] = []) => {
  const server = await mariadbServer(settings)
  closing(t, () => server.stop())
  const admin = await createConnection({ socketPath: `${server.folder}/s.sock`, user: 'root' })
  closing(t, () => admin.end())
  await admin.query("create user web@'127.0.0.1'")
  await admin.query("grant all on app.* to web@'127.0.0.1'")
  return { url: asWeb(server.url), port: server.port, say: (sql: string) => admin.query(sql) }
}

const opened = async (t: TestContext, url: string): Promise<Backend> => {
  const backend = await backendFromUrl(url)
  closing(t, () => backend.close?.())
  return backend
}

suite('a server that has no room for all connections', () => {
  const crowd = async (t: TestContext, url: string) => {
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
  test('PostgreSQL: two processes share what there is, and no call fails', { skip: noPostgres() }, async (t) => {
    const { url } = await postgresForWeb(t, { max_connections: '16', superuser_reserved_connections: '4' })
    await crowd(t, url)
  })
  test('MariaDB: two processes share what there is, and no call fails', { skip: noMariadb() }, async (t) => {
    const { url } = await mariadbForWeb(t, ['--max-connections=12'])
    await crowd(t, url)
  })
  test('PostgreSQL: a call waits while others have all of it, and is told why if it waits in vain', {
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
    // It has one connection, which is used by one call after the other.
    await Promise.all(Array.from({ length: 40 }, async () => backend.get(freshKey())))
    const late = await opened(t, url)
    await assert.rejects(async () => late.get(freshKey()), refusal(/too many clients|connection slots/))
    const waits = late.get(freshKey())
    for (const one of taken) one.release(true)
    assert.equal(await waits, undefined)
  })
})

/** A port that leads to another one: new connections go to the one that it means now, those that are open stay. */
const changingName = async (t: TestContext, port: number) => {
  let means = port
  const sockets = new Set<Socket>()
  const server = createServer((near) => {
    const far = connectTo(means, '127.0.0.1')
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one)
      one.on('error', () => {})
      one.on('close', () => other.destroy())
      one.pipe(other)
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  closing(t, () => {
    for (const one of sockets) one.destroy()
    server.close()
  })
  return {
    port: (server.address() as AddressInfo).port,
    mean(other: number) {
      means = other
    },
  }
}

const at = (url: string, port: number): string => {
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

type Servers = Awaited<ReturnType<typeof postgresForWeb>>

suite('a server that becomes read-only, while its name comes to mean another', () => {
  const switched = async (
    t: TestContext,
    [old, next]: [Servers | Awaited<ReturnType<typeof mariadbForWeb>>, { url: string; port: number }],
    open: (t: TestContext, url: string) => Promise<Backend>,
    { freeze, made }: { freeze: () => Promise<unknown>; made: (url: string) => Promise<Made> },
  ) => {
    const name = await changingName(t, old.port)
    for (const { url } of [old, next]) {
      const ready = await made(url)
      await ready.migrate()
      await ready.close?.()
    }
    const backend = await open(t, at(old.url, name.port))
    const ended = freshKey()
    await backend.generate(ended, entryWith())
    // As many connections as it makes.
    await Promise.all(Array.from({ length: 30 }, async () => backend.get(freshKey())))
    await freeze()
    name.mean(next.port)
    await assert.rejects(async () => backend.generate(freshKey(), entryWith()), refusal(/read.only/))
    const keys = Array.from({ length: 30 }, freshKey)
    for (const answer of await Promise.all(keys.map(async (key) => backend.generate(key, entryWith())))) {
      assert.equal(answer, undefined, 'writes are back')
    }
    const read = await Promise.all([...keys, ...keys].map(async (key) => backend.get(key)))
    assert.ok(!read.includes(undefined), 'so are reads, all of them')
    const gone = await Promise.all(Array.from({ length: 30 }, async () => backend.get(ended)))
    assert.ok(gone.every((entry) => entry === undefined))
  }
  for (const [client, open] of Object.entries(postgresClients)) {
    test(`PostgreSQL by ${client}`, { skip: noPostgres() }, async (t) => {
      const [old, next] = [await postgresForWeb(t), await postgresForWeb(t)]
      const freeze = async () => {
        await old.say('alter system set default_transaction_read_only = on')
        await old.say('select pg_reload_conf()')
        await old.say("select pg_sleep(0.2) where current_setting('default_transaction_read_only') = 'off'")
      }
      await switched(t, [old, next], open, { freeze, made: connectPostgres })
    })
  }
  for (const [client, open] of Object.entries(mysqlClients)) {
    test(`MariaDB by ${client}`, { skip: noMariadb() }, async (t) => {
      const [old, next] = [await mariadbForWeb(t), await mariadbForWeb(t)]
      await switched(t, [old, next], open, {
        freeze: () => old.say('set global read_only = 1'),
        made: connectMysql,
      })
    })
  }
})

suite('a MariaDB that takes no more than a mebibyte at once', { skip: noMariadb() }, () => {
  for (const [client, open] of Object.entries(mysqlClients)) {
    test(`by ${client}: what is larger is too_large, and nobody gets the connection that it was sent on`, async (t) => {
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
      assert.equal((await backend.scan?.(undefined, 5))?.entries.length, 1, 'nothing was saved')
      assert.equal(await backend.generate(freshKey(), entryWith({ value: 'x'.repeat(1_000_000) })), undefined)
    })
  }
})

suite('statements that are prepared', { skip: noMariadb() }, () => {
  for (const name of ['mysql2', 'mariadb']) {
    test(`${name}: as many after a hundred rounds as after three, whatever their limits`, async (t) => {
      const { url, say } = await mariadbForWeb(t)
      const { hostname: host, port, username: user, pathname } = new URL(url)
      const settings = { host, port: Number(port), user, database: pathname.slice(1), connectionLimit: 1 }
      const pool = name === 'mysql2' ? createPool(settings) : mariadb.createPool(settings)
      closing(t, () => pool.end())
      const backend = mysqlBackend(pool)
      await backend.migrate()
      const kept = async () => {
        const [rows] = await say("show global status like 'Prepared_stmt_count'")
        return Number((rows as { Value: string }[])[0]?.Value)
      }
      const round = async (i: number) => {
        const entry = entryWith({ owner: 'app:anna' })
        const key = freshKey()
        const mark = { metadata: 'm', version: freshVersion(), expiresAt: 1 }
        await backend.generate(key, entry)
        await backend.get(key)
        await backend.set(key, entryWith(), entry.version)
        await backend.touch(key, Date.now() + 7_200_000)
        await backend.byOwner?.list('app:anna')
        await backend.byOwner?.clear('app:anna', i % 2 ? key : undefined, i % 3 ? mark : undefined)
        await backend.clear(key, i % 2 ? entry.version : undefined, i % 3 ? mark : undefined)
        for (let j = 0; j < i % 7; j++) await backend.generate(freshKey(), entryWith({ expiresAt: 5 }))
        await backend.scan?.(key, i + 1)
        while ((await backend.sweep?.(10, (i % 5) + 1)) ?? 0 > i % 5);
      }
      for (let i = 0; i < 12; i++) await round(i)
      const early = await kept()
      for (let i = 12; i < 100; i++) await round(i)
      assert.equal(await kept(), early)
    })
  }
})

test('what a database refuses is unavailable, and all else stays what it is', async () => {
  const told = async (backend: Backend) => {
    const error: unknown = await Promise.resolve(backend.generate(freshKey(), entryWith())).catch((error) => error)
    return error instanceof KeepsakeError ? error.code : 'unknown'
  }
  const bySqlState = (sqlState: string) => {
    const query = async () => {
      throw Object.assign(new Error('no'), { code: sqlState })
    }
    return told(postgresBackend({ connect: () => {}, query }))
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
    return told(mysqlBackend({ execute }))
  }
  for (const errno of [1290, 1792, 1836, 1040, 1203, 1129, 1130, 1045, 1044, 1142, 1146]) {
    assert.equal(await byNumber(errno), 'unavailable', String(errno))
  }
  for (const errno of [1053, 1158, 1159, 1160, 1161, 1317, 1927, 2006, 2013, 3024, -104]) {
    assert.equal(await byNumber(errno), 'unknown', String(errno))
  }
})

test('where no connection can be had, nothing was changed: a pool of one that is taken, full, ended, or leads nowhere', async (t) => {
  const generate = (backend: Backend) => async () => backend.generate(freshKey(), entryWith())
  const nowhere = new Pool({ connectionString: 'postgres://app@127.0.0.1:1/app' })
  await assert.rejects(generate(postgresBackend(nowhere)), refusal(/ECONNREFUSED/))
  await nowhere.end()
  await assert.rejects(generate(postgresBackend(nowhere)), refusal(/after calling end/))
  const taken = createPool({ port: 1, connectionLimit: 1, queueLimit: 1 })
  closing(t, () => taken.end())
  await assert.rejects(generate(mysqlBackend(taken)), refusal(/ECONNREFUSED/))
  const limits = createPool({ port: 1, waitForConnections: false, connectionLimit: 1 })
  closing(t, () => limits.end())
  const calls = await Promise.allSettled([limits.getConnection(), generate(mysqlBackend(limits))()])
  assert.ok(calls[1].status === 'rejected' && refusal(/No connections available/)(calls[1].reason))
})

test('an import of a driver stands in a try: bundlers forgive a package that is missing there, and nowhere else', () => {
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
  test('it has to be a whole number of at least 1, in an option or in a URL', async () => {
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
          /connections has to be a whole number/,
        )
      }
    }
  })
  test('as many are made, and no more: 10, or what a URL says, or an option, which goes before it', async (t) => {
    const postgres = await postgresForWeb(t)
    const maria = await mariadbForWeb(t)
    const connected = {
      postgres: async () =>
        Number((await postgres.say("select count(*) from pg_stat_activity where usename = 'web'")).rows[0].count),
      mysql: async () => {
        const [rows] = await maria.say("select count(*) as n from information_schema.processlist where user = 'web'")
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
  test('a parameter that mysql2 does not know is refused, and nothing is printed', async (t) => {
    const printed = t.mock.method(console, 'error', () => {})
    for (const unknown of ['ssl-mode=REQUIRED', 'connection_limit=5', 'conections=5']) {
      const opening = connectMysql(`mysql://app@127.0.0.1/app?${unknown}&connections=5`)
      await assert.rejects(opening, (error) => {
        assert.match(
          (error as Error).message,
          new RegExp(`the parameter "${unknown.split('=')[0]}", which is not known`),
        )
        return code('invalid_option')(error)
      })
    }
    const known = await connectMysql('mysql://app@127.0.0.1/app?charset=utf8mb4&timezone=Z&connections=5')
    await known.close?.()
    assert.equal(printed.mock.callCount(), 0)
  })
})
