// The adapter for Astro, in a stand-in that rewrites, streams and renders pages for errors as Astro does.

import assert from 'node:assert/strict'
import { AsyncResource } from 'node:async_hooks'
import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { getRequestListener } from '@hono/node-server'
import { csrfTag, KeepsakeError, type SessionManagerOptions, session, sessionManager } from 'keepsake'
import { type AstroAdapterOptions, type AstroContext, type AstroMiddleware, forAstro } from 'keepsake/astro'
import { memoryBackend } from 'keepsake/memory'
import { adapterCases, browser, type ServeApplication } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { listening } from '../support/listening.ts'

type Context = AstroContext & { rewrite(path: string): Promise<Response> }
type Page = (Astro: Context) => Promise<Response> | Response
type Application = { readonly onRequest: AstroMiddleware; readonly pages: Readonly<Record<string, Page>> }

/** The state of a request of Astro 7.3 (src/core/fetch/fetch-state.ts): a rewrite replaces its request and its context. */
class FetchState {
  readonly #application: Application
  readonly #locals: object
  readonly #isPrerendered: boolean
  request: Request

  constructor(application: Application, request: Request, locals: object, isPrerendered: boolean) {
    this.#application = application
    this.request = request
    this.#locals = locals
    this.#isPrerendered = isPrerendered
  }

  rewriteTo(path: string): void {
    const { method, headers } = this.request
    this.request = new Request(new URL(path, this.request.url), { method, headers })
  }

  context(): Context {
    const rewrite = (path: string) => {
      this.rewriteTo(path)
      return this.respond()
    }
    return { request: this.request, locals: this.#locals, isPrerendered: this.#isPrerendered, rewrite }
  }

  async respond(): Promise<Response> {
    return this.#application.onRequest(this.context(), async () => {
      const { pathname } = new URL(this.request.url)
      // The object of a page is none that a middleware gets.
      const page = this.#application.pages[pathname] ?? (() => new Response(null, { status: 404 }))
      return page(this.context())
    })
  }
}

const respond = async (application: Application, request: Request, isPrerendered = false): Promise<Response> => {
  const locals = {}
  const showError = (status: number) => {
    const state = new FetchState(application, request, locals, isPrerendered)
    state.rewriteTo(`/${status}`)
    return state.respond()
  }
  try {
    const response = await new FetchState(application, request, locals, isPrerendered).respond()
    if (response.status !== 404 || response.body !== null) return response
    const page = await showError(404)
    const headers = new Headers(response.headers)
    for (const line of page.headers.getSetCookie()) headers.append('set-cookie', line)
    return new Response(page.body, { status: 404, headers })
  } catch {
    const page = await showError(500)
    return new Response(page.body, { status: 500, headers: page.headers })
  }
}

const serve: ServeApplication = ({ manager, handle }) => {
  const sessions = forAstro(manager)
  const onRequest: AstroMiddleware = (context) =>
    sessions(context, async () => {
      const { status, headers, body } = await handle(context, context.request)
      return new Response(body, { status, headers })
    })
  return listening(createServer(getRequestListener((request) => respond({ onRequest, pages: {} }, request))))
}

suite('Astro', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})

type Fields = { page: string; second: string }

/** An application, and a visitor of it. */
const visited = (
  pages: Application['pages'],
  {
    options = {},
    adapter = {},
    after = (_, next) => next(),
  }: {
    readonly options?: Partial<SessionManagerOptions>
    readonly adapter?: AstroAdapterOptions
    /** A middleware after the adapter. */
    readonly after?: AstroMiddleware
  } = {},
) => {
  const manager = sessionManager<Fields>({ backend: 'memory:', ...options })
  const sessions = forAstro(manager, adapter)
  const fields: Page = async (Astro) => Response.json((await session(Astro)).fields)
  const application: Application = {
    onRequest: (context, next) => sessions(context, async () => after(context, next)),
    pages: { '/fields': fields, '/404': fields, '/500': fields, ...pages },
  }
  const visit = browser((request) => respond(application, request))
  const fieldsNow = async () => (await visit('/fields')).json()
  return { manager, application, visit, fieldsNow }
}

const set =
  (field: keyof Fields): Page =>
  async (Astro) => {
    const s = await session<Fields>(Astro)
    s.set(field, 'set')
    return Response.json(s.fields)
  }

