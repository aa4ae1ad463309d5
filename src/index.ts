// The front door: sessions for every visitor, in a few words.

export type { OwnedSession } from './accounts.ts'
export type { Backend, Change, Entry, Held, Mark, Owned, Removed, Scanned } from './backends/contract.ts'
export { type ConnectOptions, connect } from './backends/from-url.ts'
export {
  type CopyOptions,
  type CopyProgress,
  copySessions,
  type MovingOptions,
  movingBackend,
} from './backends/moving.ts'
export {
  type CookiePlace,
  cookie,
  dropCookie,
  type ReadCookieOptions,
  type SetCookieOptions,
  setCookie,
} from './cookies.ts'
export { type Awaitable, Fault, type FaultCode, type Result } from './error.ts'
export type { Listener, Reason, SessionEvent } from './events.ts'
export { addFlash, takeFlash } from './flash.ts'
export { type CrossOriginOptions, crossOrigin } from './forms/cross-origin.ts'
export { csrfField, csrfTag, csrfToken, type TokenOptions, type TokenOutcome, verifyCsrfToken } from './forms/csrf.ts'
export { type Form, type FormFiles, type FormOptions, readForm } from './forms/form.ts'
export type { Upload } from './forms/multipart.ts'
export type { CookieOptions } from './http/cookie-names.ts'
export type { Handler, Middleware } from './http/handler.ts'
export type { Json } from './json.ts'
export { type LoggerOptions, logger } from './logger.ts'
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
} from './manager.ts'
export { session } from './request.ts'
export type { Issue, StandardSchema } from './schema.ts'
export { seal, unseal } from './sealed-text.ts'
export { type Running, type RunOptions, run } from './serve.ts'
export type { Flash } from './session/flash-messages.ts'
export type { AnyFields, LoginOptions, Session } from './session/session.ts'
