// The sessions of an application: a middleware, and the way from a request to its session.

import { inspect } from 'node:util'
import { listSessions, type OwnedSession, revokeAllSessions, revokeSession } from './accounts.ts'
import type { Backend } from './backends/contract.ts'
import type { Deadline } from './backends/deadline.ts'
import { backendFromUrl, checkSecret, checkUrl } from './backends/from-url.ts'
import { sweeper } from './backends/sweeper.ts'
import { isKey, ownerNames, storageKeys, versions } from './crypto/keys.ts'
import { HOW_TO_MAKE_ONE, isToken, keyRing, newSecret } from './crypto/seal.ts'
import { type Awaitable, checkOptionNames, isKeepsakeError, isThenable, KeepsakeError } from './error.ts'
import { emitter, type SessionEventListener } from './events.ts'
import { cookieValues } from './http/cookie.ts'
import { cookieSettings, type IncomingRequest, type TransportOptions } from './http/cookie-names.ts'
import { around, type Handler, type Middleware } from './http/handler.ts'
import { withheldFrom } from './http/withheld.ts'
import { attach, isInside, type Manager, openOnce, type RequestContext, release, sessionOf } from './request.ts'
import {
  addHeaders,
  conflictResponse,
  failureResponse,
  isResponse,
  sendable,
  setCookieHeaders,
  withHeaders,
} from './response.ts'
import { isSchema, type OutputOf, type StandardSchema } from './schema.ts'
import { sealText, unsealText } from './sealed-text.ts'
import { fieldCodec } from './session/codec.ts'
import { type CommitOutcome, commit } from './session/commit.ts'
import { end } from './session/end.ts'
import { returnMessages } from './session/flash.ts'
import { open } from './session/open.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import type { ManagerContext, UnitOfWork } from './session/work.ts'

export type SessionManagerOptions = TransportOptions & {
  /** Where sessions are kept: a backend, or a URL such as `sqlite:sessions.db`, as a text or as an object. */
  readonly backend: Backend | string | URL
  /**
   * 32 random bytes or more, or several such secrets, newest first: the first seals, all of them open. Without one, what
   * keeps none beside its data refuses at `ready` and at the first use, so that a build can load the application.
   */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[] | undefined
  /** Seconds without a visit after which a session has ended. Default two weeks. A visit in the second half renews them. */
  readonly idleTimeout?: number | undefined
  /** Seconds after which a session has ended, however often it was used. Default 30 days. */
  readonly absoluteTimeout?: number | undefined
  /**
   * false: a session's cookie has no Max-Age, so it goes when the browser is closed. A login may say otherwise. Default
   * true: it is kept until the absolute end of the session.
   */
  readonly persistent?: boolean | undefined
  /** Keeps applications apart that share a store. Default: the name of the cookie. */
  readonly namespace?: string | undefined
  /** Bytes that the fields of one session may have as JSON. Default 64 KiB. */
  readonly maxBytes?: number | undefined
  /** Seconds that one visit may wait for the backend, all calls together. Default 2. */
  readonly storeTimeout?: number | undefined
  /**
   * What the fields look like, by any Standard Schema (zod, valibot, arktype): they are checked when read and before
   * they are saved, and typed. It has to accept its own output, and that has to be what JSON keeps. No fields at all
   * always fit: a session may hold nothing yet.
   */
  readonly schema?: StandardSchema | undefined
  /**
   * Makes of fields that the schema refuses, because an older deployment kept them, fields that it takes. What neither
   * takes is left alone, the event is `schema_mismatch`, and its visitor starts anew.
   */
  readonly migrate?: ((old: unknown) => unknown) | undefined
  /** How many sessions an owner may have: at a login over that, his oldest ends. Default any number. */
  readonly maxSessionsPerOwner?: number | undefined
  /**
   * Seconds: how exact the lists of owners say when a session was last seen. A visit that finds it longer ago writes that
   * down. Default: no such writes, so half a lifetime.
   */
  readonly lastSeenInterval?: number | undefined
  /**
   * What becomes of a request whose session cannot be read. `fail`, the default: whatever asks the session for anything
   * throws, and the answer is 503. `anonymous`: the visitor is anonymous, and to change the session throws what made it
   * so; no session cookie is sent. `invalidate` can be called in both: the browser's cookie is cleared, and the answer is
   * 503 unless the session could be ended after all.
   */
  readonly onStoreError?: 'fail' | 'anonymous' | undefined
  /** false leaves the sweeping of what has expired to you: call `sweep`, from cron say. Default true: now and then after a birth. */
  readonly autoSweep?: boolean | undefined
  /** How many calls to the backend may be under way: what comes on top fails at once. Default 2000. */
  readonly maxInFlight?: number | undefined
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
  /** Hears what happens; so does the `node:diagnostics_channel` named `keepsake`. */
  readonly onEvent?: SessionEventListener | undefined
}

