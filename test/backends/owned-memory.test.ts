// The owners of sessions in memory: the index follows every change of the entries, and costs little memory.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { resolve } from 'node:path'
import { suite, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import type { Backend, Entry } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { entryWith as anyEntry, freshKey, freshVersion } from '../support/entries.ts'
import { runs } from '../support/quick.ts'

/** Expires in the far future, because these tests set the clock of the backend. */
const entryWith = (more: Partial<Entry> = {}): Entry => anyEntry({ expiresAt: 9e12, ...more })

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

const heap = async (): Promise<number> => {
  for (let round = 0; round < 4; round++) {
    collect()
    await setImmediate()
  }
  return process.memoryUsage().heapUsed
}

const keysOf = (backend: Backend, owner: string): string[] => {
  const { list } = backend.byOwner ?? assert.fail()
  return (list(owner) as readonly { key: string }[]).map(({ key }) => key)
}

const owners = ['anna', 'bob', 'a\nb', 'a', undefined]

test('after any operations, list returns exactly the entries of the owner, and clear removes them all', async () => {
  const keys = Array.from({ length: 40 }, freshKey)
  const acts = fc.array(
    fc.record({
      act: fc.constantFrom('generate', 'generate', 'generate', 'set', 'touch', 'clear', 'sweep', 'revoke', 'wait'),
      key: fc.nat({ max: keys.length - 1 }),
      owner: fc.constantFrom(...owners),
      size: fc.nat({ max: 400 }),
    }),
    { minLength: 100, maxLength: 400 },
  )
  const present = (backend: Backend, owner: string) =>
    keys.filter((key) => (backend.get(key) as Entry | undefined)?.owner === owner).sort()
  const listed = (backend: Backend, owner: string) => keysOf(backend, owner).sort()
  await fc.assert(
    fc.asyncProperty(acts, async (steps) => {
      let now = 1_000
      const backend = memoryBackend({ maxEntries: 25, maxBytes: 9_000, now: () => now })
      for (const { act, key: at, owner, size } of steps) {
        const key = keys[at] as string
        const value = 'x'.repeat(size)
        const entry = backend.get(key) as Entry | undefined
        const change = { value, metadata: '', version: freshVersion(), expiresAt: now + size }
        if (act === 'generate') backend.generate(key, entryWith({ value, owner, expiresAt: now + size }))
        else if (act === 'set') backend.set(key, change, entry?.version ?? '')
        else if (act === 'touch') backend.touch(key, now + 2 * size)
        else if (act === 'clear') backend.clear(key)
        else if (act === 'sweep') backend.sweep?.(now, size % 3)
        else if (act === 'wait') now += size % 100
        else if (owner !== undefined) {
          const before = present(backend, owner)
          const removed = backend.byOwner?.clear(owner, size % 2 ? key : undefined)
          const after = present(backend, owner)
          assert.equal(removed, before.length - after.length)
          assert.deepEqual(after, size % 2 && before.includes(key) ? [key] : [])
        }
        for (const owner of owners)
          if (owner !== undefined) assert.deepEqual(listed(backend, owner), present(backend, owner))
      }
    }),
    { numRuns: runs(60) },
  )
})

test('after any operations, the entry that is evicted is the one whose last write is the oldest', () => {
  const act = fc.record({
    act: fc.constantFrom('generate', 'generate', 'generate', 'generate', 'set', 'touch', 'clear', 'revoke'),
    key: fc.nat({ max: 299 }),
  })
  fc.assert(
    fc.property(fc.array(act, { minLength: 400, maxLength: 900 }), (steps) => {
      const keys = Array.from({ length: 300 }, freshKey)
      const backend = memoryBackend({ maxEntries: 60 })
      /** Keys in the order of their last write, oldest first. */
      let kept: string[] = []
      const written = (key: string) => {
        kept = [...kept.filter((other) => other !== key), key].slice(-60)
      }
      for (const { act, key: at } of steps) {
        const key = keys[at] as string
        const entry = backend.get(key) as Entry | undefined
        if (act === 'generate' && entry === undefined) backend.generate(key, entryWith())
        else if (act === 'set')
          backend.set(key, { value: '', metadata: '', version: freshVersion() }, entry?.version ?? '')
        else if (act === 'touch') backend.touch(key, (entry?.expiresAt ?? 0) + 1)
        else if (act === 'revoke') for (const one of keys.slice(at, at + 20)) backend.clear(one)
        else if (act === 'clear') backend.clear(key)
        if (act === 'clear') kept = kept.filter((other) => other !== key)
        else if (act === 'revoke') kept = kept.filter((other) => !keys.slice(at, at + 20).includes(other))
        else if (act === 'generate' ? entry === undefined : entry !== undefined) written(key)
      }
      assert.deepEqual(
        keys.filter((key) => backend.get(key) !== undefined),
        keys.filter((key) => kept.includes(key)),
      )
    }),
    { numRuns: 100 },
  )
})

test('the index follows an owner who ends many sessions one by one, from either end of the list', () => {
  const backend = memoryBackend()
  const keys = Array.from({ length: 30 }, freshKey)
  for (const key of keys) backend.generate(key, entryWith({ owner: 'anna' }))
  for (let left = keys; left.length > 0; left = left.length % 2 ? left.slice(1) : left.slice(0, -1)) {
    const listed = keysOf(backend, 'anna')
    assert.deepEqual(listed.sort(), [...left].sort())
    backend.clear(left.length % 2 ? (left[0] as string) : (left.at(-1) as string))
  }
  assert.deepEqual(backend.byOwner?.list('anna'), [])
})

suite('the memory that sessions take', () => {
  const COUNT = 20_000
  /** Bytes for each entry, in a backend that has this many of each owner. */
  const cost = async (each: number, after: (backend: Backend, keys: readonly string[]) => void = () => {}) => {
    const keys = Array.from({ length: COUNT }, freshKey)
    const ownerOf = (at: number) => (each === 0 ? undefined : `app:user ${Math.floor(at / each)}`)
    const before = await heap()
    const backend = memoryBackend()
    for (const [at, key] of keys.entries()) backend.generate(key, entryWith({ owner: ownerOf(at) }))
    after(backend, keys)
    const bytes = ((await heap()) - before) / COUNT
    assert.equal(backend.name, 'memory')
    return bytes
  }

  test('no entry keeps the longer text from which its key, owner, value or metadata was sliced, and no sum of texts', async () => {
    const pieces = (text: string) => ({ sliced: text.slice(100, 143), added: `app.${text.slice(100, 139)}` })
    const made: Record<string, (piece: string) => readonly [key: string, entry: Entry]> = {
      key: (key) => [key, entryWith()],
      owner: (owner) => [freshKey(), entryWith({ owner })],
      value: (value) => [freshKey(), entryWith({ value })],
      metadata: (metadata) => [freshKey(), entryWith({ metadata })],
      version: (text) => [freshKey(), entryWith({ version: text.slice(0, 40) })],
    }
    for (const [what, entryOf] of Object.entries(made)) {
      for (const how of ['sliced', 'added'] as const) {
        for (const written of ['once', 'again'] as const) {
          const before = await heap()
          const backend = memoryBackend()
          for (let i = 0; i < 300; i++) {
            const [key, entry] = entryOf(pieces(randomBytes(10_000).toString('hex'))[how])
            backend.generate(key, entry)
            if (written === 'once') continue
            const next = pieces(key + randomBytes(10_000).toString('hex'))
            const sameKey = what === 'key' ? `${key}${next.sliced}`.slice(0, key.length) : key
            backend.set(sameKey, { value: next[how], metadata: next[how], version: freshVersion() }, entry.version)
            backend.touch(sameKey, 9.1e12)
          }
          const bytes = ((await heap()) - before) / 300
          assert.ok(bytes < 2_000, `${bytes} bytes for each entry: the ${what} was ${how}, written ${written}`)
          assert.equal(backend.name, 'memory')
        }
      }
    }
  })

  test('an owner takes little memory, and less for each session if they have several', async () => {
    const none = await cost(0)
    for (const each of [1, 2, 8, 9, 1000]) {
      const more = (await cost(each)) - none
      assert.ok(more < 190, `${more} bytes more for each session of an owner who has ${each}`)
    }
  })

  test('no memory of an owner is left after their sessions are gone', async () => {
    for (const each of [1, 2, 50]) {
      const left = await cost(each, (backend, keys) => {
        for (const key of keys) backend.clear(key)
        // The iterator that looks for expired entries keeps its table alive until it moves on.
        for (let i = 0; i < 3; i++) backend.generate(freshKey(), entryWith({ owner: 'app:last' }))
      })
      assert.ok(left < 8, `${left} bytes for each session`)
    }
  })

  test('the index does not keep the first text of a session that was written again', async () => {
    const large = 'x'.repeat(2_000)
    const before = await heap()
    const backend = memoryBackend()
    for (let i = 0; i < 2_000; i++) {
      const [key, entry] = [
        freshKey(),
        entryWith({ owner: `app:somebody with a long name ${i}`, value: `${i}${large}` }),
      ]
      backend.generate(key, entry)
      backend.set(key, { value: '', metadata: '', version: freshVersion() }, entry.version)
    }
    const bytes = ((await heap()) - before) / 2_000
    assert.ok(bytes < 1_000, `${bytes} bytes for each session`)
    assert.equal(backend.name, 'memory')
  })

  const sizes: Record<string, readonly [value: string, count: number]> = {
    'few bytes': ['{"n":1}', 30_000],
    '1 KB': [`"${'x'.repeat(1_000)}"`, 10_000],
    '1 KB with one character beyond Latin-1': [`"€${'x'.repeat(1_000)}"`, 10_000],
    '60 KB': [`"${'x'.repeat(60_000)}"`, 300],
    '60 KB with one character beyond Latin-1': [`"€${'x'.repeat(60_000)}"`, 300],
  }
  for (const [size, [value, count]] of Object.entries(sizes)) {
    for (const [name, owner] of Object.entries({ nobody: undefined, user: 'app:user', foxes: '🦊'.repeat(100) })) {
      for (const each of owner === undefined ? [1] : [1, 100]) {
        test(`the entries take about maxBytes: ${size}, ${each} of ${name}`, async () => {
          const maxBytes = 4 * 2 ** 20
          const before = await heap()
          const backend = memoryBackend({ maxBytes })
          for (let at = 0; at < count; at++) {
            const more = owner === undefined ? {} : { owner: `${owner} ${Math.floor(at / each)}` }
            backend.generate(freshKey(), entryWith({ ...more, value: `${at}${value}` }))
          }
          const bytes = (await heap()) - before
          assert.ok(bytes < maxBytes * 1.25, `${bytes} bytes`)
          assert.ok(bytes > maxBytes / 2, `${bytes} bytes`)
          assert.equal(backend.name, 'memory')
        })
      }
    }
  }

  for (const [megabytes, characters, bytesEach] of [
    [64, 60_000, 1],
    [128, 60_000, 2],
    [128, 400, 1],
    [256, 100_000, 1],
  ] as const) {
    test(`a flood of new sessions does not end a process of ${megabytes} MiB: ${characters} characters of ${bytesEach} byte`, () => {
      const flood = resolve(import.meta.dirname, '../support/flood.ts')
      const args = [`--max-old-space-size=${megabytes}`, flood, ...[megabytes, characters, bytesEach].map(String)]
      const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' })
      assert.equal(status, 0, stderr)
      const { kept, evicted } = JSON.parse(stdout)
      assert.ok(kept > 50 && evicted > kept, stdout)
    })
  }
})
