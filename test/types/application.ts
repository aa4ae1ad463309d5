// An application with the strictest compiler options, without @types/node: `npm run package` checks it against the package.

import {
  type AnyFields,
  addFlash,
  type BackendFromUrlOptions,
  type CookieOptions,
  type CookiePlace,
  type CrossOriginProtectionOptions,
  cookieSessions,
  crossOriginProtection,
  csrfTag,
  type FormOptions,
  fileSessions,
  type Handler,
  type LoginOptions,
  type Middleware,
  memorySessions,
  type OpenSession,
  type ReadCookieOptions,
  type RevokeWhereOptions,
  readForm,
  type ScanOptions,
  type Session,
  type SessionManager,
  type SessionManagerOptions,
  type SessionOptions,
  type SetCookieOptions,
  type StoreCall,
  type StoreOperation,
  type StoreOutcome,
  session,
  sessionManager,
  sqlSessions,
  type TokenOptions,
  takeFlash,
  type WatchOptions,
  type WatchResult,
} from 'keepsake'
import { type AstroAdapterOptions, forAstro } from 'keepsake/astro'
import type { CookieBackendOptions } from 'keepsake/cookie'
import type { FastifyAdapterOptions } from 'keepsake/fastify'
import type { FileOptions } from 'keepsake/file'
import { type HonoAdapterOptions as FetchAdapterOptions, forHono } from 'keepsake/hono'
import { forKoa, type KoaAdapterOptions } from 'keepsake/koa'
import type { MemoryOptions } from 'keepsake/memory'
import type { CopyOptions, MovingOptions } from 'keepsake/moving'
import type { ConnectMysqlOptions, MysqlOptions } from 'keepsake/mysql'
import { forNext, type NextOptions } from 'keepsake/next'
import { forNode, type NodeAdapterOptions } from 'keepsake/node'
import type { ConnectPostgresOptions, PostgresOptions } from 'keepsake/postgres'
import {
  createSessionStorage,
  forReactRouter,
  type ReactRouterAdapterOptions,
  type SessionStorageOptions,
  sessionContext,
} from 'keepsake/react-router'
import type { ConnectRedisOptions, RedisOptions } from 'keepsake/redis'
import { type LoggerOptions, logger, type ServeOptions, serve } from 'keepsake/serve'
import type { ClockOptions, CookieHeaderOptions, ExpiryOptions } from 'keepsake/session'
import type { SqliteOptions } from 'keepsake/sqlite'
import { forSvelteKit, type SvelteKitAdapterOptions } from 'keepsake/sveltekit'
import { adapterCases, type BrowserOptions, type RunOptions, type ServeApplication } from 'keepsake/testing'

/** True if every option may be undefined, because applications compute options or read them from the environment. */
type Undefinable<Options> =
  {
    [Name in keyof Options as Record<never, never> extends Pick<Options, Name> ? Name : never]: undefined
  } extends Partial<Options>
    ? true
    : never

export const undefinable: readonly true[] = [
  true satisfies Undefinable<SessionManagerOptions>,
  true satisfies Undefinable<CookieOptions>,
  true satisfies Undefinable<CookiePlace>,
  true satisfies Undefinable<ReadCookieOptions>,
  true satisfies Undefinable<SetCookieOptions>,
  true satisfies Undefinable<BackendFromUrlOptions>,
  true satisfies Undefinable<ConnectMysqlOptions>,
  true satisfies Undefinable<ConnectPostgresOptions>,
  true satisfies Undefinable<ConnectRedisOptions>,
  true satisfies Undefinable<CopyOptions>,
  true satisfies Undefinable<LoginOptions>,
  true satisfies Undefinable<SessionOptions>,
  true satisfies Undefinable<ScanOptions>,
  true satisfies Undefinable<RevokeWhereOptions>,
  true satisfies Undefinable<CrossOriginProtectionOptions>,
  true satisfies Undefinable<FormOptions>,
  true satisfies Undefinable<TokenOptions>,
  true satisfies Undefinable<WatchOptions>,
  true satisfies Undefinable<LoggerOptions>,
  true satisfies Undefinable<MovingOptions>,
  true satisfies Undefinable<NextOptions>,
  true satisfies Undefinable<NodeAdapterOptions>,
  true satisfies Undefinable<AstroAdapterOptions>,
  true satisfies Undefinable<ReactRouterAdapterOptions>,
  true satisfies Undefinable<SessionStorageOptions>,
  true satisfies Undefinable<SvelteKitAdapterOptions>,
  true satisfies Undefinable<FetchAdapterOptions>,
  true satisfies Undefinable<FastifyAdapterOptions>,
  true satisfies Undefinable<KoaAdapterOptions>,
  true satisfies Undefinable<ServeOptions>,
  true satisfies Undefinable<CookieBackendOptions>,
  true satisfies Undefinable<FileOptions>,
  true satisfies Undefinable<MemoryOptions>,
  true satisfies Undefinable<MysqlOptions>,
  true satisfies Undefinable<PostgresOptions>,
  true satisfies Undefinable<RedisOptions>,
  true satisfies Undefinable<SqliteOptions>,
  true satisfies Undefinable<ClockOptions>,
  true satisfies Undefinable<ExpiryOptions>,
  true satisfies Undefinable<CookieHeaderOptions>,
  true satisfies Undefinable<BrowserOptions>,
  true satisfies Undefinable<RunOptions>,
]

