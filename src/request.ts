// From a request to its session, its work and its manager, for the functions that take a request.

import { checkOptionNames, KeepsakeError } from './error.ts'
import type { IncomingRequest, RequestHead } from './http/request-head.ts'
import {
  contextInside,
  findContext,
  findTenant,
  type Manager,
  noMiddleware,
  openOnce,
  type RequestContext,
  type RequestLike,
  tenantIn,
} from './request-context.ts'
import type { AnyFields, Session } from './session/session.ts'
import type { RequestTenant } from './session/tenant.ts'
import type { UnitOfWork } from './session/work.ts'

/** How a caller asks for the session of a request. */
export type SessionOptions = {
  /**
   * false: the request only looks, such as a poll. It does not move the expiry or `lastSeenAt`, also if it changes the session.
   * If several callers of one request ask, all of them must ask so. Default true.
   */
  readonly extend?: boolean | undefined
}

/** Whether a caller asks to extend the session. @throws KeepsakeError `invalid_option` */
export const asksToExtend = (options: SessionOptions, caller: string): boolean => {
  checkOptionNames(options, ['extend'], caller)
  const { extend = true } = options
  if (typeof extend === 'boolean') return extend
  const message = `The option extend of ${caller} was a value of type ${typeof extend}. It must be true or false.`
  throw new KeepsakeError('invalid_option', message)
}

const sessionFor = (requestContext: RequestContext): Promise<Session> => {
  if (requestContext.session !== undefined || !requestContext.answered) return openOnce(requestContext)
  const message =
    'The session was requested after the response was sent. Request it before, or open a session of its own with manager.open().'
  return Promise.reject(new KeepsakeError('too_late', message))
}

/** The session of a request for a caller with these options. The request extends it if one of its callers asks for that. */
const sessionWith = (
  requestContext: RequestContext | undefined,
  options: SessionOptions | undefined,
): Promise<Session> => {
  if (requestContext === undefined) return Promise.reject(noMiddleware())
  let extend = true
  try {
    if (options !== undefined) extend = asksToExtend(options, 'session()')
  } catch (error) {
    return Promise.reject(error)
  }
  requestContext.extend = extend || requestContext.extend === true
  if (requestContext.work !== undefined) requestContext.work.extend = requestContext.extend
  return sessionFor(requestContext)
}

/**
 * The session of a request, from the innermost session manager that the request passed through. If the manager has no
 * schema, `session<Fields>(request)` declares the types of the fields; nothing checks them. A session that was opened
 * before the response stays readable after it, for example for the rest of a stream. It cannot be changed any more.
 *
 * @param request a Request inside a middleware, or the request, context or event of a framework inside its adapter
 * @param options `{ extend: false }` for a request that only looks, such as a poll: the session does not live longer for it
 * @throws KeepsakeError `no_middleware` without a session manager, `unavailable` if the backend fails, `too_late` if the
 *   session is first requested after the response, `invalid_option`
 */
export const session = <F extends object = AnyFields>(
  request: RequestLike,
  options?: SessionOptions,
): Promise<Session<F>> => sessionWith(findContext(request), options) as Promise<unknown> as Promise<Session<F>>

/** The session of a request from the middleware `owner`, also if the request passed through others since. */
export const sessionOf = (request: RequestLike, owner: unknown, options?: SessionOptions): Promise<Session> =>
  sessionWith(contextInside(request, owner), options)

/** The tenant of a request for the middleware `owner` of `manager`, also if the request is outside of it. */
export const tenantFor = (request: IncomingRequest, owner: unknown, manager: Manager): RequestTenant => {
  const context = contextInside(request, owner)
  return context === undefined ? findTenant(manager, request) : tenantIn(context)
}

/** The label of the session that a request used, if it used one. */
export const labelFor = (request: RequestLike): string | undefined => findContext(request)?.label

/**
 * The unit of work of a request, for features that build on sessions, such as forms. They extend the
 * session only if no caller asked for it with `extend: false`.
 *
 * @throws as `session`
 */
export const workOf = async (target: RequestLike): Promise<UnitOfWork> => {
  const requestContext = findContext(target)
  if (requestContext === undefined) throw noMiddleware()
  await sessionFor(requestContext)
  const { work } = requestContext
  const { readOnly } = work ?? {}
  if (readOnly !== undefined && !readOnly.reads) throw readOnly.error
  if (work !== undefined && !work.committed) return work
  throw new KeepsakeError('too_late', 'The session was used after the response was sent. Use it before.')
}

/** The innermost manager of a request, if there is one. */
export const findManager = (request: RequestLike): Manager | undefined => findContext(request)?.manager

const contextFor = (request: RequestLike): RequestContext => {
  const requestContext = findContext(request)
  if (requestContext === undefined) throw noMiddleware()
  return requestContext
}

/** The innermost manager of a request. @throws KeepsakeError `no_middleware` */
export const managerOf = (request: RequestLike): Manager => contextFor(request).manager

/** The part of a request that keepsake reads. @throws KeepsakeError `no_middleware` */
export const headOf = (request: RequestLike): RequestHead => contextFor(request).head

/** The tenant of a request at its innermost manager. @throws KeepsakeError `no_middleware`, `invalid_option` */
export const tenantOf = (request: RequestLike): RequestTenant => tenantIn(contextFor(request))
