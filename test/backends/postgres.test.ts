// The backend in PostgreSQL: what meets on one row, tables made at once, crashes, hangs, and what is told of all that.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { registerHooks } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { suite, type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import type { Entry } from 'keepsake'
import { connectPostgres, type PostgresOptions, postgresBackend } from 'keepsake/postgres'
import { Client, Pool, type QueryArrayConfig } from 'pg'
import postgres from 'postgres'
import { code } from '../support/assert.ts'
import { entryWith, freshKey, freshVersion } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'
import { closing, freshTable, postgresUrl } from '../support/stores.ts'

const HOUR = 3_600_000
/** The server was not reached, which the error says. */
const unreached = (error: unknown): boolean => {
  assert.match((error as Error).message, /ECONNREFUSED.* Nothing was changed\./)
  return code('unavailable')(error)
}

/** Awaits a condition by asking for it. */
const until = async (condition: () => Promise<boolean>): Promise<void> => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5))
}

const pool = async (
  t: TestContext,
  config: ConstructorParameters<typeof Pool>[0] = {},
  url?: string,
): Promise<Pool> => {
  const made = new Pool({ connectionString: url ?? (await postgresUrl()), ...config })
  closing(t, () => {
    // It does not wait until its connections are closed, and the server may be ended meanwhile.
    made.on('error', () => {})
    return made.end()
  })
  return made
}

/** A backend in a fresh table, and somebody else with a connection to it. */
const stage = async (t: TestContext, options: PostgresOptions = {}) => {
  const table = freshTable()
  const clients = await pool(t)
  const backend = postgresBackend(clients, { table, ...options })
  await backend.migrate()
  const other = new Client({ connectionString: await postgresUrl() })
  await other.connect()
  closing(t, () => other.end())
  closing(t, () => clients.query(`drop table if exists ${table}`))
  const generated = async (more: Partial<Entry> = {}) => {
    const key = freshKey()
    const entry = entryWith(more)
    assert.equal(await backend.generate(key, entry), undefined)
    return { key, entry, bytes: Buffer.from(key, 'base64url') }
  }
  /** Until this many statements wait for a lock. */
  const waiting = (count = 1) =>
    until(async () => {
      // On this table: others may use the server, too.
      const { rows } = await clients.query(
        `select count(*)::int4 as n from pg_locks join pg_stat_activity using (pid)
         where not granted and query like $1 and pid <> pg_backend_pid()`,
        [`%${table}%`],
      )
      return rows[0].n >= count
    })
  return { table, backend, clients, other, generated, waiting }
}

const change = (more = {}) => ({ value: '{"n":2}', metadata: 'h2', version: freshVersion(), ...more })

