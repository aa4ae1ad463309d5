// The adapter for SvelteKit, in a stand-in that copies events, catches errors and fetches from itself as SvelteKit does.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { getRequestListener } from '@hono/node-server'
import { addFlash, type SessionManagerOptions, session, sessionManager, takeFlash } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import {
  forSvelteKit,
  type SvelteKitAdapterOptions,
  type SvelteKitEvent,
  type SvelteKitHandle,
} from 'keepsake/sveltekit'
import { adapterCases, browser, type ServeApplication } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { listening } from '../support/listening.ts'

type Event = SvelteKitEvent & { readonly url: URL; fetch(path: string): Promise<Response> }
type Route = (event: Event) => Promise<Response> | Response
type Resolve = (event: Event) => Promise<Response>
type Hook = (input: { readonly event: Event; readonly resolve: Resolve }) => Promise<Response> | Response

type Kit = {
  readonly handle: Hook
  readonly handleError?: (input: { readonly event: Event; readonly error: unknown }) => void
  readonly routes: Readonly<Record<string, Route>>
}

/** The classes of SvelteKit, which the adapter cannot import. */
class Redirect {
  readonly status: number
  readonly location: string
  constructor(status: number, location: string) {
    this.status = status
    this.location = location
  }
}

const errorPage = (): Response => new Response('Internal Error', { status: 500 })

/** Responds to a request as `respond` of SvelteKit 3.2 does (src/runtime/server/respond.js). */
const respond = async (kit: Kit, request: Request, depth = 0): Promise<Response> => {
  const url = new URL(request.url)
  const isDataRequest = url.pathname.endsWith('/__data.json')
  const cookies: string[] = []
  const addCookies = (response: Response): Response => {
    const copy = new Response(response.body, response)
    for (const line of cookies) copy.headers.append('set-cookie', line)
    return copy
  }
  const event: Event = {
    request,
    url,
    locals: {},
    isDataRequest,
    isSubRequest: depth > 0,
    cookies: {
      set(name, value, { encode, path, ...options }) {
        const { maxAge } = options as { maxAge?: number }
        cookies.push(`${name}=${encode(value)}; Path=${path}; Max-Age=${maxAge}; Secure; HttpOnly`)
      },
    },
    async fetch(path) {
      const headers = new Headers({ cookie: request.headers.get('cookie') ?? '' })
      const response = await respond(kit, new Request(new URL(path, url), { headers }), depth + 1)
      cookies.push(...response.headers.getSetCookie())
      return response
    },
  }
  const fail = (error: unknown): Response => {
    kit.handleError?.({ event, error })
    return errorPage()
  }
  const resolve: Resolve = async (event) => {
    const route = kit.routes[url.pathname.replace('/__data.json', '')]
    if (route === undefined) return addCookies(new Response('Not found', { status: 404 }))
    try {
      return addCookies(await route({ ...event }))
    } catch (error) {
      if (error instanceof Redirect) {
        return addCookies(new Response(null, { status: error.status, headers: { location: error.location } }))
      }
      kit.handleError?.({ event, error })
      return addCookies(errorPage())
    }
  }
  try {
    return await kit.handle({ event: { ...event }, resolve: (event) => resolve({ ...event }) })
  } catch (error) {
    if (!(error instanceof Redirect)) return fail(error)
    return addCookies(new Response(null, { status: error.status, headers: { location: error.location } }))
  }
}

const serve: ServeApplication = ({ manager, handle }) => {
  const sessions = forSvelteKit(manager)
  const answer: Route = async (event) => {
    const { status, headers, body } = await handle(event, event.request)
    return new Response(body, { status, headers })
  }
  const kit: Kit = {
    handle: ({ event }) => sessions({ event: { ...event }, resolve: (event) => resolveError(event) }),
    routes: {},
  }
  const resolveError: Resolve = async (event) => {
    try {
      return await answer({ ...event })
    } catch (error) {
      sessions.abandon(event, error)
      return errorPage()
    }
  }
  return listening(createServer(getRequestListener((request) => respond(kit, request))))
}

suite('SvelteKit', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})

type Fields = { page: string; api: string }

/** An application, and a visitor of it. */
const visited = (
  routes: Kit['routes'],
  {
    options = {},
    adapter = {},
    hook = (sessions) => sessions,
    reports = true,
  }: {
    readonly options?: Partial<SessionManagerOptions>
    readonly adapter?: SvelteKitAdapterOptions
    /** Wraps the adapter in other hooks. */
    readonly hook?: (sessions: SvelteKitHandle) => Hook
    readonly reports?: boolean
  } = {},
) => {
  const manager = sessionManager<Fields>({ backend: 'memory:', ...options })
  const sessions = forSvelteKit(manager, adapter)
  const fields: Route = async (event) => Response.json((await session(event)).fields)
  const kit: Kit = {
    handle: hook(sessions),
    ...(reports && { handleError: ({ event, error }) => sessions.abandon(event, error) }),
    routes: { '/fields': fields, ...routes },
  }
  const visit = browser((request) => respond(kit, request))
  const fieldsNow = async () => (await visit('/fields')).json()
  return { manager, visit, fieldsNow }
}

