// Adapter cases about connections and streams.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { session } from '../../request.ts'
import type { RequestLike } from '../../request-context.ts'
import { type CaseHandler, json, text } from './application.ts'
import { type AdapterCase, caseOn, onBothStores } from './stage.ts'

const bytes = new TextEncoder()

/** A stream of these texts, each after one round of the event loop. */
const streamOf = (texts: readonly string[], onCancel = () => {}): ReadableStream<Uint8Array> => {
  const rest = [...texts]
  return new ReadableStream(
    {
      async pull(controller) {
        await new Promise((resolve) => setImmediate(resolve))
        const next = rest.shift()
        if (next === undefined) controller.close()
        else controller.enqueue(bytes.encode(next))
      },
      cancel: onCancel,
    },
    { highWaterMark: 0 },
  )
}

/** A stream that uses the session after its first piece. An error gives its code as text. */
const lateStream = (use: () => Promise<string>): ReadableStream<Uint8Array> => {
  let pieces = 0
  return new ReadableStream(
    {
      async pull(controller) {
        pieces += 1
        if (pieces === 1) controller.enqueue(bytes.encode('head '))
        else {
          controller.enqueue(bytes.encode(await use().catch(({ code }) => String(code))))
          controller.close()
        }
      },
    },
    { highWaterMark: 0 },
  )
}

const headers: [string, string][] = [['content-type', 'text/plain']]
const increment = async (x: RequestLike): Promise<number> => {
  const s = await session<{ n: number }>(x)
  s.update('n', (n = 0) => n + 1)
  return s.get('n') as number
}

/** The functions to call when the stream of a query is cancelled. */
const onCancels = new Map<string | null, () => void>()
const PIECES = ['one ', 'two ', 'three']

const handlers: Record<string, CaseHandler> = {
  '/count': async (x) => json(await increment(x)),
  '/read': async (x) => json((await session(x)).fields),
  '/stream': async (x) => {
    await increment(x)
    return { status: 200, headers, body: streamOf(PIECES) }
  },
  '/large': async (x) => {
    await increment(x)
    return text('0123456789'.repeat(100_000))
  },
  '/read-late': async (x) => {
    await increment(x)
    const use = async () => `n=${(await session<{ n: number }>(x)).get('n')}`
    return { status: 200, headers, body: lateStream(use) }
  },
  '/change-late': async (x) => {
    const s = await session(x)
    const use = async () => {
      s.set('late', true)
      return 'changed'
    }
    return { status: 200, headers, body: lateStream(use) }
  },
  '/huge-stream': async (x, { query }) => {
    ;(await session(x)).set('huge', 'x'.repeat(2 ** 20))
    const pieces = Array.from({ length: 1_000 }, () => 'piece ')
    return { status: 200, headers, body: streamOf(pieces, onCancels.get(query.get('id'))) }
  },
  '/slow': async (x, { pause }) => {
    const n = increment(x)
    await pause.wait()
    return json(await n)
  },
}

const bodyOf = async (response: Response): Promise<unknown> => JSON.parse(await response.text())

