// The adapter for React Router, in a stand-in that runs loaders after actions and renders errors as React Router does.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { getRequestListener } from '@hono/node-server'
import { csrfToken, readForm, type Session, type SessionManagerOptions, session, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import {
  createSessionStorage,
  forReactRouter,
  type ReactRouterAdapterOptions,
  type ReactRouterArgs,
  type ReactRouterMiddleware,
  sessionContext,
} from 'keepsake/react-router'
import { adapterCases, browser, type ServeApplication } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { listening } from '../support/listening.ts'

/** React Router's RouterContextProvider. */
class RouterContextProvider {
  readonly #values = new Map<unknown, unknown>()
  get<T>(key: { defaultValue?: T }): T {
    if (!this.#values.has(key)) throw new Error('No value found for context')
    return this.#values.get(key) as T
  }
  set<T>(key: { defaultValue?: T }, value: T): void {
    this.#values.set(key, value)
  }
}

type Args = { readonly request: Request; readonly context: RouterContextProvider }
type Handler = (args: Args) => unknown
type Route = { readonly action?: Handler; readonly loader?: Handler; readonly isResource?: boolean }
type Router = {
  readonly middleware: ReactRouterMiddleware
  readonly handleError?: (error: unknown, args: Args) => void
  readonly routes: Readonly<Record<string, Route>>
}

type RouteError = {
  readonly status: number
  readonly statusText: string
  readonly internal: boolean
  readonly data: unknown
}

/** React Router's test for an error with a status. */
const isRouteErrorResponse = (error: unknown): error is RouteError => {
  const { status, statusText, internal } = (error ?? {}) as Partial<RouteError>
  const hasData = typeof error === 'object' && error !== null && 'data' in error
  return typeof status === 'number' && typeof statusText === 'string' && typeof internal === 'boolean' && hasData
}

/** The page of an ErrorBoundary, as `query` and `renderHtml` of React Router 8.4 make it. */
const errorPage = async (router: Router, args: Args, error: unknown): Promise<Response> => {
  if (error instanceof Response) {
    if (error.headers.has('location')) return error
    return Response.json({ boundary: error.status, data: await error.text() }, { status: error.status })
  }
  router.handleError?.(error, args)
  const status = isRouteErrorResponse(error) ? error.status : 500
  return Response.json({ boundary: status }, { status })
}

const respond = async (router: Router, request: Request): Promise<Response> => {
  const args: Args = { request, context: new RouterContextProvider() }
  const { action, loader, isResource } = router.routes[new URL(request.url).pathname] ?? {}
  const isMutation = !['GET', 'HEAD'].includes(request.method)
  const next = async (): Promise<Response> => {
    try {
      const actionData = isMutation ? await action?.(args) : undefined
      if (request.signal.aborted) throw request.signal.reason
      if (actionData instanceof Response) return actionData
      if (isResource && isMutation) return Response.json(actionData)
      // The loaders after an action get another Request.
      const { url, headers } = request
      const loaderData = await loader?.(isMutation ? { ...args, request: new Request(url, { headers }) } : args)
      return loaderData instanceof Response ? loaderData : Response.json(loaderData ?? null)
    } catch (error) {
      if (isResource && error instanceof Response) return error
      return errorPage(router, args, error)
    }
  }
  try {
    return await router.middleware(args, next)
  } catch (error) {
    return isResource && error instanceof Response ? error : errorPage(router, args, error)
  }
}

const serve: ServeApplication = ({ manager, handle }) => {
  const middleware = forReactRouter(manager)
  const answer = async (args: Args): Promise<Response> => {
    const { status, headers, body } = await handle(args, args.request)
    return new Response(body, { status, headers })
  }
  const route = { action: answer, loader: answer, isResource: true }
  const routes = new Proxy({}, { get: () => route })
  const router: Router = { middleware, routes, handleError: (error, { context }) => middleware.abandon(context, error) }
  return listening(createServer(getRequestListener((request) => respond(router, request))))
}

suite('React Router', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})

type Fields = { page: string; action: string }

/** An application, and a visitor of it. */
const visited = (
  routes: Router['routes'],
  {
    options = {},
    adapter = {},
    reports = true,
  }: {
    readonly options?: Partial<SessionManagerOptions>
    readonly adapter?: ReactRouterAdapterOptions
    readonly reports?: boolean
  } = {},
) => {
  const manager = sessionManager<Fields>({ backend: 'memory:', ...options })
  const middleware = forReactRouter(manager, adapter)
  const fields: Route = { loader: async ({ context }) => (await session(context)).fields }
  const router: Router = {
    middleware,
    ...(reports && { handleError: (error, { context }) => middleware.abandon(context, error) }),
    routes: { '/fields': fields, ...routes },
  }
  const visit = browser((request) => respond(router, request))
  const fieldsNow = async () => (await visit('/fields')).json()
  return { manager, visit, fieldsNow }
}

const setPage: Handler = async (args) => {
  const s = await session<Fields>(args)
  s.set('page', 'set')
  return s.fields
}

test('the loaders after an action have its session, although their Request is another one', async () => {
  const { visit, fieldsNow } = visited({
    '/': {
      async action(args) {
        const s = await session<Fields>(args)
        s.set('action', 'set')
      },
      loader: setPage,
    },
  })
  const response = await visit('/', { method: 'POST' })
  assert.deepEqual(await response.json(), { page: 'set', action: 'set' })
  assert.equal(response.headers.getSetCookie().length, 1)
  assert.deepEqual(await fieldsNow(), { page: 'set', action: 'set' })
})

test('the session of the arguments, of their context and of their Request is one', async () => {
  const { visit } = visited({
    '/': {
      async loader(args) {
        const all = await Promise.all([session(args), session(args.context), session(args.request)])
        return all.every((one) => one === all[0])
      },
    },
  })
  assert.equal(await (await visit('/')).json(), true)
})

test('an action reads a form by its arguments', async () => {
  const { visit } = visited({
    '/': {
      loader: (args) => csrfToken(args),
      async action(args) {
        const form = await readForm(args)
        return new Response(form.ok ? form.fields.get('name') : form.message)
      },
    },
  })
  const _csrf = await (await visit('/')).json()
  const response = await visit('/', { method: 'POST', body: new URLSearchParams({ _csrf, name: 'anna' }) })
  assert.equal(await response.text(), 'anna')
})

test('a redirect that is thrown is an answer', async () => {
  const { visit, fieldsNow } = visited({
    '/': {
      async action(args) {
        await setPage(args)
        throw Response.redirect('https://app.test/fields', 303)
      },
    },
  })
  assert.equal((await visit('/', { method: 'POST' })).status, 303)
  assert.deepEqual(await fieldsNow(), { page: 'set' })
})

test('a Response that a later middleware throws is an answer', async () => {
  const manager = sessionManager<Fields>({ backend: 'memory:' })
  const middleware = forReactRouter(manager)
  const request = new Request('https://app.test/')
  const context = new RouterContextProvider()
  const response = await middleware({ request, context }, async () => {
    await setPage({ request, context })
    throw Response.redirect('https://app.test/fields', 303)
  })
  assert.deepEqual([response.status, response.headers.getSetCookie().length], [303, 1])
})

test('load sets the session of the context, typed', async () => {
  const { visit } = visited(
    {
      '/': {
        loader({ context }) {
          const s: Session = context.get(sessionContext)
          s.set('page', 'set')
          return s.fields
        },
      },
    },
    { adapter: { load: true } },
  )
  assert.deepEqual(await (await visit('/')).json(), { page: 'set' })
})

suite('errors of loaders', () => {
  const failing: Handler = async (args) => {
    await setPage(args)
    throw new Error('This loader fails.')
  }

  test('abandon in handleError drops the changes, and the page gets Vary', async () => {
    const { visit, fieldsNow } = visited({ '/': { loader: failing } })
    const response = await visit('/')
    assert.deepEqual([response.status, response.headers.get('vary')], [500, 'Cookie'])
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.deepEqual(await fieldsNow(), {})
  })
  test('if the visitor goes away, React Router leaves the handlers, and a part of their changes is not saved', async () => {
    for (const reports of [true, false]) {
      const controller = new AbortController()
      const { visit, fieldsNow } = visited(
        {
          '/abort': {
            async action(args) {
              await setPage(args)
              controller.abort()
            },
          },
        },
        { reports },
      )
      await visit('/abort', { method: 'POST', signal: controller.signal })
      assert.deepEqual(await fieldsNow(), {})
    }
  })
  test('without abandon the page of an ErrorBoundary is saved as any response', async () => {
    const { visit, fieldsNow } = visited({ '/': { loader: failing } }, { reports: false })
    assert.equal((await visit('/')).status, 500)
    assert.deepEqual(await fieldsNow(), { page: 'set' })
  })
  test('an error of the store has a status for the ErrorBoundary, and no text of the store', async () => {
    for (const load of [true, false]) {
      const backend = memoryBackend()
      const errors: unknown[] = []
      const { visit } = visited(
        {
          '/': { loader: setPage },
          '/caught': { loader: (args) => Promise.resolve(setPage(args)).catch((error) => errors.push(error)) },
        },
        { options: { backend }, adapter: { load } },
      )
      await visit('/')
      backend.get = () => {
        throw new Error('The disk of db7 is full.')
      }
      const response = await visit('/')
      assert.deepEqual([response.status, await response.json()], [503, { boundary: 503 }])
      await visit('/caught')
      assert.ok(isRouteErrorResponse(errors[0]))
      assert.match(String(errors[0].data), /^This page is not available/)
    }
  })
})

suite('a session that cannot be saved', () => {
  const application = (options: Partial<SessionManagerOptions> = {}) => {
    const { manager, ...rest } = visited(
      {
        '/': { loader: setPage },
        '/late': {
          async loader({ context }) {
            const s = await session<Fields>(context)
            await manager.revoke(s.label)
            s.set('page', 'lost')
          },
        },
        '/logout': {
          async action({ context }) {
            ;(await session(context)).invalidate()
          },
        },
      },
      { options },
    )
    return rest
  }

  test('the ErrorBoundary gets the status 409 and a text for the visitor', async () => {
    const { visit } = application()
    await visit('/')
    const response = await visit('/late')
    assert.equal(response.status, 409)
    const data = 'Your session ended while this page was open. Nothing was saved. Please reload the page.\n'
    assert.deepEqual(await response.json(), { boundary: 409, data })
  })
  test('a logout that fails clears the cookie, although no ErrorBoundary shows it', async () => {
    const backend = memoryBackend()
    const { visit } = application({ backend })
    await visit('/')
    backend.clear = () => {
      throw new Error('The disk of db7 is full.')
    }
    const response = await visit('/logout', { method: 'POST' })
    assert.equal(response.status, 503)
    assert.match(response.headers.getSetCookie()[0] ?? '', /Max-Age=0/)
    assert.match(await response.text(), /^This page is not available/)
  })
  test('errorResponse renders the response', async () => {
    const { visit } = application({ errorResponse: (kind) => new Response(kind, { status: 409 }) })
    await visit('/')
    assert.equal(await (await visit('/late')).text(), 'ended')
  })
})

test('a context that belonged to another request is refused, because two visitors would share a session', async () => {
  const middleware = forReactRouter(sessionManager<Fields>({ backend: 'memory:' }))
  const context = new RouterContextProvider()
  const send = () => middleware({ request: new Request('https://app.test/'), context }, async () => new Response())
  await send()
  await assert.rejects(send(), code('invalid_option'))
})

test('mounted twice it does nothing', async () => {
  const manager = sessionManager<Fields>({ backend: 'memory:' })
  const [first, second] = [forReactRouter(manager), forReactRouter(manager)]
  const middleware = Object.assign(
    (args: ReactRouterArgs, next: () => Promise<Response>) => first(args, () => second(args, next)),
    { abandon: first.abandon },
  )
  const response = await respond({ middleware, routes: { '/': { loader: setPage } } }, new Request('https://app.test/'))
  assert.equal(response.headers.getSetCookie().length, 1)
})

test('wrong options throw invalid_option', () => {
  const manager = sessionManager({ backend: 'memory:' })
  assert.throws(() => forReactRouter(manager, { load: 1 as never }), code('invalid_option'))
  assert.throws(() => forReactRouter({} as never), code('invalid_option'))
})

suite('createSessionStorage', () => {
  type Data = { n: number; name: string }
  type FlashData = { error: string }
  const stored = () => {
    const manager = sessionManager({ backend: 'memory:' })
    const storage = createSessionStorage<Data, FlashData>(manager)
    return { manager, storage }
  }
  const cookieOf = (line: string): string => line.slice(0, line.indexOf(';'))

  test('a session is there in the next request', async () => {
    const { storage } = stored()
    const first = await storage.getSession()
    assert.deepEqual([first.has('n'), first.get('n'), first.data], [false, undefined, {}])
    first.set('n', 1)
    const cookie = cookieOf(await storage.commitSession(first))
    assert.match(cookie, /^__Host-Http-sid=[\w-]{43}$/)
    const second = await storage.getSession(cookie)
    assert.deepEqual([second.has('n'), second.get('n'), second.data], [true, 1, { n: 1 }])
    assert.equal(second.id.length, 12)
    second.unset('n')
    assert.equal(await storage.commitSession(second), '')
    assert.equal((await storage.getSession(cookie)).has('n'), false)
  })
  test('a message of flash is there until it is read', async () => {
    const { storage } = stored()
    const first = await storage.getSession(null)
    first.flash('error', 'An error.')
    const cookie = cookieOf(await storage.commitSession(first))
    const second = await storage.getSession(cookie)
    assert.deepEqual([second.has('error'), second.get('error'), second.get('error')], [true, 'An error.', undefined])
    await storage.commitSession(second)
    assert.equal((await storage.getSession(cookie)).has('error'), false)
  })
  test('two requests at once keep the changes of both', async () => {
    const { storage } = stored()
    const first = await storage.getSession()
    first.set('n', 0)
    const cookie = cookieOf(await storage.commitSession(first))
    const [one, other] = await Promise.all([storage.getSession(cookie), storage.getSession(cookie)])
    one.set('n', 1)
    other.set('name', 'anna')
    await Promise.all([storage.commitSession(one), storage.commitSession(other)])
    assert.deepEqual((await storage.getSession(cookie)).data, { n: 1, name: 'anna' })
  })
  test('a second commit of a session returns the same cookie', async () => {
    const { storage } = stored()
    const s = await storage.getSession()
    s.set('n', 1)
    assert.equal(await storage.commitSession(s), await storage.commitSession(s))
    assert.throws(() => s.set('n', 2), code('too_late'))
  })
  test('destroySession ends the session, and a request in progress does not bring it back', async () => {
    const { storage } = stored()
    const first = await storage.getSession()
    first.set('n', 1)
    const cookie = cookieOf(await storage.commitSession(first))
    const slow = await storage.getSession(cookie)
    slow.set('n', 2)
    assert.match(await storage.destroySession(await storage.getSession(cookie)), /^__Host-Http-sid=; Max-Age=0/)
    await assert.rejects(storage.commitSession(slow), (error) => {
      assert.ok(code('ended')(error) && isRouteErrorResponse(error))
      return error.status === 409
    })
    assert.deepEqual((await storage.getSession(cookie)).data, {})
  })
  test('cookie options and sessions of another storage are refused', async () => {
    const { storage } = stored()
    const s = await storage.getSession()
    await assert.rejects(storage.commitSession(s, { maxAge: 60 }), code('invalid_option'))
    await assert.rejects(storage.destroySession(s, { path: '/' }), code('invalid_option'))
    await assert.rejects(storage.commitSession({ ...s }), code('invalid_option'))
  })
  test('with the address of the application, it shares the cookie with the middleware over plain HTTP', async () => {
    const { manager } = stored()
    const storage = createSessionStorage<Data>(manager, { url: 'http://localhost:3000' })
    const s = await storage.getSession()
    s.set('n', 1)
    assert.match(await storage.commitSession(s), /^sid-3000=/)
  })
})
