// Adapter cases about the parts of a request that are read, and the functions that take an object of a framework.

import assert from 'node:assert/strict'
import { headOf, session } from '../../request.ts'
import { seal, unseal } from '../../sealed-text.ts'
import { type CaseHandler, json } from './application.ts'
import { type AdapterCase, caseOn, onBothStores } from './stage.ts'

const handlers: Record<string, CaseHandler> = {
  '/count': async (x) => {
    const s = await session<{ n: number }>(x)
    s.update('n', (n = 0) => n + 1)
    return json(s.get('n'))
  },
  '/read': async (x) => json((await session(x)).fields),
  '/login': async (x) => {
    ;(await session(x)).login('anna')
    return json('welcome')
  },
  '/look': async (x) => json((await session(x, { extend: false })).owner),
  '/both': async (x, { manager }) => {
    const s = await manager.session(x)
    s.set('n', 1)
    return json(s === (await session(x)))
  },
  '/seal': async (x) => {
    const sealed = await seal(x, 'text', 'case')
    return json(await unseal(x, sealed, 'case'))
  },
  '/head': (x) => json({ method: headOf(x).method, host: headOf(x).headers.get('host') }),
}

const bodyOf = async (response: Response): Promise<unknown> => JSON.parse(await response.text())

let reads = 0
/** Two seconds later at each call. */
const fastClock = () => {
  reads += 1
  return Date.now() + 2_000 * reads
}

export const requestCases: readonly AdapterCase[] = [
  ...onBothStores('the method session of the manager takes the object of the framework', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      assert.equal(await bodyOf(await visit('/both')), true)
      assert.deepEqual(await bodyOf(await visit('/read')), { n: 1 })
    },
  }),
  ...onBothStores('a request with extend: false reads the session, and writes nothing', {
    handlers,
    options: { lastSeenInterval: 1, now: fastClock },
    async run({ visitor, store }) {
      const writes = () => store.calls.filter((method) => method === 'set' || method === 'touch').length
      const visit = visitor()
      await visit('/login')
      const before = writes()
      assert.equal(await bodyOf(await visit('/look')), 'anna')
      assert.equal(writes(), before)
      await visit('/read')
      assert.equal(writes(), before + 1)
    },
  }),
  ...onBothStores('seal and unseal take the object of the framework', {
    handlers,
    async run({ visitor }) {
      assert.equal(await bodyOf(await visitor()('/seal')), 'text')
    },
  }),
  caseOn('synchronous', 'the method and the Host of the request are those that were sent', {
    handlers,
    async run({ visitor, url }) {
      const response = await visitor()('/head', { method: 'PUT', body: 'x' })
      assert.deepEqual(await bodyOf(response), { method: 'PUT', host: new URL(url).host })
    },
  }),
  ...onBothStores('a cookie that opens no session is an anonymous visit', {
    handlers,
    async run({ visitor, url }) {
      const visit = visitor()
      await visit('/count')
      const [[name = ''] = []] = [...visit.cookies]
      for (const value of ['', 'x', 'A'.repeat(43), 'A'.repeat(5_000), '%00', '"quoted"']) {
        const response = await fetch(`${url}/read`, { headers: { cookie: `${name}=${value}` } })
        assert.deepEqual([response.status, await bodyOf(response)], [200, {}], value.slice(0, 50))
      }
    },
  }),
  ...onBothStores('with trustProxy, the cookie is Secure if the first scheme in X-Forwarded-Proto is https', {
    handlers,
    options: { trustProxy: true, secure: false },
    async run({ url }) {
      const cookieWith = async (headers: Record<string, string>) =>
        (await fetch(`${url}/count`, { headers })).headers.getSetCookie().join()
      assert.match(await cookieWith({ 'x-forwarded-proto': 'https, http' }), /^__Host-(Http-)?sid=.*; Secure/)
      assert.match(await cookieWith({ 'x-forwarded-proto': 'http, https' }), /^sid-\d+=(?!.*; Secure)/)
      assert.match(await cookieWith({}), /^sid-\d+=(?!.*; Secure)/)
    },
  }),
  ...onBothStores('without trustProxy, X-Forwarded-Proto makes no cookie Secure', {
    handlers,
    options: { secure: false },
    async run({ url }) {
      const { headers } = await fetch(`${url}/count`, { headers: { 'x-forwarded-proto': 'https' } })
      assert.match(headers.getSetCookie().join(), /^sid-\d+=(?!.*; Secure)/)
    },
  }),
]
