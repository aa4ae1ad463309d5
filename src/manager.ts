// The sessions of an application: a middleware, and the way from a request to its session.

import { inspect } from 'node:util'
import { listSessions, type OwnedSession, revokeSession, revokeAllSessions } from './accounts.ts'
import type { Backend } from './backends/contract.ts'
import type { Deadline } from './backends/deadline.ts'
import { checkSecret, checkUrl, backendFromUrl } from './backends/from-url.ts'
import { sweeper } from './backends/sweeper.ts'
import { storageKeys, isKey, ownerNames, versions } from './crypto/keys.ts'
import { HOW_TO_MAKE_ONE, isToken, newSecret, keyRing } from './crypto/seal.ts'
import { type Awaitable, KeepsakeError, isKeepsakeError, isThenable, checkOptionNames } from './error.ts'
import { emitter, type SessionEventListener } from './events.ts'
import { cookieValues } from './http/cookie.ts'
import { type IncomingRequest, type TransportOptions, cookieSettings } from './http/cookie-names.ts'
import { around, type Handler, type Middleware } from './http/handler.ts'
import { withheldFrom } from './http/withheld.ts'
import { attach, type Manager, isInside, release, openOnce, type RequestContext, sessionOf } from './request.ts'
import { conflictResponse, setCookieHeaders, addHeaders, withHeaders, failureResponse, isResponse, sendable } from './response.ts'
import { isSchema, type OutputOf, type StandardSchema } from './schema.ts'
import { sealText, unsealText } from './sealed-text.ts'
import { fieldCodec } from './session/codec.ts'
import { commit, type CommitOutcome } from './session/commit.ts'
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
  readonly lifetime?: number | undefined
  /** Seconds after which a session has ended, however often it was used. Default 30 days. */
  readonly absoluteLifetime?: number | undefined
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
  readonly budget?: number | undefined
  /**
   * What the fields look like, by any Standard Schema (zod, valibot, arktype): they are checked when read and before
   * they are saved, and typed. It has to accept its own output, and that has to be what JSON keeps. No fields at all
   * always fit: a session may hold nothing yet.
   */
  readonly schema?: StandardSchema | undefined
  /**
   * Makes of fields that the schema refuses, because an older deployment kept them, fields that it takes. What neither
   * takes is left alone, the event is `misfit`, and its visitor starts anew.
   */
  readonly migrate?: ((old: unknown) => unknown) | undefined
  /** How many sessions an owner may have: at a login over that, his oldest ends. Default any number. */
  readonly sessionsPerOwner?: number | undefined
  /**
   * Seconds: how exact the lists of owners say when a session was last seen. A visit that finds it longer ago writes that
   * down. Default: no such writes, so half a lifetime.
   */
  readonly lastSeen?: number | undefined
  /**
   * What becomes of a request whose session cannot be read. `fail`, the default: whatever asks the session for anything
   * throws, and the answer is 503. `anonymous`: the visitor is anonymous, and to change the session throws what made it
   * so; no session cookie is sent. `invalidate` can be called in both: the browser's cookie is cleared, and the answer is
   * 503 unless the session could be ended after all.
   */
  readonly onStoreError?: 'fail' | 'anonymous' | undefined
  /** false leaves the sweeping of what has expired to you: call `sweep`, from cron say. Default true: now and then after a birth. */
  readonly sweeps?: boolean | undefined
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
   * visit had none. Once only. The Fault of a failed logout has `headers` too: the browser's cookie goes all the same.
   *
   * @throws Fault `unavailable`, `unknown_outcome`, `contended`, `too_large`, `bad_fields`, `too_late`
   */
  commit(): Promise<CommitResult>
}

