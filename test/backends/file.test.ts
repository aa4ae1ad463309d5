// Sessions as files: written in one step, private, and safe from concurrent processes and a sudden end.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { type Backend, type Entry, KeepsakeError, type Mark, type SessionEvent } from 'keepsake'
import { type FileOptions, fileBackend } from '../../src/backends/file/backend.ts'
import { fileOf, keyOf, slotOf } from '../../src/backends/file/file-name.ts'
import { decodeMetadata } from '../../src/session/metadata.ts'
import cases from '../data/file-cases.json' with { type: 'json' }
import { freshKey, freshVersion, entryWith as ownedEntryWith } from '../support/entries.ts'
import { folder } from '../support/folder.ts'
import { retryIfStalled } from '../support/lost.ts'
import { start, waitUntilStopped } from '../support/process.ts'
import { runs } from '../support/quick.ts'

// The tests use memory instead of a disk if the system has such a folder.
if (process.platform === 'linux' && existsSync('/dev/shm')) process.env.TMPDIR = '/dev/shm'

const script = 'test/support/file-process.ts'
const isRoot = process.geteuid?.() === 0
const NOBODY = 65_534
const MINUTE = 60_000
/** The names in a folder without sessions. */
const EMPTY = ['locks', 'quarantine']

/** The backend returns every property of an entry, also an owner that is undefined. */
const entryWith = (more: Partial<Entry> = {}): Entry => ownedEntryWith({ owner: undefined, ...more })

const markFor = (): Mark => ({ metadata: 'ended', expiresAt: Date.now() + MINUTE, version: freshVersion() })

type Setup = {
  readonly directory: string
  readonly backend: Backend
  readonly events: SessionEvent[]
  /** The path of the session of a key. */
  readonly pathOf: (key: string) => string
  /** The names in the directory that are no sessions. */
  readonly others: () => string[]
  readonly quarantined: () => string[]
}

const setup = (t: TestContext, options: FileOptions = {}, directory = join(folder(t), 'sessions')): Setup => {
  const events: SessionEvent[] = []
  const backend = fileBackend(directory, { ...options, onEvent: (event) => events.push(event) })
  t.after(() => backend.close?.())
  return {
    directory,
    backend,
    events,
    pathOf: (key) => join(directory, fileOf(key)),
    others: () =>
      readdirSync(directory)
        .filter((name) => keyOf(name) === undefined)
        .sort(),
    quarantined: () => readdirSync(join(directory, 'quarantine')),
  }
}

const lockOf = (directory: string, key: string) => join(directory, 'locks', slotOf(fileOf(key)))

const expand = (value: unknown): unknown => {
  if (typeof value !== 'object' || value === null || !('$repeat' in value)) return value
  const { $repeat, times } = value as { $repeat: string; times: number }
  return $repeat.repeat(times)
}

const withChecksum = (body: string) => `keepsake 1 ${createHash('sha256').update(body).digest('hex')}\n${body}`

/** The visitor is anonymous, one event is emitted, and the file is moved. The next request emits no event. */
const assertQuarantined = async ({ backend, events, pathOf, quarantined }: Setup, key: string): Promise<void> => {
  const [eventsBefore, filesBefore] = [events.length, quarantined().length]
  assert.equal(await backend.get(key), undefined)
  assert.deepEqual(
    events.slice(eventsBefore).map((event) => event.type),
    ['corrupt_entry'],
  )
  assert.match(events.at(-1)?.message ?? '', /quarantine/)
  assert.equal(existsSync(pathOf(key)), false, 'the file is moved')
  assert.equal(quarantined().length, filesBefore + 1, 'to quarantine')
  assert.equal(await backend.get(key), undefined)
  assert.equal(events.length, eventsBefore + 1, 'the next request emits no event')
}

/** Takes the lock of a key, like a process that then dies. */
const leaveLocked = (directory: string, key: string, ticket: string = randomUUID()): void =>
  renameSync(`${lockOf(directory, key)}.free`, `${lockOf(directory, key)}.${ticket}`)

