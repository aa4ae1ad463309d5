// The sessions of an application: a middleware, and the way from a request to its session.

import type { Backend } from './backend.ts'
import type { Budget } from './budget.ts'
import { checkUrl, connect } from './connect.ts'
import { cookieValues, setCookie } from './cookie.ts'
import { type Emit, emitter, type Listener } from './events.ts'
import { around, type Handler, type Middleware } from './handler.ts'
import { addresses, isKey } from './keys.ts'
import { commit, type Outcome } from './lifecycle/commit.ts'
import { end } from './lifecycle/end.ts'
import { handle, type Session } from './lifecycle/handle.ts'
import { open } from './lifecycle/open.ts'
import type { House, Visit } from './lifecycle/visit.ts'
import { Fault, onlyKnown } from './outcome.ts'
import { HOW_TO_MAKE_ONE, isToken, newSecret, ring } from './seal.ts'
import { sweeper } from './sweeper.ts'
import { type Arrival, type Names, type TransportOptions, transport } from './transport.ts'

export type SessionsOptions = TransportOptions & {
  /** Where sessions are kept: a backend, or a URL such as `sqlite:sessions.db`. */
  readonly backend: Backend | string
  /** 32 random bytes or more, or several such secrets, newest first: the first seals, all of them open. */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[]
  /** Seconds without a visit after which a session has ended. Default two weeks. A visit in the second half renews them. */
  readonly lifetime?: number
  /** Seconds after which a session has ended, however often it was used. Default 30 days. */
  readonly absoluteLifetime?: number
  /** Keeps applications apart that share a store. Default: the name of the cookie. */
  readonly namespace?: string
  /** Bytes that the fields of one session may have as JSON. Default 64 KiB. */
  readonly maxBytes?: number
  /** Seconds that one visit may wait for the backend, all calls together. Default 2. */
  readonly budget?: number
  /** Milliseconds since 1970. */
  readonly now?: () => number
  /** Hears what happens; so does the `node:diagnostics_channel` named `keepsake`. */
  readonly onEvent?: Listener
}

/** What became of a visit outside a middleware: what to send, or that its changes were not saved. */
export type Committed =
  | { readonly ok: true; readonly headers: Headers }
  | { readonly ok: false; readonly error: 'ended' }

/** A session outside a middleware: change it, then commit. */
export type OpenSession = Session & {
  /**
   * Saves the changes. The headers (Set-Cookie, Vary, Cache-Control) belong on the response, or on none where the
   * visit had none. Once only.
   *
   * @throws Fault `unavailable`, `unknown_outcome`, `contended`, `too_large`, `too_late`
   */
  commit(): Promise<Committed>
}

/** A middleware with ways of its own to its sessions. */
export type Sessions = Middleware & {
  /** The session of a request that came through this middleware, also where another is nested in it. */
  of(request: Request): Promise<Session>
  /** A session for a job, a socket, a server action. Without `url`, only cookies with a prefix are read. */
  open(arrival: { readonly headers: Headers; readonly url?: string }): Promise<OpenSession>
  /** Opens the backend, so that what is amiss shows at the start. */
  ready(): Promise<void>
  /** Closes the backend. */
  close(): Promise<void>
}

const known = [
  'backend',
  'secret',
  'lifetime',
  'absoluteLifetime',
  'namespace',
  'maxBytes',
  'budget',
  'now',
  'onEvent',
  'cookie',
  'secure',
  'trustProxy',
] as const satisfies readonly (keyof SessionsOptions)[]

const within = (
  options: SessionsOptions,
  name: 'lifetime' | 'absoluteLifetime' | 'maxBytes' | 'budget',
  usual: number,
  least: number,
  most: number,
): number => {
  const value = options[name] ?? usual
  if (typeof value === 'number' && value >= least && value <= most) return value
  throw new Fault('bad_option', `${name} has to be a number from ${least} to ${most}, and is ${JSON.stringify(value)}.`)
}

const DAY = 86_400

/** One request's passage, until somebody asks for its session. */
type Passage = {
  readonly owner: unknown
  readonly arrival: Arrival
  readonly outer: Passage | undefined
  readonly ask: (passage: Passage) => Promise<Asked>
  asked: Promise<Asked> | undefined
  visit: Visit | undefined
  over: boolean
}
type Asked = { readonly visit: Visit; readonly names: Names; readonly session: Session }

const passages = new WeakMap<Request, Passage>()

const missing = () =>
  new Fault(
    'no_session',
    'This request came through no sessions middleware. Wrap the handler: sessions({ backend })(handler); and hand on the request itself, not a copy of it.',
  )

const asked = (passage: Passage): Promise<Asked> => {
  if (passage.asked !== undefined) return passage.asked
  if (passage.over) {
    throw new Fault(
      'too_late',
      'The session was asked for after its response had left. Ask before, or open a visit of its own with sessions.open().',
    )
  }
  const promise = passage.ask(passage)
  // Whoever awaits it gets the error; whoever does not must not end the process.
  promise.catch(() => {})
  passage.asked = promise
  return promise
}

