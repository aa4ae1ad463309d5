// The session manager: it opens its backend, and is a middleware with methods for jobs, accounts and operators.

import { listSessions, type OwnedSession, revokeAllSessions, revokeSession } from './accounts.ts'
import type { Deadline } from './backends/deadline.ts'
import { workStarter } from './begin-work.ts'
import { checkOptionNames, KeepsakeError } from './error.ts'
import type { Middleware } from './http/handler.ts'
import { isNodeRequest, type NodeRequest, NodeRequestHead, type ParsedBodyOwner } from './http/node-request.ts'
import type { IncomingRequest, RequestHead, RequestHeaders } from './http/request-head.ts'
import { openLazily } from './lazy-backend.ts'
import { createMiddleware } from './middleware.ts'
import { type OpenSession, openSession } from './open-session.ts'
import {
  countSessions,
  type RevokeCondition,
  type RevokeProgress,
  type RevokeWhereOptions,
  revokeSessionsWhere,
  type ScanOptions,
  type SessionPage,
  scanSessions,
} from './operator.ts'
import { checkOptions, type SessionManagerOptions } from './options.ts'
import { type SessionOptions, sessionOf, tenantFor } from './request.ts'
import { findContext, type Manager, type RequestLike } from './request-context.ts'
import type { OutputOf, StandardSchema } from './schema.ts'
import { sealText, unsealText } from './sealed-text.ts'
import type { ManagerContext, SharedContext } from './session/context.ts'
import type { AnyFields, Session } from './session/session.ts'
import { contextFinder, namespaceIn, needsTenant } from './session/tenant.ts'
import { type WatchOptions, type WatchResult, watchSession } from './watch.ts'
import { Watchers } from './watchers.ts'

/** A request that opens a session outside a middleware. */
type OpeningRequest =
  | {
      readonly headers: RequestHeaders
      readonly url?: string | undefined
      readonly method?: string | undefined
    }
  | NodeRequest