suite('a file', () => {
  for (const umask of [0o000, 0o022]) {
    test(`is for one user alone under umask 0${umask.toString(8)}`, async (t) => {
      const before = process.umask(umask)
      t.after(() => process.umask(before))
      const { backend, directory } = setup(t)
      const key = freshKey()
      const entry = entryWith()
      await backend.generate(key, entry)
      await backend.set(key, { value: '{}', metadata: '', version: freshVersion() }, entry.version)
      await backend.keepSecret?.('s')
      assert.equal(statSync(directory).mode & 0o777, 0o700)
      for (const found of readdirSync(directory, { recursive: true, withFileTypes: true })) {
        const { mode } = statSync(join(found.parentPath, found.name))
        assert.equal((mode & 0o777).toString(8), found.isDirectory() ? '700' : '600', found.name)
      }
    })
  }

  test('is named after its key, so an operator finds the file of a label, and no other file remains', async (t) => {
    const { directory, backend, others } = setup(t)
    const key = 'sid.Q2hhcmxvdHRl'
    await backend.generate(key, entryWith())
    await backend.touch(key, 9e15)
    assert.ok(existsSync(join(directory, 'session.sid.Q2hhcmxvdHRl.0806')))
    assert.deepEqual(others(), EMPTY)
    await backend.clear(key)
    assert.deepEqual(readdirSync(directory).sort(), EMPTY)
    assert.equal(readdirSync(join(directory, 'locks')).filter((name) => name.endsWith('.free')).length, 256)
  })

  test('has a name that no other key has, even if the file system ignores case, and that is legal everywhere', () => {
    const keys = cases.names.map(({ value }) => expand(value) as string)
    for (let i = 0; i < 2000; i++) keys.push(`sid.${randomBytes(9).toString('base64url')}`)
    for (let bits = 0; bits < 4096; bits++) {
      keys.push([...'abcdefabcdef'].map((letter, at) => ((bits >> at) & 1 ? letter.toUpperCase() : letter)).join(''))
    }
    const names = keys.map(fileOf)
    assert.equal(new Set(names.map((name) => name.toLowerCase())).size, keys.length)
    assert.deepEqual(names.map(keyOf), keys, 'the key can be read from the name')
    for (const name of names) assert.match(name, /^session\.[A-Za-z0-9._-]{0,80}[0-9a-f]$/)
    for (const name of ['session.sid.A.0', 'session.sid.a', 'SESSION.sid.a.00', 'session.sid.a.00.x', 'session..0']) {
      assert.equal(keyOf(name), undefined, name)
    }
  })

  test('has one of 256 locks, and labels are spread over all of them', () => {
    const slots = new Set(Array.from({ length: 5000 }, () => slotOf(fileOf(freshKey()))))
    assert.equal(slots.size, 256)
  })

  for (const { name, value } of cases.names) {
    test(`keeps a session under every legal key: ${name}`, async (t) => {
      const { directory, backend, others } = setup(t)
      const key = expand(value) as string
      const entry = entryWith()
      const outside = readdirSync(join(directory, '..'))
      assert.equal(await backend.generate(key, entry), undefined)
      assert.deepEqual(await backend.get(key), entry)
      assert.deepEqual((await backend.scan?.(undefined, 10))?.entries, [{ ...entry, key }])
      assert.deepEqual(others(), EMPTY)
      assert.deepEqual(readdirSync(join(directory, '..')), outside)
      assert.equal(await backend.clear(key), undefined)
      assert.equal(await backend.get(key), undefined)
    })
  }

  test('can be read by an operator, and shows by its SHA-256 that it is complete', async (t) => {
    const { backend, pathOf } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '{"cart":[1]}', version: 'v', expiresAt: 7, owner: 'Zoë' }))
    const [first = '', ...lines] = readFileSync(pathOf(key), 'utf8').split('\n')
    assert.deepEqual(lines, ['{"version":"v","expiresAt":7,"metadata":"1.abc","owner":"Zoë"}', '{"cart":[1]}', ''])
    const sum = execFileSync('sh', ['-c', 'tail -n +2 "$0" | sha256sum', pathOf(key)], { encoding: 'utf8' })
    assert.equal(first, `keepsake 1 ${sum.slice(0, 64)}`)
  })

  for (const { name, value } of cases.keys) {
    test(`is never named by a value that is no key: ${name}`, async (t) => {
      const { directory, backend } = setup(t)
      const key = expand(value) as string
      const before = readdirSync(directory, { recursive: true })
      const change = { value: '{}', metadata: '', version: 'b' }
      if (typeof key === 'string') assert.equal(await backend.get(key), undefined)
      else await assert.rejects(async () => backend.get(key), TypeError)
      for (const act of [
        () => backend.generate(key, entryWith()),
        () => backend.set(key, change, 'a'),
        () => backend.clear(key),
        () => backend.touch(key, 9e15),
      ]) {
        await assert.rejects(async () => act(), TypeError)
      }
      assert.deepEqual(readdirSync(directory, { recursive: true }), before)
    })
  }

  for (const { name, value } of cases.values) {
    test(`keeps a value like any other: ${name}`, async (t) => {
      const { backend } = setup(t)
      const key = freshKey()
      const entry = entryWith({ value: expand(value) as string })
      await backend.generate(key, entry)
      assert.deepEqual(await backend.get(key), entry)
      assert.equal(Object.hasOwn(Object.prototype, 'admin') || Object.hasOwn(Object.prototype, 'x'), false)
    })
  }

  test('is not written if it could not be read: the expiry must be a number', async (t) => {
    const { directory, backend } = setup(t)
    for (const expiresAt of [Number.NaN, Number.POSITIVE_INFINITY]) {
      await assert.rejects(async () => backend.generate(freshKey(), entryWith({ expiresAt })), TypeError)
    }
    assert.deepEqual(readdirSync(directory).sort(), EMPTY)
  })
})

