// Adapter cases about many requests at once: a login among them, and a flood of anonymous visitors.

import assert from 'node:assert/strict'
import { csrfTag } from '../../forms/csrf.ts'
import { session } from '../../request.ts'
import { type CaseHandler, json, text } from './application.ts'
import { type AdapterCase, onBothStores } from './stage.ts'

const names = Array.from({ length: 20 }, (_, i) => `field${i}`)

const handlers: Record<string, CaseHandler> = {
  '/set': async (x, { query }) => {
    const s = await session(x)
    // Other requests of the visitor come between the read and the write.
    await new Promise((resolve) => setImmediate(resolve))
    for (const [name, value] of query) s.set(name, value)
    return text('set')
  },
  '/login': async (x) => {
    ;(await session(x)).login('anna', { keep: names })
    return text('welcome')
  },
  '/read': async (x) => json((await session(x)).fields),
  '/page': async (x) => text(String((await session(x)).get('n'))),
  '/form': async (x) => text(await csrfTag(x)),
}

export const crowdCases: readonly AdapterCase[] = [
  ...onBothStores('a login among twenty writes loses no write that was confirmed, and its cookie is the last', {
    handlers,
    async run({ visitor, url }) {
      const visit = visitor()
      await visit('/set?first=1')
      const old = [...visit.cookies].map((pair) => pair.join('=')).join('; ')
      const writes = names.map(async (name) => {
        const response = await fetch(`${url}/set?${name}=x`, { headers: { cookie: old } })
        await response.text()
        return { name, response }
      })
      const login = visit('/login')
      const results = await Promise.all(writes)
      assert.equal((await login).status, 200)
      const fields = JSON.parse(await (await visit('/read')).text())
      for (const { name, response } of results) {
        assert.ok([200, 409].includes(response.status), `${response.status}`)
        if (response.status === 200) assert.equal(fields[name], 'x', name)
        assert.deepEqual(response.headers.getSetCookie(), [], 'no cookie sends the browser back to the old key')
      }
      const replayed = await fetch(`${url}/read`, { headers: { cookie: old } })
      assert.deepEqual(JSON.parse(await replayed.text()), {}, 'the old key opens nothing')
    },
  }),
  ...onBothStores('a flood of anonymous visitors stores nothing, also on pages with a form', {
    handlers,
    async run({ url, store }) {
      const paths = Array.from({ length: 100 }, (_, i) => (i % 2 ? '/page' : '/form'))
      for (const response of await Promise.all(paths.map((path) => fetch(url + path)))) {
        assert.equal(response.status, 200)
        await response.text()
      }
      assert.deepEqual(store.calls, [])
    },
  }),
]
