// Every backend of ours keeps the contract, and each case of the contract catches a backend that breaks it.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, backendFromUrl, type Entry } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { backendCases } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { everyStore } from '../support/stores.ts'

const secret = newSecret()
const ends = memoryBackend()
const sealing: typeof everyStore = [
  { name: 'cookie', opener: () => async () => cookieBackend({ secret }) },
  { name: 'cookie with ends', opener: () => async () => cookieBackend({ secret, ends }) },
]

for (const { name, opener } of [...everyStore, ...sealing]) {
  suite(`${name} keeps the contract`, () => {
    for (const one of backendCases) {
      test(one.name, async (t) => {
        const open = opener(t)
        const type = one.exempt(await open())
        if (type) return t.diagnostic(`nothing to ask: ${type}`)
        await one.run(open)
      })
    }
  })
}

/** The memory backend, told wrong in one way. */
const broken = async (change: (good: Backend) => Partial<Backend>): Promise<Backend> => {
  const good = await backendFromUrl('memory:')
  return { ...good, ...change(good) }
}

type Owned = NonNullable<Backend['byOwner']>

/** The memory backend, whose way with owners is told wrong. */
const misowned = (change: (owned: Owned, good: Backend) => Partial<Owned>): Promise<Backend> =>
  broken((good) => {
    const owned = good.byOwner ?? assert.fail('the memory backend finds entries by their owner')
    return { byOwner: { ...owned, ...change(owned, good) } }
  })

/** Takes names for one that `folded` makes one, as the collations of databases do, but gives them back as they were. */
const folding = (folded: (owner: string) => string): Promise<Backend> =>
  broken((good) => {
    const names = new Map<string, string | undefined>()
    const named = (key: string, entry: Entry): Entry => ({ ...entry, owner: names.get(key) })
    const { list, clear } = good.byOwner ?? assert.fail('the memory backend finds entries by their owner')
    return {
      get: (key) => {
        const entry = read(good, key)
        return entry && named(key, entry)
      },
      generate(key, { owner, ...entry }) {
        names.set(key, owner)
        return good.generate(key, { ...entry, owner: owner && folded(owner) })
      },
      byOwner: {
        list: async (owner) =>
          (await list(folded(owner))).map((entry) => ({ key: entry.key, ...named(entry.key, entry) })),
        clear: (owner, except, mark) => clear(folded(owner), except, mark),
      },
    }
  })

const read = (backend: Backend, key: string) => backend.get(key) as Entry | undefined
const lowerCased = (key: string) => key.toLowerCase()