suite('an unreadable file makes its visitor anonymous, once, and is moved to quarantine', () => {
  for (const { name, value } of cases.files) {
    test(name, async (t) => {
      const files = setup(t)
      const key = freshKey()
      writeFileSync(files.pathOf(key), expand(value) as string)
      await assertQuarantined(files, key)
      assert.equal(await files.backend.generate(key, entryWith()), undefined, 'the key is free again')
    })
  }
  for (const { name, value } of cases.about) {
    test(`under a correct checksum: ${name}`, async (t) => {
      const files = setup(t)
      const key = freshKey()
      writeFileSync(files.pathOf(key), withChecksum(`${expand(value)}\n{}\n`))
      await assertQuarantined(files, key)
    })
  }

  test('cut short, or ending in NULs, at any byte', async (t) => {
    const files = setup(t)
    const key = freshKey()
    const entry = entryWith({ owner: 'Zoë 🦊' })
    await files.backend.generate(key, entry)
    const whole = readFileSync(files.pathOf(key))
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(files.pathOf(key), whole.subarray(0, length))
      await assertQuarantined(files, key)
      writeFileSync(files.pathOf(key), Buffer.alloc(whole.length).fill(whole.subarray(0, length), 0, length))
      await assertQuarantined(files, key)
    }
    writeFileSync(files.pathOf(key), whole)
    assert.deepEqual(await files.backend.get(key), entry, 'the complete file is read')
  })

  test('with any one bit changed, except the number of its format', async (t) => {
    const files = setup(t)
    const key = freshKey()
    await files.backend.generate(key, entryWith())
    const whole = readFileSync(files.pathOf(key))
    const format = 'keepsake 1'.length - 1
    for (let at = 0; at < whole.length; at++) {
      if (at === format) continue
      const changed = Buffer.from(whole)
      changed[at] = (whole[at] as number) ^ (1 << (at % 8))
      writeFileSync(files.pathOf(key), changed)
      await assertQuarantined(files, key)
    }
  })

  const planted: Record<string, (path: string, t: TestContext) => unknown> = {
    'a symbolic link to a session': (path, t) => {
      const elsewhere = join(folder(t), 'elsewhere')
      writeFileSync(elsewhere, withChecksum(`${JSON.stringify(entryWith())}\n{}\n`))
      symlinkSync(elsewhere, path)
    },
    'a symbolic link to nothing': (path) => symlinkSync('nowhere', path),
    'a directory': (path) => mkdirSync(path),
    'a FIFO': (path) => execFileSync('mkfifo', [path]),
    'a socket': (path, t) =>
      new Promise<void>((resolve) => {
        const server = createServer().listen(path, resolve)
        t.after(() => server.close())
      }),
  }
  for (const [name, plant] of Object.entries(planted)) {
    test(`${name} in the place of a file`, async (t) => {
      // A socket's path may have no more than 108 characters.
      const files = setup(t, {}, join(folder(t), 's'))
      const key = freshKey()
      await plant(files.pathOf(key), t)
      assert.equal(await files.backend.generate(key, entryWith()), 'taken')
      assert.equal(await files.backend.set(key, { value: '', metadata: '', version: 'b' }, 'a'), 'gone')
      assert.equal(await files.backend.touch(key, 9e15), undefined)
      assert.equal(await files.backend.clear(key, 'a'), 'stale')
      await assertQuarantined(files, key)
      await plant(files.pathOf(key), t)
      assert.equal(await files.backend.clear(key), undefined)
      assert.equal(await files.backend.generate(key, entryWith()), undefined, 'after a clear the key is free')
    })
  }

  test('also if a sweep finds it', async (t) => {
    const { backend, events, pathOf, quarantined } = setup(t)
    writeFileSync(pathOf(freshKey()), 'not a session')
    assert.equal(await backend.sweep?.(Date.now(), 100), 0)
    assert.equal(events.length, 1)
    assert.equal(quarantined().length, 1)
  })
})