suite('two statements on one row', () => {
  test('a set that waited for another set is stale; for its own first try, done', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    for (const own of [false, true]) {
      const { key, entry, bytes } = await generated()
      const next = change()
      await other.query('begin')
      await other.query(`update ${table} set version = $1 where key = $2`, [own ? next.version : 'another1', bytes])
      const set = backend.set(key, next, entry.version)
      await waiting()
      await other.query('commit')
      assert.equal(await set, own ? undefined : 'stale')
      assert.equal((await backend.get(key))?.version, own ? next.version : 'another1')
      assert.equal((await backend.get(key))?.value, entry.value, 'and it wrote nothing')
    }
  })
  test('a set that waited for a clear is gone, and the entry does not come back', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const { key, entry, bytes } = await generated()
    await other.query('begin')
    await other.query(`delete from ${table} where key = $1`, [bytes])
    const set = backend.set(key, change(), entry.version)
    await waiting()
    await other.query('commit')
    assert.equal(await set, 'gone')
    assert.equal(await backend.get(key), undefined)
  })
  test('a set that waited for what was rolled back is done', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const { key, entry, bytes } = await generated()
    await other.query('begin')
    await other.query(`delete from ${table} where key = $1`, [bytes])
    const next = change()
    const set = backend.set(key, next, entry.version)
    await waiting()
    await other.query('rollback')
    assert.equal(await set, undefined)
    assert.deepEqual(await backend.get(key), { ...entry, ...next, owner: undefined })
  })
  test('a set that waited for a touch is done, and keeps the later expiry', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const { key, entry, bytes } = await generated()
    await other.query('begin')
    await other.query(`update ${table} set expires_at = expires_at + 1 where key = $1`, [bytes])
    const set = backend.set(key, change(), entry.version)
    await waiting()
    await other.query('commit')
    assert.equal(await set, undefined)
    assert.equal((await backend.get(key))?.expiresAt, entry.expiresAt + 1)
  })
  test('a generate that waited for another is taken; for its own first try, done; for what was rolled back, done', async (t) => {
    const { table, backend, other, waiting } = await stage(t)
    for (const [version, end, answer] of [
      ['another1', 'commit', 'taken'],
      ['its own1', 'commit', undefined],
      ['another1', 'rollback', undefined],
    ] as const) {
      const key = freshKey()
      await other.query('begin')
      await other.query(`insert into ${table} (key, version, expires_at, metadata) values ($1, $2, 1, 'there')`, [
        Buffer.from(key, 'base64url'),
        version,
      ])
      const generate = backend.generate(key, entryWith({ version: 'its own1' }))
      await waiting()
      await other.query(end)
      assert.equal(await generate, answer, `${version}, ${end}`)
      assert.equal((await backend.get(key))?.metadata, end === 'commit' ? 'there' : 'h')
    }
  })
  test('a clear that waited for a set removes what it left, and on a version is stale', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    for (const versioned of [false, true]) {
      const { key, entry, bytes } = await generated()
      await other.query('begin')
      await other.query(`update ${table} set version = 'another1' where key = $1`, [bytes])
      const clear = backend.clear(key, versioned ? entry.version : undefined)
      await waiting()
      await other.query('commit')
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
      await other.query('begin')
      await other.query(`update ${table} set version = $1 where key = $2`, [there, bytes])
      const clear = backend.clear(key, versioned ? entry.version : undefined, mark)
      await waiting()
      await other.query('commit')
      assert.equal(await clear, answer)
      assert.equal((await backend.get(key))?.version, left)
    }
  })
  test('the clear of an owner removes what others have just written, and waits for them', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const { key, bytes } = await generated({ owner: 'app:anna' })
    await other.query('begin')
    await other.query(`update ${table} set version = 'another1', expires_at = expires_at + 1 where key = $1`, [bytes])
    const clear = backend.byOwner?.clear('app:anna')
    await waiting()
    await other.query('commit')
    assert.equal(await clear, 1)
    assert.equal(await backend.get(key), undefined)
  })
  test('a touch that waited moves forward only', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    const { key, entry, bytes } = await generated()
    await other.query('begin')
    await other.query(`update ${table} set expires_at = expires_at + 5 where key = $1`, [bytes])
    const touch = backend.touch(key, entry.expiresAt + 3)
    await waiting()
    await other.query('commit')
    await touch
    assert.equal((await backend.get(key))?.expiresAt, entry.expiresAt + 5)
  })
  test('a sweep waits for nobody, and spares what is being made to live longer', async (t) => {
    const { table, backend, other, generated } = await stage(t)
    const [one, two] = [await generated({ expiresAt: 1 }), await generated({ expiresAt: 2 })]
    await other.query('begin')
    await other.query(`update ${table} set expires_at = 1000 where key = $1`, [one.bytes])
    assert.equal(await backend.sweep?.(10, 50), 1)
    await other.query('commit')
    assert.equal(await backend.sweep?.(10, 50), 0)
    assert.ok(await backend.get(one.key))
    assert.equal(await backend.get(two.key), undefined)
  })
  test('what the database undoes for a deadlock is sent again', async (t) => {
    const { table, backend, other, generated, waiting } = await stage(t)
    // Each looks for a deadlock once, so long after it began to wait, and who looks first is the victim.
    const impatient = await pool(t, { options: '-c deadlock_timeout=1s' })
    await other.query("set deadlock_timeout = '5s'")
    const owner = 'app:anna'
    let undone = 0
    const client = {
      connect: () => {},
      query: (query: QueryArrayConfig) =>
        impatient.query(query).catch((error) => {
          if (error.code === '40P01') undone++
          throw error
        }),
    }
    // On a machine that stands still for a second it is the other one, and then it is tried again.
    for (let tries = 0; undone === 0 && tries < 10; tries++) {
      const [one, two] = [await generated({ owner }), await generated({ owner })]
      await other.query('begin')
      await other.query(`update ${table} set metadata = 'mine' where key = $1`, [two.bytes])
      const clear = postgresBackend(client, { table }).byOwner?.clear(owner)
      await waiting()
      const won = await other.query(`update ${table} set metadata = 'mine' where key = $1`, [one.bytes]).then(
        () => true,
        (error) => {
          assert.equal(error.code, '40P01')
          return false
        },
      )
      await other.query(won ? 'commit' : 'rollback')
      assert.equal(await clear, 2)
      assert.equal(await backend.get(one.key), undefined)
    }
    assert.ok(undone > 0, 'there was a deadlock, and ours was undone')
  })
})

