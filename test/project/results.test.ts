// The tables of runtimes and bundlers in the guides are the output of the scripts that made them.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '../..')
const read = (path: string): string => readFileSync(join(root, path), 'utf8')

for (const name of ['runtimes', 'bundles']) {
  const guide = name === 'bundles' ? 'bundlers' : name
  test(`docs/guides/${guide}.md has each row of ${name}/results.txt`, () => {
    const rows = read(`${name}/results.txt`)
      .split('\n')
      .filter((line) => line.startsWith('|'))
    assert.ok(rows.length > 5)
    const lines = read(`docs/guides/${guide}.md`).split('\n')
    for (const row of rows) assert.ok(lines.includes(row), row)
  })
}
