// A handler on a port: it says where, answers errors, and closes with the responses under way.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Fault, logger, memorySessions, run, session } from 'keepsake'
import { browser } from 'keepsake/testing'

suite('run', () => {
  test('lets responses under way finish when it closes, then closes what the handler stands on', async () => {
    const order: string[] = []
    const { promise: there, resolve: arrived } = Promise.withResolvers<void>()
    const { promise: gone, resolve: go } = Promise.withResolvers<void>()
    const handler = Object.assign(
      async () => {
        arrived()
        await gone
        order.push('answered')
        return new Response('in full')
      },
      {
        ready: async () => void order.push('ready'),
        close: async () => void order.push('closed'),
      },
    )
    const running = await run(handler, { port: 0 })
    const response = fetch(running.url)
    await there
    const closing = running.close()
    go()
    assert.equal(await (await response).text(), 'in full')
    await closing
    await running.close()
    assert.deepEqual(order, ['ready', 'answered', 'closed'])
    await assert.rejects(fetch(running.url))
  })
  test('an error of the handler is 500 without its words', async (t) => {
    const printed = t.mock.method(console, 'error', () => {})
    const running = await run(
      () => {
        throw new Error('the password is hunter2')
      },
      { port: 0 },
    )
    t.after(() => running.close())
    const response = await fetch(running.url)
    assert.equal(response.status, 500)
    assert.equal(await response.text(), 'Internal Server Error\n')
    assert.equal(printed.mock.callCount(), 1)
  })
  test('a port that is taken, or none, is a Fault that says so', async (t) => {
    const running = await run(() => new Response(), { port: 0 })
    t.after(() => running.close())
    await assert.rejects(
      run(() => new Response(), { port: running.port }),
      (error) =>
        error instanceof Fault && error.code === 'unavailable' && /EADDRINUSE.*Choose another port/.test(error.message),
    )
    await assert.rejects(
      run(() => new Response(), { port: Number('80a') }),
      /port has to be/,
    )
  })
})

suite('logger', () => {
  test('a line a response: number, method, path, status, time, and the label where a session was touched', async () => {
    const lines: string[] = []
    let label = ''
    const page = memorySessions(async (request) => {
      if (request.url.endsWith('/login')) {
        const s = await session(request)
        s.login('anna')
        label = s.label
      }
      return new Response('', { status: request.url.includes('/x') ? 404 : 200 })
    })
    const visit = browser(logger(page, { write: (line) => void lines.push(line) }))
    await visit('/x?y=1')
    await visit('/login')
    assert.match(lines[0] ?? '', /^\d+ GET \/x\?y=1 404 \d+\.\d ms$/)
    assert.match(lines[1] ?? '', new RegExp(`^\\d+ GET /login 200 \\d+\\.\\d ms ${label}$`))
    assert.equal(Number.parseInt(lines[1] ?? '', 10) - Number.parseInt(lines[0] ?? '', 10), 1)
  })
  test('what a handler throws is a line, and is thrown on', async () => {
    const lines: string[] = []
    const visit = browser(
      logger(
        () => {
          throw new RangeError('secret words')
        },
        { write: (line) => void lines.push(line) },
      ),
    )
    await assert.rejects(visit('/'), RangeError)
    assert.match(lines[0] ?? '', /GET \/ aborted by RangeError/)
    assert.ok(!lines[0]?.includes('secret words'))
  })
})
