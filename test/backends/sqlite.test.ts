// The SQLite backend: its file is for its owner alone, a lock of another process holds up nobody, and faults say what to do.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
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
import { freshKey } from '../support/entries.ts'
import { folder } from '../support/folder.ts'

const KEY = 'A'.repeat(43)
const entry = { value: '{}', metadata: 'h', version: 'version1', expiresAt: Date.now() + 1e6 }

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
  test('a file that another connection keeps locked is opened at the first use that can be, and until then holds up nobody', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const other = new DatabaseSync(path)
    t.after(() => other.close())
    other.exec('begin immediate; create table first (a)')
    const backend = opened(t, path)
    const waiting = [backend.generate(KEY, entry), backend.keepSecret?.('a secret')]
    for (const one of waiting) assert.ok(one instanceof Promise, 'it waits for the other, as a promise')
    other.exec('commit')
    assert.deepEqual(await Promise.all(waiting), [undefined, 'a secret'])
    assert.ok(await backend.get(KEY))
  })
  test('who finds the tables and the secret there waits for no writer', async (t) => {
    const path = join(folder(t), 'sessions.db')
    await opened(t, path).keepSecret?.('the first')
    const other = new DatabaseSync(path)
    t.after(() => other.close())
    other.exec('begin immediate')
    assert.equal(opened(t, path).keepSecret?.('the second'), 'the first')
    other.exec('rollback')
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
  test('of two hundred writes that wait one tries, without blocking, and they are done in the order in which they came', async (t) => {
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
    const other = new DatabaseSync(path)
    t.after(() => other.close())
    other.exec('begin immediate')
    const tries = t.mock.method(StatementSync.prototype, 'run').mock
    const order: number[] = []
    const writes = Array.from({ length: 200 }, async (_, i) => {
      assert.equal(await backend.generate(freshKey(), entry), undefined)
      order.push(i)
    })
    assert.equal(tries.callCount(), 1, 'who comes second stands behind the first')
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
  test('a lock that is never given back is an error in the end, for all who wait, and nothing was changed', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    const other = new DatabaseSync(path)
    t.after(() => other.close())
    other.exec('begin immediate')
    const refused = { code: 'unavailable', message: /database is locked.*Nothing was changed/ }
    await Promise.all([1, 2, 3].map(() => assert.rejects(async () => backend.generate(KEY, entry), refused)))
    other.exec('rollback')
    assert.equal(await backend.get(KEY), undefined)
    assert.equal(await backend.generate(KEY, entry), undefined, 'and then it goes on')
  })
  test('on a full disk a logout changes nothing, says what frees it, and is done once there is room', async (t) => {
    const place = folder(t)
    const mount = ['-t', 'tmpfs', '-o', 'size=1m,mode=0700', 'tmpfs', place]
    if (process.geteuid?.() !== 0 || spawnSync('mount', mount).status !== 0) {
      return t.diagnostic('left out: it takes root and mount')
    }
    // Not in a hook, which would come after the one that removes the folder.
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
  test('its log gives back what a long reader made it grow by', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    let version = entry.version
    const write = async (times: number) => {
      for (let i = 0; i < times; i++) {
        const next = randomBytes(6).toString('base64url')
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
    assert.ok(size() <= 2 ** 20, `${size()} bytes when it is done`)
  })
  test('a file that is no database, a folder, and no path are errors that say what to do; the file stays as it was', async (t) => {
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

suite('a file that is not where it was', () => {
  const gone = (message: RegExp) => ({ code: 'unavailable', message })
  /** Everything that is asked and written says so. */
  const told = async (backend: Backend, message: RegExp) => {
    for (const act of [
      () => backend.get(KEY),
      () => backend.generate(freshKey(), entry),
      () => backend.set(KEY, { value: '1', metadata: 'h', version: 'version2' }, entry.version),
      () => backend.clear(KEY),
      () => backend.byOwner?.list('anna'),
    ]) {
      await assert.rejects(async () => act(), gone(message))
    }
  }
  const rid = (path: string) => {
    for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix, { force: true })
  }
  /** A whole database of sessions, with one session. */
  const another = async (t: TestContext, key: string) => {
    const path = join(folder(t), 'another.db')
    const backend = sqliteBackend(path)
    await backend.generate(key, entry)
    await backend.close?.()
    return path
  }

  for (const suffixes of [[''], ['', '-wal', '-shm']]) {
    test(`moved away, it is missed at once, and used again when it is back: ${suffixes.length} file(s)`, async (t) => {
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
      await told(backend, /has gone.*Put it back; or start again/)
      assert.ok(!readdirSync(place).includes('sessions.db'), 'none is made in its place')
      move(away, place)
      assert.ok(await backend.get(KEY))
      assert.equal(await backend.clear(KEY, entry.version), undefined)
    })
  }

  test('replaced by another, that one is used, and what is saved is in it', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const [theirs, born] = [freshKey(), freshKey()]
    const copy = await another(t, theirs)
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    rid(path)
    renameSync(copy, path)
    const third = opened(t, path)
    assert.equal(await backend.generate(born, entry), undefined)
    assert.deepEqual([await backend.get(KEY), (await backend.get(theirs))?.version], [undefined, entry.version])
    for (const other of [third, opened(t, path)]) assert.ok(await other.get(born), 'others see it')
  })

  test('replaced by half of a copy, or by an empty file, nothing is made of it until it is whole', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const theirs = freshKey()
    const copy = await another(t, theirs)
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    rid(path)
    writeFileSync(path, '')
    await told(backend, /was replaced.*Put a whole copy.*no such table/)
    assert.equal(readFileSync(path, 'utf8'), '')
    copyFileSync(copy, path)
    truncateSync(path, 4096)
    await told(backend, /was replaced.*Put a whole copy/)
    assert.equal(statSync(path).size, 4096)
    copyFileSync(copy, path)
    assert.ok(await backend.get(theirs))
  })

  test('replaced beside the log of the one before, it is not opened: that log would damage it', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const theirs = freshKey()
    const copy = await another(t, theirs)
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    renameSync(copy, path)
    await told(backend, /-wal of the one before.*remove its -wal and -shm/)
    for (const suffix of ['-wal', '-shm']) rmSync(path + suffix)
    assert.ok(await backend.get(theirs))
  })

  test('without its log, it takes no more than 32 writes until none is done that others would not see', async (t) => {
    const path = join(folder(t), 'sessions.db')
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    renameSync(`${path}-wal`, `${path}-away`)
    for (let i = 0; i < 32; i++) {
      try {
        await backend.touch(KEY, entry.expiresAt + i)
      } catch {
        // Which of them is the first depends on how many there were before.
      }
    }
    for (let i = 0; i < 3; i++) {
      await assert.rejects(async () => backend.clear(KEY), gone(/lost its -wal.*Stop all processes/))
    }
    renameSync(`${path}-away`, `${path}-wal`)
    assert.equal(await backend.clear(KEY), undefined)
  })

  test('it is the one that it was opened as, wherever the process goes', async (t) => {
    const before = process.cwd()
    t.after(() => process.chdir(before))
    process.chdir(folder(t))
    const backend = opened(t, 'sessions.db')
    process.chdir('/')
    assert.equal(await backend.generate(KEY, entry), undefined)
  })

  test('closed, it says so', async (t) => {
    const backend = opened(t, join(folder(t), 'sessions.db'))
    await backend.close?.()
    assert.throws(() => backend.get(KEY), gone(/was closed/))
  })
})

suite('whose file it is', { skip: process.geteuid?.() !== 0 && 'it takes root' }, () => {
  const [NOBODY, OTHER] = [65_534, 4_002]
  /** Saves a session as another user, and says how that went. */
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

  test('one that root made, and lets others write to, is used as it is', (t) => {
    const path = join(place(t), 'sessions.db')
    writeFileSync(path, '')
    chmodSync(path, 0o666)
    assert.equal(savedAs(NOBODY, path), 'saved')
    assert.equal(savedAs(OTHER, path), 'saved')
    const { uid, mode } = statSync(path)
    assert.deepEqual([uid, mode & 0o777], [0, 0o666])
  })

  const planted: Record<string, (path: string) => string> = {
    'the file of another user': (path) => {
      writeFileSync(path, '')
      chmodSync(path, 0o666)
      chownSync(path, OTHER, OTHER)
      return path
    },
    'a link that another user put there': (path) => {
      writeFileSync(`${path}.real`, '')
      symlinkSync(`${path}.real`, path)
      lchownSync(path, OTHER, OTHER)
      return path
    },
  }
  for (const suffix of ['-wal', '-shm', '-journal']) {
    planted[`the ${suffix} of another user beside it`] = (path) => {
      writeFileSync(path, '')
      writeFileSync(path + suffix, '')
      chownSync(path + suffix, OTHER, OTHER)
      return path + suffix
    }
  }
  for (const [what, plant] of Object.entries(planted)) {
    test(`refused, and left as it was: ${what}`, (t) => {
      const path = join(place(t), 'sessions.db')
      const bad = plant(path)
      const before = lstatSync(bad)
      assert.throws(
        () => sqliteBackend(path),
        (error) =>
          error instanceof KeepsakeError &&
          error.code === 'invalid_option' &&
          error.message.includes(`${JSON.stringify(bad)} belongs to user ${OTHER}`) &&
          error.message.includes('chown'),
      )
      const { uid, mode, size } = lstatSync(bad)
      assert.deepEqual([uid, mode, size], [before.uid, before.mode, before.size])
    })
  }

  test('one that another user puts in its place is refused, too', async (t) => {
    const path = join(place(t), 'sessions.db')
    const backend = opened(t, path)
    await backend.generate(KEY, entry)
    for (const suffix of ['', '-wal', '-shm']) renameSync(path + suffix, `${path}${suffix}.away`)
    assert.equal(savedAs(OTHER, path), 'saved')
    await assert.rejects(async () => backend.get(KEY), { code: 'unavailable', message: /belongs to user 4002/ })
  })
})

suite('the index of owners', () => {
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
    const listed = (await backend.byOwner?.list('anna'))?.map(({ key }) => key)
    assert.deepEqual(listed?.sort(), keys.filter((_, i) => i % 2).sort())
    assert.equal(await backend.byOwner?.clear('anna'), 10)
  })

  test('is what list and clear look into, and nothing of a session without an owner is in it', async (t) => {
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
    assert.equal(withIndex, pages() + 1, 'the root of an empty index is all')
  })
})