test('a file of a newer version is an entry that cannot be read: it is left in its place, and a logout ends it', async (t) => {
  const { backend, events, pathOf, quarantined } = setup(t)
  const key = freshKey()
  const text = 'keepsake 2 another\nformat'
  writeFileSync(pathOf(key), text)
  const found = await backend.get(key)
  assert.ok(found && found.value === undefined && found.expiresAt > Date.now())
  assert.equal(decodeMetadata(found.metadata), undefined, 'the manager recognises that it cannot read it')
  assert.equal(await backend.generate(key, entryWith()), 'taken')
  assert.equal(await backend.set(key, { value: '', metadata: '', version: freshVersion() }, found.version), 'stale')
  assert.equal(await backend.clear(key, found.version), 'stale')
  assert.equal(await backend.clear(key, found.version, markFor()), 'stale')
  assert.equal(await backend.touch(key, 9e15), undefined)
  assert.equal(await backend.sweep?.(9e15, 100), 0)
  assert.deepEqual((await backend.scan?.(undefined, 10))?.entries, [], 'it is not copied to another store')
  assert.equal(readFileSync(pathOf(key), 'utf8'), text)
  assert.deepEqual(quarantined(), [])
  assert.deepEqual(events, [], 'the manager emits the event, because it knows the label')
  const mark = markFor()
  assert.equal(await backend.clear(key, undefined, mark), undefined)
  assert.deepEqual(await backend.get(key), { value: undefined, owner: undefined, ...mark })
  writeFileSync(pathOf(key), text)
  assert.equal(await backend.clear(key), undefined)
  assert.equal(existsSync(pathOf(key)), false)
})

suite('a mark', () => {
  test('has no owner, and a sweep removes it when it has expired', async (t) => {
    const { directory, backend } = setup(t)
    const [one, two] = [freshKey(), freshKey()]
    await backend.generate(one, entryWith({ owner: 'bob' }))
    await backend.generate(two, entryWith({ owner: 'anna' }))
    const mark = markFor()
    await backend.clear(one, undefined, mark)
    assert.equal(await backend.byOwner?.clear('anna', undefined, mark), 1)
    assert.deepEqual(await backend.byOwner?.list('anna'), [])
    assert.equal(await backend.sweep?.(mark.expiresAt - 1, 100), 0)
    assert.equal(await backend.sweep?.(mark.expiresAt, 100), 2)
    assert.deepEqual(readdirSync(directory).sort(), EMPTY)
  })

  test('does not replace an unreadable file: that is moved to quarantine', async (t) => {
    const { backend, pathOf, quarantined } = setup(t)
    const key = freshKey()
    for (const plant of [() => writeFileSync(pathOf(key), 'broken'), () => mkdirSync(pathOf(key))]) {
      plant()
      assert.equal(await backend.clear(key, 'version1', markFor()), 'stale')
      assert.equal(await backend.clear(key, undefined, markFor()), undefined)
      assert.equal(await backend.get(key), undefined)
    }
    assert.equal(quarantined().length, 2)
  })
})

test('a file that another user wrote is no session, and is moved to quarantine', async (t) => {
  if (!isRoot) return t.diagnostic('skipped: it needs root')
  const files = setup(t)
  const key = freshKey()
  await files.backend.generate(key, entryWith({ owner: 'anna' }))
  chownSync(files.pathOf(key), NOBODY, NOBODY)
  await assertQuarantined(files, key)
  assert.match(files.events[0]?.message ?? '', /belongs to user 65534/)
})

suite('a directory is refused', () => {
  const refused: Record<string, (path: string) => void> = {
    'that all users may write to': (path) => {
      mkdirSync(path)
      chmodSync(path, 0o777)
    },
    'that all users may write to, with the sticky bit': (path) => {
      mkdirSync(path)
      chmodSync(path, 0o1777)
    },
    'that a group may write to': (path) => {
      mkdirSync(path)
      chmodSync(path, 0o770)
    },
    'that is a symbolic link': (path) => {
      mkdirSync(`${path}.real`)
      symlinkSync(`${path}.real`, path)
    },
    'that is a file': (path) => writeFileSync(path, ''),
    'whose quarantine leads elsewhere': (path) => {
      mkdirSync(path)
      symlinkSync('/tmp', join(path, 'quarantine'))
    },
    'whose locks lead elsewhere': (path) => {
      mkdirSync(path)
      symlinkSync('/tmp', join(path, 'locks'))
    },
  }
  if (isRoot) {
    refused['that belongs to another user'] = (path) => {
      mkdirSync(path)
      chownSync(path, NOBODY, NOBODY)
    }
  }
  for (const [name, plant] of Object.entries(refused)) {
    test(name, (t) => {
      const path = join(folder(t), 'sessions')
      plant(path)
      const before = readdirSync(join(path, '..'))
      for (const given of [path, `${path}/`]) {
        assert.throws(
          () => fileBackend(given),
          (error) =>
            error instanceof KeepsakeError &&
            error.code === 'invalid_option' &&
            error.message.includes(path) &&
            error.message.includes('symbolic link') === /symbolic|elsewhere/.test(name),
        )
      }
      assert.deepEqual(readdirSync(join(path, '..')), before)
    })
  }

  test('whose parent does not exist, with a message about the next step', (t) => {
    assert.throws(() => fileBackend(join(folder(t), 'no', 'sessions')), { code: 'unavailable', message: /Give a path/ })
  })
  test('that has no name', () => {
    for (const name of ['', undefined, 7]) assert.throws(() => fileBackend(name as string), { code: 'invalid_option' })
    assert.throws(() => fileBackend('x', { durability: 'moon' as 'power' }), { code: 'invalid_option' })
  })
})

