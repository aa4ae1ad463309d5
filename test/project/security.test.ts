// Every requirement that a test is named after is in docs/security.md, and every one that is there has its tests.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { suite, test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const page = readFileSync(join(root, 'docs/security.md'), 'utf8')

const NAME = /\b([A-Z]{2,5})-[A-Z]?\d+\b/g
/** What looks like a name and is none. */
const OTHERS = new Set(['AES', 'XAES', 'SHA', 'UTF', 'CVE', 'CWE', 'GHSA', 'RFC', 'ISO'])

/** The sources of the tests by the name of their file, without their comments. */
const sources = new Map(
  readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .map((file) => file.replaceAll('\\', '/'))
    .filter((file) => file.endsWith('.test.ts') && basename(file) !== basename(import.meta.filename))
    .map((file) => [file, readFileSync(join(root, 'test', file), 'utf8').replaceAll(/^\s*(?:\/\/|\/?\*).*$/gm, '')]),
)

const namesIn = (text: string): string[] =>
  [...text.matchAll(NAME)].flatMap(([name, topic]) => (OTHERS.has(topic as string) ? [] : [name]))

type Row = { readonly name: string; readonly text: string; readonly cells: readonly string[] }

/** The rows of the tables: name, requirement, source, tests. */
const rows: readonly Row[] = page.split('\n').flatMap((text) => {
  const name = /^\| ([A-Z]{2,5}-[A-Z]?\d+) \|/.exec(text)?.[1]
  return name === undefined ? [] : [{ name, text, cells: text.split(' | ').map((cell) => cell.trim()) }]
})

suite('the page of requirements', () => {
  test('has each name that tests carry, once, and no other', () => {
    const carried = new Set([...sources.values()].flatMap(namesIn))
    assert.ok(carried.size >= 90, `${carried.size}`)
    assert.deepEqual(rows.map(({ name }) => name).sort(), [...carried].sort())
  })

  test('speaks of no requirement that has no row', () => {
    const known = new Set(rows.map(({ name }) => name))
    assert.deepEqual(
      namesIn(page).filter((name) => !known.has(name)),
      [],
    )
  })

  test('says for each what is required, in one sentence, by whom, and which tests show it', () => {
    for (const { name, cells } of rows) {
      const [, requirement = '', source = '', tests = ''] = cells
      assert.match(requirement, /^[A-Z`].*\.$/, name)
      assert.ok(source.length > 2, name)
      assert.match(tests, /^\[[\w/-]+\]\(\.\.\/test\/[\w/-]+\.test\.ts\): /, name)
    }
  })

  test('quotes titles that are in the file that it names, and that carry the name', () => {
    for (const { name, cells } of rows) {
      for (const part of (cells[3] ?? '').split(/; (?=\[)/)) {
        const file = /\(\.\.\/test\/([\w/-]+\.test\.ts)\): /.exec(part)?.[1] ?? assert.fail(`${name}: ${part}`)
        const source = sources.get(file) ?? assert.fail(`${name}: there is no test/${file}`)
        const titles = [...part.matchAll(/"([^"]+)"/g)].map(([, title]) => title as string)
        assert.ok(titles.length > 0, `${name}: a title of ${file}`)
        for (const title of titles) {
          assert.ok(namesIn(title).includes(name), `${name} is not in “${title}”`)
          assert.ok(source.includes(title), `test/${file} has no “${title}”`)
        }
      }
    }
  })
})
