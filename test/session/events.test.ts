// What happened is told to a listener and to a channel, and nothing that these do breaks a request or the process.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { channel } from 'node:diagnostics_channel'
import { suite, test } from 'node:test'
import { type EventType, session, sessionManager } from 'keepsake'

/** Runs a program in a process of its own: what nobody caught ends it. */
const outcomeOf = (program: string) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    encoding: 'utf8',
    cwd: import.meta.dirname,
  })
  return { status, stdout, stderr }
}

/** Ways in which a listener can be broken. */
const broken = {
  throws: "() => { throw new Error('broken') }",
  'gives a promise that is rejected': "async () => { throw new Error('broken') }",
  'gives a promise of another realm that is rejected': "() => runInNewContext('Promise.reject(new Error(`broken`))')",
  'gives something whose then throws': "() => ({ get then() { throw new Error('broken') } })",
}

suite('a listener that is broken', () => {
  for (const [how, listener] of Object.entries(broken)) {
    test(`and ${how} ends no request and no process, on the channel or as onEvent`, () => {
      const { status, stdout, stderr } = outcomeOf(`
        import { subscribe } from 'node:diagnostics_channel'
        import { runInNewContext } from 'node:vm'
        import { session, sessionManager } from 'keepsake'
        const heard = []
        subscribe('keepsake', ${listener})
        subscribe('keepsake', ({ type }) => heard.push(type))
        const page = sessionManager({ backend: 'memory:', onEvent: ${listener} })(async (request) => {
          ;(await session(request)).set('a', 1)
          return new Response()
        })
        const { status } = await page(new Request('https://app.test/'))
        setImmediate(() => setImmediate(() => console.log(status, heard.join())))`)
      assert.deepEqual([status, stdout.trim()], [0, '200 created'], stderr)
    })
  }
})

test('a subscriber may leave while it is told, and the next one is told all the same', async () => {
  const heard: string[] = []
  const first = () => {
    heard.push('first')
    channel('keepsake').unsubscribe(first)
  }
  const second = (event: unknown, name: string | symbol) =>
    heard.push(`${String(name)} ${(event as { type: EventType }).type}`)
  channel('keepsake').subscribe(first)
  channel('keepsake').subscribe(second)
  const page = sessionManager({ backend: 'memory:' })(async (request) => {
    ;(await session(request)).set('a', 1)
    return new Response()
  })
  await page(new Request('https://app.test/'))
  await page(new Request('https://app.test/'))
  channel('keepsake').unsubscribe(second)
  assert.deepEqual(heard, ['first', 'keepsake created', 'keepsake created'])
})
