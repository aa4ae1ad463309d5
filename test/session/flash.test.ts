// Flash messages: shown once on the next page, in order, limited, also for anonymous visitors, and returned if no page was shown.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { addFlash, type Backend, type Flash, type Session, session, sessionManager, takeFlash } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { stores } from '../support/stores.ts'
import { type Act, setup, type Visitor } from '../support/visits.ts'

const PRE = '__Host-Http-sid-pre'
const add =
  (...texts: string[]): Act =>
  (_, request) => {
    for (const text of texts) addFlash(request, 'info', text)
  }
const takeTexts: Act = async (_, request) => (await takeFlash(request)).map(({ text }) => text)
const take = (visit: Visitor) => visit(takeTexts) as Promise<string[]>
const SECRET = newSecret()
const RUNS = 2000

const kinds: Record<string, () => Backend> = {
  'in a backend': () => memoryBackend(),
  'in a cookie': () => cookieBackend({ secret: newSecret() }),
}

for (const [kind, backend] of Object.entries(kinds)) {
  for (const known of [true, false]) {
    suite(`a flash message ${known ? `of a session ${kind}` : `of an anonymous visitor, with sessions ${kind}`}`, () => {
      const start = async () => {
        const h = await setup({ backend: backend(), ...(kind === 'in a cookie' && { secret: newSecret() }) })
        const visit = h.visitor()
        if (known) await visit((s) => s.set('user', 'anna'))
        return { h, visit }
      }

      test('D55, D56: is for the next page, once, in the order in which they were added', async () => {
        const { visit } = await start()
        await visit(add('one', 'two'))
        await visit(add('three'))
        assert.deepEqual(await take(visit), ['one', 'two', 'three'])
        assert.deepEqual(await take(visit), [])
      })

      test('D56: has a category and a text with any characters', async () => {
        const { visit } = await start()
        const messages = [
          { category: 'error', text: 'Zoë 🦊 \0 <b>"\' \n' },
          { category: '', text: '' },
        ]
        await visit((_, request) => {
          for (const { category, text } of messages) addFlash(request, category, text)
        })
        assert.deepEqual(await visit((_, request) => takeFlash(request)), messages)
      })

      test('D57: is not for the page that adds it, and a request takes it once', async () => {
        const { visit } = await start()
        await visit(add('old'))
        const seen = await visit(async (_, request) => {
          addFlash(request, 'info', 'new')
          const lists = await Promise.all([takeFlash(request), takeFlash(request)])
          return [...lists.flat().map(({ text }) => text), (await takeFlash(request)).length]
        })
        assert.deepEqual(seen, ['old', 0])
        assert.deepEqual(await take(visit), ['new'])
      })

      test('D56, FL-2: a request for an icon, a page or a script that does not take it leaves it in place', async () => {
        const { visit } = await start()
        await visit(add('one'))
        await visit((s) => s.get('user'))
        await visit(() => {})
        await visit((s) => s.set('other', 1))
        assert.deepEqual(await take(visit), ['one'])
      })

      test('FL-2, HTTP-4: HEAD, prefetch and prerender requests do not take it', async () => {
        const { visit } = await start()
        await visit(add('one'))
        for (const init of [
          { method: 'HEAD' },
          { headers: { 'sec-purpose': 'prefetch' } },
          { headers: { 'sec-purpose': 'prefetch;prerender' } },
          { headers: { purpose: 'prefetch' } },
          { headers: { 'x-moz': 'prefetch' } },
          { headers: { 'x-sec-purpose': 'prefetch' } },
          { headers: { 'x-purpose': 'preview' } },
          { headers: { 'next-router-prefetch': '1' } },
        ]) {
          let seen: readonly Flash[] | undefined
          await visit.raw(async (_, request) => {
            seen = await takeFlash(request)
          }, init)
          assert.deepEqual(seen, [])
        }
        assert.deepEqual(await take(visit), ['one'])
      })

      test('FL-2: if the handler throws, it is returned, before newer messages', async () => {
        const { visit } = await start()
        await visit(add('one', 'two'))
        const thrown = visit(async (s, request) => {
          s.set('lost', true)
          addFlash(request, 'info', 'lost')
          assert.equal((await takeFlash(request)).length, 2)
          throw new Error('template broke')
        })
        await assert.rejects(thrown, /template broke/)
        await visit(add('three'))
        assert.deepEqual(await take(visit), ['one', 'two', 'three'])
        assert.equal(await visit((s) => s.get('lost')), undefined)
      })

      test('FL-2: if the response is a 304, it is returned, and the other changes are saved', async () => {
        const { visit } = await start()
        await visit(add('one'))
        const unchanged = await visit.raw(async (s, request) => {
          await takeFlash(request)
          if (known) s.set('seen', true)
          return new Response(null, { status: 304 })
        })
        assert.equal(unchanged.status, 304)
        assert.deepEqual(await take(visit), ['one'])
        assert.equal(await visit((s) => s.get('seen')), known || undefined)
      })

      test('D55: survives a login and a logout in the same request, before or after it was added', async () => {
        const { visit } = await start()
        await visit(add('before'))
        await visit((s, request) => {
          addFlash(request, 'info', 'welcome')
          s.login('anna')
        })
        assert.deepEqual(await take(visit), ['before', 'welcome'])
        await visit((s, request) => {
          s.invalidate()
          addFlash(request, 'info', 'goodbye')
        })
        assert.deepEqual(await take(visit), ['goodbye'])
        await visit((s) => s.login('anna'))
        await visit((s, request) => {
          addFlash(request, 'info', 'goodbye again')
          s.invalidate()
        })
        assert.deepEqual(await take(visit), ['goodbye again'])
      })

      test('is not for the next visitor, if it was not taken before a logout', async () => {
        const { visit } = await start()
        if (!known) await visit((s) => s.login('bert'))
        await visit(add('your balance is 5'))
        await visit((s) => s.invalidate())
        assert.deepEqual(await take(visit), [])
      })

      test('moves into the session at the first write', async () => {
        const { visit } = await start()
        await visit(add('one'))
        await visit((s, request) => {
          s.set('first', 1)
          addFlash(request, 'info', 'two')
        })
        await visit((s) => s.set('second', 2))
        assert.deepEqual(await take(visit), ['one', 'two'])
      })

      test('D58, LIM-7: of ten thousand messages, the last twenty are kept, and cookies stay small', async () => {
        const { visit } = await start()
        await visit((_, request) => {
          for (let i = 0; i < 10_000; i++) addFlash(request, 'info', `${i}`)
        })
        assert.deepEqual(
          await take(visit),
          Array.from({ length: 20 }, (_, i) => `${9980 + i}`),
        )
        await visit(add(...Array.from({ length: 20 }, (_, i) => String(i % 10).repeat(400))))
        for (const [name, value] of visit.browser.cookies) assert.ok(name.length + value.length < 4000)
        const seen = await take(visit)
        assert.deepEqual(
          seen,
          Array.from({ length: 4 }, (_, i) => String(6 + i).repeat(400)),
        )
      })

      test('D57: a message that is not a string, or is too long, is refused at once', async () => {
        const { visit } = await start()
        await visit((_, request) => {
          assert.throws(() => addFlash(request, 'info', 5 as never), { code: 'not_json' })
          assert.throws(() => addFlash(request, 'info', 'x'.repeat(2048)), { code: 'too_large' })
          addFlash(request, 'i', 'x'.repeat(2030))
        })
        assert.equal((await take(visit))[0]?.length, 2030)
      })
    })
  }
}

