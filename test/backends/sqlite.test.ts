// The SQLite backend: its file is private, a lock of another process does not block this one, and errors name the remedy.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync, StatementSync } from 'node:sqlite'
import { suite, type TestContext, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { type Backend, backendFromUrl, KeepsakeError } from 'keepsake'
import { sqliteBackend } from 'keepsake/sqlite'
import { code } from '../support/assert.ts'
import { freshKey, freshVersion } from '../support/entries.ts'
import { folder } from '../support/folder.ts'

const KEY = 'app.AAAAAAAAAAAA'
const entry = { value: '{}', metadata: 'h', version: 'version1', expiresAt: Date.now() + 1e6 }

const opened = (t: TestContext, path: string): Backend => {
  const backend = sqliteBackend(path)
  t.after(() => backend.close?.())
  return backend
}

/** Locks a file for writes, through another connection, until that connection commits or rolls back. */
const lock = (t: TestContext, path: string): DatabaseSync => {
  const other = new DatabaseSync(path)
  t.after(() => other.close())
  other.exec('begin immediate')
  return other
}

suite('the backend in SQLite', () => {
  test('its files are private to their user, despite the umask and the earlier mode of the file', async (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const place = folder(t)
    const path = join(place, 'sessions.db')
    writeFileSync(path, '', { mode: 0o666 })
    await opened(t, path).generate(KEY, entry)
    const modes = readdirSync(place).map((name) => (statSync(join(place, name)).mode & 0o777).toString(8))
    assert.deepEqual(modes, ['600', '600', '600'])
  })
  test('a file that another connection has locked is opened by the first operation that can, without blocking the process', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const other = lock(t, path)
    other.exec('create table first (a)')
    const backend = opened(t, path)
    const waiting = [backend.generate(KEY, entry), backend.keepSecret?.('a secret')]
    for (const one of waiting) assert.ok(one instanceof Promise, 'it waits for the other connection as a promise')
    other.exec('commit')
    assert.deepEqual(await Promise.all(waiting), [undefined, 'a secret'])
    assert.ok(await backend.get(KEY))
  })
  test('a backend that finds the tables and the secret waits for no writer', async (t) => {
    const path = join(folder(t), 'sessions.db')
    await opened(t, path).keepSecret?.('the first')
    const other = lock(t, path)
    assert.equal(opened(t, path).keepSecret?.('the second'), 'the first')
    other.exec('rollback')
  })
  test('while another process writes, a write waits without blocking this process', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const other = lock(t, path)
    const write = backend.generate(KEY, entry)
    assert.ok(write instanceof Promise, 'it is a promise, because it waits')
    assert.equal(backend.get(KEY), undefined, 'a read does not wait')
    other.exec('commit')
    assert.equal(await write, undefined)
    assert.ok(await backend.get(KEY))
  })
  test('of two hundred waiting writes only the first tries, without blocking, and they are done in their order', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const databases = new Set<DatabaseSync>()
    const { exec } = DatabaseSync.prototype
    t.mock.method(DatabaseSync.prototype, 'exec', function (this: DatabaseSync, sql: string) {
      databases.add(this)
      exec.call(this, sql)
    })
    const backend = opened(t, path)
    const [ours] = databases
    assert.deepEqual(Object.values(ours?.prepare('pragma busy_timeout').get() ?? {}), [0], 'SQLite itself never waits')
    const other = lock(t, path)
    const tries = t.mock.method(StatementSync.prototype, 'run').mock
    const order: number[] = []
    const writes = Array.from({ length: 200 }, async (_, i) => {
      assert.equal(await backend.generate(freshKey(), entry), undefined)
      order.push(i)
    })
    assert.equal(tries.callCount(), 1, 'the second write waits behind the first')
    while (tries.callCount() < 5) await setImmediate()
    assert.deepEqual(order, [])
    other.exec('commit')
    await Promise.all(writes)
    assert.deepEqual(
      order,
      Array.from({ length: 200 }, (_, i) => i),
    )
    assert.equal(await opened(t, path).sweep?.(entry.expiresAt, 1000), 200)
  })
  test('if a lock is never released, all waiting writes throw in the end, and nothing is changed', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const other = lock(t, path)
    const refused = { code: 'unavailable', message: /database is locked.*Nothing was changed/ }
    await Promise.all([1, 2, 3].map(() => assert.rejects(async () => backend.generate(KEY, entry), refused)))
    other.exec('rollback')
    assert.equal(await backend.get(KEY), undefined)
    assert.equal(await backend.generate(KEY, entry), undefined, 'after the lock, writes work again')
  })
  test('on a full disk a logout changes nothing and throws an error with the remedy; it works once there is space', async (t) => {
    const place = folder(t)
    const mount = ['-t', 'tmpfs', '-o', 'size=1m,mode=0700', 'tmpfs', place]
    if (process.geteuid?.() !== 0 || spawnSync('mount', mount).status !== 0) {
      return t.diagnostic('skipped: this needs root and mount')
    }
    // In `finally`, because a hook would run after the hook that removes the folder.
    try {
      const backend = sqliteBackend(join(place, 'sessions.db'))
      await backend.generate(KEY, { ...entry, owner: 'anna' })
      const ballast = join(place, 'ballast')
      assert.throws(() => {
        for (;;) appendFileSync(ballast, 'x'.repeat(4_096))
      }, /ENOSPC/)
      const full = { code: 'unavailable', message: /disk is full.*Nothing was changed. Free space/ }
      const mark = { metadata: 'ended', expiresAt: entry.expiresAt, version: 'version3' }
      await assert.rejects(async () => backend.clear(KEY, undefined, mark), full)
      await assert.rejects(async () => backend.byOwner?.clear('anna', undefined, mark), full)
      assert.equal((await backend.get(KEY))?.version, entry.version)
      rmSync(ballast)
      assert.equal(await backend.byOwner?.clear('anna', undefined, mark), 1)
      assert.equal((await backend.get(KEY))?.metadata, 'ended')
      await backend.close?.()
    } finally {
      spawnSync('umount', ['-l', place])
    }
  })
  test('after a long read its log shrinks again', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    let version = entry.version
    const write = async (times: number) => {
      for (let i = 0; i < times; i++) {
        const next = freshVersion()
        const change = { value: JSON.stringify('x'.repeat(3_000)), metadata: 'h', version: next }
        assert.equal(await backend.set(KEY, change, version), undefined)
        version = next
      }
    }
    const size = () => statSync(`${path}-wal`).size
    const reader = new DatabaseSync(path, { readOnly: true })
    reader.exec('begin')
    reader.prepare('select count(*) from keepsake_sessions').get()
    await write(1_000)
    assert.ok(size() > 2 ** 21, `${size()} bytes beside the reader`)
    reader.exec('commit')
    reader.close()
    await write(200)
    assert.ok(size() <= 2 ** 20, `${size()} bytes after the read`)
  })
  test('a file that is no database, a folder and an empty path throw errors with the remedy, and the file stays as it was', async (t) => {
    const place = folder(t)
    const path = join(place, 'notes.txt')
    const text = 'not a database, but something that somebody wrote\n'.repeat(40)
    writeFileSync(path, text)
    for (const bad of [path, place, join(place, 'no/such/folder.db')]) {
      assert.throws(() => sqliteBackend(bad), code('unavailable'))
      assert.throws(() => sqliteBackend(bad), /cannot be used: .*Give a path/)
    }
    assert.equal(readFileSync(path, 'utf8'), text)
    await assert.rejects(backendFromUrl('sqlite:'), code('invalid_option'))
    assert.throws(() => sqliteBackend('x.db', { durability: 'moon' as 'power' }), code('invalid_option'))
  })
  test('an operator finds the entry of a label with one select', async (t) => {
    const path = join(folder(t), 'sessions.db')
    await opened(t, path).generate('sid.Q2hhcmxvdHRl', { ...entry, owner: 'sid:charlotte' })
    const database = new DatabaseSync(path)
    t.after(() => database.close())
    const row = database.prepare("select owner from keepsake_sessions where key = 'sid.Q2hhcmxvdHRl'").get()
    assert.equal(row?.owner, 'sid:charlotte')
  })
  test('durability: with power each write waits for the disk, with process it does not', (t) => {
    const statements: string[] = []
    const { exec } = DatabaseSync.prototype
    t.mock.method(DatabaseSync.prototype, 'exec', function (this: DatabaseSync, sql: string) {
      statements.push(sql)
      exec.call(this, sql)
    })
    const place = folder(t)
    for (const [durability, word] of [
      ['process', 'normal'],
      ['power', 'full'],
    ] as const) {
      statements.length = 0
      sqliteBackend(join(place, `${durability}.db`), { durability }).close?.()
      assert.ok(statements.includes(`pragma synchronous = ${word}`), durability)
    }
  })
})

