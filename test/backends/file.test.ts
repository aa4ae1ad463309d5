// Sessions as files: whole or not there, out of the reach of others, and safe from two processes and a sudden end.

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
import { decodeMetadata } from '../../src/session/metadata.ts'
import cases from '../data/file-cases.json' with { type: 'json' }
import { folder } from '../support/folder.ts'
import { retryIfStalled } from '../support/lost.ts'
import { start, waitUntilStopped } from '../support/process.ts'
import { runs } from '../support/quick.ts'

// In memory where that is to be had: what is tested here is no disk.
if (process.platform === 'linux' && existsSync('/dev/shm')) process.env.TMPDIR = '/dev/shm'

const script = 'test/support/file-process.ts'
const root = process.geteuid?.() === 0
const NOBODY = 65_534
const MINUTE = 60_000

const freshKey = () => randomBytes(32).toString('base64url')
const freshVersion = () => randomBytes(6).toString('base64url')
const nameOf = (key: string) => Buffer.from(key, 'base64url').toString('hex')
const slotOf = (key: string) => nameOf(key).slice(0, 2)

const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: '1.abc',
  expiresAt: Date.now() + MINUTE,
  version: freshVersion(),
  owner: undefined,
  ...more,
})

const markFor = (): Mark => ({ metadata: 'ended', expiresAt: Date.now() + MINUTE, version: freshVersion() })

type Place = {
  readonly directory: string
  readonly backend: Backend
  readonly events: SessionEvent[]
  /** Where the session of a key lies. */
  readonly pathOf: (key: string) => string
  /** What lies in the directory and is no session. */
  readonly others: () => string[]
  readonly quarantined: () => string[]
}

const place = (t: TestContext, options: FileOptions = {}, directory = join(folder(t), 'sessions')): Place => {
  const events: SessionEvent[] = []
  const backend = fileBackend(directory, { ...options, onEvent: (event) => events.push(event) })
  t.after(() => backend.close?.())
  return {
    directory,
    backend,
    events,
    pathOf: (key) => join(directory, nameOf(key)),
    others: () =>
      readdirSync(directory)
        .filter((name) => !/^[0-9a-f]{64}$/.test(name))
        .sort(),
    quarantined: () => readdirSync(join(directory, 'quarantine')),
  }
}

const filled = (value: unknown): unknown => {
  if (typeof value !== 'object' || value === null || !('$repeat' in value)) return value
  const { $repeat, times } = value as { $repeat: string; times: number }
  return $repeat.repeat(times)
}

const proved = (body: string) => `keepsake 1 ${createHash('sha256').update(body).digest('hex')}\n${body}`

/** Nothing opens: a stranger, one event, the file out of the way, and no second event. */
const quarantines = async ({ backend, events, pathOf, quarantined }: Place, key: string): Promise<void> => {
  const [before, kept] = [events.length, quarantined().length]
  assert.equal(await backend.get(key), undefined)
  assert.deepEqual(
    events.slice(before).map((event) => event.type),
    ['corrupt_entry'],
  )
  assert.match(events.at(-1)?.message ?? '', /quarantine/)
  assert.equal(existsSync(pathOf(key)), false, 'it lies there no more')
  assert.equal(quarantined().length, kept + 1, 'it lies in quarantine')
  assert.equal(await backend.get(key), undefined)
  assert.equal(events.length, before + 1, 'the next request does not fail again')
}

/** Has somebody take the turn of a key and die in it. */
const die = (directory: string, key: string, ticket: string = randomUUID()): void =>
  renameSync(join(directory, 'locks', `${slotOf(key)}.free`), join(directory, 'locks', `${slotOf(key)}.${ticket}`))

