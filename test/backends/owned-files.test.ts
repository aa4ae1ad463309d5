// The owners of sessions in files: a clear misses no session while other processes write, and when a process dies.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { existsSync, readdirSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { Backend } from 'keepsake'
import { fileBackend } from '../../src/backends/file/backend.ts'
import { fileOf, keyOf, slotOf } from '../../src/backends/file/file-name.ts'
import { entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { folder } from '../support/folder.ts'
import { retryIfStalled } from '../support/lost.ts'
import { start } from '../support/process.ts'
import { runs } from '../support/quick.ts'

// The tests use memory instead of a disk if the system has such a folder.
if (process.platform === 'linux' && existsSync('/dev/shm')) process.env.TMPDIR = '/dev/shm'

const script = 'test/support/file-process.ts'
const ownedEntry = () => entryWith({ owner: OWNER })

const setup = (t: TestContext, directory = join(folder(t), 'sessions')) => {
  const backend = fileBackend(directory)
  t.after(() => backend.close?.())
  return {
    directory,
    backend,
    byOwner: backend.byOwner ?? assert.fail('the file backend finds sessions by owner'),
    pathOf: (key: string) => join(directory, fileOf(key)),
    lockOf: (key: string) => join(directory, 'locks', slotOf(fileOf(key))),
    sessions: () => readdirSync(directory).filter((name) => keyOf(name) !== undefined),
  }
}

const keysOf = async (byOwner: NonNullable<Backend['byOwner']>): Promise<string[]> =>
  (await byOwner.list(OWNER)).map(({ key }) => key).sort()

/** A key whose file has another lock than those of `keys`. */
const keyWithOtherLock = (...keys: readonly string[]): string => {
  const slots = keys.map((key) => slotOf(fileOf(key)))
  for (;;) {
    const key = freshKey()
    if (!slots.includes(slotOf(fileOf(key)))) return key
  }
}

test('the name of an account is in no file name, and every file is for one user alone', async (t) => {
  const before = process.umask(0)
  t.after(() => process.umask(before))
  const { directory, backend, byOwner } = setup(t)
  const owner = 'app:../../../../tmp/anna\n'
  const key = freshKey()
  await backend.generate(key, entryWith({ owner }))
  assert.deepEqual(
    (await byOwner.list(owner)).map((entry) => entry.key),
    [key],
  )
  for (const found of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const { mode } = statSync(join(found.parentPath, found.name))
    assert.equal((mode & 0o777).toString(8), found.isDirectory() ? '700' : '600', found.name)
    assert.doesNotMatch(found.name, /anna|tmp/)
  }
})

suite('a session that is generated during a clear of its owner', () => {
  test('exists if the clear ended before the session was saved', async (t) => {
    const { backend, byOwner, lockOf } = setup(t)
    const key = freshKey()
    const lock = lockOf(key)
    const ticket = randomUUID()
    renameSync(`${lock}.free`, `${lock}.${ticket}`)
    const generating = backend.generate(key, ownedEntry())
    assert.ok(generating instanceof Promise, 'it waits for the lock')
    const clearing = byOwner.clear(OWNER)
    renameSync(`${lock}.${ticket}`, `${lock}.free`)
    const cleared = await clearing
    assert.equal(await generating, undefined)
    assert.deepEqual(await keysOf(byOwner), cleared === 0 ? [key] : [], 'before the clear or after it')
    assert.equal((await backend.get(key)) !== undefined, cleared === 0)
  })

  test('is ended with the others if it is saved while the clear waits', async (t) => {
    const { backend, byOwner, lockOf } = setup(t)
    const slow = freshKey()
    const key = keyWithOtherLock(slow)
    await backend.generate(slow, ownedEntry())
    const lock = lockOf(slow)
    const ticket = randomUUID()
    renameSync(`${lock}.free`, `${lock}.${ticket}`)
    let isOver = false
    const clearing = Promise.resolve(byOwner.clear(OWNER)).finally(() => {
      isOver = true
    })
    await setImmediate()
    assert.equal(await backend.generate(key, ownedEntry()), undefined)
    assert.equal(isOver, false, 'the clear still waits for a lock')
    renameSync(`${lock}.${ticket}`, `${lock}.free`)
    assert.equal(await clearing, 2)
    assert.equal(await backend.get(key), undefined)
  })

  test('is ended if a login has replaced by it a session that the clear had listed', async (t) => {
    const { directory, backend, byOwner } = setup(t)
    const [first, next] = [freshKey(), freshKey()]
    const entry = ownedEntry()
    await backend.generate(first, entry)
    // Files of others keep the clear busy between its listing and its reading of the first session.
    const others = Array.from({ length: runs(3000) }, freshKey)
    for (const key of others) await backend.generate(key, entryWith())
    const clearing = Promise.resolve(byOwner.clear(OWNER))
    await setImmediate()
    assert.equal(await backend.generate(next, ownedEntry()), undefined)
    await backend.clear(first, entry.version)
    await clearing
    assert.deepEqual(await keysOf(byOwner), [])
    assert.equal(existsSync(join(directory, fileOf(next))), false)
  })
})

test('an unreadable file has no owner: a clear leaves a damaged file, and throws if a newer version wrote one', async (t) => {
  const { backend, byOwner, pathOf } = setup(t)
  const [broken, newer, good] = [freshKey(), freshKey(), freshKey()]
  for (const key of [broken, newer, good]) await backend.generate(key, ownedEntry())
  writeFileSync(pathOf(broken), 'not a session')
  writeFileSync(pathOf(newer), 'keepsake 2 another\nformat')
  assert.deepEqual(await keysOf(byOwner), [good])
  await assert.rejects(async () => byOwner.clear(OWNER), {
    code: 'unknown_outcome',
    message: /wrote 1 session files.*newer version/,
  })
  assert.equal(await backend.get(good), undefined, 'the others are ended before that')
  assert.equal(await backend.get(broken), undefined)
  assert.ok(existsSync(pathOf(newer)))
})

test('a session that cannot be removed prevents the end of no other, and the clear throws', async (t) => {
  const { directory, backend, byOwner, pathOf, lockOf } = setup(t)
  const keys = Array.from({ length: 9 }, freshKey)
  for (const key of keys) await backend.generate(key, ownedEntry())
  const stuck = keys[4] as string
  const lock = lockOf(stuck)
  let isOver = false
  renameSync(`${lock}.free`, `${lock}.0`)
  const clearing = assert
    .rejects(async () => byOwner.clear(OWNER), { code: 'unavailable' })
    .finally(() => {
      isOver = true
    })
  // The lock is never free, and each time that a process looks, another ticket holds it.
  for (let n = 0; !isOver; ) {
    await setImmediate()
    renameSync(`${lock}.${n}`, `${lock}.${++n}`)
  }
  await clearing
  const others = keys.filter((key) => lockOf(key) !== lock)
  for (const key of others) assert.equal(existsSync(pathOf(key)), false)
  assert.ok(existsSync(pathOf(stuck)))
  const token = readdirSync(join(directory, 'locks')).find((name) => !name.endsWith('.free')) ?? assert.fail()
  renameSync(join(directory, 'locks', token), `${lock}.free`)
  assert.ok((await keysOf(byOwner)).includes(stuck), 'the next list finds it')
  assert.equal(await byOwner.clear(OWNER), keys.length - others.length)
})

test('list and clear read thousands of files and let other work run in between', async (t) => {
  const { backend, byOwner } = setup(t)
  for (let i = 0; i < 4000; i++) await backend.generate(freshKey(), i % 100 === 0 ? ownedEntry() : entryWith())
  for (const act of [() => byOwner.list(OWNER), () => byOwner.clear(OWNER)]) {
    let isOver = false
    const acting = Promise.resolve<unknown>(act()).finally(() => {
      isOver = true
    })
    let loops = 0
    for (; !isOver; loops++) await setImmediate()
    const answer = await acting
    assert.equal(Array.isArray(answer) ? answer.length : answer, 40)
    assert.ok(loops > 3, `${loops}`)
  }
})

suite('several processes', () => {
  /** Starts processes that generate sessions, and collects the keys that they print. */
  const writersIn = (t: TestContext, directory: string) => {
    const generated: string[] = []
    const writers: { readonly kill: () => Promise<void> }[] = []
    const add = () => {
      const { child, lines } = start(t, script, ['own', directory, OWNER])
      const reading = (async () => {
        for (let line = await lines.next(); !line.done; line = await lines.next()) generated.push(line.value)
      })()
      const kill = () => {
        child.kill('SIGKILL')
        return reading
      }
      writers.push({ kill })
    }
    return {
      generated,
      add,
      killFirst: () => writers.shift()?.kill(),
      waitForMore: async (count: number) => {
        const enough = generated.length + count
        // The writers pause while the folder is full.
        while (generated.length < enough && readdirSync(directory).length <= 100) await setImmediate()
      },
    }
  }

  test('every list finds a session that another process saves without a pause', async (t) => {
    const { directory, backend, byOwner } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '0', owner: OWNER }))
    for (let i = 0; i < 1000; i++) await backend.generate(freshKey(), entryWith())
    const { lines } = start(t, script, ['write', directory, key])
    await lines.next()
    for (let i = 0; i < runs(50); i++) assert.deepEqual(await retryIfStalled(() => keysOf(byOwner)), [key])
  })

  test('a clear ends every session that existed before it, and list finds every session, while three others write', async (t) => {
    const { directory, backend, byOwner, sessions } = setup(t)
    const { generated, add, killFirst, waitForMore } = writersIn(t, directory)
    add()
    add()
    start(t, script, ['list-and-sweep', directory, OWNER])
    let checked = 0
    for (let round = 0; round < 25; round++) {
      await waitForMore(20)
      const before = generated.slice(checked)
      await retryIfStalled(() => byOwner.clear(OWNER))
      for (const key of before) assert.equal(await backend.get(key), undefined, 'it existed before the clear')
      checked += before.length
    }
    await killFirst()
    await killFirst()
    const found = new Set(await retryIfStalled(() => keysOf(byOwner)))
    for (const key of generated) {
      assert.equal(found.has(key), (await backend.get(key)) !== undefined, 'list has every session')
    }
    await retryIfStalled(() => byOwner.clear(OWNER))
    for (const key of generated) assert.equal(await backend.get(key), undefined)
    assert.deepEqual(await retryIfStalled(() => keysOf(byOwner)), [])
    assert.deepEqual(sessions(), [])
    assert.ok(generated.length > 400, `${generated.length}`)
    t.diagnostic(`${generated.length} generated`)
  })

  test('after clears that were killed, the next clear finds every session', async (t) => {
    const { directory, backend, byOwner, sessions } = setup(t)
    const { generated, add, killFirst, waitForMore } = writersIn(t, directory)
    add()
    add()
    for (let kill = 1; kill <= 6; kill++) {
      const clearer = start(t, script, ['disown', directory, OWNER])
      await clearer.lines.next()
      await waitForMore(Math.random() * 20)
      // It dies during a clear.
      clearer.child.kill('SIGKILL')
      await clearer.ended
      const before = [...generated]
      if (kill % 2 === 0) {
        await retryIfStalled(() => byOwner.clear(OWNER))
        for (const key of before) assert.equal(await backend.get(key), undefined, 'the next clear has found it')
      }
      if (kill % 3 === 0) {
        await killFirst()
        add()
      }
    }
    await killFirst()
    await killFirst()
    await retryIfStalled(() => byOwner.clear(OWNER))
    for (const key of generated) assert.equal(await backend.get(key), undefined, 'the last clear has found it')
    assert.deepEqual(await retryIfStalled(() => keysOf(byOwner)), [])
    assert.deepEqual(sessions(), [])
    t.diagnostic(`${generated.length} generated`)
  })

  test('a process that is killed while it holds all locks delays others by two seconds at most, once', async (t) => {
    const { directory, backend, byOwner } = setup(t)
    const [key, other] = [freshKey(), freshKey()]
    await backend.generate(key, ownedEntry())
    const { child, lines, ended } = start(t, script, ['hold-all', directory])
    assert.equal((await lines.next()).value, 'held')
    child.kill('SIGKILL')
    await ended
    assert.equal(await retryIfStalled(() => byOwner.clear(OWNER)), 1)
    const tokens = readdirSync(join(directory, 'locks'))
    assert.ok(tokens.every((name) => name.endsWith('.free')))
    assert.equal(tokens.length, 256)
    assert.equal(
      backend.generate(other, entryWith({ version: freshVersion() })),
      undefined,
      'the next one does not wait',
    )
  })
})
