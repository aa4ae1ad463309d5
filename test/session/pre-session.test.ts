// Forms of anonymous visitors: bound to a sealed cookie that needs no entry, and still valid after the first write.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { backendFromUrl, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { workOf } from '../../src/request.ts'
import { formSecret } from '../../src/session/form-secret.ts'
import { DAY } from '../support/clock.ts'
import { setup } from '../support/visits.ts'

const SESSION = '__Host-Http-sid'
const PRE = '__Host-Http-sid-pre'
const form = async (_: unknown, request: Request) => formSecret(await workOf(request))

suite('a pre-session', () => {
  test('a form costs an anonymous visitor one sealed cookie and no entry, and its secret is the same in the next request', async () => {
    const h = await setup()
    const visit = h.visitor()
    const secret = await visit(form)
    assert.deepEqual([...visit.browser.cookies.keys()], [PRE])
    assert.equal(h.total(), 0)
    assert.ok(!visit.browser.cookies.get(PRE)?.includes(String(secret)))
    const again = await visit.raw(form)
    assert.deepEqual(again.headers.getSetCookie(), [])
    assert.equal(await visit(form), secret)
    assert.notEqual(await h.visitor()(form), secret)
  })
  test('an anonymous visitor without a form gets no cookie', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.get('a'))
    assert.equal(visit.browser.cookies.size, 0)
  })
  test('the first write moves its form secret into the session, and deletes its cookie', async () => {
    const h = await setup()
    const visit = h.visitor()
    const secret = await visit(form)
    await visit((s) => s.set('a', 1))
    assert.deepEqual([...visit.browser.cookies.keys()], [SESSION])
    assert.equal(await visit(form), secret)
    await visit((s) => s.rotateKey())
    assert.equal(await visit(form), secret)
  })
  test('a form and a first write in one request have the same form secret', async () => {
    const h = await setup()
    const visit = h.visitor()
    const secret = await visit((s, request) => {
      s.set('a', 1)
      return form(s, request)
    })
    assert.deepEqual([...visit.browser.cookies.keys()], [SESSION])
    assert.equal(await visit(form), secret)
  })
  test('login and invalidate give a new form secret', async () => {
    const h = await setup()
    const visit = h.visitor()
    const anonymous = await visit(form)
    const during = await visit((s, request) => {
      s.login('anna')
      return form(s, request)
    })
    assert.deepEqual([...visit.browser.cookies.keys()], [SESSION])
    const loggedIn = await visit(form)
    assert.equal(loggedIn, during)
    const after = await visit((s, request) => {
      s.invalidate()
      return form(s, request)
    })
    assert.deepEqual([...visit.browser.cookies.keys()], [PRE])
    assert.equal(await visit(form), after)
    assert.equal(new Set([anonymous, loggedIn, after]).size, 3)
  })
  test('a login of the same owner gives a new form secret too', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const before = await visit(form)
    await visit((s) => s.login('anna'))
    assert.notEqual(await visit(form), before)
  })
  test('it is ignored if there is a session', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    const secret = await visit(form)
    const planted = h.visitor()
    await planted(form)
    const token = planted.browser.cookies.get(PRE)
    const key = visit.browser.cookies.get(SESSION)
    let seen: unknown
    const response = await h.visitor().raw(
      async (s, request) => {
        seen = await form(s, request)
      },
      { headers: { cookie: `${PRE}=${token}; ${SESSION}=${key}` } },
    )
    assert.equal(seen, secret)
    assert.deepEqual(response.headers.getSetCookie(), [])
  })
  test('PRE-2: it never opens as a session, nor under the name of another cookie', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit(form)
    const token = visit.browser.cookies.get(PRE)
    const calls = h.total()
    await h.visitor().raw((s) => s.get('a'), { headers: { cookie: `${SESSION}=${token}` } })
    assert.equal(h.total(), calls)
    const secret = await visit(form)
    let other: unknown
    const otherManager = sessionManager({ backend: h.backend, now: h.now, cookie: { name: 'other' } })(
      async (request) => {
        other = formSecret(await workOf(request))
        return new Response()
      },
    )
    await browser(otherManager)('/', { headers: { cookie: `__Host-Http-other-pre=${token}` } })
    assert.notEqual(other, secret)
  })
  test('a cookie that does not open causes an event, and is replaced', async () => {
    const h = await setup()
    const response = await h.visitor().raw(form, { headers: { cookie: `${PRE}=rubbish` } })
    assert.equal(response.status, 200)
    assert.match(response.headers.getSetCookie()[0] ?? '', new RegExp(`^${PRE}=[A-Za-z0-9_-]{60,}; Max-Age=1209600; `))
    assert.deepEqual(h.types, ['invalid_pre_session'])
  })
  test('it expires after two weeks, and a form in the second week renews it', async () => {
    const h = await setup()
    const visit = h.visitor()
    const copied = visit.withSameCookies()
    const secret = await visit(form)
    const replay = { headers: { cookie: `${PRE}=${visit.browser.cookies.get(PRE)}` } }
    h.now.tick(7 * DAY + 1)
    assert.equal(await visit(form), secret)
    h.now.tick(7 * DAY)
    assert.equal(await visit(form), secret)
    let old: unknown
    await copied.raw(async (s, request) => {
      old = await form(s, request)
    }, replay)
    assert.notEqual(old, secret)
  })
})

suite('the secret that seals it', () => {
  test('sqlite keeps a secret beside its data: another process opens the cookies of the first, also after secrets are configured', async (t) => {
    const backend = await backendFromUrl('sqlite::memory:')
    t.after(() => backend.close?.())
    const page = (secret?: string) =>
      sessionManager({ backend, ...(secret && { secret }) })(
        async (request) => new Response(formSecret(await workOf(request))),
      )
    const visit = browser(page())
    const first = await (await visit('/')).text()
    assert.equal(await (await visit.copy(page())('/')).text(), first)
    const configured = 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE'
    assert.equal(await (await visit.copy(page(configured))('/')).text(), first)
  })
  test('a backend that keeps no secret needs one: the error at the start names the command that makes it', async () => {
    const { keepSecret: _, ...backend } = await backendFromUrl('memory:')
    await assert.rejects(
      sessionManager({ backend }).ready(),
      /no secret of its own.*node -p "crypto\.randomBytes\(32\)\.toString\('base64url'\)"/s,
    )
  })
})