suite('a file', () => {
  for (const umask of [0o000, 0o022]) {
    test(`is for its owner alone under umask 0${umask.toString(8)}`, async (t) => {
      const before = process.umask(umask)
      t.after(() => process.umask(before))
      const { backend, directory } = place(t)
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

  test('is named after the bytes of its key, and nothing else lies beside it', async (t) => {
    const { directory, backend, pathOf, others } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith())
    await backend.touch(key, 9e15)
    assert.ok(existsSync(pathOf(key)))
    assert.deepEqual(others(), ['locks', 'owners', 'quarantine'])
    await backend.clear(key)
    assert.deepEqual(readdirSync(directory).sort(), ['locks', 'owners', 'quarantine'])
    assert.equal(readdirSync(join(directory, 'locks')).filter((name) => name.endsWith('.free')).length, 256)
  })

  test('can be read, and proved whole, by an operator', async (t) => {
    const { backend, pathOf } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '{"cart":[1]}', version: 'v', expiresAt: 7, owner: 'Zoë' }))
    const [first = '', ...lines] = readFileSync(pathOf(key), 'utf8').split('\n')
    assert.deepEqual(lines, ['{"version":"v","expiresAt":7,"metadata":"1.abc","owner":"Zoë"}', '{"cart":[1]}', ''])
    const sum = execFileSync('sh', ['-c', 'tail -n +2 "$0" | sha256sum', pathOf(key)], { encoding: 'utf8' })
    assert.equal(first, `keepsake 1 ${sum.slice(0, 64)}`)
  })

  for (const { name, value } of cases.keys) {
    test(`is reached by no key that is none: ${name}`, async (t) => {
      const { directory, backend } = place(t)
      const key = filled(value) as string
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
      const { backend } = place(t)
      const key = freshKey()
      const entry = entryWith({ value: filled(value) as string })
      await backend.generate(key, entry)
      assert.deepEqual(await backend.get(key), entry)
      assert.equal(Object.hasOwn(Object.prototype, 'admin') || Object.hasOwn(Object.prototype, 'x'), false)
    })
  }

  test('is never written that could not be read: an expiry has to be a number', async (t) => {
    const { directory, backend } = place(t)
    for (const expiresAt of [Number.NaN, Number.POSITIVE_INFINITY]) {
      await assert.rejects(async () => backend.generate(freshKey(), entryWith({ expiresAt })), TypeError)
    }
    assert.deepEqual(readdirSync(directory).sort(), ['locks', 'owners', 'quarantine'])
  })
})

suite('what cannot be read makes a stranger, once, and is moved to quarantine', () => {
  for (const { name, value } of cases.files) {
    test(name, async (t) => {
      const here = place(t)
      const key = freshKey()
      writeFileSync(here.pathOf(key), filled(value) as string)
      await quarantines(here, key)
      assert.equal(await here.backend.generate(key, entryWith()), undefined, 'the key is free again')
    })
  }
  for (const { name, value } of cases.about) {
    test(`under a right checksum: ${name}`, async (t) => {
      const here = place(t)
      const key = freshKey()
      writeFileSync(here.pathOf(key), proved(`${filled(value)}\n{}\n`))
      await quarantines(here, key)
    })
  }

  test('cut short, or ending in NULs, at any byte', async (t) => {
    const here = place(t)
    const key = freshKey()
    const entry = entryWith({ owner: 'Zoë 🦊' })
    await here.backend.generate(key, entry)
    const whole = readFileSync(here.pathOf(key))
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(here.pathOf(key), whole.subarray(0, length))
      await quarantines(here, key)
      writeFileSync(here.pathOf(key), Buffer.alloc(whole.length).fill(whole.subarray(0, length), 0, length))
      await quarantines(here, key)
    }
    writeFileSync(here.pathOf(key), whole)
    assert.deepEqual(await here.backend.get(key), entry, 'whole, it is read')
  })

  test('with any one bit turned, but for the bits of the number of its format', async (t) => {
    const here = place(t)
    const key = freshKey()
    await here.backend.generate(key, entryWith())
    const whole = readFileSync(here.pathOf(key))
    const format = 'keepsake 1'.length - 1
    for (let at = 0; at < whole.length; at++) {
      if (at === format) continue
      const turned = Buffer.from(whole)
      turned[at] = (whole[at] as number) ^ (1 << (at % 8))
      writeFileSync(here.pathOf(key), turned)
      await quarantines(here, key)
    }
  })

  const planted: Record<string, (path: string, t: TestContext) => unknown> = {
    'a symbolic link to a session': (path, t) => {
      const elsewhere = join(folder(t), 'elsewhere')
      writeFileSync(elsewhere, proved(`${JSON.stringify(entryWith())}\n{}\n`))
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
      const here = place(t, {}, join(folder(t), 's'))
      const key = freshKey()
      await plant(here.pathOf(key), t)
      assert.equal(await here.backend.generate(key, entryWith()), 'taken')
      assert.equal(await here.backend.set(key, { value: '', metadata: '', version: 'b' }, 'a'), 'gone')
      assert.equal(await here.backend.touch(key, 9e15), undefined)
      assert.equal(await here.backend.clear(key, 'a'), 'stale')
      await quarantines(here, key)
      await plant(here.pathOf(key), t)
      assert.equal(await here.backend.clear(key), undefined)
      assert.equal(await here.backend.generate(key, entryWith()), undefined, 'clear made room')
    })
  }

  test('in a sweep, too', async (t) => {
    const { backend, events, pathOf, quarantined } = place(t)
    writeFileSync(pathOf(freshKey()), 'nothing of ours')
    assert.equal(await backend.sweep?.(Date.now(), 100), 0)
    assert.equal(events.length, 1)
    assert.equal(quarantined().length, 1)
  })
})

