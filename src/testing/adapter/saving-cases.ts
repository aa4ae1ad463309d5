// Adapter cases about saving: all changes are stored before the response, and the cookie leaves with it.

import assert from 'node:assert/strict'
import { session } from '../../request.ts'
import type { RequestLike } from '../../request-context.ts'
import type { Browser } from '../browser.ts'
import { type CaseHandler, empty, json, text } from './application.ts'
import { type AdapterCase, caseOn, onBothStores } from './stage.ts'

type Counter = { n: number }

const increment = async (x: RequestLike): Promise<number> => {
  const s = await session<Counter>(x)
  s.update('n', (n = 0) => n + 1)
  return s.get('n') as number
}

/** The handlers that several cases share. */
const handlers: Record<string, CaseHandler> = {
  '/count': async (x) => json(await increment(x)),
  '/read': async (x) => json((await session(x)).fields),
  '/set': async (x, { query }) => {
    const s = await session(x)
    for (const [name, value] of query) s.set(name, value)
    return json(s.fields)
  },
  '/login': async (x, { query }) => {
    ;(await session(x)).login(query.get('owner') ?? 'anna', { keep: ['n'] })
    return text('welcome')
  },
  '/logout': async (x) => {
    ;(await session(x)).invalidate()
    return text('bye')
  },
  '/rotate': async (x) => {
    ;(await session(x)).rotateKey()
    return text('rotated')
  },
  '/owner': async (x) => json((await session(x)).owner ?? null),
  '/label': async (x) => json((await session(x)).label),
  '/redirect': async (x) => {
    await increment(x)
    return empty(303, [['location', '/read']])
  },
  '/status': async (x, { query }) => {
    await increment(x)
    return empty(Number(query.get('code')))
  },
  '/page': async (x, { query }) => {
    await increment(x)
    return text('page', Number(query.get('code')))
  },
  '/empty': async (x) => {
    await increment(x)
    return text('')
  },
  '/not-awaited': (x) => {
    void session(x).then((s) => s.set('n', 7))
    return text('sent')
  },
  '/twice': async (x) => {
    const [one, other] = await Promise.all([session(x), session(x)])
    one.set('a', 1)
    other.set('b', 2)
    return json(one === other)
  },
}

const bodyOf = async (response: Response): Promise<unknown> => JSON.parse(await response.text())
const read = async (visit: Browser): Promise<unknown> => bodyOf(await visit('/read'))
/** The one session cookie, as `name=value`. */
const cookieOf = ({ cookies }: Browser): string => {
  const session = [...cookies].find(([name]) => !name.includes('-pre'))
  return session === undefined ? assert.fail('the visitor has a session cookie') : session.join('=')
}

