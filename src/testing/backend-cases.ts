// What every backend promises, case by case, as data: no test runner is named here.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Backend, Change, Entry, Mark, OwnerIndex } from '../backends/contract.ts'
import type { Awaitable } from '../error.ts'

export type BackendCase = {
  /** The promise. */
  readonly name: string
  /** Why this case has nothing to ask of a backend, read from the backend itself; undefined where it has. */
  exempt(backend: Backend): string | undefined
  /**
   * Throws where the promise is broken.
   *
   * @param open gives a handle on the store under test: another handle on the same store each time, if it can have several
   */
  run(open: () => Awaitable<Backend>): Promise<void>
}

const freshKey = (): string => `cases.${randomBytes(9).toString('base64url')}`
/** What a client holds: a stateless backend makes the session's first key of it. */
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

/** The entry that a mark is, as `get` gives it. */
const asEntry = (mark: Mark): Entry => ({ value: undefined, ...mark })

/** What is asked of an entry: an absent owner may be undefined or not be there, and a stateless backend adds a label. */
const seen = (entry: Entry | undefined): unknown => {
  if (entry === undefined) return undefined
  const { label: _, ...rest } = entry
  return { ...rest, value: entry.value, owner: entry.owner ?? undefined }
}

const same = (entry: Entry | undefined, expected: Entry, promise: string): void =>
  assert.deepEqual(seen(entry), seen(expected), promise)

const stateful = (backend: Backend): string | undefined =>
  backend.stateless ? 'it keeps nothing: the key is the session' : undefined

const sealing = (backend: Backend): string | undefined => (backend.stateless ? undefined : 'it keeps what it is given')

type Run = BackendCase['run']
const keeping = (name: string, run: Run): BackendCase => ({ name, exempt: stateful, run })

/** Both kinds: a stateless backend is called with the name of a cookie and a fresh key, and answers with what to hold. */
const any = (name: string, run: Run): BackendCase => ({ name, exempt: () => undefined, run })

const NAME = 'sid'

/** The key in the answer of a stateless backend. */
const keyOf = (answer: unknown): string | undefined => {
  const { held } = (answer ?? {}) as { held?: unknown }
  return typeof held === 'string' ? `${NAME}=${held}` : undefined
}

const generated = async (backend: Backend, entry: Entry): Promise<string> => {
  const key = backend.stateless ? `${NAME}=${clientKey()}` : freshKey()
  const answer = await backend.generate(key, entry)
  if (backend.stateless) return keyOf(answer) ?? assert.fail('generate gives the new value of the cookie')
  assert.equal(answer, undefined, 'generate under a fresh key inserts')
  return key
}

/** The key by which an entry is found after a change. */
const changed = async (backend: Backend, key: string, change: Change, version: string): Promise<string> => {
  const answer = await backend.set(key, change, version)
  if (backend.stateless) return keyOf(answer) ?? assert.fail('set gives the new value of the cookie')
  assert.equal(answer, undefined, 'set on the version that is there is done')
  return key
}

const touched = async (backend: Backend, key: string, expiresAt: number): Promise<string> => {
  const answer = await backend.touch(key, expiresAt)
  if (!backend.stateless) assert.equal(answer, undefined, 'touch answers nothing')
  return keyOf(answer) ?? key
}

/** Adds a field by compare-and-set, however often it takes. */
const added = async (backend: Backend, key: string, field: string): Promise<void> => {
  for (let tries = 0; tries < 10_000; tries++) {
    const entry = await backend.get(key)
    assert.ok(entry, 'the entry is there while others write')
    const value = JSON.stringify({ ...JSON.parse(entry.value ?? '{}'), [field]: true })
    const outcome = await backend.set(key, { value, metadata: entry.metadata, version: freshVersion() }, entry.version)
    assert.notEqual(outcome, 'gone', 'an entry that nobody clears is never gone')
    if (outcome !== 'stale') return
  }
  assert.fail('one of many writers never got his turn')
}

const roundTrip = async (open: () => Awaitable<Backend>, fields: unknown): Promise<void> => {
  const backend = await open()
  const value = JSON.stringify(fields)
  const entry = entryWith({ value })
  const key = await generated(backend, entry)
  same(await backend.get(key), entry, 'what generate was given comes back to the letter')
  const change = { value: JSON.stringify([fields]), metadata: '1.x', version: freshVersion() }
  const next = await changed(backend, key, change, entry.version)
  same(await backend.get(next), { ...entry, ...change }, 'what set was given comes back to the letter')
}

