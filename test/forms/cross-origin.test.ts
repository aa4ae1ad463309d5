// crossOriginProtection: requests from pages of other origins are refused, and requests from own pages are not.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { crossOriginProtection, csrfToken, readForm, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import cases from '../data/csrf-cases.json' with { type: 'json' }

const URL_ = 'https://app.test/x'
const ok = () => new Response('done')

type Asked = {
  readonly method?: string
  readonly url?: string
  readonly headers?: Record<string, string>
  readonly body?: BodyInit
}

const asked = async (
  handler: ReturnType<typeof crossOriginProtection>,
  { url = URL_, ...init }: Asked,
): Promise<number> => (await handler(new Request(url, init))).status

/** The expected status. Some cases leave a choice, and this is the one that keepsake made. */
const expectedStatus = (name: string, expected: string): number => {
  if (name === 'wrong-case value') return 403
  if (name === 'unknown value') return 200
  if (name === 'method override') return 200
  if (name === 'case variant' || name === 'no Origin, no Sec-Fetch-Site') return 403
  return expected.startsWith('accept') ? 200 : 403
}

suite('CSRF-1, CSRF-2, CSRF-3: a request from another origin', () => {
  for (const { name, value, expected } of cases.requests) {
    for (const origins of [undefined, ['https://app.test']]) {
      test(`${name}, ${origins ? 'origins listed' : 'none listed'}: ${expected}`, async () => {
        const handler = crossOriginProtection(ok, origins === undefined ? {} : { origins })
        assert.equal(await asked(handler, value as unknown as Asked), expectedStatus(name, expected))
      })
    }
  }
})

