// The contract of a backend as test cases: data that any test runner can run.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Backend, Change, Entry, Mark, OwnerIndex } from '../backends/contract.ts'
import type { Awaitable } from '../error.ts'

export type BackendCase = {
  /** The promise. */
  readonly name: string
  /** The reason why the case does not apply to this backend. Undefined if it applies. */
  exempt(backend: Backend): string | undefined
  /**
   * Rejects if the backend breaks the promise.
   *
   * @param open returns a handle on the store under test: each time another handle on the same store, if it can have several
   */
  run(open: () => Awaitable<Backend>): Promise<void>
}

const freshKey = (): string => `cases.${randomBytes(9).toString('base64url')}`
/** A key as keepsake makes it: a stateless backend makes the first session cookie of it. */
const clientKey = (): string => randomBytes(32).toString('base64url')
const freshVersion = (): string => randomBytes(6).toString('base64url')

const HOUR = 3_600_000

const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: '1.abc.def',
  expiresAt: Date.now() + HOUR,
  version: freshVersion(),
  ...more,
})

const markFor = (milliseconds = HOUR): Mark => ({
  metadata: 'ended',
  expiresAt: Date.now() + milliseconds,
  version: freshVersion(),
})

/** A mark as `get` returns it. */
const asEntry = (mark: Mark): Entry => ({ value: undefined, ...mark })

/** The part of an entry that the cases compare: an undefined owner may be missing, and a stateless backend adds a label. */
const comparable = (entry: Entry | undefined): unknown => {
  if (entry === undefined) return undefined
  const { label: _, ...rest } = entry
  return { ...rest, value: entry.value, owner: entry.owner ?? undefined }
}

const assertSame = (entry: Entry | undefined, expected: Entry, promise: string): void =>
  assert.deepEqual(comparable(entry), comparable(expected), promise)

const unlessStateless = (backend: Backend): string | undefined =>
  backend.stateless ? 'it stores nothing: the key is the session' : undefined

const unlessStoring = (backend: Backend): string | undefined => (backend.stateless ? undefined : 'it stores entries')

type Run = BackendCase['run']

/** A case for backends that store entries. */
const storing = (name: string, run: Run): BackendCase => ({ name, exempt: unlessStateless, run })

/** A case for every backend. A stateless one gets the name of a cookie and a fresh key, and returns the new cookie value. */
const any = (name: string, run: Run): BackendCase => ({ name, exempt: () => undefined, run })

const NAME = 'sid'

/** The key in the answer of a stateless backend. */
const keyOf = (answer: unknown): string | undefined => {
  const { held } = (answer ?? {}) as { held?: unknown }
  return typeof held === 'string' ? `${NAME}=${held}` : undefined
}

/** Generates an entry, and returns its key. */
const generate = async (backend: Backend, entry: Entry): Promise<string> => {
  const key = backend.stateless ? `${NAME}=${clientKey()}` : freshKey()
  const answer = await backend.generate(key, entry)
  if (backend.stateless) return keyOf(answer) ?? assert.fail('generate returns the new cookie value')
  assert.equal(answer, undefined, 'generate inserts an entry with a fresh key')
  return key
}

/** Changes an entry, and returns the key that finds it afterwards. */
const change = async (backend: Backend, key: string, next: Change, version: string): Promise<string> => {
  const answer = await backend.set(key, next, version)
  if (backend.stateless) return keyOf(answer) ?? assert.fail('set returns the new cookie value')
  assert.equal(answer, undefined, 'set with the present version is stored')
  return key
}

/** Generates a session and changes it once. `key` finds it before the change, and `next` afterwards. */
const generateAndChange = async (backend: Backend) => {
  const entry = entryWith()
  const key = await generate(backend, entry)
  const update = { value: '{}', metadata: 'h', version: freshVersion() }
  return { entry, key, update, next: await change(backend, key, update, entry.version) }
}

/** A case for stateless backends that remember ends. It begins with a session that was changed once. */
const remembering = (
  name: string,
  run: (backend: Backend, changed: Awaited<ReturnType<typeof generateAndChange>>) => Promise<void>,
): BackendCase => ({
  name,
  exempt: (backend) => unlessStoring(backend) ?? (backend.revocable ? undefined : 'it remembers no ends'),
  async run(open) {
    const backend = await open()
    await run(backend, await generateAndChange(backend))
  },
})

/** Checks that an ended session cannot be changed. */
const assertEnded = async (backend: Backend, key: string, update: Change, entry: Entry): Promise<void> => {
  assert.equal(await backend.set(key, update, entry.version), 'gone')
  assert.equal(await backend.touch(key, entry.expiresAt + 1), undefined)
}

/** Moves the expiry, and returns the key that finds the entry afterwards. */
const touch = async (backend: Backend, key: string, expiresAt: number): Promise<string> => {
  const answer = await backend.touch(key, expiresAt)
  if (!backend.stateless) assert.equal(answer, undefined, 'touch returns undefined')
  return keyOf(answer) ?? key
}

/** Adds a field by compare-and-set, and tries again as often as necessary. */
const addField = async (backend: Backend, key: string, field: string): Promise<void> => {
  for (let tries = 0; tries < 10_000; tries++) {
    const entry = await backend.get(key)
    assert.ok(entry, 'the entry exists while others write')
    const value = JSON.stringify({ ...JSON.parse(entry.value ?? '{}'), [field]: true })
    const outcome = await backend.set(key, { value, metadata: entry.metadata, version: freshVersion() }, entry.version)
    assert.notEqual(outcome, 'gone', 'an entry that was not cleared is not gone')
    if (outcome !== 'stale') return
  }
  assert.fail('one of many concurrent writers never succeeded')
}