suite('rewrites', () => {
  test('Astro.rewrite has the session of the first page: an anonymous visitor gets one session and one cookie', async () => {
    const { visit, fieldsNow } = visited({
      '/': async (Astro) => {
        await set('page')(Astro)
        return Astro.rewrite('/second')
      },
      '/second': set('second'),
    })
    const response = await visit('/')
    assert.deepEqual(await response.json(), { page: 'set', second: 'set' })
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.deepEqual(await fieldsNow(), { page: 'set', second: 'set' })
  })
  test('a page has the session, also if a later middleware has replaced its request', async () => {
    const { visit, application } = visited(
      { '/second': set('second') },
      {
        // As `next('/second')`: only the locals stay.
        after: ({ locals }) => {
          const request = new Request('https://app.test/second')
          return application.pages['/second']?.({
            request,
            locals,
            isPrerendered: false,
          } as Context) as Promise<Response>
        },
      },
    )
    assert.deepEqual(await (await visit('/')).json(), { second: 'set' })
  })
})

suite('errors', () => {
  const failing: Page = async (Astro) => {
    await set('page')(Astro)
    throw new Error('This page fails.')
  }

  test('a page that throws saves nothing, and the page for 500 has a session', async () => {
    const { visit, fieldsNow } = visited({ '/': failing })
    const response = await visit('/')
    assert.deepEqual([response.status, await response.json()], [500, {}])
    assert.deepEqual(response.headers.getSetCookie(), [])
    assert.deepEqual(await fieldsNow(), {})
  })
  test('the page for 500 may contain a form token', async () => {
    const { visit } = visited({ '/': failing, '/500': async (Astro) => new Response(await csrfTag(Astro)) })
    const response = await visit('/')
    assert.match(await response.text(), /name="_csrf"/)
    assert.match(response.headers.getSetCookie()[0] ?? '', /^__Host-Http-sid-pre=/)
  })
  test('the page for 404 has the session, and the cookie of the first response stays', async () => {
    const { visit, fieldsNow } = visited({
      '/': async (Astro) => {
        await set('page')(Astro)
        return new Response(null, { status: 404 })
      },
    })
    const response = await visit('/')
    assert.equal(response.status, 404)
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.deepEqual(await fieldsNow(), { page: 'set' })
  })
  test('a Response that is thrown is an answer', async () => {
    const { visit, fieldsNow } = visited({
      '/': async (Astro) => {
        await set('page')(Astro)
        throw Response.redirect('https://app.test/fields', 303)
      },
    })
    assert.equal((await visit('/')).status, 303)
    assert.deepEqual(await fieldsNow(), { page: 'set' })
  })
  test('an error of the store is 503, without the text of the store', async () => {
    const backend = memoryBackend()
    const { visit } = visited({ '/': set('page') }, { options: { backend } })
    await visit('/')
    backend.get = () => {
      throw new Error('The disk of db7 is full.')
    }
    const response = await visit('/')
    assert.equal(response.status, 503)
    assert.match(await response.text(), /^This page is not available/)
  })
  test('an error with a status and headers, such as that of another commit, saves nothing', async () => {
    const { visit, fieldsNow } = visited({
      '/': async (Astro) => {
        await set('page')(Astro)
        const error = new KeepsakeError('unavailable', 'The other session was not saved.')
        error.headers = new Headers({ 'set-cookie': 'other=; Max-Age=0' })
        throw error
      },
    })
    assert.equal((await visit('/')).status, 503)
    assert.deepEqual(await fieldsNow(), {})
  })
})

suite('a session that cannot be saved', () => {
  const late = (options: Partial<SessionManagerOptions> = {}) => {
    const application = visited(
      {
        '/': set('page'),
        '/late': async (Astro) => {
          const s = await session<Fields>(Astro)
          await application.manager.revoke(s.label)
          s.set('page', 'lost')
          return new Response('Never sent.')
        },
      },
      { options },
    )
    return application
  }

  test('the response has the status 409 and a text', async () => {
    const { visit } = late()
    await visit('/')
    const response = await visit('/late')
    assert.deepEqual([response.status, response.headers.get('cache-control')], [409, 'no-store'])
    assert.match(await response.text(), /^Your session ended/)
  })
  test('errorResponse renders the response', async () => {
    const { visit } = late({ errorResponse: (kind) => new Response(kind, { status: 409 }) })
    await visit('/')
    assert.equal(await (await visit('/late')).text(), 'ended')
  })
})