/** A client that fails so many times with this code, and then answers with nothing. */
const failing = (errorCode: string, times: number) => {
  const calls: unknown[] = []
  const query = async (config: unknown) => {
    calls.push(config)
    if (calls.length <= times) throw Object.assign(new Error('no'), { code: errorCode })
    return { rows: [] }
  }
  return { calls, client: { connect: () => {}, query } }
}

test('a statement that was undone is sent again three times at most, and no other is', async () => {
  for (const [errorCode, times, calls, fails] of [
    ['40P01', 3, 4, false],
    ['40001', 3, 4, false],
    ['40P01', 4, 4, true],
    ['08006', 1, 1, true],
    ['57014', 1, 1, true],
  ] as const) {
    const stub = failing(errorCode, times)
    const get = async () => postgresBackend(stub.client).get(freshKey())
    if (fails) await assert.rejects(get, times > 1 ? code('unavailable') : { code: errorCode })
    else assert.equal(await get(), undefined)
    assert.equal(stub.calls.length, calls, errorCode)
  }
})

suite('the table', () => {
  const migrator = `
    import { postgresBackend } from 'keepsake/postgres'
    import { Client } from 'pg'
    const client = new Client({ connectionString: process.env.URL })
    await client.connect()
    process.stdin.once('data', async () => {
      await postgresBackend(client, { table: process.env.TABLE }).migrate()
      await client.end()
      process.exit(0)
    })
    console.log('ready')
  `
  test('eight processes make it at once, and none of them fails', async (t) => {
    const table = freshTable()
    const clients = await pool(t)
    closing(t, () => clients.query(`drop table if exists ${table}`))
    const env = { ...process.env, URL: await postgresUrl(), TABLE: table }
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
    const { rows } = await clients.query('select 1 from pg_indexes where tablename = $1', [table])
    assert.equal(rows.length, 3, 'with each index once')
  })
  test('it is made in a schema too, and what schema() gives makes the same', async (t) => {
    const clients = await pool(t)
    const place = freshTable()
    await clients.query(`create schema ${place}`)
    closing(t, () => clients.query(`drop schema ${place} cascade`))
    const backend = postgresBackend(clients, { table: `${place}.Sessions` })
    await backend.migrate()
    await backend.migrate()
    assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
    const columns = async (table: string) => {
      const { rows } = await clients.query(
        'select column_name, data_type, is_nullable, collation_name from information_schema.columns where table_schema = $1 and table_name = $2 order by ordinal_position',
        [place, table],
      )
      return rows
    }
    const byHand = postgresBackend(clients, { table: `${place}.by_hand` })
    await clients.query(byHand.schema())
    assert.equal((await columns('Sessions')).length, 6)
    assert.deepEqual(await columns('by_hand'), await columns('Sessions'))
    await byHand.migrate()
  })
  test('a name that is none is refused before anything is asked', () => {
    const { client, calls } = failing('', 0)
    for (const table of [
      ...['', ' ', 'a b', '1a', 'a-b', 'a"; drop table x;--', 'a.b.c', '.a', 'a.', 'a\0', 'a\n', 'ä', 'a'.repeat(49)],
      ...[7 as never, null as never],
    ]) {
      if (table === null) continue
      assert.throws(() => postgresBackend(client, { table }), code('invalid_option'), JSON.stringify(table))
    }
    for (const bad of [{ tabel: 'a' }, { unlogged: true, name: 'a' }]) {
      assert.throws(() => postgresBackend(client, bad as never), code('invalid_option'))
    }
    for (const bad of [undefined, null, {}, 'postgres://', () => {}]) {
      assert.throws(() => postgresBackend(bad as never), code('invalid_option'))
    }
    assert.equal(calls.length, 0)
  })
  test('where it is missing, and where a role may not make or use it, the error says what to do', async (t) => {
    const { clients, table } = await stage(t)
    const none = postgresBackend(clients, { table: freshTable() })
    await assert.rejects(async () => none.get(freshKey()), code('unavailable'))
    await assert.rejects(async () => none.get(freshKey()), /has no table "keepsake_\w+": call migrate\(\)/)
    const role = freshTable()
    await clients.query(`create role ${role} login`)
    closing(t, async () => {
      await clients.query(`drop owned by ${role}`)
      await clients.query(`drop role ${role}`)
    })
    const weak = await pool(t, { options: `-c role=${role}` })
    for (const call of [
      () => postgresBackend(weak, { table }).get(freshKey()),
      () => postgresBackend(weak, { table: freshTable() }).migrate(),
    ]) {
      await assert.rejects(async () => call(), code('unavailable'))
      await assert.rejects(async () => call(), /does not let this role make or use/)
    }
    await clients.query(`grant select, insert, update, delete on ${table} to ${role}`)
    const granted = postgresBackend(weak, { table })
    await granted.migrate()
    assert.equal(await granted.generate(freshKey(), entryWith()), undefined, 'a role needs no more than these')
  })
  test('unlogged, it is UNLOGGED', async (t) => {
    for (const unlogged of [true, false]) {
      const { clients, table } = await stage(t, { unlogged })
      const { rows } = await clients.query('select relpersistence from pg_class where relname = $1', [table])
      assert.equal(rows[0].relpersistence, unlogged ? 'u' : 'p')
    }
  })
  test('the sweep and the look for an owner go by their indexes', async (t) => {
    const { clients, table, generated } = await stage(t)
    await clients.query(
      `insert into ${table} (key, version, expires_at, metadata, owner)
       select sha256(n::text::bytea), 'v', n, 'h', case when n % 10 = 0 then 'app:' || n end from generate_series(1, 20000) n`,
    )
    await clients.query(`analyze ${table}`)
    const asked: { text: string; values: unknown[] }[] = []
    const query = (config: { text: string; values: unknown[] }) => {
      asked.push(config)
      return clients.query(config) as never
    }
    const backend = postgresBackend({ connect: () => {}, query } as never, { table })
    await backend.sweep?.(5, 50)
    await backend.byOwner?.list('app:100')
    await backend.byOwner?.clear('app:100')
    await backend.get((await generated()).key)
    await backend.scan?.('A'.repeat(43), 50)
    // This client tells no state of transactions, so that what is prepared for the first time is asked about.
    const ours = asked.filter(({ text }) => text.includes(table))
    const plans = await Promise.all(
      ours.map(async ({ text, values }) => {
        const { rows } = await clients.query(`explain ${text}`, values)
        return rows.map((row) => row['QUERY PLAN']).join('\n')
      }),
    )
    const indexes = [
      `${table}_expires_at_idx`,
      `${table}_owner_idx`,
      `${table}_owner_idx`,
      `${table}_pkey`,
      `${table}_pkey`,
    ]
    for (const [i, plan] of plans.entries()) {
      assert.ok(plan.includes(`using ${indexes[i]}`) || plan.includes(`on ${indexes[i]}`), `${indexes[i]} in ${plan}`)
      assert.doesNotMatch(plan, /Seq Scan/)
    }
  })
})

