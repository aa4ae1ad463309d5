// The seven laws, one promise a test, on an injected clock and a store that can be held.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type KeepsakeError, type Session, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { DAY, SECOND } from '../support/clock.ts'
import { setup } from '../support/visits.ts'

const NAME = '__Host-Http-sid'
const cookieOf = (response: Response) => response.headers.getSetCookie()
const add = (s: Session) => s.update('n', (n = 0) => n + 1)
const set =
  (field: string, value: unknown = true) =>
  (s: Session) =>
    s.set(field, value)
const get = (field: string) => (s: Session) => s.get(field)
const fields = (s: Session) => Object.keys(s.fields).sort()

suite('1. A request that never asks for its session costs nothing', () => {
  test('no store call, no header', async () => {
    const h = await setup()
    const visitor = h.visitor()
    await visitor(set('a'))
    const before = h.total()
    const untouched = sessionManager({ backend: h.backend })(() => new Response('static'))
    const response = await untouched(
      new Request('https://app.test/', { headers: { cookie: `${NAME}=${visitor.browser.cookies.get(NAME)}` } }),
    )
    assert.equal(h.total(), before)
    assert.deepEqual([...response.headers.keys()], ['content-type'])
  })
})

suite('2. A stranger costs nothing either', () => {
  test('reading: no store call, no cookie, and no header but Vary', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => void [s.get('a'), s.label, s.expiresAt, s.owner, s.fields])
    assert.equal(h.total(), 0)
    assert.deepEqual(cookieOf(response), [])
    assert.equal(response.headers.get('vary'), 'Cookie')
    assert.equal(response.headers.get('cache-control'), null)
  })
  test('set and dropped again, dropped, renewed or invalidated: nothing is stored and no cookie sent', async () => {
    const h = await setup()
    for (const act of [
      (s: Session) => {
        s.set('a', 1)
        s.delete('a')
      },
      (s: Session) => s.delete('a'),
      (s: Session) => s.rotateKey(),
      (s: Session) => s.invalidate(),
    ]) {
      assert.deepEqual(cookieOf(await h.visitor().raw((s) => void act(s))), [])
    }
    assert.equal(h.total(), 0)
  })
  test('the first write stores one entry and sends one cookie, with the most secure attributes', async () => {
    const h = await setup()
    const response = await h.visitor().raw(set('a'))
    const [cookie = '', ...more] = cookieOf(response)
    assert.match(
      cookie,
      /^__Host-Http-sid=[A-Za-z0-9_-]{43}; Max-Age=2592000; Path=\/; Secure; HttpOnly; SameSite=Lax$/,
    )
    assert.deepEqual(more, [])
    assert.equal(response.headers.get('cache-control'), 'no-store')
    assert.deepEqual(h.calls, { get: 0, generate: 1, set: 0, clear: 0, touch: 0 })
    assert.deepEqual(h.types, ['created'])
  })
  test('a key that nobody gave out is never adopted', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const planted = 'A'.repeat(43)
    const response = await visit.raw(set('b'), { headers: { cookie: `${NAME}=${planted}` } })
    assert.equal(response.status, 200)
    const stranger = h.visitor()
    const answer = await stranger.raw(set('b'), { headers: { cookie: `${NAME}=${planted}` } })
    const [cookie = ''] = cookieOf(answer)
    assert.ok(cookie.startsWith(NAME) && !cookie.includes(planted))
    assert.equal(await h.visitor()((_s) => 1), 1)
  })
  test('two first writes at once are two sessions', async () => {
    const h = await setup()
    const visit = h.visitor()
    const [one, two] = await Promise.all([visit.raw(set('a')), visit.raw(set('b'))])
    assert.notEqual(cookieOf(one)[0], cookieOf(two)[0])
  })
})