/** A middleware with ways of its own to its sessions. */
export type SessionManager<F extends object = AnyFields> = Middleware & {
  /** The session of a request that came through this middleware, also where another is nested in it. */
  of(request: Request): Promise<Session<F>>
  /** A session for a job, a socket, a server action. Without `url`, only cookies with a prefix are read. */
  open(arrival: { readonly headers: Headers; readonly url?: string | undefined }): Promise<OpenSession<F>>
  /** The living sessions of an account, as `login` names it, the youngest first. @throws Fault `bad_option`, `unavailable` */
  list(owner: string): Promise<readonly OwnedSession<F>[]>
  /** Ends the session of a label; it does not matter whether there is one. @throws Fault `bad_option`, `unknown_outcome` */
  revoke(label: string): Promise<void>
  /**
   * Ends the sessions of an account, but the one of the label `except`: also those that are renewed meanwhile. After a
   * change of password, say. A login that is under way counts as before it or as after it. The response of a request that
   * is under way with one says 409 where it saves something.
   *
   * @returns how many
   * @throws Fault `bad_option`, `unknown_outcome`: then some may be left, and it may be asked again
   */
  revokeAll(owner: string, options?: { readonly except?: string | undefined }): Promise<number>
  /** As `seal(request, …)`, for a job. @throws Fault `bad_option`, `too_large`, `unavailable` */
  seal(text: string, associated: string): Promise<string>
  /** As `unseal(request, …)`, for a job. @throws Fault `bad_option`, `unavailable` */
  unseal(sealed: string, associated: string): Promise<string | undefined>
  /** Removes what has expired, in small batches, on as many nodes as you like. @returns how many @throws what the backend throws */
  sweep(): Promise<number>
  /**
   * Opens the backend, so that what is amiss shows at the start.
   *
   * @throws Fault `no_secret`, `no_backend`, `unavailable`, and `bad_option`, also where the store may forget ends of sessions
   */
  ready(): Promise<void>
  /** Closes the backend. */
  close(): Promise<void>
}

const known = [
  'backend',
  'secret',
  'lifetime',
  'absoluteLifetime',
  'persistent',
  'namespace',
  'maxBytes',
  'budget',
  'schema',
  'migrate',
  'sessionsPerOwner',
  'lastSeen',
  'onStoreError',
  'sweeps',
  'maxInFlight',
  'now',
  'onEvent',
  'cookie',
  'secure',
  'trustProxy',
] as const satisfies readonly (keyof SessionManagerOptions)[]

const within = (
  options: SessionManagerOptions,
  name: 'lifetime' | 'absoluteLifetime' | 'maxBytes' | 'budget' | 'sessionsPerOwner' | 'lastSeen' | 'maxInFlight',
  usual: number,
  least: number,
  most: number,
): number => {
  const value = options[name] ?? usual
  if (typeof value === 'number' && value >= least && value <= most) return value
  throw new KeepsakeError('bad_option', `${name} has to be a number from ${least} to ${most}, and is ${inspect(value)}.`)
}

const DAY = 86_400

/** Before the backend is open, nobody knows which of the two a cookie holds. */
const isKeyOrToken = (value: string): boolean => isKey(value) || isToken(value)

/** The fields that a schema describes, where it describes an object. */
type FieldsOf<S extends StandardSchema> = OutputOf<S> extends object ? OutputOf<S> : never

/**
 * Sessions for every handler that the result is put around.
 *
 * @throws Fault `bad_option`, `no_backend`; `no_secret` is thrown by `ready` and the first use
 */
