// The owners of sessions in files: a clear misses none, whoever writes at the same time, and whoever dies in the middle.

import assert from 'node:assert/strict'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { Backend, Entry } from 'keepsake'
import { fileBackend } from '../../src/backends/file/backend.ts'
import { folder } from '../support/folder.ts'
import { retryIfStalled } from '../support/lost.ts'
import { start } from '../support/process.ts'

// In memory where that is to be had: what is tested here is no disk.
if (process.platform === 'linux' && existsSync('/dev/shm')) process.env.TMPDIR = '/dev/shm'

const script = 'test/support/file-process.ts'
const MINUTE = 60_000
const ANNA = 'app:anna'

const freshKey = () => randomBytes(32).toString('base64url')
const nameOf = (key: string) => Buffer.from(key, 'base64url').toString('hex')
const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: '1.abc',
  expiresAt: Date.now() + MINUTE,
  version: randomBytes(6).toString('base64url'),
  owner: ANNA,
  ...more,
})

const place = (t: TestContext, directory = join(folder(t), 'sessions')) => {
  const backend = fileBackend(directory)
  t.after(() => backend.close?.())
  const folderOf = (owner: string) => join(directory, 'owners', createHash('sha256').update(owner).digest('hex'))
  return {
    directory,
    backend,
    byOwner: backend.byOwner ?? assert.fail(),
    folderOf,
    pathOf: (key: string) => join(directory, nameOf(key)),
    markOf: (key: string, owner: string = ANNA) => join(folderOf(owner), nameOf(key)),
    marks: () =>
      readdirSync(join(directory, 'owners'), { recursive: true, encoding: 'utf8' }).filter((name) =>
        name.includes('/'),
      ),
    owners: () => readdirSync(join(directory, 'owners')),
  }
}

const listed = async (owned: NonNullable<Backend['byOwner']>, owner: string = ANNA): Promise<string[]> =>
  (await owned.list(owner)).map(({ key }) => key).sort()

/** Eleven minutes ago. */
const age = (path: string): void => {
  const then = Date.now() / 1000 - 660
  utimesSync(path, then, then)
}

suite('a mark', () => {
  test('is an empty file for its owner alone, whose name says nothing of the account', async (t) => {
    const before = process.umask(0)
    t.after(() => process.umask(before))
    const { directory, backend, markOf } = place(t)
    const owner = 'app:../../../../tmp/anna\n'
    const key = freshKey()
    await backend.generate(key, entryWith({ owner }))
    assert.equal(readFileSync(markOf(key, owner), 'utf8'), '')
    for (const found of readdirSync(directory, { recursive: true, withFileTypes: true })) {
      const { mode } = statSync(join(found.parentPath, found.name))
      assert.equal((mode & 0o777).toString(8), found.isDirectory() ? '700' : '600', found.name)
      assert.doesNotMatch(found.name, /anna|tmp/)
    }
  })

  test('is there as long as its session, and the folder of an owner as long as his marks', async (t) => {
    const { backend, byOwner: owned, owners, marks } = place(t)
    const [one, two, stranger] = [freshKey(), freshKey(), freshKey()]
    const entry = entryWith()
    await backend.generate(one, entry)
    await backend.generate(two, entryWith())
    await backend.generate(stranger, entryWith({ owner: undefined }))
    assert.equal(marks().length, 2, 'none for a stranger')
    await backend.set(one, { value: '', metadata: '', version: 'b' }, entry.version)
    await backend.touch(one, 9e14)
    assert.equal(marks().length, 2)
    await backend.clear(one, 'b')
    assert.deepEqual([marks().length, owners().length], [1, 1])
    await backend.clear(two)
    assert.deepEqual([marks().length, owners().length], [0, 0])
    await backend.generate(one, entryWith({ expiresAt: 1 }))
    assert.equal(await backend.sweep?.(2, 100), 1)
    assert.deepEqual(owners(), [], 'a sweep takes the marks of what it sweeps')
    await backend.generate(one, entryWith())
    await backend.generate(two, entryWith())
    assert.equal(await owned.clear(ANNA, two), 1)
    assert.deepEqual([marks().length, owners().length], [1, 1])
    assert.equal(await owned.clear(ANNA), 1)
    assert.deepEqual(owners(), [])
  })

  test('is made for all that lies in a folder of before there were marks, and unreadable files stay', async (t) => {
    const { directory, backend } = place(t)
    const keys = Array.from({ length: 30 }, freshKey)
    for (const [i, key] of keys.entries()) await backend.generate(key, entryWith(i % 3 ? {} : { owner: undefined }))
    rmSync(join(directory, 'owners'), { recursive: true })
    const broken = join(directory, nameOf(freshKey()))
    writeFileSync(broken, 'nothing of ours')
    const hers = keys.filter((_, i) => i % 3).sort()
    assert.deepEqual(await listed(place(t, directory).byOwner), hers)
    assert.ok(existsSync(broken))
    // Two at once: one puts its folder in the place, and the other takes that.
    rmSync(join(directory, 'owners'), { recursive: true })
    const both = ['list', 'list'].map((deed) => start(t, script, [deed, directory, ANNA]))
    for (const { lines, ended, errors } of both) {
      assert.equal(await ended, 0, errors())
      assert.equal((await lines.next()).value, String(hers.length))
    }
    assert.deepEqual(
      readdirSync(directory).filter((name) => name.startsWith('owners')),
      ['owners'],
    )
    assert.equal(await place(t, directory).byOwner.clear(ANNA), hers.length)
  })

  test('whose folder leads elsewhere is refused', (t) => {
    const directory = join(folder(t), 'sessions')
    mkdirSync(directory, 0o700)
    symlinkSync('/tmp', join(directory, 'owners'))
    assert.throws(() => fileBackend(directory), { code: 'invalid_option', message: /symbolic/ })
  })

  test('whose folder has gone is an error, and no absence', async (t) => {
    const { directory, backend, byOwner: owned } = place(t)
    const [key, stranger] = [freshKey(), freshKey()]
    await backend.generate(key, entryWith())
    renameSync(join(directory, 'owners'), join(directory, 'away'))
    const says = { code: 'unavailable', message: /owners.*Start again/ }
    await assert.rejects(async () => owned.list(ANNA), says)
    await assert.rejects(async () => owned.clear(ANNA), says)
    await assert.rejects(async () => backend.generate(freshKey(), entryWith()), says)
    assert.equal(await backend.generate(stranger, entryWith({ owner: undefined })), undefined, 'strangers go on')
    renameSync(join(directory, 'away'), join(directory, 'owners'))
    assert.deepEqual(await listed(owned), [key])
  })
})