suite('3. Changes are a log, not a snapshot', () => {
  test('requests that change different fields all win, and increments all count', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('begun'))
    await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        visit(async (s) => {
          s.set(`field${i}`, i)
          add(s)
          await null
        }),
      ),
    )
    assert.equal(await visit(get('n')), 50)
    assert.equal(((await visit(fields)) as string[]).length, 52)
  })
  test('a drop survives another field that is set meanwhile, and the reverse', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => {
      s.set('a', 1)
      s.set('b', 1)
    })
    const held = h.hold('set')
    const late = visit.otherProcess()((s) => s.delete('a'))
    await held.arrived
    await visit(set('c'))
    held.go()
    await late
    assert.deepEqual(await visit(fields), ['b', 'c'])
  })
  test('an update that throws at replay saves nothing of its visit, and the error is the handler’s own', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('stock', 1))
    const held = h.hold('set')
    const late = visit.otherProcess()((s) => {
      s.set('ordered', true)
      s.update('stock', (stock) => {
        if (stock === 0) throw new RangeError('sold out')
        return stock - 1
      })
    })
    await held.arrived
    await visit(set('stock', 0))
    held.go()
    await assert.rejects(late, RangeError)
    assert.deepEqual(await visit((s) => s.fields), { stock: 0 })
  })
  test('a handler sees its own changes at once, and values that cannot be changed behind its back', async () => {
    const h = await setup()
    const visit = h.visitor()
    const cart = { items: ['tea'] }
    await visit((s) => {
      s.set('cart', cart)
      cart.items.push('not saved')
      assert.deepEqual(s.get('cart').items, ['tea'])
      assert.throws(() => s.get('cart').items.push('x'), TypeError)
    })
    await visit((s) => assert.throws(() => s.get('cart').items.push('x'), TypeError))
    assert.deepEqual(await visit((s) => s.get('cart').items), ['tea'])
  })
  test('values that JSON cannot keep are refused at once, with the path to them', async () => {
    const h = await setup()
    await h.visitor()((s) => {
      assert.throws(() => s.set('cart', { items: [{ price: 10n }] }), /cart\.items\[0\]\.price is a bigint/)
      assert.throws(() => s.update('n', async () => 1), /n is a Promise/)
      assert.deepEqual(fields(s), [])
    })
  })
  test('a merged session that is too large is not saved, and what was there stays', async () => {
    const h = await setup({ maxBytes: 100 })
    const visit = h.visitor()
    await visit(set('a', 'x'.repeat(40)))
    const held = h.hold('set')
    const late = visit.otherProcess()(set('b', 'y'.repeat(30)))
    await held.arrived
    await visit(set('c', 'z'.repeat(30)))
    held.go()
    assert.equal(await late, 500)
    assert.deepEqual(await visit(fields), ['a', 'c'])
  })
})

suite('4. What ended stays ended', () => {
  test('a slow request of a session that was invalidated saves nothing, sends no cookie, and is told', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('user', 'anna'))
    const other = visit.withSameCookies()
    const { promise: wait, resolve: go } = Promise.withResolvers<void>()
    const slow = other.raw(async (s) => {
      s.set('late', 1)
      await wait
    })
    await visit((s) => s.invalidate())
    go()
    const response = await slow
    assert.equal(response.status, 409)
    assert.deepEqual(cookieOf(response), [])
    assert.ok(h.types.includes('write_after_end'))
    assert.equal(await other(get('user')), undefined)
  })
  test('an unknown, expired or ended key is answered with no cookie at all', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const thief = visit.withSameCookies()
    const thieves = visit.withSameCookies()
    await visit((s) => s.invalidate())
    assert.deepEqual(cookieOf(await thief.raw(get('a'))), [])
    assert.deepEqual(
      cookieOf(await h.visitor().raw(get('a'), { headers: { cookie: `${NAME}=${'B'.repeat(42)}A` } })),
      [],
    )
    h.now.tick(15 * DAY)
    await thieves.raw(set('a'))
    h.now.tick(15 * DAY)
    assert.deepEqual(cookieOf(await thieves.raw(get('a'))), [])
    assert.deepEqual(h.types.slice(-5), ['ended_key', 'unknown_key', 'unknown_key', 'created', 'expired'])
  })
  test('only invalidate clears the cookie, with the attributes it was set with', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const response = await visit.raw((s) => s.invalidate())
    assert.deepEqual(cookieOf(response), [`${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax`])
    assert.equal(visit.browser.cookies.size, 0)
  })
  test('what is set after an invalidate belongs to a new session, with nothing of the old one', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('old'))
    const label = await visit((s) => s.label)
    await visit((s) => {
      s.set('before', 1)
      s.invalidate()
      s.set('new', 1)
    })
    assert.deepEqual(await visit(fields), ['new'])
    assert.notEqual(await visit((s) => s.label), label)
  })
  test('what a visit sets after its own login is saved, whatever became of the old session', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const other = visit.otherProcess()
    const held = h.hold('generate')
    const login = visit((s) => {
      s.login('anna', { keep: ['a'] })
      s.set('b', 1)
    })
    await held.arrived
    await other((s) => s.invalidate())
    held.go()
    await login
    assert.deepEqual(await visit(fields), ['a', 'b'])
    assert.equal(await visit((s) => s.owner), 'anna')
  })
  test('a login of the owner it already had ends with the session', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const other = visit.otherProcess()
    const held = h.hold('generate')
    const again = visit.raw((s) => {
      s.login('anna')
      s.set('b', 1)
    })
    await held.arrived
    await other((s) => s.invalidate())
    held.go()
    const response = await again
    assert.equal(response.status, 409)
    assert.deepEqual(cookieOf(response), [])
    assert.equal(await visit((s) => s.owner), undefined)
  })
  test('expiry is judged again at commit, and an entry found expired is left alone: this clock may be wrong', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const response = await visit.raw((s) => {
      s.set('b', 1)
      h.now.tick(14 * DAY)
    })
    assert.equal(response.status, 409)
    assert.equal(h.calls.set, 0)
    assert.equal(h.calls.clear, 0)
  })
  test('invalidate is carried out even when the handler throws', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    await assert.rejects(
      visit((s) => {
        s.invalidate()
        throw new Error('template is broken')
      }),
      /template/,
    )
    assert.equal(await visit(get('a')), undefined)
    assert.equal(h.types.at(-1), 'ended_key')
  })
})

