// The steps of one request in a framework of Request and Response: attach it, then commit it or drop its changes.

import { abandonRequest, commitRequest, type RequestOutcome, usesSession } from '../commit-request.ts'
import { type Awaitable, isThenable, KeepsakeError } from '../error.ts'
import type { RequestHead } from '../http/request-head.ts'
import type { SessionManager } from '../manager.ts'
import {
  attach,
  attachAlso,
  contextInside,
  exposedManager,
  findContext,
  isInside,
  type Manager,
  type RequestContext,
  type RequestLike,
  release,
} from '../request-context.ts'
import { errorResponse, sendable, withHeaders } from '../response.ts'
import { frameworkError } from './framework-error.ts'
import { checkLoad } from './options.ts'
import { withPublicErrors } from './public-errors.ts'

export type FetchAdapterOptions = {
  /**
   * true: open the session of every request before the handlers. It costs a read of the store for every request with a session
   * cookie. Default false: `await session(…)` opens it.
   */
  readonly load?: boolean | undefined
}

/** A request from `begin` to `complete` or `abandon`. */
export type BegunRequest = {
  readonly context: RequestContext
  /** The Request at the arrival, for the option `errorResponse`. */
  readonly request: Request
  /** The objects that handlers pass to `session` and to other functions. */
  readonly targets: readonly RequestLike[]
}

/** Adds the header fields that the application set before the adapter, such as those of CORS, to the response to an error. */
const addArrival = (response: Response, arrival: Headers | undefined): Response => {
  if (arrival === undefined) return response
  const { status, statusText } = response
  const headers = new Headers(arrival)
  for (const name of response.headers.keys()) if (name !== 'set-cookie') headers.delete(name)
  for (const [name, value] of response.headers) headers.append(name, value)
  const vary = arrival.get('vary')
  if (vary !== null) headers.append('vary', vary)
  return new Response(response.body, { status, statusText, headers })
}

/** Adds the header fields of an error of `complete` to those of the response to it, for frameworks that do not do it. */
export const addErrorHeaders = (headers: Headers, error: unknown): void => {
  const own = error instanceof KeepsakeError ? error.headers : undefined
  if (own === undefined) return
  // `frameworkError` has an object, and an error of `commit` has Headers.
  const fields = own instanceof Headers ? [...own] : Object.entries<string | readonly string[]>(own)
  headers.append('vary', 'Cookie')
  for (const [name, value] of fields) {
    if (name === 'set-cookie') for (const line of [value].flat()) headers.append(name, line)
    else if (name !== 'vary') headers.set(name, String(value))
  }
}

/**
 * Attaches a request: its Request, and the further objects that handlers get. Nothing else happens until somebody asks for the
 * session.
 *
 * @param head the part of the request that is read. Default: the Request
 * @returns undefined if the request is inside the same manager already. Then the adapter does nothing more
 */
const beginner =
  (sessions: SessionManager, manager: Manager) =>
  (request: Request, others: readonly RequestLike[] = [], head: RequestHead = request): BegunRequest | undefined => {
    const targets = [request, ...others]
    const inside = targets.find((target) => isInside(target, sessions))
    if (inside !== undefined) {
      const context = contextInside(inside, sessions)
      // An application that is mounted in another makes its own context of the same Request.
      for (const target of targets) {
        if (context !== undefined && findContext(target) === undefined) attachAlso(target, context)
      }
      return undefined
    }
    // A middleware may have replaced the Request since an outer manager attached it.
    const outer = targets.map(findContext).find((context) => context !== undefined)
    const context = attach(request, sessions, manager, head)
    context.outer = outer
    for (const target of others) attachAlso(target, context)
    return { context, request, targets }
  }

/** Gives the other objects back to an outer manager, as `commitRequest` does with the Request. */
const releaseOthers = ({ context, targets }: BegunRequest): void => {
  const { outer } = context
  if (outer === undefined) return
  for (const target of targets) if (findContext(target) === context) attachAlso(target, outer)
}

