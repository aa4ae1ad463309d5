// docs/parity.md has a line for every row of the two original libraries, and every test that it names exists.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const page = read('docs/parity.md')
const tests = [
  ...readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts') && !name.endsWith('parity.test.ts'))
    .map((name) => read(`test/${name}`)),
  read('src/testing/backend-cases.ts'),
].join('\n')

const range = (letter: string, from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => `${letter}${from + i}`)

test('rows D1 to D68 and O1 to O32 have a line each', () => {
  for (const row of [...range('D', 1, 68), ...range('O', 1, 32)]) {
    assert.equal(page.split(`\n| ${row} |`).length, 2, row)
  }
})

test('every test that the page names exists', () => {
  const titles = [...page.matchAll(/"([^"]{15,})"/g)].map(([, title]) => title as string)
  assert.ok(titles.length > 50)
  assert.deepEqual(
    titles.filter((title) => !tests.includes(title)),
    [],
  )
})
