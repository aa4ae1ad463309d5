// From a request to its session: the first caller opens the session, and all later callers get the same one.

import { type Awaitable, checkOptionNames, isThenable, KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import type { IncomingRequest, TransportOptions } from './http/cookie-names.ts'
import type { ErrorResponse } from './http/error-response.ts'
import type { SharedContext } from './session/context.ts'
import type { Flash } from './session/flash-messages.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import type { RequestTenant } from './session/tenant.ts'
import type { UnitOfWork } from './session/work.ts'

/**
 * The part of a session manager that exists before its backend is open. Application cookies and sealed texts need no
 * more.
 */
export type Manager = {
  readonly context: () => Awaitable<SharedContext>
  readonly emit: Emit
  readonly errorResponse: ErrorResponse | undefined
  readonly transport: Omit<TransportOptions, 'cookie'>
  /** The tenant of all requests, or a function that finds the tenant of a request. */
  readonly tenant: RequestTenant | ((request: IncomingRequest) => RequestTenant)
  readonly open: (request: Request, tenant: RequestTenant) => Awaitable<UnitOfWork>
}

/** One request's link to one manager. */
export type RequestContext = {
  /** Identifies the middleware, because a request may pass through several. */
  readonly owner: unknown
  outer: RequestContext | undefined
  readonly manager: Manager
  /** Set when it is first needed, and the same from then on. */
  tenant: RequestTenant | undefined
  /** Set by the first caller. */
  session: Promise<Session> | undefined
  work: UnitOfWork | undefined
  /** Whether a caller asked for the session without `extend: false`. Undefined: no caller asked, except flash messages and forms. */
  extend: boolean | undefined
  /** Messages for the next page. */
  flashAdded: readonly Flash[]
  /** The response was sent. Only the label is kept after that. */
  answered: boolean
  label: string | undefined
}

/*
 * A property of the request itself costs a tenth of a WeakMap, and nothing else references the context. The symbol is
 * registered, so that another copy of this package finds it.
 */
const CONTEXT = Symbol.for('keepsake.request')
type WithContext = { [CONTEXT]?: RequestContext }

/** A request inside a middleware, or outside of one the session that `manager.open` returned for it. */
export type RequestOrSession = Request | { readonly label: string; commit(): Promise<unknown> }

const contextOf = (target: RequestOrSession): RequestContext | undefined => (target as WithContext)[CONTEXT]

const none: readonly Flash[] = []

const newContext = (owner: unknown, manager: Manager, outer: RequestContext | undefined): RequestContext => ({
  owner,
  outer,
  manager,
  tenant: typeof manager.tenant === 'function' ? undefined : manager.tenant,
  session: undefined,
  work: undefined,
  extend: undefined,
  flashAdded: none,
  answered: false,
  label: undefined,
})

/** Attaches a request to the manager of the middleware `owner`. */
export const attach = (request: Request, owner: unknown, manager: Manager): RequestContext => {
  const requestContext = newContext(owner, manager, contextOf(request))
  ;(request as WithContext)[CONTEXT] = requestContext
  return requestContext
}

/** Attaches the session that `manager.open` returns to its request, so that flash messages and forms can use it. */
export const attachOpened = (
  opened: Session,
  work: UnitOfWork,
  manager: Manager,
  tenant: RequestTenant,
): RequestContext => {
  const requestContext = { ...newContext(opened, manager, undefined), session: Promise.resolve(opened), work, tenant }
  Object.defineProperty(opened, CONTEXT, { value: requestContext })
  return requestContext
}

/** The link of a request to the middleware `owner`. */
const contextInside = (request: Request, owner: unknown): RequestContext | undefined => {
  for (let context = contextOf(request); context !== undefined; context = context.outer) {
    if (context.owner === owner) return context
  }
  return undefined
}

/** Whether a request is inside the middleware `owner`, which has not answered it yet. */
export const isInside = (request: Request, owner: unknown): boolean => {
  for (let context = contextOf(request); context !== undefined; context = context.outer) {
    if (context.owner === owner && !context.answered) return true
  }
  return false
}

/** Drops the references of a request context, and gives the request back to the outer middleware. */
export const release = (request: Request, requestContext: RequestContext): void => {
  requestContext.label = requestContext.work?.snapshot?.label
  requestContext.session = undefined
  requestContext.work = undefined
  const { outer } = requestContext
  if (outer !== undefined && contextOf(request) === requestContext) (request as WithContext)[CONTEXT] = outer
}

/** @throws KeepsakeError `invalid_option`; the errors of the application's functions */
export const findTenant = ({ tenant }: Pick<Manager, 'tenant'>, request: IncomingRequest): RequestTenant =>
  typeof tenant === 'function' ? tenant(request) : tenant

const tenantIn = (request: Request, requestContext: RequestContext): RequestTenant => {
  requestContext.tenant ??= findTenant(requestContext.manager, request)
  return requestContext.tenant
}

const startOpening = (request: Request, requestContext: RequestContext): Promise<Session> => {
  const opened = (work: UnitOfWork): Session => {
    requestContext.work = work
    work.extend = requestContext.extend ?? true
    return createHandle(work)
  }
  try {
    const work = requestContext.manager.open(request, tenantIn(request, requestContext))
    if (!isThenable(work)) return Promise.resolve(opened(work))
    const promise = work.then(opened)
    // Callers that await the promise get the error. A caller that does not must not end the process.
    promise.catch(() => {})
    return promise
  } catch (error) {
    const promise = Promise.reject(error)
    promise.catch(() => {})
    return promise
  }
}

/** Adds a message for the next page. @throws KeepsakeError `no_middleware`, `too_late` */
export const queueFlash = (target: RequestOrSession, message: Flash): void => {
  const requestContext = contextOf(target)
  if (requestContext === undefined) throw noMiddleware()
  if (requestContext.answered) {
    throw new KeepsakeError('too_late', 'A flash message was added after the response was sent. Add it before.')
  }
  requestContext.flashAdded = [...requestContext.flashAdded, message]
}

/** Opens the session of a request although its handler did not ask for it. */
export const openOnce = (request: Request, requestContext: RequestContext): Promise<Session> => {
  requestContext.session ??= startOpening(request, requestContext)
  return requestContext.session
}

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

const sessionFor = (request: Request, requestContext: RequestContext): Promise<Session> => {
  if (requestContext.session !== undefined || !requestContext.answered) return openOnce(request, requestContext)
  const message =
    'The session was requested after the response was sent. Request it before, or open a session of its own with manager.open().'
  return Promise.reject(new KeepsakeError('too_late', message))
}

const noMiddleware = (): KeepsakeError =>
  new KeepsakeError(
    'no_middleware',
    'There is no session for this request. Wrap the handler in a session manager: sessionManager({ backend })(handler). Pass on the original Request, not a copy of it. Outside of a middleware, pass the session that manager.open() returned.',
  )

/** The session of a request for a caller with these options. The request extends it if one of its callers asks for that. */
const sessionWith = (
  request: Request,
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
  return sessionFor(request, requestContext)
}

/**
 * The session of a request, from the innermost session manager that the request passed through. If the manager has no
 * schema, `session<Fields>(request)` declares the types of the fields; nothing checks them.
 *
 * @param options `{ extend: false }` for a request that only looks, such as a poll: the session does not live longer for it
 * @throws KeepsakeError `no_middleware` without a session manager, `unavailable` if the backend fails, `too_late`,
 *   `invalid_option`
 */
export const session = <F extends object = AnyFields>(
  request: Request,
  options?: SessionOptions,
): Promise<Session<F>> => sessionWith(request, contextOf(request), options) as Promise<unknown> as Promise<Session<F>>

/** The session of a request from the middleware `owner`, also if the request passed through others since. */
export const sessionOf = (request: Request, owner: unknown, options?: SessionOptions): Promise<Session> =>
  sessionWith(request, contextInside(request, owner), options)

/** The tenant of a request for the middleware `owner` of `manager`, also if the request is outside of it. */
export const tenantFor = (request: IncomingRequest, owner: unknown, manager: Manager): RequestTenant => {
  const context = contextInside(request as Request, owner)
  return context === undefined ? findTenant(manager, request) : tenantIn(request as Request, context)
}

/** The label of the session that a request used, if it used one. */
export const labelFor = (request: Request): string | undefined => contextOf(request)?.label

/**
 * The unit of work of a request, for features that build on sessions, such as forms. They extend the
 * session only if no caller asked for it with `extend: false`.
 *
 * @throws as `session`
 */
export const workOf = async (target: RequestOrSession): Promise<UnitOfWork> => {
  const requestContext = contextOf(target)
  if (requestContext === undefined) throw noMiddleware()
  // Only a request may have no session yet.
  await (requestContext.session ?? sessionFor(target as Request, requestContext))
  const { work } = requestContext
  const { readOnly } = work ?? {}
  if (readOnly !== undefined && !readOnly.reads) throw readOnly.error
  if (work !== undefined && !work.committed) return work
  throw new KeepsakeError('too_late', 'The session was used after the response was sent. Use it before.')
}

/** The innermost manager of a request, if there is one. */
export const findManager = (request: Request): Manager | undefined => contextOf(request)?.manager

/** The innermost manager of a request. @throws KeepsakeError `no_middleware` */
export const managerOf = (request: Request): Manager => {
  const manager = findManager(request)
  if (manager === undefined) throw noMiddleware()
  return manager
}

/** The tenant of a request at its innermost manager. @throws KeepsakeError `no_middleware`, `invalid_option` */
export const tenantOf = (request: Request): RequestTenant => {
  const requestContext = contextOf(request)
  if (requestContext === undefined) throw noMiddleware()
  return tenantIn(request, requestContext)
}
