// On Cloudflare Workers: modules load without timers and random numbers, and backends without files work.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'

const module = (name: string): string => JSON.stringify(import.meta.resolve(name))

/** Makes this process like a Worker that loads its modules. `handleRequests` ends that phase. */
const PRELUDE = `
  import crypto from 'node:crypto'
  import v8 from 'node:v8'
  import { syncBuiltinESMExports } from 'node:module'
  Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Cloudflare-Workers' } })
  v8.getHeapStatistics = () => ({ heap_size_limit: 0 })
  v8.isStringOneByteRepresentation = () => { throw new Error('not implemented') }
  const timers = ['setTimeout', 'setInterval', 'setImmediate'].map((name) => [globalThis, name])
  const random = ['randomBytes', 'randomFillSync', 'randomUUID'].map((name) => [crypto, name])
  const restores = [...timers, ...random].map(([owner, name]) => {
    const original = owner[name]
    owner[name] = () => { throw new Error(name + ' while modules are loaded') }
    return () => { owner[name] = original }
  })
  syncBuiltinESMExports()
  const handleRequests = () => {
    for (const restore of restores) restore()
    syncBuiltinESMExports()
  }
  const { session, sessionManager } = await import(${module('keepsake')})
  const { browser } = await import(${module('keepsake/testing')})
  const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'
`

const runAsWorker = async (program: string): Promise<unknown> => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', PRELUDE + program])
  return JSON.parse(stdout)
}

test('a manager is made while modules are loaded, and requests then use memory: and cookie:', async () => {
  const counts = await runAsWorker(`
    const count = async (request) => {
      const s = await session(request)
      s.update('n', (n = 0) => n + 1)
      return Response.json(s.get("n"))
    }
    const pages = ['memory:', 'cookie:'].map((backend) => sessionManager({ backend, secret })(count))
    handleRequests()
    const counts = []
    for (const page of pages) {
      const visit = browser(page)
      for (let i = 0; i < 2; i++) counts.push(await (await visit("/")).json())
    }
    console.log(JSON.stringify(counts))`)
  assert.deepEqual(counts, [1, 2, 1, 2])
})

test('a backend of files is refused with the reason', async () => {
  const errors = await runAsWorker(`
    const errors = ['sqlite:a.db', 'file:sessions', 'cookie:sqlite:ends.db'].map((backend) => {
      try {
        sessionManager({ backend, secret })
      } catch ({ code, message }) {
        return [code, message]
      }
    })
    console.log(JSON.stringify(errors))`)
  for (const [code, message] of errors as [string, string][]) {
    assert.equal(code, 'unknown_backend')
    assert.match(message, /^Cloudflare Workers keep no files, so the backend (sqlite|file): does not work there\. Use/)
  }
  assert.equal((errors as unknown[]).length, 3)
})
