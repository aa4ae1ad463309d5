// Adapter cases about requests that are not saved: the response is an error, and nothing of the handler's page is sent.

import assert from 'node:assert/strict'
import { addFlash, takeFlash } from '../../flash.ts'
import { session } from '../../request.ts'
import type { StandardSchema } from '../../schema.ts'
import { type CaseHandler, json, text } from './application.ts'
import { type AdapterCase, onBothStores } from './stage.ts'
import { STORE_ERROR } from './store.ts'

const PAGE = 'the page that must not be sent'
const pageHeaders: [string, string][] = [
  ['etag', '"page"'],
  ['set-cookie', 'page=1; Path=/'],
]

const handlers: Record<string, CaseHandler> = {
  '/set': async (x, { query }) => {
    const s = await session(x)
    for (const [name, value] of query) s.set(name, value)
    return text(PAGE, 200, pageHeaders)
  },
  '/set-number': async (x) => {
    ;(await session(x)).set('n', 2)
    return text('set')
  },
  '/slow': async (x, { pause }) => {
    const s = await session(x)
    await pause.wait()
    s.set('slow', true)
    return text(PAGE, 200, pageHeaders)
  },
  '/read': async (x) => json((await session(x)).fields),
  '/login': async (x) => {
    ;(await session(x)).login('anna')
    return text('welcome')
  },
  '/logout': async (x) => {
    ;(await session(x)).invalidate()
    return text(PAGE, 200, pageHeaders)
  },
  '/update-or-throw': async (x, { pause }) => {
    const s = await session<{ n: number }>(x)
    s.update('n', (n = 0) => {
      if (n > 0) throw new Error('The number is taken.')
      return 1
    })
    await pause.wait()
    return text(PAGE, 200, pageHeaders)
  },
  '/huge': async (x) => {
    ;(await session(x)).set('huge', 'x'.repeat(2 ** 20))
    return text(PAGE, 200, pageHeaders)
  },
  '/throw': async (x) => {
    ;(await session(x)).set('thrown', true)
    throw new Error('A handler threw.')
  },
  '/logout-and-throw': async (x) => {
    ;(await session(x)).invalidate()
    throw new Error('A handler threw.')
  },
  '/flash': async (x) => {
    addFlash(x, 'info', 'Saved.')
    return text('added')
  },
  '/take': async (x) => json(await takeFlash(x)),
  '/take-and-throw': async (x) => {
    await takeFlash(x)
    throw new Error('A handler threw.')
  },
}

const assertRefused = async (response: Response, status: number): Promise<string> => {
  const body = await response.text()
  assert.equal(response.status, status)
  assert.ok(!body.includes(PAGE), 'the page is not sent')
  assert.equal(response.headers.get('etag'), null, 'the ETag of the page is not sent')
  assert.ok(
    !response.headers.getSetCookie().some((line) => line.startsWith('page=')),
    'the cookie of the page is not sent',
  )
  return body
}

const bodyOf = async (response: Response): Promise<unknown> => JSON.parse(await response.text())

/** At most one field. */
const schema: StandardSchema = {
  '~standard': {
    version: 1,
    vendor: 'case',
    validate: (value) =>
      Object.keys(value as object).length > 1 ? { issues: [{ message: 'There is more than one field.' }] } : { value },
  },
}