/** For each case, by a part of its name, a backend that breaks its promise. */
const mutants: Record<string, () => Promise<Backend>> = {
  'get gives nothing': () => broken(() => ({ get: () => ({ value: '', metadata: '', expiresAt: 0, version: '' }) })),
  'generate inserts': () =>
    broken((good) => ({ generate: (key, { owner: _, ...entry }) => good.generate(key, entry) })),
  'generate answers taken': () =>
    broken((good) => ({
      generate: (key, entry) => {
        good.clear(key)
        return good.generate(key, entry)
      },
    })),
  'of many who generate': () =>
    broken((good) => ({
      async generate(key, entry) {
        const there = read(good, key)
        await null
        if (there) return 'taken'
        good.clear(key)
        return good.generate(key, entry)
      },
    })),
  'generate finds its own': () =>
    broken((good) => ({ generate: (key, entry) => (read(good, key) ? 'taken' : good.generate(key, entry)) })),
  'a value may be undefined': () =>
    broken((good) => ({
      get: (key) => {
        const entry = read(good, key)
        return entry && { ...entry, value: entry.value ?? '' }
      },
    })),
  'set replaces': () =>
    broken((good) => ({
      set: (key, { metadata: _, ...change }, version) => good.set(key, { ...change, metadata: 'old' }, version),
    })),
  'set answers stale': () =>
    broken((good) => ({ set: (key, change) => good.set(key, change, read(good, key)?.version ?? '') })),
  'set answers gone': () =>
    broken((good) => ({
      set: (key, change, version) => {
        const answer = good.set(key, change, version)
        if (answer === 'gone') good.generate(key, { expiresAt: 1e15, ...change })
        return answer
      },
    })),
  'set finds its own': () =>
    broken((good) => ({
      set: (key, change, version) =>
        read(good, key)?.version === change.version ? 'stale' : good.set(key, change, version),
    })),
  'set without an expiry': () =>
    broken((good) => ({ set: (key, change, version) => good.set(key, { expiresAt: 1e15, ...change }, version) })),
  'touch moves the expiry forward': () => broken(() => ({ touch: () => undefined })),
  'touch never moves': () =>
    broken((good) => ({
      touch: (key, expiresAt) => {
        const entry = read(good, key)
        if (entry) good.set(key, { ...entry, version: 'touched!', expiresAt }, entry.version)
        return undefined
      },
    })),
  'touch makes no entry': () =>
    broken((good) => ({
      touch: (key, expiresAt) => {
        good.generate(key, { value: '{}', metadata: '', version: '', expiresAt })
        return good.touch(key, expiresAt)
      },
    })),
  'clear removes the entry, and': () => broken(() => ({ clear: () => undefined })),
  'clear on a version': () => broken((good) => ({ clear: (key) => good.clear(key) })),
  'clear leaves the mark': () => broken((good) => ({ clear: (key, version) => good.clear(key, version) })),
  'clear leaves no mark': () =>
    broken((good) => ({
      clear(key, version, mark) {
        const answer = good.clear(key, version, mark)
        if (mark) good.generate(key, { value: undefined, ...mark })
        return answer
      },
    })),
  'a clear with a mark beats': () =>
    broken((good) => ({
      async clear(key, version, mark) {
        const answer = await good.clear(key, version)
        await null
        if (mark) await good.generate(key, { value: '{}', ...mark })
        return answer
      },
    })),
  'an entry is there until its expiry': () =>
    broken((good) => ({
      generate: (key, entry) =>
        good.generate(key, { ...entry, expiresAt: Math.floor(entry.expiresAt / 1000) * 1000 + 7 }),
    })),
  'an expiry of now': () =>
    broken((good) => ({
      generate(key, entry) {
        if (entry.expiresAt <= 0) throw new Error('ERR invalid expire time')
        return good.generate(key, entry)
      },
    })),
  'values keep every': () =>
    broken((good) => ({
      generate: (key, entry) => good.generate(key, { ...entry, value: entry.value?.replaceAll('\\u0000', '') }),
    })),
  'values keep a mebibyte': () =>
    broken((good) => ({
      generate: (key, entry) => good.generate(key, { ...entry, value: entry.value?.slice(0, 65_536) }),
    })),
  'keys that differ': () =>
    broken((good) => ({
      get: (key) => good.get(lowerCased(key)),
      generate: (key, entry) => good.generate(lowerCased(key), entry),
      clear: (key, version) => good.clear(lowerCased(key), version),
    })),
  'of fifty who write': () =>
    broken((good) => ({
      async set(key, change) {
        await null
        return good.set(key, change, read(good, key)?.version ?? '')
      },
    })),
  'a clear beats': () =>
    broken((good) => ({
      async set(key, change, version) {
        const entry = read(good, key)
        await null
        const answer = await good.set(key, change, version)
        if (answer === 'gone' && entry) await good.generate(key, { ...entry, ...change })
        return answer
      },
    })),
  'two handles': () => broken(() => ({})),
  'list gives all': () => misowned(({ list }) => ({ list: async (owner) => (await list(owner)).slice(0, 10) })),
  'an owner is his name': () => folding((owner) => owner.trimEnd()),
  'list follows': () =>
    broken((good) => {
      const { list, clear } = good.byOwner as Owned
      const born: (Entry & { readonly key: string })[] = []
      return {
        generate(key, entry) {
          born.push({ key, ...entry })
          return good.generate(key, entry)
        },
        byOwner: {
          clear,
          list: async (owner) => ((await list(owner)).length ? born.filter((e) => e.owner === owner) : []),
        },
      }
    }),
  'a generate that is taken': () =>
    broken((good) => ({
      async generate(key, entry) {
        const answer = await good.generate(key, entry)
        const there = read(good, key) as Entry
        if (answer !== 'taken') return answer
        // What an index does that is written before the entry is.
        await good.clear(key)
        await good.generate(key, { ...there, owner: entry.owner })
        return answer
      },
    })),
  'the clear of an owner': () => misowned(({ clear }) => ({ clear: (owner) => clear(owner) })),
  'the clear of an owner leaves': () => misowned(({ clear }) => ({ clear: (owner, except) => clear(owner, except) })),
  'a clear of an owner amid': () =>
    misowned(({ list }, good) => ({
      async clear(owner) {
        const there = await list(owner)
        await null
        for (const { key } of there.slice(0, 8)) good.clear(key)
        return there.length
      },
    })),
  'a clear of an owner beats': () =>
    broken((good) => ({
      async set(key, change, version) {
        const entry = read(good, key)
        await null
        const answer = await good.set(key, change, version)
        if (answer === 'gone' && entry) await good.generate(key, { ...entry, ...change })
        return answer
      },
    })),
  'the entries of an owner': () => broken(() => ({})),
  'list gives no entry': () =>
    broken((good) => {
      const { clear } = good.byOwner as Owned
      const born: (Entry & { readonly key: string })[] = []
      return {
        generate(key, entry) {
          born.push({ key, ...entry })
          return good.generate(key, entry)
        },
        byOwner: { list: async (owner) => born.filter((e) => e.owner === owner), clear },
      }
    }),
  'sweep removes': () => broken((good) => ({ sweep: (now) => good.sweep?.(now + 1, 1000) ?? 0 })),
  'sweep tells of each': () => broken((good) => ({ sweep: (now, limit) => good.sweep?.(now, limit) ?? 0 })),
  'scan gives every entry': () =>
    broken((good) => ({
      scan: async (cursor, limit) => {
        const part = (await good.scan?.(cursor, limit)) ?? { entries: [], cursor: undefined }
        return { ...part, entries: part.entries.slice(1) }
      },
    })),
  'a secret is kept': () => broken(() => ({ keepSecret: (fresh) => fresh })),
  'a sealed key that was': () =>
    brokenCookie((good) => ({ get: (key) => good.get(key) ?? { value: '', metadata: '', expiresAt: 0, version: '' } })),
  'a change makes another': () =>
    brokenCookie((good) => ({ set: (key) => (good.get(key) ? { held: key.slice(key.indexOf('=') + 1) } : 'gone') })),
  'clear ends a session': () => brokenCookie(() => ({ clear: () => undefined })),
  'a mark is given': () => brokenCookie((good) => ({ clear: (key, version) => good.clear(key, version) })),
}

