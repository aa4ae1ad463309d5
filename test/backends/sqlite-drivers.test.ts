// The SQLite backend in a database of the application: it keeps the contract with every driver, and leaves the database as it is.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { suite, type TestContext, test } from 'node:test'
import Better from 'better-sqlite3'
import type { Entry } from 'keepsake'
import { sqliteBackend } from 'keepsake/sqlite'
import { backendCases } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { entryWith, freshKey, freshVersion } from '../support/entries.ts'
import { folder } from '../support/folder.ts'
import { drivers, type Live } from '../support/sqlite-drivers.ts'

const databaseAt = (t: TestContext, open: (path: string) => Live, path = join(folder(t), 'app.db')): Live => {
  const database = open(path)
  t.after(() => {
    database.close()
  })
  return database
}

const emptyDatabase = (t: TestContext): string => {
  const path = join(folder(t), 'empty.db')
  new DatabaseSync(path).close()
  return path
}

/** Sets the pragmas that the documentation asks for. */
const withPragmas = (database: Live): Live => {
  database.exec('pragma journal_mode = wal; pragma busy_timeout = 0')
  return database
}

/** The value of a pragma. Drivers differ in the shape of the row. */
const pragma = (database: Live, name: string): string =>
  String(Object.values(database.prepare(`pragma ${name}`).get() as object)[0])

