// The way from a request to its session: whoever asks first opens it, for all who ask.

import { type Awaitable, isThenable, KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import type { TransportOptions } from './http/cookie-names.ts'
import type { Flash } from './session/flash-messages.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import type { ManagerContext, UnitOfWork } from './session/work.ts'

/** What a sessions middleware stands on, for whom no session is needed: cookies of the application, sealed texts. */
export type Manager = {
  readonly context: () => Awaitable<ManagerContext>
  readonly emit: Emit
  readonly transport: TransportOptions
  readonly namespace: string
  /** Of the session, without a prefix. */
  readonly cookieName: string
  readonly open: (request: Request) => Awaitable<UnitOfWork>
}

/** One request on its way through one sessions middleware. */
export type RequestContext = {
  /** The middleware, to tell it from others that the same request comes through. */
  readonly owner: unknown
  outer: RequestContext | undefined
  readonly manager: Manager
  /** Once it was asked for. */
  session: Promise<Session> | undefined
  work: UnitOfWork | undefined
  /** Messages for the next page. */
  flashAdded: readonly Flash[]
  /** The response has left: nothing of the visit is held any more but its label. */
  committed: boolean
  label: string | undefined
}

/*
 * On the request itself, where it costs a tenth of what a WeakMap does; nothing else holds it. The symbol is registered, so
 * that another copy of this package finds what this one has put there.
 */
const CONTEXT = Symbol.for('keepsake.passage')
type Marked = Request & { [CONTEXT]?: RequestContext }

const contextOf = (request: Request): RequestContext | undefined => (request as Marked)[CONTEXT]

const none: readonly Flash[] = []

/** Marks a request as one that comes through `owner`. */
export const attach = (request: Request, owner: unknown, manager: Manager): RequestContext => {
  const requestContext: RequestContext = {
    owner,
    outer: contextOf(request),
    manager,
    session: undefined,
    work: undefined,
    flashAdded: none,
    committed: false,
    label: undefined,
  }
  ;(request as Marked)[CONTEXT] = requestContext
  return requestContext
}

/** Whether a request is on its way through `owner`, and has not been answered there. */
export const isInside = (request: Request, owner: unknown): boolean => {
  for (let requestContext = contextOf(request); requestContext !== undefined; requestContext = requestContext.outer) {
    if (requestContext.owner === owner && !requestContext.committed) return true
  }
  return false
}

/** Ends a passage: lets go of what it held, and gives the request back to the middleware around. */
export const release = (request: Request, requestContext: RequestContext): void => {
  requestContext.label = requestContext.work?.snapshot?.label
  requestContext.session = undefined
  requestContext.work = undefined
  const { outer } = requestContext
  if (outer !== undefined && contextOf(request) === requestContext) (request as Marked)[CONTEXT] = outer
}

const startOpening = (request: Request, requestContext: RequestContext): Promise<Session> => {
  const begun = (work: UnitOfWork): Session => {
    requestContext.work = work
    return createHandle(work)
  }
  try {
    const work = requestContext.manager.open(request)
    if (!isThenable(work)) return Promise.resolve(begun(work))
    const promise = work.then(begun)
    // Whoever awaits it gets the error; whoever does not must not end the process.
    promise.catch(() => {})
    return promise
  } catch (error) {
    const promise = Promise.reject(error)
    promise.catch(() => {})
    return promise
  }
}

/** Leaves a message for the next page. @throws KeepsakeError `no_middleware`, `too_late` */
export const queueFlash = (request: Request, message: Flash): void => {
  const requestContext = contextOf(request)
  if (requestContext === undefined) throw noMiddleware()
  if (requestContext.committed)
    throw new KeepsakeError('too_late', 'A flash message was added after the response had left. Add it before.')
  requestContext.flashAdded = [...requestContext.flashAdded, message]
}

/** Opens the session of a passage whose handler never asked for it, because something else needs it. */
export const openOnce = (request: Request, requestContext: RequestContext): Promise<Session> => {
  requestContext.session ??= startOpening(request, requestContext)
  return requestContext.session
}

const sessionFor = (request: Request, requestContext: RequestContext): Promise<Session> => {
  if (requestContext.session === undefined && requestContext.committed) {
    const why =
      'The session was asked for after its response had left. Ask before, or open a visit of its own with manager.open().'
    return Promise.reject(new KeepsakeError('too_late', why))
  }
  return openOnce(request, requestContext)
}

const noMiddleware = (): KeepsakeError =>
  new KeepsakeError(
    'no_middleware',
    'This request came through no sessions middleware. Wrap the handler: sessionManager({ backend })(handler); and hand on the request itself, not a clone of it.',
  )

/**
 * The session of a request: of the innermost sessions middleware that it came through. `session<Fields>(request)` names
 * the types of its fields, for who gives no schema: nothing checks them.
 *
 * @throws KeepsakeError `no_middleware` without a sessions middleware, `unavailable` where the backend fails, `too_late`
 */
export const session = <F extends object = AnyFields>(request: Request): Promise<Session<F>> => {
  const requestContext = contextOf(request)
  return requestContext === undefined
    ? Promise.reject(noMiddleware())
    : (sessionFor(request, requestContext) as Promise<unknown> as Promise<Session<F>>)
}

/** The session of a request that came through `owner`, also where it came through others since. */
export const sessionOf = (request: Request, owner: unknown): Promise<Session> => {
  for (let requestContext = contextOf(request); requestContext !== undefined; requestContext = requestContext.outer) {
    if (requestContext.owner === owner) return sessionFor(request, requestContext)
  }
  return Promise.reject(noMiddleware())
}

/** The label of the session that a request touched, if it touched one. */
export const labelFor = (request: Request): string | undefined => contextOf(request)?.label

/**
 * The visit behind the session of a request: for what is built on sessions, such as forms.
 *
 * @throws as `session`
 */
export const workOf = async (request: Request): Promise<UnitOfWork> => {
  await session(request)
  const work = contextOf(request)?.work
  const { readOnly } = work ?? {}
  if (readOnly !== undefined && !readOnly.reads) throw readOnly.fault
  if (work !== undefined && !work.committed) return work
  throw new KeepsakeError('too_late', 'The session was asked for something after its response had left. Ask before.')
}

/** What the innermost sessions middleware of a request stands on, if it came through one. */
export const findManager = (request: Request): Manager | undefined => contextOf(request)?.manager

/** The same. @throws KeepsakeError `no_middleware` */
export const managerOf = (request: Request): Manager => {
  const manager = findManager(request)
  if (manager === undefined) throw noMiddleware()
  return manager
}
