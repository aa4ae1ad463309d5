// The link of a request to a session manager: the first use opens the session, and all later ones get the same.

import { type Awaitable, isThenable, KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import type { TransportOptions } from './http/cookie-names.ts'
import type { ErrorResponse } from './http/error-response.ts'
import type { IncomingRequest, RequestHead } from './http/request-head.ts'
import type { SharedContext } from './session/context.ts'
import type { Flash } from './session/flash-messages.ts'
import { createHandle, type Session } from './session/session.ts'
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
  readonly open: (request: RequestHead, tenant: RequestTenant) => Awaitable<UnitOfWork>
  /** In an adapter: the error for callers whose session cannot be opened. */
  readonly openingError?: <E>(error: E) => E | KeepsakeError
}

/** Marks the middleware of a manager, of any copy of this package. */
const MANAGER = Symbol.for('keepsake.manager')

/** Lets adapters find the manager of a middleware. */
export const exposeManager = (middleware: object, manager: Manager): void => {
  Object.defineProperty(middleware, MANAGER, { value: manager })
}

/** The manager that `sessionManager` returned. @throws KeepsakeError `invalid_option` */
export const exposedManager = (sessions: unknown, caller: string): Manager => {
  const manager = typeof sessions === 'function' ? (sessions as { [MANAGER]?: Manager })[MANAGER] : undefined
  if (manager !== undefined) return manager
  throw new KeepsakeError(
    'invalid_option',
    `The first argument of ${caller} is of the type ${typeof sessions}. It must be a session manager: ${caller.replace('()', '')}(sessionManager({ backend })).`,
  )
}

/** One request's link to one manager. */
export type RequestContext = {
  /** Identifies the middleware, because a request may pass through several. */
  readonly owner: unknown
  outer: RequestContext | undefined
  readonly manager: Manager
  /** The Request, or the part of a framework's request that keepsake reads. */
  readonly head: RequestHead
  /** Called before the first use of the session, so that an adapter watches the response from then on. It may throw. */
  readonly onFirstUse: (() => void) | undefined
  /** Set when it is first needed, and the same from then on. */
  tenant: RequestTenant | undefined
  /** Set by the first caller. It stays readable after the response. */
  session: Promise<Session> | undefined
  /** The changes to commit, until the response. */
  work: UnitOfWork | undefined
  /** Whether a caller asked for the session without `extend: false`. Undefined: no caller asked, except flash messages and forms. */
  extend: boolean | undefined
  /** Messages for the next page. */
  flashAdded: readonly Flash[]
  /** The commit has begun: nothing can be changed any more. */
  answered: boolean
  label: string | undefined
}

/*
 * A property of the request itself costs a tenth of a WeakMap, and nothing else references the context. The symbol is
 * registered, so that another copy of this package finds it.
 */
const CONTEXT = Symbol.for('keepsake.request')
type WithContext = { [CONTEXT]?: RequestContext }

/**
 * A Request inside a middleware; the request, context or event of a framework inside its adapter; or outside of both the
 * session that `manager.open` returned. The session of a request is none.
 */
export type RequestLike = (object & { readonly login?: never }) | { readonly label: string; commit(): Promise<unknown> }

/** The members by which the objects of frameworks refer to the object that an adapter attached. */
const links = ['request', 'req', 'raw', 'context', 'locals'] as const

const contextOf = (target: RequestLike): RequestContext | undefined => {
  if (typeof target !== 'object' || target === null) return undefined
  const own = (target as WithContext)[CONTEXT]
  if (own !== undefined) return own
  for (const link of links) {
    const linked = (target as { [name in typeof link]?: WithContext | null })[link]?.[CONTEXT]
    if (linked !== undefined) return linked
  }
  return undefined
}

const none: readonly Flash[] = []

const newContext = (
  owner: unknown,
  manager: Manager,
  head: RequestHead,
  outer: RequestContext | undefined,
  onFirstUse?: () => void,
): RequestContext => ({
  owner,
  outer,
  manager,
  head,
  onFirstUse,
  tenant: typeof manager.tenant === 'function' ? undefined : manager.tenant,
  session: undefined,
  work: undefined,
  extend: undefined,
  flashAdded: none,
  answered: false,
  label: undefined,
})

/**
 * Attaches a request to the manager of the middleware `owner`.
 *
 * @param target the object that callers pass to `session` and to other functions
 * @param head the part of the request that is read; in a middleware for handlers of Requests, the same object
 */
export const attach = (
  target: RequestLike,
  owner: unknown,
  manager: Manager,
  head: RequestHead,
  onFirstUse?: () => void,
): RequestContext => {
  const requestContext = newContext(owner, manager, head, (target as WithContext)[CONTEXT], onFirstUse)
  ;(target as WithContext)[CONTEXT] = requestContext
  return requestContext
}

