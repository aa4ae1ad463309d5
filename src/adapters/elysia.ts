// Sessions in applications of Elysia.

import type { Elysia } from 'elysia'
import { KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { isResponse } from '../response.ts'
import type { AnyFields } from '../session/session.ts'
import { CurrentRequest } from './current-request.ts'
import { addErrorHeaders, type FetchAdapterOptions, fetchLifecycle } from './fetch-lifecycle.ts'

export type { FetchAdapterOptions as ElysiaAdapterOptions } from './fetch-lifecycle.ts'

/** The members of an Elysia context that are used here. */
type ElysiaContext = {
  readonly set: { headers: Record<string, unknown>; status?: unknown; cookie?: unknown; redirect?: unknown }
  readonly body?: unknown
  error?: unknown
  response?: unknown
  responseValue?: unknown
}

/** Elysia calls it for the errors of handlers. Its type is protected. */
type ErrorHandler = { handleError(context: unknown, error: unknown): Promise<unknown> }

/** A Response or a `status()` that a handler has thrown in place of returning it, or a page that was not found. */
const isAnswer = (error: unknown): boolean => {
  const { response, code } = (error ?? {}) as { response?: unknown; code?: unknown }
  return isResponse(error) || (response !== undefined && typeof code === 'number') || code === 'NOT_FOUND'
}

/** The request with the body that Elysia has parsed, if it has: it parses the body for each handler that takes the whole context. */
class ElysiaRequest extends CurrentRequest {
  readonly #request: Request
  readonly #context: () => ElysiaContext | undefined

  constructor(request: Request, context: () => ElysiaContext | undefined) {
    super(() => request)
    this.#request = request
    this.#context = context
  }

  get parsedBody(): { readonly value: unknown } | undefined {
    const value = this.#context()?.body
    return this.#request.bodyUsed && value !== undefined ? { value } : undefined
  }
}

/** The context as it was before the handlers, so that the error handler begins with an empty response. */
const dropResponse = (context: ElysiaContext, arrival: Record<string, unknown>): void => {
  const { set } = context
  set.headers = { ...arrival }
  set.status = undefined
  set.cookie = undefined
  set.redirect = undefined
  context.response = undefined
  context.responseValue = undefined
}

const mount = (app: Elysia, sessions: SessionManager, options: FetchAdapterOptions) => {
  const { begin, complete, abandon, abandonWithPage } = fetchLifecycle(sessions, 'forElysia()', options)
  if (app.config.aot === false) {
    throw new KeepsakeError(
      'invalid_option',
      'The application of forElysia() has the option aot: false. Elysia then calls no wrap(). Leave the option out, or serve manager((request) => app.handle(request)).',
    )
  }
  /** The contexts of the requests in progress, with the header fields that were set before the handlers. */
  const contexts = new WeakMap<
    Request,
    { readonly context: ElysiaContext; readonly arrival: Record<string, unknown> }
  >()
  const handle = async (request: Request, fetch: (request: Request) => unknown): Promise<Response> => {
    const head = new ElysiaRequest(request, () => contexts.get(request)?.context)
    const begun = begin(request, [], head)
    const answer = (): Promise<Response> => Promise.resolve(fetch(request) as Response)
    if (begun === undefined) return answer()
    let response: Response
    try {
      response = await answer()
    } catch (error) {
      await abandon(begun, error)
      throw error
    }
    const { context, arrival = {} } = contexts.get(request) ?? {}
    const error = context?.error
    if (error !== undefined && !isAnswer(error)) return abandonWithPage(begun, response, error)
    try {
      return await complete(begun, response, new Headers(arrival as Record<string, string>))
    } catch (error) {
      if (context === undefined) throw error
      dropResponse(context, arrival)
      const page = (await (app as unknown as ErrorHandler).handleError(context, error)) as Response
      const headers = new Headers(page.headers)
      addErrorHeaders(headers, error)
      return new Response(page.body, { status: page.status, statusText: page.statusText, headers })
    }
  }
  return app
    .onRequest((context) => {
      contexts.set(context.request, { context: context as ElysiaContext, arrival: { ...context.set.headers } })
    })
    .wrap(((fetch: (request: Request) => unknown) => (request: Request) => handle(request, fetch)) as never)
    .onStop(() => sessions.close?.())
}

const addSession = <F extends object>(app: Elysia) =>
  app.resolve({ as: 'global' }, async ({ request }) => ({ session: await session<F>(request) }))

/**
 * Sessions in an application of Elysia: `new Elysia().use(forElysia(manager))` before the routes. `session(context)`,
 * `csrfTag(context)`, `addFlash(context, …)` and `takeFlash(context)` then take the context or its `request`. With `{ load: true }`
 * each handler also gets `{ session }`. `readForm(context)` needs the option `parse: 'none'` of the route, or it has no files.
 *
 * The session is saved before the response leaves. If it cannot be saved, `onError` gets a KeepsakeError with the status 409, 500 or
 * 503, and nothing of the response is sent. If a handler throws an error, nothing is saved. `app.stop()` closes the manager.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`, when the application uses it
 */
export function forElysia<F extends object = AnyFields>(
  sessions: SessionManager<F>,
  options: FetchAdapterOptions & { readonly load: true },
): (app: Elysia) => ReturnType<typeof addSession<F>>
export function forElysia<F extends object = AnyFields>(
  sessions: SessionManager<F>,
  options?: FetchAdapterOptions,
): (app: Elysia) => Elysia
export function forElysia(sessions: SessionManager, options: FetchAdapterOptions = {}) {
  return (app: Elysia) => {
    const mounted = mount(app, sessions, options)
    return (options.load === true ? addSession(mounted) : mounted) as never
  }
}