suite('components, which run after the head has left', () => {
  const streamed =
    (before: (Astro: Context) => unknown, component: (Astro: Context) => Promise<string>): Page =>
    async (Astro) => {
      await before(Astro)
      const body = new ReadableStream(
        {
          async pull(controller) {
            controller.enqueue(new TextEncoder().encode(await component(Astro)))
            controller.close()
          },
        },
        // The component runs when the body is read.
        { highWaterMark: 0 },
      )
      return new Response(body)
    }

  test('a component reads the session that its page has opened', async () => {
    const { visit } = visited({
      '/': set('page'),
      '/stream': streamed(
        (Astro) => session(Astro),
        async (Astro) => JSON.stringify((await session(Astro)).fields),
      ),
    })
    await visit('/')
    assert.deepEqual(await (await visit('/stream')).json(), { page: 'set' })
  })
  test('with load, a component reads Astro.locals.session', async () => {
    const { visit } = visited(
      {
        '/': set('page'),
        '/stream': streamed(
          () => {},
          async ({ locals }) => JSON.stringify((locals as { session: { fields: unknown } }).session.fields),
        ),
      },
      { adapter: { load: true } },
    )
    await visit('/')
    const response = await visit('/stream')
    assert.equal(response.headers.get('vary'), 'Cookie')
    assert.deepEqual(await response.json(), { page: 'set' })
  })
  test('a component that asks first is too late, because the head has no Vary', async () => {
    const { visit } = visited({
      '/stream': streamed(
        () => {},
        (Astro) => session(Astro).then(String, ({ code }) => code),
      ),
    })
    assert.equal(await (await visit('/stream')).text(), 'too_late')
  })
})

test('a prerendered page has no session', async () => {
  const { application } = visited(
    {
      '/': (Astro) =>
        session(Astro).then(
          () => new Response('a session'),
          ({ code }) => new Response(code),
        ),
    },
    { adapter: { load: true } },
  )
  const response = await respond(application, new Request('https://app.test/'), true)
  assert.equal(await response.text(), 'no_middleware')
  assert.equal(response.headers.get('vary'), null)
})

test('locals of another request in progress are refused, because two visitors would share a session', async () => {
  const onRequest = forAstro(sessionManager<Fields>({ backend: 'memory:' }))
  const locals = {}
  const outside = new AsyncResource('another request')
  const send = (next: () => Promise<Response>) =>
    onRequest({ request: new Request('https://app.test/'), locals, isPrerendered: false }, next)
  await send(async () => {
    // Another request begins outside of the page that runs.
    await assert.rejects(
      outside.runInAsyncScope(() => send(async () => new Response())),
      code('invalid_option'),
    )
    return new Response()
  })
  await send(async () => new Response())
})

test('mounted twice it does nothing', async () => {
  const manager = sessionManager({ backend: 'memory:' })
  const [first, second] = [forAstro(manager), forAstro(manager)]
  const application: Application = {
    onRequest: (context, next) => first(context, () => second(context, next)),
    pages: { '/': set('page') },
  }
  const response = await respond(application, new Request('https://app.test/'))
  assert.equal(response.headers.getSetCookie().length, 1)
})

test('mounted twice it rewrites as mounted once', async () => {
  const manager = sessionManager<Fields>({ backend: 'memory:' })
  const [first, second] = [forAstro(manager), forAstro(manager)]
  const application: Application = {
    onRequest: (context, next) => first(context, () => second(context, next)),
    pages: {
      '/': async (Astro) => {
        await set('page')(Astro)
        return Astro.rewrite('/second')
      },
      '/second': set('second'),
    },
  }
  const response = await respond(application, new Request('https://app.test/'))
  assert.deepEqual(await response.json(), { page: 'set', second: 'set' })
})

test('wrong options throw invalid_option', () => {
  const manager = sessionManager({ backend: 'memory:' })
  assert.throws(() => forAstro(manager, { load: 1 as never }), code('invalid_option'))
  assert.throws(() => forAstro({} as never), code('invalid_option'))
})
