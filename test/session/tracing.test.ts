// The tracing channel `keepsake.store`: one message for each call of a backend, without secrets, and nothing without a subscriber.

import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { execFile } from 'node:child_process'
import { type TracingChannelSubscribers, tracingChannel } from 'node:diagnostics_channel'
import { suite, test } from 'node:test'
import { inspect, promisify } from 'node:util'
import { type Awaitable, type Backend, KeepsakeError, type StoreCall, session, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { callBackend, type Deadline } from '../../src/backends/deadline.ts'
import { newSecret } from '../../src/crypto/seal.ts'

const channel = tracingChannel<StoreCall, StoreCall>('keepsake.store')

type Message = { readonly type: string; readonly call: StoreCall; readonly copy: StoreCall }

/** Subscribes while `run` is in progress, and returns its result and the messages. */
const traced = async <T>(run: () => Awaitable<T>): Promise<{ result: T; messages: Message[]; calls: StoreCall[] }> => {
  const messages: Message[] = []
  const note = (type: string) => (call: StoreCall) => void messages.push({ type, call, copy: { ...call } })
  const subscribers: TracingChannelSubscribers<StoreCall> = {
    start: note('start'),
    end: note('end'),
    asyncStart: note('asyncStart'),
    asyncEnd: note('asyncEnd'),
    error: note('error'),
  }
  channel.subscribe(subscribers)
  try {
    const result = await run()
    return { result, messages, calls: [...new Set(messages.map(({ call }) => call))] }
  } finally {
    channel.unsubscribe(subscribers)
  }
}

const errorOf = async (run: () => unknown): Promise<unknown> => {
  try {
    await run()
  } catch (error) {
    return error
  }
  return assert.fail('it throws')
}

const summaryOf = ({ operation, outcome, attempt }: StoreCall): string => `${operation} ${outcome} ${attempt}`

/** How the backend answers: at once, or with a promise. */
const kinds: Readonly<Record<string, <T>(answer: () => T) => Awaitable<T>>> = {
  'at once': (answer) => answer(),
  'with a promise': async (answer) => answer(),
}

const types = { 'at once': ['start', 'end'], 'with a promise': ['start', 'end', 'asyncStart', 'asyncEnd'] }
const typesOfError = {
  'at once': ['start', 'error', 'end'],
  'with a promise': ['start', 'end', 'error', 'asyncStart', 'asyncEnd'],
}

for (const [kind, answering] of Object.entries(kinds) as [keyof typeof types, (typeof kinds)[string]][]) {
  suite(`a backend that answers ${kind}`, () => {
    const answers = [
      ['get', { value: '{}' }, 'hit'],
      ['get', undefined, 'miss'],
      ['generate', undefined, 'done'],
      ['generate', 'taken', 'conflict'],
      ['generate', 'gone', 'conflict'],
      ['set', { held: 'secret' }, 'done'],
      ['set', 'stale', 'conflict'],
      ['clear', 'stale', 'conflict'],
      ['byOwner.clear', 3, 'done'],
    ] as const
    for (const [operation, answer, outcome] of answers) {
      test(`and ${operation} answers ${JSON.stringify(answer)}: ${outcome}`, async () => {
        const call = () =>
          callBackend<unknown>({ left: 1_000 }, 'test', operation, operation !== 'get', () => answering(() => answer))
        const { result, messages, calls } = await traced(call)
        assert.equal(result, answer)
        assert.deepEqual(calls, [{ operation, backend: 'test', attempt: 1, outcome }])
        assert.deepEqual(
          messages.map(({ type }) => type),
          types[kind],
        )
        assert.deepEqual(messages[0]?.copy, { operation, backend: 'test', attempt: 1 }, 'no outcome before the answer')
      })
    }

    test('and throws: failed, with the error that the caller gets', async () => {
      const reset = new Error('reset')
      const call = () =>
        callBackend({ left: 1_000 }, 'test', 'set', true, () =>
          answering(() => {
            throw reset
          }),
        )
      const { result, messages, calls } = await traced(() => errorOf(call))
      assert.ok(result instanceof KeepsakeError && result.cause === reset)
      assert.deepEqual(calls, [{ operation: 'set', backend: 'test', attempt: 1, outcome: 'failed', error: result }])
      assert.equal(calls[0]?.error, result)
      assert.deepEqual(
        messages.map(({ type }) => type),
        typesOfError[kind],
      )
    })

    test('and another request was first: the next calls are attempt 2, until a save', async () => {
      const inner = memoryBackend()
      let interrupts = 0
      const backend: Backend = {
        ...inner,
        get: (key) => answering(() => inner.get(key) as never),
        set: (key, change, version) =>
          answering(() => (interrupts-- > 0 ? 'stale' : inner.set(key, change, version)) as never),
      }
      const manager = sessionManager({ backend, secret: newSecret() })
      const visit = browser(
        manager(async (request) => {
          const s = await session(request)
          s.update('n', (n = 0) => n + 1)
          if (new URL(request.url).pathname === '/save') {
            await s.save()
            s.update('n', (n = 0) => n + 1)
          }
          return Response.json(s.get('n'))
        }),
      )
      await visit('/')
      interrupts = 1
      const { calls } = await traced(() => visit('/'))
      assert.deepEqual(calls.map(summaryOf), ['get hit 1', 'set conflict 1', 'get hit 2', 'set done 2'])
      interrupts = 1
      const saved = await traced(() => visit('/save'))
      assert.equal(saved.calls.map(summaryOf).at(-1), 'set done 1')
    })
  })
}

suite('a call that is late', () => {
  const code = async (run: () => unknown) => (await errorOf(run)) as KeepsakeError
  const cases: Readonly<Record<string, { left: number; types: readonly string[] }>> = {
    'because the backend does not answer': { left: 1, types: ['start', 'end', 'error', 'asyncStart', 'asyncEnd'] },
    'because earlier calls used up the time': { left: 0, types: ['start', 'error', 'end'] },
  }
  for (const [why, { left, types }] of Object.entries(cases)) {
    for (const isWrite of [false, true]) {
      test(`${why} (${isWrite ? 'a write' : 'a read'}): late, with the error that it has without a subscriber`, async () => {
        const call = () =>
          callBackend({ left }, 'test', isWrite ? 'set' : 'get', isWrite, () => new Promise<undefined>(() => {}))
        const untraced = await code(call)
        const { result, calls, messages } = await traced(() => code(call))
        assert.deepEqual([result.code, result.message], [untraced.code, untraced.message])
        assert.deepEqual(
          messages.map(({ type }) => type),
          types,
        )
        assert.equal(calls[0]?.outcome, 'late')
        assert.equal(calls[0]?.error, result)
      })
    }
  }

  test('and is answered afterwards publishes nothing more', async () => {
    const { promise, resolve } = Promise.withResolvers<string>()
    const { messages } = await traced(async () => {
      await errorOf(() => callBackend({ left: 1 }, 'test', 'set', true, () => promise))
      resolve('stale')
      await promise
    })
    assert.deepEqual(
      messages.map(({ type }) => type),
      ['start', 'end', 'error', 'asyncStart', 'asyncEnd'],
    )
    assert.equal(messages[0]?.call.outcome, 'late')
  })
})

test('a call beyond maxInFlight is failed, although it does not reach the backend', async () => {
  const deadline: Deadline = { left: 1_000, inFlight: { count: 1, max: 1 } }
  const call = () => callBackend(deadline, 'test', 'get', false, () => assert.fail('it is not called'))
  const { result, calls } = await traced(() => errorOf(call))
  assert.deepEqual(calls, [{ operation: 'get', backend: 'test', attempt: 1, outcome: 'failed', error: result }])
})

suite('without a subscriber', () => {
  test('a call makes no message, and its answer is the same object as that of the backend', () => {
    assert.equal(channel.hasSubscribers, false)
    const answer = {}
    const deadline: Deadline = {
      left: 1_000,
      get conflicts(): number {
        return assert.fail('a message was made: only it reads the conflicts of a call that met none')
      },
    }
    assert.equal(
      callBackend(deadline, 'test', 'get', false, () => answer),
      answer,
    )
  })

  test('a runtime without tracing channels, or without their hasSubscribers, has sessions', async () => {
    for (const member of ['', 'export const tracingChannel = () => ({ start: {}, end: {} })']) {
      const program = `
        import { registerHooks } from 'node:module'
        const source = 'export const channel = () => ({ hasSubscribers: false })\\n' + ${JSON.stringify(member)}
        registerHooks({
          resolve: (name, context, next) =>
            name === 'node:diagnostics_channel' && context.parentURL?.includes('/src/')
              ? { url: 'data:text/javascript,' + encodeURIComponent(source), shortCircuit: true }
              : next(name, context),
        })
        const { memorySessions, session } = await import('keepsake')
        const page = memorySessions(async (request) => {
          const s = await session(request)
          s.set('a', 1)
          return Response.json(s.get('a'))
        })
        console.log((await page(new Request('https://app.test/'))).status)`
      const cwd = new URL('../..', import.meta.url)
      const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], { cwd })
      assert.equal(stdout.trim(), '200')
    }
  })
})