suite('flash messages', () => {
  test('of an anonymous visitor need a sealed cookie and no backend call, and no header shows them', async () => {
    const h = await setup()
    const visit = h.visitor()
    const response = await visit.raw(add('the secret word'))
    assert.deepEqual([...visit.browser.cookies.keys()], [PRE])
    assert.ok(!JSON.stringify([...response.headers]).includes('secret word'))
    assert.deepEqual(await take(visit), ['the secret word'])
    assert.equal(h.total(), 0)
  })

  test('can be added by a handler that does not read its session', async () => {
    const page = sessionManager({ backend: 'memory:' })(async (request) => {
      if (request.url.endsWith('/add')) {
        addFlash(request, 'info', 'one')
        return new Response()
      }
      return Response.json(await takeFlash(request))
    })
    const visit = browser(page)
    await visit('/add')
    assert.deepEqual(await (await visit('/')).json(), [{ category: 'info', text: 'one' }])
    assert.throws(() => addFlash(new Request('https://app.test/'), 'a', 'b'), { code: 'no_middleware' })
  })

  test('are stored under a name that no field can have and that a handler does not see', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('user', 'anna'))
    await visit(add('one'))
    assert.deepEqual(await visit((s) => [{ ...s.fields }, s.get('keepsake.flash')]), [{ user: 'anna' }, undefined])
    for (const act of [
      (s) => s.set('keepsake.flash', []),
      (s) => s.delete('keepsake.flash'),
      (s) => s.update('keepsake.flash', () => []),
    ] satisfies ((s: Session) => void)[]) {
      assert.equal(
        await visit((s) => {
          assert.throws(() => act(s), { code: 'invalid_option' })
          return 'refused'
        }),
        'refused',
      )
    }
    assert.deepEqual(await take(visit), ['one'])
  })

  test('that a request takes, and the fields that it then sets, are saved without a stale write', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('n', 1))
    await visit(add('one'))
    const before = { ...h.calls }
    await visit(async (s, request) => {
      s.update('n', (n: number) => n + 1)
      await takeFlash(request)
      s.update('n', (n: number) => n + 1)
    })
    assert.equal(h.calls.set - before.set, 2, 'one write takes the message and one saves the field; neither is stale')
    assert.equal(await visit((s) => s.get('n')), 3)
    assert.deepEqual(await take(visit), [])
  })

  test('remain if the backend fails while they are taken, and the request fails', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('n', 1))
    await visit(add('one'))
    h.fail('set', new Error('disk'))
    assert.equal(await visit(takeTexts), 503)
    assert.deepEqual(await take(visit), ['one'])
    await visit(add('two'))
    h.fail('set', new Error('disk'))
    await visit(async (s, request) => {
      await takeFlash(request).catch(() => {})
      s.set('n', 2)
    })
    assert.deepEqual(await take(visit), ['two'], 'a handler that continues after the error drops none')
  })

  test('reach the reader whose write succeeded although its answer was stale', async () => {
    const inner = memoryBackend()
    let concurrently: (() => Promise<unknown>) | undefined
    const backend: Backend = {
      ...inner,
      async set(key, change, version) {
        const answer = inner.set(key, change, version)
        const then = concurrently
        concurrently = undefined
        await then?.()
        return then === undefined ? answer : 'stale'
      },
    }
    const h = await setup({ backend })
    const visit = h.visitor()
    await visit((s) => s.set('n', 1))
    await visit(add('one'))
    const other = visit.otherProcess()
    concurrently = () => other((s) => s.set('m', 1))
    assert.deepEqual(await take(visit), ['one'])
    assert.deepEqual(await take(visit), [])
  })

  test('of an anonymous visitor may reach two parallel readers, because both send the same cookie', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(add('one'))
    const [one, two] = [visit.withSameCookies(), visit.withSameCookies()]
    assert.deepEqual([await take(one), await take(two)], [['one'], ['one']])
  })
})