declare const env: Readonly<Record<string, string | undefined>>
const withSessions = sessionManager({ backend: env.SESSIONS ?? 'memory:', secret: env.SECRET })

// Fields by a type, without a schema. Nothing checks them, so each may be missing.
type Fields = { readonly user: string; readonly cart: readonly string[] }
export const typed: SessionManager<Fields> = sessionManager<Fields>({ backend: 'memory:' })
export const userOf = async (request: Request): Promise<string | undefined> => {
  const s: Session<Fields> = await session<Fields>(request)
  s.update('cart', (cart = []) => [...cart, 'tea'])
  s.login('anna', { keep: ['cart'] })
  // @ts-expect-error a field that the type does not have
  s.get('usre')
  // @ts-expect-error it may be missing
  const user: string = s.fields.user
  return s.get('user') ?? user
}
export const ending = typed.revokeWhere(({ owner, fields }) => owner === undefined && fields.user === 'anna')
// @ts-expect-error a field that the type does not have
typed.revokeWhere(({ fields }) => fields.usre === 'anna')
export const labelsOf = async function* (): AsyncGenerator<string> {
  for await (const { sessions } of typed.scan({ batch: 100 })) for (const { label } of sessions) yield label
}
// A subscriber of the channel `keepsake.store`.
const onCall = ({ operation, backend, attempt, outcome, error }: StoreCall): string => {
  const names: readonly [StoreOperation, StoreOutcome | undefined] = [operation, outcome]
  return `${names.join()} ${backend} ${attempt + 1} ${error}`
}
export const described = onCall({ operation: 'byOwner.list', backend: 'memory', attempt: 1, outcome: 'done' })
// @ts-expect-error an outcome that no call has
onCall({ operation: 'get', backend: 'memory', attempt: 1, outcome: 'found' })

export const loose: Promise<Session<AnyFields>> = session(new Request('https://app.example'))

// Outside of a middleware, flash messages and forms take the opened session.
export const outside = async (request: Request): Promise<string> => {
  const s: OpenSession<Fields> = await typed.open(request, { extend: false })
  await typed.open({ headers: request.headers, url: undefined, method: undefined })
  addFlash(s, 'info', 'Saved.')
  const [messages, form] = [await takeFlash(s), await readForm(s)]
  // @ts-expect-error a session of a middleware: pass the request
  addFlash(await session(request), 'info', 'Saved.')
  return `${messages.length} ${form.ok} ${await csrfTag(s)}`
}

// A framework with a request class of its own, which passes more arguments than the request.
declare class FrameworkRequest extends Request {
  readonly nextUrl: URL
}
type Context = { readonly params: Promise<{ readonly id: string }> }
type Route = (request: FrameworkRequest, context: Context) => Response | Promise<Response>
const page = async (request: FrameworkRequest, { params }: Context) =>
  new Response(request.nextUrl.pathname + (await params).id)
export const routes: readonly Route[] = [
  withSessions(page),
  typed(page),
  memorySessions(page),
  sqlSessions(page, {}),
  fileSessions(page, {}),
  cookieSessions(page, { secret: env.SECRET }),
  crossOriginProtection(page, { origins: [] }),
  logger(withSessions(crossOriginProtection(page)), { write: undefined }),
  // A handler with fewer parameters than the arguments that it gets.
  withSessions(() => new Response()),
  withSessions((request) => new Response(request.url)),
  // The types of the arguments come from Route, through all middlewares.
  withSessions(async (request, { params }) => new Response(request.nextUrl.pathname + (await params).id)),
  logger(
    memorySessions(crossOriginProtection(async ({ nextUrl }, { params }) => Response.json([nextUrl, await params]))),
  ),
]
// @ts-expect-error the arguments that the handler needs are missing
withSessions(page)(new FrameworkRequest('https://app.example'))
// @ts-expect-error another context than the handler takes
export const otherContext: (request: FrameworkRequest, context: { params: string }) => unknown = withSessions(page)
export const exactly: Handler<FrameworkRequest, [context: Context]> = withSessions(page)
export const plain: Handler = withSessions(async (request) => Response.json((await session(request)).fields))

// Next.js: handlers and actions keep their types. A handler may get another Response than its own.
const next = forNext(() => typed)
declare const redirect: (to: string) => never
export const nextRoute: Route = next.saving(page)
export const nextActions = {
  add: next.saving(async (_: FormData, amount: number) => amount) satisfies (
    data: FormData,
    n: number,
  ) => Promise<number>,
  leave: next.saving(async () => redirect('/')) satisfies (data: FormData) => Promise<void>,
}
export const nextCart = async (): Promise<readonly string[] | undefined> => {
  const s = await next.session({ extend: false })
  // @ts-expect-error a field that the type does not have
  s.get('usre')
  return s.get('cart')
}