suite('with a subscriber', () => {
  test('the answer of a synchronous backend stays synchronous', async () => {
    await traced(() => {
      assert.equal(
        callBackend({ left: 1_000 }, 'test', 'get', false, () => 'entry'),
        'entry',
      )
    })
  })

  test('a store bound to the channel is the context of the backend alone', async () => {
    const storage = new AsyncLocalStorage<StoreCall>()
    channel.start.bindStore(storage)
    try {
      const answer = callBackend({ left: 1_000 }, 'test', 'get', false, async () => storage.getStore()?.operation)
      assert.equal(storage.getStore(), undefined)
      assert.equal(await answer, 'get')
      assert.equal(storage.getStore(), undefined)
    } finally {
      channel.start.unbindStore(storage)
    }
  })

  test('a wait for an earlier commit of the same session is the operation queue', async () => {
    const inner = memoryBackend()
    const held = Promise.withResolvers<void>()
    const reached = Promise.withResolvers<void>()
    let holds = false
    const backend: Backend = {
      ...inner,
      async set(...args) {
        if (holds) {
          holds = false
          reached.resolve()
          await held.promise
        }
        return inner.set(...args)
      },
    }
    const manager = sessionManager({ backend, secret: newSecret() })
    const visit = browser(
      manager(async (request) => {
        const s = await session(request)
        s.update('n', (n = 0) => n + 1)
        return Response.json(s.get('n'))
      }),
    )
    await visit('/')
    holds = true
    const { calls } = await traced(async () => {
      const first = visit('/')
      await reached.promise
      const second = visit('/')
      // The memory backend answers the read at once, so the second request waits for the first one before the next turn.
      await new Promise((resolve) => setImmediate(resolve))
      held.resolve()
      await Promise.all([first, second])
    })
    assert.deepEqual(calls.filter(({ operation }) => operation === 'queue').map(summaryOf), ['queue done 1'])
  })
})