suite('somebody died', () => {
  test('after the mark: it is no session, and list and sweep take it when it is old', async (t) => {
    for (const tidy of ['list', 'sweep', 'clear']) {
      const { backend, byOwner: owned, markOf, marks, owners } = place(t)
      const [key, live] = [freshKey(), freshKey()]
      await backend.generate(live, entryWith())
      writeFileSync(markOf(key), '')
      age(markOf(live))
      const act = async () => (tidy === 'list' ? owned.list(ANNA) : backend.sweep?.(Date.now(), 100))
      assert.deepEqual(await listed(owned), [live])
      await act()
      assert.equal(marks().length, 2, 'young, it may be of a generate that is about to put its session')
      age(markOf(key))
      if (tidy === 'clear') assert.equal(await owned.clear(ANNA, live), 0, 'and it is not counted')
      else await act()
      assert.equal(marks().length, 1, `${tidy} takes it, and not the mark of a session`)
      assert.deepEqual(await listed(owned), [live])
      assert.equal(await owned.clear(ANNA), 1)
      assert.deepEqual(owners(), [])
    }
  })

  test('in a clear: what it had struck is still listed, and the next clear ends it', async (t) => {
    const { backend, byOwner: owned, markOf, owners } = place(t)
    const keys = Array.from({ length: 5 }, freshKey)
    for (const key of keys) await backend.generate(key, entryWith())
    for (const key of keys.slice(0, 3)) renameSync(markOf(key), `${markOf(key)}.struck`)
    await backend.sweep?.(Date.now(), 100)
    assert.deepEqual(await listed(owned), [...keys].sort())
    const [kept = ''] = keys
    assert.equal(await owned.clear(ANNA, kept), 4)
    assert.deepEqual(await listed(owned), [kept])
    assert.equal(await owned.clear(ANNA), 1)
    for (const key of keys) assert.equal(await backend.get(key), undefined)
    assert.deepEqual(owners(), [])
  })

  test('in a clear, after the session was removed: the sweep takes the mark', async (t) => {
    const { backend, markOf, pathOf, owners } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith())
    renameSync(markOf(key), `${markOf(key)}.struck`)
    unlinkSync(pathOf(key))
    await backend.sweep?.(Date.now(), 100)
    assert.deepEqual(owners(), [])
  })

  test('having made the folder of an owner: the sweep takes it', async (t) => {
    const { backend, folderOf, owners } = place(t)
    mkdirSync(folderOf(ANNA), 0o700)
    await backend.sweep?.(Date.now(), 100)
    assert.deepEqual(owners(), [])
  })
})

