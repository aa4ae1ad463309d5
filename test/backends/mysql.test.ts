// The backend in MariaDB and MySQL: what meets on one row, drivers and their settings, outages, and what is told of them.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { type EventEmitter, once } from 'node:events'
import { registerHooks } from 'node:module'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { suite, type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import type { Entry } from 'keepsake'
import { connectMysql, mysqlBackend } from 'keepsake/mysql'
import * as mariadb from 'mariadb'
import * as callbacks from 'mysql2'
import { createConnection, createPool, type Pool, type PoolOptions, type QueryOptions } from 'mysql2/promise'
import { code } from '../support/assert.ts'
import { entryWith, freshKey, freshVersion } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { mariadbServer, noMariadb } from '../support/mariadb-server.ts'
import { closing, freshTable, mysqlUrl } from '../support/stores.ts'

const HOUR = 3_600_000
/** The server was not reached, which the error says. */
const unreached = (error: unknown): boolean => {
  assert.match((error as Error).message, /ECONNREFUSED.* Nothing was changed\./)
  return code('unavailable')(error)
}

/** Awaits a condition by asking for it. */
const until = async (condition: () => Promise<boolean>, interval = 5): Promise<void> => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, interval))
}

const pool = async (t: TestContext, options: PoolOptions = {}): Promise<Pool> => {
  const made = createPool({ uri: await mysqlUrl(), ...options })
  closing(t, () => made.end())
  return made
}

type Rows = { readonly n: number }[]
type Emitting = EventEmitter & { destroy(): void }
type Asked = { query(sql: string): Promise<unknown[]> }

/** A backend in a fresh table, and somebody else with a connection to it. */
const stage = async (t: TestContext) => {
  const table = freshTable()
  const clients = await pool(t)
  const backend = mysqlBackend(clients, { table })
  await backend.migrate()
  closing(t, () => clients.query(`drop table if exists ${table}`))
  const other = await createConnection(await mysqlUrl())
  closing(t, () => other.end())
  const generated = async (more: Partial<Entry> = {}) => {
    const key = freshKey()
    const entry = entryWith(more)
    assert.equal(await backend.generate(key, entry), undefined)
    return { key, entry, bytes: Buffer.from(key, 'base64url') }
  }
  /**
   * Until a statement on the table waits for a lock. InnoDB looks again only if nobody has asked for 100 ms: whoever asks
   * more often is told the same for ever. What it tells may be of any table.
   */
  const waiting = () =>
    until(async () => {
      const [rows] = await clients.query(
        "select count(*) as n from information_schema.innodb_trx where trx_state = 'LOCK WAIT' and instr(trx_query, ?)",
        [table],
      )
      return (rows as Rows)[0]?.n === 1
    }, 150)
  return { table, backend, clients, other, generated, waiting }
}

const change = (more = {}) => ({ value: '{"n":2}', metadata: 'h2', version: freshVersion(), ...more })