suite('a file that was deleted, moved or replaced', () => {
  const unavailable = (message: RegExp) => ({ code: 'unavailable', message })
  /** Every operation throws this error. */
  const allThrow = async (backend: Backend, message: RegExp) => {
    for (const act of [
      () => backend.get(KEY),
      () => backend.generate(freshKey(), entry),
      () => backend.set(KEY, { value: '1', metadata: 'h', version: 'version2' }, entry.version),
      () => backend.clear(KEY),
      () => backend.byOwner?.list('anna'),
    ]) {
      await assert.rejects(async () => act(), unavailable(message))
    }
  }
  const removeFiles = (path: string) => {
    for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix, { force: true })
  }
  /** A backend with one session, and `copy`, the path of another whole database with the session `theirs`. */
  const openBesideOther = async (t: TestContext, path: string) => {
    const theirs = freshKey()
    const copy = join(folder(t), 'another.db')
    const other = sqliteBackend(copy)
    await other.generate(theirs, entry)
    await other.close?.()
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    return { backend, theirs, copy }
  }

  for (const suffixes of [[''], ['', '-wal', '-shm']]) {
    test(`after a move every operation throws, until the file is back: ${suffixes.length} file(s)`, async (t) => {
      const place = folder(t)
      const path = join(place, 'sessions.db')
      const backend = opened(t, path)
      await backend.generate(KEY, entry)
      const away = join(place, 'away')
      mkdirSync(away)
      const move = (from: string, to: string) => {
        for (const suffix of suffixes) renameSync(join(from, `sessions.db${suffix}`), join(to, `sessions.db${suffix}`))
      }
      move(place, away)
      await allThrow(backend, /was deleted or moved.*Put it back, or restart/)
      assert.ok(!readdirSync(place).includes('sessions.db'), 'no new file is created')
      move(away, place)
      assert.ok(await backend.get(KEY))
      assert.equal(await backend.clear(KEY, entry.version), undefined)
    })
  }

  test('if another whole database replaces it, sessions are read from and saved to that one', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const created = freshKey()
    const { backend, theirs, copy } = await openBesideOther(t, path)
    removeFiles(path)
    renameSync(copy, path)
    const third = opened(t, path)
    assert.equal(await backend.generate(created, entry), undefined)
    assert.deepEqual([await backend.get(KEY), (await backend.get(theirs))?.version], [undefined, entry.version])
    for (const other of [third, opened(t, path)]) assert.ok(await other.get(created), 'other handles see it')
  })

  test('if an incomplete copy or an empty file replaces it, that file is not changed, and not used until it is whole', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const { backend, theirs, copy } = await openBesideOther(t, path)
    removeFiles(path)
    writeFileSync(path, '')
    await allThrow(backend, /was replaced.*Put a whole copy.*no such table/)
    assert.equal(readFileSync(path, 'utf8'), '')
    copyFileSync(copy, path)
    truncateSync(path, 4096)
    await allThrow(backend, /was replaced.*Put a whole copy/)
    assert.equal(statSync(path).size, 4096)
    copyFileSync(copy, path)
    assert.ok(await backend.get(theirs))
  })

  test('if it is replaced but the log of the previous file remains, it is not opened, because that log would damage it', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const { backend, theirs, copy } = await openBesideOther(t, path)
    renameSync(copy, path)
    await allThrow(backend, /-wal of the previous file.*remove its -wal and -shm/)
    for (const suffix of ['-wal', '-shm']) rmSync(path + suffix)
    assert.ok(await backend.get(theirs))
  })

  test('if its log is lost, writes throw after 32 at most, because other processes would not see them', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    renameSync(`${path}-wal`, `${path}-away`)
    for (let i = 0; i < 32; i++) {
      try {
        await backend.touch(KEY, entry.expiresAt + i)
      } catch {
        // The number of the first write that throws depends on the writes before.
      }
    }
    for (let i = 0; i < 3; i++) {
      await assert.rejects(async () => backend.clear(KEY), unavailable(/lost its -wal.*Stop all processes/))
    }
    renameSync(`${path}-away`, `${path}-wal`)
    assert.equal(await backend.clear(KEY), undefined)
  })

  test('a change of the working directory does not change its file', async (t) => {
    const before = process.cwd()
    t.after(() => process.chdir(before))
    process.chdir(folder(t))
    const backend = opened(t, 'sessions.db')
    process.chdir('/')
    assert.equal(await backend.generate(KEY, entry), undefined)
  })

  test('after close every operation throws', async (t) => {
    const backend = opened(t, join(folder(t), 'sessions.db'))
    await backend.close?.()
    assert.throws(() => backend.get(KEY), unavailable(/was closed/))
  })
})