suite('a generate whose owner is cleared meanwhile', () => {
  for (const already of [false, true]) {
    test(`is gone, ${already ? 'having put its session before the clear came to it' : 'where the clear has its turn first'}`, async (t) => {
      const { directory, backend, byOwner: owned, markOf, pathOf } = place(t)
      const key = freshKey()
      const slot = join(directory, 'locks', nameOf(key).slice(0, 2))
      const ticket = randomUUID()
      renameSync(`${slot}.free`, `${slot}.${ticket}`)
      const waiting = backend.generate(key, entryWith())
      assert.ok(waiting instanceof Promise, 'it waits for its turn')
      assert.ok(existsSync(markOf(key)), 'its mark is there already')
      // The clear waits for the same turn: whichever of them gets it first, the mark is struck before.
      const clearing = owned.clear(ANNA)
      while (existsSync(markOf(key))) await null
      if (already) renameSync(`${slot}.${ticket}`, `${slot}.free`)
      assert.equal(await waiting, 'gone')
      await clearing
      assert.equal(existsSync(pathOf(key)), false)
      assert.equal(await backend.get(key), undefined)
      assert.deepEqual(await listed(owned), [])
      assert.equal(await backend.generate(key, entryWith()), undefined, 'the key is free')
      assert.deepEqual(await listed(owned), [key])
    })
  }

  test('is ended by the clear, if it began and was done while that ran', async (t) => {
    const { directory, backend, byOwner: owned } = place(t)
    // Of two slots.
    const [slow, key] = [`A${freshKey().slice(1)}`, `B${freshKey().slice(1)}`]
    await backend.generate(slow, entryWith())
    const slot = join(directory, 'locks', nameOf(slow).slice(0, 2))
    const ticket = randomUUID()
    renameSync(`${slot}.free`, `${slot}.${ticket}`)
    let over = false
    const clearing = Promise.resolve(owned.clear(ANNA)).finally(() => {
      over = true
    })
    await setImmediate()
    assert.equal(await backend.generate(key, entryWith()), undefined)
    assert.equal(over, false, 'the clear still waits for a turn')
    renameSync(`${slot}.${ticket}`, `${slot}.free`)
    assert.equal(await clearing, 2)
    assert.equal(await backend.get(key), undefined)
  })

  test('is gone also where its mark was taken as an old one', async (t) => {
    const { directory, backend, byOwner: owned, markOf, pathOf } = place(t)
    const key = freshKey()
    const slot = join(directory, 'locks', nameOf(key).slice(0, 2))
    const other = place(t, directory)
    renameSync(`${slot}.free`, `${slot}.${randomUUID()}`)
    const waiting = backend.generate(key, entryWith())
    age(markOf(key))
    await other.byOwner.list(ANNA)
    assert.ok(existsSync(markOf(key)), 'not without its turn')
    unlinkSync(markOf(key))
    assert.equal(await waiting, 'gone')
    assert.equal(existsSync(pathOf(key)), false)
    assert.deepEqual(await listed(owned), [])
  })
})

test('what cannot be read is out of the way after a clear, and what a newer version wrote is ended', async (t) => {
  const { directory, backend, byOwner: owned, pathOf } = place(t)
  const [broken, newer, good] = [freshKey(), freshKey(), freshKey()]
  for (const key of [broken, newer, good]) await backend.generate(key, entryWith())
  writeFileSync(pathOf(broken), 'nothing of ours')
  writeFileSync(pathOf(newer), 'keepsake 2 whatever\ncomes then')
  assert.deepEqual(await listed(owned), [good])
  assert.equal(await owned.clear(ANNA), 2, 'what nobody could open is not counted')
  for (const key of [broken, newer, good]) assert.equal(existsSync(pathOf(key)), false)
  assert.equal(readdirSync(join(directory, 'quarantine')).length, 1)
})

test('a session that cannot be removed keeps no other from its end, and the clear says so', async (t) => {
  const { directory, backend, byOwner: owned, pathOf } = place(t)
  const keys = Array.from({ length: 9 }, freshKey)
  for (const key of keys) await backend.generate(key, entryWith())
  const stuck = keys[4] as string
  const slot = join(directory, 'locks', nameOf(stuck).slice(0, 2))
  let over = false
  renameSync(`${slot}.free`, `${slot}.0`)
  const clearing = assert
    .rejects(async () => owned.clear(ANNA), { code: 'unavailable' })
    .finally(() => {
      over = true
    })
  // A turn after the other, another whenever somebody looks, as long as it takes.
  for (let n = 0; !over; ) {
    await setImmediate()
    renameSync(`${slot}.${n}`, `${slot}.${++n}`)
  }
  await clearing
  const others = keys.filter((key) => nameOf(key).slice(0, 2) !== nameOf(stuck).slice(0, 2))
  for (const key of others) assert.equal(existsSync(pathOf(key)), false)
  assert.ok(existsSync(pathOf(stuck)))
  const free = readdirSync(join(directory, 'locks')).find((name) => !name.endsWith('.free')) ?? assert.fail()
  renameSync(join(directory, 'locks', free), `${slot}.free`)
  assert.ok((await listed(owned)).includes(stuck), 'and it is found again')
  assert.equal(await owned.clear(ANNA), keys.length - others.length)
})