/** What became of a visit outside a middleware: what to send, or why its changes were not saved. */
export type CommitResult =
  | { readonly ok: true; readonly headers: Headers }
  | { readonly ok: false; readonly error: 'ended' | 'conflict' | 'withheld' }

/** A session outside a middleware: change it, then commit. */
export type OpenSession<F extends object = AnyFields> = Session<F> & {
  /**
   * Saves the changes. The headers (Set-Cookie, Vary, Cache-Control) belong on the response, or on none where the
   * visit had none. Once only. The KeepsakeError of a failed logout has `headers` too: the browser's cookie goes all the same.
   *
   * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`, `too_large`, `schema_mismatch`, `too_late`
   */
  commit(): Promise<CommitResult>
}

/** A middleware with ways of its own to its sessions. */
export type SessionManager<F extends object = AnyFields> = Middleware & {
  /** The session of a request that came through this middleware, also where another is nested in it. */
  session(request: Request): Promise<Session<F>>
  /** A session for a job, a socket, a server action. Without `url`, only cookies with a prefix are read. */
  open(arrival: { readonly headers: Headers; readonly url?: string | undefined }): Promise<OpenSession<F>>
  /** The living sessions of an account, as `login` names it, the youngest first. @throws KeepsakeError `invalid_option`, `unavailable` */
  list(owner: string): Promise<readonly OwnedSession<F>[]>
  /** Ends the session of a label; it does not matter whether there is one. @throws KeepsakeError `invalid_option`, `unknown_outcome` */
  revoke(label: string): Promise<void>
  /**
   * Ends the sessions of an account, but the one of the label `except`: also those that are renewed meanwhile. After a
   * change of password, say. A login that is under way counts as before it or as after it. The response of a request that
   * is under way with one says 409 where it saves something.
   *
   * @returns how many
   * @throws KeepsakeError `invalid_option`, `unknown_outcome`: then some may be left, and it may be asked again
   */
  revokeAll(owner: string, options?: { readonly except?: string | undefined }): Promise<number>
  /** As `seal(request, …)`, for a job. @throws KeepsakeError `invalid_option`, `too_large`, `unavailable` */
  seal(text: string, associated: string): Promise<string>
  /** As `unseal(request, …)`, for a job. @throws KeepsakeError `invalid_option`, `unavailable` */
  unseal(sealed: string, associated: string): Promise<string | undefined>
  /** Removes what has expired, in small batches, on as many nodes as you like. @returns how many @throws what the backend throws */
  sweep(): Promise<number>
  /**
   * Opens the backend, so that what is amiss shows at the start.
   *
   * @throws KeepsakeError `no_secret`, `unknown_backend`, `unavailable`, and `invalid_option`, also where the store may forget ends of sessions
   */
  ready(): Promise<void>
  /** Closes the backend. */
  close(): Promise<void>
}

const known = [
  'backend',
  'secret',
  'idleTimeout',
  'absoluteTimeout',
  'persistent',
  'namespace',
  'maxBytes',
  'storeTimeout',
  'schema',
  'migrate',
  'maxSessionsPerOwner',
  'lastSeenInterval',
  'onStoreError',
  'autoSweep',
  'maxInFlight',
  'now',
  'onEvent',
  'cookie',
  'secure',
  'trustProxy',
] as const satisfies readonly (keyof SessionManagerOptions)[]

const within = (
  options: SessionManagerOptions,
  name:
    | 'idleTimeout'
    | 'absoluteTimeout'
    | 'maxBytes'
    | 'storeTimeout'
    | 'maxSessionsPerOwner'
    | 'lastSeenInterval'
    | 'maxInFlight',
  usual: number,
  least: number,
  most: number,
): number => {
  const value = options[name] ?? usual
  if (typeof value === 'number' && value >= least && value <= most) return value
  throw new KeepsakeError(
    'invalid_option',
    `${name} has to be a number from ${least} to ${most}, and is ${inspect(value)}.`,
  )
}

