// Serves the schema on node:http and on Fetch, and calls it over sockets.

import assert from 'node:assert/strict'
import { sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { listening } from '../../test/support/listening.ts'
import { after, call, check, checks } from '../checks.ts'
import { onFetch, onNode, slow } from './yoga.ts'

type Serve = (manager: ReturnType<typeof sessionManager>) => Promise<{ readonly url: string; close(): unknown }>

const servers: Readonly<Record<string, Serve>> = {
  'node:http': (manager) => listening(onNode(manager)),
  Fetch: async (manager) => serve(onFetch(manager), { port: 0 }),
}

const visitor = (url: string) => {
  const visit = browser((request) => fetch(request), { origin: url })
  const send = (query: string) =>
    visit('/graphql', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query }),
    })
  const data = async (query: string) => ((await (await send(query)).json()) as { data: Record<string, unknown> }).data
  return { send, data }
}

const visitAll = async (name: string, serve: Serve) => {
  const manager = sessionManager({ backend: 'memory:' })
  const { url, close } = await serve(manager)
  after(close)

  await check(`${name}: a login, a cart and a logout`, async () => {
    const { data } = visitor(url)
    assert.deepEqual(await data('mutation { login(name: "anna") }'), { login: 'anna' })
    assert.deepEqual(await data('mutation { add(item: "tea") }'), { add: 1 })
    assert.deepEqual(await data('{ owner cart }'), { owner: 'anna', cart: ['tea'] })
    assert.deepEqual(await data('mutation { logout }'), { logout: true })
    assert.deepEqual(await data('{ owner cart }'), { owner: null, cart: [] })
  })
  await check(`${name}: ten mutations at once keep ten items, in ten requests or in one`, async () => {
    const { data } = visitor(url)
    await data('mutation { login(name: "anna") }')
    await Promise.all(Array.from({ length: 10 }, (_, i) => data(`mutation { add(item: "${i}") }`)))
    await data(`mutation { ${Array.from({ length: 10 }, (_, i) => `a${i}: add(item: "${i}")`).join(' ')} }`)
    assert.equal(((await data('{ cart }')).cart as unknown[]).length, 20)
  })
  await check(`${name}: a query that does not use the session has no cookie and no Vary: Cookie`, async () => {
    const response = await visitor(url).send('{ __typename }')
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.doesNotMatch(response.headers.get('vary') ?? '', /cookie/i)
  })
  await check(
    `${name}: a resolver that throws is one error of an answer, and the change before it is saved`,
    async () => {
      const { data } = visitor(url)
      await data('mutation { fail }')
      assert.deepEqual(await data('{ cart }'), { cart: ['before the error'] })
    },
  )
  await check(`${name}: a mutation whose session ends in the meantime is 409, and nothing of its answer`, async () => {
    const { send, data } = visitor(url)
    await data('mutation { login(name: "anna") }')
    slow.work = () => manager.revokeAll('anna')
    const response = await send('mutation { add(item: "tea") }')
    slow.work = async () => undefined
    assert.equal(response.status, 409)
    assert.match(await response.text(), /^Your session/)
  })
}

await checks(async () => {
  await check('the schema has the right types in strict mode', () => call(import.meta.dirname, 'npm', 'run', 'types'))
  for (const [name, serve] of Object.entries(servers)) await visitAll(name, serve)
})