/** A middleware with methods for its own sessions. */
export type SessionManager<F extends object = AnyFields> = Middleware & {
  /**
   * The session of a request inside this middleware, also if another session manager is nested in it. The options are those
   * of `session`.
   */
  session(request: RequestLike, options?: SessionOptions): Promise<Session<F>>
  /**
   * A session for a job, a socket or a server action. A Request gives all that is needed. Without `url`, only cookies
   * with a `__Host-` or `__Secure-` prefix are read. `readForm` needs a Request. A request of `node:http` is also possible, for
   * example that of a WebSocket upgrade. The options are those of `session`.
   */
  open(request: OpeningRequest, options?: SessionOptions): Promise<OpenSession<F>>
  /**
   * The session of a WebSocket or of another long connection, to read, until it ends. Call it with the request that opens the
   * connection, or inside an adapter with the context of the framework. A page of another origin gets `cross_origin`: answer
   * 403. Call `stop()` when the connection closes.
   *
   * The end of the session is reported within a second if this manager ended it, and otherwise within `watchInterval` seconds.
   * Watching does not extend the session.
   *
   * @throws KeepsakeError `invalid_option`, `unavailable`
   */
  watch(request: OpeningRequest | RequestLike, options?: WatchOptions): Promise<WatchResult<F>>
  /**
   * The live sessions of an account, as `login` named it, newest first.
   *
   * @throws KeepsakeError `invalid_option`, `unavailable`
   */
  list(owner: string): Promise<readonly OwnedSession<F>[]>
  /**
   * Ends the session with this label. If there is none, nothing happens.
   *
   * @throws KeepsakeError `invalid_option`; `unavailable` or `unknown_outcome`: the session may be left, so call it again
   */
  revoke(label: string): Promise<void>
  /**
   * Ends all sessions of an account except the one with the label `except`, for example after a change of password. It
   * includes sessions whose key is being rotated. A login in progress counts either as before or as after. A request in
   * progress with an ended session gets 409 if it saves something.
   *
   * @returns the number of sessions that ended
   * @throws KeepsakeError `invalid_option`, or `unknown_outcome`: some sessions may be left, so call it again
   */
  revokeAll(owner: string, options?: { readonly except?: string | undefined }): Promise<number>
  /**
   * All live sessions of the application, page by page, for its operator: `for await (const { sessions } of scan())`. A
   * session that exists during the whole scan is returned. A login ends one session and creates another, so a visitor
   * who logs in concurrently may be missing. To continue a scan in another process, pass the cursor of its last page.
   *
   * @throws KeepsakeError from the iteration: `invalid_option`, also if the backend has no `scan`; `unavailable`
   */
  scan(options?: ScanOptions): AsyncIterableIterator<SessionPage<F>>
  /**
   * The number of live sessions of the application. It reads all of them.
   *
   * @throws KeepsakeError `invalid_option`, `unavailable`
   */
  count(): Promise<number>
  /**
   * Ends all sessions of the application for which the condition returns true: `revokeWhere(() => true)` ends all of them.
   * A session that a request changes in the meantime is passed to the condition again. A session that is created
   * concurrently, for example by a login, may remain. A request in progress with an ended session gets 409 if it saves
   * something. Each end is an event `revoked`. The condition is called for up to 16 sessions at a time.
   *
   * @throws KeepsakeError `invalid_option`, also if the condition returns another value than true or false; `unavailable`
   *   or `unknown_outcome`: some sessions may be left, so call it again; the errors of the condition and of `onProgress`
   */
  revokeWhere(condition: RevokeCondition<F>, options?: RevokeWhereOptions): Promise<RevokeProgress>
  /**
   * The methods above and below that need no request, for one tenant. Only for a manager whose option `namespace` is a
   * function: there, the same methods of the manager throw `invalid_option`.
   *
   * @param tenant a request of the tenant, or its namespace
   * @throws KeepsakeError `invalid_option`; the errors of the function `namespace`
   */
  tenant(tenant: IncomingRequest | string): Tenant<F>
  /** As `seal(request, …)`, without a request. @throws KeepsakeError `invalid_option`, `too_large`, `unavailable` */
  seal(text: string, associated: string): Promise<string>
  /** As `unseal(request, …)`, without a request. @throws KeepsakeError `invalid_option`, `unavailable` */
  unseal(sealed: string, associated: string): Promise<string | undefined>
  /**
   * Removes expired entries in small batches. Several processes may sweep at once.
   *
   * @returns the number of entries that were removed
   * @throws the errors of the backend
   */
  sweep(): Promise<number>
  /**
   * Opens the backend, so that errors of the configuration appear at the start.
   *
   * @throws KeepsakeError `no_secret`, `unknown_backend`, `unavailable`, and `invalid_option`, also if the store may
   *   forget that sessions have ended
   */
  ready(): Promise<void>
  /** Closes the backend. */
  close(): Promise<void>
}

/** The methods of a manager for one of its tenants. */
export type Tenant<F extends object = AnyFields> = Pick<
  SessionManager<F>,
  'list' | 'revoke' | 'revokeAll' | 'scan' | 'count' | 'revokeWhere' | 'seal' | 'unseal'
> & { readonly namespace: string }

/** @throws KeepsakeError `invalid_option` if it is no request */
const headFrom = (opening: unknown, caller: string): RequestHead => {
  if (isNodeRequest(opening)) return new NodeRequestHead(opening, opening as ParsedBodyOwner)
  if (typeof (opening as Partial<RequestHead> | null)?.headers?.get === 'function') return opening as RequestHead
  throw new KeepsakeError(
    'invalid_option',
    `${caller} was given a value of type ${typeof opening} without headers. Pass a Request, a request of node:http, or { headers, url }.`,
  )
}

/** The fields that a schema describes, if it describes an object. */
type FieldsOf<S extends StandardSchema> = OutputOf<S> extends object ? OutputOf<S> : never