const DAY = 86_400

/** Before the backend is open, nobody knows which of the two a cookie holds. */
const isKeyOrToken = (value: string): boolean => isKey(value) || isToken(value)

/** The fields that a schema describes, where it describes an object. */
type FieldsOf<S extends StandardSchema> = OutputOf<S> extends object ? OutputOf<S> : never

/**
 * Sessions for every handler that the result is put around.
 *
 * @throws KeepsakeError `invalid_option`, `unknown_backend`; `no_secret` is thrown by `ready` and the first use
 */
export function sessionManager<S extends StandardSchema>(
  options: SessionManagerOptions & { readonly schema: S },
): SessionManager<FieldsOf<S>>
export function sessionManager<F extends object = AnyFields>(options: SessionManagerOptions): SessionManager<F>
export function sessionManager(options: SessionManagerOptions): SessionManager {
  checkOptionNames(options, known, 'sessionManager()')
  const settingsFor = cookieSettings(options)
  const idleTimeout = within(options, 'idleTimeout', 14 * DAY, 0.001, 400 * DAY)
  const absoluteTimeout = within(options, 'absoluteTimeout', Math.max(30 * DAY, idleTimeout), 0.001, 400 * DAY)
  const maxBytes = within(options, 'maxBytes', 65_536, 2, 2 ** 30)
  const storeTimeout = within(options, 'storeTimeout', 2, 0.001, 3600) * 1000
  if (idleTimeout > absoluteTimeout)
    throw new KeepsakeError('invalid_option', 'lifetime has to be at most absoluteTimeout.')
  const given = isUrl(options.backend) ? options.backend.href : options.backend
  const { secret, namespace = options.cookie?.name ?? 'sid' } = options
  // Half a surrogate pair has no UTF-8: two such namespaces would be one.
  if (typeof namespace !== 'string' || namespace.length > 1000 || !namespace.isWellFormed()) {
    throw new KeepsakeError(
      'invalid_option',
      'namespace has to be a string of at most 1000 characters of well-formed Unicode.',
    )
  }
  const { schema, migrate, onStoreError = 'fail' } = options
  if (onStoreError !== 'fail' && onStoreError !== 'anonymous') {
    throw new KeepsakeError('invalid_option', "onStoreError has to be 'fail' or 'anonymous'.")
  }
  const maxSessionsPerOwner =
    options.maxSessionsPerOwner === undefined ? undefined : within(options, 'maxSessionsPerOwner', 1, 1, 10_000)
  const lastSeenInterval =
    options.lastSeenInterval === undefined ? undefined : within(options, 'lastSeenInterval', 1, 1, 400 * DAY) * 1000
  const bulkhead = { inFlight: 0, most: within(options, 'maxInFlight', 2_000, 1, 1_000_000) }
  if (schema !== undefined && !isSchema(schema)) {
    throw new KeepsakeError(
      'invalid_option',
      'schema has to be a Standard Schema, such as one of zod, valibot or arktype.',
    )
  }
  if (migrate !== undefined && schema === undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'migrate makes fields that a schema takes, so it needs one: give schema too.',
    )
  }
  for (const name of ['autoSweep', 'persistent'] as const) {
    if (!['boolean', 'undefined'].includes(typeof options[name])) {
      throw new KeepsakeError('invalid_option', `${name} has to be true or false.`)
    }
  }
  for (const name of ['now', 'onEvent', 'migrate'] as const) {
    if (!['function', 'undefined'].includes(typeof options[name])) {
      throw new KeepsakeError('invalid_option', `${name} has to be a function.`)
    }
  }
  // Looked up at each use, so that a test may replace Date.
  const now = () => Math.floor(options.now?.() ?? Date.now())
  const secrets = [secret ?? []].flat()
  if (secret !== undefined) keyRing(secrets)
  if (typeof given === 'string') checkUrl(given)
  const emit = emitter(options.onEvent)
  const told = new Set<string>()

  const furnish = async (): Promise<ManagerContext> => {
    if (typeof given === 'string') checkSecret(given, options)
    const { onEvent } = options
    const its = {
      now: options.now,
      onEvent,
      secret,
      namespace,
      absoluteTimeout: absoluteTimeout,
      storeTimeout: options.storeTimeout,
    }
    const backend = typeof given === 'string' ? await backendFromUrl(given, its) : given
    if (secret === undefined && backend.keepSecret === undefined) throw noSecret(backend)
    if (maxSessionsPerOwner !== undefined && backend.byOwner === undefined) {
      throw new KeepsakeError(
        'invalid_option',
        `The ${backend.name} backend cannot find sessions by their owner, so maxSessionsPerOwner cannot be kept.`,
      )
    }
    const kept = await backend.keepSecret?.(newSecret())
    return {
      ...settings,
      backend,
      keyRing: keyRing(secrets, kept),
      sweeper: sweeper(backend, now, emit, settings.ownerNames.name),
    }
  }
  /** What is known of all sessions before their backend is open. */
  const settings = {
    namespace,
    storageKey: storageKeys(namespace),
    ownerNames: ownerNames(namespace),
    maxSessionsPerOwner,
    lastSeenInterval,
    anonymousOnError: onStoreError === 'anonymous',
    now,
    version: versions(),
    idleTimeout: Math.ceil(idleTimeout * 1000),
    absoluteTimeout: Math.ceil(absoluteTimeout * 1000),
    persistent: options.persistent ?? true,
    maxBytes,
    codec: schema && fieldCodec(schema, migrate),
    emit,
    commitQueues: new Map<string, Promise<unknown>>(),
    autoSweep: options.autoSweep !== false,
  }
  /** Stands for a backend that could not be opened: whatever is asked of it fails, and a logout clears its cookie. */
  const unopened = (fault: KeepsakeError): ManagerContext => {
    const fail = () => {
      throw fault
    }
    const backend: Backend = { name: 'unopened', get: fail, generate: fail, set: fail, clear: fail, touch: fail }
    return {
      ...settings,
      backend,
      sweeper: sweeper(backend, now, emit, settings.ownerNames.name),
      get keyRing() {
        return fail()
      },
    }
  }
  let looked = false
  /** Has the store looked at once, and again where it was down. @throws KeepsakeError `invalid_option` */
  const look = async ({ backend }: ManagerContext): Promise<void> => {
    if (looked) return
    looked = true
    try {
      const message = await backend.check?.('sessions')
      if (message !== undefined) emit('eviction', { message })
    } catch (error) {
      looked = false
      if (isKeepsakeError(error) && error.code === 'invalid_option') throw error
    }
  }
  let furnished: ManagerContext | undefined
  let furnishing: Promise<ManagerContext> | undefined
  const context = async (): Promise<ManagerContext> => {
    furnishing ??= furnish()
    try {
      furnished = await furnishing
      return furnished
    } catch (error) {
      // The next visit tries again: the file may be there by then.
      furnishing = undefined
      throw error instanceof KeepsakeError
        ? error
        : new KeepsakeError('unavailable', 'The backend could not be opened.', { cause: error })
    }
  }

  const time = (): Deadline => ({ left: storeTimeout, bulkhead })

  const { sameSite, path } = options.cookie ?? {}
  const placed = { ...(sameSite !== undefined && { sameSite }), ...(path !== undefined && { path }) }
  const trustProxy = options.trustProxy === true

  const workIn = (here: ManagerContext, request: IncomingRequest): Awaitable<UnitOfWork> => {
    const cookies = settingsFor(request)
    const { notice } = cookies
    if (notice !== undefined && !told.has(notice.type)) {
      told.add(notice.type)
      emit(notice.type, { message: notice.message })
    }
    if (!looked && here === furnished) look(here).catch(() => {})
    const left = time()
    const header = request.headers.get('cookie')
    const values = header === null ? [] : cookieValues(header, cookies.session, () => true)
    const withheld = values.length === 0 ? withheldFrom(request, placed, trustProxy) : undefined
    const could = here === furnished ? (here.backend.stateless ? isToken : isKey) : isKeyOrToken
    const keys = values.filter(could)
    return open(here, left, { keys, cookies, cookieHeader: header, withheld })
  }
  const visitOn = (arrival: IncomingRequest): Awaitable<UnitOfWork> => {
    if (furnished !== undefined) return workIn(furnished, arrival)
    return context().then(
      (here) => workIn(here, arrival),
      (error) => {
        if (error.status !== 503) throw error
        return workIn(unopened(error), arrival)
      },
    )
  }

  /** What goes out with a failure: where somebody logged out, the cookie is cleared, whatever became of the session. */
  const clearing = (work: UnitOfWork): readonly string[] => {
    const { transition, hadCookie, unusable } = work
    const ends = transition === 'invalidate' || (transition !== undefined && unusable.some(({ proven }) => !proven))
    return ends && hadCookie ? setCookieHeaders({ session: 'clear' }, work) : []
  }

  /** Gives back what was claimed for a page that is not shown. */
  const unshow = async (work: UnitOfWork): Promise<void> => {
    if (work.flashTaken.length > 0) await returnMessages(work).catch((error) => emit('store_error', { error }))
  }

  /** The response as it leaves: after the commit, and an error where that failed. */
  const finish = (answer: Response, work: UnitOfWork): Awaitable<Response> => {
    const instead = async (response: Response, cookies: readonly string[]) => {
      // Nobody reads the handler's: what it stands on, such as a file, is let go.
      answer.body?.cancel().catch(() => {})
      await unshow(work)
      return withHeaders(response, cookies, work.context)
    }
    const saved = (outcome: CommitOutcome): Awaitable<Response> =>
      outcome.lost !== undefined
        ? instead(conflictResponse(outcome.lost), [])
        : withHeaders(answer, setCookieHeaders(outcome, work), work.context, work.privateResponse)
    const failed = (error: unknown): Promise<Response> => {
      if (!(error instanceof KeepsakeError)) {
        answer.body?.cancel().catch(() => {})
        return unshow(work).then(() => Promise.reject(error))
      }
      emit('store_error', { error })
      return instead(failureResponse(error.status), clearing(work))
    }
    try {
      // The browser shows the page that it has: what was claimed for this one is for the next.
      const unshown = answer.status === 304 && work.flashTaken.length > 0
      const outcome = unshown ? returnMessages(work).then(() => commit(work)) : commit(work)
      return isThenable(outcome) ? outcome.then(saved, failed) : saved(outcome)
    } catch (error) {
      return failed(error)
    }
  }

  /** What is left to do when a handler threw: nothing is saved, but what was to end ends. */
  const abandon = async (request: Request, requestContext: RequestContext, error: unknown): Promise<Response> => {
    await requestContext.session?.catch(() => {})
    const { work } = requestContext
    try {
      if (work?.transition === 'invalidate') {
        work.committed = true
        await end(work)
      } else if (work !== undefined) {
        work.committed = true
        await unshow(work)
      }
    } catch (failed) {
      emit('store_error', { error: failed })
    }
    release(request, requestContext)
    if (!(error instanceof KeepsakeError) || error.status !== 503) throw error
    emit('store_error', { error })
    return work === undefined ? failureResponse(503) : withHeaders(failureResponse(503), clearing(work), work.context)
  }

  /** The response of a handler that left a message for the next page, and did not wait for a session. */
  const late = async (request: Request, requestContext: RequestContext, response: Response): Promise<Response> => {
    try {
      await openOnce(request, requestContext)
      const work = requestContext.work as UnitOfWork
      work.flashAdded = requestContext.flashAdded
      return await finish(response, work)
    } catch (error) {
      if (!(error instanceof KeepsakeError)) throw error
      emit('store_error', { error })
      return failureResponse(error.status)
    } finally {
      release(request, requestContext)
    }
  }

  const answered = (request: Request, requestContext: RequestContext, answer: Response): Awaitable<Response> => {
    requestContext.committed = true
    const { session, work, flashAdded } = requestContext
    if (session === undefined && flashAdded.length === 0) {
      release(request, requestContext)
      return answer
    }
    let response: Response
    try {
      response = sendable(answer)
    } catch (error) {
      return abandon(request, requestContext, error)
    }
    if (work === undefined && flashAdded.length > 0) return late(request, requestContext, response)
    if (work === undefined) {
      // The handler did not wait for it, or caught why it could not be had.
      return (session as Promise<Session>)
        .then(
          () => finish(response, requestContext.work as UnitOfWork),
          () => response,
        )
        .finally(() => release(request, requestContext))
    }
    work.flashAdded = flashAdded
    const finished = finish(response, work)
    if (isThenable(finished)) return finished.finally(() => release(request, requestContext))
    release(request, requestContext)
    return finished
  }

  const manager: Manager = {
    context: () => furnished ?? context(),
    emit,
    transport: {
      ...(options.secure !== undefined && { secure: options.secure }),
      trustProxy: options.trustProxy === true,
    },
    namespace,
    cookieName: options.cookie?.name ?? 'sid',
    open: visitOn,
  }

  const middleware = <R extends Request, Rest extends readonly unknown[]>(next: Handler<R, Rest>): Handler<R, Rest> =>
    around(
      next,
      (request: R, ...rest: Rest) => {
        // A handler may be wrapped twice, and one request is one session of one manager.
        if (isInside(request, middleware)) return next(request, ...rest)
        const requestContext = attach(request, middleware, manager)
        const threw = (error: unknown): Awaitable<Response> => {
          // Some frameworks leave a handler by throwing the answer.
          if (isResponse(error)) return answered(request, requestContext, error)
          requestContext.committed = true
          return abandon(request, requestContext, error)
        }
        try {
          const response = next(request, ...rest)
          if (!isThenable(response)) return answered(request, requestContext, response)
          return Promise.resolve(response).then((answer) => answered(request, requestContext, answer), threw)
        } catch (error) {
          return threw(error)
        }
      },
      { ready, close },
    )
  const ready = async () => {
    await look(await context())
  }
  let closed: Promise<void> | undefined
  const close = async () => {
    furnished?.sweeper.stop()
    // Each server that stands on these sessions closes them, and many a backend can be closed only once.
    closed ??= furnished && (async () => furnished?.backend.close?.())()
    await closed
  }

  return Object.assign(middleware as Middleware, {
    session: (request: Request) => sessionOf(request, middleware),
    async open(arrival: IncomingRequest): Promise<OpenSession> {
      const work = await visitOn(arrival)
      const dressing = (cookies: readonly string[]): Headers => {
        const headers = new Headers()
        addHeaders(headers, cookies, emit)
        return headers
      }
      const committed = async (): Promise<CommitResult> => {
        if (work.committed) throw new KeepsakeError('too_late', 'This session was committed already. Open it again.')
        try {
          const outcome = await commit(work)
          if (outcome.lost !== undefined) return { ok: false, error: outcome.lost }
          return { ok: true, headers: dressing(setCookieHeaders(outcome, work)) }
        } catch (error) {
          const cookies = clearing(work)
          if (error instanceof KeepsakeError && cookies.length > 0) error.headers = dressing(cookies)
          throw error
        }
      }
      return Object.defineProperty(createHandle(work), 'commit', { value: committed }) as OpenSession
    },
    list: async (owner: string) => listSessions<AnyFields>(await context(), time(), owner),
    revoke: async (label: string) => revokeSession(await context(), time(), label),
    async revokeAll(owner: string, options: { readonly except?: string } = {}) {
      checkOptionNames(options, ['except'], 'revokeAll()')
      return revokeAllSessions(await context(), time(), owner, options.except)
    },
    seal: (text: string, associated: string) => sealText(manager, text, associated),
    unseal: (sealed: string, associated: string) => unsealText(manager, sealed, associated),
    sweep: async () => (await context()).sweeper.sweep(),
    ready,
    close,
  })
}