suite('5. Saved before the first byte', () => {
  test('a handler that throws saves nothing and sends no cookie', async () => {
    const h = await setup()
    await assert.rejects(
      h.visitor()((s) => {
        s.set('a', 1)
        throw new Error('no')
      }),
    )
    assert.equal(h.total(), 0)
  })
  test('a commit that fails is an error response without a cookie', async () => {
    const h = await setup()
    h.fail('generate', new Error('disk full'))
    const response = await h.visitor().raw(set('a'))
    assert.equal(response.status, 503)
    assert.deepEqual(cookieOf(response), [])
    assert.ok(!(await response.text()).includes('disk'))
    const [event] = h.events as { type: string; error: KeepsakeError }[]
    assert.equal(event?.type, 'store_error')
    assert.equal(event?.error.code, 'unknown_outcome')
    assert.equal((event?.error.cause as Error | undefined)?.message, 'disk full')
  })
  test('a logout that fails is an error, the clearing cookie goes out, and the event has the label', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const label = await visit((s) => s.label)
    h.fail('clear', new Error('gone away'))
    const response = await visit.raw((s) => s.invalidate())
    assert.equal(response.status, 503)
    assert.match(cookieOf(response)[0] ?? '', /Max-Age=0/)
    const event = h.events.find((one) => (one as { type: string }).type === 'end_failed') as { label: string }
    assert.equal(event.label, label)
  })
  test('asking for a session, or changing it, after the response left is too late', async () => {
    const h = await setup()
    const kept: { s?: Session; request?: Request } = {}
    await h.visitor()((s, request) => {
      Object.assign(kept, { s, request })
    })
    assert.throws(() => kept.s?.set('a', 1), code('too_late'))
    assert.throws(() => kept.s?.invalidate(), code('too_late'))
    const manager = sessionManager({ backend: h.backend })
    let late: Request | undefined
    await manager((request) => {
      late = request
      return new Response()
    })(new Request('https://app.test/'))
    await assert.rejects(session(late as Request), code('too_late'))
  })
  test('a response whose headers cannot be changed is copied, with all it had', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => {
      s.set('a', 1)
      return Response.redirect('https://app.test/next', 303)
    })
    assert.equal(response.status, 303)
    assert.equal(response.headers.get('location'), 'https://app.test/next')
    assert.equal(cookieOf(response).length, 1)
  })
  test('cookies, Vary and Cache-Control of the application are kept beside ours', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => {
      s.set('a', 1)
      return new Response('', {
        headers: { vary: 'Accept', 'cache-control': 'private, max-age=60', 'set-cookie': 'own=1' },
      })
    })
    assert.equal(response.headers.get('vary'), 'Accept, Cookie')
    assert.equal(response.headers.get('cache-control'), 'private, max-age=60')
    assert.equal(cookieOf(response).length, 2)
    assert.equal(cookieOf(response)[0], 'own=1')
  })
  test('a public Cache-Control on a response that sets the cookie is overridden, with an event', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => {
      s.set('a', 1)
      return new Response('', { headers: { vary: '*', 'cache-control': 'public, s-maxage=600' } })
    })
    assert.equal(response.headers.get('cache-control'), 'private, no-store')
    assert.equal(response.headers.get('vary'), '*')
    assert.ok(h.types.includes('cache_overridden'))
  })
})

