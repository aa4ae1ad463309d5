// No test depends on luck: what may read a clock, hand out a port, or make a visit wait is in few places, each of which allows for a machine that stands still.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite, test } from 'node:test'

const folder = join(import.meta.dirname, '..')
const files = new Map(
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('luck.test.ts'))
    .map((file) => [file.replaceAll('\\', '/'), readFileSync(join(folder, file), 'utf8')]),
)
const having = (pattern: RegExp): string[] => [...files].filter(([, text]) => pattern.test(text)).map(([file]) => file)

suite('luck', () => {
  test('durations are measured where what the machine lost is subtracted, or as a ratio, or as the least of many', () => {
    const measures = ['form-fuzzer', 'hostile-fuzzer', 'lost', 'spent'].map((name) => `support/${name}.ts`)
    // But for loops that make this process stand still, and judge nothing.
    assert.deepEqual(having(/(?<!until = |while \()performance\.now|hrtime|cpuUsage/).sort(), measures)
    assert.deepEqual(having(/Date\.now\(\) - (?:start|since|before|began)/), [])
  })

  test('no port is a number that somebody chose', () => {
    assert.deepEqual(having(/\.listen\(\s*[1-9]|port: ?[1-9]\d{3}/i), [])
  })

  test('a visit waits for a store of another process as long as it takes, where its test is not about that', () => {
    const stores = /'\.\.\/support\/(?:stores|redis-stores|(?:redis|mariadb|postgres)-server)\.ts'/
    for (const [file, text] of files) {
      // Most of its stores are in memory, and nobody waits for those; the one test on all stores has a budget.
      if (!stores.test(text) || file === 'session/schema.test.ts') continue
      for (const [call, options = ''] of text.matchAll(/\bsessions\(\{((?:[^{}]|\{[^{}]*\})*)\}/g)) {
        const waits = /\bbudget\b|\.\.\.\w*(?:options|settings)|backend: ['`]\w+:/i.test(options)
        assert.ok(waits || !/\bbackend\b/.test(options), `test/${file} has no budget: ${call}`)
      }
    }
  })
})
