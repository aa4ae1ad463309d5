// What is sealed for one application, cookie, path or domain is nothing for another, under the same secret.

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

type Place = Pick<SessionManagerOptions, 'namespace' | 'cookie'>

/** Two of each differ in one thing, and their cookies may have one name: only what is sealed tells them apart. */
const apart: readonly (readonly [string, Place, Place])[] = [
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

/** The cookies of a response as a client that renames them would send them to an application of another name. */
const carried = (
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
  for (const [what, one, other] of apart) {
    for (const backend of ['memory:', 'cookie:']) {
      test(`that differ in their ${what}, sessions in ${backend}: what one gave out is nothing to the other`, async () => {
        const [a, b] = [application(one, { backend }), application(other, { backend })]
        for (const method of ['POST', 'PUT']) {
          const given = await a.visit(method)
          const token = await given.text()
          const nothing = { role: null, cookie: null, flash: 0 }
          const headers = (to: typeof a, place: Place) => ({
            cookie: carried(given, a.name, { ...place, name: to.name }),
            'x-csrf-token': token,
          })
          const { token: refused, ...seen } = await (await b.visit('GET', headers(b, other))).json()
          assert.deepEqual(seen, nothing)
          assert.equal(refused.ok, false)
          const own = await (await a.visit('GET', headers(a, one))).json()
          const role = method === 'POST' ? 'admin' : null
          assert.deepEqual(own, { role, cookie: role, flash: 1, token: { ok: true } }, 'and all that it is to itself')
        }
      })
    }
  }
})

test('a place has one text, that no other place has, and no equals sign', () => {
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

test('a namespace that no UTF-8 can have, or that is a novel, is refused', () => {
  for (const namespace of ['half \ud83e', 'x'.repeat(1001), 5 as never]) {
    assert.throws(() => sessionManager({ backend: 'memory:', namespace }), { code: 'invalid_option' })
  }
})
