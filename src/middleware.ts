// The middleware for handlers of Requests: it commits the session of a request, and completes the response.

import { abandonRequest, commitRequest, type RequestOutcome, usesSession } from './commit-request.ts'
import { type Awaitable, isThenable } from './error.ts'
import { around, type Handler, type Lifespan, type Middleware } from './http/handler.ts'
import { attach, exposeManager, isInside, type Manager, type RequestContext, release } from './request-context.ts'
import { errorResponse, isResponse, sendable, withHeaders } from './response.ts'

/** The functions that complete a response for one manager. */
export const createResponder = ({ emit, errorResponse: render }: Manager) => {
  /** Completes the handler's response by the outcome of its request, or replaces it. */
  const complete = (request: Request, answer: Response, outcome: RequestOutcome | undefined): Awaitable<Response> => {
    if (outcome === undefined) return answer
    const { failure, cookies, privateResponse } = outcome
    if (failure === undefined) return withHeaders(answer, cookies, outcome, privateResponse)
    // The handler's body is not sent, so release its source, such as a file.
    answer.body?.cancel().catch(() => {})
    return replace(request, outcome)
  }

  const replace = async (request: Request, outcome: RequestOutcome): Promise<Response> =>
    withHeaders(await errorResponse(render, outcome.failure ?? 'not_saved', request, emit), outcome.cookies, outcome)

  /** After a handler threw: nothing is saved. */
  const handlerThrew = async (request: Request, requestContext: RequestContext, error: unknown): Promise<Response> => {
    const outcome = await abandonRequest(request, requestContext, error)
    if (outcome === undefined) throw error
    return replace(request, outcome)
  }

  const respond = (request: Request, requestContext: RequestContext, answer: Response): Awaitable<Response> => {
    if (!usesSession(requestContext)) {
      requestContext.answered = true
      release(request, requestContext)
      return answer
    }
    let response: Response
    try {
      response = sendable(answer)
    } catch (error) {
      return handlerThrew(request, requestContext, error)
    }
    const outcome = commitRequest(request, requestContext, response.status)
    if (!isThenable(outcome)) return complete(request, response, outcome)
    return outcome.then(
      (outcome) => complete(request, response, outcome),
      (error) => {
        response.body?.cancel().catch(() => {})
        throw error
      },
    )
  }

  return { respond, handlerThrew }
}

/** The middleware of a manager. `lifespan` opens and closes the manager's backend. */
export const createMiddleware = (manager: Manager, lifespan: Lifespan): Middleware => {
  const { respond, handlerThrew } = createResponder(manager)
  const middleware = <R extends Request, Rest extends readonly unknown[]>(next: Handler<R, Rest>): Handler<R, Rest> =>
    around(
      next,
      (request: R, ...rest: Rest) => {
        // A handler may be wrapped twice, but a request has one session of a manager.
        if (isInside(request, middleware)) return next(request, ...rest)
        const requestContext = attach(request, middleware, manager, request)
        const threw = (error: unknown): Awaitable<Response> =>
          // Some frameworks throw a Response to leave a handler.
          isResponse(error) ? respond(request, requestContext, error) : handlerThrew(request, requestContext, error)
        try {
          const response = next(request, ...rest)
          if (!isThenable(response)) return respond(request, requestContext, response)
          return Promise.resolve(response).then((answer) => respond(request, requestContext, answer), threw)
        } catch (error) {
          return threw(error)
        }
      },
      lifespan,
    )
  exposeManager(middleware, manager)
  return middleware as Middleware
}