suite('crossOriginProtection', () => {
  test('D53: GET, HEAD and OPTIONS pass, and every other method is checked, with any Content-Type', async () => {
    const handler = crossOriginProtection(ok)
    const crossOrigin = { 'sec-fetch-site': 'cross-site' }
    for (const method of ['GET', 'HEAD', 'OPTIONS'])
      assert.equal(await asked(handler, { method, headers: crossOrigin }), 200)
    for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'PROPFIND', 'get-all', 'options2']) {
      for (const type of ['application/json', 'TEXT/plain;x', '']) {
        const headers = { ...crossOrigin, ...(type && { 'content-type': type }) }
        assert.equal(await asked(handler, { method, headers }), 403, `${method} ${type}`)
      }
    }
  })

  test('D53: a WebSocket upgrade is checked like a write', async () => {
    const handler = crossOriginProtection(ok)
    const upgrade = { connection: 'Upgrade', upgrade: 'WebSocket' }
    assert.equal(await asked(handler, { headers: { ...upgrade, origin: 'https://evil.test' } }), 403)
    assert.equal(await asked(handler, { headers: { ...upgrade, origin: 'null' } }), 403)
    assert.equal(await asked(handler, { headers: upgrade }), 403, 'browsers always send an Origin with it')
    assert.equal(await asked(handler, { headers: { ...upgrade, origin: 'https://app.test' } }), 200)
  })

  test('D53: ports and IPv6 hosts are compared in the format of browsers', async () => {
    const post = { method: 'POST' }
    const handler = crossOriginProtection(ok)
    const from = (origin: string, url: string) => asked(handler, { ...post, url, headers: { origin } })
    assert.equal(await from('https://a.test', 'https://a.test:443/'), 200, 'browsers leave out the default port')
    assert.equal(await from('http://[::1]:8080', 'http://[::1]:8080/'), 200)
    assert.equal(await from('http://[::1]:8081', 'http://[::1]:8080/'), 403)
  })

  test('D54: listed origins are allowed, also of another site, and then the origin of the URL is not', async () => {
    const handler = crossOriginProtection(ok, { origins: ['https://app.test', 'https://shop.test:8443'] })
    const from = (origin: string, site?: string) =>
      asked(handler, { method: 'POST', headers: { origin, ...(site && { 'sec-fetch-site': site }) } })
    assert.equal(await from('https://shop.test:8443', 'cross-site'), 200)
    assert.equal(await from('https://shop.test', 'cross-site'), 403)
    assert.equal(await from('https://app.test'), 200)
    const behindProxy = { method: 'POST', url: 'http://10.0.0.7:3000/x', headers: { origin: 'https://app.test' } }
    assert.equal(await asked(handler, behindProxy), 200, 'the URL that a proxy makes does not matter')
    const spoofed = { ...behindProxy, headers: { origin: 'http://10.0.0.7:3000' } }
    assert.equal(await asked(handler, spoofed), 403)
  })

  test('an origin in another format than that of browsers is refused when the handler is made', () => {
    for (const origin of ['https://app.test/', 'app.test', 'https://APP.test', 'null', 'https://*.app.test', '']) {
      assert.throws(() => crossOriginProtection(ok, { origins: [origin] }), { code: 'invalid_option' }, origin)
    }
    assert.throws(() => crossOriginProtection(ok, { origin: [] } as never), { code: 'invalid_option' })
  })

  test('a request without evidence of its origin needs a token, in its header or in its form, which stays readable', async () => {
    const page = sessionManager({ backend: 'memory:' })(
      crossOriginProtection(async (request) => {
        if (request.method === 'GET') return new Response(await csrfToken(request))
        const type = request.headers.get('content-type') ?? ''
        if (type.includes('json')) return new Response(await request.text())
        const form = await readForm(request)
        return Response.json(form.ok ? [...form.fields] : form.error)
      }),
    )
    const visit = browser(page)
    const token = await (await visit('/')).text()
    const post = (body: BodyInit, headers = {}) => visit('/', { method: 'POST', body, headers })
    const json = { 'content-type': 'application/json' }
    assert.equal(await (await post('{"a":1}', { ...json, 'x-csrf-token': token })).text(), '{"a":1}')
    assert.equal((await post('{"a":1}', json)).status, 403)
    assert.equal((await post('{"a":1}', { ...json, 'x-csrf-token': `${token}A` })).status, 403)
    const form = new URLSearchParams({ a: '1', _csrf: token })
    assert.deepEqual(await (await post(form)).json(), [['a', '1']])
    assert.equal((await post(new URLSearchParams({ a: '1' }))).status, 403)
    const data = new FormData()
    data.append('_csrf', token)
    data.append('a', '1')
    data.append('big', new File([Buffer.alloc(5 * 2 ** 20)], 'big'))
    assert.equal(await (await post(data)).json(), 'too_large', 'a long body is read as far as its token')
    const crossOrigin = { 'x-csrf-token': token, origin: 'https://evil.test' }
    assert.equal((await post(form, crossOrigin)).status, 403, 'a token does not outweigh evidence')
    assert.equal((await browser(page)('/', { method: 'POST', body: form })).status, 403, 'a token of another visitor')
  })

  test('Origin: null is no evidence, so without Sec-Fetch-Site a token in the header or in the form decides', async () => {
    const messages: string[] = []
    const page = sessionManager({ backend: 'memory:', onEvent: ({ message = '' }) => messages.push(message) })(
      crossOriginProtection(async (request) => {
        if (request.method === 'GET') return new Response(await csrfToken(request))
        return new Response((await readForm(request)).ok ? 'taken' : 'refused')
      }),
    )
    const visit = browser(page)
    const token = await (await visit('/')).text()
    const post = async (fields: Record<string, string>, headers: Record<string, string>) =>
      (await visit('/', { method: 'POST', body: new URLSearchParams(fields), headers })).status
    const opaque = { origin: 'null' }
    assert.equal(await post({ _csrf: token }, opaque), 200)
    assert.equal(await post({ a: '1' }, { ...opaque, 'x-csrf-token': token }), 200)
    assert.equal(await post({ _csrf: token }, { ...opaque, 'sec-fetch-site': 'same-origin' }), 200)
    assert.equal(messages.length, 0)
    assert.equal(await post({ a: '1' }, opaque), 403)
    assert.match(messages.at(-1) ?? '', /Referrer-Policy: same-origin.*form token/)
    assert.equal(await post({ _csrf: `${token}A` }, opaque), 403)
    for (const site of ['cross-site', 'same-site']) {
      assert.equal(await post({ _csrf: token }, { ...opaque, 'sec-fetch-site': site }), 403)
      assert.equal(await post({ _csrf: token }, { 'sec-fetch-site': site }), 403)
    }
    const about = messages.filter((message) => message.startsWith('A request'))
    assert.equal(about.length, 6)
    assert.deepEqual(
      about.filter((message) => /add it to the option origins/.test(message)),
      [],
      'null cannot be listed in origins',
    )
    assert.equal(await post({ _csrf: token }, { origin: 'https://evil.test' }), 403)
    assert.match(messages.at(-1) ?? '', /Its origin is "https:\/\/evil\.test".*add it to the option origins/)
  })

  test('further arguments are passed on to the handler of an allowed request', async () => {
    const seen: unknown[][] = []
    const handler = crossOriginProtection((...args: unknown[]) => {
      seen.push(args.slice(1))
      return ok()
    }) as (...args: unknown[]) => Promise<Response>
    const env = { NAME: 'x' }
    const ctx = { waitUntil: () => {} }
    await handler(new Request(URL_), env, ctx)
    await handler(new Request(URL_, { method: 'POST', headers: { origin: 'https://app.test' } }), env, ctx)
    await handler(new Request(URL_, { method: 'POST', headers: { origin: 'https://evil.test' } }), env, ctx)
    assert.deepEqual(seen, [
      [env, ctx],
      [env, ctx],
    ])
  })

  test('the copy of a body that was searched is cancelled, so nothing is kept for it', async () => {
    const body = new FormData()
    body.append('_csrf', 'x')
    body.append('file', new File([Buffer.alloc(500_000)], 'a'))
    const request = new Request(URL_, { method: 'POST', body })
    let copy: Request | undefined
    const clone = request.clone.bind(request)
    request.clone = () => {
      copy = clone()
      return copy
    }
    const page = sessionManager({ backend: 'memory:' })(crossOriginProtection(ok))
    assert.equal((await page(request)).status, 403)
    assert.deepEqual(await copy?.body?.getReader().read(), { done: true, value: undefined })
  })

  test('CSRF-11: a refusal is a 403 without details and an event, and opens no session', async () => {
    const events: unknown[] = []
    let opened = 0
    const page = sessionManager({ backend: 'memory:', onEvent: (event) => events.push(event) })(
      crossOriginProtection(async (request) => {
        opened++
        await session(request)
        return ok()
      }),
    )
    const response = await page(new Request(URL_, { method: 'POST', headers: { origin: 'https://evil.test' } }))
    assert.equal(response.status, 403)
    assert.equal(
      await response.text(),
      'This request came from another website, so we refused it. Please use the form on our own page.\n',
    )
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.equal(opened, 0)
    assert.deepEqual(
      events.map((event) => (event as { type: string }).type),
      ['cross_origin_rejected'],
    )
    const types: string[] = []
    await crossOriginProtection(ok, { onEvent: ({ type }) => types.push(type) })(new Request(URL_, { method: 'POST' }))
    assert.deepEqual(types, ['cross_origin_rejected'])
  })

  test('ready and close of the handler are called through it', async () => {
    const done: string[] = []
    const inner = Object.assign(ok, {
      ready: async () => void done.push('ready'),
      close: async () => void done.push('close'),
    })
    const handler = crossOriginProtection(inner)
    await handler.ready?.()
    await handler.close?.()
    assert.deepEqual(done, ['ready', 'close'])
  })
})
