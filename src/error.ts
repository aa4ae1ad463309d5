// Errors and results: what a visitor causes is a Result; what an operator must fix is a thrown KeepsakeError.

export type Result<T, E extends string> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: E }

/** A value now, or a promise of one: what is at hand costs no wait. */
export type Awaitable<T> = T | Promise<T>

/**
 * Whether a value has to be awaited: a promise of this realm or of another, or the lazy one of a query builder. Never ask
 * for `instanceof Promise`: test runners load applications into a realm of their own.
 */
export const isThenable = <T>(value: Awaitable<T> | PromiseLike<T>): value is PromiseLike<T> & Promise<T> =>
  typeof (value as PromiseLike<T> | undefined)?.then === 'function'

/** `next` of a value, at once where it is at hand: what is synchronous below stays so above. */
export const chain = <T, R>(value: Awaitable<T>, next: (value: T) => Awaitable<R>): Awaitable<R> =>
  isThenable(value) ? Promise.resolve(value).then(next) : next(value)

/**
 * Why a `KeepsakeError` was thrown.
 *
 * - `invalid_option`: an option cannot be, or would make the sessions unsafe. Thrown at construction.
 * - `no_secret`: the backend outlives the process, keeps no secret of its own, and none was given. Thrown by `ready` and
 *   at the first use, not at construction: where an application is built, there may be none.
 * - `no_middleware`: a request was asked for its session that came through no session middleware.
 * - `no_response`: a handler returned what cannot be sent: no Response, one whose body has been read, Response.error().
 * - `unknown_backend`: a URL names no backend that we know, or its driver is not installed.
 * - `invalid_backend`: a backend gave an answer that the contract does not allow.
 * - `missing_package`: an optional package is not installed.
 * - `too_late`: the session was asked for or changed after the response had left.
 * - `invalid_owner`: `login` was given no text that could name an account.
 * - `not_json`: a value that JSON cannot keep was set; the message has the path to it.
 * - `schema_mismatch`: what a visit made of its session does not fit the schema. Nothing was saved.
 * - `too_large`: the session, a cookie, a flash message or a sealed text would be larger than allowed. Nothing was saved.
 * - `unavailable`: the backend failed or did not answer in time, and nothing was changed.
 * - `unknown_outcome`: the backend failed or did not answer while it was changing the session: it may be either way.
 * - `contention`: others kept changing the same session until the time of the visit was over. Nothing was saved.
 * - `key_collision`: three fresh keys in a row were taken already: the random numbers are not random.
 */
export type ErrorCode =
  | 'invalid_option'
  | 'no_secret'
  | 'no_middleware'
  | 'no_response'
  | 'unknown_backend'
  | 'missing_package'
  | 'invalid_backend'
  | 'too_late'
  | 'invalid_owner'
  | 'not_json'
  | 'schema_mismatch'
  | 'too_large'
  | 'unavailable'
  | 'unknown_outcome'
  | 'contention'
  | 'key_collision'

/** What marks a KeepsakeError of any copy of this package, in any realm. */
const MARK = Symbol.for('keepsake.KeepsakeError')

const again: readonly ErrorCode[] = ['unavailable', 'unknown_outcome', 'contention']

/**
 * The one error that this library throws. Its message says what to do; `cause` is the driver's error, where there is one.
 * `instanceof KeepsakeError` is true also for one of another copy of the package.
 */
export class KeepsakeError extends Error {
  override readonly name = 'KeepsakeError'
  readonly code: ErrorCode
  /** 503 if another try may work. Without one, frameworks answer 500; they may write one here. */
  declare status?: number
  /** Of a failed `commit()`: what has to go out with the error all the same, such as the cookie that a logout clears. */
  headers?: Headers

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
    if (again.includes(code)) this.status = 503
    Object.defineProperty(this, MARK, { value: true })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return isKeepsakeError(value)
  }
}

export const isKeepsakeError = (value: unknown): value is KeepsakeError =>
  typeof value === 'object' && value !== null && (value as { [MARK]?: unknown })[MARK] === true

/** What was thrown, in words, whatever it is. */
export const messageOf = (error: unknown): string => {
  const { message } = (error ?? {}) as { message?: unknown }
  return typeof message === 'string' ? message : String(error)
}

/** Refuses options that nobody reads: most are misspelt. @throws KeepsakeError `invalid_option` */
export const checkOptionNames = (options: object, known: readonly string[], where: string): void => {
  const unknown = Object.keys(options).find((name) => !known.includes(name))
  if (unknown === undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `${where} has no option ${JSON.stringify(unknown)}. There are: ${known.join(', ')}.`,
  )
}
