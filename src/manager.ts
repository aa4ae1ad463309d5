// The session manager: it opens its backend, and is a middleware with methods for jobs, accounts and operators.

import { listSessions, type OwnedSession, revokeAllSessions, revokeSession } from './accounts.ts'
import type { Deadline } from './backends/deadline.ts'
import { isKey } from './crypto/keys.ts'
import { isToken } from './crypto/seal.ts'
import { type Awaitable, checkOptionNames, KeepsakeError } from './error.ts'
import { cookieValues } from './http/cookie.ts'
import { cookieSettings, type IncomingRequest } from './http/cookie-names.ts'
import type { Middleware } from './http/handler.ts'
import { withheldFrom } from './http/withheld.ts'
import { failedContext, type LazyBackend, openLazily } from './lazy-backend.ts'
import { clearingCookies, createMiddleware } from './middleware.ts'
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
import { type Configuration, checkOptions, type SessionManagerOptions } from './options.ts'
import { type Manager, sessionOf } from './request.ts'
import { addHeaders, type ResponseCookie, responseCookies, setCookieHeaders } from './response.ts'
import type { OutputOf, StandardSchema } from './schema.ts'
import { sealText, unsealText } from './sealed-text.ts'
import { commit } from './session/commit.ts'
import type { ManagerContext } from './session/context.ts'
import { open } from './session/open.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import type { UnitOfWork } from './session/work.ts'

/** The result of a commit outside a middleware: headers and cookies to send, or the reason why nothing was saved. */
export type CommitResult =
  | {
      readonly ok: true
      /** Set-Cookie, Vary and Cache-Control, to add to the response. */
      readonly headers: Headers
      /** The same cookies as objects, for frameworks that set cookies by name. */
      readonly cookies: readonly ResponseCookie[]
    }
  | { readonly ok: false; readonly error: 'ended' | 'conflict' | 'withheld' }

/** A session outside a middleware: change it, then commit. */
export type OpenSession<F extends object = AnyFields> = Session<F> & {
  /**
   * Saves the changes. Add the headers or the cookies of the result to the response. A job without a response ignores
   * them. Call it once. If a logout fails, the error has `headers` that clear the browser's cookie.
   *
   * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`, `too_large`, `schema_mismatch`, `too_late`
   */
  commit(): Promise<CommitResult>
}

