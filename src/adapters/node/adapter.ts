// Sessions in applications of node:http, Connect, Express, polka and HTTP/2, without a Request or a Response.

import { abandonRequest } from '../../commit-request.ts'
import type { KeepsakeError } from '../../error.ts'
import type { Lifespan } from '../../http/handler.ts'
import { type NodeRequest, NodeRequestHead } from '../../http/node-request.ts'
import type { SessionManager } from '../../manager.ts'
import { session } from '../../request.ts'
import { attach, contextInside, exposedManager, isInside, type RequestContext } from '../../request-context.ts'
import { addHeaders } from '../../response.ts'
import { checkLoad } from '../options.ts'
import { withPublicErrors } from '../public-errors.ts'
import { assertUnsent, holdResponse, type NodeResponse } from './held-response.ts'
import { chooseRefusal } from './refusal.ts'
import { copyHeaders, NodeResponseHeaders } from './response-headers.ts'

/** A ServerResponse, the response of Express, or that of HTTP/2. */
export type NodeServerResponse = {
  statusCode: number
  readonly headersSent: boolean
  getHeader(name: string): number | string | string[] | undefined
  setHeader(name: string, value: number | string | readonly string[]): unknown
}

/** Continues with the next middleware, or with the error handler of the framework. */
export type Next = (error?: unknown) => void

export type NodeAdapterOptions = {
  /**
   * true: open the session of every request before the handlers, as `request.session`. It costs a read of the store for every
   * request with a session cookie. Default false: `await session(request)` opens it.
   */
  readonly load?: boolean | undefined
}

/** A middleware `(request, response, next)`. Without `next`, it answers errors itself. */
export type NodeMiddleware = ((request: NodeRequest, response: NodeServerResponse, next?: Next) => void) &
  Lifespan & {
    /**
     * A middleware for errors: `app.use(sessions.errorHandler)` after all routes and before the error handlers of the application.
     * It drops the changes of a request whose handler threw an error. Without it, Express and Connect send an error page that looks
     * like any response, so the changes of that request are saved.
     */
    readonly errorHandler: (error: unknown, request: NodeRequest, response: NodeServerResponse, next: Next) => void
  }

/**
 * The two steps of a request in Node: `begin` before its handlers, and `abandon` after one of them threw an error.
 *
 * @param present changes the errors that a framework shows to visitors
 */
export const nodeLifecycle = (
  sessions: SessionManager,
  caller: string,
  options: NodeAdapterOptions,
  present?: (error: KeepsakeError) => KeepsakeError,
) => {
  const load = checkLoad(options, caller)
  const manager = withPublicErrors(exposedManager(sessions, caller), present)

  const begin = (request: NodeRequest, response: NodeResponse, next: Next | undefined): void => {
    // Mounted twice, it does nothing.
    if (isInside(request, sessions)) {
      next?.()
      return
    }
    const arrival = copyHeaders(response.getHeaders?.() ?? {})
    const head = new NodeRequestHead(request, request as { readonly body?: unknown })
    const requestContext: RequestContext = attach(request, sessions, manager, head, () => {
      assertUnsent(response)
      holdResponse({
        request,
        response,
        arrival,
        context: () => requestContext,
        refuse: (refusal, isRunning) => chooseRefusal(manager, head, response, next, refusal, isRunning),
      })
    })
    if (!load) {
      next?.()
      return
    }
    session(request).then(
      (opened) => {
        ;(request as { session?: unknown }).session = opened
        next?.()
      },
      (error) => next?.(error),
    )
  }

  const abandon = async (error: unknown, request: NodeRequest, response: NodeResponse): Promise<void> => {
    const requestContext = contextInside(request, sessions)
    if (requestContext === undefined || requestContext.answered) return
    const outcome = await abandonRequest(request, requestContext, error)
    if (outcome === undefined || response.headersSent) return
    addHeaders(new NodeResponseHeaders(response), outcome.cookies, outcome.emit, true)
  }

  return { begin, abandon }
}

/**
 * Sessions in a server of `node:http`, Connect, polka, Express or HTTP/2: `app.use(forNode(manager))`, or
 * `sessions(request, response)` at the beginning of a request listener. `session(request)`, `readForm(request)`, `csrfTag(request)`,
 * `addFlash(request, …)` and `takeFlash(request)` then take Node's request.
 *
 * The session is saved before the first byte of the response leaves. If it cannot be saved, `next` gets a KeepsakeError with the
 * status 409, 500 or 503, and nothing of the response is sent. Without `next`, and if the handler is still writing, the response is
 * that of the option `errorResponse`.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forNode = (sessions: SessionManager, options: NodeAdapterOptions = {}): NodeMiddleware => {
  const { begin, abandon } = nodeLifecycle(sessions, 'forNode()', options)
  const middleware = (request: NodeRequest, response: NodeServerResponse, next?: Next) =>
    begin(request, response as NodeResponse, next)
  const errorHandler: NodeMiddleware['errorHandler'] = (error, request, response, next) => {
    abandon(error, request, response as NodeResponse).then(
      () => next(error),
      () => next(error),
    )
  }
  return Object.assign(middleware, { errorHandler, ready: sessions.ready, close: sessions.close })
}
