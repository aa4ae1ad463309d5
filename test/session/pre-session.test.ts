// A stranger's forms: bound to a sealed cookie of its own, that costs no entry and is carried over the first write.

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
  test('a form costs a stranger one sealed cookie and no entry, and is the same at the next visit', async () => {
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
  test('a stranger who asks for no form is sent none', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.get('a'))
    assert.equal(visit.browser.cookies.size, 0)
  })
  test('the first write carries its form secret over, and clears its cookie', async () => {
    const h = await setup()
    const visit = h.visitor()
    const secret = await visit(form)
    await visit((s) => s.set('a', 1))
    assert.deepEqual([...visit.browser.cookies.keys()], [SESSION])
    assert.equal(await visit(form), secret)
    await visit((s) => s.rotateKey())
    assert.equal(await visit(form), secret)
  })
  test('a form and a first write in one visit belong together', async () => {
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
    const stranger = await visit(form)
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
    assert.equal(new Set([stranger, loggedIn, after]).size, 3)
  })
  test('a login of the same owner gives a new one too', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const before = await visit(form)
    await visit((s) => s.login('anna'))
    assert.notEqual(await visit(form), before)
  })
  test('beside a session it is ignored', async () => {
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
    const elsewhere = sessionManager({ backend: h.backend, now: h.now, cookie: { name: 'other' } })(async (request) => {
      other = formSecret(await workOf(request))
      return new Response()
    })
    await browser(elsewhere)('/', { headers: { cookie: `__Host-Http-other-pre=${token}` } })
    assert.notEqual(other, secret)
  })
  test('one that does not open is an event, and is replaced', async () => {
    const h = await setup()
    const response = await h.visitor().raw(form, { headers: { cookie: `${PRE}=rubbish` } })
    assert.equal(response.status, 200)
    assert.match(response.headers.getSetCookie()[0] ?? '', new RegExp(`^${PRE}=[A-Za-z0-9_-]{60,}; Max-Age=1209600; `))
    assert.deepEqual(h.types, ['invalid_pre_session'])
  })
  test('it lives two weeks from its last form in the second half, and then no more', async () => {
    const h = await setup()
    const visit = h.visitor()
    const thief = visit.withSameCookies()
    const secret = await visit(form)
    const replay = { headers: { cookie: `${PRE}=${visit.browser.cookies.get(PRE)}` } }
    h.now.tick(7 * DAY + 1)
    assert.equal(await visit(form), secret)
    h.now.tick(7 * DAY)
    assert.equal(await visit(form), secret)
    let old: unknown
    await thief.raw(async (s, request) => {
      old = await form(s, request)
    }, replay)
    assert.notEqual(old, secret)
  })
})

suite('the secret that seals it', () => {
  test('sqlite keeps one beside its data: another process opens what the first sealed, also once secrets are configured', async (t) => {
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
  test('a backend that keeps none needs one: the refused start names the command that makes it', async () => {
    const { keepSecret: _, ...backend } = await backendFromUrl('memory:')
    await assert.rejects(
      sessionManager({ backend }).ready(),
      /no secret of its own.*node -p "crypto\.randomBytes\(32\)\.toString\('base64url'\)"/s,
    )
  })
})