suite('no message has a secret', () => {
  const secret = newSecret()
  const backends: Readonly<Record<string, () => Backend>> = {
    memory: memoryBackend,
    cookie: () => cookieBackend({ secret }),
    'cookie with a place for ends': () => cookieBackend({ secret, ends: memoryBackend() }),
  }
  const operations = new Set<string>()
  for (const [name, newBackend] of Object.entries(backends)) {
    test(`${name}: a first write, a login, writes, a rotation, a logout`, async () => {
      const inner = newBackend()
      let fails = false
      // The driver's error, too, is in the messages, if the backend puts no key into it.
      const backend: Backend = {
        ...inner,
        get: (key) => {
          if (fails) throw new Error('the connection was reset')
          return inner.get(key)
        },
      }
      const secrets = new Set<string>()
      const manager = sessionManager({ backend, secret })
      const visit = browser(
        manager(async (request) => {
          const s = await session(request)
          const { pathname } = new URL(request.url)
          if (pathname === '/write') s.set('field', 'a private value')
          if (pathname === '/login') s.login('anna@app.test', { keep: ['field'] })
          if (pathname === '/rotate') s.rotateKey()
          if (pathname === '/logout') s.invalidate()
          if (s.label !== undefined) secrets.add(s.label)
          return Response.json(s.owner ?? null)
        }),
      )
      const { calls } = await traced(async () => {
        for (const path of ['/write', '/login', '/write', '/rotate', '/', '/write', '/fails', '/logout', '/']) {
          fails = path === '/fails'
          await visit(path)
          for (const value of visit.cookies.values()) secrets.add(value)
        }
        if (inner.byOwner) {
          await visit('/login')
          await manager.list('anna@app.test')
          await manager.count()
          await manager.revokeAll('anna@app.test')
        }
      })
      assert.ok(calls.length > 8 && secrets.size >= 3, `${calls.length} ${secrets.size}`)
      assert.ok(calls.some(({ outcome }) => outcome === 'failed'))
      const texts = [JSON.stringify(calls), inspect(calls, { depth: 9, maxStringLength: null, showHidden: true })]
      for (const text of texts) {
        for (const value of [...secrets, 'anna', 'private']) assert.ok(!text.includes(value), `${value} in ${text}`)
      }
      for (const { operation } of calls) operations.add(operation)
    })
  }

  test('these visits make most calls of the contract', () => {
    const expected = ['byOwner.clear', 'byOwner.list', 'clear', 'generate', 'get', 'scan', 'set']
    assert.deepEqual([...operations].filter((name) => expected.includes(name)).sort(), expected)
  })
})