suite('two statements on one row', () => {
  test('a set that waited for another set is stale; for its own first try, done', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    for (const own of [false, true]) {
      const { key, entry, bytes } = await generated()
      const next = change()
      await other.beginTransaction()
      await other.execute(`update ${table} set version = ? where \`key\` = ?`, [own ? next.version : 'another1', bytes])
      const set = backend.set(key, next, entry.version)
      await waiting()
      await other.commit()
      assert.equal(await set, own ? undefined : 'stale')
      assert.equal((await backend.get(key))?.value, entry.value, 'and it wrote nothing')
    }
  })
  test('a set that waited for a clear is gone, and the entry does not come back; for a rollback, done', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    for (const end of ['commit', 'rollback'] as const) {
      const { key, entry, bytes } = await generated()
      await other.beginTransaction()
      await other.execute(`delete from ${table} where \`key\` = ?`, [bytes])
      const set = backend.set(key, change(), entry.version)
      await waiting()
      await other[end]()
      assert.equal(await set, end === 'commit' ? 'gone' : undefined)
      assert.equal((await backend.get(key))?.value, end === 'commit' ? undefined : '{"n":2}')
    }
  })
  test('a generate that waited for another is taken; for its own first try, done; for what was rolled back, done', async (t) => {
    const { table, backend, other, waiting } = await stage(t)
    for (const [version, end, answer] of [
      ['another1', 'commit', 'taken'],
      ['its own1', 'commit', undefined],
      ['another1', 'rollback', undefined],
    ] as const) {
      const key = freshKey()
      await other.beginTransaction()
      await other.execute(`insert into ${table} (\`key\`, version, expires_at, metadata) values (?, ?, 1, 'there')`, [
        Buffer.from(key, 'base64url'),
        version,
      ])
      const generate = backend.generate(key, entryWith({ version: 'its own1' }))
      await waiting()
      await other[end]()
      assert.equal(await generate, answer, `${version}, ${end}`)
      assert.equal((await backend.get(key))?.metadata, end === 'commit' ? 'there' : 'h')
    }
  })
  test('a clear that waited for a set removes what it left, and on a version is stale', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    for (const versioned of [false, true]) {
      const { key, entry, bytes } = await generated()
      await other.beginTransaction()
      await other.execute(`update ${table} set version = 'another1' where \`key\` = ?`, [bytes])
      const clear = backend.clear(key, versioned ? entry.version : undefined)
      await waiting()
      await other.commit()
      assert.equal(await clear, versioned ? 'stale' : undefined)
      assert.equal((await backend.get(key))?.version, versioned ? 'another1' : undefined)
    }
  })
  test('a clear with a mark that waited for a set takes its place, and on a version is stale, unless it finds itself', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const mark = { metadata: 'm', version: 'the mark', expiresAt: Date.now() + HOUR }
    for (const [there, versioned, answer, left] of [
      ['another1', false, undefined, 'the mark'],
      ['another1', true, 'stale', 'another1'],
      ['the mark', true, undefined, 'the mark'],
    ] as const) {
      const { key, entry, bytes } = await generated()
      await other.beginTransaction()
      await other.execute(`update ${table} set version = ? where \`key\` = ?`, [there, bytes])
      const clear = backend.clear(key, versioned ? entry.version : undefined, mark)
      await waiting()
      await other.commit()
      assert.equal(await clear, answer)
      assert.equal((await backend.get(key))?.version, left)
    }
  })
  test('the clear of an owner waits for what is being written and generated, and removes it', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const { key, bytes } = await generated({ owner: 'app:anna' })
    await other.beginTransaction()
    await other.execute(`update ${table} set version = 'another1', expires_at = 7 where \`key\` = ?`, [bytes])
    const born = freshKey()
    await other.execute(
      `insert into ${table} (\`key\`, version, expires_at, metadata, owner) values (?, 'v', 1, 'h', ?)`,
      [Buffer.from(born, 'base64url'), Buffer.from('app:anna')],
    )
    const clear = backend.byOwner?.clear('app:anna')
    await waiting()
    await other.commit()
    assert.equal(await clear, 2)
    for (const one of [key, born]) assert.equal(await backend.get(one), undefined)
  })
  test('what the database undoes for a deadlock is sent again', async (t) => {
    const { table, backend, clients, other, generated, waiting } = await stage(t)
    const owner = 'app:anna'
    let undone = 0
    const client = {
      execute: (query: QueryOptions, values: (string | number | Buffer | null)[]) =>
        clients.execute(query, values).catch((error) => {
          if (error.errno === 1213) undone++
          throw error
        }),
    }
    // The database undoes one of the two, mostly the one that has changed less; it may be ours, and then there is nothing to see.
    for (let tries = 0; undone === 0 && tries < 50; tries++) {
      const made = [await generated({ owner }), await generated({ owner })]
      const [first, last] = made.map(({ bytes }) => bytes).sort(Buffer.compare) as [Buffer, Buffer]
      await other.beginTransaction()
      for (let i = 0; i < 50; i++) {
        await other.execute(`insert into ${table} (\`key\`, version, expires_at, metadata) values (?, 'v', 1, 'h')`, [
          randomBytes(32),
        ])
      }
      await other.execute(`update ${table} set metadata = 'mine' where \`key\` = ?`, [last])
      const clear = mysqlBackend(client, { table }).byOwner?.clear(owner)
      await waiting()
      const won = await other.execute(`update ${table} set metadata = 'mine' where \`key\` = ?`, [first]).then(
        () => true,
        (error) => {
          assert.equal(error.errno, 1213)
          return false
        },
      )
      await (won ? other.commit() : other.rollback())
      assert.equal(await clear, 2)
      assert.deepEqual(await backend.byOwner?.list(owner), [])
    }
    assert.ok(undone > 0, 'there was a deadlock, and ours was undone')
  })
})

