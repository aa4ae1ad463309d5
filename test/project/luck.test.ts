// No test depends on luck: only a few files read a clock or choose a port, and each allows for a machine that pauses.

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
const filesWith = (pattern: RegExp): string[] =>
  [...files].filter(([, text]) => pattern.test(text)).map(([file]) => file)

suite('luck', () => {
  test('only these files measure durations: less the pauses of the machine, as a ratio, or as the least of many', () => {
    const measures = ['cookie-fuzzer', 'form-fuzzer', 'lost', 'spent'].map((name) => `support/${name}.ts`)
    // Loops that block this process on purpose are allowed, because they assert nothing.
    assert.deepEqual(filesWith(/(?<!until = |while \()performance\.now|hrtime|cpuUsage/).sort(), measures)
    assert.deepEqual(filesWith(/Date\.now\(\) - (?:start|since|before|began)/), [])
  })

  test('no test has a fixed port', () => {
    assert.deepEqual(filesWith(/\.listen\(\s*[1-9]|port: ?[1-9]\d{3}/i), [])
  })

  test('a manager with a backend in another process sets storeTimeout', () => {
    const stores = /'\.\.\/support\/(?:stores|redis-stores|(?:redis|mariadb|postgres)-server)\.ts'/
    for (const [file, text] of files) {
      // Most backends of this file are in memory. Its one test on all backends sets storeTimeout.
      if (!stores.test(text) || file === 'session/schema.test.ts') continue
      for (const [call, options = ''] of text.matchAll(/\bsessionManager\(\{((?:[^{}]|\{[^{}]*\})*)\}/g)) {
        const waits = /\bstoreTimeout\b|\.\.\.\w*(?:options|settings)|backend: ['`]\w+:/i.test(options)
        assert.ok(waits || !/\bbackend\b/.test(options), `test/${file} has no storeTimeout: ${call}`)
      }
    }
  })
})