/**
 * The session of a request. The first to ask opens it, for all.
 *
 * @throws Fault `no_session` without a sessions middleware, `unavailable` where the backend fails, `too_late`
 */
export const session = async (request: Request): Promise<Session> => {
  const passage = passages.get(request)
  if (passage === undefined) throw missing()
  return (await asked(passage)).session
}

/** The label of the session that a request touched, if it touched one. */
export const touched = (request: Request): string | undefined => {
  const visit = passages.get(request)?.visit
  return visit?.stored?.label
}

/** The visit behind a request: for what is built on sessions, such as forms. */
export const visitOf = async (request: Request): Promise<Visit> => {
  const passage = passages.get(request)
  if (passage === undefined) throw missing()
  return (await asked(passage)).visit
}

const cookiesOf = (outcome: Outcome, names: Names, now: number): string[] => {
  const cookies: string[] = []
  const put = (name: string, value: string, until: number) =>
    cookies.push(setCookie(name, value, names.attributes, (until - now) / 1000))
  const { session, preSession } = outcome
  if (session === 'clear') put(names.session, '', now)
  else if (session) put(names.session, session.key, session.until)
  if (preSession === 'clear') put(names.preSession, '', now)
  else if (preSession) put(names.preSession, preSession.token, preSession.until)
  return cookies
}

/** Puts cookies on headers, and says what caches must not do with them (RFC 9111 §7.3: Set-Cookie alone stops no cache). */
const dress = (headers: Headers, cookies: readonly string[], emit: Emit): void => {
  const vary = headers.get('vary')
  if (vary === null) headers.set('vary', 'Cookie')
  else if (!/(^|,)\s*(\*|cookie)\s*(,|$)/i.test(vary)) headers.set('vary', `${vary}, Cookie`)
  if (cookies.length === 0) return
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  const cache = headers.get('cache-control')
  if (cache !== null && /(^|,)\s*(private|no-store)\s*(,|$)/i.test(cache)) return
  headers.set('cache-control', cache === null ? 'no-store' : 'private, no-store')
  if (cache !== null) {
    emit('cache_overridden', {
      message:
        'A response that sets a session cookie had a Cache-Control that lets shared caches keep it. It was replaced.',
    })
  }
}

const dressed = (response: Response, cookies: readonly string[], emit: Emit): Response => {
  try {
    dress(response.headers, cookies, emit)
    return response
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    // Headers of a redirect, or of a response that was fetched, cannot be changed: a copy's can.
    const copy = new Response(response.body, response)
    dress(copy.headers, cookies, emit)
    return copy
  }
}

const plain = (text: string, status: number): Response =>
  new Response(`${text}\n`, {
    status,
    headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' },
  })

const failure = (): Response => plain('The session store is not available. Please try again.', 503)

/**
 * Sessions for every handler that the result is put around.
 *
 * @throws Fault `bad_option`, `no_backend`, `no_secret`
 */