suite('an error is never an absence', () => {
  test('a directory that is gone', async (t) => {
    const { directory, backend } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith())
    renameSync(directory, `${directory}.away`)
    mkdirSync(directory)
    const change = { value: '', metadata: '', version: 'b' }
    for (const act of [() => backend.get(key), () => backend.set(key, change, 'a'), () => backend.clear(key)]) {
      await assert.rejects(async () => act(), { code: 'unavailable' })
    }
    rmSync(directory, { recursive: true })
    await assert.rejects(async () => backend.get(key))
    renameSync(`${directory}.away`, directory)
    assert.ok(await backend.get(key))
  })

  test('a directory that was replaced by another: nothing in it is read or written', async (t) => {
    const { directory, backend } = setup(t)
    const other = setup(t, {}, `${directory}.other`)
    const [mine, theirs] = [freshKey(), freshKey()]
    await backend.generate(mine, entryWith())
    await backend.keepSecret?.('mine')
    await other.backend.generate(theirs, entryWith({ owner: 'anna' }))
    await other.backend.keepSecret?.('theirs')
    const before = readdirSync(other.directory, { recursive: true }).sort()
    renameSync(directory, `${directory}.away`)
    renameSync(other.directory, directory)
    const change = { value: '', metadata: '', version: freshVersion() }
    for (const act of [
      () => backend.get(mine),
      () => backend.get(theirs),
      () => backend.generate(freshKey(), entryWith({ owner: 'anna' })),
      () => backend.set(theirs, change, 'a'),
      () => backend.clear(theirs),
      () => backend.clear(theirs, undefined, markFor()),
      () => backend.touch(theirs, 9e15),
      () => backend.sweep?.(9e15, 100),
      () => backend.scan?.(undefined, 100),
      () => backend.keepSecret?.('another'),
      () => backend.byOwner?.list('anna'),
      () => backend.byOwner?.clear('anna'),
    ]) {
      await assert.rejects(async () => act(), {
        code: 'unavailable',
        message: /was replaced by another.*restart/,
      })
    }
    assert.deepEqual(readdirSync(directory, { recursive: true }).sort(), before)
    renameSync(directory, other.directory)
    symlinkSync(other.directory, directory)
    await assert.rejects(async () => backend.get(theirs), { code: 'unavailable' }, 'also if a link leads to another')
    rmSync(directory)
    renameSync(`${directory}.away`, directory)
    assert.ok(await backend.get(mine))
  })

  test('no space: the old session stays, no draft stays, and ended sessions free space', async (t) => {
    let mounted = false
    // This runs before the removal of the folder, which is registered next.
    t.after(() => mounted && execFileSync('umount', ['-l', path]))
    const path = join(folder(t), 'small')
    mkdirSync(path)
    mounted = isRoot && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k,mode=0700', 'tmpfs', path]).status === 0
    if (!mounted) return t.diagnostic('skipped: it needs root and mount')
    const { backend, others } = setup(t, {}, join(path, 'sessions'))
    const first = freshKey()
    const entry = entryWith()
    await backend.generate(first, entry)
    const owned = freshKey()
    await backend.generate(owned, entryWith({ owner: 'anna' }))
    const keys: string[] = []
    const fill = async () => {
      for (;;) {
        const key = freshKey()
        await backend.generate(key, entryWith({ value: 'x'.repeat(3000) }))
        keys.push(key)
      }
    }
    await assert.rejects(fill, { code: 'ENOSPC' })
    const change = { value: 'x'.repeat(20_000), metadata: '', version: freshVersion() }
    await assert.rejects(async () => backend.set(first, change, entry.version), { code: 'ENOSPC' })
    assert.deepEqual(await backend.get(first), entry)
    for (const key of keys) assert.ok(await backend.get(key))
    assert.deepEqual(others(), EMPTY)
    assert.ok(readdirSync(join(path, 'sessions', 'locks')).every((name) => name.endsWith('.free')))
    assert.equal(await backend.clear(first, freshVersion(), markFor()), 'stale')
    assert.equal(await backend.clear(first, entry.version, markFor()), undefined, 'a logout ends the session')
    assert.equal(
      await backend.byOwner?.clear('anna', undefined, markFor()),
      1,
      'and revokeAll ends the sessions of an owner',
    )
    for (const key of [first, owned]) {
      assert.ok([undefined, 'ended'].includes((await backend.get(key))?.metadata), 'with a mark or without')
    }
    assert.equal(await backend.sweep?.(9e15, 1), 1)
    for (const key of keys) await backend.clear(key)
    assert.equal(await backend.generate(freshKey(), entryWith({ value: 'x'.repeat(3000) })), undefined)
  })

  test('no more files can be opened: nothing is lost, and it works again when they can', async (t) => {
    const { backend, directory, others } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '1' }))
    const run = `ulimit -n 60; exec "$0" ${script} starve "$1" "$2"`
    const { stdout, stderr } = spawnSync('sh', ['-c', run, process.execPath, directory, key], { encoding: 'utf8' })
    assert.equal(stderr, '')
    assert.deepEqual(JSON.parse(stdout), [...Array(6).fill('EMFILE'), '1', null])
    assert.deepEqual(others(), EMPTY)
  })

  test('no permission: the session stays', async (t) => {
    const parent = folder(t)
    const directory = join(parent, 'sessions')
    const key = freshKey()
    chmodSync(parent, 0o777)
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [script, 'deny', directory, key, join(directory, fileOf(key))],
      { encoding: 'utf8', ...(isRoot && { uid: NOBODY, gid: NOBODY }) },
    )
    if (stderr.includes('EACCES') && stdout === '')
      return t.diagnostic('skipped: the user nobody cannot read these sources')
    assert.equal(stderr, '')
    assert.deepEqual(JSON.parse(stdout), ['EACCES', 'EACCES', '1', 'EACCES', 'EACCES'])
  })
})

