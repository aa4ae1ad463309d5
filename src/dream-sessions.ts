// Dream's four middlewares: sessions in memory, in a database, in files, and in encrypted cookies.

import type { Handler } from './http/handler.ts'
import { sessionManager } from './manager.ts'
import type { SessionManagerOptions } from './options.ts'

/** Sessions in the memory of this process, like Dream's `memory_sessions`. */
export const memorySessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Omit<SessionManagerOptions, 'backend'> = {},
): Handler<R, Rest> => sessionManager({ ...options, backend: 'memory:' })(next)

/** Sessions in a database, like Dream's `sql_sessions`. Default backend: `sqlite:sessions.db`. */
export const sqlSessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Partial<SessionManagerOptions> = {},
): Handler<R, Rest> => sessionManager({ ...options, backend: options.backend ?? 'sqlite:sessions.db' })(next)

/** Sessions in files, as Dream plans them. Default backend: `file:sessions`. */
export const fileSessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Partial<SessionManagerOptions> = {},
): Handler<R, Rest> => sessionManager({ ...options, backend: options.backend ?? 'file:sessions' })(next)

/** Sessions in an encrypted cookie, like Dream's `cookie_sessions`. Requires the option `secret`. */
export const cookieSessions = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: Omit<SessionManagerOptions, 'backend'>,
): Handler<R, Rest> => sessionManager({ ...options, backend: 'cookie:' })(next)
