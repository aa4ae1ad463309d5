// serve: it prints its URL, answers errors, and stops without cutting a request.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { registerHooks } from 'node:module'
import { connect } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { type Handler, KeepsakeError, memorySessions, session, sessionManager } from 'keepsake'
import { logger, serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { freshVersion } from '../support/entries.ts'
import { folder } from '../support/folder.ts'
import { start } from '../support/process.ts'

/** A handler that answers when the test lets it. */
const heldHandler = () => {
  const arrived = Promise.withResolvers<void>()
  const gone = Promise.withResolvers<void>()
  return {
    arrived: arrived.promise,
    go: gone.resolve,
    async handler() {
      arrived.resolve()
      await gone.promise
      return new Response('in full')
    },
  }
}

const kept = (t: TestContext): Agent => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  return agent
}

const asked = async (url: string, options: { readonly agent: Agent }): Promise<IncomingMessage> => {
  const [response] = await once(get(url, options), 'response')
  return response
}

const textOf = async (response: IncomingMessage): Promise<string> =>
  (await response.setEncoding('utf8').toArray()).join('')

const refused = async (url: string): Promise<void> => {
  // Tries again until the server has stopped listening, because no event shows that from outside.
  for (;;) {
    const socket = connect(Number(new URL(url).port), new URL(url).hostname)
    const code = await once(socket, 'connect').then(
      () => undefined,
      (error) => error.code,
    )
    socket.destroy()
    if (code === 'ECONNREFUSED') return
  }
}

const mockedConsole = (t: TestContext): (() => string) => {
  const { mock } = t.mock.method(console, 'error', () => {})
  return () => mock.calls.flatMap(({ arguments: words }) => words).join('\n')
}