/** A client that fails so many times with this number, and then answers with nothing. */
const failing = (errno: number, times: number) => {
  const calls: unknown[] = []
  const execute = async (query: unknown) => {
    calls.push(query)
    if (calls.length <= times) throw Object.assign(new Error('no'), { errno })
    return [[], []]
  }
  return { calls, client: { execute } }
}

test('a statement that was undone is sent again three times at most, and no other is', async () => {
  for (const [errno, times, calls, fails] of [
    [1213, 3, 4, false],
    [1205, 3, 4, false],
    [1213, 4, 4, true],
    [2013, 1, 1, true],
    [1317, 1, 1, true],
  ] as const) {
    const stub = failing(errno, times)
    const get = async () => mysqlBackend(stub.client).get(freshKey())
    if (fails) await assert.rejects(get, times > 1 ? code('unavailable') : { errno })
    else assert.equal(await get(), undefined)
    assert.equal(stub.calls.length, calls, String(errno))
  }
})

/** So many entries, the first of which expires at 1, the next at 2; every tenth has an owner. */
const filled = async (clients: Pool, table: string, count: number): Promise<void> => {
  const rows = Array.from({ length: count }, (_, i) => {
    return [randomBytes(32), 'v', i + 1, 'h', (i + 1) % 10 === 0 ? Buffer.from(`app:${i + 1}`) : null]
  })
  await clients.query(`insert into ${table} (\`key\`, version, expires_at, metadata, owner) values ?`, [rows])
}

