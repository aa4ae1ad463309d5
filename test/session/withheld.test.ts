// If the browser withholds the session cookie because of the origin of a request, the session is not replaced.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { suite, type TestContext, test } from 'node:test'
import { addFlash, type SessionManagerOptions, seal, session, sessionManager, unseal } from 'keepsake'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { opened } from '../support/chromium.ts'

const CROSS = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }
const acts: Record<string, (request: Request) => Promise<unknown>> = {
  '/write': async (request) => (await session(request)).set('paid', true),
  '/login': async (request) => (await session(request)).login('anna'),
  '/logout': async (request) => (await session(request)).invalidate(),
  '/flash': async (request) => addFlash(request, 'info', 'Paid.'),
  '/read': async (request) => (await session(request)).fields,
}

const application = (options: Partial<SessionManagerOptions> = {}) => {
  const types: string[] = []
  const manager = sessionManager({ backend: 'memory:', onEvent: ({ type }) => types.push(type), ...options })
  const page = manager(async (request) => {
    const { pathname } = new URL(request.url)
    await acts[`/${pathname.split('/').at(-1)}`]?.(request)
    const s = await session(request)
    return Response.json({ owner: s.owner ?? null, withheld: s.withheld ?? null })
  })
  return { page, types }
}

/** Requests of browsers, and whether they carry a Lax or a Strict cookie (RFC 6265bis §5.8.3). */
const requests: readonly {
  name: string
  method: string
  headers: Record<string, string>
  lax: boolean
  strict: boolean
}[] = [
  { name: 'a form of a page of another site', method: 'POST', headers: CROSS, lax: false, strict: false },
  { name: 'a link on a page of another site', method: 'GET', headers: CROSS, lax: true, strict: false },
  {
    name: 'a frame on a page of another site',
    method: 'GET',
    headers: { ...CROSS, 'sec-fetch-dest': 'iframe' },
    lax: false,
    strict: false,
  },
  {
    name: 'a script of another site',
    method: 'GET',
    headers: { ...CROSS, 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty' },
    lax: false,
    strict: false,
  },
  {
    name: 'a picture on a page of another site',
    method: 'GET',
    headers: { ...CROSS, 'sec-fetch-mode': 'no-cors', 'sec-fetch-dest': 'image' },
    lax: false,
    strict: false,
  },
  {
    name: 'a form of a sibling host',
    method: 'POST',
    headers: { ...CROSS, 'sec-fetch-site': 'same-site' },
    lax: true,
    strict: true,
  },
  {
    name: 'a form of the same origin',
    method: 'POST',
    headers: { ...CROSS, 'sec-fetch-site': 'same-origin' },
    lax: true,
    strict: true,
  },
  {
    name: 'an address that was typed',
    method: 'GET',
    headers: { ...CROSS, 'sec-fetch-site': 'none' },
    lax: true,
    strict: true,
  },
  { name: 'a program', method: 'POST', headers: {}, lax: true, strict: true },
  {
    name: 'a form of another site, from a browser that sends only Origin',
    method: 'POST',
    headers: { origin: 'https://bank.example' },
    lax: false,
    strict: false,
  },
  {
    name: 'a form of a sibling host, from a browser that sends only Origin',
    method: 'POST',
    headers: { origin: 'https://pay.app.test' },
    lax: true,
    strict: true,
  },
  {
    name: 'a page that hides its origin, from a browser that sends only Origin',
    method: 'POST',
    headers: { origin: 'null' },
    lax: true,
    strict: true,
  },
]

for (const sameSite of ['lax', 'strict', 'none'] as const) {
  suite(`SameSite=${sameSite}`, () => {
    for (const { name, method, headers, ...carries } of requests) {
      const hasCookies = sameSite === 'none' || carries[sameSite]
      test(`${name}: a browser that sent no cookie ${hasCookies ? 'has none' : 'may have one'}`, async () => {
        const { page, types } = application({ cookie: { sameSite } })
        const visit = browser(page)
        const read = await visit('/read', { method, headers })
        assert.equal((await read.json()).withheld, hasCookies ? null : 'cross_site')
        for (const path of ['/write', '/login', '/flash']) {
          const response = await browser(page)(path, { method, headers })
          assert.equal(response.status, hasCookies ? 200 : 409, path)
          assert.equal(response.headers.getSetCookie().length, hasCookies ? 1 : 0, path)
        }
        const out = await visit('/logout', { method, headers })
        assert.deepEqual([out.status, out.headers.getSetCookie()], [hasCookies ? 200 : 409, []])
        assert.equal(types.includes('cookie_withheld'), !hasCookies)
      })
    }
    test('a cookie that the browser sent is used, from any site', async () => {
      const { page } = application({ cookie: { sameSite } })
      const visit = browser(page)
      await visit('/login')
      const response = await visit('/write', { method: 'POST', headers: CROSS })
      assert.equal(response.status, 200)
    })
  })
}

suite('cookie.path', () => {
  const options = { cookie: { path: '/shop' } }
  test('a write outside the path saves nothing, and the session of the path stays', async () => {
    const { page, types } = application(options)
    const visit = browser(page)
    await visit('/shop/login')
    const response = await visit('/write')
    assert.deepEqual([response.status, response.headers.getSetCookie()], [409, []])
    assert.equal((await (await visit('/shop/read')).json()).owner, 'anna')
    assert.deepEqual((await (await visit('/read')).json()).withheld, 'path')
    assert.ok(types.includes('cookie_withheld'))
  })
  test('a path that only begins with the same letters is outside', async () => {
    const { page } = application(options)
    assert.equal((await browser(page)('/shopping/write')).status, 409)
    assert.equal((await browser(page)('/shop/write')).status, 200)
    assert.equal((await browser(page)('/shop?write')).status, 200)
  })
  test('a proxy that removes the prefix names it in X-Forwarded-Prefix, which counts with trustProxy', async () => {
    const headers = { 'x-forwarded-prefix': '/shop', 'x-forwarded-proto': 'https' }
    const trusting = application({ ...options, trustProxy: true })
    assert.equal((await browser(trusting.page)('/write', { headers })).status, 200)
    assert.equal((await browser(application(options).page)('/write', { headers })).status, 409)
  })
})

test('outside a middleware, commit returns the error withheld', async () => {
  const manager = sessionManager({ backend: 'memory:' })
  const request = new Request('https://app.test/', { method: 'POST', headers: CROSS })
  const s = await manager.open(request)
  assert.equal(s.withheld, 'cross_site')
  s.set('paid', true)
  assert.deepEqual(await s.commit(), { ok: false, error: 'withheld' })
})

/** A shop, and a bank of another site that posts its visitor back, as it does after a payment. */
const shopAndBank = async (t: TestContext) => {
  const manager = sessionManager({ backend: 'memory:' })
  const shop = await serve(
    manager(async (request) => {
      const { pathname, searchParams } = new URL(request.url)
      const s = await session(request)
      const seeOther = (location: string) => new Response(null, { status: 303, headers: { location } })
      if (pathname === '/login') {
        s.login('anna')
        s.set('cart', ['tea'])
      }
      if (pathname === '/careless') {
        s.set('paid', 'carelessly')
        return seeOther('/')
      }
      if (pathname === '/paid') {
        // A real shop checks the message of the bank here. This request has no session, so a sealed text carries the order to the next.
        const order = (await request.formData()).get('order')
        return seeOther(`/settled?by=${await seal(request, String(order), 'payment')}`)
      }
      if (pathname === '/settled') {
        const order = await unseal(request, searchParams.get('by') ?? '', 'payment')
        if (order !== undefined) s.set('paid', order)
        return seeOther('/')
      }
      const text = JSON.stringify({ owner: s.owner, ...s.fields })
      return new Response(`<p>${text}</p>`, { headers: { 'content-type': 'text/html' } })
    }),
    { port: 0 },
  )
  t.after(() => shop.close())
  const form = (path: string) =>
    `<form id="${path}" method="post" action="http://localhost:${shop.port}/${path}"><input name="order" value="7"><button>back</button></form>`
  // For browsers, localhost and 127.0.0.1 are two sites.
  const bank = createServer((_, answer) => {
    answer.setHeader('content-type', 'text/html').end(form('careless') + form('paid'))
  })
  await new Promise<void>((done) => bank.listen(0, '127.0.0.1', done))
  t.after(() => bank.close())
  const { port } = bank.address() as { port: number }
  const chrome = await opened(t)
  const tab = await chrome.newPage()
  const see = async () => {
    await tab.goto(`http://localhost:${shop.port}/`)
    return JSON.parse((await tab.textContent('p')) ?? '')
  }
  await tab.goto(`http://localhost:${shop.port}/login`)
  const returnTo = async (path: string) => {
    await tab.goto(`http://127.0.0.1:${port}/`)
    const [response] = await Promise.all([
      tab.waitForResponse((one) => one.url().endsWith(`/${path}`)),
      tab.click(`#${path} button`),
    ])
    await tab.waitForLoadState()
    return response.status()
  }
  return { see, returnTo }
}

test('in Chromium: a visitor whom a bank posts back keeps the session, and after a redirect the browser sends it again', async (t) => {
  const { see, returnTo } = await shopAndBank(t)
  assert.equal(await returnTo('careless'), 409)
  assert.deepEqual(await see(), { owner: 'anna', cart: ['tea'] })
  assert.equal(await returnTo('paid'), 303)
  assert.deepEqual(await see(), { owner: 'anna', cart: ['tea'], paid: '7' })
})