export function sessionManager<S extends StandardSchema>(
  options: SessionManagerOptions & { readonly schema: S },
): SessionManager<FieldsOf<S>>
export function sessionManager<F extends object = AnyFields>(options: SessionManagerOptions): SessionManager<F>
export function sessionManager(options: SessionManagerOptions): SessionManager {
  checkOptionNames(options, known, 'sessions()')
  const nameOf = cookieSettings(options)
  const lifetime = within(options, 'lifetime', 14 * DAY, 0.001, 400 * DAY)
  const absolute = within(options, 'absoluteLifetime', Math.max(30 * DAY, lifetime), 0.001, 400 * DAY)
  const largest = within(options, 'maxBytes', 65_536, 2, 2 ** 30)
  const budget = within(options, 'budget', 2, 0.001, 3600) * 1000
  if (lifetime > absolute) throw new KeepsakeError('bad_option', 'lifetime has to be at most absoluteLifetime.')
  const given = isUrl(options.backend) ? options.backend.href : options.backend
  const { secret, namespace = options.cookie?.name ?? 'sid' } = options
  // Half a surrogate pair has no UTF-8: two such namespaces would be one.
  if (typeof namespace !== 'string' || namespace.length > 1000 || !namespace.isWellFormed()) {
    throw new KeepsakeError('bad_option', 'namespace has to be a string of at most 1000 characters of well-formed Unicode.')
  }
  const { schema, migrate, onStoreError = 'fail' } = options
  if (onStoreError !== 'fail' && onStoreError !== 'anonymous') {
    throw new KeepsakeError('bad_option', "onStoreError has to be 'fail' or 'anonymous'.")
  }
  const mostOwned =
    options.sessionsPerOwner === undefined ? undefined : within(options, 'sessionsPerOwner', 1, 1, 10_000)
  const seenWithin = options.lastSeen === undefined ? undefined : within(options, 'lastSeen', 1, 1, 400 * DAY) * 1000
  const bulkhead = { inFlight: 0, most: within(options, 'maxInFlight', 2_000, 1, 1_000_000) }
  if (schema !== undefined && !isSchema(schema)) {
    throw new KeepsakeError('bad_option', 'schema has to be a Standard Schema, such as one of zod, valibot or arktype.')
  }
  if (migrate !== undefined && schema === undefined) {
    throw new KeepsakeError('bad_option', 'migrate makes fields that a schema takes, so it needs one: give schema too.')
  }
  for (const name of ['sweeps', 'persistent'] as const) {
    if (!['boolean', 'undefined'].includes(typeof options[name])) {
      throw new KeepsakeError('bad_option', `${name} has to be true or false.`)
    }
  }
  for (const name of ['now', 'onEvent', 'migrate'] as const) {
    if (!['function', 'undefined'].includes(typeof options[name])) {
      throw new KeepsakeError('bad_option', `${name} has to be a function.`)
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
    const its = { now: options.now, onEvent, secret, namespace, absoluteLifetime: absolute, budget: options.budget }
    const backend = typeof given === 'string' ? await backendFromUrl(given, its) : given
    if (secret === undefined && backend.secret === undefined) throw noSecret(backend)
    if (mostOwned !== undefined && backend.owned === undefined) {
      throw new KeepsakeError(
        'bad_option',
        `The ${backend.name} backend cannot find sessions by their owner, so sessionsPerOwner cannot be kept.`,
      )
    }
    const kept = await backend.secret?.(newSecret())
    return {
      ...settings,
      backend,
      ring: keyRing(secrets, kept),
      sweeper: sweeper(backend, now, emit, settings.owners.name),
    }
  }
  /** What is known of all sessions before their backend is open. */
  const settings = {
    namespace,
    address: storageKeys(namespace),
    owners: ownerNames(namespace),
    mostOwned,
    seenWithin,
    lenient: onStoreError === 'anonymous',
    now,
    version: versions(),
    lifetime: Math.ceil(lifetime * 1000),
    absolute: Math.ceil(absolute * 1000),
    persistent: options.persistent ?? true,
    largest,
    shape: schema && fieldCodec(schema, migrate),
    emit,
    turns: new Map<string, Promise<unknown>>(),
    tidies: options.sweeps !== false,
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
      sweeper: sweeper(backend, now, emit, settings.owners.name),
      get ring() {
        return fail()
      },
    }
  }
  let looked = false
  /** Has the store looked at once, and again where it was down. @throws Fault `bad_option` */
  const look = async ({ backend }: ManagerContext): Promise<void> => {
    if (looked) return
    looked = true
    try {
      const message = await backend.check?.('sessions')
      if (message !== undefined) emit('eviction', { message })
    } catch (error) {
      looked = false
      if (isKeepsakeError(error) && error.code === 'bad_option') throw error
    }
  }
  let furnished: ManagerContext | undefined
  let furnishing: Promise<ManagerContext> | undefined
  const house = async (): Promise<ManagerContext> => {
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

  const time = (): Deadline => ({ left: budget, bulkhead })

  const { sameSite, path } = options.cookie ?? {}
  const placed = { ...(sameSite !== undefined && { sameSite }), ...(path !== undefined && { path }) }
  const trustProxy = options.trustProxy === true

  const visitIn = (here: ManagerContext, arrival: IncomingRequest): Awaitable<UnitOfWork> => {
    const names = nameOf(arrival)
    const { notice } = names
    if (notice !== undefined && !told.has(notice.reason)) {
      told.add(notice.reason)
      emit(notice.reason, { message: notice.message })
    }
    if (!looked && here === furnished) look(here).catch(() => {})
    const left = time()
    const header = arrival.headers.get('cookie')
    const values = header === null ? [] : cookieValues(header, names.session, () => true)
    const withheld = values.length === 0 ? withheldFrom(arrival, placed, trustProxy) : undefined
    const could = here === furnished ? (here.backend.stateless ? isToken : isKey) : isKeyOrToken
    const keys = values.filter(could)
    return open(here, left, { keys, names, header, withheld })
  }
  const visitOn = (arrival: IncomingRequest): Awaitable<UnitOfWork> => {
    if (furnished !== undefined) return visitIn(furnished, arrival)
    return house().then(
      (here) => visitIn(here, arrival),
      (error) => {
        if (error.status !== 503) throw error
        return visitIn(unopened(error), arrival)
      },
    )
  }

  /** What goes out with a failure: where somebody logged out, the cookie is cleared, whatever became of the session. */
  const clearing = (visit: UnitOfWork): readonly string[] => {
    const { turn, presented, unusable } = visit
    const ends = turn === 'invalidate' || (turn !== undefined && unusable.some(({ proven }) => !proven))
    return ends && presented ? setCookieHeaders({ session: 'clear' }, visit) : []
  }

  /** Gives back what was claimed for a page that is not shown. */
  const unshow = async (visit: UnitOfWork): Promise<void> => {
    if (visit.taken.length > 0) await returnMessages(visit).catch((error) => emit('store_error', { error }))
  }

  /** The response as it leaves: after the commit, and an error where that failed. */
  const finish = (answer: Response, visit: UnitOfWork): Awaitable<Response> => {
    const instead = async (response: Response, cookies: readonly string[]) => {
      // Nobody reads the handler's: what it stands on, such as a file, is let go.
      answer.body?.cancel().catch(() => {})
      await unshow(visit)
      return withHeaders(response, cookies, visit.house)
    }
    const saved = (outcome: CommitOutcome): Awaitable<Response> =>
      outcome.lost !== undefined
        ? instead(conflictResponse(outcome.lost), [])
        : withHeaders(answer, setCookieHeaders(outcome, visit), visit.house, visit.confidential)
    const failed = (error: unknown): Promise<Response> => {
      if (!(error instanceof KeepsakeError)) {
        answer.body?.cancel().catch(() => {})
        return unshow(visit).then(() => Promise.reject(error))
      }
      emit('store_error', { error })
      return instead(failureResponse(error.status), clearing(visit))
    }
    try {
      // The browser shows the page that it has: what was claimed for this one is for the next.
      const unshown = answer.status === 304 && visit.taken.length > 0
      const outcome = unshown ? returnMessages(visit).then(() => commit(visit)) : commit(visit)
      return isThenable(outcome) ? outcome.then(saved, failed) : saved(outcome)
    } catch (error) {
      return failed(error)
    }
  }

  /** What is left to do when a handler threw: nothing is saved, but what was to end ends. */
  const abandon = async (request: Request, passage: RequestContext, error: unknown): Promise<Response> => {
    await passage.session?.catch(() => {})
    const { visit } = passage
    try {
      if (visit?.turn === 'invalidate') {
        visit.over = true
        await end(visit)
      } else if (visit !== undefined) {
        visit.over = true
        await unshow(visit)
      }
    } catch (failed) {
      emit('store_error', { error: failed })
    }
    release(request, passage)
    if (!(error instanceof KeepsakeError) || error.status !== 503) throw error
    emit('store_error', { error })
    return visit === undefined ? failureResponse(503) : withHeaders(failureResponse(503), clearing(visit), visit.house)
  }

  /** The response of a handler that left a message for the next page, and did not wait for a session. */
  const late = async (request: Request, passage: RequestContext, response: Response): Promise<Response> => {
    try {
      await openOnce(request, passage)
      const visit = passage.visit as UnitOfWork
      visit.outbox = passage.outbox
      return await finish(response, visit)
    } catch (error) {
      if (!(error instanceof KeepsakeError)) throw error
      emit('store_error', { error })
      return failureResponse(error.status)
    } finally {
      release(request, passage)
    }
  }

  const answered = (request: Request, passage: RequestContext, answer: Response): Awaitable<Response> => {
    passage.over = true
    const { session, visit, outbox } = passage
    if (session === undefined && outbox.length === 0) {
      release(request, passage)
      return answer
    }
    let response: Response
    try {
      response = sendable(answer)
    } catch (error) {
      return abandon(request, passage, error)
    }
    if (visit === undefined && outbox.length > 0) return late(request, passage, response)
    if (visit === undefined) {
      // The handler did not wait for it, or caught why it could not be had.
      return (session as Promise<Session>)
        .then(
          () => finish(response, passage.visit as UnitOfWork),
          () => response,
        )
        .finally(() => release(request, passage))
    }
    visit.outbox = outbox
    const finished = finish(response, visit)
    if (isThenable(finished)) return finished.finally(() => release(request, passage))
    release(request, passage)
    return finished
  }

  const ground: Manager = {
    house: () => furnished ?? house(),
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
        const passage = attach(request, middleware, ground)
        const threw = (error: unknown): Awaitable<Response> => {
          // Some frameworks leave a handler by throwing the answer.
          if (isResponse(error)) return answered(request, passage, error)
          passage.over = true
          return abandon(request, passage, error)
        }
        try {
          const response = next(request, ...rest)
          if (!isThenable(response)) return answered(request, passage, response)
          return Promise.resolve(response).then((answer) => answered(request, passage, answer), threw)
        } catch (error) {
          return threw(error)
        }
      },
      { ready, close },
    )
  const ready = async () => {
    await look(await house())
  }
  let closed: Promise<void> | undefined
  const close = async () => {
    furnished?.sweeper.stop()
    // Each server that stands on these sessions closes them, and many a backend can be closed only once.
    closed ??= furnished && (async () => furnished?.backend.close?.())()
    await closed
  }

  return Object.assign(middleware as Middleware, {
    of: (request: Request) => sessionOf(request, middleware),
    async open(arrival: IncomingRequest): Promise<OpenSession> {
      const visit = await visitOn(arrival)
      const dressing = (cookies: readonly string[]): Headers => {
        const headers = new Headers()
        addHeaders(headers, cookies, emit)
        return headers
      }
      const committed = async (): Promise<CommitResult> => {
        if (visit.over) throw new KeepsakeError('too_late', 'This session was committed already. Open it again.')
        try {
          const outcome = await commit(visit)
          if (outcome.lost !== undefined) return { ok: false, error: outcome.lost }
          return { ok: true, headers: dressing(setCookieHeaders(outcome, visit)) }
        } catch (error) {
          const cookies = clearing(visit)
          if (error instanceof KeepsakeError && cookies.length > 0) error.headers = dressing(cookies)
          throw error
        }
      }
      return Object.defineProperty(createHandle(visit), 'commit', { value: committed }) as OpenSession
    },
    list: async (owner: string) => listSessions<AnyFields>(await house(), time(), owner),
    revoke: async (label: string) => revokeSession(await house(), time(), label),
    async revokeAll(owner: string, options: { readonly except?: string } = {}) {
      checkOptionNames(options, ['except'], 'revokeAll()')
      return revokeAllSessions(await house(), time(), owner, options.except)
    },
    seal: (text: string, associated: string) => sealText(ground, text, associated),
    unseal: (sealed: string, associated: string) => unsealText(ground, sealed, associated),
    sweep: async () => (await house()).sweeper.sweep(),
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
    `The ${name} backend keeps no secret of its own, so sessions need one that all processes share: sessions({ backend, secret }). Make one: ${HOW_TO_MAKE_ONE}`,
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