suite('the table', () => {
  const migrator = `
    import { mysqlBackend } from 'keepsake/mysql'
    import { createConnection } from 'mysql2/promise'
    const connection = await createConnection(process.env.URL)
    process.stdin.once('data', async () => {
      await mysqlBackend(connection, { table: process.env.TABLE }).migrate()
      await connection.end()
      process.exit(0)
    })
    console.log('ready')
  `
  test('eight processes make it at once, and none of them fails', async (t) => {
    const table = freshTable()
    const clients = await pool(t)
    closing(t, () => clients.query(`drop table if exists ${table}`))
    const env = { ...process.env, URL: await mysqlUrl(), TABLE: table }
    const children = Array.from({ length: 8 }, () => {
      const args = ['--unhandled-rejections=strict', '--input-type=module', '-e', migrator]
      const child = spawn(process.execPath, args, { cwd: join(import.meta.dirname, '../..'), env })
      closing(t, () => child.kill())
      let errors = ''
      child.stderr.on('data', (chunk) => {
        errors += chunk
      })
      return { child, errors: () => errors, lines: createInterface({ input: child.stdout }) }
    })
    await Promise.all(children.map(({ lines }) => once(lines, 'line')))
    for (const { child } of children) child.stdin.write('go\n')
    for (const { child, errors } of children) {
      if (child.exitCode === null) await once(child, 'close')
      assert.equal(child.exitCode, 0, errors())
    }
    assert.equal(await mysqlBackend(clients, { table }).generate(freshKey(), entryWith()), undefined)
  })
  test('it is made in another database too, by hand too, and as often as one likes', async (t) => {
    const clients = await pool(t)
    const place = freshTable()
    await clients.query(`create database ${place}`)
    closing(t, () => clients.query(`drop database ${place}`))
    const backend = mysqlBackend(clients, { table: `${place}.Sessions` })
    await clients.query(backend.schema())
    await backend.migrate()
    await backend.migrate()
    assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
  })
  test('a name that is none is refused before anything is asked', () => {
    const { client, calls } = failing(0, 0)
    for (const table of ['', 'a b', '1a', 'a`; drop table x;--', 'a.b.c', '.a', 'a.', 'a\0', 'ä', 'a'.repeat(49), 7]) {
      assert.throws(
        () => mysqlBackend(client, { table: table as string }),
        code('invalid_option'),
        JSON.stringify(table),
      )
    }
    assert.throws(() => mysqlBackend(client, { unlogged: true } as never), code('invalid_option'))
    for (const bad of [undefined, null, {}, 'mysql://']) {
      assert.throws(() => mysqlBackend(bad as never), code('invalid_option'))
    }
    assert.equal(calls.length, 0)
  })
  test('where it is missing, and where a user may not make or use it, the error says what to do', async (t) => {
    const { clients, table } = await stage(t)
    const none = mysqlBackend(clients, { table: freshTable() })
    for (const call of [() => none.get(freshKey()), () => none.generate(freshKey(), entryWith())]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /has no table `keepsake_\w+`: call migrate\(\)/)
    }
    const { url, user } = await stranger(t, clients)
    const { pathname } = new URL(url)
    const weak = await pool(t, { uri: withoutDatabase(url) })
    const place = `${pathname.slice(1)}.${table}`
    for (const call of [
      () => mysqlBackend(weak, { table: place }).get(freshKey()),
      () => mysqlBackend(weak, { table: `${pathname.slice(1)}.${freshTable()}` }).migrate(),
    ]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /does not let this user make or use/)
    }
    await clients.query(`grant select, insert, update, delete on ${place} to ${user}`)
    const granted = mysqlBackend(weak, { table: place })
    assert.equal(await granted.generate(freshKey(), entryWith()), undefined, 'a user needs no more than these')
  })
  test('a long sweep goes on where its last batch ended, and takes what is older once it is through', async (t) => {
    const { clients, table } = await stage(t)
    const bounds: unknown[] = []
    const execute = (query: { sql: string }, values: never[]) => {
      if (query.sql.startsWith('delete')) bounds.push(values[1])
      return clients.execute(query, values)
    }
    const backend = mysqlBackend({ execute }, { table })
    for (let i = 10; i < 35; i++) await backend.generate(freshKey(), entryWith({ expiresAt: i }))
    assert.equal(await backend.sweep?.(100, 10), 10)
    await backend.generate(freshKey(), entryWith({ expiresAt: 5 }))
    assert.equal(await backend.sweep?.(100, 10), 10)
    assert.equal(await backend.sweep?.(100, 10), 6, 'five that are left, and the older one')
    assert.equal(await backend.sweep?.(100, 10), 0)
    const [before, second, third, again, last] = bounds
    assert.deepEqual([second, third, again, last], [19, 29, before, before])
  })
  test('the sweep and the look for an owner go by their indexes', async (t) => {
    const { clients, table, generated } = await stage(t)
    await filled(clients, table, 5000)
    await clients.query(`analyze table ${table}`)
    const asked: { sql: string; values: never[] }[] = []
    const execute = (query: { sql: string }, values: never[]) => {
      asked.push({ sql: query.sql, values })
      return clients.execute(query, values)
    }
    const backend = mysqlBackend({ execute }, { table })
    await backend.sweep?.(5, 50)
    await backend.byOwner?.list('app:100')
    await backend.byOwner?.clear('app:100')
    await backend.get((await generated()).key)
    await backend.scan?.('A'.repeat(43), 50)
    // MySQL takes no limit from mysql2, which sends every number as a floating one.
    assert.equal(asked[0]?.values[0], 5)
    assert.equal(asked[0]?.values.length, 2)
    assert.equal(asked.at(-1)?.values.length, 1)
    const keys = await Promise.all(
      asked.map(async ({ sql, values }) => {
        const [[plan]] = (await clients.execute(`explain ${sql}`, values)) as unknown as [
          [{ key: string; rows: number }],
        ]
        assert.ok(plan.rows <= 100 || sql.includes('order by `key`'), sql)
        return plan.key
      }),
    )
    assert.deepEqual(keys, ['expires_at', 'expires_at', 'owner', 'owner', 'PRIMARY', 'PRIMARY'])
  })
})