/** Of this realm or of another. */
const isUrl = (backend: Backend | string | URL): backend is URL =>
  typeof (backend as URL | undefined)?.href === 'string'

const noSecret = ({ name }: Backend): KeepsakeError =>
  new KeepsakeError(
    'no_secret',
    `The ${name} backend keeps no secret of its own, so sessions need one that all processes share: sessionManager({ backend, secret }). Make one: ${HOW_TO_MAKE_ONE}`,
  )

/** Sessions in the memory of this process, as Dream's `memory_sessions`. */
export const memorySessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Omit<SessionManagerOptions, 'backend'> = {},
): Handler<R, Rest> => sessionManager({ ...options, backend: 'memory:' })(next)

/** Sessions in a database, as Dream's `sql_sessions`: in `sqlite:sessions.db` unless `backend` says otherwise. */
export const sqlSessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Partial<SessionManagerOptions> = {},
): Handler<R, Rest> => sessionManager({ ...options, backend: options.backend ?? 'sqlite:sessions.db' })(next)

/** Sessions in files, as Dream plans them: in `file:sessions` unless `backend` says otherwise. */
export const fileSessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Partial<SessionManagerOptions> = {},
): Handler<R, Rest> => sessionManager({ ...options, backend: options.backend ?? 'file:sessions' })(next)

/** Sessions in the client's own sealed cookie, as Dream's `cookie_sessions`. Give a `secret`. */
export const cookieSessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Omit<SessionManagerOptions, 'backend'>,
): Handler<R, Rest> => sessionManager({ ...options, backend: 'cookie:' })(next)
