// Sentences are plain: patterns that are hard to read are counted per file, against a ceiling that only falls.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { suite, test } from 'node:test'
import { findingsIn, type Pattern, proseFiles } from '../../scripts/prose.ts'

const root = resolve(import.meta.dirname, '../..')

/** Of files that have any. `node scripts/prose.ts --lower` writes the present counts if none has grown. */
const ceilings: Readonly<Record<string, number>> = JSON.parse(
  readFileSync(join(import.meta.dirname, '../data/prose-ceilings.json'), 'utf8'),
)

const sample = (pattern: Pattern, text: string) =>
  findingsIn('a.md', text).filter((finding) => finding.pattern === pattern).length

suite('prose', () => {
  for (const file of proseFiles()) {
    test(`${file} has no more patterns than its ceiling, and no fewer`, () => {
      const findings = findingsIn(file, readFileSync(join(root, file), 'utf8'))
      const ceiling = ceilings[file] ?? 0
      const list = findings.map(({ line, pattern, text }) => `${file}:${line} ${pattern}: ${text}`).join('\n')
      assert.ok(findings.length <= ceiling, `${findings.length} patterns, and the ceiling is ${ceiling}:\n${list}`)
      assert.equal(findings.length, ceiling, 'lower the ceiling: node scripts/prose.ts --lower')
    })
  }

  test('every ceiling is of an existing file', () => {
    const files = new Set(proseFiles())
    assert.deepEqual(
      Object.keys(ceilings).filter((file) => !files.has(file)),
      [],
    )
  })

  test('the patterns find sentences that are hard to read, and leave plain ones alone', () => {
    assert.equal(sample('headless', 'It gives back what was saved.'), 1)
    assert.equal(sample('headless', 'Whoever has the key opens it.'), 1)
    assert.equal(sample('headless', 'What does it do?'), 0)
    assert.equal(sample('headless', 'A visitor who logs in gets a new key.'), 0)
    assert.equal(sample('where', 'Where the store fails, the answer is 503.'), 1)
    assert.equal(sample('where', 'If the store fails, the answer is 503.'), 0)
    assert.equal(sample('he', 'A visitor keeps his session.'), 1)
    assert.equal(sample('rare', 'Another request changed it meanwhile.'), 1)
    assert.equal(sample('quotes', 'The error says «gone».'), 2)
    assert.equal(findingsIn('a.ts', "const what = 'where'\n// It is plain.").length, 0)
    assert.equal(findingsIn('a.ts', '// It tells what failed.').length, 1)
  })
})