suite('serve', () => {
  test('close lets responses in progress finish, then calls the handler’s close', async () => {
    const order: string[] = []
    const { arrived, go, handler } = heldHandler()
    const running = await serve(
      Object.assign(
        async () => {
          const response = await handler()
          order.push('answered')
          return response
        },
        {
          ready: async () => void order.push('ready'),
          close: async () => void order.push('closed'),
        },
      ),
      { port: 0 },
    )
    const response = fetch(running.url)
    await arrived
    const closing = running.close()
    go()
    assert.equal(await (await response).text(), 'in full')
    await closing
    await running.close()
    assert.deepEqual(order, ['ready', 'answered', 'closed'])
    await assert.rejects(fetch(running.url))
  })
  test('close ends unused and idle connections at once', async (t) => {
    // The clock does not move, so a close that waited ten seconds would never end.
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const running = await serve(() => new Response('x'), { port: 0 })
    const socket = connect(running.port, '127.0.0.1')
    await once(socket, 'connect')
    await textOf(await asked(running.url, { agent: kept(t) }))
    const ended = once(socket, 'close')
    await running.close()
    await ended
  })
  test('a request whose head is half sent at close is answered', async () => {
    const running = await serve(({ url }) => new Response(new URL(url).pathname), { port: 0 })
    const socket = connect(running.port, '127.0.0.1').setEncoding('utf8')
    // The response to the first request shows that the half of the second has arrived.
    socket.write('GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHo')
    const [first] = await once(socket, 'data')
    assert.match(first, /\/first/)
    const closing = running.close()
    await refused(running.url)
    socket.write('st: x\r\n\r\n')
    const rest = (await socket.toArray()).join('')
    assert.match(rest, /connection: close.*\/second/is)
    await closing
  })
  test('close waits for the work that the handler passed to waitUntil', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    let done = false
    const running = await serve(
      (request) => {
        const { ip, waitUntil } = request as Request & { ip: string; waitUntil(work: Promise<unknown>): void }
        waitUntil(
          promise.then(() => {
            done = true
          }),
        )
        return new Response(ip)
      },
      { port: 0 },
    )
    assert.equal(await (await fetch(running.url)).text(), '127.0.0.1')
    const closing = running.close()
    resolve()
    await closing
    assert.ok(done)
  })
  test('a handler of two servers is closed once, with the later server', async () => {
    let closed = 0
    const handler: Handler = Object.assign(() => new Response('x'), { close: async () => void closed++ })
    const first = await serve(handler, { port: 0 })
    const second = await serve(handler, { port: 0 })
    await first.close()
    assert.equal(closed, 0)
    assert.equal(await (await fetch(second.url)).text(), 'x')
    await second.close()
    assert.equal(closed, 1)
  })
  test('a handler whose close never settles is left after ten seconds', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { promise: asked, resolve } = Promise.withResolvers<void>()
    const close = () => {
      resolve()
      return new Promise<void>(() => {})
    }
    const running = await serve(
      Object.assign(() => new Response(), { close }),
      { port: 0 },
    )
    const closing = running.close()
    await asked
    await new Promise(setImmediate)
    t.mock.timers.tick(10_000)
    await assert.rejects(closing, { code: 'unavailable', message: /10 seconds/ })
  })
  for (const hostname of [undefined, '127.0.0.1', '0.0.0.0', '0', '::1', '::', 'localhost']) {
    const ipv6 = hostname?.includes(':')
    const there = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1'))
    test(`the URL that it prints for the hostname ${hostname} can be opened`, { skip: ipv6 && !there }, async (t) => {
      const { mock } = t.mock.method(console, 'log', () => {})
      const running = await serve(() => new Response('here'), { port: 0, hostname })
      t.after(() => running.close())
      assert.deepEqual(mock.calls[0]?.arguments, [`Running at ${running.url}`])
      assert.equal(await (await fetch(running.url)).text(), 'here')
      // Browsers cannot connect to such an address, and a name may have another address than the server.
      assert.doesNotMatch(running.url, hostname === 'localhost' ? /\/0|\[::\]/ : /\/0|\[::\]|localhost/)
    })
  }
  test('an error of the handler gives 500 without the error message', async (t) => {
    const printed = mockedConsole(t)
    const running = await serve(
      () => {
        throw new Error('the table is gone')
      },
      { port: 0 },
    )
    t.after(() => running.close())
    const response = await fetch(running.url)
    assert.equal(response.status, 500)
    assert.equal(await response.text(), 'Internal Server Error\n')
    assert.match(printed(), /Error: the table is gone\n +at /)
  })
  test('the stack, the code and the causes of an error are printed, but no command with its values', async (t) => {
    const printed = mockedConsole(t)
    const thrown: Record<string, unknown> = {
      '/driver': Object.assign(
        new Error('not saved', {
          cause: Object.assign(new Error('WRONGPASS'), { code: 'EAUTH', command: ['hunter2'] }),
        }),
        {
          values: ['hunter2'],
        },
      ),
      '/several': new AggregateError([new Error('the first'), new Error('the second')]),
      '/text': 'a text',
      '/nothing': undefined,
      '/object': { password: 'hunter2' },
      '/unprintable': Object.create(null),
    }
    const circle = new Error('circle')
    circle.cause = circle
    thrown['/circle'] = circle
    const running = await serve(
      ({ url }) => {
        throw thrown[new URL(url).pathname]
      },
      { port: 0 },
    )
    t.after(() => running.close())
    for (const path of Object.keys(thrown)) assert.equal((await fetch(running.url + path)).status, 500)
    assert.match(printed(), /not saved\n.*caused by: Error: WRONGPASS\n.*code: EAUTH/s)
    assert.match(printed(), /the first.*the second.*a text.*circle/s)
    assert.doesNotMatch(printed(), /hunter2/)
  })
  test('an answer that is no Response, and a body that breaks off, are printed too', async (t) => {
    const printed = mockedConsole(t)
    const running = await serve(
      ({ url }) => {
        if (!url.endsWith('/body')) return undefined as unknown as Response
        return new Response(new ReadableStream({ pull: (controller) => controller.error(new Error('it broke off')) }))
      },
      { port: 0 },
    )
    t.after(() => running.close())
    assert.equal((await fetch(running.url)).status, 500)
    assert.match(printed(), /The handler returned undefined\. Return a Response/)
    await assert.rejects(fetch(`${running.url}/body`))
    assert.match(printed(), /it broke off/)
  })
  test('a port that is in use, and an invalid port or hostname, throw a KeepsakeError', async (t) => {
    const running = await serve(() => new Response(), { port: 0 })
    t.after(() => running.close())
    await assert.rejects(
      serve(() => new Response(), { port: running.port }),
      (error) =>
        error instanceof KeepsakeError &&
        error.code === 'unavailable' &&
        /EADDRINUSE.*Choose another port/.test(error.message),
    )
    const none = { port: Number('80a') }
    const invalid = [none, { hostname: '' }, { hostname: 1 as unknown as string }, { host: '::1' } as object]
    for (const options of invalid)
      await assert.rejects(
        serve(() => new Response(), options),
        { code: 'invalid_option' },
      )
  })
})

