// The time limit of a request for its backend: real time while the process runs, even if a test replaces its clocks.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mock, suite, test } from 'node:test'
import { promisify } from 'node:util'
import { type Backend, backendFromUrl, KeepsakeError, memorySessions, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { callBackend } from '../../src/backends/deadline.ts'

const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'

test('a clock that a test replaces after the application was created is used', async () => {
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

test('a call that a backend never answers fails in time, although a test has replaced all timers', async () => {
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

test('an answer that arrives while the process stands still is not late', async () => {
  const deadline = { left: 300 }
  const { promise, resolve } = Promise.withResolvers<string>()
  const waiting = callBackend(deadline, 'test', 'set', true, () => promise)
  // The answer is ready when the event loop continues, but Node runs the timers, which check the clock, before it reads answers.
  await new Promise<void>((done) =>
    setImmediate(() => {
      const until = performance.now() + 600
      while (performance.now() < until);
      setImmediate(() => resolve('saved'))
      done()
    }),
  )
  assert.equal(await waiting, 'saved')
  assert.ok(deadline.left > 0, 'the time of the standstill is not counted')
})

test('on Cloudflare Workers each call has a timer of its own', async () => {
  const program = `
    Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Cloudflare-Workers' } })
    globalThis.setInterval = () => { throw new Error('shared') }
    const { callBackend } = await import(${JSON.stringify(import.meta.resolve('../../src/backends/deadline.ts'))})
    const late = callBackend({ left: 20 }, 'test', 'get', false, () => new Promise(() => {}))
    const answer = await callBackend({ left: 60_000 }, 'test', 'get', false, async () => 'done')
    console.log(answer, await late.catch((error) => error.code))`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
  // If the answered call had left its timer, the process would run for a minute.
  assert.equal(stdout.trim(), 'done unavailable')
})

suite('errors after a change', () => {
  const fail = (error: unknown) => () => {
    throw error
  }
  const codeOf = (call: () => unknown): string => {
    try {
      call()
    } catch (error) {
      return (error as KeepsakeError).code
    }
    return 'none'
  }
  const refused = new KeepsakeError('unavailable', 'The server is read-only. Nothing was changed.')
  test('a failed read is unavailable before the first change, and unknown_outcome after it', () => {
    const deadline = { left: 1_000 }
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'get', false, fail(new Error('reset')))),
      'unavailable',
    )
    callBackend(deadline, 'test', 'set', true, () => 'stale')
    callBackend(deadline, 'test', 'set', true, () => 'gone')
    callBackend(deadline, 'test', 'set', true, () => 'taken')
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'get', false, fail(new Error('reset')))),
      'unavailable',
    )
    callBackend(deadline, 'test', 'set', true, () => undefined)
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'get', false, fail(new Error('reset')))),
      'unknown_outcome',
    )
    deadline.left = 0
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'get', false, () => undefined)),
      'unknown_outcome',
    )
  })
  test('a refused write is unavailable, but unknown_outcome after a change', () => {
    const deadline = { left: 1_000 }
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'set', true, fail(refused))),
      'unavailable',
    )
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'set', true, fail(new Error('reset')))),
      'unknown_outcome',
    )
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'set', true, fail(refused))),
      'unknown_outcome',
    )
  })
  test('a call beyond maxInFlight is unknown_outcome after a change', () => {
    const deadline = { left: 1_000, inFlight: { count: 1, max: 1 }, changed: true }
    assert.equal(
      codeOf(() => callBackend(deadline, 'test', 'get', false, () => undefined)),
      'unknown_outcome',
    )
  })
})
