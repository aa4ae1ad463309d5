// Errors: a visitor's mistake is a Result, and a problem that the operator must fix is a thrown KeepsakeError.

export type Result<T, E extends string> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: E }

/** A value, or a promise of one: a synchronous backend makes nobody wait. */
export type Awaitable<T> = T | Promise<T>

/**
 * Whether a value must be awaited: a promise of this realm or of another, or the lazy promise of a query builder. Never
 * test `instanceof Promise`, because test runners load applications into a realm of their own.
 */
export const isThenable = <T>(value: Awaitable<T> | PromiseLike<T>): value is PromiseLike<T> & Promise<T> =>
  typeof (value as PromiseLike<T> | undefined)?.then === 'function'

/** Calls `next` with a value, at once if the value is no promise: a synchronous backend has synchronous callers. */
export const chain = <T, R>(value: Awaitable<T>, next: (value: T) => Awaitable<R>): Awaitable<R> =>
  isThenable(value) ? Promise.resolve(value).then(next) : next(value)

/**
 * Why a `KeepsakeError` was thrown.
 *
 * The configuration:
 *
 * - `invalid_option`: an option or an argument has a value that is not allowed or not safe. The options of a manager
 *   are checked when it is made. If an option depends on the backend, `ready` and the first use throw.
 * - `no_secret`: the backend keeps no secret of its own, and the option `secret` is missing. `ready` and the first use
 *   throw it, so that a build can load the application without a secret.
 * - `unknown_backend`: keepsake knows no backend for a URL, the driver of the backend is not installed, or the runtime
 *   has no files for it.
 * - `missing_package`: an optional package is not installed. The message has the command that installs it.
 * - `invalid_backend`: a backend returned a value that the contract does not allow.
 *
 * The application's code:
 *
 * - `no_middleware`: the request did not pass through a session manager, or is a copy of one that did.
 * - `no_response`: a handler that used its session returned no Response, a Response whose body was read, or
 *   `Response.error()`. Nothing was saved.
 * - `too_late`: the session was used after the response was sent, or `commit()` was called twice.
 * - `read_only`: a server component of Next.js changed the session, or needs a cookie that it cannot set; or the session of a
 *   socket was changed. Nothing was changed.
 * - `invalid_owner`: the argument of `login` cannot name an account.
 * - `not_json`: a value cannot be written as JSON. The message has the path to it.
 * - `schema_mismatch`: the handler's changes do not fit the schema. Nothing was saved.
 * - `too_large`: the session, a cookie, a flash message or a sealed text is larger than allowed. Nothing was saved.
 *
 * The store and the machine:
 *
 * - `unavailable`: the backend failed or did not answer in time, and nothing was changed. `serve` throws it also if it
 *   cannot listen on the port, or if closing takes too long.
 * - `unknown_outcome`: the backend failed or did not answer during a write. The change may or may not have been saved.
 * - `contention`: other requests changed the same session until this request's time ended. Nothing was saved.
 * - `key_collision`: three new keys in a row existed already, so the machine's random numbers are not random.
 *
 * Only an adapter passes these to the error handler of its framework, with the status 409. Nothing was saved:
 *
 * - `ended`: the session ended while the request was in progress, or while a socket was open.
 * - `conflict`: another request changed the session, and the schema refuses both changes together.
 * - `withheld`: the browser did not send the session cookie with the request.
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
  | 'read_only'
  | 'invalid_owner'
  | 'not_json'
  | 'schema_mismatch'
  | 'too_large'
  | 'unavailable'
  | 'unknown_outcome'
  | 'contention'
  | 'key_collision'
  | 'ended'
  | 'conflict'
  | 'withheld'

/** Marks a KeepsakeError of any copy of this package, in any realm. */
const MARK = Symbol.for('keepsake.KeepsakeError')

/** Another try may work. */
const temporary: readonly ErrorCode[] = ['unavailable', 'unknown_outcome', 'contention']

/**
 * The one error that this library throws. Its message has the next step. `cause` is the driver's error, if there is
 * one. `instanceof KeepsakeError` is also true for an error of another copy of the package.
 */
export class KeepsakeError extends Error {
  override readonly name = 'KeepsakeError'
  readonly code: ErrorCode
  /** 503 if another try may work. 409 for an error of an adapter. Otherwise absent: frameworks answer 500 without it, and may write to it. */
  declare status?: number
  /**
   * After a failed `commit()`: headers for the response to the error. For example, a logout still clears the browser's
   * cookie. The fields are properties too, because frameworks copy them like a plain object.
   */
  declare headers?: Headers

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
    if (temporary.includes(code)) this.status = 503
    Object.defineProperty(this, MARK, { value: true })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return isKeepsakeError(value)
  }
}

export const isKeepsakeError = (value: unknown): value is KeepsakeError =>
  typeof value === 'object' && value !== null && (value as { [MARK]?: unknown })[MARK] === true

/** The message of a thrown value, which need not be an Error. */
export const messageOf = (error: unknown): string => {
  const { message } = (error ?? {}) as { message?: unknown }
  return typeof message === 'string' ? message : String(error)
}

/**
 * The result of an application's function that may not return a promise.
 *
 * @param option the option that is the function
 * @throws KeepsakeError `invalid_option`
 */
export const checkSynchronous = <T>(option: string, result: T): T => {
  if (!isThenable(result as unknown)) return result
  // The error below is the report, so a rejection must not end the process.
  Promise.resolve(result).catch(() => {})
  throw new KeepsakeError(
    'invalid_option',
    `The function in the option ${option} returned a promise. It must return the value itself. Load the tenants before, for example into a Map.`,
  )
}

/** Refuses unknown options, because most are misspelt. @throws KeepsakeError `invalid_option` */
export const checkOptionNames = (options: object, known: readonly string[], caller: string): void => {
  const unknown = Object.keys(options).find((name) => !known.includes(name))
  if (unknown === undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `${caller} has no option ${JSON.stringify(unknown)}. There are: ${known.join(', ')}.`,
  )
}