const withoutDatabase = (url: string): string => {
  const copy = new URL(url)
  copy.pathname = ''
  return copy.href
}

/** A user who may do nothing yet. */
const stranger = async (t: TestContext, clients: Pool) => {
  const name = freshTable().slice(0, 20)
  const user = `'${name}'@'%'`
  await clients.query(`create user ${user} identified by 'x'`)
  closing(t, () => clients.query(`drop user ${user}`))
  const url = new URL(await mysqlUrl())
  url.username = name
  url.password = 'x'
  return { url: url.href, user }
}

suite('a live client', () => {
  const wide = entryWith({ value: JSON.stringify({ a: 'Ἀ日本語🦊é' }), owner: 'app:Zoë 🦊' })
  /** All that the settings of a client could change. */
  const served = async (client: Parameters<typeof mysqlBackend>[0], table: string) => {
    const backend = mysqlBackend(client, { table })
    await backend.migrate()
    const [key, owner] = [freshKey(), `${wide.owner}${freshVersion()}`]
    const entry = { ...wide, owner, version: freshVersion() }
    assert.equal(await backend.generate(key, entry), undefined)
    assert.equal(await backend.generate(key, entry), undefined)
    assert.equal(await backend.generate(key, entryWith()), 'taken')
    assert.deepEqual(await backend.get(key), entry)
    const next = { ...change(), value: wide.value }
    assert.equal(await backend.set(key, next, freshVersion()), 'stale')
    assert.equal(await backend.set(key, next, entry.version), undefined)
    assert.equal(await backend.set(key, next, entry.version), undefined)
    assert.equal(await backend.touch(key, entry.expiresAt + 1), undefined)
    const now = { ...entry, ...next, expiresAt: entry.expiresAt + 1 }
    assert.deepEqual(await backend.byOwner?.list(owner), [{ ...now, key }])
    assert.deepEqual((await backend.scan?.(undefined, 5))?.entries, [{ ...now, key }])
    assert.equal(await backend.byOwner?.clear(owner, key), 0)
    assert.equal(await backend.clear(key, freshVersion()), 'stale')
    assert.equal(await backend.byOwner?.clear(owner), 1)
    assert.equal(await backend.set(key, next, next.version), 'gone')
    await backend.generate(key, entryWith({ expiresAt: 1 }))
    assert.equal(await backend.sweep?.(1, 50), 1)
  }
  const settings: Record<string, PoolOptions> = {
    'connections in latin1': { charset: 'latin1' },
    'affected rows that count changes only': { flags: ['-FOUND_ROWS'] },
    'rows as arrays, numbers as texts, placeholders by name': {
      rowsAsArray: true,
      supportBigNumbers: true,
      bigNumberStrings: true,
      namedPlaceholders: true,
    },
  }
  for (const [name, options] of Object.entries(settings)) {
    test(`mysql2 with ${name}`, async (t) => {
      const { table } = await stage(t)
      await served(await pool(t, options), table)
    })
  }
  test('a server that is lax about what it takes, and reads double quotes its own way', async (t) => {
    const { table } = await stage(t)
    // One that a pool lent is used as it is: beside one alone, sessions would open another.
    const one = await (await pool(t)).getConnection()
    closing(t, () => one.release())
    for (const mode of ['', 'ansi', 'traditional,no_backslash_escapes', 'pad_char_to_full_length']) {
      await one.query('set session sql_mode = ?', [mode])
      await served(one, table)
    }
    for (const level of ['read committed', 'serializable', 'repeatable read']) {
      await one.query(`set session transaction isolation level ${level}`)
      await served(one, table)
    }
  })
  test('pools and connections of mysql2 with callbacks', async (t) => {
    const { table } = await stage(t)
    const many = callbacks.createPool(await mysqlUrl())
    const one = callbacks.createConnection(await mysqlUrl())
    closing(t, () => many.promise().end())
    closing(t, () => one.promise().end())
    await served(many, table)
    await served(one, table)
  })
  test('pools and connections of mariadb, whatever they make of numbers', async (t) => {
    const { table } = await stage(t)
    const url = (await mysqlUrl()).replace(/^mysql:/, 'mariadb:')
    const { hostname, port, username, pathname } = new URL(url)
    const base = { host: hostname, port: Number(port), user: username, database: pathname.slice(1) }
    for (const options of [
      {},
      { bigIntAsNumber: true, insertIdAsNumber: true },
      { foundRows: false, rowsAsArray: true },
    ]) {
      const many = mariadb.createPool({ ...base, ...options })
      closing(t, () => many.end())
      await served(many, table)
    }
    const one = await mariadb.createConnection(url)
    closing(t, () => one.end())
    await served(one, table)
  })
  test('no error of the mariadb driver tells what is in a session', async (t) => {
    const many = mariadb.createPool((await mysqlUrl()).replace(/^mysql:/, 'mariadb:'))
    closing(t, () => many.end())
    const backend = mysqlBackend(many, { table: freshTable() })
    await backend.migrate()
    const secret = 'hunter2secret'
    const errors: unknown[] = []
    const failed = async (call: () => unknown) =>
      assert.rejects(
        async () => call(),
        (error) => errors.push(error) > 0,
      )
    const lost = mysqlBackend(many, { table: freshTable() })
    await failed(() => lost.generate(freshKey(), entryWith({ value: secret, owner: secret })))
    await failed(() => backend.generate(freshKey(), entryWith({ value: secret, metadata: secret.repeat(40) })))
    await failed(() => lost.set(freshKey(), change({ value: secret, metadata: secret }), secret))
    for (const error of errors) {
      const told = inspect(error, { depth: 12, showHidden: true })
      assert.ok(!told.includes(secret), told)
    }
    await many.query(`drop table ${backend.schema().match(/`\w+`/)?.[0]}`)
  })
  test('two nodes that sweep at once share the work, and take nothing that lives', async (t) => {
    const { table, backend, clients, generated } = await stage(t)
    await filled(clients, table, 400)
    const { key } = await generated({ expiresAt: 401 })
    const other = mysqlBackend(await pool(t), { table })
    const swept = async (node: typeof backend) => {
      let sum = 0
      for (let last = 50; last === 50; sum += last) last = (await node.sweep?.(400, 50)) ?? 0
      return sum
    }
    assert.equal(
      (await Promise.all([swept(backend), swept(other)])).reduce((a, b) => a + b),
      400,
    )
    assert.ok(await backend.get(key))
  })
  test('its errors end no process: it is heard, also where the application does not listen', async (t) => {
    const { table, other } = await stage(t)
    const many = await pool(t)
    const one = await createConnection(await mysqlUrl())
    const url = (await mysqlUrl()).replace(/^mysql:/, 'mariadb:')
    const maria = await mariadb.createConnection(url)
    closing(t, () => maria.end().catch(() => {}))
    await mysqlBackend(many, { table }).get(freshKey())
    // mysql2 itself hears only the first error of a connection.
    const { connection } = (await many.getConnection()) as unknown as { connection: Emitting }
    for (let i = 0; i < 2; i++) connection.emit('error', new Error('lost'))
    connection.destroy()
    for (const client of [many, one, maria]) {
      const backend = mysqlBackend(client, { table })
      await backend.get(freshKey())
      const answer = await (client as Asked).query('select connection_id() as n')
      const rows = (Array.isArray(answer[0]) ? answer[0] : answer) as Rows
      await other.query(`kill ${rows[0]?.n}`)
      // Sessions go on with another connection. Only of a connection of mariadb, no other can be opened.
      await until(async () => {
        const get = async () => backend.get(freshKey())
        return get().then(
          () => client !== maria,
          () => client === maria,
        )
      })
      await backend.close?.()
    }
  })
})