const owning = (name: string, run: Run): BackendCase => ({
  name,
  exempt: (backend) => stateful(backend) ?? (backend.byOwner ? undefined : 'it finds no entries by their owner'),
  run,
})

const someone = (): string => `app:${freshVersion()}`

const ownedBy = (backend: Backend): OwnerIndex =>
  backend.byOwner ?? assert.fail('both handles find entries by their owner')

/** Entries with their keys, as one order and one shape: `list` promises no order. */
const ordered = (entries: Iterable<readonly [string, Entry]>): unknown =>
  [...entries].map(([key, entry]) => [key, seen(entry)] as const).sort(([a], [b]) => (a < b ? -1 : 1))

const lists = async (
  backend: Backend,
  owner: string,
  expected: Iterable<readonly [string, Entry]>,
  promise: string,
): Promise<void> => {
  const found = await ownedBy(backend).list(owner)
  assert.deepEqual(ordered(found.map(({ key, ...entry }) => [key, entry])), ordered(expected), promise)
}

/** Names that some collation, pattern, separator or limit takes for one, or for several. */
const alike: readonly string[] = [
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

/** The contract of `Backend`, one promise a case. A stateless backend keeps only those that need no store. */
export const backendCases: readonly BackendCase[] = [
  any('get gives nothing for a key that nobody generated', async (open) => {
    const backend = await open()
    assert.equal(await backend.get(freshKey()), undefined)
    assert.equal(await backend.get(`${NAME}=${clientKey()}`), undefined)
  }),
  any('generate inserts, and get gives back all of it', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'Zoë 🦊' })
    same(await backend.get(await generated(backend, entry)), entry, 'the whole entry comes back')
  }),
  keeping('generate answers taken where there is an entry, and leaves it as it was', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    assert.equal(await backend.generate(key, entryWith({ value: '{"n":2}' })), 'taken')
    same(await backend.get(key), entry, 'the first entry stays')
  }),
  keeping('of many who generate one key, one inserts and the others hear taken', async (open) => {
    const backend = await open()
    const key = freshKey()
    const answers = await Promise.all(Array.from({ length: 20 }, async () => backend.generate(key, entryWith())))
    assert.equal(answers.filter((answer) => answer !== 'taken').length, 1)
  }),
  keeping('generate finds its own version again: a driver sent twice', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    assert.equal(await backend.generate(key, entry), undefined)
    same(await backend.get(key), entry, 'the second time changes nothing')
  }),
  any('a value may be undefined: begun, and never set', async (open) => {
    const backend = await open()
    const entry = entryWith({ value: undefined })
    let key = await generated(backend, entry)
    same(await backend.get(key), entry, 'undefined comes back as undefined')
    const change = { value: '{}', metadata: 'h', version: freshVersion() }
    key = await changed(backend, key, change, entry.version)
    same(await backend.get(key), { ...entry, ...change }, 'a value follows undefined')
    const undone = { value: undefined, metadata: 'h', version: freshVersion() }
    key = await changed(backend, key, undone, change.version)
    same(await backend.get(key), { ...entry, ...undone }, 'undefined follows a value')
  }),
  any('set replaces the entry that has the version', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'anna' })
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', metadata: '1.other', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    const next = await changed(backend, key, change, entry.version)
    same(
      await backend.get(next),
      { ...entry, ...change },
      'value, metadata, version and expiry are new, the owner stays',
    )
  }),
  keeping('set answers stale where the version is another, and changes nothing', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', metadata: 'h', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    assert.equal(await backend.set(key, change, freshVersion()), 'stale')
    same(await backend.get(key), entry, 'the entry stays')
  }),
  keeping('set answers gone where there is no entry, and makes none', async (open) => {
    const backend = await open()
    const key = freshKey()
    const change = { value: '{}', metadata: 'h', version: freshVersion(), expiresAt: Date.now() + HOUR }
    assert.equal(await backend.set(key, change, freshVersion()), 'gone')
    assert.equal(await backend.get(key), undefined, 'what ended stays ended')
  }),
  keeping('set finds its own version again: a driver sent twice', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', metadata: 'h', version: freshVersion() }
    await backend.set(key, change, entry.version)
    assert.equal(await backend.set(key, change, entry.version), undefined)
    same(await backend.get(key), { ...entry, ...change }, 'the second time changes nothing')
  }),
  any('set without an expiry leaves the expiry', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const next = await changed(backend, key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version)
    assert.equal((await backend.get(next))?.expiresAt, entry.expiresAt)
  }),
  any('touch moves the expiry forward and nothing else', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'anna' })
    const key = await generated(backend, entry)
    const next = await touched(backend, key, entry.expiresAt + 1)
    same(
      await backend.get(next),
      { ...entry, expiresAt: entry.expiresAt + 1 },
      'one millisecond later, all else as it was',
    )
  }),
  any('touch never moves the expiry back', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const next = await touched(backend, key, entry.expiresAt - 1)
    same(await backend.get(next), entry, 'the later expiry stays')
  }),
  keeping('touch makes no entry where there is none', async (open) => {
    const backend = await open()
    const key = freshKey()
    await backend.touch(key, Date.now() + HOUR)
    assert.equal(await backend.get(key), undefined, 'what ended stays ended')
  }),
  keeping('clear removes the entry, and a second clear is no error', async (open) => {
    const backend = await open()
    const key = await generated(backend, entryWith())
    assert.equal(await backend.clear(key), undefined)
    assert.equal(await backend.get(key), undefined, 'it is gone')
    assert.equal(await backend.clear(key), undefined)
  }),
  keeping('clear on a version removes only the entry that has it', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    assert.equal(await backend.clear(key, freshVersion()), 'stale')
    same(await backend.get(key), entry, 'an entry with another version stays')
    assert.equal(await backend.clear(key, entry.version), undefined)
    assert.equal(await backend.get(key), undefined, 'the entry with the version is gone')
    assert.equal(await backend.clear(key, entry.version), 'stale', 'and the version is found no more')
  }),
  keeping('clear leaves the mark that it is given, in the place of the entry', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const mark = markFor()
    const change = { value: '{"n":2}', metadata: 'h', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    for (const version of [undefined, entry.version]) {
      const key = await generated(backend, entry)
      assert.equal(await backend.clear(key, version, mark), undefined)
      same(await backend.get(key), asEntry(mark), 'the mark is there, whole')
      assert.equal(
        await backend.set(key, change, entry.version),
        'stale',
        'a save that comes late finds another version',
      )
      same(await backend.get(key), asEntry(mark), 'and changes nothing')
      assert.equal(await backend.generate(key, entry), 'taken', 'no session begins in its place')
      assert.equal(await backend.clear(key, version, mark), undefined, 'a driver sent twice')
      assert.equal(await backend.clear(key, entry.version, markFor()), 'stale', 'somebody else comes too late')
      same(await backend.get(key), asEntry(mark), 'and the first mark stays')
      assert.equal(await backend.clear(key), undefined)
      assert.equal(await backend.get(key), undefined, 'a clear without a mark removes it')
    }
  }),
  keeping('clear leaves no mark where it removed no entry', async (open) => {
    const backend = await open()
    const key = freshKey()
    assert.equal(await backend.clear(key, undefined, markFor()), undefined)
    assert.equal(await backend.get(key), undefined)
    assert.equal(await backend.clear(key, freshVersion(), markFor()), 'stale')
    assert.equal(await backend.get(key), undefined)
    const entry = entryWith()
    const there = await generated(backend, entry)
    assert.equal(await backend.clear(there, freshVersion(), markFor()), 'stale')
    same(await backend.get(there), entry, 'an entry with another version stays')
  }),
  keeping('a clear with a mark beats a save that comes with it, whichever is first', async (open) => {
    const [one, other] = [await open(), await open()]
    for (let i = 0; i < 20; i++) {
      const entry = entryWith()
      const key = await generated(one, entry)
      const mark = markFor()
      const save = async () => other.set(key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version)
      const clear = async () => one.clear(key, undefined, mark)
      await Promise.all(i % 2 ? [save(), clear()] : [clear(), save()])
      same(await other.get(key), asEntry(mark), 'what ended stays ended')
    }
  }),
  any('an entry is there until its expiry, which comes back to the millisecond', async (open) => {
    const backend = await open()
    for (const ahead of [1_500, 86_400_000, 400 * 86_400_000]) {
      const entry = entryWith({ expiresAt: Date.now() + ahead + 1 })
      same(await backend.get(await generated(backend, entry)), entry, `${ahead + 1} ms ahead`)
    }
  }),
  any('an expiry of now, of the past and below zero is no error, and never outlives itself', async (open) => {
    const backend = await open()
    for (const expiresAt of [Date.now(), 1, 0, -1, -HOUR]) {
      const entry = entryWith({ expiresAt })
      const key = await generated(backend, entry)
      const found = await backend.get(key)
      if (found) same(found, entry, 'where it is still there, its expiry says that it is over')
      await touched(backend, key, expiresAt)
      await backend.clear(key)
      if (!backend.stateless) assert.equal(await backend.get(key), undefined)
    }
  }),
  any('values keep every character: other scripts, NUL, half a pair, quotes', (open) =>
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
  keeping('values keep a mebibyte', (open) => roundTrip(open, 'x'.repeat(2 ** 20))),
  keeping('keys that differ in one letter, or in its case, are two keys', async (open) => {
    const backend = await open()
    const tail = freshKey().slice(12)
    const keys = [
      'aaaaaaaaaaaa',
      'aaaaaaaaaaaA',
      'AAAAAAAAAAAA',
      '__proto__AAA',
      '------------',
      '____________',
      '000000000000',
    ]
    const entries = keys.map((_, i) => entryWith({ value: `{"n":${i}}` }))
    for (const [i, key] of keys.entries()) {
      assert.equal(await backend.generate(key + tail, entries[i] as Entry), undefined, `${key}… is free`)
    }
    for (const [i, key] of keys.entries()) same(await backend.get(key + tail), entries[i] as Entry, key)
    await backend.clear(`${keys[0]}${tail}`)
    same(await backend.get(`${keys[1]}${tail}`), entries[1] as Entry, 'clearing one leaves the other')
  }),
  keeping('of fifty who write at once nobody loses anything', async (open) => {
    const backends = [await open(), await open()]
    const key = await generated(backends[0] as Backend, entryWith({ value: '{}' }))
    const fields = Array.from({ length: 50 }, (_, i) => `field${i}`)
    await Promise.all(fields.map((field, i) => added(backends[i % 2] as Backend, key, field)))
    const entry = await (backends[0] as Backend).get(key)
    assert.deepEqual(Object.keys(JSON.parse(entry?.value ?? '{}')).sort(), fields.sort())
  }),
  keeping('a clear beats a save that comes with it, whichever is first', async (open) => {
    const backend = await open()
    for (let i = 0; i < 20; i++) {
      const entry = entryWith()
      const key = await generated(backend, entry)
      const change = { value: '{}', metadata: 'h', version: freshVersion() }
      const save = async () => backend.set(key, change, entry.version)
      const clear = async () => backend.clear(key)
      await Promise.all(i % 2 ? [save(), clear()] : [clear(), save()])
      assert.equal(await backend.get(key), undefined, 'what ended stays ended')
    }
  }),
  keeping('two handles on one store see the same', async (open) => {
    const [one, other] = [await open(), await open()]
    const entry = entryWith()
    const key = await generated(one, entry)
    same(await other.get(key), entry, 'the other handle sees what the first one did')
    await other.clear(key)
    assert.equal(await one.get(key), undefined, 'and the first sees what the other did')
  }),
  {
    name: 'sweep removes what has expired, in batches, and nothing else',
    exempt: (backend) => stateful(backend) ?? (backend.sweep ? undefined : 'its store forgets by itself'),
    async run(open) {
      const backend = await open()
      const sweep = async (now: number, limit: number) => (await backend.sweep?.(now, limit)) as number
      const now = Date.now()
      while ((await sweep(now, 1000)) > 0);
      const keys: string[] = []
      for (let i = 0; i < 5; i++) keys.push(await generated(backend, entryWith({ expiresAt: now + 60_000 })))
      const later = await generated(backend, entryWith({ expiresAt: now + 60_001 }))
      assert.equal(await sweep(now + 59_999, 100), 0, 'a millisecond before, nothing has expired')
      assert.deepEqual(
        [await sweep(now + 60_000, 2), await sweep(now + 60_000, 2), await sweep(now + 60_000, 2)],
        [2, 2, 1],
      )
      for (const key of keys) assert.equal(await backend.get(key), undefined, 'what was swept is gone')
      assert.ok(await backend.get(later), 'what has not expired is there')
    },
  },
  {
    name: 'sweep tells of each entry of an owner that it removed, and of no other',
    exempt: (backend) =>
      stateful(backend) ??
      (backend.sweep ? undefined : 'its store forgets by itself') ??
      (backend.byOwner ? undefined : 'it finds no entries by their owner'),
    async run(open) {
      const backend = await open()
      const now = Date.now()
      while (Number(await backend.sweep?.(now, 1000)) > 0);
      const owner = someone()
      const expiring = { owner, expiresAt: now + 60_000 }
      const expected: unknown[] = []
      for (let i = 0; i < 7; i++) {
        const key = await generated(backend, entryWith({ ...expiring, metadata: `1.${i}` }))
        expected.push({ key, metadata: `1.${i}`, owner })
      }
      await generated(backend, entryWith({ expiresAt: now + 60_000 }))
      await backend.clear(await generated(backend, entryWith(expiring)), undefined, {
        ...markFor(),
        expiresAt: now + 1,
      })
      const stays = await generated(backend, entryWith({ owner, expiresAt: now + 60_001 }))
      const told: unknown[] = []
      let swept = 0
      for (let batch = 1; batch > 0; ) {
        batch = Number(await backend.sweep?.(now + 60_000, 3, (entry) => told.push(entry)))
        swept += batch
      }
      assert.equal(swept, 9)
      const byHead = (a: unknown, b: unknown) => ((a as Entry).metadata < (b as Entry).metadata ? -1 : 1)
      assert.deepEqual(told.sort(byHead), expected.sort(byHead))
      assert.ok(await backend.get(stays))
    },
  },
  owning('list gives all entries of an owner with their keys, and none of anybody else', async (open) => {
    const backend = await open()
    const [anna, bob] = [someone(), someone()]
    await lists(backend, anna, [], 'somebody who never came has none')
    const kept = new Map<string, Entry>()
    for (let i = 0; i < 12; i++) {
      const entry = entryWith({ owner: anna, value: i % 3 ? JSON.stringify({ i }) : undefined, metadata: `1.${i}` })
      kept.set(await generated(backend, entry), entry)
      await generated(backend, entryWith(i % 2 ? { owner: bob } : {}))
    }
    await lists(backend, anna, kept, 'each whole, and each once')
    assert.equal((await ownedBy(backend).list(bob)).length, 6)
  }),
  owning('an owner is his name to the letter: list and clear know no other', async (open) => {
    const backend = await open()
    const run = freshVersion()
    // In front of a short name as in the layer above, and nothing in front of those that are as long as can be.
    const owners = alike.map((name) => (name.length > 400 ? name : `${run}:${name}`))
    const kept = new Map<string, readonly [string, Entry]>()
    for (const owner of owners) {
      await ownedBy(backend).clear(owner)
      const entry = entryWith({ owner })
      kept.set(owner, [await generated(backend, entry), entry])
    }
    for (const owner of owners) await lists(backend, owner, [kept.get(owner) as [string, Entry]], `list ${owner}`)
    for (const owner of owners) {
      const [key, entry] = kept.get(owner) as [string, Entry]
      same(await backend.get(key), entry, `the clear of another spares ${owner}`)
      assert.equal(await ownedBy(backend).clear(owner), 1, `clear ${owner}`)
      assert.equal(await backend.get(key), undefined, `${owner} is gone`)
    }
  }),
  owning('list follows set, touch and clear', async (open) => {
    const backend = await open()
    const [owner, next] = [someone(), someone()]
    const entry = entryWith({ owner })
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', metadata: '1.new', version: freshVersion(), expiresAt: entry.expiresAt + 1 }
    await changed(backend, key, change, entry.version)
    await lists(backend, owner, [[key, { ...entry, ...change }]], 'what set wrote')
    await backend.touch(key, entry.expiresAt + 2)
    await lists(backend, owner, [[key, { ...entry, ...change, expiresAt: entry.expiresAt + 2 }]], 'as touch left it')
    assert.equal(await backend.clear(key, freshVersion()), 'stale')
    assert.equal((await ownedBy(backend).list(owner)).length, 1, 'a clear that was stale ends nothing')
    await backend.clear(key)
    await lists(backend, owner, [], 'what was cleared is not there')
    await backend.set(key, change, change.version)
    await backend.touch(key, entry.expiresAt + HOUR)
    await lists(backend, owner, [], 'and nothing brings it back')
    const other = entryWith({ owner: next })
    assert.equal(await backend.generate(key, other), undefined, 'a key that was cleared is free')
    await lists(backend, owner, [], 'the owner before has it no more')
    await lists(backend, next, [[key, other]], 'the one after has it')
    assert.equal(await ownedBy(backend).clear(owner), 0)
    same(await backend.get(key), other, 'and it is out of the reach of the one before')
  }),
  owning('a generate that is taken, or sent twice, gives an owner nothing more', async (open) => {
    const backend = await open()
    const [anna, bob] = [someone(), someone()]
    const entry = entryWith({ owner: anna })
    const key = await generated(backend, entry)
    assert.equal(await backend.generate(key, entry), undefined, 'a driver sent twice')
    assert.equal(await backend.generate(key, entryWith({ owner: bob })), 'taken')
    assert.equal(await backend.generate(key, entryWith({ owner: anna })), 'taken')
    assert.equal(await backend.generate(key, entryWith()), 'taken')
    await lists(backend, bob, [], 'who came too late has nothing')
    assert.equal(await ownedBy(backend).clear(bob), 0)
    await lists(backend, anna, [[key, entry]], 'who was first has it once')
    same(await backend.get(key), entry, 'and it is as it was')
    assert.equal(await ownedBy(backend).clear(anna), 1)
    assert.equal(await backend.get(key), undefined)
  }),
  owning('the clear of an owner removes all of his entries but one, and says how many', async (open) => {
    const backend = await open()
    const [anna, bob] = [someone(), someone()]
    const keys: string[] = []
    const entry = entryWith({ owner: anna })
    for (let i = 0; i < 7; i++) keys.push(await generated(backend, { ...entry, version: freshVersion() }))
    const kept = await generated(backend, entry)
    const [others, stranger] = [entryWith({ owner: bob }), entryWith()]
    const [hisKey, strange] = [await generated(backend, others), await generated(backend, stranger)]
    const { clear } = ownedBy(backend)
    assert.equal(await clear(anna, kept), 7)
    for (const key of keys) {
      assert.equal(await backend.get(key), undefined, 'it is gone')
      const change = { value: '{}', metadata: 'h', version: freshVersion() }
      assert.equal(await backend.set(key, change, entry.version), 'gone', 'and what ended stays ended')
    }
    same(await backend.get(kept), entry, 'the one that was to stay is as it was')
    await lists(backend, anna, [[kept, entry]], 'and is listed')
    assert.equal(await clear(anna, kept), 0, 'nothing is left to remove')
    same(await backend.get(hisKey), others, 'another owner keeps his')
    same(await backend.get(strange), stranger, 'and a stranger his')
    assert.equal(await clear(bob, kept), 1, 'a key of another owner keeps nothing')
    same(await backend.get(kept), entry, 'and is not cleared either')
    assert.equal(await clear(anna, freshKey()), 1, 'nor does a key that is not there')
    assert.equal(await clear(anna), 0)
    const again = entryWith({ owner: anna })
    const fresh = await generated(backend, again)
    await lists(backend, anna, [[fresh, again]], 'he may come again')
  }),
  owning('the clear of an owner leaves the mark that it is given, in the place of each entry', async (open) => {
    const backend = await open()
    const owner = someone()
    const entry = entryWith({ owner })
    const [one, two, kept] = [await generated(backend, entry), await generated(backend, entry), freshKey()]
    await backend.generate(kept, { ...entry, version: freshVersion() })
    const mark = markFor()
    assert.equal(await ownedBy(backend).clear(owner, kept, mark), 2)
    for (const key of [one, two]) {
      same(await backend.get(key), asEntry(mark), 'the mark is there, whole, and nobody owns it')
      assert.equal(
        await backend.set(key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version),
        'stale',
        'a save that comes late finds another version',
      )
    }
    assert.equal((await ownedBy(backend).list(owner)).length, 1, 'no mark is listed')
    assert.equal(await ownedBy(backend).clear(owner, kept, markFor()), 0, 'nor counted')
    same(await backend.get(one), asEntry(mark), 'nor replaced')
    const lone = await generated(backend, entry)
    assert.equal(await backend.clear(lone, entry.version, mark), undefined)
    assert.equal((await ownedBy(backend).list(owner)).length, 1, 'nor is the mark of a single clear')
  }),
  owning('a clear of an owner amid many generates leaves what it did not reach, and no more', async (open) => {
    const backends = [await open(), await open()] as const
    const owner = someone()
    for (let round = 0; round < 5; round++) {
      const keys = await Promise.all(
        Array.from({ length: 8 }, async (_, i) => generated(backends[i % 2] as Backend, entryWith({ owner }))),
      )
      const born = async (i: number) => {
        const key = freshKey()
        return [key, await (backends[i % 2] as Backend).generate(key, entryWith({ owner }))] as const
      }
      const first = Array.from({ length: 16 }, (_, i) => born(i))
      const clearing = (async () => ownedBy(backends[0]).clear(owner))()
      const second = Array.from({ length: 16 }, (_, i) => born(i))
      const cleared = await clearing
      for (const key of keys) assert.equal(await backends[1].get(key), undefined, 'what was there before is gone')
      const answers = await Promise.all([...first, ...second])
      const there = new Set((await ownedBy(backends[1]).list(owner)).map(({ key }) => key))
      let missing = 0
      for (const [key, answer] of answers) {
        assert.ok(answer === undefined || answer === 'gone', `generate answers ${answer}`)
        const found = (await backends[0].get(key)) !== undefined
        assert.equal(there.delete(key), found, 'what is there is listed, and nothing else')
        if (answer === 'gone') assert.equal(found, false, 'what is gone is not there')
        else if (!found) missing++
      }
      assert.equal(there.size, 0, 'nothing is listed that nobody generated')
      const gone = answers.filter(([, answer]) => answer === 'gone').length
      assert.ok(cleared >= 8 + missing && cleared <= 8 + missing + gone, `${cleared} cleared, ${missing} missing`)
      assert.equal(
        await ownedBy(backends[1]).clear(owner),
        answers.length - gone - missing,
        'the next clear has the rest',
      )
      for (const [key] of answers) assert.equal(await backends[0].get(key), undefined, 'and then none is there')
      await lists(backends[0], owner, [], 'nor listed')
    }
  }),
  owning('a clear of an owner beats the saves that come with it, whichever is first', async (open) => {
    const [one, other] = [await open(), await open()]
    const owner = someone()
    for (let i = 0; i < 10; i++) {
      const entry = entryWith({ owner })
      const keys = [await generated(one, entry), await generated(other, entry)]
      const change = { value: '{}', metadata: 'h', version: freshVersion(), expiresAt: entry.expiresAt + 1 }
      const clear = async () => ownedBy(one).clear(owner)
      const early = i % 2 ? clear() : undefined
      const saves = keys.map(async (key) => other.set(key, change, entry.version))
      const touches = keys.map(async (key) => other.touch(key, entry.expiresAt + 2))
      const cleared = await (early ?? clear())
      const [saved] = await Promise.all([Promise.all(saves), ...touches])
      assert.equal(cleared, 2)
      for (const answer of saved) assert.ok(answer === undefined || answer === 'gone', `set answers ${answer}`)
      for (const key of keys) {
        assert.equal(await other.get(key), undefined, 'what ended stays ended')
        assert.equal(await other.set(key, { ...change, version: freshVersion() }, change.version), 'gone')
        assert.equal(await other.get(key), undefined, 'and set does not bring it back')
      }
      await lists(other, owner, [], 'nothing of his is there')
    }
  }),
  owning('the entries of an owner are the same through two handles', async (open) => {
    const [one, other] = [await open(), await open()]
    const owner = someone()
    const entry = entryWith({ owner })
    const key = await generated(one, entry)
    await lists(other, owner, [[key, entry]], 'the other handle lists what the first one made')
    assert.equal(await ownedBy(other).clear(owner), 1)
    assert.equal(await one.get(key), undefined, 'and the first misses what the other cleared')
    await lists(one, owner, [], 'and lists it no more')
  }),
  owning('list gives no entry that is forgotten, expired or swept', async (open) => {
    const backend = await open()
    const owner = someone()
    const key = await generated(backend, entryWith({ owner, expiresAt: 1 }))
    const alive = entryWith({ owner })
    const stays = await generated(backend, alive)
    if ((await backend.get(key)) !== undefined) {
      if (backend.sweep) while ((await backend.sweep(2, 1000)) > 0);
      else await backend.clear(key)
    }
    assert.equal(await backend.get(key), undefined)
    await lists(backend, owner, [[stays, alive]], 'what is forgotten is not listed')
    assert.equal(await ownedBy(backend).clear(owner), 1, 'nor counted')
  }),
  {
    name: 'scan gives every entry that is there all the while, part by part, with its key',
    exempt: (backend) => (backend.scan ? undefined : 'it cannot tell what it keeps'),
    async run(open) {
      const backend = await open()
      const entries = new Map<string, Entry>()
      for (let i = 0; i < 25; i++) {
        const entry = entryWith(i % 2 === 0 ? {} : { owner: `owner ${i}`, value: undefined })
        entries.set(await generated(backend, entry), entry)
      }
      const [first] = entries.keys()
      const seen = new Map<string, Entry>()
      let cursor: string | undefined
      do {
        const part = await backend.scan?.(cursor, 7)
        assert.ok(part, 'scan gives a part of all entries')
        for (const { key, ...entry } of part.entries) seen.set(key, entry)
        cursor = part.cursor
        // What is touched, and what comes and goes meanwhile, hides nothing else.
        await backend.touch(first as string, Date.now() + 2 * HOUR)
        await backend.clear(await generated(backend, entryWith()))
      } while (cursor !== undefined)
      for (const [key, entry] of entries) {
        assert.ok(seen.has(key), 'every entry is given')
        if (key !== first) same(seen.get(key), entry, 'as it is kept')
      }
    },
  },
  {
    name: 'a secret is kept once, and every handle gives the first',
    exempt: (backend) => (backend.keepSecret ? undefined : 'it keeps no secret'),
    async run(open) {
      const [one, other] = [await open(), await open()]
      const [a, b] = [randomBytes(32).toString('hex'), randomBytes(32).toString('hex')]
      const kept = await one.keepSecret?.(a)
      assert.match(kept ?? '', /^[0-9a-f]{64}$/)
      if (one !== other) assert.equal(await other.keepSecret?.(b), kept, 'the other handle has the same secret')
    },
  },
  {
    name: 'a sealed key that was changed in one character opens nothing, nor does it under another name',
    exempt: sealing,
    async run(open) {
      const backend = await open()
      const key = await generated(backend, entryWith())
      for (let at = NAME.length + 1; at < key.length; at++) {
        const other = key[at] === 'A' ? 'B' : 'A'
        assert.equal(await backend.get(key.slice(0, at) + other + key.slice(at + 1)), undefined, `character ${at}`)
      }
      assert.equal(await backend.get(`other${key.slice(NAME.length)}`), undefined, 'the name is bound into the key')
    },
  },
  {
    name: 'a change makes another sealed key, and the one before opens what it held: it cannot be called back',
    exempt: sealing,
    async run(open) {
      const backend = await open()
      const entry = entryWith()
      const key = await generated(backend, entry)
      const next = await changed(backend, key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version)
      assert.notEqual(next, key)
      same(await backend.get(key), entry, 'the older key still opens')
    },
  },
  {
    name: 'clear ends a session for every copy of its key, and for every key that was made of it',
    exempt: (backend) => sealing(backend) ?? (backend.revocable ? undefined : 'it keeps no ends'),
    async run(open) {
      const backend = await open()
      const entry = entryWith()
      const key = await generated(backend, entry)
      const change = { value: '{}', metadata: 'h', version: freshVersion() }
      const next = await changed(backend, key, change, entry.version)
      await backend.clear(key)
      await backend.clear(next)
      for (const copy of [key, next]) assert.equal(await backend.get(copy), undefined, 'what ended stays ended')
      assert.equal(await backend.set(next, change, entry.version), 'gone')
      assert.equal(await backend.touch(next, entry.expiresAt + 1), undefined)
      const other = await generated(backend, entry)
      same(await backend.get(other), entry, 'another session goes on')
    },
  },
  {
    name: 'a mark is given for every copy of an ended key until it expires, and the first who ends it is the one',
    exempt: (backend) => sealing(backend) ?? (backend.revocable ? undefined : 'it keeps no ends'),
    async run(open) {
      const backend = await open()
      const entry = entryWith()
      const key = await generated(backend, entry)
      const change = { value: '{}', metadata: 'h', version: freshVersion() }
      const next = await changed(backend, key, change, entry.version)
      const mark = markFor()
      assert.equal(await backend.clear(key, entry.version, mark), undefined)
      for (const copy of [key, next]) {
        const { metadata, value, expiresAt } = (await backend.get(copy)) ?? assert.fail('the mark is there')
        assert.deepEqual(
          { metadata, value, expiresAt },
          { metadata: mark.metadata, value: undefined, expiresAt: mark.expiresAt },
        )
      }
      assert.equal(await backend.clear(key, entry.version, mark), undefined, 'a driver sent twice')
      assert.equal(await backend.clear(next, change.version, markFor()), 'stale', 'somebody else comes too late')
      assert.equal(await backend.set(next, change, entry.version), 'gone')
      assert.equal(await backend.touch(next, entry.expiresAt + 1), undefined)
      const other = await generated(backend, entry)
      await backend.clear(other, undefined, markFor(-1))
      assert.equal(await backend.get(other), undefined, 'a mark that has expired is not given, and the end stays')
    },
  },
]
