// The SQLite backend in a live database keeps the contract, whichever driver opened it, and leaves it the application's.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { suite, type TestContext, test } from 'node:test'
import Better from 'better-sqlite3'
import { type Entry, KeepsakeError } from 'keepsake'
import { sqliteBackend } from 'keepsake/sqlite'
import { backendCases } from 'keepsake/testing'
import { freshKey } from '../support/entries.ts'
import { folder } from '../support/folder.ts'
import { drivers, type Live } from '../support/sqlite-drivers.ts'

const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: '1.abc',
  expiresAt: Date.now() + 60_000,
  version: randomBytes(6).toString('base64url'),
  owner: undefined,
  ...more,
})

const databaseAt = (t: TestContext, open: (path: string) => Live, path = join(folder(t), 'app.db')): Live => {
  const database = open(path)
  t.after(() => {
    database.close()
  })
  return database
}

/** As the documentation asks for it. */
const readied = (database: Live): Live => {
  database.exec('pragma journal_mode = wal; pragma busy_timeout = 0')
  return database
}

/** What a pragma says, whatever the shape of the row. */
const pragma = (database: Live, name: string): string =>
  String(Object.values(database.prepare(`pragma ${name}`).get() as object)[0])

for (const [name, open] of Object.entries(drivers)) {
  suite(`${name} keeps the contract`, () => {
    for (const one of backendCases) {
      test(one.name, async (t) => {
        const path = join(folder(t), 'app.db')
        const handle = () => sqliteBackend(readied(databaseAt(t, open, path)))
        const type = one.exempt(handle())
        if (type) return t.diagnostic(`nothing to ask: ${type}`)
        await one.run(handle)
      })
    }
  })

  suite(`a database of ${name}`, () => {
    test('stays with the application: open, its pragmas and its mode as they were, its tables beside ours', async (t) => {
      const path = join(folder(t), 'app.db')
      const database = databaseAt(t, open, path)
      chmodSync(path, 0o644)
      database.exec("create table notes (text); insert into notes values ('mine')")
      database.exec('pragma synchronous = extra; pragma busy_timeout = 1234; pragma wal_autocheckpoint = 77')
      const asked = ['journal_mode', 'synchronous', 'busy_timeout', 'wal_autocheckpoint']
      const before = asked.map((name) => pragma(database, name))
      const backend = sqliteBackend(database)
      await backend.generate(freshKey(), entryWith({ owner: 'anna' }))
      await backend.close?.()
      const after = asked.map((name) => pragma(database, name))
      assert.deepEqual(after, before)
      assert.equal((statSync(path).mode & 0o777).toString(8), '644')
      assert.deepEqual(Object.values(database.prepare('select text from notes').get() as object)[0], 'mine')
      assert.equal(backend.keepSecret, undefined, 'a secret is not kept where others may read it')
    })

    test('lists and clears more than a driver fetches at a time', async (t) => {
      const backend = sqliteBackend(readied(databaseAt(t, open)))
      const keys = Array.from({ length: 250 }, freshKey)
      for (const key of keys) await backend.generate(key, entryWith({ owner: 'anna' }))
      const listed = (await backend.byOwner?.list('anna'))?.map(({ key }) => key)
      assert.deepEqual(listed?.sort(), keys.sort())
      assert.equal(await backend.byOwner?.clear('anna', keys[7]), 249)
    })

    test('while another writes, writes wait without holding up this process, and are then done', async (t) => {
      const path = join(folder(t), 'app.db')
      const database = readied(databaseAt(t, open, path))
      database.exec('pragma busy_timeout = 0')
      const backend = sqliteBackend(database)
      // By the same driver: the locks of two copies of SQLite do not hold within one process.
      const other = databaseAt(t, open, path)
      const reader = sqliteBackend(databaseAt(t, open, path))
      for (let round = 0; round < 3; round++) {
        const [key, old, entry] = [freshKey(), freshKey(), entryWith()]
        await backend.generate(old, entry)
        const change = { value: '{"n":2}', metadata: '', version: freshKey().slice(0, 8) }
        other.exec('begin immediate')
        const writes = [
          backend.generate(key, entry),
          backend.set(old, change, entry.version),
          backend.touch(old, entry.expiresAt + 1),
          backend.byOwner?.clear('anna'),
          backend.sweep?.(0, 1),
        ]
        for (const write of writes) assert.ok(write instanceof Promise, 'it is a promise, because it has to wait')
        assert.equal(backend.get(key), undefined, 'reading waits for nobody')
        other.exec('commit')
        assert.deepEqual(await Promise.all(writes), [undefined, undefined, undefined, 0, 0])
        assert.deepEqual(await reader.get(key), entry, 'what was said to be saved, is, for others too')
        assert.deepEqual(await reader.get(old), { ...entry, ...change, expiresAt: entry.expiresAt + 1 })
      }
    })

    test('nothing is saved into a transaction of the application, and nothing is read in one', async (t) => {
      const database = readied(databaseAt(t, open))
      const backend = sqliteBackend(database)
      const [key, entry] = [freshKey(), entryWith()]
      database.exec('begin')
      const waiting = [backend.generate(key, entry), backend.get(freshKey())]
      for (const one of waiting) assert.ok(one instanceof Promise, 'it waits for the end of the transaction')
      database.exec('rollback')
      assert.deepEqual(await Promise.all(waiting), [undefined, undefined])
      assert.deepEqual(await backend.get(key), entry, 'a transaction that is taken back takes back no session')
    })

    test('on a full disk nothing is changed, and the error says what frees it', async (t) => {
      const database = readied(databaseAt(t, open))
      const backend = sqliteBackend(database)
      const [key, entry] = [freshKey(), entryWith({ owner: 'anna', value: 'x'.repeat(2_000) })]
      await backend.generate(key, entry)
      // What SQLite says when a database may not grow is what it says when its disk is full.
      database.exec(`pragma max_page_count = ${pragma(database, 'page_count')}`)
      const full = { code: 'unavailable', message: /disk is full.*Nothing was changed. Free space.*end_failed/ }
      await assert.rejects(async () => {
        for (;;) await backend.generate(freshKey(), entry)
      }, full)
      const change = { value: 'x'.repeat(20_000), metadata: '', version: freshKey().slice(0, 8) }
      await assert.rejects(async () => backend.set(key, change, entry.version), full)
      assert.deepEqual(await backend.get(key), entry)
    })

    test('whose file has gone is not written to, and used again when the file is back', async (t) => {
      const path = join(folder(t), 'app.db')
      const backend = sqliteBackend(readied(databaseAt(t, open, path)))
      const [key, entry] = [freshKey(), entryWith()]
      await backend.generate(key, entry)
      renameSync(path, `${path}.away`)
      for (const act of [() => backend.get(key), () => backend.clear(key)]) {
        await assert.rejects(async () => act(), {
          code: 'unavailable',
          message: /deleted or replaced.*Put the file back/,
        })
      }
      renameSync(`${path}.away`, path)
      assert.deepEqual(await backend.get(key), entry)
    })

    test('a lock and a transaction that never end are errors in the end, not hangs', async (t) => {
      const path = join(folder(t), 'app.db')
      const [locked, left] = [readied(databaseAt(t, open, path)), readied(databaseAt(t, open))]
      const [writer, other] = [sqliteBackend(locked), sqliteBackend(left)]
      const holder = databaseAt(t, open, path)
      holder.exec('begin immediate')
      left.exec('begin')
      await Promise.all([
        assert.rejects(async () => writer.generate(freshKey(), entryWith()), /database is locked/),
        assert.rejects(async () => other.get(freshKey()), { code: 'unavailable', message: /await nothing/ }),
      ])
      holder.exec('rollback')
      left.exec('rollback')
    })

    test('that is closed, or in a transaction, is a KeepsakeError that says what to do', (t) => {
      const database = open(join(folder(t), 'app.db'))
      database.exec('begin')
      assert.throws(() => sqliteBackend(database), { code: 'unavailable', message: /await nothing/ })
      database.exec('rollback')
      database.close()
      assert.throws(() => sqliteBackend(database), { code: 'unavailable', message: /Give one that is open/ })
    })
  })
}