/** The methods of a manager that need a namespace and no request. `namespaceFor` returns the namespace, or throws. */
const namespaceMethods = (
  manager: Manager,
  newDeadline: () => Deadline,
  contextOf: (shared: SharedContext, namespace: string) => ManagerContext,
  namespaceFor: (method: string) => string,
) => {
  const contextFor = async (method: string): Promise<ManagerContext> => {
    const namespace = namespaceFor(method)
    return contextOf(await manager.context(), namespace)
  }
  const accessFor = (method: string) => ({ opened: () => contextFor(method), newDeadline })
  return {
    list: async (owner: string) => listSessions<AnyFields>(await contextFor('list'), newDeadline(), owner),
    revoke: async (label: string) => revokeSession(await contextFor('revoke'), newDeadline(), label),
    async revokeAll(owner: string, options: { readonly except?: string | undefined } = {}) {
      checkOptionNames(options, ['except'], 'revokeAll()')
      return revokeAllSessions(await contextFor('revokeAll'), newDeadline(), owner, options.except)
    },
    scan: (options: ScanOptions = {}) => scanSessions<AnyFields>(accessFor('scan'), options),
    count: () => countSessions(accessFor('count')),
    revokeWhere: (condition: RevokeCondition<AnyFields>, options: RevokeWhereOptions = {}) =>
      revokeSessionsWhere(accessFor('revokeWhere'), condition, options),
    seal: async (text: string, associated: string) =>
      sealText(manager, { namespace: namespaceFor('seal'), associated }, text),
    unseal: async (sealed: string, associated: string) =>
      unsealText(manager, { namespace: namespaceFor('unseal'), associated }, sealed),
  }
}

/**
 * Gives every handler that the result wraps a session.
 *
 * @throws KeepsakeError `invalid_option`, `unknown_backend`. `no_secret` is thrown by `ready` and by the first use.
 */
export function sessionManager<S extends StandardSchema>(
  options: SessionManagerOptions & { readonly schema: S },
): SessionManager<FieldsOf<S>>
export function sessionManager<F extends object = AnyFields>(options: SessionManagerOptions): SessionManager<F>
export function sessionManager(options: SessionManagerOptions): SessionManager {
  const checked = checkOptions(options, (type, more) => watchers.onEvent(type, more))
  const store = openLazily(checked, options)
  const { namespace } = checked
  const trustProxy = options.trustProxy === true
  const contextOf = contextFinder(namespace === undefined)
  const { beginWork, newDeadline } = workStarter(checked, trustProxy, store, contextOf)
  const { now, emit } = checked.settings
  const watchers = new Watchers({ interval: checked.watchInterval, now, emit, newDeadline })

  const manager: Manager = {
    context: () => store.current() ?? store.opened(),
    emit,
    errorResponse: options.errorResponse,
    transport: { ...(options.secure !== undefined && { secure: options.secure }), trustProxy },
    tenant: checked.tenant,
    open: beginWork,
  }
  const ready = async () => {
    const context = await store.opened()
    if (!store.isChecked()) await store.check(context)
  }
  let closed: Promise<void> | undefined
  const close = async () => {
    const context = store.current()
    context?.sweeper.stop()
    watchers.close()
    // Every server of this manager closes it, and many backends can be closed only once.
    closed ??= context && (async () => context.backend.close?.())()
    await closed
  }
  const middleware = createMiddleware(manager, { ready, close })
  const methodsIn = (namespaceFor: (method: string) => string) =>
    namespaceMethods(manager, newDeadline, contextOf, namespaceFor)

  return Object.assign(middleware, {
    session: (request: RequestLike, options?: SessionOptions) => sessionOf(request, middleware, options),
    open: async (opening: RequestHead | NodeRequest, options: SessionOptions = {}) =>
      openSession(manager, headFrom(opening, 'open()'), options),
    watch: async (opening: RequestHead | NodeRequest | RequestLike, options: WatchOptions = {}) =>
      watchSession(manager, watchers, findContext(opening)?.head ?? headFrom(opening, 'watch()'), options),
    ...methodsIn(namespace === undefined ? needsTenant : () => namespace),
    tenant(tenant: IncomingRequest | string): Tenant {
      const of = namespaceIn(tenant, namespace, (request) => tenantFor(request, middleware, manager).namespace)
      return { namespace: of, ...methodsIn(() => of) }
    },
    sweep: async () => (await store.opened()).sweeper.sweep(),
    ready,
    close,
  })
}
