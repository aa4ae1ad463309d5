// The front door: sessions for every visitor, in a few words.

export {
  type CookiePlace,
  cookie,
  dropCookie,
  type ReadCookieOptions,
  type SetCookieOptions,
  setCookie,
} from './application-cookie.ts'
export type { Backend, Change, Entry, Held, Mark, Owned, Removed, Scanned } from './backend.ts'
export { type ConnectOptions, connect } from './connect.ts'
export { type CrossOriginOptions, crossOrigin } from './cross-origin.ts'
export { csrfField, csrfTag, csrfToken, type TokenOptions, type TokenOutcome, verifyCsrfToken } from './csrf.ts'
export type { Listener, Reason, SessionEvent } from './events.ts'
export { addFlash, takeFlash } from './flash.ts'
export type { Flash } from './flashes.ts'
export { type Form, type FormFiles, type FormOptions, readForm } from './form.ts'
export type { Upload } from './form-multipart.ts'
export type { Handler, Middleware } from './handler.ts'
export type { Json } from './json.ts'
export type { AnyFields, LoginOptions, Session } from './lifecycle/handle.ts'
export { type LoggerOptions, logger } from './logger.ts'
export { type CopyOptions, type CopyProgress, copySessions, type MovingOptions, movingBackend } from './moving.ts'
export { type Awaitable, Fault, type FaultCode, type Result } from './outcome.ts'
export type { OwnedSession } from './owners.ts'
export { session } from './passage.ts'
export type { Issue, StandardSchema } from './schema.ts'
export { seal, unseal } from './sealing.ts'
export { type Running, type RunOptions, run } from './serve.ts'
export {
  type Committed,
  cookieSessions,
  fileSessions,
  memorySessions,
  type OpenSession,
  type Sessions,
  type SessionsOptions,
  sessions,
  sqlSessions,
} from './sessions.ts'
export type { CookieOptions } from './transport.ts'