export const connectionCases: readonly AdapterCase[] = [
  ...onBothStores('a stream arrives whole, and its change is saved', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      assert.equal(await (await visit('/stream')).text(), PIECES.join(''))
      assert.deepEqual(await bodyOf(await visit('/read')), { n: 1 })
    },
  }),
  ...onBothStores('HEAD of a stream ends', {
    handlers,
    async run({ visitor }) {
      const response = await visitor()('/stream', { method: 'HEAD' })
      assert.equal(await response.text(), '')
      assert.equal(response.headers.getSetCookie().length, 1)
    },
  }),
  ...onBothStores('a large body arrives whole', {
    handlers,
    async run({ visitor }) {
      assert.equal((await (await visitor()('/large')).text()).length, 1_000_000)
    },
  }),
  ...onBothStores('a session that was opened can be read after the head has left', {
    handlers,
    async run({ visitor }) {
      assert.equal(await (await visitor()('/read-late')).text(), 'head n=1')
    },
  }),
  ...onBothStores('a change after the head has left is too_late, and is not saved', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/count')
      assert.equal(await (await visit('/change-late')).text(), 'head too_late')
      assert.deepEqual(await bodyOf(await visit('/read')), { n: 1 })
    },
  }),
  ...onBothStores('a stream that is not sent is cancelled', {
    handlers,
    async run({ visitor }) {
      const id = crypto.randomUUID()
      const cancelled = new Promise<void>((resolve) => onCancels.set(id, resolve))
      const response = await visitor()(`/huge-stream?id=${id}`)
      assert.equal(response.status, 500)
      assert.doesNotMatch(await response.text(), /piece/)
      await cancelled
      onCancels.delete(id)
    },
  }),
  ...onBothStores('the change of a visitor who went away is saved', {
    handlers,
    async run({ visitor, pause, url, store, assertAlive }) {
      const visit = visitor()
      await visit('/count')
      const cookie = [...visit.cookies].map((pair) => pair.join('=')).join('; ')
      const { hostname, port, host } = new URL(url)
      const socket = connect(Number(port), hostname)
      socket.write(`GET /slow HTTP/1.1\r\nHost: ${host}\r\nCookie: ${cookie}\r\n\r\n`)
      await pause.reached
      socket.destroy()
      await new Promise((resolve) => socket.once('close', resolve))
      // The server gets these requests after the end of that connection.
      for (let i = 0; i < 3; i++) await assertAlive()
      const saved = store.nextCall('set')
      pause.resume()
      await saved
      assert.deepEqual(await bodyOf(await visit('/read')), { n: 2 })
    },
  }),
  ...onBothStores('two visitors on one connection have two sessions', {
    handlers,
    async run({ visitor, send, url }) {
      const cookies = await Promise.all(
        [1, 2].map(async (times) => {
          const visit = visitor()
          for (let i = 0; i < times; i++) await visit('/count')
          return [...visit.cookies].map((pair) => pair.join('=')).join('; ')
        }),
      )
      const { host } = new URL(url)
      const requests = cookies.map(
        (cookie, i) =>
          `GET /read HTTP/1.1\r\nHost: ${host}\r\nCookie: ${cookie}\r\n${i === 1 ? 'Connection: close\r\n' : ''}\r\n`,
      )
      assert.match(await send(requests.join('')), /\{"n":1\}[\s\S]*\{"n":2\}/)
    },
  }),
  ...onBothStores('three requests that are sent at once on one connection are answered in their order', {
    handlers,
    async run({ visitor, send, url }) {
      const visit = visitor()
      await visit('/count')
      const cookie = [...visit.cookies].map((pair) => pair.join('=')).join('; ')
      const request = (path: string, more = '') =>
        `GET ${path} HTTP/1.1\r\nHost: ${new URL(url).host}\r\nCookie: ${cookie}\r\n${more}\r\n`
      const received = await send(request('/count') + request('/ping') + request('/read', 'Connection: close\r\n'))
      // The server may run their handlers concurrently.
      assert.match(received, /\r\n\r\n(1\r\n)?2[\s\S]*pong[\s\S]*\{"n":[12]\}/)
    },
  }),
  ...onBothStores('two Cookie fields of one request are read as one', {
    handlers,
    async run({ visitor, send, url }) {
      const visit = visitor()
      await visit('/count')
      const cookie = [...visit.cookies].map((pair) => pair.join('=')).join('; ')
      const received = await send(
        `GET /read HTTP/1.1\r\nHost: ${new URL(url).host}\r\nCookie: a=1\r\nCookie: ${cookie}\r\nConnection: close\r\n\r\n`,
      )
      assert.match(received, /\{"n":1\}/)
    },
  }),
  caseOn('asynchronous', 'a request that waits for the store holds up no other visitor', {
    handlers,
    async run({ visitor, store, assertAlive }) {
      const gate = store.hold('generate')
      const waiting = visitor()('/count')
      // It fails too if the rest of this case fails.
      waiting.catch(() => {})
      await gate.reached
      await assertAlive()
      gate.open()
      assert.equal(await bodyOf(await waiting), 1)
    },
  }),
]
