// The way from a request to its session: whoever asks first opens it, for all who ask.

import { type Awaitable, KeepsakeError, isThenable } from './error.ts'
import type { Emit } from './events.ts'
import type { TransportOptions } from './http/cookie-names.ts'
import type { Flash } from './session/flash-messages.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import type { ManagerContext, UnitOfWork } from './session/work.ts'

/** What a sessions middleware stands on, for whom no session is needed: cookies of the application, sealed texts. */
export type Manager = {
  readonly house: () => Awaitable<ManagerContext>
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
  readonly ground: Manager
  /** Once it was asked for. */
  session: Promise<Session> | undefined
  visit: UnitOfWork | undefined
  /** Messages for the next page. */
  outbox: readonly Flash[]
  /** The response has left: nothing of the visit is held any more but its label. */
  over: boolean
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
export const attach = (request: Request, owner: unknown, ground: Manager): RequestContext => {
  const passage: RequestContext = {
    owner,
    outer: contextOf(request),
    ground,
    session: undefined,
    visit: undefined,
    outbox: none,
    over: false,
    label: undefined,
  }
  ;(request as Marked)[CONTEXT] = passage
  return passage
}

/** Whether a request is on its way through `owner`, and has not been answered there. */
export const isInside = (request: Request, owner: unknown): boolean => {
  for (let passage = contextOf(request); passage !== undefined; passage = passage.outer) {
    if (passage.owner === owner && !passage.over) return true
  }
  return false
}

/** Ends a passage: lets go of what it held, and gives the request back to the middleware around. */
export const release = (request: Request, passage: RequestContext): void => {
  passage.label = passage.visit?.stored?.label
  passage.session = undefined
  passage.visit = undefined
  const { outer } = passage
  if (outer !== undefined && contextOf(request) === passage) (request as Marked)[CONTEXT] = outer
}

const startOpening = (request: Request, passage: RequestContext): Promise<Session> => {
  const begun = (visit: UnitOfWork): Session => {
    passage.visit = visit
    return createHandle(visit)
  }
  try {
    const visit = passage.ground.open(request)
    if (!isThenable(visit)) return Promise.resolve(begun(visit))
    const promise = visit.then(begun)
    // Whoever awaits it gets the error; whoever does not must not end the process.
    promise.catch(() => {})
    return promise
  } catch (error) {
    const promise = Promise.reject(error)
    promise.catch(() => {})
    return promise
  }
}

/** Leaves a message for the next page. @throws Fault `no_session`, `too_late` */
export const queueFlash = (request: Request, message: Flash): void => {
  const passage = contextOf(request)
  if (passage === undefined) throw noMiddleware()
  if (passage.over) throw new KeepsakeError('too_late', 'A flash message was added after the response had left. Add it before.')
  passage.outbox = [...passage.outbox, message]
}

/** Opens the session of a passage whose handler never asked for it, because something else needs it. */
export const openOnce = (request: Request, passage: RequestContext): Promise<Session> => {
  passage.session ??= startOpening(request, passage)
  return passage.session
}

const sessionFor = (request: Request, passage: RequestContext): Promise<Session> => {
  if (passage.session === undefined && passage.over) {
    const why =
      'The session was asked for after its response had left. Ask before, or open a visit of its own with sessions.open().'
    return Promise.reject(new KeepsakeError('too_late', why))
  }
  return openOnce(request, passage)
}

const noMiddleware = (): KeepsakeError =>
  new KeepsakeError(
    'no_session',
    'This request came through no sessions middleware. Wrap the handler: sessions({ backend })(handler); and hand on the request itself, not a clone of it.',
  )

/**
 * The session of a request: of the innermost sessions middleware that it came through. `session<Fields>(request)` names
 * the types of its fields, for who gives no schema: nothing checks them.
 *
 * @throws Fault `no_session` without a sessions middleware, `unavailable` where the backend fails, `too_late`
 */
export const session = <F extends object = AnyFields>(request: Request): Promise<Session<F>> => {
  const passage = contextOf(request)
  return passage === undefined
    ? Promise.reject(noMiddleware())
    : (sessionFor(request, passage) as Promise<unknown> as Promise<Session<F>>)
}

/** The session of a request that came through `owner`, also where it came through others since. */
export const sessionOf = (request: Request, owner: unknown): Promise<Session> => {
  for (let passage = contextOf(request); passage !== undefined; passage = passage.outer) {
    if (passage.owner === owner) return sessionFor(request, passage)
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
  const visit = contextOf(request)?.visit
  const { barred } = visit ?? {}
  if (barred !== undefined && !barred.reads) throw barred.fault
  if (visit !== undefined && !visit.over) return visit
  throw new KeepsakeError('too_late', 'The session was asked for something after its response had left. Ask before.')
}

/** What the innermost sessions middleware of a request stands on, if it came through one. */
export const findManager = (request: Request): Manager | undefined => contextOf(request)?.ground

/** The same. @throws Fault `no_session` */
export const managerOf = (request: Request): Manager => {
  const ground = findManager(request)
  if (ground === undefined) throw noMiddleware()
  return ground
}