suite('durability power', () => {
  const strace = spawnSync('strace', ['-V']).status === 0
  const trace = (args: readonly string[], directory: string, key: string) => {
    const options = ['-f', '-qq', '-e', 'signal=none', '-e', 'trace=openat,fsync,rename', ...args]
    const run = spawnSync('strace', [...options, process.execPath, script, 'flush', directory, key], {
      encoding: 'utf8',
    })
    return { outcome: run.stdout.trim(), calls: run.stderr }
  }

  test('the draft is flushed, then renamed, then its directory flushed', async (t) => {
    if (!strace) return t.diagnostic('skipped: strace is not installed')
    const { backend, directory, pathOf } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '1' }))
    const { outcome, calls } = trace([], directory, key)
    assert.equal(outcome, 'done')
    const steps = calls
      .split('\n')
      .filter((line) => /\.tmp"|fsync\(|quarantine|sessions", O_RDONLY\|O_CLOEXEC/.test(line))
    const kinds = steps.map((line) =>
      /fsync\(/.test(line)
        ? 'fsync'
        : /openat\(.*\.tmp", /.test(line)
          ? 'draft'
          : /rename\(/.test(line)
            ? 'rename'
            : 'directory',
    )
    assert.deepEqual(kinds, ['draft', 'fsync', 'rename', 'directory', 'fsync'], calls)
    assert.match(steps[0] ?? '', /O_EXCL.*, 0600\)/)
    assert.ok(steps[2]?.includes(pathOf(key)))
  })

  test('a flush that fails is an error, and the old session stays', async (t) => {
    if (!strace) return t.diagnostic('skipped: strace is not installed')
    const { backend, directory, others } = setup(t)
    const key = freshKey()
    const entry = entryWith({ value: '1' })
    await backend.generate(key, entry)
    assert.equal(trace(['-e', 'inject=fsync:error=EIO'], directory, key).outcome, 'EIO')
    assert.deepEqual(await backend.get(key), entry)
    assert.deepEqual(others(), EMPTY)
    const renaming = trace(['-e', 'inject=fsync:error=EIO:when=2'], directory, key)
    assert.equal(renaming.outcome, 'EIO', 'also if the directory cannot be flushed')
  })
})

const COUNT = runs(1000)

