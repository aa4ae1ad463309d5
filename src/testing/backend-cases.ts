// What every backend promises, case by case, as data: no test runner is named here.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Backend, Change, Entry } from '../backend.ts'
import type { Awaitable } from '../outcome.ts'

export type BackendCase = {
  /** The promise. */
  readonly name: string
  /** Why this case has nothing to ask of a backend, read from the backend itself; undefined where it has. */
  skip(backend: Backend): string | undefined
  /**
   * Throws where the promise is broken.
   *
   * @param open gives a handle on the store under test: another handle on the same store each time, if it can have several
   */
  run(open: () => Awaitable<Backend>): Promise<void>
}

const freshKey = (): string => randomBytes(32).toString('base64url')
const freshVersion = (): string => randomBytes(6).toString('base64url')

const HOUR = 3_600_000

const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  head: '1.abc.def',
  expiresAt: Date.now() + HOUR,
  version: freshVersion(),
  ...more,
})

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
const keeping = (name: string, run: Run): BackendCase => ({ name, skip: stateful, run })

/** Both kinds: a stateless backend is called with the name of a cookie and a fresh key, and answers with what to hold. */
const any = (name: string, run: Run): BackendCase => ({ name, skip: () => undefined, run })

const NAME = 'sid'

const generated = async (backend: Backend, entry: Entry): Promise<string> => {
  const key = backend.stateless ? `${NAME}=${freshKey()}` : freshKey()
  const held = await backend.generate(key, entry)
  if (backend.stateless) return `${NAME}=${held ?? assert.fail('generate gives what the client holds')}`
  assert.equal(held, undefined, 'generate under a fresh key inserts')
  return key
}

/** The key by which an entry is found after a change. */
const changed = async (backend: Backend, key: string, change: Change, version: string): Promise<string> => {
  const held = await backend.set(key, change, version)
  if (backend.stateless) return `${NAME}=${held ?? assert.fail('set gives what the client holds')}`
  assert.equal(held, undefined, 'set on the version that is there is done')
  return key
}

const touched = async (backend: Backend, key: string, expiresAt: number): Promise<string> => {
  const held = await backend.touch(key, expiresAt)
  return held === undefined ? key : `${NAME}=${held}`
}

/** Adds a field by compare-and-set, however often it takes. */
const added = async (backend: Backend, key: string, field: string): Promise<void> => {
  for (let tries = 0; tries < 10_000; tries++) {
    const entry = await backend.get(key)
    assert.ok(entry, 'the entry is there while others write')
    const value = JSON.stringify({ ...JSON.parse(entry.value ?? '{}'), [field]: true })
    const outcome = await backend.set(key, { value, head: entry.head, version: freshVersion() }, entry.version)
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
  const change = { value: JSON.stringify([fields]), head: '1.x', version: freshVersion() }
  const next = await changed(backend, key, change, entry.version)
  same(await backend.get(next), { ...entry, ...change }, 'what set was given comes back to the letter')
}

/** The contract of `Backend`, one promise a case. A stateless backend keeps only those that need no store. */
export const backendCases: readonly BackendCase[] = [
  any('get gives nothing for a key that nobody generated', async (open) => {
    const backend = await open()
    assert.equal(await backend.get(freshKey()), undefined)
    assert.equal(await backend.get(`${NAME}=${freshKey()}`), undefined)
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
    const change = { value: '{}', head: 'h', version: freshVersion() }
    key = await changed(backend, key, change, entry.version)
    same(await backend.get(key), { ...entry, ...change }, 'a value follows undefined')
    const undone = { value: undefined, head: 'h', version: freshVersion() }
    key = await changed(backend, key, undone, change.version)
    same(await backend.get(key), { ...entry, ...undone }, 'undefined follows a value')
  }),
  any('set replaces the entry that has the version', async (open) => {
    const backend = await open()
    const entry = entryWith({ owner: 'anna' })
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', head: '1.other', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    const next = await changed(backend, key, change, entry.version)
    same(await backend.get(next), { ...entry, ...change }, 'value, head, version and expiry are new, the owner stays')
  }),
  keeping('set answers stale where the version is another, and changes nothing', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', head: 'h', version: freshVersion(), expiresAt: entry.expiresAt + HOUR }
    assert.equal(await backend.set(key, change, freshVersion()), 'stale')
    same(await backend.get(key), entry, 'the entry stays')
  }),
  keeping('set answers gone where there is no entry, and makes none', async (open) => {
    const backend = await open()
    const key = freshKey()
    const change = { value: '{}', head: 'h', version: freshVersion(), expiresAt: Date.now() + HOUR }
    assert.equal(await backend.set(key, change, freshVersion()), 'gone')
    assert.equal(await backend.get(key), undefined, 'what ended stays ended')
  }),
  keeping('set finds its own version again: a driver sent twice', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const change = { value: '{"n":2}', head: 'h', version: freshVersion() }
    await backend.set(key, change, entry.version)
    assert.equal(await backend.set(key, change, entry.version), undefined)
    same(await backend.get(key), { ...entry, ...change }, 'the second time changes nothing')
  }),
  any('set without an expiry leaves the expiry', async (open) => {
    const backend = await open()
    const entry = entryWith()
    const key = await generated(backend, entry)
    const next = await changed(backend, key, { value: '{}', head: 'h', version: freshVersion() }, entry.version)
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
      const change = { value: '{}', head: 'h', version: freshVersion() }
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
    skip: (backend) => stateful(backend) ?? (backend.sweep ? undefined : 'its store forgets by itself'),
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
    name: 'a secret is kept once, and every handle gives the first',
    skip: (backend) => (backend.secret ? undefined : 'it keeps no secret'),
    async run(open) {
      const [one, other] = [await open(), await open()]
      const [a, b] = [randomBytes(32).toString('hex'), randomBytes(32).toString('hex')]
      const kept = await one.secret?.(a)
      assert.match(kept ?? '', /^[0-9a-f]{64}$/)
      if (one !== other) assert.equal(await other.secret?.(b), kept, 'the other handle has the same secret')
    },
  },
  {
    name: 'a sealed key that was changed in one character opens nothing, nor does it under another name',
    skip: sealing,
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
    skip: sealing,
    async run(open) {
      const backend = await open()
      const entry = entryWith()
      const key = await generated(backend, entry)
      const next = await changed(backend, key, { value: '{}', head: 'h', version: freshVersion() }, entry.version)
      assert.notEqual(next, key)
      same(await backend.get(key), entry, 'the older key still opens')
    },
  },
  {
    name: 'clear ends a session for every copy of its key, and for every key that was made of it',
    skip: (backend) => sealing(backend) ?? (backend.revocable ? undefined : 'it keeps no ends'),
    async run(open) {
      const backend = await open()
      const entry = entryWith()
      const key = await generated(backend, entry)
      const change = { value: '{}', head: 'h', version: freshVersion() }
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
]
