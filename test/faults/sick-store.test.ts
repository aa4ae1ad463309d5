// A backend that hangs, fails or answers late: requests end in time, anonymous if an option allows it, and calls do not pile up.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  type Awaitable,
  addFlash,
  type Backend,
  csrfToken,
  type Entry,
  type EventType,
  KeepsakeError,
  session,
  sessionManager,
  takeFlash,
} from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { setup } from '../support/visits.ts'

const secret = newSecret()
const failing = () => Object.assign(new Error('connection refused'), { code: 'ECONNREFUSED' })

suite('onStoreError: anonymous', () => {
  const setupAnonymous = () => setup({ onStoreError: 'anonymous' })

  test('ST-O2: a request whose session cannot be read is anonymous, and no session cookie is sent', async () => {
    const h = await setupAnonymous()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    h.fail('get', failing())
    const response = await visit.raw((s) => Response.json([s.owner ?? null, { ...s.fields }]))
    assert.deepEqual(await response.json(), [null, {}])
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.deepEqual(h.types, ['login', 'read_only'])
    assert.equal(await visit((s) => s.owner), 'anna', 'the next request has the owner again')
  })

  test('ST-O2: every change of such a session throws the original error, and nothing is saved', async () => {
    const h = await setupAnonymous()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const acts = {
      set: (s) => s.set('a', 1),
      delete: (s) => s.delete('a'),
      update: (s) => s.update('a', () => 1),
      rotateKey: (s) => s.rotateKey(),
      login: (s) => s.login('bert'),
    } satisfies Record<string, Parameters<typeof visit>[0]>
    for (const [name, act] of Object.entries(acts)) {
      h.fail('get', failing())
      const response = await visit.raw(act)
      assert.equal(response.status, 503, name)
      assert.deepEqual(response.headers.getSetCookie(), [])
      h.fail('get', failing())
      await visit((s) => {
        assert.throws(
          () => act(s),
          (error) => error instanceof KeepsakeError && error.code === 'unavailable',
        )
      })
    }
    assert.equal(await visit((s) => s.owner), 'anna')
    assert.equal(h.calls.set + h.calls.clear, 0)
  })

  test('a backend that fails at the commit is an error all the same: 503', async () => {
    const h = await setupAnonymous()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    h.fail('set', failing())
    assert.equal(await visit((s) => s.set('a', 2)), 503)
  })

  test('a form and a flash message of such a request use a pre-session', async () => {
    const h = await setupAnonymous()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    h.fail('get', failing())
    const response = await visit.raw(async (_, request) => {
      addFlash(request, 'info', 'hello')
      return new Response(await csrfToken(request))
    })
    assert.match(response.headers.getSetCookie().join(), /^__Host-Http-sid-pre=/)
    h.fail('get', failing())
    assert.equal(await visit(async (_, request) => (await takeFlash(request)).length), 1)
  })

  test('fail is the default, and other values are refused', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    h.fail('get', failing())
    assert.equal(await visit((s) => s.get('a')), 503)
    assert.throws(() => sessionManager({ backend: 'memory:', onStoreError: 'ignore' as never }), {
      code: 'invalid_option',
    })
  })
})

/** A backend whose calls hang until the test releases them, and the number of calls that hang. */
const hanging = () => {
  const inner = memoryBackend()
  const waiting = new Set<() => void>()
  let hangs = true
  const hold = async <T>(call: () => Awaitable<T>): Promise<T> => {
    if (hangs) await new Promise<void>((resolve) => waiting.add(resolve))
    return call()
  }
  const backend: Backend = {
    ...inner,
    get: (key) => hold(() => inner.get(key)),
    generate: (key, entry) => hold(() => inner.generate(key, entry)),
    set: (key, change, version) => hold(() => inner.set(key, change, version)),
  }
  return {
    backend,
    count: () => waiting.size,
    async release() {
      hangs = false
      for (const go of waiting) go()
      waiting.clear()
      await new Promise((resolve) => setImmediate(resolve))
    },
  }
}