for (const { name, opener, far } of stores) {
  test(`FL-1: of two parallel readers one gets a flash message, on ${name}, in every order`, async (t) => {
    const open = opener(t)
    const [one, two] = [await open(), await open()]
    const now = clock()
    let respondWith = async (_: Request): Promise<unknown> => undefined
    const page = (backend: Backend) =>
      sessionManager({ backend, storeTimeout: PATIENT, now, secret: SECRET })(async (request) =>
        Response.json((await respondWith(request)) ?? null),
      )
    const direct = page(one)
    let scheduler: fc.Scheduler
    const scheduled = (inner: Backend): Backend => {
      const through = () => scheduler.schedule(Promise.resolve())
      return {
        ...inner,
        get: (key) => through().then(() => inner.get(key)),
        set: (key, change, version) => through().then(() => inner.set(key, change, version)),
        touch: (key, expiresAt) => through().then(() => inner.touch(key, expiresAt)),
      }
    }
    const processes = [page(scheduled(one)), page(scheduled(two))]
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(fc.constantFrom('take', 'write', 'both'), { minLength: 2, maxLength: 3 }),
        async (s, acts) => {
          scheduler = s
          const first = browser(direct, { now })
          respondWith = async (request) => (await session(request)).set('n', 0)
          await first('/')
          respondWith = async (request) => addFlash(request, 'info', 'one')
          await first('/')
          respondWith = async (request) => {
            const act = new URL(request.url).pathname
            if (act !== '/take') (await session(request)).update('n', (n = 0) => n + 1)
            return act === '/write' ? 0 : (await takeFlash(request)).length
          }
          const tabs = acts.map(async (act, i) => {
            const response = await first.copy(processes[i % 2])(`/${act}`)
            assert.equal(response.status, 200)
            return response.json()
          })
          const counts: number[] = await s.waitFor(Promise.all(tabs))
          assert.equal(
            counts.reduce((sum, count) => sum + count, 0),
            acts.includes('take') || acts.includes('both') ? 1 : 0,
            'one reader gets it',
          )
          respondWith = async (request) => (await session(request)).get('n')
          const writes = acts.filter((act) => act !== 'take').length
          assert.equal(await (await first('/')).json(), writes, 'no write is lost')
          respondWith = async (request) => (await takeFlash(request)).length
          const left = counts.includes(1) ? 0 : 1
          assert.equal(await (await first('/')).json(), left, 'no later request gets it')
        },
      ),
      { numRuns: runs(far ? RUNS / 10 : RUNS) },
    )
  })
}
