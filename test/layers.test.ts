// The layers of the house: a file imports only from lines below its own, and every file has a line.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { test } from 'node:test'

const root = resolve(import.meta.dirname, '../src')

/** From the ground up. A folder stands for its files, which may import each other. */
const lines: readonly (readonly string[])[] = [
  ['draining', 'origin', 'outcome', 'prefetch', 'random'],
  [
    ...['events', 'json', 'handler', 'keys', 'seal', 'schema', 'cookie', 'form-blocks', 'form-part', 'trace'],
    ...['packages', 'backends/redis-refusals'],
  ],
  ['flashes', 'form-urlencoded', 'multipart-parser'],
  ['form-multipart'],
  [
    ...['backend', 'budget', 'changes', 'head', 'form-body', 'presession', 'transport', 'withheld'],
    ...['backends/ownership', 'backends/redis-link'],
  ],
  [
    'move-entry',
    'shape',
    'backends/ends',
    'backends/rounds',
    'backends/file-record',
    'backends/redis-client',
    'backends/redis-scripts',
    'backends/sql',
    'backends/sqlite-driver',
  ],
  [
    'backends/file-folder',
    'backends/file-turns',
    'backends/redis-connect',
    'backends/redis-eviction',
    'backends/redis-owners',
    'backends/redis-replicas',
    'backends/redis-scan',
    'backends/sqlite-line',
    'backends/sqlite-table',
    'backends/sql-own',
    'backends/sql-pool',
  ],
  ['backends/file-owners', 'backends/sqlite-file', 'backends/mysql-client', 'backends/postgres-client'],
  [
    'moving',
    'sweeper',
    'backends/cookie',
    'backends/file',
    'backends/memory',
    'backends/mysql',
    'backends/postgres',
    'backends/redis',
    'backends/sqlite',
  ],
  ['lifecycle/', 'connect', 'session'],
  ['answer', 'passage'],
  ['owners', 'sealing'],
  ['sessions'],
  ['application-cookie', 'csrf', 'flash', 'logger', 'serve'],
  ['cross-origin', 'form'],
  ['index', 'testing'],
  ['testing/'],
]

const sources = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replaceAll('\\', '/').replace(/\.ts$/, ''))

const lineOf = (file: string): number =>
  lines.findIndex((line) => line.some((name) => (name.endsWith('/') ? file.startsWith(name) : name === file)))

const importsOf = (file: string): string[] => {
  const text = readFileSync(join(root, `${file}.ts`), 'utf8')
  return [...text.matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map(([, path]) =>
    relative(root, resolve(root, dirname(file), path as string))
      .replaceAll('\\', '/')
      .replace(/\.ts$/, ''),
  )
}

test('every file has a line, and every line its files', () => {
  for (const file of sources) assert.notEqual(lineOf(file), -1, `src/${file}.ts has no line in this table`)
  for (const name of lines.flat()) {
    assert.ok(
      sources.some((file) => (name.endsWith('/') ? file.startsWith(name) : file === name)),
      `${name} is no file`,
    )
  }
})

test('a file imports only from lines below its own, or from its own folder', () => {
  for (const file of sources) {
    for (const imported of importsOf(file)) {
      const sameFolder = dirname(file) !== '.' && dirname(file) === dirname(imported) && !file.startsWith('backends/')
      const front = lineOf(file) === lines.length - 2 && imported.startsWith('testing/')
      assert.ok(
        sameFolder || front || lineOf(imported) < lineOf(file),
        `src/${file}.ts imports ${imported}, which is not below it`,
      )
    }
  }
})

test('no file has a name that says nothing', () => {
  const empty = /(^|\/)(lib|core|utils?|common|helpers?|types|misc)(\/|$)/
  assert.deepEqual(
    sources.filter((file) => empty.test(file)),
    [],
  )
})

test('line 1 of every file is its idea in one sentence', () => {
  for (const file of sources) {
    const [first = ''] = readFileSync(join(root, `${file}.ts`), 'utf8').split('\n')
    assert.match(first, /^\/\/ [A-Z`].{20,118}\.$/, `src/${file}.ts`)
  }
})
