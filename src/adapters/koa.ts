// Sessions in applications of Koa 3.

import type {} from 'koa'
import { abandonRequest, commitRequest, type RequestOutcome } from '../commit-request.ts'
import type { Lifespan } from '../http/handler.ts'
import { type NodeRequest, NodeRequestHead } from '../http/node-request.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { attach, exposedManager, isInside, type Manager, type RequestContext } from '../request-context.ts'
import { addHeaders } from '../response.ts'
import type { Session } from '../session/session.ts'
import { errorHeaders, frameworkError } from './framework-error.ts'
import type { NodeServerResponse } from './node/adapter.ts'
import { assertUnsent, holdResponse, type NodeResponse } from './node/held-response.ts'
import { chooseRefusal, renderFailure } from './node/refusal.ts'
import { copyHeaders, type HeaderValues, NodeResponseHeaders, resetHeaders } from './node/response-headers.ts'
import { checkLoad } from './options.ts'
import { withPublicErrors } from './public-errors.ts'
import { awaitSending, discardBody } from './unsent-body.ts'

declare module 'koa' {
  interface DefaultContext {
    /** The session of the visitor. Only with `forKoa(manager, { load: true })`. */
    session: Session
  }
}

export type KoaAdapterOptions = {
  /**
   * true: open the session of every request before the handlers, as `ctx.session`. It costs a read of the store for every request
   * with a session cookie. Default false: `await session(ctx)` opens it.
   */
  readonly load?: boolean | undefined
}

/** The members of Koa's context that the adapter uses. */
export type KoaContext = {
  readonly req: NodeRequest
  readonly res: NodeServerResponse
  /** A body parser sets its `body`. */
  readonly request: object
  status: number
  body: unknown
  /** false: the handler writes to `ctx.res` itself. */
  respond?: boolean | undefined
  onerror(error: Error): void
}

export type KoaMiddleware = ((ctx: KoaContext, next: () => Promise<unknown>) => Promise<void>) & Lifespan

/** Removes all of the handler's response. The header fields that were set before the adapter stay. */
const clear = (ctx: KoaContext, response: NodeResponse, arrival: HeaderValues): void => {
  discardBody(ctx.body)
  // Koa treats an empty body of the type JSON in another way.
  resetHeaders(response, {})
  ctx.body = undefined
  resetHeaders(response, arrival)
}

const add = (response: NodeResponse, { cookies, emit, privateResponse }: RequestOutcome): void =>
  addHeaders(new NodeResponseHeaders(response), cookies, emit, privateResponse)

/** Keeps cookies on Koa's own error page: Koa removes all header fields but those of the error. */
const keepCookies = (ctx: KoaContext, cookies: readonly string[]): void => {
  const { onerror } = ctx
  ctx.onerror = (error) => {
    // Koa also calls it without an error, after the response.
    if (error instanceof Error) {
      const { headers = {} } = error as { headers?: { 'set-cookie'?: string | readonly string[] } }
      const all = {
        ...headers,
        'cache-control': 'no-store',
        'set-cookie': [headers['set-cookie'] ?? [], cookies].flat(2),
      }
      Object.assign(error, { headers: all })
    }
    onerror.call(ctx, error)
  }
}

/** Puts another response in place of the handler's. @throws KeepsakeError for the error handlers of the application */
const replace = async (
  ctx: KoaContext,
  manager: Manager,
  { head }: RequestContext,
  arrival: HeaderValues,
  outcome: RequestOutcome,
): Promise<void> => {
  const response = ctx.res as NodeResponse
  clear(ctx, response, arrival)
  if (manager.errorResponse === undefined) {
    const error = frameworkError(outcome)
    // A middleware that catches the error and sets no status answers with this one.
    ctx.status = error.status ?? 500
    add(response, { ...outcome, privateResponse: true })
    // Koa prints the message of an error with `expose`, and does not log it.
    throw Object.assign(error, { expose: ctx.status < 500 })
  }
  const { answer, body } = await renderFailure(manager, head, outcome.failure ?? 'not_saved')
  ctx.status = answer.status
  ctx.body = Buffer.from(body)
  const headers = new NodeResponseHeaders(response)
  // Koa has chosen a type.
  response.removeHeader('content-type')
  for (const [name, value] of answer.headers) {
    if (name === 'set-cookie') headers.append(name, value)
    else headers.set(name, value)
  }
  add(response, outcome)
}

