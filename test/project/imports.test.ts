// The imports of the sources: each folder imports only from the folders that its rule names, and no files import in a circle.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { suite, test } from 'node:test'

const root = resolve(import.meta.dirname, '../../src')

/** Every file may import these. They import only each other. */
const GROUND = ['error', 'events', 'json', 'packages', 'schema']

/**
 * A folder, or a file of the root, with the folders and files that it may import. It may also import itself and `GROUND`.
 * A folder means all its files, so a new file in a folder needs no line here.
 */
const rules: Readonly<Record<string, readonly string[]>> = {
  error: [],
  events: [],
  json: [],
  packages: [],
  schema: [],
  'crypto/': [],
  'http/': [],
  'backends/': ['crypto/', 'session/metadata'],
  'session/': [
    'crypto/',
    'http/',
    'backends/contract',
    'backends/deadline',
    'backends/store-calls',
    'backends/sweeper',
  ],
  'keyed-session': ['crypto/', 'http/', 'backends/contract', 'session/'],
  'request-context': ['http/', 'session/'],
  request: ['http/', 'session/', 'request-context'],
  response: ['http/', 'session/'],
  accounts: ['crypto/', 'session/', 'backends/'],
  operator: ['crypto/', 'session/', 'backends/', 'accounts'],
  flash: ['http/', 'session/', 'request', 'request-context'],
  'sealed-text': ['request', 'request-context'],
  cookies: ['http/', 'session/', 'request', 'request-context', 'response'],
  'forms/': ['http/', 'crypto/', 'session/', 'request', 'request-context', 'response'],
  logger: ['http/', 'request'],
  serve: ['http/', 'logger'],
  options: ['crypto/', 'http/', 'backends/', 'session/'],
  'commit-request': ['http/', 'session/', 'request-context', 'response'],
  middleware: ['http/', 'request-context', 'response', 'commit-request'],
  'begin-work': ['crypto/', 'http/', 'backends/', 'session/', 'lazy-backend', 'options'],
  'lazy-backend': ['crypto/', 'backends/', 'session/', 'options'],
  manager: [
    ...['http/', 'backends/', 'session/'],
    ...[
      'request',
      'request-context',
      'accounts',
      'operator',
      'sealed-text',
      'options',
      'begin-work',
      'lazy-backend',
      'middleware',
      'open-session',
      'watch',
      'watchers',
    ],
  ],
  'open-session': ['http/', 'session/', 'request', 'request-context', 'response', 'commit-request'],
  watch: ['http/', 'session/', 'request-context', 'watchers'],
  watchers: ['backends/', 'session/'],
  'dream-sessions': ['http/', 'options', 'manager'],
  'adapters/': [
    ...['http/', 'session/', 'forms/', 'request', 'request-context', 'response', 'commit-request', 'middleware'],
    ...['flash', 'manager', 'open-session'],
  ],
  testing: ['testing/'],
  'testing/': [
    ...['http/', 'backends/', 'forms/', 'request', 'request-context', 'flash', 'sealed-text', 'options', 'manager'],
  ],
  index: [
    ...[
      'http/',
      'backends/',
      'session/',
      'forms/',
      'request',
      'request-context',
      'accounts',
      'flash',
      'sealed-text',
      'cookies',
    ],
    ...['options', 'manager', 'open-session', 'operator', 'response', 'dream-sessions', 'watch'],
  ],
}

const sources = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replaceAll('\\', '/').replace(/\.ts$/, ''))

const textOf = (file: string): string => readFileSync(join(root, `${file}.ts`), 'utf8')

const importsOf = (file: string): string[] =>
  [...textOf(file).matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map(([, path]) =>
    relative(root, resolve(root, dirname(file), path as string))
      .replaceAll('\\', '/')
      .replace(/\.ts$/, ''),
  )

/** The folder or the file of the root whose rule a file is under. */
const placeOf = (file: string): string => (file.includes('/') ? `${file.split('/')[0]}/` : file)

const isIn = (file: string, place: string): boolean => (place.endsWith('/') ? file.startsWith(place) : file === place)

suite('imports', () => {
  test('every folder and every file of the root has a rule, and the folders and files of every rule exist', () => {
    assert.deepEqual([...new Set(sources.map(placeOf))].sort(), Object.keys(rules).sort())
    for (const place of Object.values(rules).flat()) {
      assert.ok(
        sources.some((file) => isIn(file, place)),
        place,
      )
    }
  })

  test('a file imports only from its own folder, from GROUND, and from the places of its rule', () => {
    const broken = sources.flatMap((file) => {
      const place = placeOf(file)
      const allowed = [...(rules[place] ?? []), ...GROUND, ...(place.endsWith('/') ? [place] : [])]
      const wrong = importsOf(file).filter((imported) => !allowed.some((one) => isIn(imported, one)))
      return wrong.map((imported) => `src/${file}.ts imports ${imported}`)
    })
    assert.deepEqual(broken, [])
  })

  test('a rule allows nothing that no file uses', () => {
    for (const [place, allowed] of Object.entries(rules)) {
      const used = sources.filter((file) => placeOf(file) === place).flatMap(importsOf)
      for (const one of allowed) {
        assert.ok(
          used.some((file) => isIn(file, one)),
          `${place} imports nothing of ${one}`,
        )
      }
    }
  })

  test('no files import in a circle', () => {
    const done = new Set<string>()
    const visit = (file: string, path: readonly string[]): void => {
      assert.ok(!path.includes(file), [...path, file].join(' → '))
      if (done.has(file)) return
      for (const imported of importsOf(file)) visit(imported, [...path, file])
      done.add(file)
    }
    for (const file of sources) visit(file, [])
  })
})

test('no file has an empty name, such as utils', () => {
  const empty = /(^|\/)(lib|core|utils?|common|helpers?|types|misc)(\/|$)/
  assert.deepEqual(
    sources.filter((file) => empty.test(file)),
    [],
  )
})

test('line 1 of every file is its idea in one sentence', () => {
  for (const file of sources) {
    const [first = ''] = textOf(file).split('\n')
    assert.match(first, /^\/\/ [A-Z`].{20,118}\.$/, `src/${file}.ts`)
  }
})