for (const [name, open] of Object.entries(drivers)) {
  suite(`${name} keeps the contract`, () => {
    for (const one of backendCases) {
      test(one.name, async (t) => {
        const path = join(folder(t), 'app.db')
        const handle = () => sqliteBackend(withPragmas(databaseAt(t, open, path)))
        const reason = one.exempt(handle())
        if (reason) return t.diagnostic(`skipped: ${reason}`)
        await one.run(handle)
      })
    }
  })

  suite(`a database of ${name}`, () => {
    test('stays as the application left it: open, with its own pragmas, mode and tables', async (t) => {
      const path = join(folder(t), 'app.db')
      const database = databaseAt(t, open, path)
      chmodSync(path, 0o644)
      database.exec("create table notes (text); insert into notes values ('mine')")
      database.exec('pragma synchronous = extra; pragma busy_timeout = 1234; pragma wal_autocheckpoint = 77')
      const pragmas = ['journal_mode', 'synchronous', 'busy_timeout', 'wal_autocheckpoint']
      const before = pragmas.map((name) => pragma(database, name))
      const backend = sqliteBackend(database)
      await backend.generate(freshKey(), entryWith({ owner: 'anna' }))
      await backend.close?.()
      const after = pragmas.map((name) => pragma(database, name))
      assert.deepEqual(after, before)
      assert.equal((statSync(path).mode & 0o777).toString(8), '644')
      assert.deepEqual(Object.values(database.prepare('select text from notes').get() as object)[0], 'mine')
      assert.equal(backend.keepSecret, undefined, 'no secret is stored in a database that others may read')
    })

    test('lists and clears more entries than a driver fetches at once', async (t) => {
      const backend = sqliteBackend(withPragmas(databaseAt(t, open)))
      const keys = Array.from({ length: 250 }, freshKey)
      for (const key of keys) await backend.generate(key, entryWith({ owner: 'anna' }))
      const listed = (await backend.byOwner?.list('anna'))?.map(({ key }) => key)
      assert.deepEqual(listed?.sort(), keys.sort())
      assert.equal(await backend.byOwner?.clear('anna', keys[7]), 249)
    })

    test('while another connection writes, writes wait without blocking this process', async (t) => {
      const path = join(folder(t), 'app.db')
      const database = withPragmas(databaseAt(t, open, path))
      database.exec('pragma busy_timeout = 0')
      const backend = sqliteBackend(database)
      // By the same driver, because two copies of SQLite in one process do not respect each other's locks.
      const other = databaseAt(t, open, path)
      const reader = sqliteBackend(databaseAt(t, open, path))
      for (let round = 0; round < 3; round++) {
        const [key, old, entry] = [freshKey(), freshKey(), entryWith({ owner: undefined })]
        await backend.generate(old, entry)
        const change = { value: '{"n":2}', metadata: '', version: freshVersion() }
        other.exec('begin immediate')
        const writes = [
          backend.generate(key, entry),
          backend.set(old, change, entry.version),
          backend.touch(old, entry.expiresAt + 1),
          backend.byOwner?.clear('anna'),
          backend.sweep?.(0, 1),
        ]
        for (const write of writes) assert.ok(write instanceof Promise, 'it is a promise, because it waits')
        assert.equal(backend.get(key), undefined, 'a read does not wait')
        other.exec('commit')
        assert.deepEqual(await Promise.all(writes), [undefined, undefined, undefined, 0, 0])
        assert.deepEqual(await reader.get(key), entry, 'other connections see the saved entry')
        assert.deepEqual(await reader.get(old), { ...entry, ...change, expiresAt: entry.expiresAt + 1 })
      }
    })

    test('no session is read or saved inside a transaction of the application', async (t) => {
      const database = withPragmas(databaseAt(t, open))
      const backend = sqliteBackend(database)
      const [key, entry] = [freshKey(), entryWith({ owner: undefined })]
      database.exec('begin')
      const waiting = [backend.generate(key, entry), backend.get(freshKey())]
      for (const one of waiting) assert.ok(one instanceof Promise, 'it waits for the end of the transaction')
      database.exec('rollback')
      assert.deepEqual(await Promise.all(waiting), [undefined, undefined])
      assert.deepEqual(await backend.get(key), entry, 'the rollback of a transaction undoes no session')
    })

    test('on a full disk nothing is changed, and the error names the remedy', async (t) => {
      const database = withPragmas(databaseAt(t, open))
      const backend = sqliteBackend(database)
      const [key, entry] = [freshKey(), entryWith({ owner: 'anna', value: 'x'.repeat(2_000) })]
      await backend.generate(key, entry)
      // SQLite gives the same error for a full disk and for a database that has reached its limit of pages.
      database.exec(`pragma max_page_count = ${pragma(database, 'page_count')}`)
      const full = { code: 'unavailable', message: /disk is full.*Nothing was changed. Free space.*end_failed/ }
      await assert.rejects(async () => {
        for (;;) await backend.generate(freshKey(), entry)
      }, full)
      const change = { value: 'x'.repeat(20_000), metadata: '', version: freshVersion() }
      await assert.rejects(async () => backend.set(key, change, entry.version), full)
      assert.deepEqual(await backend.get(key), entry)
    })

    test('throws while its file is gone, and works again when the file is back', async (t) => {
      const path = join(folder(t), 'app.db')
      const backend = sqliteBackend(withPragmas(databaseAt(t, open, path)))
      const [key, entry] = [freshKey(), entryWith({ owner: undefined })]
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

    test('a lock or a transaction that never ends becomes an error after two seconds', async (t) => {
      const path = join(folder(t), 'app.db')
      const [locked, busy] = [withPragmas(databaseAt(t, open, path)), withPragmas(databaseAt(t, open))]
      const [writer, other] = [sqliteBackend(locked), sqliteBackend(busy)]
      const [key, entry] = [freshKey(), entryWith({ owner: undefined })]
      await writer.generate(key, entry)
      const holder = databaseAt(t, open, path)
      holder.exec('begin immediate')
      busy.exec('begin')
      await Promise.all([
        assert.rejects(async () => writer.generate(freshKey(), entryWith()), /database is locked/),
        assert.rejects(async () => other.get(freshKey()), { code: 'unavailable', message: /await nothing/ }),
      ])
      holder.exec('rollback')
      busy.exec('rollback')
      // libsql leaves the failed statement in progress. A later write by another statement must be committed all the same.
      await writer.sweep?.(0, 1)
      await writer.touch(key, entry.expiresAt + 1)
      const reader = sqliteBackend(withPragmas(databaseAt(t, open, path)))
      assert.equal((await reader.get(key))?.expiresAt, entry.expiresAt + 1, 'other connections see the next write')
    })

    test('throws a KeepsakeError with the remedy if it is closed or in a transaction', (t) => {
      const database = open(join(folder(t), 'app.db'))
      database.exec('begin')
      assert.throws(() => sqliteBackend(database), { code: 'unavailable', message: /await nothing/ })
      database.exec('rollback')
      database.close()
      assert.throws(() => sqliteBackend(database), { code: 'unavailable', message: /Pass one that is open/ })
    })
  })
}

test('every driver reads and changes the entries of every other, each in its own process', async (t) => {
  const path = join(folder(t), 'app.db')
  const owner = 'app:Zoë 🦊'
  const kept = new Map<string, Entry>()
  const names = ['a path', ...Object.keys(drivers)]
  // In both directions, so that each driver follows each other one.
  for (const name of [...names, ...names.reverse()]) {
    const [key, version] = [freshKey(), freshVersion()]
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
    // JSON drops undefined properties.
    const expected = [...kept].map(([key, entry]) => [key, [entry, entry]]).sort()
    assert.deepEqual(found, JSON.parse(JSON.stringify(expected)), `${name} finds the entries of the others`)
    for (const [key, entry] of kept) {
      kept.set(key, { ...entry, value: JSON.stringify(name), metadata: '', version, expiresAt: entry.expiresAt + 1 })
    }
    kept.set(key, { value: undefined, metadata: '1.abc', version: `${version.slice(0, -1)}-`, expiresAt: 1e14, owner })
  }
})

test('the tables are created once the lock is free, although the database itself does not wait', async (t) => {
  const database = databaseAt(t, (path) => new DatabaseSync(path))
  let tries = 0
  const lockedTwice = {
    prepare: (sql: string) => database.prepare(sql),
    exec(sql: string) {
      tries++
      if (tries < 3) throw Object.assign(new Error('database is locked'), { code: 'SQLITE_BUSY' })
      return database.exec(sql)
    },
  }
  const backend = sqliteBackend(lockedTwice)
  assert.equal(tries, 1, 'it does not block the process')
  assert.equal(await backend.generate(freshKey(), entryWith()), undefined)
  assert.equal(tries, 3)
})

test('an argument that is no database, and the option durability for an open database, throw', (t) => {
  for (const none of [undefined, null, 7, {}, new Map()]) {
    assert.throws(() => sqliteBackend(none as never), code('invalid_option'))
  }
  const database = databaseAt(t, (path) => new DatabaseSync(path))
  assert.throws(() => sqliteBackend(database, { durability: 'power' }), code('invalid_option'))
  const readOnly = new Better(emptyDatabase(t), { readonly: true })
  t.after(() => readOnly.close())
  assert.throws(() => sqliteBackend(readOnly), { code: 'unavailable', message: /readonly.*written to/ })
})
