// Adapter cases about header fields: those of the handler stay, and caches are told which responses are for one visitor.

import assert from 'node:assert/strict'
import { csrfTag } from '../../forms/csrf.ts'
import { session } from '../../request.ts'
import { type Answer, type CaseHandler, text } from './application.ts'
import { type AdapterCase, onBothStores } from './stage.ts'

/** Answers with the header fields of the query. */
const headersIn = (query: URLSearchParams): Answer['headers'] =>
  [...query].filter(([name]) => name !== 'change').map(([name, value]) => [name, value])

const OUTSIDE_ASCII = 'Zoë 日本 👋'

/** Set-Cookie values that some parsers change or lose. */
const handlerCookies: readonly string[] = [
  'until=1; Expires=Wed, 21 Oct 2037 07:28:00 GMT; Path=/',
  'encoded=%7B%22a%22%3A1%7D',
  'empty=',
  'quoted="a b"',
  'twice=1; Path=/a',
  'twice=2; Path=/b',
  'new=1; Priority=High; Partitioned; Secure; SameSite=None',
  ...Array.from({ length: 30 }, (_, i) => `number${i}=${i}`),
]

const handlers: Record<string, CaseHandler> = {
  '/headers': async (x, { query }) => {
    const s = await session(x)
    if (query.has('change')) s.set('change', query.get('change'))
    return text('page', 200, headersIn(query))
  },
  '/cookies': async (x) => {
    ;(await session(x)).set('a', 1)
    return text(
      'page',
      200,
      handlerCookies.map((line) => ['set-cookie', line]),
    )
  },
  '/account/login': async (x) => {
    ;(await session(x)).login('anna')
    return text('welcome')
  },
  '/account/logout': async (x) => {
    ;(await session(x)).invalidate()
    return text('bye')
  },
  '/outside-ascii': async (x) => {
    ;(await session(x)).set('a', 1)
    return text(OUTSIDE_ASCII)
  },
  '/form': async (x, { query }) => text(await csrfTag(x), 200, headersIn(query)),
}

const fields = (headers: Headers, ...names: readonly string[]) => names.map((name) => headers.get(name))

/** The names in Vary, in lower case. */
const varyOf = (headers: Headers): string[] =>
  (headers.get('vary') ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')

export const headerCases: readonly AdapterCase[] = [
  ...onBothStores('the cookies of the handler stay beside the session cookie', {
    handlers,
    async run({ visitor }) {
      const { headers } = await visitor()('/headers?change=1&set-cookie=a%3D1%3B Path%3D/&set-cookie=b%3D2')
      const names = headers.getSetCookie().map((line) => line.slice(0, line.indexOf('=')))
      assert.equal(names.length, 3)
      assert.deepEqual(names.filter((name) => !name.startsWith('sid')).sort(), ['a', 'b'])
    },
  }),
  ...onBothStores('no cookie of the handler is changed: commas, empty values, two of one name, and thirty more', {
    handlers,
    async run({ visitor }) {
      const lines = (await visitor()('/cookies')).headers.getSetCookie()
      assert.deepEqual(
        lines.filter((line) => !line.startsWith('sid')),
        handlerCookies,
      )
      assert.equal(lines.length, handlerCookies.length + 1)
    },
  }),
  ...onBothStores('the session cookie has the attributes of the option cookie, also if it is cleared', {
    handlers,
    options: { cookie: { name: 'own', path: '/account', sameSite: 'strict', priority: 'high' } },
    async run({ visitor }) {
      const visit = visitor()
      const attributes = 'Path=/account; HttpOnly; SameSite=Strict; Priority=High'
      const pattern = (value: string) => new RegExp(`^own-\\d+=${value}; Max-Age=\\d+; ${attributes}$`)
      assert.match((await visit('/account/login')).headers.getSetCookie().join(), pattern('[\\w-]{43}'))
      assert.match((await visit('/account/logout')).headers.getSetCookie().join(), pattern(''))
    },
  }),
  ...onBothStores('a text outside ASCII arrives whole', {
    handlers,
    async run({ visitor }) {
      assert.equal(await (await visitor()('/outside-ascii')).text(), OUTSIDE_ASCII)
    },
  }),
  ...onBothStores('other header fields of the handler stay', {
    handlers,
    async run({ visitor }) {
      const { headers } = await visitor()('/headers?change=1&etag=%22v1%22&x-page=7&content-language=fr')
      assert.deepEqual(fields(headers, 'etag', 'x-page', 'content-language'), ['"v1"', '7', 'fr'])
    },
  }),
  ...onBothStores('Vary gets Cookie, and keeps the names of the handler', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      assert.ok(varyOf((await visit('/headers')).headers).includes('cookie'))
      const names = varyOf((await visit('/headers?vary=Accept-Language')).headers)
      assert.ok(names.includes('cookie') && names.includes('accept-language'), names.join())
    },
  }),
  ...onBothStores('Vary names Cookie once', {
    handlers,
    async run({ visitor }) {
      const names = varyOf((await visitor()('/headers?change=1&vary=cookie')).headers)
      assert.equal(names.filter((name) => name === 'cookie').length, 1)
    },
  }),
  ...onBothStores('a response with a session cookie is not for shared caches', {
    handlers,
    async run({ visitor, events }) {
      assert.match((await visitor()('/headers?change=1')).headers.get('cache-control') ?? '', /no-store/)
      const { headers } = await visitor()('/headers?change=1&cache-control=public, max-age=60')
      assert.equal(headers.get('cache-control'), 'private, no-store')
      assert.ok(events.includes('cache_overridden'))
    },
  }),
  ...onBothStores('fields that CDNs obey before Cache-Control are replaced too', {
    handlers,
    async run({ visitor }) {
      const { headers } = await visitor()('/headers?change=1&cdn-cache-control=max-age=60&surrogate-control=max-age=60')
      assert.deepEqual(fields(headers, 'cdn-cache-control', 'surrogate-control'), ['no-store', 'no-store'])
    },
  }),
  ...onBothStores('a private Cache-Control of the handler stays', {
    handlers,
    async run({ visitor }) {
      const { headers } = await visitor()('/headers?change=1&cache-control=private, max-age=60')
      assert.equal(headers.get('cache-control'), 'private, max-age=60')
    },
  }),
  ...onBothStores('a response that only depends on the session keeps its Cache-Control', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/headers?change=1')
      const { headers } = await visit('/headers?cache-control=public, max-age=60')
      assert.equal(headers.get('cache-control'), 'public, max-age=60')
      assert.ok(varyOf(headers).includes('cookie'))
    },
  }),
  ...onBothStores('a page with a form token is not for shared caches, also without a new cookie', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/form')
      const { headers } = await visit('/form?cache-control=public')
      assert.match(headers.get('cache-control') ?? '', /private|no-store/)
    },
  }),
]