/** A middleware with methods for its own sessions. */
export type SessionManager<F extends object = AnyFields> = Middleware & {
  /** The session of a request inside this middleware, also if another session manager is nested in it. */
  session(request: Request): Promise<Session<F>>
  /**
   * A session for a job, a socket or a server action. Without `url`, only cookies with a `__Host-` or `__Secure-`
   * prefix are read.
   */
  open(request: { readonly headers: Headers; readonly url?: string | undefined }): Promise<OpenSession<F>>
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

/** Before the backend is open, a cookie may hold a key or a sealed session. */
const isKeyOrToken = (value: string): boolean => isKey(value) || isToken(value)

/** The fields that a schema describes, if it describes an object. */
type FieldsOf<S extends StandardSchema> = OutputOf<S> extends object ? OutputOf<S> : never

/** How a manager begins the work of a request. */
const workStarter = (
  checked: Configuration,
  options: SessionManagerOptions,
  { current, opened, isChecked, check }: LazyBackend,
) => {
  const { emit } = checked.settings
  const settingsFor = cookieSettings(options)
  const inFlight = { count: 0, max: checked.maxInFlight }
  const { sameSite, path } = options.cookie ?? {}
  const placed = { ...(sameSite !== undefined && { sameSite }), ...(path !== undefined && { path }) }
  const trustProxy = options.trustProxy === true
  const warned = new Set<string>()
  const newDeadline = (): Deadline => ({ left: checked.storeTimeout, inFlight })

  const workFor = (context: ManagerContext, request: IncomingRequest): Awaitable<UnitOfWork> => {
    const cookies = settingsFor(request)
    const { notice } = cookies
    if (notice !== undefined && !warned.has(notice.type)) {
      warned.add(notice.type)
      emit(notice.type, { message: notice.message })
    }
    const isOpen = context === current()
    if (isOpen && !isChecked()) check(context).catch(() => {})
    const deadline = newDeadline()
    const cookieHeader = request.headers.get('cookie')
    const values = cookieHeader === null ? [] : cookieValues(cookieHeader, cookies.session, () => true)
    const withheld = values.length === 0 ? withheldFrom(request, placed, trustProxy) : undefined
    const mayOpen = isOpen ? (context.backend.stateless ? isToken : isKey) : isKeyOrToken
    return open(context, deadline, { keys: values.filter(mayOpen), cookies, cookieHeader, withheld })
  }

  const beginWork = (request: IncomingRequest): Awaitable<UnitOfWork> => {
    const context = current()
    if (context !== undefined) return workFor(context, request)
    return opened().then(
      (context) => workFor(context, request),
      (error) => {
        if (error.status !== 503) throw error
        return workFor(failedContext(checked, error), request)
      },
    )
  }

  return { beginWork, newDeadline }
}

/** The `commit` of a session outside a middleware. */
const commitFor = (work: UnitOfWork) => {
  const headersWith = (cookies: readonly string[]): Headers => {
    const headers = new Headers()
    addHeaders(headers, cookies, work.context.emit)
    return headers
  }
  return async (): Promise<CommitResult> => {
    if (work.committed) {
      throw new KeepsakeError('too_late', 'commit() was called twice for one session. Open the session again.')
    }
    try {
      const outcome = await commit(work)
      if (outcome.failure !== undefined) return { ok: false, error: outcome.failure }
      const headers = headersWith(setCookieHeaders(outcome, work))
      return { ok: true, headers, cookies: responseCookies(outcome, work) }
    } catch (error) {
      const cookies = clearingCookies(work)
      if (error instanceof KeepsakeError && cookies.length > 0) error.headers = headersWith(cookies)
      throw error
    }
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
  const checked = checkOptions(options)
  const store = openLazily(checked, options)
  const { beginWork, newDeadline } = workStarter(checked, options, store)
  const { namespace, emit } = checked.settings

  const manager: Manager = {
    context: () => store.current() ?? store.opened(),
    emit,
    errorResponse: options.errorResponse,
    transport: {
      ...(options.secure !== undefined && { secure: options.secure }),
      trustProxy: options.trustProxy === true,
    },
    namespace,
    cookieName: options.cookie?.name ?? 'sid',
    open: beginWork,
  }
  const access = { opened: store.opened, newDeadline }
  const ready = async () => {
    const context = await store.opened()
    if (!store.isChecked()) await store.check(context)
  }
  let closed: Promise<void> | undefined
  const close = async () => {
    const context = store.current()
    context?.sweeper.stop()
    // Every server of this manager closes it, and many backends can be closed only once.
    closed ??= context && (async () => context.backend.close?.())()
    await closed
  }
  const middleware = createMiddleware(manager, { ready, close })

  return Object.assign(middleware, {
    session: (request: Request) => sessionOf(request, middleware),
    async open(request: IncomingRequest): Promise<OpenSession> {
      const work = await beginWork(request)
      return Object.defineProperty(createHandle(work), 'commit', { value: commitFor(work) }) as OpenSession
    },
    list: async (owner: string) => listSessions<AnyFields>(await store.opened(), newDeadline(), owner),
    revoke: async (label: string) => revokeSession(await store.opened(), newDeadline(), label),
    async revokeAll(owner: string, options: { readonly except?: string } = {}) {
      checkOptionNames(options, ['except'], 'revokeAll()')
      return revokeAllSessions(await store.opened(), newDeadline(), owner, options.except)
    },
    scan: (options: ScanOptions = {}) => scanSessions<AnyFields>(access, options),
    count: () => countSessions(access),
    revokeWhere: (condition: RevokeCondition<AnyFields>, options: RevokeWhereOptions = {}) =>
      revokeSessionsWhere(access, condition, options),
    seal: (text: string, associated: string) => sealText(manager, text, associated),
    unseal: (sealed: string, associated: string) => unsealText(manager, sealed, associated),
    sweep: async () => (await store.opened()).sweeper.sweep(),
    ready,
    close,
  })
}