suite('several processes', () => {
  test(`four count 4 × ${COUNT} increments as ${4 * COUNT}, after a process died with the lock`, async (t) => {
    const { backend, directory, events, others } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '0' }))
    leaveLocked(directory, key)
    const children = Array.from({ length: 4 }, () => start(t, script, ['count', directory, key, String(COUNT)]))
    for (const { ended, errors } of children) assert.equal(await ended, 0, errors())
    assert.equal((await backend.get(key))?.value, String(4 * COUNT))
    assert.deepEqual(others(), EMPTY)
    assert.deepEqual(events, [])
  })

  test('25 kills lose no acknowledged change, leave no unreadable file, and block no other process', async (t) => {
    const { backend, directory, events } = setup(t)
    const killFiveTimes = async () => {
      const key = freshKey()
      await backend.generate(key, entryWith({ value: '0' }))
      for (let kill = 1; kill <= 5; kill++) {
        const { child, lines, ended } = start(t, script, ['write', directory, key])
        let acknowledged = 0
        for (let i = Math.random() * 60; i > 0; i--) acknowledged = Number((await lines.next()).value)
        child.kill('SIGKILL')
        for (let line = await lines.next(); !line.done; line = await lines.next()) acknowledged = Number(line.value)
        await ended
        const entry = await backend.get(key)
        const n = Number(entry?.value)
        assert.ok(n === acknowledged || n === acknowledged + 1, `${n} of ${acknowledged}`)
        const change = { value: `${n}`, metadata: '', version: freshVersion() }
        const set = () => backend.set(key, change, entry?.version ?? '')
        assert.equal(await retryIfStalled(set), undefined, 'others can write')
      }
    }
    await Promise.all(Array.from({ length: 5 }, killFiveTimes))
    assert.deepEqual(events, [])
    await backend.sweep?.(Date.now() + 11 * MINUTE, 0)
  })

  test('a process that is killed with a lock delays others for two seconds at most', async (t) => {
    const { backend, directory } = setup(t)
    const key = freshKey()
    const entry = entryWith()
    await backend.generate(key, entry)
    const { child, lines, ended } = start(t, script, ['hold', directory, slotOf(fileOf(key))])
    assert.equal((await lines.next()).value, 'held')
    child.kill('SIGKILL')
    await ended
    assert.deepEqual(await backend.get(key), entry, 'a reader does not wait')
    // A call throws after two seconds, so this one is done sooner.
    assert.equal(await retryIfStalled(() => backend.clear(key, entry.version)), undefined)
    assert.equal(backend.clear(key), undefined, 'and the next one does not wait at all')
  })

  for (const act of ['write', 'remove']) {
    test(`a process that stops with a lock cannot ${act} later, after others have changed the session`, async (t) => {
      const { backend, directory, others } = setup(t)
      const key = freshKey()
      const entry = entryWith()
      await backend.generate(key, entry)
      const { child, lines } = start(t, script, ['stop', directory, key, act])
      while (readdirSync(join(directory, 'locks')).includes(`${slotOf(fileOf(key))}.free`)) await setImmediate()
      await waitUntilStopped(child.pid as number)
      const change = { value: '{"n":2}', metadata: '', version: freshVersion() }
      assert.equal(await retryIfStalled(() => backend.set(key, change, entry.version)), undefined)
      child.kill('SIGCONT')
      assert.equal((await lines.next()).value, '2', 'it lost the lock and took it again')
      assert.deepEqual(await backend.get(key), { ...entry, ...change })
      assert.deepEqual(others(), EMPTY)
    })
  }

  test('a token that was removed is created again', async (t) => {
    const { backend, directory } = setup(t)
    const key = freshKey()
    rmSync(`${lockOf(directory, key)}.free`)
    assert.equal(await backend.generate(key, entryWith()), undefined)
    assert.ok(existsSync(`${lockOf(directory, key)}.free`))
  })

  test('after two seconds of waiting a call throws that nothing was changed, and it blocks no other work', async (t) => {
    const { backend, directory } = setup(t)
    const key = freshKey()
    let ticket = randomUUID()
    leaveLocked(directory, key, ticket)
    const lock = lockOf(directory, key)
    let isOver = false
    const waiting = (async () => backend.generate(key, entryWith()))().finally(() => {
      isOver = true
    })
    const refused = assert.rejects(waiting, { code: 'unavailable', message: /Nothing was changed/ })
    let loops = 0
    // The lock is never free, and each time that the call looks, another ticket holds it.
    for (; !isOver; loops++) {
      await setImmediate()
      const next = randomUUID()
      renameSync(`${lock}.${ticket}`, `${lock}.${next}`)
      ticket = next
    }
    await refused
    assert.ok(loops > 20, `${loops} rounds of the event loop: the call waits without blocking it`)
  })
})

