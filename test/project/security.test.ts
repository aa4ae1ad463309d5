// docs/security.md has every requirement that a test title names, and each of its requirements has tests.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { suite, test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const page = readFileSync(join(root, 'docs/security.md'), 'utf8')

const NAME = /\b([A-Z]{2,5})-[A-Z]?\d+\b/g
/** Prefixes that look like the name of a requirement but are not. */
const OTHER_PREFIXES = new Set(['AES', 'XAES', 'SHA', 'UTF', 'CVE', 'CWE', 'GHSA', 'RFC', 'ISO'])

/** The sources of the tests by file name, without comments. */
const sources = new Map(
  readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .map((file) => file.replaceAll('\\', '/'))
    .filter((file) => file.endsWith('.test.ts') && basename(file) !== basename(import.meta.filename))
    .map((file) => [file, readFileSync(join(root, 'test', file), 'utf8').replaceAll(/^\s*(?:\/\/|\/?\*).*$/gm, '')]),
)

const namesIn = (text: string): string[] =>
  [...text.matchAll(NAME)].flatMap(([name, topic]) => (OTHER_PREFIXES.has(topic as string) ? [] : [name]))

type Row = { readonly name: string; readonly text: string; readonly cells: readonly string[] }

/** The rows of the tables: name, requirement, source, tests. */
const rows: readonly Row[] = page.split('\n').flatMap((text) => {
  const name = /^\| ([A-Z]{2,5}-[A-Z]?\d+) \|/.exec(text)?.[1]
  return name === undefined ? [] : [{ name, text, cells: text.split(' | ').map((cell) => cell.trim()) }]
})

suite('docs/security.md', () => {
  test('has each requirement that a test title names, once, and no other', () => {
    const inTests = new Set([...sources.values()].flatMap(namesIn))
    assert.ok(inTests.size >= 90, `${inTests.size}`)
    assert.deepEqual(rows.map(({ name }) => name).sort(), [...inTests].sort())
  })

  test('mentions only requirements that have a row', () => {
    const known = new Set(rows.map(({ name }) => name))
    assert.deepEqual(
      namesIn(page).filter((name) => !known.has(name)),
      [],
    )
  })

  test('gives each requirement a sentence, a source and the tests that check it', () => {
    for (const { name, cells } of rows) {
      const [, requirement = '', source = '', tests = ''] = cells
      assert.match(requirement, /^[A-Z`].*\.$/, name)
      assert.ok(source.length > 2, name)
      assert.match(tests, /^\[[\w/-]+\]\(\.\.\/test\/[\w/-]+\.test\.ts\): /, name)
    }
  })

  test('quotes titles that are in the named file and contain the name of the requirement', () => {
    for (const { name, cells } of rows) {
      for (const part of (cells[3] ?? '').split(/; (?=\[)/)) {
        const file = /\(\.\.\/test\/([\w/-]+\.test\.ts)\): /.exec(part)?.[1] ?? assert.fail(`${name}: ${part}`)
        const source = sources.get(file) ?? assert.fail(`${name}: test/${file} does not exist`)
        const titles = [...part.matchAll(/"([^"]+)"/g)].map(([, title]) => title as string)
        assert.ok(titles.length > 0, `${name}: a title of ${file} is missing`)
        for (const title of titles) {
          assert.ok(namesIn(title).includes(name), `${name} is not in “${title}”`)
          assert.ok(source.includes(title), `test/${file} has no “${title}”`)
        }
      }
    }
  })
})