test('a sweep looks at a thousand marks at most, lets others in between, and goes on where it stopped', async (t) => {
  const { backend, folderOf, marks } = place(t)
  for (let owner = 0; owner < 3; owner++) {
    mkdirSync(folderOf(`${owner}`), 0o700)
    for (let i = 0; i < 500; i++) {
      const mark = join(folderOf(`${owner}`), randomBytes(32).toString('hex'))
      writeFileSync(mark, '')
      age(mark)
    }
  }
  assert.equal(await backend.sweep?.(Date.now(), 100), 0)
  const left = marks().length
  assert.ok(left >= 500 && left < 510, `${left}`)
  assert.equal(await backend.sweep?.(Date.now(), 0), 0)
  assert.equal(marks().length, left, 'what has expired goes first')
  await backend.sweep?.(Date.now(), 100)
  assert.equal(marks().length, 0)
})

suite('several processes', () => {
  /** What writers say: the keys that are sessions, and those that are gone. */
  const hearing = (t: TestContext, directory: string) => {
    const [done, gone]: [string[], string[]] = [[], []]
    const writers: { readonly kill: () => Promise<void> }[] = []
    const begin = () => {
      const { child, lines } = start(t, script, ['own', directory, ANNA])
      const heard = (async () => {
        for (let line = await lines.next(); !line.done; line = await lines.next()) {
          const [key = '', answer] = line.value.split(' ')
          ;(answer === 'done' ? done : gone).push(key)
        }
      })()
      const kill = () => {
        child.kill('SIGKILL')
        return heard
      }
      writers.push({ kill })
    }
    return {
      done,
      gone,
      begin,
      killFirst: () => writers.shift()?.kill(),
      more: async (count: number) => {
        const enough = done.length + count
        while (done.length < enough) await setImmediate()
      },
    }
  }

  test('a clear ends all that was there before it, and all that lives can be found, while three others write', async (t) => {
    const { directory, backend, byOwner: owned } = place(t)
    const { done, gone, begin, killFirst, more } = hearing(t, directory)
    begin()
    begin()
    start(t, script, ['tidy', directory, ANNA])
    let checked = 0
    for (let round = 0; round < 25; round++) {
      await more(20)
      const before = done.slice(checked)
      await retryIfStalled(() => owned.clear(ANNA))
      for (const key of before) assert.equal(await backend.get(key), undefined, 'it was there before')
      checked += before.length
    }
    await killFirst()
    await killFirst()
    const found = new Set(await retryIfStalled(() => listed(owned)))
    for (const key of done) assert.equal(found.has(key), (await backend.get(key)) !== undefined, 'what lives is listed')
    for (const key of gone) assert.equal(await backend.get(key), undefined, 'what is gone is not there')
    await retryIfStalled(() => owned.clear(ANNA))
    for (const key of [...done, ...gone]) assert.equal(await backend.get(key), undefined)
    assert.deepEqual(await retryIfStalled(() => listed(owned)), [])
    assert.ok(done.length > 400, `${done.length}`)
    t.diagnostic(`${done.length} generated, ${gone.length} gone`)
  })

  test('clears that are killed leave no session that the next clear does not find', async (t) => {
    const { directory, backend, byOwner: owned, marks } = place(t)
    const { done, gone, begin, killFirst, more } = hearing(t, directory)
    begin()
    begin()
    let kills = 2
    for (let kill = 1; kill <= 6; kill++) {
      const clearer = start(t, script, ['disown', directory, ANNA])
      await clearer.lines.next()
      await more(Math.random() * 20)
      // In the middle of a clear, of which it says nothing.
      clearer.child.kill('SIGKILL')
      await clearer.ended
      const before = [...done]
      if (kill % 2 === 0) {
        await retryIfStalled(() => owned.clear(ANNA))
        for (const key of before) assert.equal(await backend.get(key), undefined, 'a clear after it has found it')
      }
      if (kill % 3 === 0) {
        await killFirst()
        begin()
        kills++
      }
    }
    await killFirst()
    await killFirst()
    await retryIfStalled(() => owned.clear(ANNA))
    for (const key of [...done, ...gone]) assert.equal(await backend.get(key), undefined, 'it was found')
    assert.deepEqual(await retryIfStalled(() => listed(owned)), [])
    assert.equal(marks().length, 0)
    const left = readdirSync(directory).filter((name) => /^[0-9a-f]{64}$/.test(name))
    t.diagnostic(`${done.length} generated, ${gone.length} gone, ${left.length} left`)
    assert.ok(left.length <= kills, 'at most what a writer had put and had not looked for its mark')
  })
})
