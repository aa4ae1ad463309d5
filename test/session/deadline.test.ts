// The time that a request has for its backend: real time, of a process that runs, whatever a test does to its clocks.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mock, suite, test } from 'node:test'
import { promisify } from 'node:util'
import { type Backend, backendFromUrl, KeepsakeError, memorySessions, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { callBackend } from '../../src/backends/deadline.ts'

const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'

test('a clock that a test replaces after the application was made is looked at', async () => {
  const page = memorySessions(async (request) => {
    const s = await session(request)
    s.update('visits', (n = 0) => n + 1)
    return Response.json(s.get('visits'))
  })
  mock.timers.enable({ apis: ['Date'], now: Date.now() })
  try {
    const visit = browser(page, { now: () => 0 })
    await visit('/')
    assert.equal(await (await visit('/')).json(), 2)
    mock.timers.tick(15 * 86_400_000)
    assert.equal(await (await visit('/')).json(), 1)
  } finally {
    mock.timers.reset()
  }
})

test('a backend that never answers is given up although a test has replaced all timers', async () => {
  const inner = await backendFromUrl('memory:')
  const backend: Backend = { ...inner, get: () => new Promise(() => {}) }
  const page = sessionManager({ backend, secret, storeTimeout: 0.05 })(async (request) =>
    Response.json((await session(request)).owner ?? null),
  )
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'setImmediate', 'Date'] })
  try {
    const cookie = `__Host-Http-sid=${'A'.repeat(43)}`
    assert.equal((await page(new Request('https://app.test/', { headers: { cookie } }))).status, 503)
  } finally {
    mock.timers.reset()
  }
})

test('an answer that arrives while the process stands still is read before it counts as late', async () => {
  const deadline = { left: 300 }
  const { promise, resolve } = Promise.withResolvers<string>()
  const waiting = callBackend(deadline, 'test', true, () => promise)
  // The answer is at hand when the loop goes on: what arrives is read after the timers, in which the clock is looked at.
  await new Promise<void>((done) =>
    setImmediate(() => {
      const until = performance.now() + 600
      while (performance.now() < until);
      setImmediate(() => resolve('saved'))
      done()
    }),
  )
  assert.equal(await waiting, 'saved')
  assert.ok(deadline.left > 0, 'what the process did not run is not counted')
})

test('on Cloudflare’s Workers each call has a timer of its own, and none is shared', async () => {
  const program = `
    Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Cloudflare-Workers' } })
    globalThis.setInterval = () => { throw new Error('shared') }
    const { within } = await import(${JSON.stringify(import.meta.resolve('../../src/backends/deadline.ts'))})
    const late = within({ left: 20 }, 'test', false, () => new Promise(() => {}))
    const done = await within({ left: 60_000 }, 'test', false, async () => 'done')
    console.log(done, await late.catch((error) => error.code))`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
  // The timer of the call that was answered would keep the process for a minute.
  assert.equal(stdout.trim(), 'done unavailable')
})

suite('after a change', () => {
  const fail = (error: unknown) => () => {
    throw error
  }
  const code = (call: () => unknown): string => {
    try {
      call()
    } catch (error) {
      return (error as KeepsakeError).code
    }
    return 'none'
  }
  const refused = new KeepsakeError('unavailable', 'The server is read-only. Nothing was changed.')
  test('a read that fails is unavailable before the first change, and unknown_outcome after it', () => {
    const deadline = { left: 1_000 }
    assert.equal(
      code(() => callBackend(deadline, 'test', false, fail(new Error('reset')))),
      'unavailable',
    )
    callBackend(deadline, 'test', true, () => 'stale')
    callBackend(deadline, 'test', true, () => 'gone')
    callBackend(deadline, 'test', true, () => 'taken')
    assert.equal(
      code(() => callBackend(deadline, 'test', false, fail(new Error('reset')))),
      'unavailable',
    )
    callBackend(deadline, 'test', true, () => undefined)
    assert.equal(
      code(() => callBackend(deadline, 'test', false, fail(new Error('reset')))),
      'unknown_outcome',
    )
    deadline.left = 0
    assert.equal(
      code(() => callBackend(deadline, 'test', false, () => undefined)),
      'unknown_outcome',
    )
  })
  test('a refusal that surely changed nothing is unavailable, unless something was changed before', () => {
    const deadline = { left: 1_000 }
    assert.equal(
      code(() => callBackend(deadline, 'test', true, fail(refused))),
      'unavailable',
    )
    assert.equal(
      code(() => callBackend(deadline, 'test', true, fail(new Error('reset')))),
      'unknown_outcome',
    )
    assert.equal(
      code(() => callBackend(deadline, 'test', true, fail(refused))),
      'unknown_outcome',
    )
  })
  test('a call that is refused because too many are under way as well', () => {
    const deadline = { left: 1_000, bulkhead: { inFlight: 1, most: 1 }, changed: true }
    assert.equal(
      code(() => callBackend(deadline, 'test', false, () => undefined)),
      'unknown_outcome',
    )
  })
})