suite('the owner of the file', { skip: process.geteuid?.() !== 0 && 'this needs root' }, () => {
  const [NOBODY, OTHER] = [65_534, 4_002]
  /** Saves a session as another user. Returns `saved`, or the error. */
  const savedAs = (user: number, path: string): string => {
    const script = `
      process.setegid(${user})
      process.seteuid(${user})
      const { sqliteBackend } = await import('keepsake/sqlite')
      try {
        const answer = await sqliteBackend(process.argv[1]).generate('${freshKey()}', ${JSON.stringify(entry)})
        console.log(answer ?? 'saved')
      } catch (error) {
        console.log(error.code, error.message)
      }`
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script, path], { encoding: 'utf8' })
    return (run.stdout + run.stderr).trim()
  }
  const place = (t: TestContext) => {
    const path = folder(t)
    chmodSync(path, 0o777)
    return path
  }

  test('a file of root that others may write to is used as it is', (t) => {
    const path = join(place(t), 'sessions.db')
    writeFileSync(path, '')
    chmodSync(path, 0o666)
    assert.equal(savedAs(NOBODY, path), 'saved')
    assert.equal(savedAs(OTHER, path), 'saved')
    const { uid, mode } = statSync(path)
    assert.deepEqual([uid, mode & 0o777], [0, 0o666])
  })

  const planted: Record<string, (path: string) => string> = {
    'a file of another user': (path) => {
      writeFileSync(path, '')
      chmodSync(path, 0o666)
      chownSync(path, OTHER, OTHER)
      return path
    },
    'a link of another user': (path) => {
      writeFileSync(`${path}.real`, '')
      symlinkSync(`${path}.real`, path)
      lchownSync(path, OTHER, OTHER)
      return path
    },
  }
  for (const suffix of ['-wal', '-shm', '-journal']) {
    planted[`a ${suffix} of another user beside it`] = (path) => {
      writeFileSync(path, '')
      writeFileSync(path + suffix, '')
      chownSync(path + suffix, OTHER, OTHER)
      return path + suffix
    }
  }
  for (const [what, plant] of Object.entries(planted)) {
    test(`${what} is refused and stays as it was`, (t) => {
      const path = join(place(t), 'sessions.db')
      const refused = plant(path)
      const before = lstatSync(refused)
      assert.throws(
        () => sqliteBackend(path),
        (error) =>
          error instanceof KeepsakeError &&
          error.code === 'invalid_option' &&
          error.message.includes(`${JSON.stringify(refused)} belongs to user ${OTHER}`) &&
          error.message.includes('chown'),
      )
      const { uid, mode, size } = lstatSync(refused)
      assert.deepEqual([uid, mode, size], [before.uid, before.mode, before.size])
    })
  }

  test('a file of another user that replaces it is refused too', async (t) => {
    const path = join(place(t), 'sessions.db')
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    for (const suffix of ['', '-wal', '-shm']) renameSync(path + suffix, `${path}${suffix}.away`)
    assert.equal(savedAs(OTHER, path), 'saved')
    await assert.rejects(async () => backend.get(KEY), { code: 'unavailable', message: /belongs to user 4002/ })
  })
})