export const sessions = (options: SessionsOptions): Sessions => {
  onlyKnown(options, known, 'sessions()')
  const names = transport(options)
  const lifetime = within(options, 'lifetime', 14 * DAY, 0.001, 400 * DAY)
  const absolute = within(options, 'absoluteLifetime', Math.max(30 * DAY, lifetime), 0.001, 400 * DAY)
  const largest = within(options, 'maxBytes', 65_536, 2, 2 ** 30)
  const budget = within(options, 'budget', 2, 0.001, 3600) * 1000
  if (lifetime > absolute) throw new Fault('bad_option', 'lifetime has to be at most absoluteLifetime.')
  const { backend: given, secret, now = Date.now, namespace = options.cookie?.name ?? 'sid' } = options
  const secrets = [secret ?? []].flat()
  if (secret !== undefined) ring(secrets)
  if (typeof given === 'string') checkUrl(given, options)
  else if (secret === undefined && given.secret === undefined) throw noSecret(given)
  const emit = emitter(options.onEvent)
  const told = new Set<string>()

  const furnish = async (): Promise<House> => {
    const backend = typeof given === 'string' ? await connect(given, { ...options, namespace }) : given
    if (secret === undefined && backend.secret === undefined) throw noSecret(backend)
    const kept = await backend.secret?.(newSecret())
    return {
      backend,
      ring: ring(secrets, kept),
      address: addresses(namespace),
      now,
      lifetime: lifetime * 1000,
      absolute: absolute * 1000,
      largest,
      emit,
      turns: new Map(),
      tidy: sweeper(backend, now, emit),
    }
  }
  let furnished: House | undefined
  let furnishing: Promise<House> | undefined
  const house = async (): Promise<House> => {
    furnishing ??= furnish()
    try {
      furnished = await furnishing
      return furnished
    } catch (error) {
      // The next visit tries again: the file may be there by then.
      furnishing = undefined
      throw error instanceof Fault
        ? error
        : new Fault('unavailable', 'The backend could not be opened.', { cause: error })
    }
  }

  const visitOn = async (arrival: Arrival): Promise<{ visit: Visit; names: Names }> => {
    const here = furnished ?? (await house())
    const called = names(arrival)
    const { notice } = called
    if (notice !== undefined && !told.has(notice.reason)) {
      told.add(notice.reason)
      emit(notice.reason, { message: notice.message })
    }
    const header = arrival.headers.get('cookie')
    const couldBe = here.backend.stateless ? isToken : isKey
    const keys = header === null ? [] : cookieValues(header, called.session, couldBe)
    const [preToken] = header === null ? [] : cookieValues(header, called.preSession, (value) => value !== '')
    const left: Budget = { left: budget }
    return { visit: await open(here, left, { keys, names: called, preToken }), names: called }
  }
  const ask = async (passage: Passage): Promise<Asked> => {
    const { visit, names } = await visitOn(passage.arrival)
    passage.visit = visit
    return { visit, names, session: handle(visit) }
  }

  /** The response as it leaves: after the commit, and an error where that failed. */
  const finish = async (response: Response, { visit, names }: Asked): Promise<Response> => {
    const cookies = (outcome: Outcome) => cookiesOf(outcome, names, now())
    try {
      const outcome = await commit(visit)
      if (outcome.ended) return dressed(plain('This session has ended; nothing was saved.', 409), [], emit)
      return dressed(response, cookies(outcome), emit)
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      emit('store_error', { error })
      const clearing = visit.turn === 'invalidate' && visit.presented
      return dressed(
        error.status === 503 ? failure() : plain('The session could not be saved.', 500),
        clearing ? cookies({ session: 'clear' }) : [],
        emit,
      )
    }
  }

  /** What is left to do when a handler threw: nothing is saved, but what was to end ends. */
  const abandon = async (passage: Passage, error: unknown): Promise<Response> => {
    const { visit } = passage
    if (visit !== undefined) {
      visit.over = true
      if (visit.turn === 'invalidate') await end(visit).catch(() => {})
    }
    if (!(error instanceof Fault) || error.status !== 503) throw error
    emit('store_error', { error })
    return failure()
  }

  const middleware = (next: Handler): Handler =>
    around(
      next,
      async function withSession(request) {
        const passage: Passage = {
          owner: middleware,
          arrival: request,
          outer: passages.get(request),
          ask,
          asked: undefined,
          visit: undefined,
          over: false,
        }
        passages.set(request, passage)
        try {
          const response = await next(request)
          passage.over = true
          if (passage.asked === undefined) return response
          const asked = await passage.asked.catch(() => undefined)
          return asked === undefined ? response : await finish(response, asked)
        } catch (error) {
          passage.over = true
          await passage.asked?.catch(() => {})
          return await abandon(passage, error)
        }
      },
      { ready, close },
    )
  const ready = async () => {
    await house()
  }
  const close = async () => {
    await furnished?.backend.close?.()
  }

  return Object.assign(middleware, {
    async of(request: Request): Promise<Session> {
      for (let passage = passages.get(request); passage !== undefined; passage = passage.outer) {
        if (passage.owner === middleware) return (await asked(passage)).session
      }
      throw missing()
    },
    async open(arrival: Arrival): Promise<OpenSession> {
      const { visit, names } = await visitOn(arrival)
      return Object.assign(handle(visit), {
        async commit(): Promise<Committed> {
          if (visit.over) throw new Fault('too_late', 'This visit was committed already.')
          const outcome = await commit(visit)
          if (outcome.ended) return { ok: false, error: 'ended' }
          const headers = new Headers()
          dress(headers, cookiesOf(outcome, names, now()), emit)
          return { ok: true, headers }
        },
      })
    },
    ready,
    close,
  })
}

const noSecret = ({ name }: Backend): Fault =>
  new Fault(
    'no_secret',
    `The ${name} backend keeps no secret of its own, so sessions need one that all processes share: sessions({ backend, secret }). Make one: ${HOW_TO_MAKE_ONE}`,
  )

/** Sessions in the memory of this process, as Dream's `memory_sessions`. */
export const memorySessions = (next: Handler, options: Omit<SessionsOptions, 'backend'> = {}): Handler =>
  sessions({ ...options, backend: 'memory:' })(next)

/** Sessions in a database, as Dream's `sql_sessions`: in `sqlite:sessions.db` unless `backend` says otherwise. */
export const sqlSessions = (next: Handler, options: Partial<SessionsOptions> = {}): Handler =>
  sessions({ backend: 'sqlite:sessions.db', ...options })(next)

/** Sessions in the client's own sealed cookie, as Dream's `cookie_sessions`. Give a `secret`. */
export const cookieSessions = (next: Handler, options: Omit<SessionsOptions, 'backend'>): Handler =>
  sessions({ ...options, backend: 'cookie:' })(next)
