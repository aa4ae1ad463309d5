// An application as strict as can be, without @types/node: `npm run package` checks it against what is published.

import {
  type AnyFields,
  type BackendFromUrlOptions,
  type CookieOptions,
  type CookiePlace,
  type CrossOriginProtectionOptions,
  crossOriginProtection,
  type FormOptions,
  type Handler,
  type LoginOptions,
  type Middleware,
  memorySessions,
  type ReadCookieOptions,
  type RevokeWhereOptions,
  type ScanOptions,
  type Session,
  type SessionManager,
  type SessionManagerOptions,
  type SetCookieOptions,
  session,
  sessionManager,
  type TokenOptions,
} from 'keepsake'
import type { CookieBackendOptions } from 'keepsake/cookie'
import type { FileOptions } from 'keepsake/file'
import type { MemoryOptions } from 'keepsake/memory'
import type { CopyOptions, MovingOptions } from 'keepsake/moving'
import type { ConnectMysqlOptions, MysqlOptions } from 'keepsake/mysql'
import type { ConnectPostgresOptions, PostgresOptions } from 'keepsake/postgres'
import type { ConnectRedisOptions, RedisOptions } from 'keepsake/redis'
import { type LoggerOptions, logger, type ServeOptions } from 'keepsake/serve'
import type { ClockOptions, CookieHeaderOptions, ExpiryOptions } from 'keepsake/session'
import type { SqliteOptions } from 'keepsake/sqlite'
import type { BrowserOptions } from 'keepsake/testing'

/** True where every option may be undefined, as what an application computes or reads from its environment. */
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
  true satisfies Undefinable<ScanOptions>,
  true satisfies Undefinable<RevokeWhereOptions>,
  true satisfies Undefinable<CrossOriginProtectionOptions>,
  true satisfies Undefinable<FormOptions>,
  true satisfies Undefinable<TokenOptions>,
  true satisfies Undefinable<LoggerOptions>,
  true satisfies Undefinable<MovingOptions>,
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
export const loose: Promise<Session<AnyFields>> = session(new Request('https://app.example'))

// A framework with a request of its own, which passes more than the request.
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
  crossOriginProtection(page),
  logger(withSessions(crossOriginProtection(page)), { write: undefined }),
  // A handler that takes less than it is passed.
  withSessions(() => new Response()),
  withSessions((request) => new Response(request.url)),
]
// @ts-expect-error what the handler needs has to be passed
withSessions(page)(new FrameworkRequest('https://app.example'))
export const plain: Handler = withSessions(async (request) => Response.json((await session(request)).fields))

// A middleware of the application's own.
const timed: Middleware =
  (next) =>
  async (request, ...rest) => {
    const response = await next(request, ...rest)
    response.headers.set('server-timing', 'app')
    return response
  }
export const timedRoute: Route = timed(withSessions(page))
