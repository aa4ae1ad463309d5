// Flash messages: for the next page, once, in order, bounded, for strangers too, and back where no page was shown.

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
const taken: Act = async (_, request) => (await takeFlash(request)).map(({ text }) => text)
const take = (visit: Visitor) => visit(taken) as Promise<string[]>
const SECRET = newSecret()
const RUNS = 2000

const kinds: Record<string, () => Backend> = {
  'in a store': () => memoryBackend(),
  'in a cookie': () => cookieBackend({ secret: newSecret() }),
}

for (const [kind, backend] of Object.entries(kinds)) {
  for (const known of [true, false]) {
    suite(`a flash message, ${known ? `the session ${kind}` : `of a stranger, sessions ${kind}`}`, () => {
      const begun = async () => {
        const h = await setup({ backend: backend(), ...(kind === 'in a cookie' && { secret: newSecret() }) })
        const visit = h.visitor()
        if (known) await visit((s) => s.set('user', 'anna'))
        return { h, visit }
      }

      test('D55, D56: is for the next page, once, in the order in which they were added', async () => {
        const { visit } = await begun()
        await visit(add('one', 'two'))
        await visit(add('three'))
        assert.deepEqual(await take(visit), ['one', 'two', 'three'])
        assert.deepEqual(await take(visit), [])
      })

      test('D56: has a category and a text, of any characters', async () => {
        const { visit } = await begun()
        const messages = [
          { category: 'error', text: 'Zoë 🦊 \0 <b>"\' \n' },
          { category: '', text: '' },
        ]
        await visit((_, request) => {
          for (const { category, text } of messages) addFlash(request, category, text)
        })
        assert.deepEqual(await visit((_, request) => takeFlash(request)), messages)
      })

      test('D57: is not for the page that adds it, and one visit takes it once', async () => {
        const { visit } = await begun()
        await visit(add('old'))
        const seen = await visit(async (_, request) => {
          addFlash(request, 'info', 'new')
          const lists = await Promise.all([takeFlash(request), takeFlash(request)])
          return [...lists.flat().map(({ text }) => text), (await takeFlash(request)).length]
        })
        assert.deepEqual(seen, ['old', 0])
        assert.deepEqual(await take(visit), ['new'])
      })

      test('D56, FL-2: an icon, a page or a script that does not ask leaves it where it is', async () => {
        const { visit } = await begun()
        await visit(add('one'))
        await visit((s) => s.get('user'))
        await visit(() => {})
        await visit((s) => s.set('other', 1))
        assert.deepEqual(await take(visit), ['one'])
      })

      test('FL-2, HTTP-4: HEAD, prefetch and prerender get none and leave it', async () => {
        const { visit } = await begun()
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

      test('FL-2: a handler that throws gives it back, before what came since', async () => {
        const { visit } = await begun()
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

      test('FL-2: an answer of 304 gives it back, and saves what else the visit did', async () => {
        const { visit } = await begun()
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

      test('D55: comes along over a login and a logout in the same visit, wherever in it that was added', async () => {
        const { visit } = await begun()
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

      test('one that was not taken before a logout is not the next visitor’s', async () => {
        const { visit } = await begun()
        if (!known) await visit((s) => s.login('bert'))
        await visit(add('your balance is 5'))
        await visit((s) => s.invalidate())
        assert.deepEqual(await take(visit), [])
      })

      test('a first write carries it along', async () => {
        const { visit } = await begun()
        await visit(add('one'))
        await visit((s, request) => {
          s.set('first', 1)
          addFlash(request, 'info', 'two')
        })
        await visit((s) => s.set('second', 2))
        assert.deepEqual(await take(visit), ['one', 'two'])
      })

      test('D58, LIM-7: of ten thousand, the last twenty wait; the browser’s cookies stay small', async () => {
        const { visit } = await begun()
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

      test('D57: what is no text, or longer than may wait, is refused at once', async () => {
        const { visit } = await begun()
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
  test('cost a stranger a sealed cookie and no store call, and show in no header', async () => {
    const h = await setup()
    const visit = h.visitor()
    const response = await visit.raw(add('the secret word'))
    assert.deepEqual([...visit.browser.cookies.keys()], [PRE])
    assert.ok(!JSON.stringify([...response.headers]).includes('secret word'))
    assert.deepEqual(await take(visit), ['the secret word'])
    assert.equal(h.total(), 0)
  })

  test('a handler that never asks for its session may leave one', async () => {
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

  test('lie in a store under a name that no field can have, and that a handler does not see', async () => {
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

  test('a claim and what the visit then sets are both saved, on one version', async () => {
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
    assert.equal(h.calls.set - before.set, 2, 'a claim and a save, neither of them stale')
    assert.equal(await visit((s) => s.get('n')), 3)
    assert.deepEqual(await take(visit), [])
  })

  test('a store that fails while they are claimed fails the visit, and they are there afterwards', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('n', 1))
    await visit(add('one'))
    h.fail('set', new Error('disk'))
    assert.equal(await visit(taken), 503)
    assert.deepEqual(await take(visit), ['one'])
    await visit(add('two'))
    h.fail('set', new Error('disk'))
    await visit(async (s, request) => {
      await takeFlash(request).catch(() => {})
      s.set('n', 2)
    })
    assert.deepEqual(await take(visit), ['two'], 'a handler that goes on all the same drops none')
  })

  test('a claim that was done, not answered, and written over since is found out: its reader has them', async () => {
    const inner = memoryBackend()
    let meanwhile: (() => Promise<unknown>) | undefined
    const backend: Backend = {
      ...inner,
      async set(key, change, version) {
        const answer = inner.set(key, change, version)
        const then = meanwhile
        meanwhile = undefined
        await then?.()
        return then === undefined ? answer : 'stale'
      },
    }
    const h = await setup({ backend })
    const visit = h.visitor()
    await visit((s) => s.set('n', 1))
    await visit(add('one'))
    const other = visit.otherProcess()
    meanwhile = () => other((s) => s.set('m', 1))
    assert.deepEqual(await take(visit), ['one'])
    assert.deepEqual(await take(visit), [])
  })

  test('cookies of a browser hold two parallel readers apart in nothing: both may see them', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(add('one'))
    const [one, two] = [visit.withSameCookies(), visit.withSameCookies()]
    assert.deepEqual([await take(one), await take(two)], [['one'], ['one']])
  })
})

for (const { name, opener, far } of stores) {
  test(`FL-1: of two parallel readers of a flash one gets it, on ${name}, whatever the order`, async (t) => {
    const open = opener(t)
    const [one, two] = [await open(), await open()]
    const now = clock()
    let going = async (_: Request): Promise<unknown> => undefined
    const page = (backend: Backend) =>
      sessionManager({ backend, storeTimeout: PATIENT, now, secret: SECRET })(async (request) =>
        Response.json((await going(request)) ?? null),
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
          going = async (request) => (await session(request)).set('n', 0)
          await first('/')
          going = async (request) => addFlash(request, 'info', 'one')
          await first('/')
          going = async (request) => {
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
          going = async (request) => (await session(request)).get('n')
          const writes = acts.filter((act) => act !== 'take').length
          assert.equal(await (await first('/')).json(), writes, 'and no write is lost')
          going = async (request) => (await takeFlash(request)).length
          const left = counts.includes(1) ? 0 : 1
          assert.equal(await (await first('/')).json(), left, 'and nobody gets it later')
        },
      ),
      { numRuns: runs(far ? RUNS / 10 : RUNS) },
    )
  })
}