test("a file of a newer version is an entry that cannot be read: left alone, in nobody's way, and a logout ends it", async (t) => {
  const { backend, events, pathOf, quarantined } = place(t)
  const key = freshKey()
  const text = 'keepsake 2 whatever\ncomes then'
  writeFileSync(pathOf(key), text)
  const there = await backend.get(key)
  assert.ok(there && there.value === undefined && there.expiresAt > Date.now())
  assert.equal(decodeMetadata(there.metadata), undefined, 'the layers above see that they cannot read it')
  assert.equal(await backend.generate(key, entryWith()), 'taken')
  assert.equal(await backend.set(key, { value: '', metadata: '', version: freshVersion() }, there.version), 'stale')
  assert.equal(await backend.clear(key, there.version), 'stale')
  assert.equal(await backend.clear(key, there.version, markFor()), 'stale')
  assert.equal(await backend.touch(key, 9e15), undefined)
  assert.equal(await backend.sweep?.(9e15, 100), 0)
  assert.deepEqual((await backend.scan?.(undefined, 10))?.entries, [], 'it is not copied to another store')
  assert.equal(readFileSync(pathOf(key), 'utf8'), text)
  assert.deepEqual(quarantined(), [])
  assert.deepEqual(events, [], 'it is told by who knows the label')
  const mark = markFor()
  assert.equal(await backend.clear(key, undefined, mark), undefined)
  assert.deepEqual(await backend.get(key), { value: undefined, owner: undefined, ...mark })
  writeFileSync(pathOf(key), text)
  assert.equal(await backend.clear(key), undefined)
  assert.equal(existsSync(pathOf(key)), false)
})

