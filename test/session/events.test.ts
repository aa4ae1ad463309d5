// Events go to a listener and to a diagnostics channel, and no error of these ends a request or the process.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { channel } from 'node:diagnostics_channel'
import { suite, test } from 'node:test'
import { type EventType, session, sessionManager } from 'keepsake'

/** Runs a program in its own process, which an uncaught error ends. */
const outcomeOf = (program: string) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    encoding: 'utf8',
    cwd: import.meta.dirname,
  })
  return { status, stdout, stderr }
}

/** Listeners with errors. */
const broken = {
  throws: "() => { throw new Error('broken') }",
  'returns a rejected promise': "async () => { throw new Error('broken') }",
  'returns a rejected promise of another realm': "() => runInNewContext('Promise.reject(new Error(`broken`))')",
  'returns an object whose then throws': "() => ({ get then() { throw new Error('broken') } })",
}

suite('a listener with an error', () => {
  for (const [error, listener] of Object.entries(broken)) {
    test(`that ${error} ends no request and no process, on the channel or as onEvent`, () => {
      const { status, stdout, stderr } = outcomeOf(`
        import { subscribe } from 'node:diagnostics_channel'
        import { runInNewContext } from 'node:vm'
        import { session, sessionManager } from 'keepsake'
        const received = []
        subscribe('keepsake', ${listener})
        subscribe('keepsake', ({ type }) => received.push(type))
        const page = sessionManager({ backend: 'memory:', onEvent: ${listener} })(async (request) => {
          ;(await session(request)).set('a', 1)
          return new Response()
        })
        const { status } = await page(new Request('https://app.test/'))
        setImmediate(() => setImmediate(() => console.log(status, received.join())))`)
      assert.deepEqual([status, stdout.trim()], [0, '200 created'], stderr)
    })
  }
})

test('a subscriber may unsubscribe during an event, and the next one still gets the event', async () => {
  const received: string[] = []
  const first = () => {
    received.push('first')
    channel('keepsake').unsubscribe(first)
  }
  const second = (event: unknown, name: string | symbol) =>
    received.push(`${String(name)} ${(event as { type: EventType }).type}`)
  channel('keepsake').subscribe(first)
  channel('keepsake').subscribe(second)
  const page = sessionManager({ backend: 'memory:' })(async (request) => {
    ;(await session(request)).set('a', 1)
    return new Response()
  })
  await page(new Request('https://app.test/'))
  await page(new Request('https://app.test/'))
  channel('keepsake').unsubscribe(second)
  assert.deepEqual(received, ['first', 'keepsake created', 'keepsake created'])
})