suite('6. Reads never write data', () => {
  test('a thousand reads: no set, one touch in half a lifetime, no cookie', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    for (let i = 0; i < 1000; i++) {
      h.now.tick((7 * DAY) / 1000)
      assert.deepEqual(cookieOf(await visit.raw(get('a'))), [])
    }
    assert.deepEqual({ set: h.calls.set, touch: h.calls.touch }, { set: 0, touch: 1 })
  })
  test('idle: alive a millisecond before two weeks are over, ended when they are', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    h.now.tick(14 * DAY - 1)
    assert.equal(await visit(get('a')), true)
    h.now.tick(14 * DAY)
    assert.equal(await visit(get('a')), undefined)
  })
  test('absolute: 30 days after its birth it has ended, however busy it was', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const cookie = `${NAME}=${visit.browser.cookies.get(NAME)}`
    for (let day = 0; day < 29; day++) {
      h.now.tick(DAY)
      await visit(add)
    }
    // By its cookie alone: a browser would have dropped it by itself.
    const kept = async () => {
      let value: unknown
      await h.visitor().raw(
        (s) => {
          value = s.get('a')
        },
        { headers: { cookie } },
      )
      return value
    }
    h.now.tick(DAY - 1)
    assert.equal(await kept(), true)
    h.now.tick(1)
    assert.equal(await kept(), undefined)
  })
  test('a login begins the absolute end anew, and its cookie runs to it', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    h.now.tick(10 * DAY)
    assert.match(cookieOf(await visit.raw((s) => s.login('anna')))[0] ?? '', /Max-Age=2592000;/)
    h.now.tick(10 * DAY)
    assert.match(cookieOf(await visit.raw((s) => s.rotateKey()))[0] ?? '', /Max-Age=1728000;/)
  })
  test('a touch that fails costs the visitor nothing, and is an event', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    h.now.tick(8 * DAY)
    h.fail('touch', new Error('read only'))
    assert.equal(await visit(get('a')), true)
    assert.ok(h.types.includes('store_error'))
  })
})

suite('7. What a visitor can cause is a value, what only an operator can fix is thrown', () => {
  test('a backend that fails at a read is a KeepsakeError for the handler, and 503 where it is not caught', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    h.fail('get', new Error('ECONNREFUSED'))
    const response = await visit.raw(get('a'))
    assert.equal(response.status, 503)
    assert.equal(await visit(get('a')), true)
  })
  test('a handler may catch it and answer itself', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    h.fail('get', new Error('ECONNREFUSED'))
    const page = sessionManager({ backend: h.backend, now: h.now })(async (request) => {
      const s = await session(request)
      try {
        return new Response(s.get('a'))
      } catch (error) {
        return new Response((error as KeepsakeError).code)
      }
    })
    const tab = browser(page)
    const response = await tab('/', { headers: { cookie: `${NAME}=${visit.browser.cookies.get(NAME)}` } })
    assert.equal(await response.text(), 'unavailable')
  })
  test('a backend that never answers is a KeepsakeError within the budget, all calls of a visit together', async () => {
    const h = await setup({ storeTimeout: 0.1 })
    const visit = h.visitor()
    await visit(set('a'))
    for (const call of ['get', 'set'] as const) {
      h.hold(call)
      // Were it not given up, this would never end.
      assert.equal(await visit(set('b')), 503)
    }
    assert.equal(await visit(get('a')), true)
  })
})

