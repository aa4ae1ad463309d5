// What bundlers make of the import of a package: its names are found, and a missing driver is called missing.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KeepsakeError } from 'keepsake'
import { importDriver, namesOf } from '../../src/packages.ts'

class Pool {}

test('names of a CommonJS package are found where only its default has them', () => {
  // As Next's webpack hands over a package that exports a function.
  const whole = Object.assign(() => {}, { Pool })
  assert.equal(namesOf({ default: whole } as unknown as { Pool: typeof Pool }).Pool, Pool)
  assert.equal(namesOf({ default: whole, 'module.exports': whole } as unknown as { Pool: typeof Pool }).Pool, Pool)
  assert.equal(namesOf({ default: {}, Pool }).Pool, Pool)
  assert.equal(namesOf({ Pool }).Pool, Pool)
})

test('no name is read that nobody asked for', async () => {
  const module = {
    Pool,
    get Promise() {
      return assert.fail('it would print')
    },
  }
  assert.equal(namesOf(module).Pool, Pool)
  assert.equal((await importDriver('pg', async () => ({ default: module }) as unknown as typeof module)).Pool, Pool)
})

const failing = (error: unknown) => async () => {
  throw error
}
const absent: Record<string, () => Promise<object>> = {
  'Node and esbuild: an error with a code': failing(Object.assign(new Error('x'), { code: 'ERR_MODULE_NOT_FOUND' })),
  'webpack: another code': failing(Object.assign(new Error('x'), { code: 'MODULE_NOT_FOUND' })),
  'Vite: none': failing(new Error('Could not resolve "pg" imported by "keepsake". Is it installed?')),
  'Next on webpack: an empty module': async () => ({ default: {} }),
  'an empty ES module': async () => ({}),
}
for (const [bundler, load] of Object.entries(absent)) {
  test(`a driver that is not importDriver, as by ${bundler}, is unknown_backend and says what to install`, async () => {
    await assert.rejects(importDriver('pg', load), (error) => {
      assert.ok(error instanceof KeepsakeError)
      assert.equal(error.code, 'unknown_backend')
      assert.match(error.message, /npm install pg$/)
      return true
    })
  })
}