const roundTrip = async (open: () => Awaitable<Backend>, fields: unknown): Promise<void> => {
  const backend = await open()
  const value = JSON.stringify(fields)
  const entry = entryWith({ value })
  const key = await generate(backend, entry)
  assertSame(await backend.get(key), entry, 'get returns exactly the value of generate')
  const update = { value: JSON.stringify([fields]), metadata: '1.x', version: freshVersion() }
  const next = await change(backend, key, update, entry.version)
  assertSame(await backend.get(next), { ...entry, ...update }, 'get returns exactly the value of set')
}

/** A case for backends that find entries by their owner. */
const owning = (name: string, run: Run): BackendCase => ({
  name,
  exempt: (backend) =>
    unlessStateless(backend) ?? (backend.byOwner ? undefined : 'it cannot find entries by their owner'),
  run,
})

const freshOwner = (): string => `app:${freshVersion()}`

const indexOf = (backend: Backend): OwnerIndex =>
  backend.byOwner ?? assert.fail('every handle finds entries by their owner')

/** Entries with their keys in a fixed order, because `list` promises none. */
const ordered = (entries: Iterable<readonly [string, Entry]>): unknown =>
  [...entries].map(([key, entry]) => [key, comparable(entry)] as const).sort(([a], [b]) => (a < b ? -1 : 1))

/** Asserts that an owner has exactly these entries. */
const assertListed = async (
  backend: Backend,
  owner: string,
  expected: Iterable<readonly [string, Entry]>,
  promise: string,
): Promise<void> => {
  const found = await indexOf(backend).list(owner)
  assert.deepEqual(ordered(found.map(({ key, ...entry }) => [key, entry])), ordered(expected), promise)
}

/** Names that a collation, a pattern, a separator or a limit of a database may confuse with each other. */
const confusable: readonly string[] = [
  ...['anna', 'Anna', 'ANNA', 'anna ', 'anna  ', ' anna', 'anna\t', 'anna\n', 'anna\nanna', 'ann', 'annaa', 'a', 'á'],
  ...[
    'e\u0301',
    '\u00e9',
    'ß',
    'ss',
    'ı',
    'i',
    'I',
    'İ',
    'ﬀ',
    'ff',
    '\u00c5',
    '\u212b',
    'あ',
    'ア',
    'ｱ',
    'a\u200b',
    'a\u00ad',
  ],
  ...['🦊', '🐺', '🦊🦊', '%', '_', '*', '?', '[a]', '{a}', '\\', '\\\\', "'", "''", '"', '`', '1', '01', '1.0', '1e0'],
  ...['..', '../anna', '/', 'anna/anna', 'app:anna', 'anna:anna', ':', 'null', 'undefined', '__proto__', 'toString'],
  ...['🦊'.repeat(255), `${'🦊'.repeat(254)}🐺`, `🐺${'🦊'.repeat(254)}`, '🦊'.repeat(254)],
]