suite('at SIGTERM', () => {
  const started = async (t: TestContext) => {
    const backend = `sqlite:${join(folder(t), 'sessions.db')}`
    const child = start(t, 'test/support/serving.ts', [backend])
    const url = async () => {
      const { value } = await child.lines.next()
      return value?.split(' ').at(-1) ?? assert.fail(child.errors())
    }
    const urls = [await url(), await url()] as const
    const messageFrom = async (word: string) => {
      for (;;) if ((await once(child.child, 'message'))[0] === word) return
    }
    return { ...child, backend, urls, messageFrom }
  }

  test('all servers of a process answer their requests in progress, with Connection: close', async (t) => {
    const { child, urls, messageFrom, ended, errors } = await started(t)
    const [one, other] = urls
    const agents = [kept(t), kept(t), kept(t)] as const
    const idle = kept(t)
    await textOf(await asked(one, { agent: idle }))
    const arrived = [messageFrom('/a'), messageFrom('/b')]
    const a = asked(`${one}/a`, { agent: agents[0] })
    const b = asked(`${other}/b`, { agent: agents[1] })
    await Promise.all(arrived)
    const stopping = messageFrom('stopping')
    child.kill('SIGTERM')
    await stopping
    await refused(one)
    await refused(other)
    const late = await asked(one, { agent: idle })
    assert.equal(late.statusCode, 200)
    assert.equal(late.headers.connection, 'close')
    child.send('/a')
    const first = await a
    assert.equal(first.headers.connection, 'close')
    assert.equal(await textOf(first), '/a')
    // The other server still runs, and so does the backend that both use.
    child.send('/b')
    const second = await b
    assert.equal(second.headers.connection, 'close')
    assert.equal(await textOf(second), '/b')
    assert.equal(await ended, 0, errors())
  })
  test('an endless response is cut after ten seconds, and its session is saved', async (t) => {
    const { backend, child, urls, messageFrom, ended, errors } = await started(t)
    const stream = await asked(`${urls[0]}/endless`, { agent: kept(t) })
    const cookie = stream.headers['set-cookie']?.[0]?.split(';')[0] ?? ''
    await once(stream, 'readable')
    const stopping = messageFrom('stopping')
    child.kill('SIGTERM')
    await stopping
    await refused(urls[0])
    child.send('ten seconds')
    assert.equal(await ended, 0, errors())
    const manager = sessionManager({ backend })
    t.after(() => manager.close())
    assert.equal((await manager.open({ headers: new Headers({ cookie }), url: urls[0] })).get('n'), 1)
  })
})

suite('logger', () => {
  test('one line for each response: number, method, path, status, time, and the label of a session that was used', async () => {
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
  test('an error of a handler is logged by its name and thrown on', async () => {
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

test('without the package srvx, serve throws missing_package with the command that installs it', async (t) => {
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      if (specifier.startsWith('srvx') && context.parentURL?.includes('/src/')) {
        throw Object.assign(new Error("Cannot find package 'srvx'"), { code: 'ERR_MODULE_NOT_FOUND' })
      }
      return next(specifier, context)
    },
  })
  t.after(() => hooks.deregister())
  const fresh = await import(`../../src/serve.ts?${freshVersion()}`)
  let opened = false
  const handler = Object.assign(() => new Response('done'), {
    ready: async () => {
      opened = true
    },
  })
  await assert.rejects(fresh.serve(handler, { port: 0 }), (error) => {
    assert.match((error as Error).message, /^keepsake\/serve needs the package srvx: npm install srvx$/)
    return code('missing_package')(error)
  })
  assert.equal(opened, false, 'the backend is not opened')
})