export const refusalCases: readonly AdapterCase[] = [
  ...onBothStores('a logout wins against a slower request: 409, nothing of the page, and no cookie', {
    handlers,
    async run({ visitor, pause, events }) {
      const visit = visitor()
      await visit('/login')
      const tab = visit.copy()
      const slow = tab('/slow')
      await pause.reached
      await (await visit('/logout')).text()
      pause.resume()
      const response = await slow
      await assertRefused(response, 409)
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.ok(events.includes('write_after_end'))
      assert.deepEqual(await bodyOf(await tab('/read')), {})
    },
  }),
  ...onBothStores('a session that the operator ends during a request: 409, and nothing of the page', {
    handlers,
    async run({ visitor, pause, manager }) {
      const visit = visitor()
      await visit('/login')
      const slow = visit('/slow')
      await pause.reached
      await manager.revokeAll('anna')
      pause.resume()
      await assertRefused(await slow, 409)
    },
  }),
  ...onBothStores('two changes that do not fit the schema together: 409 for the later one', {
    handlers,
    options: { schema },
    async run({ visitor, pause }) {
      const visit = visitor()
      await visit('/login')
      const slow = visit('/slow')
      await pause.reached
      assert.equal((await visit('/set?a=1')).status, 200)
      pause.resume()
      await assertRefused(await slow, 409)
      assert.deepEqual(await bodyOf(await visit('/read')), { a: '1' })
    },
  }),
  ...onBothStores('a change that is too large: 500, and nothing of the page', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/set?a=1')
      await assertRefused(await visit('/huge'), 500)
      assert.deepEqual(await bodyOf(await visit('/read')), { a: '1' })
    },
  }),
  ...onBothStores('an error of an update that runs again at the commit: 500, and nothing of the page', {
    handlers,
    async run({ visitor, pause }) {
      const visit = visitor()
      await visit('/login')
      const slow = visit('/update-or-throw')
      await pause.reached
      await (await visit('/set-number')).text()
      pause.resume()
      await assertRefused(await slow, 500)
      assert.deepEqual(await bodyOf(await visit('/read')), { n: 2 })
    },
  }),
  ...onBothStores('a store that fails at a write: 503, nothing of the page, and nothing of its error', {
    handlers,
    async run({ visitor, store, events }) {
      store.failing.add('generate')
      const response = await visitor()('/set?a=1')
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.ok(!(await assertRefused(response, 503)).includes(STORE_ERROR))
      assert.ok(events.includes('store_error'))
    },
  }),
  ...onBothStores('a store that fails at a read: 503, and nothing of its error', {
    handlers,
    async run({ visitor, store }) {
      const visit = visitor()
      await visit('/set?a=1')
      store.failing.add('get')
      const body = await assertRefused(await visit('/set?a=2'), 503)
      assert.ok(!body.includes(STORE_ERROR) && !body.includes('case backend'), body)
      store.failing.clear()
      assert.deepEqual(await bodyOf(await visit('/read')), { a: '1' })
    },
  }),
  ...onBothStores('a logout that the store cannot carry out: 503, and the cookie is cleared', {
    handlers,
    async run({ visitor, store }) {
      const visit = visitor()
      await visit('/login')
      store.failing.add('clear')
      const response = await visit('/logout')
      await assertRefused(response, 503)
      assert.match(response.headers.getSetCookie().join(), /^sid-\d+=; .*Max-Age=0/)
    },
  }),
  ...onBothStores('an error response is not for caches', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/set?a=1')
      assert.match((await visit('/huge')).headers.get('cache-control') ?? '', /no-store|private/)
    },
  }),
  ...onBothStores('the option errorResponse renders the error', {
    handlers,
    options: {
      errorResponse: (kind, request) =>
        new Response(`${kind} ${new URL(request.url).pathname}`, { status: 507, headers: { 'x-kind': kind } }),
    },
    async run({ visitor }) {
      const response = await visitor()('/huge')
      assert.equal(await assertRefused(response, 507), 'not_saved /huge')
      assert.equal(response.headers.get('x-kind'), 'not_saved')
    },
  }),
  ...onBothStores('a handler that throws saves nothing, and the framework answers its error', {
    handlers,
    async run({ visitor, assertAlive }) {
      const visit = visitor()
      await visit('/set?a=1')
      const response = await visit('/throw')
      await response.text()
      assert.equal(response.status, 500)
      assert.deepEqual(await bodyOf(await visit('/read')), { a: '1' })
      await assertAlive()
    },
  }),
  ...onBothStores('an anonymous visitor whose handler throws gets no session', {
    handlers,
    async run({ visitor, store }) {
      const response = await visitor()('/throw')
      await response.text()
      assert.equal(response.status, 500)
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.ok(!store.calls.includes('generate'))
    },
  }),
  ...onBothStores('a handler that ends the session and then throws has ended it', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/set?a=1')
      await (await visit('/logout-and-throw')).text()
      assert.deepEqual(await bodyOf(await visit('/read')), {})
    },
  }),
  ...onBothStores('flash messages of a handler that throws wait for the next page', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/set?a=1')
      await visit('/flash')
      await (await visit('/take-and-throw')).text()
      assert.deepEqual(await bodyOf(await visit('/take')), [{ category: 'info', text: 'Saved.' }])
    },
  }),
]