suite('a live client', () => {
  test('each statement is prepared once on a connection, whatever the number of calls', async (t) => {
    const { table } = await stage(t)
    // One that a pool lent is used as it is: beside one alone, sessions would open another.
    const one = await (await pool(t)).connect()
    closing(t, () => one.release())
    const sql = postgres(await postgresUrl(), { max: 1 })
    closing(t, () => sql.end())
    for (const [client, count] of [
      [one, async () => (await one.query('select name from pg_prepared_statements')).rows.length],
      [sql, async () => (await sql.unsafe('select name from pg_prepared_statements')).length],
    ] as const) {
      const backend = postgresBackend(client, { table })
      const round = async (i: number) => {
        const key = freshKey()
        const entry = entryWith({ owner: 'app:anna' })
        await backend.generate(key, entry)
        await backend.get(key)
        await backend.set(key, change(i % 2 ? { expiresAt: Date.now() + HOUR } : {}), entry.version)
        await backend.touch(key, Date.now() + 2 * HOUR)
        await backend.sweep?.(i, i + 1)
        await backend.scan?.(i % 2 ? key : undefined, 5)
        await backend.byOwner?.list('app:anna')
        await backend.byOwner?.clear('app:anna', i % 2 ? key : undefined)
        await backend.clear(key, entry.version)
        await backend.clear(key)
      }
      for (let i = 0; i < 2; i++) await round(i)
      const prepared = await count()
      // One for each operation, and with postgres.js another where a value may be null, and its own.
      assert.ok(prepared >= 10 && prepared <= 13, `${prepared} statements`)
      for (let i = 2; i < 20; i++) await round(i)
      await postgresBackend(client, { table }).get(freshKey())
      assert.equal(await count(), prepared)
    }
  })
  test('with prepare: false, none is', async (t) => {
    const { table } = await stage(t)
    // One that a pool lent is used as it is: beside one alone, sessions would open another.
    const one = await (await pool(t)).connect()
    closing(t, () => one.release())
    const backend = postgresBackend(one, { table, prepare: false })
    assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
    assert.deepEqual((await one.query('select name from pg_prepared_statements')).rows, [])
  })
  test('it may parse numbers and name columns as it likes', async (t) => {
    const { table } = await stage(t)
    const { types } = await import('pg')
    const getTypeParser = ((oid: number, format: 'text') =>
      oid === types.builtins.INT8 ? BigInt : types.getTypeParser(oid, format)) as never
    const odd = await pool(t, { types: { getTypeParser } })
    const sql = postgres(await postgresUrl(), { transform: postgres.toPascal })
    closing(t, () => sql.end())
    for (const client of [odd, sql]) {
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
  test('two nodes that sweep at once share the work, and take nothing that lives', async (t) => {
    const { table, backend, clients, generated } = await stage(t)
    await clients.query(
      `insert into ${table} (key, version, expires_at, metadata) select sha256(n::text::bytea), 'v', n, 'h' from generate_series(1, 400) n`,
    )
    const { key } = await generated({ expiresAt: 401 })
    const other = postgresBackend(await pool(t), { table })
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
    const { other, table } = await stage(t)
    const application = freshTable()
    const quiet = await pool(t, { application_name: application })
    const idle = postgresBackend(quiet, { table })
    await idle.get(freshKey())
    await other.query('select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1', [
      application,
    ])
    await until(async () => quiet.totalCount === 0)
    assert.equal(await idle.get(freshKey()), undefined, 'and the pool goes on')
  })
})

suite('a server that crashes', () => {
  test('synchronousCommit: false may lose the last saves, but no end; without it nothing is lost', {
    skip: noPostgres(),
  }, async (t) => {
    // So that nothing but a commit writes to the disk while this runs.
    const server = await postgresServer({ wal_writer_delay: '10s', autovacuum: 'off' })
    closing(t, () => server.stop())
    const clients = await pool(t, {}, server.url)
    const slow = postgresBackend(clients)
    const fast = postgresBackend(clients, { synchronousCommit: false })
    await slow.migrate()
    const crash = async () => {
      await server.restart()
      await until(async () =>
        clients.query('select 1').then(
          () => true,
          () => false,
        ),
      )
    }
    const saved = async (backend: typeof slow) => {
      const key = freshKey()
      await backend.generate(key, entryWith())
      return key
    }
    const kept = await saved(slow)
    await crash()
    assert.ok(await slow.get(kept), 'what was saved is there')

    // It may lose them: somebody else's write to the disk, or ten seconds of time, would save them.
    for (let tries = 0; ; tries++) {
      assert.ok(tries < 20, 'its end was awaited')
      const lost = await saved(fast)
      await fast.set(kept, change(), (await fast.get(kept))?.version ?? '')
      await fast.touch(kept, Date.now() + 9 * HOUR)
      const before = await slow.get(kept)
      await crash()
      if ((await slow.get(lost)) !== undefined) continue
      assert.notDeepEqual(await slow.get(kept), before)
      break
    }

    const [one, two, three] = [await saved(slow), await saved(slow), await saved(slow)]
    await slow.generate(freshKey(), entryWith({ owner: 'app:anna' }))
    const version = (await slow.get(two))?.version as string
    for (const end of [() => fast.clear(one), () => fast.clear(two, version), () => fast.byOwner?.clear('app:anna')]) {
      await end()
      await crash()
    }
    assert.equal(await slow.get(one), undefined, 'what ended stays ended')
    assert.equal(await slow.get(two), undefined)
    assert.deepEqual(await slow.byOwner?.list('app:anna'), [])
    assert.ok(await slow.get(three))
  })
})

suite('a backend by URL', { concurrency: true }, () => {
  const opened = async (t: TestContext, url: string, table = freshTable()) => {
    const backend = await connectPostgres(url, { table })
    closing(t, () => backend.close?.())
    return backend
  }
  test('it connects at its first use, makes its table once, and ends its connections with close', async (t) => {
    const url = new URL(await postgresUrl())
    const application = freshTable()
    url.searchParams.set('application_name', application)
    const clients = await pool(t)
    const connections = async () => {
      const { rows } = await clients.query('select pid from pg_stat_activity where application_name = $1', [
        application,
      ])
      return rows.length
    }
    const table = freshTable()
    closing(t, () => clients.query(`drop table if exists ${table}`))
    const backend = await opened(t, url.href, table)
    assert.equal(await connections(), 0)
    // Any call may be the first.
    const calls = [
      ...Array.from({ length: 15 }, () => () => backend.get(freshKey())),
      ...[() => backend.scan?.(undefined, 5), () => backend.sweep?.(1, 5), () => backend.clear(freshKey())],
      ...[() => backend.byOwner?.list('app:anna'), () => backend.byOwner?.clear('app:anna')],
      ...[() => backend.touch(freshKey(), 1), () => backend.set(freshKey(), change(), freshVersion())],
    ]
    await Promise.all(calls.map((call) => retryIfStalled<unknown>(call)))
    assert.ok((await connections()) > 0)
    assert.equal(await retryIfStalled(() => backend.generate(freshKey(), entryWith())), undefined)
    await backend.close?.()
    await backend.close?.()
    await until(async () => (await connections()) === 0)
    await assert.rejects(async () => backend.get(freshKey()))
  })
  test('a first use that fails is no last one; nor is any crash after it', { skip: noPostgres() }, async (t) => {
    const server = await postgresServer()
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
  test('where its role may not make tables, it takes the one that is there', async (t) => {
    const { clients, table } = await stage(t)
    const role = freshTable()
    await clients.query(`create role ${role} login`)
    closing(t, async () => {
      await clients.query(`drop owned by ${role}`)
      await clients.query(`drop role ${role}`)
    })
    const url = new URL(await postgresUrl())
    url.searchParams.set('options', `-c role=${role}`)
    await retryIfStalled(() =>
      assert.rejects(async () => (await opened(t, url.href, freshTable())).get(freshKey()), code('unavailable')),
    )
    await clients.query(`grant select, insert, update, delete on ${table} to ${role}`)
    const granted = await opened(t, url.href, table)
    assert.equal(await retryIfStalled(() => granted.get(freshKey())), undefined)
  })
  test('a statement that a lock holds up fails after some seconds, and the pool goes on', async (t) => {
    const { table, other } = await stage(t)
    const backend = await opened(t, await postgresUrl(), table)
    await retryIfStalled(() => backend.get(freshKey()))
    await other.query('begin')
    await other.query(`lock table ${table}`)
    await retryIfStalled(() => assert.rejects(async () => backend.get(freshKey()), { code: '57014' }))
    await other.query('rollback')
    assert.equal(await retryIfStalled(() => backend.get(freshKey())), undefined)
  })
  test('a connection that falls silent costs the call that it was asked, not the pool', {
    skip: noPostgres(),
  }, async (t) => {
    const server = await postgresServer()
    closing(t, () => server.stop())
    const backend = await opened(t, server.url)
    await retryIfStalled(() => backend.get(freshKey()))
    const clients = await pool(t, {}, server.url)
    // The server may say farewell before it knows that they are gone.
    clients.on('error', () => {})
    const { rows } = await clients.query("select pid from pg_stat_activity where application_name = 'keepsake'")
    assert.equal(rows.length, 1)
    process.kill(rows[0].pid, 'SIGSTOP')
    closing(t, () => process.kill(rows[0].pid, 'SIGCONT'))
    await assert.rejects(async () => backend.get(freshKey()), /timeout/)
    assert.equal(await retryIfStalled(() => backend.get(freshKey())), undefined, 'by another connection')
  })
  test('no error tells the password', async (t) => {
    const secret = 'hunter2secret'
    const { port, host } = new URL(await postgresUrl())
    const errors: unknown[] = []
    for (const url of [
      `postgres://app:${secret}@127.0.0.1:1/postgres`,
      `postgres://app:${secret}@${host}/nowhere`,
      `postgres://nobody:${secret}@${host}/postgres`,
      `postgres://app:${secret}@127.0.0.1:notaport/postgres`,
      `postgres://app:${secret}@[::1/postgres`,
      `postgres://app:${secret}@127.0.0.1:${port}/postgres?sslmode=verify-full`,
      `postgresql://app:${secret}@no.such.host.invalid/postgres`,
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

test('where pg is not installed, the error names it, in one line', async (t) => {
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      if (specifier === 'pg' && context.parentURL?.includes('/src/')) {
        throw Object.assign(new Error("Cannot find package 'pg'"), { code: 'ERR_MODULE_NOT_FOUND' })
      }
      return next(specifier, context)
    },
  })
  closing(t, () => hooks.deregister())
  const fresh = await import(`../../src/backends/sql/postgres.ts?${freshVersion()}`)
  await assert.rejects(fresh.connectPostgres('postgres://app:x@127.0.0.1/a'), (error) => {
    assert.match((error as Error).message, /^The backend of this URL needs the package pg: npm install pg$/)
    return code('unknown_backend')(error)
  })
})
