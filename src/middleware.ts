// One request through a handler: it runs the handler, commits the session, and completes the response.

import { type Awaitable, isThenable, KeepsakeError } from './error.ts'
import type { ErrorKind } from './http/error-response.ts'
import { around, type Handler, type Lifespan, type Middleware } from './http/handler.ts'
import { attach, isInside, type Manager, openOnce, type RequestContext, release } from './request.ts'
import { errorResponse, isResponse, sendable, setCookieHeaders, withHeaders } from './response.ts'
import { commit } from './session/commit.ts'
import { end } from './session/end.ts'
import { giveBackMessages, returnMessages } from './session/flash.ts'
import type { Session } from './session/session.ts'
import type { CommitOutcome, UnitOfWork } from './session/work.ts'

/** The Set-Cookie values that leave with a failure: a logout clears the browser's cookie although the store failed. */
export const clearingCookies = (work: UnitOfWork): readonly string[] => {
  const { transition, hadCookie, unusable } = work
  const ends = transition === 'invalidate' || (transition !== undefined && unusable.some(({ proven }) => !proven))
  if (ends && hadCookie) return setCookieHeaders({ ...work.saved, session: 'clear' }, work)
  return work.saved === undefined ? [] : setCookieHeaders(work.saved, work)
}

const kindOf = ({ status }: KeepsakeError): ErrorKind => (status === 503 ? 'unavailable' : 'not_saved')

/** The functions that complete a response for one manager. */
const createResponder = ({ emit, errorResponse: render }: Manager) => {
  const answerFor = (kind: ErrorKind, request: Request): Awaitable<Response> =>
    errorResponse(render, kind, request, emit)

  /** Commits the session, then completes the handler's response, or replaces it if the commit failed. */
  const commitAndRespond = (request: Request, answer: Response, work: UnitOfWork): Awaitable<Response> => {
    const replace = async (kind: ErrorKind, cookies: readonly string[]): Promise<Response> => {
      // The handler's body is not sent, so release its source, such as a file.
      answer.body?.cancel().catch(() => {})
      await giveBackMessages(work)
      return withHeaders(await answerFor(kind, request), cookies, work.context)
    }
    const saved = (outcome: CommitOutcome): Awaitable<Response> =>
      outcome.failure === undefined
        ? withHeaders(answer, setCookieHeaders(outcome, work), work.context, work.privateResponse)
        : replace(outcome.failure, setCookieHeaders(outcome, work))
    const failed = (error: unknown): Promise<Response> => {
      if (error instanceof KeepsakeError) {
        work.context.emit('store_error', { error })
        return replace(kindOf(error), clearingCookies(work))
      }
      answer.body?.cancel().catch(() => {})
      return giveBackMessages(work).then(() => Promise.reject(error))
    }
    try {
      // After a 304 the browser shows the page that it has, so the messages wait for the next page.
      const notShown = answer.status === 304 && work.flashTaken.length > 0
      const outcome = notShown ? returnMessages(work).then(() => commit(work)) : commit(work)
      return isThenable(outcome) ? outcome.then(saved, failed) : saved(outcome)
    } catch (error) {
      return failed(error)
    }
  }

  /** After a handler threw: nothing is saved, but an `invalidate` ends the session all the same. */
  const handlerThrew = async (request: Request, requestContext: RequestContext, error: unknown): Promise<Response> => {
    await requestContext.session?.catch(() => {})
    const { work } = requestContext
    const { emit: report } = work?.context ?? { emit }
    try {
      if (work !== undefined) {
        work.committed = true
        if (work.transition === 'invalidate') await end(work)
        else await giveBackMessages(work)
      }
    } catch (failure) {
      report('store_error', { error: failure })
    }
    release(request, requestContext)
    if (!(error instanceof KeepsakeError) || error.status !== 503) throw error
    report('store_error', { error })
    const answer = await answerFor('unavailable', request)
    return work === undefined ? answer : withHeaders(answer, clearingCookies(work), work.context)
  }

  /** The response of a handler that added a flash message and did not wait for the session. */
  const respondWithFlash = async (
    request: Request,
    requestContext: RequestContext,
    response: Response,
  ): Promise<Response> => {
    try {
      await openOnce(request, requestContext)
      const work = requestContext.work as UnitOfWork
      work.flashAdded = requestContext.flashAdded
      return await commitAndRespond(request, response, work)
    } catch (error) {
      if (!(error instanceof KeepsakeError)) throw error
      emit('store_error', { error })
      return answerFor(kindOf(error), request)
    } finally {
      release(request, requestContext)
    }
  }

  const respond = (request: Request, requestContext: RequestContext, answer: Response): Awaitable<Response> => {
    requestContext.answered = true
    const { session, work, flashAdded } = requestContext
    if (session === undefined && flashAdded.length === 0) {
      release(request, requestContext)
      return answer
    }
    let response: Response
    try {
      response = sendable(answer)
    } catch (error) {
      return handlerThrew(request, requestContext, error)
    }
    if (work === undefined && flashAdded.length > 0) return respondWithFlash(request, requestContext, response)
    if (work === undefined) {
      // The handler did not wait for the session, or caught the error of opening it.
      return (session as Promise<Session>)
        .then(
          () => commitAndRespond(request, response, requestContext.work as UnitOfWork),
          () => response,
        )
        .finally(() => release(request, requestContext))
    }
    work.flashAdded = flashAdded
    const finished = commitAndRespond(request, response, work)
    if (isThenable(finished)) return finished.finally(() => release(request, requestContext))
    release(request, requestContext)
    return finished
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
        const requestContext = attach(request, middleware, manager)
        const threw = (error: unknown): Awaitable<Response> => {
          // Some frameworks throw a Response to leave a handler.
          if (isResponse(error)) return respond(request, requestContext, error)
          requestContext.answered = true
          return handlerThrew(request, requestContext, error)
        }
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
  return middleware as Middleware
}