suite('calls in progress', () => {
  const KEY = 'A'.repeat(43)
  const send = (page: (request: Request) => unknown) =>
    page(new Request('https://app.test/', { headers: { cookie: `__Host-Http-sid=${KEY}` } })) as Promise<Response>

  test('ST-O5: of ten thousand requests on a backend that hangs, maxInFlight wait, and the others fail at once', async () => {
    const { backend, count, release } = hanging()
    const page = sessionManager({ backend, secret, maxInFlight: 100, storeTimeout: PATIENT })(async (request) =>
      Response.json((await session(request)).owner ?? null),
    )
    const statuses: number[] = []
    const requests = Array.from({ length: 10_000 }, () => send(page).then(({ status }) => statuses.push(status)))
    while (statuses.length < 9_900) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(count(), 100)
    assert.deepEqual([...new Set(statuses)], [503])
    await release()
    await Promise.all(requests)
    assert.equal(statuses.filter((status) => status === 200).length, 100)
    assert.equal((await send(page)).status, 200, 'the next request is answered as usual')
  })

  test('a call whose request timed out counts until the backend answers, or for half a minute', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { backend, count } = hanging()
    const page = sessionManager({ backend, secret, maxInFlight: 2, storeTimeout: 0.05 })(async (request) =>
      Response.json((await session(request)).owner ?? null),
    )
    assert.deepEqual(
      (await Promise.all([send(page), send(page)])).map(({ status }) => status),
      [503, 503],
    )
    assert.equal((await send(page)).status, 503)
    assert.equal(count(), 2, 'the third request made no call')
    t.mock.timers.tick(29_999)
    await send(page)
    assert.equal(count(), 2)
    t.mock.timers.tick(1)
    await send(page)
    assert.equal(count(), 3)
  })

  test('the event has a KeepsakeError that names maxInFlight', async () => {
    const { backend } = hanging()
    const events: { type: EventType; error?: unknown }[] = []
    const page = sessionManager({
      backend,
      secret,
      maxInFlight: 1,
      storeTimeout: 0.05,
      onEvent: (event) => events.push(event),
    })(async (request) => Response.json((await session(request)).owner ?? null))
    const first = send(page)
    assert.equal((await send(page)).status, 503)
    assert.match(String(events[0]?.error), /has 1 calls in progress, as many as maxInFlight allows/)
    await first
  })
})

suite('sweeping', () => {
  const expiredEntry = (i: number): [string, Entry] => [
    `${String(i).padStart(42, 'A')}A`,
    { value: '{}', metadata: '1.0.0.', expiresAt: 1, version: 'aaaaaaaa' },
  ]
  const backendWith = (count: number) => {
    const backend = memoryBackend({ now: () => 0 })
    for (let i = 0; i < count; i++) backend.generate(...expiredEntry(i))
    return backend
  }

  test('sweep removes all expired entries in batches, and returns their number', async () => {
    const inner = backendWith(333)
    const batches: number[] = []
    const backend: Backend = {
      ...inner,
      sweep(now, limit) {
        batches.push(limit)
        return inner.sweep?.(now, limit) ?? 0
      },
    }
    const manager = sessionManager({ backend, now: clock() })
    assert.equal(await manager.sweep(), 333)
    assert.equal(await manager.sweep(), 0)
    assert.ok(batches.length >= 7 && batches.every((limit) => limit === 50))
  })

  test('autoSweep: false leaves sweeping to calls of sweep, and close stops a sweep in progress', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    for (const [autoSweep, closes, expected] of [
      [true, false, 50],
      [false, false, 0],
      [true, true, 0],
    ] as const) {
      const inner = backendWith(500)
      let swept = 0
      const backend: Backend = {
        ...inner,
        sweep(now, limit) {
          const count = inner.sweep?.(now, limit) as number
          swept += count
          return count
        },
      }
      const now = clock()
      const manager = sessionManager({ backend, now, autoSweep })
      const visit = browser(
        manager(async (request) => {
          ;(await session(request)).set('a', 1)
          return new Response()
        }),
        { now },
      )
      await visit('/')
      if (closes) await manager.close()
      t.mock.timers.tick(1)
      assert.equal(swept >= expected && (expected > 0 || swept === 0), true, `${autoSweep} ${closes}: ${swept}`)
    }
    assert.throws(() => sessionManager({ backend: 'memory:', autoSweep: 'never' as never }), { code: 'invalid_option' })
  })
})
