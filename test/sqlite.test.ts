// The SQLite backend: its file is for its owner alone, a lock of another process holds up nobody, and faults say what to do.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { suite, type TestContext, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { type Backend, connect, Fault } from 'keepsake'
import { sqliteBackend } from 'keepsake/sqlite'
import { folder } from './support/folder.ts'

const KEY = 'A'.repeat(43)
const entry = { value: '{}', head: 'h', version: 'version1', expiresAt: Date.now() + 1e6 }
const code = (expected: string) => (error: unknown) => error instanceof Fault && error.code === expected

const opened = (t: TestContext, path: string): Backend => {
  const backend = sqliteBackend(path)
  t.after(() => backend.close?.())
  return backend
}

suite('the backend in SQLite', () => {
  test('its files are for their owner alone, whatever the umask, and whatever the file had', async (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const place = folder(t)
    const path = join(place, 'sessions.db')
    writeFileSync(path, '', { mode: 0o666 })
    await opened(t, path).generate(KEY, entry)
    const modes = readdirSync(place).map((name) => (statSync(join(place, name)).mode & 0o777).toString(8))
    assert.deepEqual(modes, ['600', '600', '600'])
  })
  test('a new file that two open at once is opened by both: who comes second waits', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const lock = new Int32Array(new SharedArrayBuffer(4))
    // In a thread of its own, because to open holds up this one.
    const first = new Worker(
      `const { DatabaseSync } = require('node:sqlite')
      const { workerData: { path, lock } } = require('node:worker_threads')
      const database = new DatabaseSync(path)
      database.exec('begin immediate; create table first (a)')
      Atomics.store(lock, 0, 1)
      Atomics.notify(lock, 0)
      Atomics.wait(lock, 0, 1, 300)
      database.exec('commit')
      database.close()`,
      { eval: true, workerData: { path, lock } },
    )
    const ended = once(first, 'exit')
    Atomics.wait(lock, 0, 0)
    assert.equal(await opened(t, path).generate(KEY, entry), undefined)
    await ended
  })
  test('while another process writes, a write waits without holding up this one, and is then done', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const other = new DatabaseSync(path)
    t.after(() => other.close())
    other.exec('begin immediate')
    const write = backend.generate(KEY, entry)
    assert.ok(write instanceof Promise, 'it is a promise, because it has to wait')
    assert.equal(backend.get(KEY), undefined, 'reading waits for nobody')
    other.exec('commit')
    assert.equal(await write, undefined)
    assert.ok(await backend.get(KEY))
  })
  test('a lock that is never given back is an error in the end, not a hang', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const other = new DatabaseSync(path)
    t.after(() => other.close())
    other.exec('begin immediate')
    await assert.rejects(async () => backend.generate(KEY, entry), /database is locked/)
    other.exec('rollback')
  })
  test('a file that is no database, a folder, and no path are Faults that say what to do; the file stays as it was', async (t) => {
    const place = folder(t)
    const path = join(place, 'notes.txt')
    const text = 'not a database, but something that somebody wrote\n'.repeat(40)
    writeFileSync(path, text)
    for (const bad of [path, place, join(place, 'no/such/folder.db')]) {
      assert.throws(() => sqliteBackend(bad), code('unavailable'))
      assert.throws(() => sqliteBackend(bad), /cannot be used: .*Give a path/)
    }
    assert.equal(readFileSync(path, 'utf8'), text)
    await assert.rejects(connect('sqlite:'), code('bad_option'))
    assert.throws(() => sqliteBackend('x.db', { durability: 'moon' as 'power' }), code('bad_option'))
  })
  test('durability: power waits for the disk at each write, process does not', (t) => {
    const said: string[] = []
    const { exec } = DatabaseSync.prototype
    t.mock.method(DatabaseSync.prototype, 'exec', function (this: DatabaseSync, sql: string) {
      said.push(sql)
      exec.call(this, sql)
    })
    const place = folder(t)
    for (const [durability, word] of [
      ['process', 'normal'],
      ['power', 'full'],
    ] as const) {
      said.length = 0
      sqliteBackend(join(place, `${durability}.db`), { durability }).close?.()
      assert.ok(said.includes(`pragma synchronous = ${word}`), durability)
    }
  })
})

suite('the index of owners', () => {
  const freshKey = () => randomBytes(32).toString('base64url')

  test('is made in a file of before there was one, and finds what lies there', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const before = sqliteBackend(path)
    const keys = Array.from({ length: 20 }, freshKey)
    for (const [i, key] of keys.entries()) await before.generate(key, { ...entry, owner: i % 2 ? 'anna' : undefined })
    await before.close?.()
    const database = new DatabaseSync(path)
    database.exec('drop index keepsake_sessions_owner')
    database.close()
    const backend = opened(t, path)
    const listed = (await backend.owned?.list('anna'))?.map(({ key }) => key)
    assert.deepEqual(listed?.sort(), keys.filter((_, i) => i % 2).sort())
    assert.equal(await backend.owned?.clear('anna'), 10)
  })

  test('is what list and clear look into, and nothing of a session without an owner is in it', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const database = new DatabaseSync(path)
    t.after(() => database.close())
    for (const sql of [
      'select value from keepsake_sessions where owner = ?',
      'delete from keepsake_sessions where owner = ? and key is not ?',
    ]) {
      const plan = JSON.stringify(database.prepare(`explain query plan ${sql}`).all())
      assert.match(plan, /keepsake_sessions_owner \(owner=\?\)/)
    }
    const pages = () => Object.values(database.prepare('pragma page_count').get() as object)[0] as number
    for (let i = 0; i < 2_000; i++) await backend.generate(freshKey(), entry)
    database.exec('vacuum')
    const withIndex = pages()
    database.exec('drop index keepsake_sessions_owner; vacuum')
    assert.equal(withIndex, pages() + 1, 'the root of an empty index is all')
  })
})