/** A way to a port, on which the connections that there are can be made to say nothing more; how many, it says. */
const proxy = async (t: TestContext, target: number): Promise<{ port: number; silence(): number }> => {
  const open = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(target, '127.0.0.1')
    open.add(near)
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('error', () => {})
      from.on('data', (data) => open.has(near) && to.write(data))
      from.on('close', () => to.destroy())
    }
    closing(t, () => near.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  closing(t, () => server.close())
  const silence = () => {
    const silenced = open.size
    open.clear()
    return silenced
  }
  return { port: (server.address() as AddressInfo).port, silence }
}

suite('a backend by URL', { concurrency: true }, () => {
  const opened = async (t: TestContext, url: string, table = freshTable()) => {
    const backend = await connectMysql(url, { table })
    closing(t, () => backend.close?.())
    return backend
  }
  test('it connects at its first use, makes its table once, and ends its connections with close', async (t) => {
    const { clients } = await stage(t)
    const { url, user } = await stranger(t, clients)
    const place = new URL(url).pathname.slice(1)
    await clients.query(`grant all on ${place}.* to ${user}`)
    const connections = async () => {
      const [rows] = await clients.execute('select count(*) as n from information_schema.processlist where user = ?', [
        new URL(url).username,
      ])
      return (rows as Rows)[0]?.n
    }
    const table = freshTable()
    closing(t, () => clients.query(`drop table if exists ${table}`))
    const backend = await opened(t, url.replace('mysql:', 'mariadb:'), table)
    assert.equal(await connections(), 0)
    // Any call may be the first.
    const calls = [
      ...Array.from({ length: 15 }, () => () => backend.get(freshKey())),
      ...[() => backend.scan?.(undefined, 5), () => backend.sweep?.(1, 5), () => backend.clear(freshKey())],
      ...[() => backend.byOwner?.list('app:anna'), () => backend.byOwner?.clear('app:anna')],
      ...[() => backend.touch(freshKey(), 1), () => backend.set(freshKey(), change(), freshVersion())],
    ]
    await Promise.all(calls.map(async (call) => call()))
    assert.ok(((await connections()) ?? 0) > 0)
    assert.equal(await retryIfStalled(() => backend.generate(freshKey(), entryWith())), undefined)
    await backend.close?.()
    await backend.close?.()
    await until(async () => (await connections()) === 0)
    await assert.rejects(async () => backend.get(freshKey()))
  })
  test('a first use that fails is no last one; nor is any crash after it', { skip: noMariadb() }, async (t) => {
    const server = await mariadbServer()
    closing(t, () => server.stop())
    const backend = await opened(t, server.url)
    await server.kill()
    for (let i = 0; i < 3; i++)
      await retryIfStalled(() => assert.rejects(async () => backend.get(freshKey()), unreached))
    for (let i = 0; i < 5; i++) {
      await server.restart()
      const key = freshKey()
      assert.equal(
        await retryIfStalled(() => backend.generate(key, entryWith())),
        undefined,
        'the first call after it serves',
      )
      assert.ok(await retryIfStalled(() => backend.get(key)))
      await server.kill()
      const calls = await Promise.allSettled(Array.from({ length: 20 }, async () => backend.get(key)))
      assert.deepEqual(new Set(calls.map(({ status }) => status)), new Set(['rejected']))
    }
  })
  test('where its user may not make tables, it takes the one that is there', async (t) => {
    const { clients, table } = await stage(t)
    const { url, user } = await stranger(t, clients)
    const place = new URL(url).pathname.slice(1)
    await clients.query(`grant select, insert, update, delete on ${place}.${table} to ${user}`)
    const granted = await opened(t, url, table)
    assert.equal(await retryIfStalled(() => granted.get(freshKey())), undefined)
    await retryIfStalled(() => assert.rejects(async () => (await opened(t, url)).get(freshKey()), code('unavailable')))
  })
  test('a statement that a lock holds up fails after some seconds, and the pool goes on', async (t) => {
    const { table, other, backend } = await stage(t)
    const limited = await opened(t, await mysqlUrl(), table)
    const key = freshKey()
    await retryIfStalled(() => limited.generate(key, entryWith()))
    await other.beginTransaction()
    await other.query(`select * from ${table} for update`)
    await retryIfStalled(() => assert.rejects(async () => limited.clear(key), code('unavailable')))
    assert.ok(await retryIfStalled(() => limited.get(key)), 'reading waits for nobody')
    await other.rollback()
    await retryIfStalled(() => limited.clear(key))
    assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
  })
  test('connections that fall silent cost the calls that they were asked, not the pool', async (t) => {
    const { table } = await stage(t)
    const way = await proxy(t, Number(new URL(await mysqlUrl()).port))
    const url = new URL(await mysqlUrl())
    url.port = String(way.port)
    const backend = await opened(t, url.href, table)
    // All that the pool may have.
    await Promise.all(Array.from({ length: 20 }, async () => backend.get(freshKey())))
    assert.equal(way.silence(), 10)
    const calls = await Promise.allSettled(Array.from({ length: 10 }, async () => backend.get(freshKey())))
    assert.deepEqual(new Set(calls.map(({ status }) => status)), new Set(['rejected']))
    assert.equal(await retryIfStalled(() => backend.get(freshKey())), undefined)
  })
  test('no error tells the password', async (t) => {
    const secret = 'hunter2secret'
    const { port, host } = new URL(await mysqlUrl())
    const errors: unknown[] = []
    for (const url of [
      `mysql://app:${secret}@127.0.0.1:1/app`,
      `mysql://app:${secret}@${host}/app`,
      `mysql://nobody:${secret}@${host}/app`,
      `mysql://app:${secret}@127.0.0.1:notaport/app`,
      `mysql://app:${secret}%@${host}/app`,
      `mysql://app:${secret}@[::1/app`,
      `mysql://app:${secret}@127.0.0.1:${port}/app?ssl={}`,
      `mariadb://app:${secret}@no.such.host.invalid/app`,
    ]) {
      const call = async () => (await opened(t, url)).get(freshKey())
      await assert.rejects(call, (error) => errors.push(error) > 0, url)
    }
    for (const error of errors) {
      const told = inspect(error, { depth: 12, showHidden: true })
      assert.ok(!told.includes(secret), told)
    }
    assert.ok(errors.filter(code('invalid_option')).length >= 2, 'what cannot be read says how it has to look')
  })
})

test('where mysql2 is not installed, the error names it, in one line', async (t) => {
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      if (specifier.startsWith('mysql2') && context.parentURL?.includes('/src/')) {
        throw Object.assign(new Error("Cannot find package 'mysql2'"), { code: 'ERR_MODULE_NOT_FOUND' })
      }
      return next(specifier, context)
    },
  })
  closing(t, () => hooks.deregister())
  const fresh = await import(`../../src/backends/sql/mysql.ts?${freshVersion()}`)
  await assert.rejects(fresh.connectMysql('mysql://app:x@127.0.0.1/a'), (error) => {
    assert.match((error as Error).message, /^The backend of this URL needs the package mysql2: npm install mysql2$/)
    return code('unknown_backend')(error)
  })
})
