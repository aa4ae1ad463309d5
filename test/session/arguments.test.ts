// Further arguments of handlers: every middleware passes on all that a platform or a framework gives.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import {
  cookieSessions,
  crossOriginProtection,
  fileSessions,
  type Handler,
  memorySessions,
  session,
  sessionManager,
  sqlSessions,
} from 'keepsake'
import { logger } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import { folder } from '../support/folder.ts'
import { SECRET } from '../support/requests.ts'

type Route = { readonly params: Promise<{ readonly id: string }> }
type Env = { readonly GREETING: string }
type Platform = { waitUntil(work: Promise<unknown>): void }
type RouteHandler = Handler<Request, [Route]>
type WorkerHandler = Handler<Request, [Env, Platform]>

const silent = { write: () => {} }

/** Each middleware, as a function that wraps a handler with any further arguments. */
const middlewares = (t: TestContext) => {
  const inFolder = (scheme: string) => `${scheme}:${join(folder(t), 'sessions')}`
  const each = {
    sessionManager: <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) =>
      sessionManager({ backend: 'memory:' })(next),
    memorySessions: <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) => memorySessions(next),
    sqlSessions: <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) =>
      sqlSessions(next, { backend: inFolder('sqlite') }),
    fileSessions: <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) =>
      fileSessions(next, { backend: inFolder('file') }),
    cookieSessions: <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) =>
      cookieSessions(next, { secret: SECRET }),
    'crossOriginProtection in a manager': <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) =>
      memorySessions(crossOriginProtection(next)),
    'logger around two managers': <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) =>
      logger(memorySessions(sessionManager({ backend: 'memory:', cookie: { name: 'inner' } })(next)), silent),
    'a manager twice': <Rest extends readonly unknown[]>(next: Handler<Request, Rest>) => {
      const manager = sessionManager({ backend: 'memory:' })
      return manager(crossOriginProtection(manager(next)))
    },
  }
  return each
}

for (const name of Object.keys(middlewares({} as never)) as (keyof ReturnType<typeof middlewares>)[]) {
  suite(`${name} passes on`, () => {
    test('the context of a route', async (t) => {
      const page: RouteHandler = async (request, { params }) => {
        const { id } = await params
        const s = await session(request)
        s.update('ids', (ids = []) => [...ids, id])
        return Response.json(s.get('ids'))
      }
      const route = middlewares(t)[name](page)
      t.after(() => route.close?.())
      let id = 'a'
      const visit = browser((request) => route(request, { params: Promise.resolve({ id }) }))
      assert.deepEqual(await (await visit('/')).json(), ['a'])
      id = 'b'
      const post = { method: 'POST', headers: { 'sec-fetch-site': 'same-origin' } }
      assert.deepEqual(await (await visit('/', post)).json(), ['a', 'b'])
    })

    test('the environment and the context of a worker, the very objects', async (t) => {
      const env: Env = { GREETING: 'Hello' }
      const works: Promise<unknown>[] = []
      const ctx: Platform = { waitUntil: (work) => works.push(work) }
      let args: unknown[] = []
      const worker: WorkerHandler = (...all) => {
        args = all
        const [request, { GREETING }, { waitUntil }] = all
        waitUntil(session(request))
        return new Response(GREETING)
      }
      const fetch = middlewares(t)[name](worker)
      t.after(() => fetch.close?.())
      const request = new Request('https://app.test/')
      assert.equal(await (await fetch(request, env, ctx)).text(), 'Hello')
      assert.equal(args.length, 3)
      assert.ok(args[0] === request && args[1] === env && args[2] === ctx)
      await Promise.all(works)
      assert.equal(works.length, 1)
    })
  })
}

test('a handler gets as many arguments as its caller gave, also undefined ones and none', async () => {
  const counts: number[] = []
  const page = sessionManager({ backend: 'memory:' })(
    crossOriginProtection((...args: [Request, ...unknown[]]) => {
      counts.push(args.length)
      return new Response()
    }),
  )
  const request = () => new Request('https://app.test/')
  await page(request())
  await page(request(), undefined)
  await page(request(), undefined, null, 3)
  assert.deepEqual(counts, [1, 2, 4])
})