/** The contract of `Backend`, one promise in each case. Cases that need a store do not apply to a stateless backend. */
export const backendCases: readonly BackendCase[] = [
  any('get returns undefined for a key that was never generated', async (open) => {
    const backend = await open()
    assert.equal(await backend.get(freshKey()), undefined)
    assert.equal(await backend.get(`${NAME}=${clientKey()}`), undefined)
  }),
  any('generate inserts an entry, and get returns all of it', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'Zoë 🦊' })
    assertSame(await backend.get(await generate(backend, entry)), entry, 'get returns the whole entry')
  }),
  storing('generate returns taken if the key has an entry, and does not change the entry', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    assert.equal(await backend.generate(key, entryWith({ value: '{"n":2}' })), 'taken')
    assertSame(await backend.get(key), entry, 'the first entry stays as it is')
  }),
  storing('of many concurrent generates of one key, one inserts and the others return taken', async (open) => {
    const backend = await open()
    const key = freshKey()
    const answers = await Promise.all(Array.from({ length: 20 }, async () => backend.generate(key, entryWith())))
    assert.equal(answers.filter((answer) => answer !== 'taken').length, 1)
  }),
  storing('generate returns undefined again if a driver sends it twice', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    assert.equal(await backend.generate(key, entry), undefined)
    assertSame(await backend.get(key), entry, 'the second call changes nothing')
  }),
  any('a value may be undefined', async (open) => {
    const backend = await open()
    const entry = entryWith({ value: undefined })
    let key = await generate(backend, entry)
    assertSame(await backend.get(key), entry, 'get returns undefined for undefined')
    const update = { value: '{}', metadata: 'h', version: freshVersion() }
    key = await change(backend, key, update, entry.version)
    assertSame(await backend.get(key), { ...entry, ...update }, 'set replaces undefined by a value')
    const withoutValue = { value: undefined, metadata: 'h', version: freshVersion() }
    key = await change(backend, key, withoutValue, update.version)
    assertSame(await backend.get(key), { ...entry, ...withoutValue }, 'set replaces a value by undefined')
  }),
  any('set replaces the entry that has the version', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'anna' })
    const key = await generate(backend, entry)
    const update = { value: '{"n":2}', metadata: '1.other', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    const next = await change(backend, key, update, entry.version)
    assertSame(
      await backend.get(next),
      { ...entry, ...update },
      'value, metadata, version and expiry are new, and the owner stays',
    )
  }),
  storing('set returns stale if the entry has another version, and changes nothing', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    const update = { value: '{"n":2}', metadata: 'h', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    assert.equal(await backend.set(key, update, freshVersion()), 'stale')
    assertSame(await backend.get(key), entry, 'the entry stays as it is')
  }),
  storing('set returns gone if there is no entry, and creates none', async (open) => {
    const backend = await open()
    const key = freshKey()
    const update = { value: '{}', metadata: 'h', version: freshVersion(), expiresAt: Date.now() + HOUR }
    assert.equal(await backend.set(key, update, freshVersion()), 'gone')
    assert.equal(await backend.get(key), undefined, 'an ended session stays ended')
  }),
  storing('set returns undefined again if a driver sends it twice', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    const update = { value: '{"n":2}', metadata: 'h', version: freshVersion() }
    await backend.set(key, update, entry.version)
    assert.equal(await backend.set(key, update, entry.version), undefined)
    assertSame(await backend.get(key), { ...entry, ...update }, 'the second call changes nothing')
  }),
  any('set without an expiry keeps the expiry', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    const next = await change(backend, key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version)
    assert.equal((await backend.get(next))?.expiresAt, entry.expiresAt)
  }),
  any('touch moves the expiry forward and changes nothing else', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'anna' })
    const key = await generate(backend, entry)
    const next = await touch(backend, key, entry.expiresAt + 1)
    assertSame(
      await backend.get(next),
      { ...entry, expiresAt: entry.expiresAt + 1 },
      'the expiry is one millisecond later, and all else is the same',
    )
  }),
  any('touch never moves the expiry back', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    const next = await touch(backend, key, entry.expiresAt - 1)
    assertSame(await backend.get(next), entry, 'the later expiry stays')
  }),
  storing('touch creates no entry if there is none', async (open) => {
    const backend = await open()
    const key = freshKey()
    await backend.touch(key, Date.now() + HOUR)
    assert.equal(await backend.get(key), undefined, 'an ended session stays ended')
  }),
  storing('clear removes the entry, and a second clear is no error', async (open) => {
    const backend = await open()
    const key = await generate(backend, entryWith())
    assert.equal(await backend.clear(key), undefined)
    assert.equal(await backend.get(key), undefined, 'the entry is gone')
    assert.equal(await backend.clear(key), undefined)
  }),
  storing('clear with a version removes only the entry that has it', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generate(backend, entry)
    assert.equal(await backend.clear(key, freshVersion()), 'stale')
    assertSame(await backend.get(key), entry, 'an entry with another version stays as it is')
    assert.equal(await backend.clear(key, entry.version), undefined)
    assert.equal(await backend.get(key), undefined, 'the entry with the version is gone')
    assert.equal(await backend.clear(key, entry.version), 'stale', 'no entry has the version any more')
  }),
  storing('clear with a mark puts the mark in the place of the entry', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const mark = markFor()
    const update = { value: '{"n":2}', metadata: 'h', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    for (const version of [undefined, entry.version]) {
      const key = await generate(backend, entry)
      assert.equal(await backend.clear(key, version, mark), undefined)
      assertSame(await backend.get(key), asEntry(mark), 'get returns the whole mark')
      assert.equal(await backend.set(key, update, entry.version), 'stale', 'a late set finds another version')
      assertSame(await backend.get(key), asEntry(mark), 'the late set changes nothing')
      assert.equal(await backend.generate(key, entry), 'taken', 'generate does not replace the mark')
      assert.equal(await backend.clear(key, version, mark), undefined, 'a driver may send the call twice')
      assert.equal(
        await backend.clear(key, entry.version, markFor()),
        'stale',
        'a second clear with another mark comes too late',
      )
      assertSame(await backend.get(key), asEntry(mark), 'the first mark stays')
      assert.equal(await backend.clear(key), undefined)
      assert.equal(await backend.get(key), undefined, 'a clear without a mark removes the mark')
    }
  }),
  storing('clear leaves no mark if it removed no entry', async (open) => {
    const backend = await open()
    const key = freshKey()
    assert.equal(await backend.clear(key, undefined, markFor()), undefined)
    assert.equal(await backend.get(key), undefined)
    assert.equal(await backend.clear(key, freshVersion(), markFor()), 'stale')
    assert.equal(await backend.get(key), undefined)
    const entry = entryWith()
    const other = await generate(backend, entry)
    assert.equal(await backend.clear(other, freshVersion(), markFor()), 'stale')
    assertSame(await backend.get(other), entry, 'an entry with another version stays as it is')
  }),
  storing('after a concurrent clear with a mark and set, only the mark is left, in either order', async (open) => {
    const [one, other] = [await open(), await open()]
    for (let i = 0; i < 20; i++) {
      const entry = entryWith()
      const key = await generate(one, entry)
      const mark = markFor()
      const save = async () => other.set(key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version)
      const clear = async () => one.clear(key, undefined, mark)
      await Promise.all(i % 2 ? [save(), clear()] : [clear(), save()])
      assertSame(await other.get(key), asEntry(mark), 'an ended session stays ended')
    }
  }),
  any('get returns an entry until its expiry, which is exact to the millisecond', async (open) => {
    const backend = await open()
    for (const ahead of [1_500, 86_400_000, 400 * 86_400_000]) {
      const entry = entryWith({ expiresAt: Date.now() + ahead + 1 })
      assertSame(await backend.get(await generate(backend, entry)), entry, `${ahead + 1} ms ahead`)
    }
  }),
  any('an expiry of now, in the past or below zero is no error', async (open) => {
    const backend = await open()
    for (const expiresAt of [Date.now(), 1, 0, -1, -HOUR]) {
      const entry = entryWith({ expiresAt })
      const key = await generate(backend, entry)
      const found = await backend.get(key)
      if (found) assertSame(found, entry, 'an expired entry that still exists has its expiry')
      await touch(backend, key, expiresAt)
      await backend.clear(key)
      if (!backend.stateless) assert.equal(await backend.get(key), undefined)
    }
  }),
  any('values keep every character: all scripts, NUL, half of a surrogate pair, quotes', (open) =>
    roundTrip(open, {
      scripts: 'Ἀναστάσιος 日本語 🦊 é é ‮',
      nul: 'a\u0000b',
      half: ['\ud800', '\udfff x', 'x\ud83d'],
      quotes: `'"\`\\ %s $1 :name ?; drop table keepsake_sessions; --`,
      lines: 'a\r\nb\u2028c\u2029d',
      __proto__: { polluted: true },
      'constructor.prototype': null,
    }),
  ),
  any('metadata keeps 400 characters of ASCII, also spaces at its ends', async (open) => {
    const backend = await open()
    const printable = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).join('')
    const owner = backend.stateless ? undefined : freshOwner()
    const entry = entryWith({ metadata: printable.repeat(5).slice(0, 399).padEnd(400), owner })
    let key = await generate(backend, entry)
    assertSame(await backend.get(key), entry, 'generate stores the metadata unchanged')
    // As keepsake writes it for a session of an owner in a rotation, if its login chose timeouts.
    const metadata = `2.mf3k2a9c.${'h'.repeat(43)}.${'v'.repeat(128)}.${'p'.repeat(43)}.${'s'.repeat(16)}...Q2hhcmxvdHRl.mf3k2b00.1hrk5c0.9zldr0.0`
    const update = { value: '{}', metadata, version: freshVersion() }
    key = await change(backend, key, update, entry.version)
    const changed = { ...entry, ...update }
    assertSame(await backend.get(key), changed, 'set stores the metadata unchanged')
    if (owner !== undefined && backend.byOwner) {
      await assertListed(backend, owner, [[key, changed]], 'list returns the metadata unchanged')
    }
  }),
  storing('values keep a mebibyte', (open) => roundTrip(open, 'x'.repeat(2 ** 20))),
  storing('keys that differ in one character, or in the case of a letter, are different keys', async (open) => {
    const backend = await open()
    const suffix = randomBytes(9).toString('hex')
    const keys = [
      'a.a',
      'a.b',
      'a.A',
      'A.a',
      'A.A',
      'aa',
      'a_a',
      'a-a',
      '.a',
      '_.__proto__',
      '-.-',
      '0.0',
      '00',
      'x'.repeat(46),
    ].map((start) => start + suffix)
    const entries = keys.map((_, i) => entryWith({ value: `{"n":${i}}` }))
    for (const [i, key] of keys.entries()) {
      assert.equal(await backend.generate(key, entries[i] as Entry), undefined, `${key} is free`)
    }
    for (const [i, key] of keys.entries()) assertSame(await backend.get(key), entries[i] as Entry, key)
    await backend.clear(keys[0] as string)
    for (const [i, key] of keys.entries()) {
      if (i > 0) assertSame(await backend.get(key), entries[i] as Entry, `clear of ${keys[0]} leaves ${key}`)
    }
  }),
  storing('of fifty concurrent changes by compare-and-set none is lost', async (open) => {
    const backends = [await open(), await open()]
    const key = await generate(backends[0] as Backend, entryWith({ value: '{}' }))
    const fields = Array.from({ length: 50 }, (_, i) => `field${i}`)
    await Promise.all(fields.map((field, i) => addField(backends[i % 2] as Backend, key, field)))
    const entry = await (backends[0] as Backend).get(key)
    assert.deepEqual(Object.keys(JSON.parse(entry?.value ?? '{}')).sort(), fields.sort())
  }),
  storing('after a concurrent clear and set the entry is gone, in either order', async (open) => {
    const backend = await open()
    for (let i = 0; i < 20; i++) {
      const entry = entryWith()
      const key = await generate(backend, entry)
      const update = { value: '{}', metadata: 'h', version: freshVersion() }
      const save = async () => backend.set(key, update, entry.version)
      const clear = async () => backend.clear(key)
      await Promise.all(i % 2 ? [save(), clear()] : [clear(), save()])
      assert.equal(await backend.get(key), undefined, 'an ended session stays ended')
    }
  }),
  storing('two handles on one store see the same entries', async (open) => {
    const [one, other] = [await open(), await open()]
    const entry = entryWith()
    const key = await generate(one, entry)
    assertSame(await other.get(key), entry, 'the second handle sees the entry of the first')
    await other.clear(key)
    assert.equal(await one.get(key), undefined, 'the first handle sees the clear of the second')
  }),
  {
    name: 'sweep removes only expired entries, in batches',
    exempt: (backend) =>
      unlessStateless(backend) ?? (backend.sweep ? undefined : 'its store removes expired entries by itself'),
    async run(open) {
      const backend = await open()
      const sweep = async (now: number, limit: number) => (await backend.sweep?.(now, limit)) as number
      const now = Date.now()
      while ((await sweep(now, 1000)) > 0);
      const keys: string[] = []
      for (let i = 0; i < 5; i++) keys.push(await generate(backend, entryWith({ expiresAt: now + 60_000 })))
      const later = await generate(backend, entryWith({ expiresAt: now + 60_001 }))
      assert.equal(await sweep(now + 59_999, 100), 0, 'one millisecond earlier no entry has expired')
      assert.deepEqual(
        [await sweep(now + 60_000, 2), await sweep(now + 60_000, 2), await sweep(now + 60_000, 2)],
        [2, 2, 1],
      )
      for (const key of keys) assert.equal(await backend.get(key), undefined, 'the swept entries are gone')
      assert.ok(await backend.get(later), 'an entry that has not expired stays')
    },
  },
  {
    name: 'sweep reports each removed entry that had an owner, and no other',
    exempt: (backend) =>
      unlessStateless(backend) ??
      (backend.sweep ? undefined : 'its store removes expired entries by itself') ??
      (backend.byOwner ? undefined : 'it cannot find entries by their owner'),
    async run(open) {
      const backend = await open()
      const now = Date.now()
      while (Number(await backend.sweep?.(now, 1000)) > 0);
      const owner = freshOwner()
      const expiring = { owner, expiresAt: now + 60_000 }
      const expected: unknown[] = []
      for (let i = 0; i < 7; i++) {
        const key = await generate(backend, entryWith({ ...expiring, metadata: `1.${i}` }))
        expected.push({ key, metadata: `1.${i}`, owner })
      }
      await generate(backend, entryWith({ expiresAt: now + 60_000 }))
      await backend.clear(await generate(backend, entryWith(expiring)), undefined, {
        ...markFor(),
        expiresAt: now + 1,
      })
      const stays = await generate(backend, entryWith({ owner, expiresAt: now + 60_001 }))
      const reported: unknown[] = []
      let swept = 0
      for (let batch = 1; batch > 0; ) {
        batch = Number(await backend.sweep?.(now + 60_000, 3, (entry) => reported.push(entry)))
        if (swept === 0) {
          // An older entry than those of the first batch.
          const key = await generate(backend, entryWith({ owner, expiresAt: now + 2, metadata: '1.late' }))
          expected.push({ key, metadata: '1.late', owner })
        }
        swept += batch
      }
      assert.equal(swept, 10)
      const byMetadata = (a: unknown, b: unknown) => ((a as Entry).metadata < (b as Entry).metadata ? -1 : 1)
      assert.deepEqual(reported.sort(byMetadata), expected.sort(byMetadata))
      assert.ok(await backend.get(stays))
    },
  },
  owning('list returns all entries of an owner with their keys, and no others', async (open) => {
    const backend = await open()
    const [anna, bob] = [freshOwner(), freshOwner()]
    await assertListed(backend, anna, [], 'an unknown owner has no entries')
    const kept = new Map<string, Entry>()
    for (let i = 0; i < 12; i++) {
      const entry = entryWith({ owner: anna, value: i % 3 ? JSON.stringify({ i }) : undefined, metadata: `1.${i}` })
      kept.set(await generate(backend, entry), entry)
      await generate(backend, entryWith(i % 2 ? { owner: bob } : {}))
    }
    await assertListed(backend, anna, kept, 'each entry is whole, and listed once')
    assert.equal((await indexOf(backend).list(bob)).length, 6)
  }),
  owning('owners are equal only if all their characters are: list and clear confuse none', async (open) => {
    const backend = await open()
    const run = freshVersion()
    // Short names get a prefix, as keepsake adds one. The longest names get none, because they are at the limit.
    const owners = confusable.map((name) => (name.length > 400 ? name : `${run}:${name}`))
    const kept = new Map<string, readonly [string, Entry]>()
    for (const owner of owners) {
      await indexOf(backend).clear(owner)
      const entry = entryWith({ owner })
      kept.set(owner, [await generate(backend, entry), entry])
    }
    for (const owner of owners)
      await assertListed(backend, owner, [kept.get(owner) as [string, Entry]], `list ${owner}`)
    for (const owner of owners) {
      const [key, entry] = kept.get(owner) as [string, Entry]
      assertSame(await backend.get(key), entry, `the clear of another owner leaves ${owner}`)
      assert.equal(await indexOf(backend).clear(owner), 1, `clear ${owner}`)
      assert.equal(await backend.get(key), undefined, `${owner} is gone`)
    }
  }),
  owning('list follows set, touch and clear', async (open) => {
    const backend = await open()
    const [owner, next] = [freshOwner(), freshOwner()]
    const entry = entryWith({ owner })
    const key = await generate(backend, entry)
    const update = { value: '{"n":2}', metadata: '1.new', version: freshVersion(), expiresAt: entry.expiresAt + 1 }
    await change(backend, key, update, entry.version)
    await assertListed(backend, owner, [[key, { ...entry, ...update }]], 'the entry as set wrote it')
    await backend.touch(key, entry.expiresAt + 2)
    await assertListed(
      backend,
      owner,
      [[key, { ...entry, ...update, expiresAt: entry.expiresAt + 2 }]],
      'the entry as touch left it',
    )
    assert.equal(await backend.clear(key, freshVersion()), 'stale')
    assert.equal((await indexOf(backend).list(owner)).length, 1, 'a stale clear removes nothing')
    await backend.clear(key)
    await assertListed(backend, owner, [], 'the cleared entry is not listed')
    await backend.set(key, update, update.version)
    await backend.touch(key, entry.expiresAt + HOUR)
    await assertListed(backend, owner, [], 'set and touch do not bring it back')
    const other = entryWith({ owner: next })
    assert.equal(await backend.generate(key, other), undefined, 'a key that was cleared is free')
    await assertListed(backend, owner, [], 'the previous owner does not have it')
    await assertListed(backend, next, [[key, other]], 'the next owner has it')
    assert.equal(await indexOf(backend).clear(owner), 0)
    assertSame(await backend.get(key), other, 'the clear of the previous owner leaves it')
  }),
  owning('a generate that is taken, or sent twice, adds nothing to an owner', async (open) => {
    const backend = await open()
    const [anna, bob] = [freshOwner(), freshOwner()]
    const entry = entryWith({ owner: anna })
    const key = await generate(backend, entry)
    assert.equal(await backend.generate(key, entry), undefined, 'a driver may send the call twice')
    assert.equal(await backend.generate(key, entryWith({ owner: bob })), 'taken')
    assert.equal(await backend.generate(key, entryWith({ owner: anna })), 'taken')
    assert.equal(await backend.generate(key, entryWith()), 'taken')
    await assertListed(backend, bob, [], 'the owner of a taken generate has nothing')
    assert.equal(await indexOf(backend).clear(bob), 0)
    await assertListed(backend, anna, [[key, entry]], 'the first owner has it once')
    assertSame(await backend.get(key), entry, 'the entry is unchanged')
    assert.equal(await indexOf(backend).clear(anna), 1)
    assert.equal(await backend.get(key), undefined)
  }),
  owning('the clear of an owner removes all their entries except one, and returns how many', async (open) => {
    const backend = await open()
    const [anna, bob] = [freshOwner(), freshOwner()]
    const keys: string[] = []
    const entry = entryWith({ owner: anna })
    for (let i = 0; i < 7; i++) keys.push(await generate(backend, { ...entry, version: freshVersion() }))
    const kept = await generate(backend, entry)
    const [bobEntry, anonymousEntry] = [entryWith({ owner: bob }), entryWith()]
    const [bobKey, anonymousKey] = [await generate(backend, bobEntry), await generate(backend, anonymousEntry)]
    const { clear } = indexOf(backend)
    assert.equal(await clear(anna, kept), 7)
    for (const key of keys) {
      assert.equal(await backend.get(key), undefined, 'the entry is gone')
      const update = { value: '{}', metadata: 'h', version: freshVersion() }
      assert.equal(await backend.set(key, update, entry.version), 'gone', 'an ended session stays ended')
    }
    assertSame(await backend.get(kept), entry, 'the excepted entry is unchanged')
    await assertListed(backend, anna, [[kept, entry]], 'the excepted entry is listed')
    assert.equal(await clear(anna, kept), 0, 'no other entry is left')
    assertSame(await backend.get(bobKey), bobEntry, 'another owner keeps their entry')
    assertSame(await backend.get(anonymousKey), anonymousEntry, 'an entry without an owner stays')
    assert.equal(await clear(bob, kept), 1, 'the key of another owner excepts no entry')
    assertSame(await backend.get(kept), entry, 'the entry with that key stays')
    assert.equal(await clear(anna, freshKey()), 1, 'an unknown key excepts no entry')
    assert.equal(await clear(anna), 0)
    const again = entryWith({ owner: anna })
    const fresh = await generate(backend, again)
    await assertListed(backend, anna, [[fresh, again]], 'the owner may have new entries')
  }),
  owning('the clear of an owner with a mark puts the mark in the place of each entry', async (open) => {
    const backend = await open()
    const owner = freshOwner()
    const entry = entryWith({ owner })
    const [one, two, kept] = [await generate(backend, entry), await generate(backend, entry), freshKey()]
    await backend.generate(kept, { ...entry, version: freshVersion() })
    const mark = markFor()
    assert.equal(await indexOf(backend).clear(owner, kept, mark), 2)
    for (const key of [one, two]) {
      assertSame(await backend.get(key), asEntry(mark), 'get returns the whole mark, without an owner')
      assert.equal(
        await backend.set(key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version),
        'stale',
        'a late set finds another version',
      )
    }
    assert.equal((await indexOf(backend).list(owner)).length, 1, 'marks are not listed')
    assert.equal(await indexOf(backend).clear(owner, kept, markFor()), 0, 'marks are not counted')
    assertSame(await backend.get(one), asEntry(mark), 'marks are not replaced')
    const single = await generate(backend, entry)
    assert.equal(await backend.clear(single, entry.version, mark), undefined)
    assert.equal((await indexOf(backend).list(owner)).length, 1, 'the mark of a single clear is not listed')
  }),
  owning('a clear of an owner during many generates counts each of them as before it or as after it', async (open) => {
    const backends = [await open(), await open()] as const
    const owner = freshOwner()
    for (let round = 0; round < 5; round++) {
      const keys = await Promise.all(
        Array.from({ length: 8 }, async (_, i) => generate(backends[i % 2] as Backend, entryWith({ owner }))),
      )
      const generateOwned = async (i: number) => {
        const key = freshKey()
        return [key, await (backends[i % 2] as Backend).generate(key, entryWith({ owner }))] as const
      }
      const first = Array.from({ length: 16 }, (_, i) => generateOwned(i))
      const clearing = (async () => indexOf(backends[0]).clear(owner))()
      const second = Array.from({ length: 16 }, (_, i) => generateOwned(i))
      const cleared = await clearing
      for (const key of keys)
        assert.equal(await backends[1].get(key), undefined, 'entries from before the clear are gone')
      const answers = await Promise.all([...first, ...second])
      const listed = new Set((await indexOf(backends[1]).list(owner)).map(({ key }) => key))
      let missing = 0
      for (const [key, answer] of answers) {
        assert.ok(answer === undefined || answer === 'gone', `generate returns ${answer}`)
        const found = (await backends[0].get(key)) !== undefined
        assert.equal(listed.delete(key), found, 'exactly the existing entries are listed')
        if (answer === 'gone') assert.equal(found, false, 'an entry whose generate returned gone does not exist')
        else if (!found) missing++
      }
      assert.equal(listed.size, 0, 'no unknown key is listed')
      const gone = answers.filter(([, answer]) => answer === 'gone').length
      assert.ok(cleared >= 8 + missing && cleared <= 8 + missing + gone, `${cleared} cleared, ${missing} missing`)
      assert.equal(
        await indexOf(backends[1]).clear(owner),
        answers.length - gone - missing,
        'the next clear removes the rest',
      )
      for (const [key] of answers) assert.equal(await backends[0].get(key), undefined, 'after it no entry exists')
      await assertListed(backends[0], owner, [], 'no entry is listed')
    }
  }),
  owning('after a concurrent clear of an owner and sets, no entry is left, in either order', async (open) => {
    const [one, other] = [await open(), await open()]
    const owner = freshOwner()
    for (let i = 0; i < 10; i++) {
      const entry = entryWith({ owner })
      const keys = [await generate(one, entry), await generate(other, entry)]
      const update = { value: '{}', metadata: 'h', version: freshVersion(), expiresAt: entry.expiresAt + 1 }
      const clear = async () => indexOf(one).clear(owner)
      const early = i % 2 ? clear() : undefined
      const saves = keys.map(async (key) => other.set(key, update, entry.version))
      const touches = keys.map(async (key) => other.touch(key, entry.expiresAt + 2))
      const cleared = await (early ?? clear())
      const [saved] = await Promise.all([Promise.all(saves), ...touches])
      assert.equal(cleared, 2)
      for (const answer of saved) assert.ok(answer === undefined || answer === 'gone', `set returns ${answer}`)
      for (const key of keys) {
        assert.equal(await other.get(key), undefined, 'an ended session stays ended')
        assert.equal(await other.set(key, { ...update, version: freshVersion() }, update.version), 'gone')
        assert.equal(await other.get(key), undefined, 'set does not bring it back')
      }
      await assertListed(other, owner, [], 'the owner has no entries')
    }
  }),
  owning('two handles on one store see the same entries of an owner', async (open) => {
    const [one, other] = [await open(), await open()]
    const owner = freshOwner()
    const entry = entryWith({ owner })
    const key = await generate(one, entry)
    await assertListed(other, owner, [[key, entry]], 'the second handle lists the entry of the first')
    assert.equal(await indexOf(other).clear(owner), 1)
    assert.equal(await one.get(key), undefined, 'the first handle does not find the entry that the second cleared')
    await assertListed(one, owner, [], 'the first handle does not list it')
  }),
  owning('list returns no entry that expired and was removed', async (open) => {
    const backend = await open()
    const owner = freshOwner()
    const key = await generate(backend, entryWith({ owner, expiresAt: 1 }))
    const alive = entryWith({ owner })
    const stays = await generate(backend, alive)
    if ((await backend.get(key)) !== undefined) {
      if (backend.sweep) while ((await backend.sweep(2, 1000)) > 0);
      else await backend.clear(key)
    }
    assert.equal(await backend.get(key), undefined)
    await assertListed(backend, owner, [[stays, alive]], 'the removed entry is not listed')
    assert.equal(await indexOf(backend).clear(owner), 1, 'marks are not counted')
  }),
  {
    name: 'scan returns every entry that exists during the whole scan, page by page, with its key',
    exempt: (backend) => (backend.scan ? undefined : 'it cannot list its entries'),
    async run(open) {
      const backend = await open()
      const entries = new Map<string, Entry>()
      for (let i = 0; i < 25; i++) {
        const entry = entryWith(i % 2 === 0 ? {} : { owner: `owner ${i}`, value: undefined })
        entries.set(await generate(backend, entry), entry)
      }
      const [first] = entries.keys()
      const scanned = new Map<string, Entry>()
      let cursor: string | undefined
      do {
        const page = await backend.scan?.(cursor, 7)
        assert.ok(page, 'scan returns a page')
        for (const { key, ...entry } of page.entries) scanned.set(key, entry)
        cursor = page.cursor
        // A touch, a generate and a clear during the scan hide no other entry.
        await backend.touch(first as string, Date.now() + 2 * HOUR)
        await backend.clear(await generate(backend, entryWith()))
      } while (cursor !== undefined)
      for (const [key, entry] of entries) {
        assert.ok(scanned.has(key), 'the scan returns every entry')
        if (key !== first) assertSame(scanned.get(key), entry, 'the scan returns entries unchanged')
      }
    },
  },
  {
    name: 'scan ends, and returns every entry, although each of them changes between two pages',
    exempt: (backend) => (backend.scan ? undefined : 'it cannot list its entries'),
    async run(open) {
      const backend = await open()
      const versions = new Map<string, string>()
      for (let i = 0; i < 12; i++) {
        const entry = entryWith(i % 2 === 0 ? {} : { owner: `owner ${i}` })
        versions.set(await generate(backend, entry), entry.version)
      }
      const scanned = new Set<string>()
      let cursor: string | undefined
      let pages = 0
      do {
        const page = await backend.scan?.(cursor, 3)
        for (const { key } of page?.entries ?? []) scanned.add(key)
        cursor = page?.cursor
        for (const [key, version] of versions) {
          const update = { value: '{}', metadata: 'h', version: freshVersion() }
          await change(backend, key, update, version)
          versions.set(key, update.version)
        }
        // A store that other tests share has more entries.
        assert.ok(++pages < 10_000, 'the scan ends')
      } while (cursor !== undefined)
      for (const key of versions.keys()) assert.ok(scanned.has(key), 'the scan returns every entry')
    },
  },
  {
    name: 'scan returns no entry that was cleared before its page, and every entry that stays',
    exempt: (backend) => (backend.scan ? undefined : 'it cannot list its entries'),
    async run(open) {
      const backend = await open()
      const stays = new Set<string>()
      const toClear: string[] = []
      for (let i = 0; i < 30; i++) {
        const key = await generate(backend, entryWith(i % 3 === 0 ? { owner: freshOwner() } : {}))
        if (i % 2 === 0) stays.add(key)
        else toClear.push(key)
      }
      const left = new Set(stays)
      /** The keys of entries that were cleared, with the mark in the place of the entry if there is one. */
      const cleared = new Map<string, Mark | undefined>()
      let cursor: string | undefined
      let pages = 0
      do {
        const page = await backend.scan?.(cursor, 4)
        for (const { key, ...entry } of page?.entries ?? []) {
          left.delete(key)
          if (!cleared.has(key)) continue
          const mark = cleared.get(key)
          assert.ok(mark, 'no page returns an entry that was cleared before')
          assertSame(entry, asEntry(mark), 'a page returns the mark of an entry that was cleared before')
        }
        cursor = page?.cursor
        const [key] = toClear.splice(0, 1)
        if (key !== undefined) {
          const mark = toClear.length % 2 === 0 ? markFor() : undefined
          await backend.clear(key, undefined, mark)
          cleared.set(key, mark)
          await generate(backend, entryWith())
        }
        // A store that other tests share has more entries.
        assert.ok(++pages < 10_000, 'the scan ends')
      } while (cursor !== undefined)
      assert.equal(left.size, 0, 'the scan returns every entry that stays')
    },
  },
  {
    name: 'keepSecret stores the first secret, and returns it through every handle',
    exempt: (backend) => (backend.keepSecret ? undefined : 'it stores no secret'),
    async run(open) {
      const [one, other] = [await open(), await open()]
      const [a, b] = [randomBytes(32).toString('hex'), randomBytes(32).toString('hex')]
      const kept = await one.keepSecret?.(a)
      assert.match(kept ?? '', /^[0-9a-f]{64}$/)
      if (one !== other) assert.equal(await other.keepSecret?.(b), kept, 'the other handle has the same secret')
    },
  },
  {
    name: 'a sealed key opens nothing if one character or its cookie name is changed',
    exempt: unlessStoring,
    async run(open) {
      const backend = await open()
      const key = await generate(backend, entryWith())
      for (let at = NAME.length + 1; at < key.length; at++) {
        const other = key[at] === 'A' ? 'B' : 'A'
        assert.equal(await backend.get(key.slice(0, at) + other + key.slice(at + 1)), undefined, `character ${at}`)
      }
      assert.equal(await backend.get(`other${key.slice(NAME.length)}`), undefined, 'the key is bound to the name')
    },
  },
  {
    name: 'a change returns a new sealed key, and the previous key still opens the previous state',
    exempt: unlessStoring,
    async run(open) {
      const backend = await open()
      const { entry, key, next } = await generateAndChange(backend)
      assert.notEqual(next, key)
      assertSame(await backend.get(key), entry, 'the previous key still opens')
    },
  },
  remembering(
    'clear ends a session for every copy of its key, and for every later key of the session',
    async (backend, { entry, key, update, next }) => {
      await backend.clear(key)
      await backend.clear(next)
      for (const copy of [key, next]) assert.equal(await backend.get(copy), undefined, 'an ended session stays ended')
      await assertEnded(backend, next, update, entry)
      const other = await generate(backend, entry)
      assertSame(await backend.get(other), entry, 'another session stays open')
    },
  ),
  {
    name: 'a backend for another namespace opens no key of the first, and its ends are its own',
    exempt: (backend) => unlessStoring(backend) ?? (backend.forNamespace ? undefined : 'it seals for one namespace'),
    async run(open) {
      const backend = await open()
      const [one, other] = ['one', 'other'].map((namespace) => backend.forNamespace?.(namespace) ?? assert.fail())
      if (one === undefined || other === undefined) return
      const entry = entryWith()
      const key = await generate(one, entry)
      assertSame(await one.get(key), entry, 'the key opens in its namespace')
      assertSame(await backend.forNamespace?.('one').get(key), entry, 'the same namespace opens the key each time')
      for (const wrong of [other, backend]) {
        assert.equal(await wrong.get(key), undefined, 'the key opens nothing in another namespace')
        const update = { value: '{}', metadata: 'h', version: freshVersion() }
        assert.equal(await wrong.set(key, update, entry.version), 'gone')
        assert.equal(await wrong.touch(key, entry.expiresAt + 1), undefined)
        await wrong.clear(key)
        const label = (await one.get(key))?.label ?? assert.fail('get returns the label')
        if (backend.revocable) await wrong.clear(`=${label}`)
        assertSame(await one.get(key), entry, 'an end in another namespace ends nothing here')
      }
    },
  },
  remembering(
    'get returns the first mark for every copy of an ended key, until the mark expires',
    async (backend, { entry, key, update, next }) => {
      const mark = markFor()
      assert.equal(await backend.clear(key, entry.version, mark), undefined)
      for (const copy of [key, next]) {
        const { metadata, value, expiresAt } = (await backend.get(copy)) ?? assert.fail('get returns the mark')
        assert.deepEqual(
          { metadata, value, expiresAt },
          { metadata: mark.metadata, value: undefined, expiresAt: mark.expiresAt },
        )
      }
      assert.equal(await backend.clear(key, entry.version, mark), undefined, 'a driver may send the call twice')
      assert.equal(
        await backend.clear(next, update.version, markFor()),
        'stale',
        'a second clear with another mark comes too late',
      )
      await assertEnded(backend, next, update, entry)
      const other = await generate(backend, entry)
      await backend.clear(other, undefined, markFor(-1))
      assert.equal(
        await backend.get(other),
        undefined,
        'after the mark has expired, get returns undefined and the session stays ended',
      )
    },
  ),
]