suite('a secret', () => {
  test('is the same for concurrent calls', async (t) => {
    const { directory } = setup(t)
    // All calls find no secret, and wait for the lock of a dead process.
    renameSync(join(directory, 'locks', '00.free'), join(directory, 'locks', `00.${randomUUID()}`))
    const secrets = ['a', 'b', 'c', 'd'].map((fresh) => {
      const { backend } = setup(t, {}, directory)
      const asked = () => backend.keepSecret?.(fresh)
      let first: ReturnType<typeof asked> | undefined = asked()
      assert.ok(first instanceof Promise)
      return retryIfStalled(() => {
        const answer = first ?? asked()
        first = undefined
        return answer
      })
    })
    const kept = await Promise.all(secrets)
    assert.deepEqual(kept, Array(4).fill(kept[0]))
    assert.equal(await setup(t, {}, directory).backend.keepSecret?.('e'), kept[0])
  })

  test('is never used if it was cut short or is no regular file', async (t) => {
    const { backend, directory } = setup(t)
    const path = join(directory, 'secret')
    assert.equal(await backend.keepSecret?.('a secret of mine'), 'a secret of mine')
    const whole = readFileSync(path)
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(path, whole.subarray(0, length))
      await assert.rejects(async () => backend.keepSecret?.('another'), { code: 'unavailable', message: /Put a copy/ })
      assert.deepEqual(readFileSync(path), whole.subarray(0, length), 'the file is left for the operator')
    }
    rmSync(path)
    symlinkSync('/etc/hostname', path)
    await assert.rejects(async () => backend.keepSecret?.('another'), { code: 'unavailable' })
    rmSync(path)
    assert.equal(await backend.keepSecret?.('another'), 'another')
  })
})

suite('a sweep', () => {
  test('leaves foreign files, and removes the leftovers of dead processes after ten minutes', async (t) => {
    const { backend, directory, others } = setup(t)
    const foreign = ['README.txt', '.hidden', 'a'.repeat(63), 'A'.repeat(64), `${randomUUID()}.tmp.old`, '.x.tmp']
    for (const name of foreign) writeFileSync(join(directory, name), 'mine')
    mkdirSync(join(directory, 'folder'))
    const [draft, young, tokens] = [`${randomUUID()}.tmp`, `${randomUUID()}.tmp`, `locks.${randomUUID()}.new`]
    writeFileSync(join(directory, draft), 'half')
    writeFileSync(join(directory, young), 'half')
    mkdirSync(join(directory, tokens))
    writeFileSync(join(directory, tokens, '00.free'), '')
    await backend.keepSecret?.('s')
    const now = Date.now()
    const old = (now - 10 * MINUTE - 1_000) / 1000
    for (const name of [...foreign, draft, tokens]) utimesSync(join(directory, name), old, old)
    assert.equal(await backend.sweep?.(now, 100), 0)
    assert.deepEqual(others(), [...foreign, 'folder', 'locks', 'quarantine', 'secret', young].sort())
  })

  test('never removes a session that was touched during the sweep', async (t) => {
    const { backend, directory } = setup(t)
    let swept = 0
    // Until a sweep happens between a generate and a touch at least once.
    while (swept === 0) {
      const { lines, ended, errors } = start(t, script, ['revive', directory, freshKey(), String(runs(600))])
      let isOver = false
      const end = ended.finally(() => {
        isOver = true
      })
      while (!isOver) {
        swept += (await retryIfStalled(() => backend.sweep?.(Date.now(), 100))) ?? 0
        await setImmediate()
      }
      assert.equal(await end, 0, errors())
      assert.equal((await lines.next()).value, '0')
    }
  })

  test('looks at ten thousand files at most, lets other work run in between, and continues after the last file', async (t) => {
    const { backend, directory, pathOf } = setup(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ expiresAt: 1 }))
    // ext4 allows 65 000 links to a file.
    for (let i = 1; i < 12_000; i++) linkSync(pathOf(key), join(directory, fileOf(freshKey())))
    let between = 0
    let isOver = false
    const first = Promise.resolve(backend.sweep?.(Date.now(), 1e9)).finally(() => {
      isOver = true
    })
    while (!isOver) {
      await setImmediate()
      between++
    }
    const swept = (await first) ?? 0
    assert.ok(swept > 9_900 && swept <= 10_000, `${swept}`)
    assert.ok(between > 20, `${between}`)
    assert.equal(swept + ((await backend.sweep?.(Date.now(), 1e9)) ?? 0), 12_000)
  })
})

test('a relative path is resolved once, so a later chdir of the process changes nothing', async (t) => {
  const before = process.cwd()
  t.after(() => process.chdir(before))
  const parent = folder(t)
  process.chdir(parent)
  const backend = fileBackend('sessions')
  process.chdir(resolve('/'))
  const key = freshKey()
  await backend.generate(key, entryWith())
  assert.ok(existsSync(join(parent, 'sessions', fileOf(key))))
})