const setPage: Route = async (event) => {
  const s = await session<Fields>(event)
  s.set('page', 'set')
  return new Response('A page.')
}

/** Sets a field of a session that ends while the request is in progress. */
const setTooLate = (manager: () => { revoke(label: string): Promise<void> }): Route => {
  return async (event) => {
    const s = await session<Fields>(event)
    await manager().revoke(s.label)
    s.set('page', 'lost')
    return new Response('Never sent.')
  }
}

/** A backend that fails from the call of `fail` on. */
const failingBackend = () => {
  const backend = memoryBackend()
  let isFailing = false
  const get: typeof backend.get = (...args) => {
    if (isFailing) throw new Error('The disk of db7 is full.')
    return backend.get(...args)
  }
  return {
    backend: { ...backend, get },
    fail() {
      isFailing = true
    },
  }
}

/** A hook after the adapter that redirects. */
const redirectIn =
  (sessions: SvelteKitHandle): Hook =>
  ({ event, resolve }) =>
    sessions({
      event,
      async resolve(event) {
        if (event.url.pathname !== '/members') return resolve(event)
        addFlash(event, 'info', 'Please log in.')
        throw new Redirect(303, '/login')
      },
    })

suite('requests that SvelteKit makes for itself', () => {
  const page: Route = async (event) => {
    const s = await session<Fields>(event)
    s.set('page', 'set')
    const { api } = (await (await event.fetch('/api')).json()) as Fields
    return new Response(`${api} ${s.get('api')}`)
  }
  const api: Route = async (event) => {
    const s = await session<Fields>(event)
    s.set('api', s.get('page') ?? 'missing')
    return Response.json(s.fields)
  }

  test('event.fetch has the session of the page: an anonymous visitor gets one session and one cookie', async () => {
    const { visit, fieldsNow } = visited({ '/': page, '/api': api })
    const response = await visit('/')
    assert.equal(await response.text(), 'set set')
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.deepEqual(await fieldsNow(), { page: 'set', api: 'set' })
  })
  test('two pages at once keep their requests apart', async () => {
    const { visit } = visited({ '/': page, '/api': api })
    const visitors = Array.from({ length: 20 }, () => visit.copy())
    await Promise.all(visitors.map((visit) => visit('/')))
    const cookies = visitors.map(({ cookies }) => [...cookies.values()][0])
    assert.equal(new Set(cookies).size, 20)
  })
  test('event.fetch after the head has left reads the session, and a change is too late', async () => {
    const { promise: late, resolve } = Promise.withResolvers<Response>()
    const { visit, fieldsNow } = visited({
      '/': async (event) => {
        await setPage(event)
        setImmediate(() => resolve(event.fetch('/api')))
        return new Response('A page.')
      },
      '/api': async (event) => {
        const s = await session<Fields>(event)
        const refused = await Promise.resolve()
          .then(() => s.set('api', 'late'))
          .catch(({ code }) => code)
        return Response.json([s.get('page'), refused])
      },
    })
    await visit('/')
    assert.deepEqual(await (await late).json(), ['set', 'too_late'])
    assert.deepEqual(await fieldsNow(), { page: 'set' })
  })
  test('an error in event.fetch leaves the changes of the page, which decides about it', async () => {
    const failing: Route = async (event) => {
      await session(event)
      throw new Error('This endpoint fails.')
    }
    const { visit, fieldsNow } = visited({
      '/': async (event) => {
        const { status } = await event.fetch('/api')
        assert.equal(status, 500)
        return setPage(event)
      },
      '/api': failing,
    })
    assert.equal((await visit('/')).status, 200)
    assert.deepEqual(await fieldsNow(), { page: 'set' })
  })
})

suite('redirects of later hooks', () => {
  test('a redirect that is thrown is an answer: it is saved, and SvelteKit adds the cookies', async () => {
    const { visit } = visited(
      { '/login': async (event) => Response.json((await takeFlash(event)).map(({ text }) => text)) },
      { hook: redirectIn },
    )
    const response = await visit('/members')
    assert.deepEqual([response.status, response.headers.get('location')], [303, '/login'])
    assert.deepEqual(await (await visit('/login')).json(), ['Please log in.'])
  })
  test('a redirect whose session cannot be saved is 503', async () => {
    const { backend, fail } = failingBackend()
    const { visit } = visited({ '/': setPage }, { hook: redirectIn, options: { backend } })
    await visit('/')
    fail()
    const response = await visit('/members')
    assert.equal(response.status, 503)
    assert.equal(response.headers.get('location'), null)
  })
})