suite('the order of writes', () => {
  test('renew: same label and fields, a new key; the old key opens until 30 seconds after the new one was used', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const old = visit.withSameCookies()
    const label = await visit((s) => s.label)
    await visit((s) => s.rotateKey())
    assert.notEqual(visit.browser.cookies.get(NAME), old.browser.cookies.get(NAME))
    h.now.tick(DAY)
    const fresh = visit.withSameCookies()
    assert.equal(await fresh((s) => s.label), label)
    h.now.tick(30 * SECOND - 1)
    assert.equal(await old((s) => s.label), label)
    h.now.tick(1)
    assert.notEqual(await old((s) => s.label), label)
    assert.ok(h.types.includes('retired_key'))
    assert.equal(await visit(get('a')), true)
  })
  test('renew: a lost response logs nobody out, and the same new key is offered again', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const lost = visit.withSameCookies()
    await lost((s) => s.rotateKey())
    const key = lost.browser.cookies.get(NAME)
    h.now.tick(DAY)
    assert.equal(await visit(get('a')), true)
    assert.equal(visit.browser.cookies.get(NAME), key)
  })
  test('renew: twenty requests in flight keep their fields, and all go over to one key', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const tabs = Array.from({ length: 20 }, () => visit.withSameCookies())
    const { promise: wait, resolve: go } = Promise.withResolvers<void>()
    const flights = tabs.map((tab, i) =>
      tab(async (s) => {
        s.set(`field${i}`, i)
        await wait
      }),
    )
    await visit((s) => s.rotateKey())
    go()
    await Promise.all(flights)
    assert.equal(((await visit(fields)) as string[]).length, 21)
    await Promise.all(tabs.map((tab) => tab(get('a'))))
    assert.equal(new Set(tabs.map((tab) => tab.browser.cookies.get(NAME))).size, 1)
  })
  test('renew: at most one in a grace; a second one joins the first', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    await visit((s) => s.rotateKey())
    const key = visit.browser.cookies.get(NAME)
    await visit((s) => s.rotateKey())
    assert.equal(visit.browser.cookies.get(NAME), key)
    h.now.tick(30 * SECOND)
    await visit((s) => s.rotateKey())
    assert.notEqual(visit.browser.cookies.get(NAME), key)
    assert.equal(h.types.filter((type) => type === 'renewed').length, 2)
  })
  test('login: new key and label, only what keep names; the old key is dead at once', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => {
      s.set('cart', 1)
      s.set('planted', 1)
    })
    const planter = visit.withSameCookies()
    const label = await visit((s) => s.label)
    await visit((s) => {
      s.login('anna', { keep: ['cart'] })
      s.set('seen', 1)
    })
    assert.deepEqual(await visit(fields), ['cart', 'seen'])
    assert.equal(await visit((s) => s.owner), 'anna')
    assert.notEqual(await visit((s) => s.label), label)
    assert.deepEqual(await planter(fields), [])
  })
  test('login: of the same owner keeps all fields; of another, none but those named', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => {
      s.login('anna')
      s.set('a', 1)
    })
    await visit((s) => s.login('anna'))
    assert.deepEqual(await visit(fields), ['a'])
    await visit((s) => s.login('bert'))
    assert.deepEqual(await visit(fields), [])
    assert.equal(await visit((s) => s.owner), 'bert')
  })
  test('login: what others saved until the old key died comes along', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('n', 0))
    const tab = visit.otherProcess()
    const held = h.hold('clear')
    const login = visit((s) => {
      s.login('anna', { keep: ['n'] })
    })
    await held.arrived
    await tab(add)
    held.go()
    await login
    assert.equal(await visit(get('n')), 1)
    assert.equal(await tab(get('n')), undefined)
  })
  test('login: a request in flight with the old key is told that it was not saved', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('a'))
    const tab = visit.otherProcess()
    const held = h.hold('set')
    const late = tab.raw(set('late'))
    await held.arrived
    await visit((s) => s.login('anna', { keep: ['a', 'late'] }))
    held.go()
    assert.equal((await late).status, 409)
    assert.deepEqual(await visit(fields), ['a'])
  })
  test('login: an owner has to be a name', async () => {
    const h = await setup()
    await h.visitor()((s) => {
      for (const owner of ['', 'x'.repeat(256), '\ud800', 'a\0b', 1 as unknown as string]) {
        assert.throws(() => s.login(owner), code('invalid_owner'))
      }
    })
    assert.equal(h.total(), 0)
  })
  test('a write whose answer was lost is not told as saved, and counts once', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('n', 0))
    h.fail('set', new Error('ECONNRESET'), 'after')
    assert.equal(await visit(add), 503)
    assert.equal(await visit(get('n')), 1)
  })
  test('a fresh key that is taken is not used; three in a row are a KeepsakeError', async () => {
    const h = await setup()
    let taken = 1
    const { generate } = h.backend
    const crowded = {
      ...h.backend,
      generate: (...args: Parameters<typeof generate>) => (taken-- > 0 ? 'taken' : generate(...args)),
    } as const
    const other = await setup({ backend: crowded })
    const visit = other.visitor()
    assert.equal(await visit(set('a')), undefined)
    assert.equal(await visit(get('a')), true)
    taken = 3
    assert.equal(await other.visitor()(set('a')), 500)
  })
})
