// Every backend keeps the contract, and each case of the contract fails on a backend that breaks it.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, backendFromUrl, type Entry, type KeyedEntry, type OwnerIndex } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { backendCases } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { everyStore } from '../support/stores.ts'

const secret = newSecret()
const ends = memoryBackend()
const cookies: typeof everyStore = [
  { name: 'cookie', opener: () => async () => cookieBackend({ secret }) },
  { name: 'cookie with ends', opener: () => async () => cookieBackend({ secret, ends }) },
]

for (const { name, opener } of [...everyStore, ...cookies]) {
  suite(`${name} keeps the contract`, () => {
    for (const one of backendCases) {
      test(one.name, async (t) => {
        const open = opener(t)
        const reason = one.exempt(await open())
        if (reason) return t.diagnostic(`skipped: ${reason}`)
        await one.run(open)
      })
    }
  })
}

/** The memory backend with a mistake. */
const broken = async (change: (good: Backend) => Partial<Backend>): Promise<Backend> => {
  const good = await backendFromUrl('memory:')
  return { ...good, ...change(good) }
}

/** The memory backend with a mistake in its index of owners. */
const brokenIndex = (change: (index: OwnerIndex, good: Backend) => Partial<OwnerIndex>): Promise<Backend> =>
  broken((good) => {
    const index = good.byOwner ?? assert.fail('the memory backend finds entries by their owner')
    return { byOwner: { ...index, ...change(index, good) } }
  })

/** The memory backend with a set that creates the entry again if it was cleared concurrently. */
const restoring = (): Promise<Backend> =>
  broken((good) => ({
    async set(key, change, version) {
      const entry = read(good, key)
      await null
      const answer = await good.set(key, change, version)
      if (answer === 'gone' && entry) await good.generate(key, { ...entry, ...change })
      return answer
    },
  }))

/** The memory backend with an index that confuses owners if `folded` makes them equal, as collations of databases do. */
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