suite('the index of owners', () => {
  test('is created in a file that has none, and finds the entries in it', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const before = sqliteBackend(path)
    const keys = Array.from({ length: 20 }, freshKey)
    for (const [i, key] of keys.entries()) await before.generate(key, { ...entry, owner: i % 2 ? 'anna' : undefined })
    await before.close?.()
    const database = new DatabaseSync(path)
    database.exec('drop index keepsake_sessions_owner')
    database.close()
    const backend = opened(t, path)
    const listed = (await backend.byOwner?.list('anna'))?.map(({ key }) => key)
    assert.deepEqual(listed?.sort(), keys.filter((_, i) => i % 2).sort())
    assert.equal(await backend.byOwner?.clear('anna'), 10)
  })

  test('list and clear use it, and it has no row for a session without an owner', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const database = new DatabaseSync(path)
    t.after(() => database.close())
    for (const sql of [
      'select value from keepsake_sessions where owner = ?',
      'delete from keepsake_sessions where owner = ? and key is not ?',
      'update keepsake_sessions set value = null, owner = null where owner = ? and key is not ?',
    ]) {
      const plan = JSON.stringify(database.prepare(`explain query plan ${sql}`).all())
      assert.match(plan, /keepsake_sessions_owner \(owner=\?\)/)
    }
    const pages = () => Object.values(database.prepare('pragma page_count').get() as object)[0] as number
    for (let i = 0; i < 2_000; i++) await backend.generate(freshKey(), entry)
    database.exec('vacuum')
    const withIndex = pages()
    database.exec('drop index keepsake_sessions_owner; vacuum')
    assert.equal(withIndex, pages() + 1, 'an empty index takes one page')
  })
})