suite('a mark', () => {
  test('leaves nothing of the owner behind, and goes when it has expired', async (t) => {
    const { directory, backend } = place(t)
    const [one, two] = [freshKey(), freshKey()]
    await backend.generate(one, entryWith({ owner: 'bob' }))
    await backend.generate(two, entryWith({ owner: 'anna' }))
    const mark = markFor()
    await backend.clear(one, undefined, mark)
    assert.equal(await backend.byOwner?.clear('anna', undefined, mark), 1)
    assert.deepEqual(readdirSync(join(directory, 'owners')), [])
    assert.equal(await backend.sweep?.(mark.expiresAt - 1, 100), 0)
    assert.equal(await backend.sweep?.(mark.expiresAt, 100), 2)
    assert.deepEqual(readdirSync(directory).sort(), ['locks', 'owners', 'quarantine'])
  })

  test('is not left in the place of what cannot be read: that goes to quarantine', async (t) => {
    const { backend, pathOf, quarantined } = place(t)
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

test('a file that another user wrote is no session, and goes to quarantine', async (t) => {
  if (!root) return t.diagnostic('left out: it takes root')
  const here = place(t)
  const key = freshKey()
  await here.backend.generate(key, entryWith({ owner: 'anna' }))
  chownSync(here.pathOf(key), NOBODY, NOBODY)
  await quarantines(here, key)
  assert.match(here.events[0]?.message ?? '', /belongs to user 65534/)
})

suite('a directory is refused', () => {
  const refused: Record<string, (path: string) => void> = {
    'that everybody may write to': (path) => {
      mkdirSync(path)
      chmodSync(path, 0o777)
    },
    'that everybody may write to, though each only remove his own': (path) => {
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
  if (root) {
    refused['that belongs to another'] = (path) => {
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

  test('whose parent is not there, and the message says what to do', (t) => {
    assert.throws(() => fileBackend(join(folder(t), 'no', 'sessions')), { code: 'unavailable', message: /Give a path/ })
  })
  test('that has no name', () => {
    for (const name of ['', undefined, 7]) assert.throws(() => fileBackend(name as string), { code: 'invalid_option' })
    assert.throws(() => fileBackend('x', { durability: 'moon' as 'power' }), { code: 'invalid_option' })
  })
})

suite('an error is no absence', () => {
  test('a directory that has gone', async (t) => {
    const { directory, backend } = place(t)
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

  test('a directory that was replaced by another, though it is as good: nothing of it is believed, or written', async (t) => {
    const { directory, backend } = place(t)
    const other = place(t, {}, `${directory}.other`)
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
        message: /is another than at the start.*start again/,
      })
    }
    assert.deepEqual(readdirSync(directory, { recursive: true }).sort(), before)
    renameSync(directory, other.directory)
    symlinkSync(other.directory, directory)
    await assert.rejects(async () => backend.get(theirs), { code: 'unavailable' }, 'nor by a link to another')
    rmSync(directory)
    renameSync(`${directory}.away`, directory)
    assert.ok(await backend.get(mine))
  })

  test('no space: the old session stays, no draft stays, and what ended makes room', async (t) => {
    let mounted = false
    // Before the folder is removed, whose removal is registered next.
    t.after(() => mounted && execFileSync('umount', ['-l', path]))
    const path = join(folder(t), 'small')
    mkdirSync(path)
    mounted = root && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k,mode=0700', 'tmpfs', path]).status === 0
    if (!mounted) return t.diagnostic('left out: it takes root and mount')
    const { backend, others } = place(t, {}, join(path, 'sessions'))
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
    assert.deepEqual(others(), ['locks', 'owners', 'quarantine'])
    assert.ok(readdirSync(join(path, 'sessions', 'locks')).every((name) => name.endsWith('.free')))
    assert.equal(await backend.clear(first, freshVersion(), markFor()), 'stale')
    assert.equal(await backend.clear(first, entry.version, markFor()), undefined, 'a logout ends the session')
    assert.equal(await backend.byOwner?.clear('anna', undefined, markFor()), 1, 'and so does the end of an owner')
    for (const key of [first, owned]) {
      assert.ok([undefined, 'ended'].includes((await backend.get(key))?.metadata), 'with its mark, or without')
    }
    assert.equal(await backend.sweep?.(9e15, 1), 1)
    for (const key of keys) await backend.clear(key)
    assert.equal(await backend.generate(freshKey(), entryWith({ value: 'x'.repeat(3000) })), undefined)
  })

  test('no more files can be opened: nothing is lost, and it works again when they can', async (t) => {
    const { backend, directory, others } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '1' }))
    const run = `ulimit -n 60; exec "$0" ${script} starve "$1" "$2"`
    const { stdout, stderr } = spawnSync('sh', ['-c', run, process.execPath, directory, key], { encoding: 'utf8' })
    assert.equal(stderr, '')
    assert.deepEqual(JSON.parse(stdout), ['EMFILE', 'EMFILE', 'EMFILE', 'EMFILE', 'EMFILE', '1', null])
    assert.deepEqual(others(), ['locks', 'owners', 'quarantine'])
  })

  test('no permission: the session stays', async (t) => {
    const parent = folder(t)
    const directory = join(parent, 'sessions')
    const key = freshKey()
    chmodSync(parent, 0o777)
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [script, 'deny', directory, key, join(directory, nameOf(key))],
      { encoding: 'utf8', ...(root && { uid: NOBODY, gid: NOBODY }) },
    )
    if (stderr.includes('EACCES') && stdout === '') return t.diagnostic('left out: nobody may not read these sources')
    assert.equal(stderr, '')
    assert.deepEqual(JSON.parse(stdout), ['EACCES', 'EACCES', '1', 'EACCES', 'EACCES'])
  })
})

suite('durability power', () => {
  const strace = spawnSync('strace', ['-V']).status === 0
  const traced = (args: readonly string[], directory: string, key: string, deed = 'flush') => {
    const traced = ['-f', '-qq', '-e', 'signal=none', '-e', 'trace=openat,fsync,rename', ...args]
    const run = spawnSync('strace', [...traced, process.execPath, script, deed, directory, key], {
      encoding: 'utf8',
    })
    return { said: run.stdout.trim(), calls: run.stderr }
  }

  test('the draft is flushed, then renamed, then its directory flushed', async (t) => {
    if (!strace) return t.diagnostic('left out: there is no strace')
    const { backend, directory, pathOf } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '1' }))
    const { said, calls } = traced([], directory, key)
    assert.equal(said, 'done')
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

  test('the mark of an owner is flushed before the session is put', async (t) => {
    if (!strace) return t.diagnostic('left out: there is no strace')
    const { directory } = place(t)
    const key = freshKey()
    const { said, calls } = traced([], directory, key, 'flush-owned')
    assert.equal(said, 'done')
    const steps = calls
      .split('\n')
      .filter((line) => /owners|fsync\(|\.tmp"/.test(line))
      .map((line) =>
        /fsync/.test(line) ? 'fsync' : (/owners\/[0-9a-f]{64}(\/)?|owners(?=")|tmp(?=")/.exec(line)?.[0] ?? line),
      )
      .map((step) => (step.startsWith('owners/') ? (step.endsWith('/') ? 'mark' : 'folder of the owner') : step))
    const put = steps.indexOf('tmp')
    assert.ok(put > 0, calls)
    const before = steps.slice(0, put).join(', ')
    assert.match(before, /owners, fsync, mark, folder of the owner, fsync$/, calls)
  })

  test('a flush that fails is an error, and the old session stays', async (t) => {
    if (!strace) return t.diagnostic('left out: there is no strace')
    const { backend, directory, others } = place(t)
    const key = freshKey()
    const entry = entryWith({ value: '1' })
    await backend.generate(key, entry)
    assert.equal(traced(['-e', 'inject=fsync:error=EIO'], directory, key).said, 'EIO')
    assert.deepEqual(await backend.get(key), entry)
    assert.deepEqual(others(), ['locks', 'owners', 'quarantine'])
    const renaming = traced(['-e', 'inject=fsync:error=EIO:when=2'], directory, key)
    assert.equal(renaming.said, 'EIO', 'also where the directory cannot be flushed')
  })
})

const COUNT = runs(1000)

suite('several processes', () => {
  test(`four count 4 × ${COUNT} increments as ${4 * COUNT}, over somebody who died in his turn`, async (t) => {
    const { backend, directory, events, others } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ value: '0' }))
    die(directory, key)
    const children = Array.from({ length: 4 }, () => start(t, script, ['count', directory, key, String(COUNT)]))
    for (const { ended, errors } of children) assert.equal(await ended, 0, errors())
    assert.equal((await backend.get(key))?.value, String(4 * COUNT))
    assert.deepEqual(others(), ['locks', 'owners', 'quarantine'])
    assert.deepEqual(events, [])
  })

  test('25 kills lose nothing that was acknowledged, leave no file that cannot be read, and hold nobody up', async (t) => {
    const { backend, directory, events } = place(t)
    const lane = async () => {
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
        assert.equal(await retryIfStalled(set), undefined, 'others can go on')
      }
    }
    await Promise.all([lane(), lane(), lane(), lane(), lane()])
    assert.deepEqual(events, [])
    await backend.sweep?.(Date.now() + 11 * MINUTE, 0)
  })

  test('who is killed in his turn holds up others for two seconds at most', async (t) => {
    const { backend, directory } = place(t)
    const key = freshKey()
    const entry = entryWith()
    await backend.generate(key, entry)
    const { child, lines, ended } = start(t, script, ['hold', directory, slotOf(key)])
    assert.equal((await lines.next()).value, 'held')
    child.kill('SIGKILL')
    await ended
    assert.deepEqual(await backend.get(key), entry, 'a reader waits for nobody')
    // A call waits for two seconds and then throws, so it is done sooner.
    assert.equal(await retryIfStalled(() => backend.clear(key, entry.version)), undefined)
    assert.equal(backend.clear(key), undefined, 'and the next one does not wait at all')
  })

  for (const deed of ['write', 'remove']) {
    test(`who stands still in his turn while others go on can ${deed} nothing of theirs`, async (t) => {
      const { backend, directory, others } = place(t)
      const key = freshKey()
      const entry = entryWith()
      await backend.generate(key, entry)
      const { child, lines } = start(t, script, ['stand', directory, key, deed])
      while (readdirSync(join(directory, 'locks')).includes(`${slotOf(key)}.free`)) await setImmediate()
      await waitUntilStopped(child.pid as number)
      const change = { value: '{"n":2}', metadata: '', version: freshVersion() }
      assert.equal(await retryIfStalled(() => backend.set(key, change, entry.version)), undefined)
      child.kill('SIGCONT')
      assert.equal((await lines.next()).value, '2', 'it heard that its turn was over, and took another')
      assert.deepEqual(await backend.get(key), { ...entry, ...change })
      assert.deepEqual(others(), ['locks', 'owners', 'quarantine'])
    })
  }

  test('a token that somebody took away comes back', async (t) => {
    const { backend, directory } = place(t)
    const key = freshKey()
    rmSync(join(directory, 'locks', `${slotOf(key)}.free`))
    assert.equal(await backend.generate(key, entryWith()), undefined)
    assert.ok(existsSync(join(directory, 'locks', `${slotOf(key)}.free`)))
  })

  test('who waits for more than two seconds hears that nothing was changed, and holds up nobody meanwhile', async (t) => {
    const { backend, directory } = place(t)
    const key = freshKey()
    let ticket = randomUUID()
    die(directory, key, ticket)
    const locks = join(directory, 'locks')
    let over = false
    const waiting = (async () => backend.generate(key, entryWith()))().finally(() => {
      over = true
    })
    const refused = assert.rejects(waiting, { code: 'unavailable', message: /Nothing was changed/ })
    let loops = 0
    // One turn after the other, another whenever it looks, and the token never free.
    for (; !over; loops++) {
      await setImmediate()
      const next = randomUUID()
      renameSync(join(locks, `${slotOf(key)}.${ticket}`), join(locks, `${slotOf(key)}.${next}`))
      ticket = next
    }
    await refused
    assert.ok(loops > 20, `${loops} turns of the loop: it waits for two seconds, and blocks for none of them`)
  })
})