/** For each case, by the beginning of its name: a backend that breaks its promise. */
const mutants: Record<string, () => Promise<Backend>> = {
  'get returns undefined': () =>
    broken(() => ({ get: () => ({ value: '', metadata: '', expiresAt: 0, version: '' }) })),
  'generate inserts an entry': () =>
    broken((good) => ({ generate: (key, { owner: _, ...entry }) => good.generate(key, entry) })),
  'generate returns taken': () =>
    broken((good) => ({
      generate: (key, entry) => {
        good.clear(key)
        return good.generate(key, entry)
      },
    })),
  'of many concurrent generates': () =>
    broken((good) => ({
      async generate(key, entry) {
        const present = read(good, key)
        await null
        if (present) return 'taken'
        good.clear(key)
        return good.generate(key, entry)
      },
    })),
  'generate returns undefined again': () =>
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
  'set returns stale': () =>
    broken((good) => ({ set: (key, change) => good.set(key, change, read(good, key)?.version ?? '') })),
  'set returns gone': () =>
    broken((good) => ({
      set: (key, change, version) => {
        const answer = good.set(key, change, version)
        if (answer === 'gone') good.generate(key, { expiresAt: 1e15, ...change })
        return answer
      },
    })),
  'set returns undefined again': () =>
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
  'touch creates no entry': () =>
    broken((good) => ({
      touch: (key, expiresAt) => {
        good.generate(key, { value: '{}', metadata: '', version: '', expiresAt })
        return good.touch(key, expiresAt)
      },
    })),
  'clear removes the entry, and': () => broken(() => ({ clear: () => undefined })),
  'clear with a version': () => broken((good) => ({ clear: (key) => good.clear(key) })),
  'clear with a mark': () => broken((good) => ({ clear: (key, version) => good.clear(key, version) })),
  'clear leaves no mark': () =>
    broken((good) => ({
      clear(key, version, mark) {
        const answer = good.clear(key, version, mark)
        if (mark) good.generate(key, { value: undefined, ...mark })
        return answer
      },
    })),
  'after a concurrent clear with a mark': () =>
    broken((good) => ({
      async clear(key, version, mark) {
        const answer = await good.clear(key, version)
        await null
        if (mark) await good.generate(key, { value: '{}', ...mark })
        return answer
      },
    })),
  'get returns an entry until its expiry': () =>
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
  'of fifty concurrent changes': () =>
    broken((good) => ({
      async set(key, change) {
        await null
        return good.set(key, change, read(good, key)?.version ?? '')
      },
    })),
  'after a concurrent clear and set': restoring,
  'two handles on one store see the same entries': () => broken(() => ({})),
  'list returns all': () => brokenIndex(({ list }) => ({ list: async (owner) => (await list(owner)).slice(0, 10) })),
  'owners are equal only if': () => folding((owner) => owner.trimEnd()),
  'list follows': () =>
    broken((good) => {
      const { list, clear } = good.byOwner as OwnerIndex
      const generated: KeyedEntry[] = []
      return {
        generate(key, entry) {
          generated.push({ key, ...entry })
          return good.generate(key, entry)
        },
        byOwner: {
          clear,
          list: async (owner) => ((await list(owner)).length ? generated.filter((e) => e.owner === owner) : []),
        },
      }
    }),
  'a generate that is taken': () =>
    broken((good) => ({
      async generate(key, entry) {
        const answer = await good.generate(key, entry)
        const present = read(good, key) as Entry
        if (answer !== 'taken') return answer
        // An index does this if it is written before the entry.
        await good.clear(key)
        await good.generate(key, { ...present, owner: entry.owner })
        return answer
      },
    })),
  'the clear of an owner removes': () => brokenIndex(({ clear }) => ({ clear: (owner) => clear(owner) })),
  'the clear of an owner with a mark': () =>
    brokenIndex(({ clear }) => ({ clear: (owner, except) => clear(owner, except) })),
  'a clear of an owner during': () =>
    brokenIndex(({ list }, good) => ({
      async clear(owner) {
        const listed = await list(owner)
        await null
        for (const { key } of listed.slice(0, 8)) good.clear(key)
        return listed.length
      },
    })),
  'after a concurrent clear of an owner': restoring,
  'two handles on one store see the same entries of an owner': () => broken(() => ({})),
  'list returns no entry': () =>
    broken((good) => {
      const { clear } = good.byOwner as OwnerIndex
      const generated: KeyedEntry[] = []
      return {
        generate(key, entry) {
          generated.push({ key, ...entry })
          return good.generate(key, entry)
        },
        byOwner: { list: async (owner) => generated.filter((e) => e.owner === owner), clear },
      }
    }),
  'sweep removes only': () => broken((good) => ({ sweep: (now) => good.sweep?.(now + 1, 1000) ?? 0 })),
  'sweep reports each': () => broken((good) => ({ sweep: (now, limit) => good.sweep?.(now, limit) ?? 0 })),
  'scan returns every entry': () =>
    broken((good) => ({
      scan: async (cursor, limit) => {
        const page = (await good.scan?.(cursor, limit)) ?? { entries: [], cursor: undefined }
        return { ...page, entries: page.entries.slice(1) }
      },
    })),
  'metadata keeps': () =>
    broken((good) => ({ generate: (key, entry) => good.generate(key, { ...entry, metadata: entry.metadata.trim() }) })),
  'scan returns no entry': () =>
    broken((good) => {
      // It reads all entries at the start, as a cursor of a database in a transaction does.
      let rest: readonly KeyedEntry[] = []
      return {
        scan: async (cursor, limit) => {
          if (cursor === undefined) rest = (await good.scan?.(undefined, 10_000))?.entries ?? []
          const entries = rest.slice(0, limit)
          rest = rest.slice(limit)
          return { entries, cursor: rest.length > 0 ? 'more' : undefined }
        },
      }
    }),
  'scan ends': () =>
    broken((good) => ({
      scan: async (cursor, limit) => {
        const page = (await good.scan?.(cursor, limit)) ?? { entries: [] }
        return { entries: page.entries, cursor: 'begins again' }
      },
    })),
  'keepSecret stores': () => broken(() => ({ keepSecret: (candidate) => candidate })),
  'a sealed key opens nothing': () =>
    brokenCookie((good) => ({ get: (key) => good.get(key) ?? { value: '', metadata: '', expiresAt: 0, version: '' } })),
  'a change returns a new sealed key': () =>
    brokenCookie((good) => ({ set: (key) => (good.get(key) ? { held: key.slice(key.indexOf('=') + 1) } : 'gone') })),
  'clear ends a session': () => brokenCookie(() => ({ clear: () => undefined })),
  'a backend for another namespace opens no key': () => brokenCookie((good) => ({ forNamespace: () => good })),
  'get returns the first mark': () => brokenCookie((good) => ({ clear: (key, version) => good.clear(key, version) })),
}

