// Exports the public names of the package keepsake.

export type { OwnedSession } from './accounts.ts'
export type {
  Backend,
  Change,
  Entry,
  Held,
  KeyedEntry,
  Mark,
  OwnerIndex,
  Removed,
  ScanPage,
} from './backends/contract.ts'
export { type BackendFromUrlOptions, backendFromUrl } from './backends/from-url.ts'
export type { StoreCall, StoreOperation, StoreOutcome } from './backends/store-calls.ts'
export {
  type CookiePlace,
  deleteCookie,
  getCookie,
  type ReadCookieOptions,
  type SetCookieOptions,
  setCookie,
} from './cookies.ts'
export { cookieSessions, fileSessions, memorySessions, sqlSessions } from './dream-sessions.ts'
export { type Awaitable, type ErrorCode, KeepsakeError, type Result } from './error.ts'
export type { EventType, SessionEvent, SessionEventListener } from './events.ts'
export { addFlash, takeFlash } from './flash.ts'
export { type CrossOriginProtectionOptions, crossOriginProtection } from './forms/cross-origin.ts'
export { type CsrfResult, csrfField, csrfTag, csrfToken, type TokenOptions, verifyCsrfToken } from './forms/csrf.ts'
export { type FormFiles, type FormOptions, type FormResult, readForm } from './forms/form.ts'
export type { UploadedFile } from './forms/multipart.ts'
export type { CookieOptions } from './http/cookie-names.ts'
export type { ErrorKind, ErrorResponse } from './http/error-response.ts'
export type { Handler, Middleware } from './http/handler.ts'
export type { NodeRequest } from './http/node-request.ts'
export type { IncomingRequest, RequestHeaders } from './http/request-head.ts'
export type { Json } from './json.ts'
export { type SessionManager, sessionManager, type Tenant } from './manager.ts'
export type { CommitResult, OpenSession } from './open-session.ts'
export type {
  RevokeCondition,
  RevokeProgress,
  RevokeWhereOptions,
  ScanOptions,
  SessionPage,
  StoredSession,
} from './operator.ts'
export type { SessionManagerOptions } from './options.ts'
export { type SessionOptions, session } from './request.ts'
export type { RequestLike } from './request-context.ts'
export type { ResponseCookie } from './response.ts'
export type { Issue, StandardSchema } from './schema.ts'
export { seal, unseal } from './sealed-text.ts'
export type { Flash } from './session/flash-messages.ts'
export type { AnyFields, LoginOptions, Session } from './session/session.ts'
export type { EndReason } from './session/stored-end.ts'
export type { ReadOnlySession, WatchedSession, WatchOptions, WatchResult } from './watch.ts'