export const savingCases: readonly AdapterCase[] = [
  ...onBothStores('a change is there in the next request', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      assert.equal(await bodyOf(await visit('/count')), 1)
      assert.equal(await bodyOf(await visit('/count')), 2)
      assert.deepEqual(await read(visit), { n: 2 })
    },
  }),
  caseOn('asynchronous', 'no byte of the response leaves before the change is stored', {
    handlers,
    async run({ visitor, store, assertAlive }) {
      const order: string[] = []
      const gate = store.hold('generate')
      const response = visitor()('/count').then((response) => {
        order.push('response')
        return response.text()
      })
      // It fails too if the rest of this case fails.
      response.catch(() => {})
      await gate.reached
      for (let i = 0; i < 5; i++) await assertAlive()
      order.push('stored')
      gate.open()
      await response
      assert.deepEqual(order, ['stored', 'response'])
    },
  }),
  ...onBothStores('the first change sets one session cookie: HttpOnly, SameSite=Lax, for all paths', {
    handlers,
    async run({ visitor }) {
      const lines = (await visitor()('/count')).headers.getSetCookie()
      assert.equal(lines.length, 1)
      assert.match(lines[0] ?? '', /^sid-\d+=[\w-]{43}; Max-Age=\d+; Path=\/; HttpOnly; SameSite=Lax$/)
    },
  }),
  ...onBothStores('a visitor with a session gets no second cookie for a change', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/count')
      assert.deepEqual((await visit('/count')).headers.getSetCookie(), [])
    },
  }),
  ...onBothStores('a request that does not ask for its session calls no store, and gets neither Set-Cookie nor Vary', {
    handlers,
    async run({ visitor, store }) {
      const visit = visitor()
      await visit('/count')
      const before = store.calls.length
      const { headers } = await visit('/ping')
      assert.deepEqual(headers.getSetCookie(), [])
      assert.doesNotMatch(headers.get('vary') ?? '', /cookie/i)
      assert.equal(store.calls.length, before)
    },
  }),
  ...onBothStores('an anonymous visitor who only reads calls no store and gets no cookie', {
    handlers,
    async run({ visitor, store }) {
      const response = await visitor()('/read')
      assert.deepEqual(await bodyOf(response), {})
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.deepEqual(store.calls, [])
    },
  }),
  ...onBothStores('HEAD saves as GET does', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      const response = await visit('/count', { method: 'HEAD' })
      assert.equal(response.headers.getSetCookie().length, 1)
      assert.deepEqual(await read(visit), { n: 1 })
    },
  }),
  ...[204, 304].flatMap((code) =>
    onBothStores(`an answer ${code} saves, and keeps its Set-Cookie`, {
      handlers,
      async run({ visitor }) {
        const visit = visitor()
        const response = await visit(`/status?code=${code}`)
        assert.equal(response.status, code)
        assert.equal(response.headers.getSetCookie().length, 1)
        assert.deepEqual(await read(visit), { n: 1 })
      },
    }),
  ),
  ...[404, 422, 500].flatMap((code) =>
    onBothStores(`an answer ${code} that a handler returns saves`, {
      handlers,
      async run({ visitor }) {
        const visit = visitor()
        const response = await visit(`/page?code=${code}`)
        assert.deepEqual([response.status, await response.text()], [code, 'page'])
        assert.deepEqual(await read(visit), { n: 1 })
      },
    }),
  ),
  ...onBothStores('an answer with an empty text saves', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      const response = await visit('/empty')
      assert.deepEqual([response.status, await response.text()], [200, ''])
      assert.equal(response.headers.getSetCookie().length, 1)
      assert.deepEqual(await read(visit), { n: 1 })
    },
  }),
  ...onBothStores('a redirect that is followed at once never misses the change', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      for (let n = 1; n <= 20; n++) {
        const { status, headers } = await visit('/redirect', { method: n % 2 ? 'POST' : 'GET' })
        assert.deepEqual([status, headers.get('location')], [303, '/read'])
        assert.deepEqual(await read(visit), { n })
      }
    },
  }),
  ...onBothStores('fifty requests at once, each with a field of its own, lose none', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/count')
      const names = Array.from({ length: 50 }, (_, i) => `field${i}`)
      await Promise.all(names.map(async (name) => (await visit(`/set?${name}=x`)).text()))
      assert.deepEqual(Object.keys((await read(visit)) as object).sort(), ['n', ...names].sort())
    },
  }),
  ...onBothStores('fifty increments at once lose none', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/count')
      await Promise.all(Array.from({ length: 50 }, async () => (await visit('/count')).text()))
      assert.deepEqual(await read(visit), { n: 51 })
    },
  }),
  ...onBothStores('a login gives the session a new key, and the old one opens nothing', {
    handlers,
    async run({ visitor, url }) {
      const visit = visitor()
      await visit('/count')
      const old = cookieOf(visit)
      await visit('/login?owner=anna')
      assert.notEqual(cookieOf(visit), old)
      assert.equal(await bodyOf(await visit('/owner')), 'anna')
      assert.deepEqual(await read(visit), { n: 1 })
      assert.deepEqual(await bodyOf(await fetch(`${url}/read`, { headers: { cookie: old } })), {})
    },
  }),
  ...onBothStores('a logout clears the cookie, and ends the session', {
    handlers,
    async run({ visitor, url }) {
      const visit = visitor()
      await visit('/login')
      const old = cookieOf(visit)
      const lines = (await visit('/logout')).headers.getSetCookie()
      assert.match(lines.join(), /^sid-\d+=; .*Max-Age=0/)
      assert.equal(visit.cookies.size, 0)
      assert.deepEqual(await bodyOf(await fetch(`${url}/owner`, { headers: { cookie: old } })), null)
    },
  }),
  ...onBothStores('rotateKey sends a new key, and the next request has the same session', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/count')
      const old = cookieOf(visit)
      await visit('/rotate')
      assert.notEqual(cookieOf(visit), old)
      assert.deepEqual(await read(visit), { n: 1 })
    },
  }),
  ...onBothStores('a handler that does not await its session saves all the same', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/not-awaited')
      assert.deepEqual(await read(visit), { n: 7 })
    },
  }),
  ...onBothStores('all callers of one request get one session', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      assert.equal(await bodyOf(await visit('/twice')), true)
      assert.deepEqual(await read(visit), { a: 1, b: 2 })
    },
  }),
  ...onBothStores('two visitors have two sessions', {
    handlers,
    async run({ visitor }) {
      const [one, other] = [visitor(), visitor()]
      await Promise.all([one('/set?a=1'), other('/set?b=2')])
      assert.deepEqual([await read(one), await read(other)], [{ a: '1' }, { b: '2' }])
      assert.notEqual(await bodyOf(await one('/label')), await bodyOf(await other('/label')))
    },
  }),
]
