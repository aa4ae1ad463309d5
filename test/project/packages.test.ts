// Imports of packages after bundling: their names are found, and a missing driver is reported as missing.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KeepsakeError } from 'keepsake'
import { importDriver, namesOf } from '../../src/packages.ts'

class Pool {}

test('names of a CommonJS package are found, even if only its default export has them', () => {
  // Next's webpack imports a package that exports a function like this.
  const whole = Object.assign(() => {}, { Pool })
  assert.equal(namesOf({ default: whole } as unknown as { Pool: typeof Pool }).Pool, Pool)
  assert.equal(namesOf({ default: whole, 'module.exports': whole } as unknown as { Pool: typeof Pool }).Pool, Pool)
  assert.equal(namesOf({ default: {}, Pool }).Pool, Pool)
  assert.equal(namesOf({ Pool }).Pool, Pool)
})

test('only requested names are read', async () => {
  const module = {
    Pool,
    get Promise() {
      return assert.fail('reading this name prints a warning')
    },
  }
  assert.equal(namesOf(module).Pool, Pool)
  assert.equal((await importDriver('pg', async () => ({ default: module }) as unknown as typeof module)).Pool, Pool)
})

const throwing = (error: unknown) => async () => {
  throw error
}
const missing: Record<string, () => Promise<object>> = {
  'Node and esbuild: an error with a code': throwing(Object.assign(new Error('x'), { code: 'ERR_MODULE_NOT_FOUND' })),
  'webpack: another code': throwing(Object.assign(new Error('x'), { code: 'MODULE_NOT_FOUND' })),
  'Vite: no code': throwing(new Error('Could not resolve "pg" imported by "keepsake". Is it installed?')),
  'Next on webpack: an empty module': async () => ({ default: {} }),
  'an empty ES module': async () => ({}),
}
for (const [bundler, load] of Object.entries(missing)) {
  test(`a missing driver, as in ${bundler}, is unknown_backend, and the message has the command that installs it`, async () => {
    await assert.rejects(importDriver('pg', load), (error) => {
      assert.ok(error instanceof KeepsakeError)
      assert.equal(error.code, 'unknown_backend')
      assert.match(error.message, /npm install pg$/)
      return true
    })
  })
}