const sealed = () => cookieBackend({ secret: newSecret(), ends: memoryBackend() })

const brokenCookie = async (change: (good: Backend) => Partial<Backend>): Promise<Backend> => {
  const good = sealed()
  return { ...good, ...change(good) }
}

/** The differences between names that databases and indexes ignore. */
const folds: Record<string, (owner: string) => string> = {
  case: (owner) => owner.toLowerCase(),
  'trailing spaces': (owner) => owner.replace(/ +$/, ''),
  'white space at both ends': (owner) => owner.trim(),
  accents: (owner) => owner.normalize('NFD').replace(/\p{M}/gu, ''),
  'the composition of characters': (owner) => owner.normalize('NFC'),
  'the forms of compatible characters': (owner) => owner.normalize('NFKC'),
  'characters outside the first plane': (owner) => owner.replace(/[\u{10000}-\u{10ffff}]/gu, '?'),
  'characters after 254': (owner) => [...owner].slice(0, 254).join(''),
  'bytes after 1000': (owner) => Buffer.from(owner).subarray(0, 1000).toString('latin1'),
  'text after a line break': (owner) => owner.split('\n')[0] as string,
  'text after a second colon': (owner) => owner.split(':').slice(0, 2).join(':'),
  'characters outside ASCII': (owner) => owner.replace(/[^ -~\n\t]/g, ''),
  backslashes: (owner) => owner.replaceAll('\\', ''),
  'repeated quotes': (owner) => owner.replaceAll("''", "'"),
  'leading path segments': (owner) => owner.split('/').at(-1) as string,
  'the form of numbers': (owner) => owner.replace(/:\d[\d.e]*$/, (text) => `:${Number(text.slice(1))}`),
}

suite('an index that confuses two owners fails the case', () => {
  const one = backendCases.find(({ name }) => name.startsWith('owners are equal only if'))
  for (const [name, folded] of Object.entries(folds)) {
    test(`an index that ignores ${name}`, async () => {
      const backend = await folding(folded)
      await assert.rejects(async () => one?.run(() => backend), assert.AssertionError)
    })
  }
  test('an index that ignores nothing passes', async () => {
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
      assert.ok(name, 'a backend breaks this promise')
      const mutant = mutants[name] as () => Promise<Backend>
      // Two separate stores in the place of two handles on one store.
      const first = await mutant()
      const isShared = ![
        'two handles on one store see the same entries',
        'two handles on one store see the same entries of an owner',
        'keepSecret stores',
      ].includes(name)
      const handles = isShared ? [first] : [first, await mutant()]
      let opened = 0
      const open = () => handles[opened++ % handles.length] as Backend
      await assert.rejects(one.run(open), (error) => error instanceof assert.AssertionError || error instanceof Error)
    })
  }
})