// A worker, which gets an environment and a context of its platform.
type Env = { readonly GREETING: string }
type Platform = { waitUntil(work: Promise<unknown>): void }
type Worker = { fetch(request: Request, env: Env, ctx: Platform): Response | Promise<Response> }
export const annotated = {
  fetch: withSessions((request, env: Env, ctx: Platform) => {
    ctx.waitUntil(session(request))
    return new Response(env.GREETING)
  }),
} satisfies Worker
export const inferred = {
  fetch: crossOriginProtection((request, env, ctx) => {
    ctx.waitUntil(session(request))
    return new Response(env.GREETING)
  }),
} satisfies Worker

// Arguments that a caller may leave out: `serve` passes none.
const optional = withSessions(async (_: Request, context?: Context) => Response.json(await context?.params))
export const answers = [
  optional(new Request('https://app.example')),
  optional(new Request('https://app.example'), { params: Promise.resolve({ id: '1' }) }),
]
export const running = serve(optional)
// @ts-expect-error the handler needs an environment, and `serve` has none
serve(annotated.fetch)

// A middleware of the application's own, and a function that joins middlewares.
const timed: Middleware =
  (next) =>
  async (request, ...rest) => {
    const response = await next(request, ...rest)
    response.headers.set('server-timing', 'app')
    return response
  }
const joined =
  (...all: readonly Middleware[]): Middleware =>
  (next) =>
    all.reduceRight((inner, middleware) => middleware(inner), next)
export const timedRoute: Route = timed(withSessions(page))
export const joinedRoute: Route = joined(logger, withSessions, timed, crossOriginProtection)(page)

// An adapter takes a manager of any type of fields, and its functions take the requests of frameworks.
declare const frameworkRequest: {
  readonly headers: Record<string, string | string[] | undefined>
  readonly locale: string
}
export const mounted = forNode(typed)
export const mountedInHono = forHono(typed, { load: true })
export const mountedInKoa = forKoa(typed)
export const counted: Promise<Session<Fields>> = session<Fields>(frameworkRequest)
export const upgraded: Promise<OpenSession<Fields>> = typed.open(frameworkRequest)

// The types of SvelteKit, React Router and Astro, as they declare them. Their own types are in the applications of frameworks/.
type SvelteKitRequestEvent = {
  readonly request: Request
  readonly locals: { session: Session<Fields> }
  readonly isDataRequest: boolean
  readonly isSubRequest: boolean
  readonly url: URL
  readonly cookies: {
    set(name: string, value: string, options: { path: string; encode?: (value: string) => string }): void
  }
}
type SvelteKitHook = (input: {
  event: SvelteKitRequestEvent
  resolve: (event: SvelteKitRequestEvent, options?: { preload?: () => boolean }) => Promise<Response>
}) => Promise<Response> | Response
export const svelteKitHook: SvelteKitHook = forSvelteKit(typed)

type RouterContext<T = unknown> = { defaultValue?: T }
type RouterContextProvider = {
  get<T>(context: RouterContext<T>): T
  set<C extends RouterContext>(context: C, value: C extends RouterContext<infer T> ? T : never): void
}
type RouterMiddleware = (
  args: { request: Request; url: URL; params: object; context: Readonly<RouterContextProvider> },
  next: () => Promise<Response>,
) => Promise<Response> | Response
export const routerMiddleware: RouterMiddleware[] = [forReactRouter(typed, { load: true })]
declare const routerContext: Readonly<RouterContextProvider>
export const routerSession: Session = routerContext.get(sessionContext)
export const storageUser: Promise<string | undefined> = createSessionStorage<{ user: string }>(typed)
  .getSession('')
  .then((s) => s.get('user'))

type AstroMiddlewareHandler = (
  context: { readonly request: Request; readonly locals: object; readonly isPrerendered: boolean; readonly url: URL },
  next: (payload?: string | URL | Request) => Promise<Response>,
) => Promise<Response> | Response
export const astroMiddleware: AstroMiddlewareHandler = forAstro(typed)
// A socket: its session has the typed fields and no methods that change it.
export const onUpgrade = async (request: Request): Promise<Response | undefined> => {
  const watched: WatchResult<Fields> = await typed.watch(request, { origins: ['https://app.example'] })
  if (!watched.ok) return new Response(watched.error satisfies 'cross_origin', { status: 403 })
  const cart: readonly string[] | undefined = watched.session.get('cart')
  // @ts-expect-error the session of a socket cannot be changed
  watched.session.set
  const stopped: AbortSignal = watched.signal
  void watched.ended.then((reason: 'login' | 'expired' | 'end') => [reason, cart, stopped.aborted])
  watched.stop()
}

// An author of an adapter runs the cases on a server of their own.
declare const serveApplication: ServeApplication
export const patient: RunOptions = { patience: 1_000 }
export const cases: Promise<void>[] = adapterCases.map(({ run }) => run(serveApplication, patient))