suite('a secret', () => {
  test('is one for all who ask at once', async (t) => {
    const { directory } = place(t)
    // All find none, and wait for one who died in their turn.
    die(directory, 'A'.repeat(43))
    const told = ['a', 'b', 'c', 'd'].map((fresh) => {
      const { backend } = place(t, {}, directory)
      const asked = () => backend.keepSecret?.(fresh)
      let first: ReturnType<typeof asked> | undefined = asked()
      assert.ok(first instanceof Promise)
      return retryIfStalled(() => {
        const answer = first ?? asked()
        first = undefined
        return answer
      })
    })
    const kept = await Promise.all(told)
    assert.deepEqual(kept, Array(4).fill(kept[0]))
    assert.equal(await place(t, {}, directory).backend.keepSecret?.('e'), kept[0])
  })

  test('is never used when it was cut short, or is no file', async (t) => {
    const { backend, directory } = place(t)
    const path = join(directory, 'secret')
    assert.equal(await backend.keepSecret?.('a secret of mine'), 'a secret of mine')
    const whole = readFileSync(path)
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(path, whole.subarray(0, length))
      await assert.rejects(async () => backend.keepSecret?.('another'), { code: 'unavailable', message: /Put a copy/ })
      assert.deepEqual(readFileSync(path), whole.subarray(0, length), 'it is left for its owner to look at')
    }
    rmSync(path)
    symlinkSync('/etc/hostname', path)
    await assert.rejects(async () => backend.keepSecret?.('another'), { code: 'unavailable' })
    rmSync(path)
    assert.equal(await backend.keepSecret?.('another'), 'another')
  })
})

