// The seven laws, one test for each promise, with an injected clock and a backend whose calls can be paused.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type KeepsakeError, type Session, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { add, cookiesOf, fields, get, set, writeDuring } from '../support/acts.ts'
import { code } from '../support/assert.ts'
import { DAY, SECOND } from '../support/clock.ts'
import { NAME } from '../support/requests.ts'
import { setup, setupSession } from '../support/visits.ts'

suite('1. A request that never asks for its session costs nothing', () => {
  test('it makes no backend call and adds no header', async () => {
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

suite('2. An anonymous visitor costs nothing either', () => {
  test('a read makes no backend call, sets no cookie, and adds no header but Vary', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => void [s.get('a'), s.label, s.expiresAt, s.owner, s.fields])
    assert.equal(h.total(), 0)
    assert.deepEqual(cookiesOf(response), [])
    assert.equal(response.headers.get('vary'), 'Cookie')
    assert.equal(response.headers.get('cache-control'), null)
  })
  test('a field that is set and deleted, a delete, a rotation and an invalidate store nothing and set no cookie', async () => {
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
      assert.deepEqual(cookiesOf(await h.visitor().raw((s) => void act(s))), [])
    }
    assert.equal(h.total(), 0)
  })
  test('the first write stores one entry and sends one cookie, with the most secure attributes', async () => {
    const h = await setup()
    const response = await h.visitor().raw(set('a'))
    const [cookie = '', ...more] = cookiesOf(response)
    assert.match(
      cookie,
      /^__Host-Http-sid=[A-Za-z0-9_-]{43}; Max-Age=2592000; Path=\/; Secure; HttpOnly; SameSite=Lax$/,
    )
    assert.deepEqual(more, [])
    assert.equal(response.headers.get('cache-control'), 'no-store')
    assert.deepEqual(h.calls, { get: 0, generate: 1, set: 0, clear: 0, touch: 0 })
    assert.deepEqual(h.types, ['created'])
  })
  test('a key that keepsake did not issue is never adopted', async () => {
    const { h, visit } = await setupSession()
    const planted = 'A'.repeat(43)
    const response = await visit.raw(set('b'), { headers: { cookie: `${NAME}=${planted}` } })
    assert.equal(response.status, 200)
    const anonymous = h.visitor()
    const answer = await anonymous.raw(set('b'), { headers: { cookie: `${NAME}=${planted}` } })
    const [cookie = ''] = cookiesOf(answer)
    assert.ok(cookie.startsWith(NAME) && !cookie.includes(planted))
    assert.equal(await h.visitor()((_s) => 1), 1)
  })
  test('two concurrent first writes create two sessions', async () => {
    const h = await setup()
    const visit = h.visitor()
    const [one, two] = await Promise.all([visit.raw(set('a')), visit.raw(set('b'))])
    assert.notEqual(cookiesOf(one)[0], cookiesOf(two)[0])
  })
})

suite('3. Changes are a log, not a snapshot', () => {
  test('concurrent changes of different fields are all saved, and all increments count', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('first'))
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
  test('a deleted field stays deleted while another request sets another field, and the reverse', async () => {
    const { h, visit } = await setupSession({}, (s) => {
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
  test('if an update throws in a replay, its request saves nothing, and the error is the handler’s own', async () => {
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
  test('a handler reads its own changes at once, and the values that it reads are frozen', async () => {
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
  test('a value that JSON cannot keep is refused at once, with its path', async () => {
    const h = await setup()
    await h.visitor()((s) => {
      assert.throws(() => s.set('cart', { items: [{ price: 10n }] }), /cart\.items\[0\]\.price is a bigint/)
      assert.throws(() => s.update('n', async () => 1), /n is a Promise/)
      assert.deepEqual(fields(s), [])
    })
  })
  test('a merged session that is too large is not saved, and the stored session stays unchanged', async () => {
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

suite('4. An ended session stays ended', () => {
  test('a slow request of an invalidated session saves nothing, gets no cookie, and is answered with 409', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('user', 'anna'))
    const other = visit.withSameCookies()
    const response = await writeDuring(other, () => visit((s) => s.invalidate()))
    assert.equal(response.status, 409)
    assert.deepEqual(cookiesOf(response), [])
    assert.ok(h.types.includes('write_after_end'))
    assert.equal(await other(get('user')), undefined)
  })
  test('the answer to an unknown, expired or ended key sets no cookie', async () => {
    const { h, visit } = await setupSession()
    const copy = visit.withSameCookies()
    const otherCopy = visit.withSameCookies()
    await visit((s) => s.invalidate())
    assert.deepEqual(cookiesOf(await copy.raw(get('a'))), [])
    assert.deepEqual(
      cookiesOf(await h.visitor().raw(get('a'), { headers: { cookie: `${NAME}=${'B'.repeat(42)}A` } })),
      [],
    )
    h.now.tick(15 * DAY)
    await otherCopy.raw(set('a'))
    h.now.tick(15 * DAY)
    assert.deepEqual(cookiesOf(await otherCopy.raw(get('a'))), [])
    assert.deepEqual(h.types.slice(-5), ['ended_key', 'unknown_key', 'unknown_key', 'created', 'expired'])
  })
  test('only invalidate clears the cookie, with the attributes it was set with', async () => {
    const { visit } = await setupSession()
    const response = await visit.raw((s) => s.invalidate())
    assert.deepEqual(cookiesOf(response), [`${NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax`])
    assert.equal(visit.browser.cookies.size, 0)
  })
  test('a field that is set after an invalidate belongs to a new session, without the fields of the old one', async () => {
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
  test('changes after a login are saved, even if the old session ended concurrently', async () => {
    const { h, visit } = await setupSession()
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
  test('a login as the present owner is refused if the session ended concurrently', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const other = visit.otherProcess()
    const held = h.hold('generate')
    const login = visit.raw((s) => {
      s.login('anna')
      s.set('b', 1)
    })
    await held.arrived
    await other((s) => s.invalidate())
    held.go()
    const response = await login
    assert.equal(response.status, 409)
    assert.deepEqual(cookiesOf(response), [])
    assert.equal(await visit((s) => s.owner), undefined)
  })
  test('expiry is checked again at commit, and an expired entry is not removed, because this clock may be wrong', async () => {
    const { h, visit } = await setupSession()
    const response = await visit.raw((s) => {
      s.set('b', 1)
      h.now.tick(14 * DAY)
    })
    assert.equal(response.status, 409)
    assert.equal(h.calls.set, 0)
    assert.equal(h.calls.clear, 0)
  })
  test('invalidate ends the session even if the handler throws', async () => {
    const { h, visit } = await setupSession()
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

suite('5. Changes are saved before the first byte of the response', () => {
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
  test('a failed commit gives an error response without a cookie', async () => {
    const h = await setup()
    h.fail('generate', new Error('disk full'))
    const response = await h.visitor().raw(set('a'))
    assert.equal(response.status, 503)
    assert.deepEqual(cookiesOf(response), [])
    assert.ok(!(await response.text()).includes('disk'))
    const [event] = h.events as { type: string; error: KeepsakeError }[]
    assert.equal(event?.type, 'store_error')
    assert.equal(event?.error.code, 'unknown_outcome')
    assert.equal((event?.error.cause as Error | undefined)?.message, 'disk full')
  })
  test('a failed logout gives an error response that clears the cookie, and an event with the label', async () => {
    const { h, visit } = await setupSession()
    const label = await visit((s) => s.label)
    h.fail('clear', new Error('gone away'))
    const response = await visit.raw((s) => s.invalidate())
    assert.equal(response.status, 503)
    assert.match(cookiesOf(response)[0] ?? '', /Max-Age=0/)
    const event = h.events.find((one) => (one as { type: string }).type === 'end_failed') as { label: string }
    assert.equal(event.label, label)
  })
  test('reading or changing a session after the response has left is too late', async () => {
    const h = await setup()
    const leaked: { s?: Session; request?: Request } = {}
    await h.visitor()((s, request) => {
      Object.assign(leaked, { s, request })
    })
    assert.throws(() => leaked.s?.set('a', 1), code('too_late'))
    assert.throws(() => leaked.s?.invalidate(), code('too_late'))
    const manager = sessionManager({ backend: h.backend })
    let late: Request | undefined
    await manager((request) => {
      late = request
      return new Response()
    })(new Request('https://app.test/'))
    await assert.rejects(session(late as Request), code('too_late'))
  })
  test('a response with immutable headers is copied completely', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => {
      s.set('a', 1)
      return Response.redirect('https://app.test/next', 303)
    })
    assert.equal(response.status, 303)
    assert.equal(response.headers.get('location'), 'https://app.test/next')
    assert.equal(cookiesOf(response).length, 1)
  })
  test('cookies, Vary and Cache-Control of the application are kept', async () => {
    const h = await setup()
    const response = await h.visitor().raw((s) => {
      s.set('a', 1)
      return new Response('', {
        headers: { vary: 'Accept', 'cache-control': 'private, max-age=60', 'set-cookie': 'own=1' },
      })
    })
    assert.equal(response.headers.get('vary'), 'Accept, Cookie')
    assert.equal(response.headers.get('cache-control'), 'private, max-age=60')
    assert.equal(cookiesOf(response).length, 2)
    assert.equal(cookiesOf(response)[0], 'own=1')
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
  test('a thousand reads make no set, one touch in half an idle timeout, and no cookie', async () => {
    const { h, visit } = await setupSession()
    for (let i = 0; i < 1000; i++) {
      h.now.tick((7 * DAY) / 1000)
      assert.deepEqual(cookiesOf(await visit.raw(get('a'))), [])
    }
    assert.deepEqual({ set: h.calls.set, touch: h.calls.touch }, { set: 0, touch: 1 })
  })
  test('an idle session lives until the last millisecond of two weeks', async () => {
    const { h, visit } = await setupSession()
    h.now.tick(14 * DAY - 1)
    assert.equal(await visit(get('a')), true)
    h.now.tick(14 * DAY)
    assert.equal(await visit(get('a')), undefined)
  })
  test('a session ends 30 days after its creation, even if it is in use', async () => {
    const { h, visit } = await setupSession()
    const cookie = `${NAME}=${visit.browser.cookies.get(NAME)}`
    for (let day = 0; day < 29; day++) {
      h.now.tick(DAY)
      await visit(add)
    }
    // The cookie is sent without a browser, because a browser would have deleted it.
    const fieldNow = async () => {
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
    assert.equal(await fieldNow(), true)
    h.now.tick(1)
    assert.equal(await fieldNow(), undefined)
  })
  test('a login starts the absolute timeout again, and its cookie expires with it', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    h.now.tick(10 * DAY)
    assert.match(cookiesOf(await visit.raw((s) => s.login('anna')))[0] ?? '', /Max-Age=2592000;/)
    h.now.tick(10 * DAY)
    assert.match(cookiesOf(await visit.raw((s) => s.rotateKey()))[0] ?? '', /Max-Age=1728000;/)
  })
  test('a failed touch is an event, and the request succeeds', async () => {
    const { h, visit } = await setupSession()
    h.now.tick(8 * DAY)
    h.fail('touch', new Error('read only'))
    assert.equal(await visit(get('a')), true)
    assert.ok(h.types.includes('store_error'))
  })
})

suite('7. Mistakes of a visitor are values; faults that only an operator can fix are thrown', () => {
  test('a failed read is a KeepsakeError for the handler, and 503 if the handler does not catch it', async () => {
    const { h, visit } = await setupSession()
    h.fail('get', new Error('ECONNREFUSED'))
    const response = await visit.raw(get('a'))
    assert.equal(response.status, 503)
    assert.equal(await visit(get('a')), true)
  })
  test('a handler may catch that error and return its own response', async () => {
    const { h, visit } = await setupSession()
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
  test('a backend that never answers is a KeepsakeError within storeTimeout, for all calls of a request together', async () => {
    const { h, visit } = await setupSession({ storeTimeout: 0.1 })
    for (const call of ['get', 'set'] as const) {
      h.hold(call)
      // Without the time limit, this request would never end.
      assert.equal(await visit(set('b')), 503)
    }
    assert.equal(await visit(get('a')), true)
  })
})

suite('the order of writes', () => {
  test('rotateKey: label and fields stay, the key is new; the old key opens until 30 seconds after the first use of the new one', async () => {
    const { h, visit } = await setupSession()
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
  test('rotateKey: a lost response logs nobody out, and the same new key is offered again', async () => {
    const { h, visit } = await setupSession()
    const lost = visit.withSameCookies()
    await lost((s) => s.rotateKey())
    const key = lost.browser.cookies.get(NAME)
    h.now.tick(DAY)
    assert.equal(await visit(get('a')), true)
    assert.equal(visit.browser.cookies.get(NAME), key)
  })
  test('rotateKey: twenty requests in progress keep their fields and get one key', async () => {
    const { visit } = await setupSession()
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
  test('rotateKey: a second rotation within the grace period joins the first', async () => {
    const { h, visit } = await setupSession()
    await visit((s) => s.rotateKey())
    const key = visit.browser.cookies.get(NAME)
    await visit((s) => s.rotateKey())
    assert.equal(visit.browser.cookies.get(NAME), key)
    h.now.tick(30 * SECOND)
    await visit((s) => s.rotateKey())
    assert.notEqual(visit.browser.cookies.get(NAME), key)
    assert.equal(h.types.filter((type) => type === 'renewed').length, 2)
  })
  test('login: key and label are new, only the fields in keep stay, and the old key ends at once', async () => {
    const { visit } = await setupSession({}, (s) => {
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
  test('login: the same owner keeps all fields; another owner keeps only the named fields', async () => {
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
  test('login: changes that other requests save before the old key ends are kept', async () => {
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
  test('login: a request in progress with the old key is answered with 409', async () => {
    const { h, visit } = await setupSession()
    const tab = visit.otherProcess()
    const held = h.hold('set')
    const late = tab.raw(set('late'))
    await held.arrived
    await visit((s) => s.login('anna', { keep: ['a', 'late'] }))
    held.go()
    assert.equal((await late).status, 409)
    assert.deepEqual(await visit(fields), ['a'])
  })
  test('login: an owner must be a valid name', async () => {
    const h = await setup()
    await h.visitor()((s) => {
      for (const owner of ['', 'x'.repeat(256), '\ud800', 'a\0b', 1 as unknown as string]) {
        assert.throws(() => s.login(owner), code('invalid_owner'))
      }
    })
    assert.equal(h.total(), 0)
  })
  test('a write whose answer was lost is reported as failed, and counts once', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(set('n', 0))
    h.fail('set', new Error('ECONNRESET'), 'after')
    assert.equal(await visit(add), 503)
    assert.equal(await visit(get('n')), 1)
  })
  test('a new key that is taken is not used; three in a row are a KeepsakeError', async () => {
    const h = await setup()
    let taken = 1
    const { generate } = h.backend
    const takenFirst = {
      ...h.backend,
      generate: (...args: Parameters<typeof generate>) => (taken-- > 0 ? 'taken' : generate(...args)),
    } as const
    const other = await setup({ backend: takenFirst })
    const visit = other.visitor()
    assert.equal(await visit(set('a')), undefined)
    assert.equal(await visit(get('a')), true)
    taken = 3
    assert.equal(await other.visitor()(set('a')), 500)
  })
})