test('what one driver writes, the others read and change, each in a process of its own', async (t) => {
  const path = join(folder(t), 'app.db')
  const owner = 'app:Zoë 🦊'
  const kept = new Map<string, Entry>()
  const names = ['a path', ...Object.keys(drivers)]
  // And back, so that each comes after each.
  for (const name of [...names, ...names.reverse()]) {
    const [key, version] = [freshKey(), freshKey().slice(0, 8)]
    const run = spawnSync(process.execPath, ['test/support/sqlite-process.ts', name, path, owner, key, version], {
      encoding: 'utf8',
    })
    assert.equal(run.stderr, '', name)
    const lines = run.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    const answers = lines.pop()
    assert.deepEqual(answers, [...[...kept].flatMap(() => ['done', 'done']), 'done', 'taken'], name)
    const found = lines.map(([{ key, ...listed }, got]) => [key, [listed, got]]).sort()
    // As JSON, which leaves out what is undefined.
    const expected = [...kept].map(([key, entry]) => [key, [entry, entry]]).sort()
    assert.deepEqual(found, JSON.parse(JSON.stringify(expected)), `${name} finds what the others left`)
    for (const [key, entry] of kept) {
      kept.set(key, { ...entry, value: JSON.stringify(name), metadata: '', version, expiresAt: entry.expiresAt + 1 })
    }
    kept.set(key, { value: undefined, metadata: '1.abc', version: `${version.slice(0, -1)}-`, expiresAt: 1e14, owner })
  }
})

test('the tables are made once other processes let it, though the database itself has no patience', async (t) => {
  const database = databaseAt(t, (path) => new DatabaseSync(path))
  let tries = 0
  const shy = {
    prepare: (sql: string) => database.prepare(sql),
    exec(sql: string) {
      tries++
      if (tries < 3) throw Object.assign(new Error('database is locked'), { code: 'SQLITE_BUSY' })
      return database.exec(sql)
    },
  }
  const backend = sqliteBackend(shy)
  assert.equal(tries, 1, 'it does not hold up the process for it')
  assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
  assert.equal(tries, 3)
})

test('what is no database, and an option that a live one cannot have, are errors', (t) => {
  const bad = (act: () => unknown) =>
    assert.throws(act, (error) => error instanceof KeepsakeError && error.code === 'invalid_option')
  for (const none of [undefined, null, 7, {}, new Map()]) bad(() => sqliteBackend(none as never))
  const database = databaseAt(t, (path) => new DatabaseSync(path))
  bad(() => sqliteBackend(database, { durability: 'power' }))
  const readOnly = new Better(databasePath(t), { readonly: true })
  t.after(() => readOnly.close())
  assert.throws(() => sqliteBackend(readOnly), { code: 'unavailable', message: /readonly.*written to/ })
})

const databasePath = (t: TestContext): string => {
  const path = join(folder(t), 'empty.db')
  new DatabaseSync(path).close()
  return path
}