suite('errors of handlers', () => {
  const failing: Route = async (event) => {
    await setPage(event)
    throw new Error('This handler fails.')
  }

  test('abandon in handleError drops the changes, and the page gets Vary', async () => {
    const { visit, fieldsNow } = visited({ '/': failing })
    const response = await visit('/')
    assert.equal(response.status, 500)
    assert.equal(response.headers.get('vary'), 'Cookie')
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.deepEqual(await fieldsNow(), {})
  })
  test('without abandon the page of an error is saved as any response', async () => {
    const { visit, fieldsNow } = visited({ '/': failing }, { reports: false })
    assert.equal((await visit('/')).status, 500)
    assert.deepEqual(await fieldsNow(), { page: 'set' })
  })
  test('the page of an error that a failing store caused has the status 503 and its own text', async () => {
    for (const reports of [true, false]) {
      const { backend, fail } = failingBackend()
      const { visit } = visited({ '/': setPage }, { reports, options: { backend } })
      await visit('/')
      fail()
      const response = await visit('/')
      assert.deepEqual([response.status, await response.text()], [503, 'Internal Error'])
      assert.equal(response.headers.get('cache-control'), 'no-store')
    }
  })
  test('errorResponse renders that 503', async () => {
    const { backend, fail } = failingBackend()
    const errorResponse = (kind: string) => new Response(kind, { status: 503 })
    const { visit } = visited({ '/': setPage }, { options: { backend, errorResponse } })
    await visit('/')
    fail()
    const response = await visit('/')
    assert.deepEqual([response.status, await response.text()], [503, 'unavailable'])
  })
})

suite('a session that cannot be saved', () => {
  const late = (options: Partial<SessionManagerOptions> = {}) => {
    const application = visited({ '/': setPage, '/late': setTooLate(() => application.manager) }, { options })
    return application
  }

  test('a page gets the status 409 and a text', async () => {
    const { visit } = late()
    await visit('/')
    const response = await visit('/late')
    assert.equal(response.status, 409)
    assert.match(await response.text(), /^Your session ended/)
  })
  test('the code of SvelteKit in the browser gets JSON that it understands', async () => {
    const message = 'Your session ended while this page was open. Nothing was saved. Please reload the page.'
    const accept = 'application/json'
    for (const [path, headers, expected] of [
      ['/late/__data.json', {}, { status: 409, message }],
      ['/late', { accept }, { status: 409, message }],
      ['/late', { accept, 'x-sveltekit-action': 'true' }, { type: 'error', error: { status: 409, message } }],
    ] as const) {
      const { visit } = late()
      await visit('/')
      const response = await visit(path, { headers })
      assert.equal(response.status, 409)
      assert.deepEqual(await response.json(), expected)
    }
  })
  test('errorResponse renders the response', async () => {
    const { visit } = late({ errorResponse: (kind) => new Response(kind, { status: 409 }) })
    await visit('/')
    assert.equal(await (await visit('/late')).text(), 'ended')
  })
})

suite('the option load', () => {
  test('load sets event.locals.session', async () => {
    const { visit } = visited(
      {
        '/': ({ locals }) =>
          Response.json('session' in locals && (locals.session as { owner?: string }).owner === undefined),
      },
      { adapter: { load: true } },
    )
    assert.equal(await (await visit('/')).json(), true)
  })
  test('the session of event.fetch is that of the page', async () => {
    const { visit } = visited(
      {
        '/': async (event) => {
          await setPage(event)
          return event.fetch('/fields')
        },
      },
      { adapter: { load: true } },
    )
    assert.deepEqual(await (await visit('/')).json(), { page: 'set' })
  })
})

test('mounted twice it does nothing', async () => {
  const { visit, fieldsNow } = visited(
    { '/': setPage },
    { hook: (sessions) => (input) => sessions({ ...input, resolve: (event) => sessions({ ...input, event }) }) },
  )
  assert.equal((await visit('/')).headers.getSetCookie().length, 1)
  assert.deepEqual(await fieldsNow(), { page: 'set' })
})

test('the locals of an event refer to its session', async () => {
  const { visit } = visited({ '/': async ({ locals }) => Response.json((await session(locals)).fields) })
  assert.deepEqual(await (await visit('/')).json(), {})
})

test('wrong options throw invalid_option', () => {
  const manager = sessionManager({ backend: 'memory:' })
  assert.throws(() => forSvelteKit(manager, { load: 1 as never }), code('invalid_option'))
  assert.throws(() => forSvelteKit({} as never), code('invalid_option'))
})