/**
 * Sessions in an application of Koa: `app.use(forKoa(manager))` before the routes and after the middlewares that catch errors, then
 * `await session(ctx)` in a route. `readForm(ctx)`, `csrfTag(ctx)`, `addFlash(ctx, …)` and `takeFlash(ctx)` take the context, or
 * `ctx.req`.
 *
 * The session is saved when the middlewares below have ended, before Koa sends the response. If it cannot be saved, the middleware throws a
 * KeepsakeError with the status 409, 500 or 503, unless the manager has the option `errorResponse`.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forKoa = (sessions: SessionManager, options: KoaAdapterOptions = {}): KoaMiddleware => {
  const load = checkLoad(options, 'forKoa()')
  const manager = withPublicErrors(exposedManager(sessions, 'forKoa()'))

  const commit = async (ctx: KoaContext, requestContext: RequestContext, arrival: HeaderValues): Promise<void> => {
    const response = ctx.res as NodeResponse
    let outcome: RequestOutcome | undefined
    try {
      const work = commitRequest(ctx.req, requestContext, ctx.status)
      if (work === undefined) return
      awaitSending(ctx.body)
      outcome = await work
    } catch (error) {
      clear(ctx, response, arrival)
      ctx.status = 500
      throw error
    }
    if (outcome?.failure !== undefined) await replace(ctx, manager, requestContext, arrival, outcome)
    else if (outcome !== undefined) {
      add(response, outcome)
      // The body may turn out to be no JSON, or a middleware above may throw.
      if (outcome.cookies.length > 0) keepCookies(ctx, outcome.cookies)
    }
  }

  const abandon = async (ctx: KoaContext, requestContext: RequestContext, error: unknown): Promise<void> => {
    const outcome = await abandonRequest(ctx.req, requestContext, error)
    if (outcome === undefined || ctx.res.headersSent) return
    add(ctx.res as NodeResponse, { ...outcome, privateResponse: true })
    // Koa removes all header fields but these.
    if (outcome.error !== undefined) outcome.error.headers = errorHeaders(outcome.cookies)
  }

  const middleware = async (ctx: KoaContext, next: () => Promise<unknown>): Promise<void> => {
    const { req } = ctx
    // Mounted twice, it does nothing.
    if (isInside(req, sessions)) {
      await next()
      return
    }
    const response = ctx.res as NodeResponse
    const arrival = copyHeaders(response.getHeaders?.() ?? {})
    const head = new NodeRequestHead(req, ctx.request)
    const requestContext: RequestContext = attach(req, sessions, manager, head, () => {
      assertUnsent(response)
      // For a response that Koa does not send: after `ctx.respond = false`, or if the handler writes to `ctx.res`.
      holdResponse({
        request: req,
        response,
        arrival,
        context: () => requestContext,
        refuse: (refusal, isRunning) =>
          chooseRefusal(manager, head, response, (error) => ctx.onerror(error as Error), refusal, isRunning),
      })
    })
    try {
      if (load) (ctx as { session?: Session }).session = await session(req)
      await next()
    } catch (error) {
      if (!requestContext.answered) await abandon(ctx, requestContext, error)
      throw error
    }
    if (requestContext.answered || ctx.respond === false) return
    await commit(ctx, requestContext, arrival)
  }
  return Object.assign(middleware, { ready: sessions.ready, close: sessions.close })
}