suite('a sweep', () => {
  test('leaves what is not ours, and removes what a dead process left when it is ten minutes old', async (t) => {
    const { backend, directory, others } = place(t)
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
    assert.deepEqual(others(), [...foreign, 'folder', 'locks', 'owners', 'quarantine', 'secret', young].sort())
  })

  test('never removes a session that was touched while it looked', async (t) => {
    const { backend, directory } = place(t)
    let swept = 0
    // Until it came between a begin and a touch at least once.
    while (swept === 0) {
      const { lines, ended, errors } = start(t, script, ['revive', directory, freshKey(), String(runs(600))])
      let over = false
      const end = ended.finally(() => {
        over = true
      })
      while (!over) {
        swept += (await retryIfStalled(() => backend.sweep?.(Date.now(), 100))) ?? 0
        await setImmediate()
      }
      assert.equal(await end, 0, errors())
      assert.equal((await lines.next()).value, '0')
    }
  })

  test('looks at ten thousand files at most, lets others in between, and goes on where it stopped', async (t) => {
    const { backend, directory, pathOf } = place(t)
    const key = freshKey()
    await backend.generate(key, entryWith({ expiresAt: 1 }))
    // ext4 allows 65 000 links to a file.
    for (let i = 1; i < 12_000; i++) linkSync(pathOf(key), join(directory, randomBytes(32).toString('hex')))
    let between = 0
    let over = false
    const first = Promise.resolve(backend.sweep?.(Date.now(), 1e9)).finally(() => {
      over = true
    })
    while (!over) {
      await setImmediate()
      between++
    }
    const swept = (await first) ?? 0
    assert.ok(swept > 9_900 && swept <= 10_000, `${swept}`)
    assert.ok(between > 20, `${between}`)
    assert.equal(swept + ((await backend.sweep?.(Date.now(), 1e9)) ?? 0), 12_000)
  })
})

test('the address of the directory is the one it was opened with, wherever the process goes', async (t) => {
  const before = process.cwd()
  t.after(() => process.chdir(before))
  const parent = folder(t)
  process.chdir(parent)
  const backend = fileBackend('sessions')
  process.chdir(resolve('/'))
  const key = freshKey()
  await backend.generate(key, entryWith())
  assert.ok(existsSync(join(parent, 'sessions', nameOf(key))))
})