/**
 * The steps of a request for one manager.
 *
 * @param caller the name of the adapter, such as `forHono()`
 * @param present changes the errors that a framework shows to visitors: the 503 of `session` and the errors of `complete`
 * @throws KeepsakeError `invalid_option`
 */
export const fetchLifecycle = (
  sessions: SessionManager,
  caller: string,
  options: FetchAdapterOptions,
  present: (error: KeepsakeError) => KeepsakeError = (error) => error,
) => {
  const load = checkLoad(options, caller)
  const manager = withPublicErrors(exposedManager(sessions, caller), present)

  const finish = (
    begun: BegunRequest,
    response: Response,
    outcome: RequestOutcome | undefined,
    arrival: Headers | undefined,
  ): Awaitable<Response> => {
    releaseOthers(begun)
    if (outcome === undefined) return response
    const { failure, cookies, privateResponse } = outcome
    if (failure === undefined) return withHeaders(response, cookies, outcome, privateResponse)
    cancelBody(response)
    const { errorResponse: render, emit } = manager
    if (render === undefined) throw present(frameworkError(outcome))
    const answer = errorResponse(render, failure, begun.request, emit)
    const complete = (answer: Response) => addArrival(withHeaders(answer, cookies, outcome), arrival)
    return isThenable(answer) ? answer.then(complete) : complete(answer)
  }

  /**
   * Commits a request, and returns the response to send: the handler's with cookies, Vary and Cache-Control, or that of the option
   * `errorResponse`. The body of a response that is not sent is cancelled.
   *
   * @param arrival the header fields that were set before the adapter: the response of `errorResponse` gets them too
   * @throws the error for the error handler of the framework: `frameworkError` if the request was not saved, `no_response`, or an
   *   error of the application, such as one of an `update`
   */
  const complete = (begun: BegunRequest, response: Response, arrival?: Headers): Awaitable<Response> => {
    const { context, request } = begun
    if (!usesSession(context)) {
      context.answered = true
      release(request, context)
      releaseOthers(begun)
      return response
    }
    try {
      sendable(response)
    } catch (error) {
      return abandon(begun, error).then(() => {
        throw error
      })
    }
    const outcome = commitRequest(request, context, response.status)
    if (!isThenable(outcome)) return finish(begun, response, outcome, arrival)
    return outcome.then(
      (outcome) => finish(begun, response, outcome, arrival),
      (error) => {
        releaseOthers(begun)
        cancelBody(response)
        throw error
      },
    )
  }

  /**
   * Drops the changes of a request whose handler threw an error. An `invalidate` ends the session all the same. It does nothing
   * after `complete`, and never rejects.
   *
   * @returns the outcome with the cookies for the error page, if the error is one of the backend
   */
  const abandon = async (begun: BegunRequest, error: unknown): Promise<RequestOutcome | undefined> => {
    if (begun.context.answered) return undefined
    const outcome = await abandonRequest(begun.request, begun.context, error)
    releaseOthers(begun)
    return outcome
  }

  /**
   * Does the same as `abandon`, in a framework that has rendered a page for the error.
   *
   * @returns the page to send: it may contain something of the visitor
   */
  const abandonWithPage = async (begun: BegunRequest, page: Response, error: unknown): Promise<Response> => {
    const { context } = begun
    const isPrivate = context.work?.privateResponse === true
    const outcome = await abandon(begun, error)
    if (outcome !== undefined) return withHeaders(page, outcome.cookies, outcome, true)
    return usesSession(context) ? withHeaders(page, [], manager, isPrivate) : page
  }

  return { load, begin: beginner(sessions, manager), complete, abandon, abandonWithPage }
}

/** Releases the source of a response that is not sent, such as a file. */
const cancelBody = ({ body }: Response): void => {
  body?.cancel().catch(() => {})
}
