// Serves the procedures by each server, and calls them over sockets.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { createTRPCClient, httpBatchLink, httpBatchStreamLink, httpLink, splitLink, type TRPCLink } from '@trpc/client'
import { sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { listening } from '../../test/support/listening.ts'
import { after, call, check, checks } from '../checks.ts'
import { type Router, slow } from './router.ts'
import { errorResponse, onExpress, onFetch, standalone } from './servers.ts'

type Serve = (manager: ReturnType<typeof sessionManager>) => Promise<{ readonly url: string; close(): unknown }>

const servers: Readonly<Record<string, Serve>> = {
  standalone: (manager) => listening(createServer(standalone(manager))),
  Express: (manager) => listening(createServer(onExpress(manager))),
  Fetch: async (manager) => serve(onFetch(manager), { port: 0 }),
}

type LinkOptions = { url: string; fetch: never }

/** Queries as a stream, and mutations whose cookies can be sent. */
const streamOfQueries = (options: LinkOptions): TRPCLink<Router> =>
  splitLink({
    condition: ({ type }) => type === 'mutation',
    true: httpBatchLink(options),
    false: httpBatchStreamLink(options),
  })

const links: Readonly<Record<string, (options: LinkOptions) => TRPCLink<Router>>> = {
  httpLink,
  httpBatchLink,
  'httpBatchStreamLink for queries': streamOfQueries,
}

const visitor = (url: string, link: (options: LinkOptions) => TRPCLink<Router> = httpBatchLink) => {
  const visit = browser((request) => fetch(request), { origin: url })
  const send = (path: unknown, init: unknown) => visit(String(path), init as RequestInit)
  return createTRPCClient<Router>({ links: [link({ url, fetch: send as never })] })
}

const visitAll = async (name: string, serve: Serve) => {
  const store = memoryBackend()
  const failing = { fails: false }
  const get: typeof store.get = (...args) => {
    if (failing.fails) throw new Error('The store at 10.0.0.1 failed.')
    return store.get(...args)
  }
  const backend = Object.assign(Object.create(store), { get })
  const manager = sessionManager({ backend, secret: crypto.getRandomValues(new Uint8Array(32)), errorResponse })
  const { url, close } = await serve(manager)
  after(close)

  for (const [kind, link] of Object.entries(links)) {
    await check(`${name}, ${kind}: a login, a cart and a logout`, async () => {
      const client = visitor(url, link)
      await assert.rejects(client.account.query(), /UNAUTHORIZED/)
      await client.login.mutate('anna')
      assert.equal(await client.account.query(), 'anna')
      await client.add.mutate('tea')
      assert.deepEqual(await client.cart.query(), ['tea'])
      await client.logout.mutate()
      assert.deepEqual(await client.cart.query(), [])
    })
  }
  await check(`${name}: ten calls at once keep ten items, in one batch or in ten requests`, async () => {
    for (const link of [httpLink, httpBatchLink]) {
      const client = visitor(url, link)
      await client.login.mutate('anna')
      await Promise.all(Array.from({ length: 10 }, (_, i) => client.add.mutate(`${i}`)))
      assert.equal((await client.cart.query()).length, 10)
    }
  })
  await check(`${name}, httpBatchLink: a slow call of a batch is saved`, async () => {
    const client = visitor(url)
    await client.login.mutate('anna')
    await Promise.all([client.cart.query(), client.addSlowly.mutate('tea')])
    assert.deepEqual(await client.cart.query(), ['tea'])
  })
  await check(`${name}, httpBatchStreamLink: every mutation gets too_late, because the head has left`, async () => {
    const client = visitor(url, httpBatchStreamLink)
    await assert.rejects(client.addSlowly.mutate('tea'), /after the response/)
    assert.deepEqual(await client.cart.query(), [])
  })
  await check(`${name}, httpBatchStreamLink: a slow query reads the session`, async () => {
    const client = visitor(url, streamOfQueries)
    await client.login.mutate('anna')
    await client.add.mutate('tea')
    const answers = await Promise.all([client.cart.query(), client.cartSlowly.query()])
    assert.deepEqual(answers, [['tea'], ['tea']])
  })
  await check(`${name}: a store that fails is 503, without the text of its error`, async () => {
    const client = visitor(url, httpLink)
    await client.login.mutate('anna')
    failing.fails = true
    await assert
      .rejects(client.cart.query(), (error) => {
        const { message, data } = error as { message: string; data: { httpStatus: number } }
        assert.deepEqual([message, data.httpStatus], ['Please try again.', 503])
        return true
      })
      .finally(() => {
        failing.fails = false
      })
  })
  await check(`${name}: a call whose session ends in the meantime is refused, and saves nothing`, async () => {
    const client = visitor(url, httpLink)
    await client.login.mutate('anna')
    const { work } = slow
    slow.work = () => manager.revokeAll('anna')
    await assert.rejects(client.addSlowly.mutate('tea'), {
      message: 'Nothing was saved: ended.',
      data: { code: 'ended', httpStatus: 409 },
    })
    slow.work = work
    assert.deepEqual(await client.cart.query(), [])
  })
}

await checks(async () => {
  await check('the procedures have the right types in strict mode', () =>
    call(import.meta.dirname, 'npm', 'run', 'types'),
  )
  for (const [name, serve] of Object.entries(servers)) await visitAll(name, serve)
})