/** Attaches a second object of the same request to its manager. */
export const attachAlso = (target: RequestLike, requestContext: RequestContext): void => {
  ;(target as WithContext)[CONTEXT] = requestContext
}

/** Attaches the session that `manager.open` returns to its request, so that flash messages and forms can use it. */
export const attachOpened = (
  opened: Session,
  work: UnitOfWork,
  manager: Manager,
  tenant: RequestTenant,
): RequestContext => {
  const requestContext = newContext(opened, manager, work.request, undefined)
  Object.assign(requestContext, { session: Promise.resolve(opened), work, tenant })
  Object.defineProperty(opened, CONTEXT, { value: requestContext })
  return requestContext
}

/** The link of a request to its innermost manager, if there is one. */
export const findContext = contextOf

/** The link of a request to the middleware `owner`. */
export const contextInside = (target: RequestLike, owner: unknown): RequestContext | undefined => {
  for (let context = contextOf(target); context !== undefined; context = context.outer) {
    if (context.owner === owner) return context
  }
  return undefined
}

/** Whether a request is inside the middleware `owner`, which has not answered it yet. */
export const isInside = (target: RequestLike, owner: unknown): boolean => {
  for (let context = (target as WithContext)[CONTEXT]; context !== undefined; context = context.outer) {
    if (context.owner === owner && !context.answered) return true
  }
  return false
}

/** Drops the work of a request, and gives the request back to the outer middleware. */
export const release = (target: RequestLike, requestContext: RequestContext): void => {
  requestContext.label = requestContext.work?.snapshot?.label
  requestContext.work = undefined
  const { outer } = requestContext
  if (outer !== undefined && (target as WithContext)[CONTEXT] === requestContext)
    (target as WithContext)[CONTEXT] = outer
}

/** @throws KeepsakeError `invalid_option`; the errors of the application's functions */
export const findTenant = ({ tenant }: Pick<Manager, 'tenant'>, request: IncomingRequest): RequestTenant =>
  typeof tenant === 'function' ? tenant(request) : tenant

/** @throws as `findTenant` */
export const tenantIn = (requestContext: RequestContext): RequestTenant => {
  requestContext.tenant ??= findTenant(requestContext.manager, requestContext.head)
  return requestContext.tenant
}

/** The error for callers whose session cannot be opened: an adapter may replace it. */
const openingErrorOf = ({ manager: { openingError } }: RequestContext, error: unknown): unknown =>
  openingError === undefined ? error : openingError(error)

const adoptWork = (requestContext: RequestContext, work: UnitOfWork): Session => {
  requestContext.work = work
  work.extend = requestContext.extend ?? true
  const { readOnly } = work
  // The session throws this error when the handler uses it.
  if (readOnly !== undefined) {
    work.readOnly = { ...readOnly, error: openingErrorOf(requestContext, readOnly.error) as KeepsakeError }
  }
  return createHandle(work)
}

const startOpening = (requestContext: RequestContext): Promise<Session> => {
  try {
    if (requestContext.flashAdded.length === 0) requestContext.onFirstUse?.()
    const work = requestContext.manager.open(requestContext.head, tenantIn(requestContext))
    if (!isThenable(work)) return Promise.resolve(adoptWork(requestContext, work))
    const promise = work.then(
      (work) => adoptWork(requestContext, work),
      (error) => {
        throw openingErrorOf(requestContext, error)
      },
    )
    // Callers that await the promise get the error. A caller that does not must not end the process.
    promise.catch(() => {})
    return promise
  } catch (error) {
    const promise = Promise.reject(error)
    promise.catch(() => {})
    return promise
  }
}

/** Opens the session of a request, although its handler may not have asked for it. */
export const openOnce = (requestContext: RequestContext): Promise<Session> => {
  requestContext.session ??= startOpening(requestContext)
  return requestContext.session
}

/** Adds a message for the next page. @throws KeepsakeError `no_middleware`, `too_late` */
export const queueFlash = (target: RequestLike, message: Flash): void => {
  const requestContext = contextOf(target)
  if (requestContext === undefined) throw noMiddleware()
  if (requestContext.answered) {
    throw new KeepsakeError('too_late', 'A flash message was added after the response was sent. Add it before.')
  }
  if (requestContext.session === undefined && requestContext.flashAdded.length === 0) requestContext.onFirstUse?.()
  requestContext.flashAdded = [...requestContext.flashAdded, message]
}

/** The error of a caller whose request has no manager. */
export const noMiddleware = (): KeepsakeError =>
  new KeepsakeError(
    'no_middleware',
    'There is no session for this request. Wrap the handler in a session manager: sessionManager({ backend })(handler). In a framework, mount its adapter before the handler. Pass on the original request, not a copy of it. Outside of a middleware, pass the session that manager.open() returned.',
  )