const sealed = () => cookieBackend({ secret: newSecret(), ends: memoryBackend() })

const brokenCookie = async (change: (good: Backend) => Partial<Backend>): Promise<Backend> => {
  const good = sealed()
  return { ...good, ...change(good) }
}

/** What databases and indexes make one of several names. */
const folds: Record<string, (owner: string) => string> = {
  case: (owner) => owner.toLowerCase(),
  'spaces at the end': (owner) => owner.replace(/ +$/, ''),
  'white space around': (owner) => owner.trim(),
  accents: (owner) => owner.normalize('NFD').replace(/\p{M}/gu, ''),
  'composed characters': (owner) => owner.normalize('NFC'),
  'compatible characters': (owner) => owner.normalize('NFKC'),
  'what is outside the first plane': (owner) => owner.replace(/[\u{10000}-\u{10ffff}]/gu, '?'),
  'a limit of 254 characters': (owner) => [...owner].slice(0, 254).join(''),
  'a limit of 1000 bytes': (owner) => Buffer.from(owner).subarray(0, 1000).toString('latin1'),
  'what comes behind a line break': (owner) => owner.split('\n')[0] as string,
  'what comes behind a second colon': (owner) => owner.split(':').slice(0, 2).join(':'),
  'what is no letter of ours': (owner) => owner.replace(/[^ -~\n\t]/g, ''),
  'what escapes': (owner) => owner.replaceAll('\\', ''),
  quotes: (owner) => owner.replaceAll("''", "'"),
  paths: (owner) => owner.split('/').at(-1) as string,
  numbers: (owner) => owner.replace(/:\d[\d.e]*$/, (text) => `:${Number(text.slice(1))}`),
}

suite('an index that takes two owners for one fails the case', () => {
  const one = backendCases.find(({ name }) => name.startsWith('an owner is his name'))
  for (const [name, folded] of Object.entries(folds)) {
    test(`that folds ${name}`, async () => {
      const backend = await folding(folded)
      await assert.rejects(async () => one?.run(() => backend), assert.AssertionError)
    })
  }
  test('and one that folds nothing passes', async () => {
    const backend = await folding((owner) => owner)
    await one?.run(() => backend)
  })
})

suite('a broken backend fails the case', () => {
  for (const one of backendCases) {
    test(one.name, async () => {
      const name = Object.keys(mutants)
        .sort((a, b) => b.length - a.length)
        .find((start) => one.name.startsWith(start))
      assert.ok(name, 'there is a backend that breaks this promise')
      const mutant = mutants[name] as () => Promise<Backend>
      // Two stores that should be one, where the promise is about two handles.
      const shared = await mutant()
      const apart = ['two handles', 'the entries of an owner', 'a secret is kept'].includes(name)
      const handles = apart ? [shared, await mutant()] : [shared]
      let opened = 0
      const open = () => handles[opened++ % handles.length] as Backend
      await assert.rejects(one.run(open), (error) => error instanceof assert.AssertionError || error instanceof Error)
    })
  }
})
