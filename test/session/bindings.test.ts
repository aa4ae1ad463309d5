// A value that is sealed for one application, cookie, path or domain cannot be opened for another under the same secret.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import {
  addFlash,
  type CookieOptions,
  csrfToken,
  getCookie,
  type SessionManagerOptions,
  session,
  sessionManager,
  setCookie,
  takeFlash,
  verifyCsrfToken,
} from 'keepsake'
import { newSecret } from '../../src/crypto/seal.ts'
import { sealedPlace } from '../../src/http/cookie.ts'

const SECRET = newSecret()

type Place = { readonly namespace?: string; readonly cookie?: CookieOptions }

/** Pairs that differ in one setting. Their cookies may have the same name, so only the sealed value differs. */
const pairs: readonly (readonly [string, Place, Place])[] = [
  ['namespaces', { namespace: 'a' }, { namespace: 'b' }],
  ['names, in one namespace', { namespace: 'a' }, { namespace: 'a', cookie: { name: 'other' } }],
  ['paths', { cookie: { path: '/a' } }, { cookie: { path: '/b' } }],
  ['a path and one within it', { cookie: { path: '/a' } }, { cookie: { path: '/a/b' } }],
  ['a path and the root of a domain', { cookie: { path: '/a' } }, { cookie: { domain: 'example.com' } }],
  ['domains', { cookie: { domain: 'example.com' } }, { cookie: { domain: 'www.example.com' } }],
]

const application = (place: Place, more: Partial<SessionManagerOptions>) => {
  const { domain, path, name = 'sid' } = place.cookie ?? {}
  const role = `${name}-role`
  const where = { ...(domain !== undefined && { domain }), ...(path !== undefined && { path }) }
  const page = sessionManager({ backend: 'memory:', secret: SECRET, ...place, ...more })(async (request) => {
    if (request.method === 'POST') {
      addFlash(request, 'info', 'for this one')
      ;(await session(request)).set('role', 'admin')
      return setCookie(new Response(await csrfToken(request)), request, role, 'admin', where)
    }
    if (request.method === 'PUT') {
      addFlash(request, 'info', 'for this one')
      return new Response(await csrfToken(request))
    }
    return Response.json({
      role: (await session(request)).get('role') ?? null,
      cookie: (await getCookie(request, role, where)) ?? null,
      flash: (await takeFlash(request)).length,
      token: await verifyCsrfToken(request),
    })
  })
  const visit = (method: string, headers: Record<string, string> = {}) =>
    page(
      new Request('https://www.example.com/a/b', { method, headers: { 'sec-fetch-site': 'same-origin', ...headers } }),
    )
  return { visit, name }
}

/** The cookies of a response, renamed by the client for an application whose cookie has another name. */
const renamedCookies = (
  response: Response,
  from: string,
  to: { cookie?: CookieOptions | undefined; name: string },
): string => {
  const prefix = (to.cookie?.path ?? to.cookie?.domain) ? '__Secure-' : '__Host-Http-'
  return response.headers
    .getSetCookie()
    .map((line) => line.split(';')[0] as string)
    .map((pair) => pair.replace(/^__(Secure|Host-Http)-/, prefix).replace(`${prefix}${from}`, `${prefix}${to.name}`))
    .join('; ')
}

suite('two applications under one secret', () => {
  for (const [difference, one, other] of pairs) {
    for (const backend of ['memory:', 'cookie:']) {
      test(`with other ${difference}, sessions in ${backend}: neither accepts a value of the other`, async () => {
        const [a, b] = [application(one, { backend }), application(other, { backend })]
        for (const method of ['POST', 'PUT']) {
          const given = await a.visit(method)
          const token = await given.text()
          const nothing = { role: null, cookie: null, flash: 0 }
          const headers = (to: typeof a, place: Place) => ({
            cookie: renamedCookies(given, a.name, { ...place, name: to.name }),
            'x-csrf-token': token,
          })
          const { token: refused, ...seen } = await (await b.visit('GET', headers(b, other))).json()
          assert.deepEqual(seen, nothing)
          assert.equal(refused.ok, false)
          const own = await (await a.visit('GET', headers(a, one))).json()
          const role = method === 'POST' ? 'admin' : null
          assert.deepEqual(
            own,
            { role, cookie: role, flash: 1, token: { ok: true } },
            'the application itself accepts all of them',
          )
        }
      })
    }
  }
})

test('every place has its own text, which contains no equals sign', () => {
  const places = [
    {},
    { path: '/a' },
    { path: '/a;b' },
    { path: '/a%3Bb' },
    { path: '/a=b' },
    { path: '/;a' },
    { domain: 'a.b' },
    { domain: 'a.b', path: '/a' },
    { domain: 'a.b', path: '/%2F' },
    { domain: 'b.a' },
  ]
  const texts = places.map(sealedPlace)
  assert.equal(new Set(texts).size, places.length)
  assert.ok(texts.every((text) => !text.includes('=')))
  assert.equal(sealedPlace({ domain: 'A.b' }), sealedPlace({ domain: 'a.B', path: '/' }))
  assert.equal(sealedPlace({ path: '/' }), '')
})

test('a namespace that UTF-8 cannot encode, or that is longer than 1000 characters, is refused', () => {
  for (const namespace of ['half \ud83e', 'x'.repeat(1001), 5 as never]) {
    assert.throws(() => sessionManager({ backend: 'memory:', namespace }), { code: 'invalid_option' })
  }
})
