// The session object of a handler: all its methods are synchronous, and no property of it is secret.

import { labelOf } from '../crypto/keys.ts'
import { checkOptionNames, KeepsakeError } from '../error.ts'
import { frozenCopy, setOwn } from '../json.ts'
import { type Draft, type FieldChange, FLASH, fieldOf } from './changes.ts'
import { reserveKey } from './create.ts'
import { absoluteEndOf, expiryDue, expiryOf } from './expiry.ts'
import { checkKeep, checkLoginSettings, checkOwner } from './login-arguments.ts'
import { authenticatedAt } from './owned.ts'
import { type SaveResult, saveNow } from './save-now.ts'
import { extendsSession, recordChange, type UnitOfWork } from './work.ts'

/** The fields of a session without a schema: any names, and values of any type that JSON can store. */
// biome-ignore lint/suspicious/noExplicitAny: without a schema only the application knows the type of a field
export type AnyFields = { readonly [field: string]: any }

export type LoginOptions<F extends object = AnyFields> = {
  /**
   * Names of the fields that the new session takes from the previous one. Default: none. If the session already belongs to
   * this owner, it keeps all fields, and `keep` has no effect.
   */
  readonly keep?: readonly (keyof F & string)[] | undefined
  /**
   * Seconds without a request after which this session expires: from 0.001 to its absolute timeout. Default: the
   * `idleTimeout` of the manager.
   */
  readonly idleTimeout?: number | undefined
  /**
   * Seconds after the login when this session expires, however often it is used: from 0.001 to the `absoluteTimeout` of the
   * manager, which is the default.
   */
  readonly absoluteTimeout?: number | undefined
  /** Whether the session cookie remains after the browser is closed. Default: the option `persistent` of the manager. */
  readonly persistent?: boolean | undefined
}

/**
 * A visitor's session. An anonymous visitor has one too: it is empty, and nothing is stored until a handler sets a field or
 * calls `login`.
 *
 * All changes of a request are saved together, before the response leaves. If the backend fails, reading or changing the
 * session throws KeepsakeError `unavailable`, unless the manager has `onStoreError: 'anonymous'`: then the session reads as
 * that of an anonymous visitor, and only changing it throws. `invalidate` never throws because of the backend.
 */
export type Session<F extends object = AnyFields> = {
  /**
   * 12 characters that name the session in logs and lists, and are safe to show. A login and an invalidate change the label;
   * `rotateKey` does not.
   */
  readonly label: string
  /**
   * When the session expires if no other request uses it, in milliseconds since 1970. In a request with `extend: false` and
   * in a prefetch it is the expiry that is stored.
   */
  readonly expiresAt: number
  /** The owner that `login` named. Undefined for an anonymous visitor. */
  readonly owner: string | undefined
  /**
   * When the owner logged in last, in milliseconds since 1970: at a `login`, also one of the same owner. Nothing else moves
   * it. In the request of the login it is the current time. Undefined without an owner. Ask for the password again before a
   * sensitive action if it is too long ago (OWASP ASVS 5.0 §7.5.3).
   */
  readonly authenticatedAt: number | undefined
  /**
   * Why the browser sent no session cookie with this request: `cross_site` if a page of another site sent the request,
   * `path` if the request is outside of `cookie.path`. Undefined for all other requests. The visitor may have a session that
   * the request does not show, so the request can save nothing: if it changes the session, the response is 409.
   */
  readonly withheld: 'cross_site' | 'path' | undefined
  /**
   * A frozen copy of all fields, as a plain object. Any field may be missing: an anonymous visitor has only the defaults of
   * the schema.
   */
  readonly fields: Readonly<Partial<F>>
  /** The value of a field, deeply frozen. Undefined if the field is not set. To change a value, call `set` or `update`. */
  get<K extends keyof F & string>(field: K): F[K] | undefined
  /**
   * Sets a field to a copy of the value. The session is saved even if the value is the same as before.
   *
   * @throws KeepsakeError `not_json` if JSON cannot store the value; `invalid_option` if the name is `keepsake.flash`;
   *   `too_late` after the response
   */
  set<K extends keyof F & string>(field: K, value: F[K]): void
  /** Removes a field. @throws KeepsakeError `invalid_option` and `too_late`, as `set` */
  delete(field: keyof F & string): void
  /**
   * Sets a field to the result of `by`, which gets the present value. If another request changed the session in the
   * meantime, the commit calls `by` again with the newer value, so `by` must have no side effects. If that call throws,
   * nothing of this request is saved.
   *
   * @throws the error of `by`; KeepsakeError `not_json`, `invalid_option` and `too_late`, as `set`
   */
  update<K extends keyof F & string>(field: K, by: (value: F[K] | undefined) => F[K]): void
  /**
   * Gives the session a new key; fields, label and owner stay. The previous key works until 30 seconds after the first use
   * of the new one, and until then another call has no effect. A thief who has the previous key gets the new key too: only
   * `login` and `invalidate` lock them out.
   *
   * @throws KeepsakeError `too_late`
   */
  rotateKey(): void
  /**
   * Starts a session of this owner, with a new key and a new label, and ends the previous session: its key stops working at
   * once. Call it at a login and at every change of rights. The new session takes only the fields that `keep` names, so that
   * the data of an anonymous visitor does not become the data of an account; if the owner stays the same, it takes all.
   * The timeouts and `persistent` apply to this session, also after `rotateKey`, and end with the next login.
   *
   * @param owner the name or ID of the account: a string of 1 to 255 UTF-16 code units, without a NUL character or an
   *   unpaired surrogate
   * @throws KeepsakeError `invalid_owner`, `invalid_option`, `too_late`
   */
  login(owner: string, options?: LoginOptions<F>): void
  /**
   * Ends the session, and drops the changes of this request so far. A field that is set afterwards starts another session.
   * The session ends even if the handler throws later, and the browser's cookie is cleared even if the backend fails.
   *
   * @throws KeepsakeError `too_late`
   */
  invalidate(): void
  /**
   * Saves the changes so far, in the middle of a long request, and the request continues with the session as it is stored,
   * with the changes of other requests. Without changes it does nothing. Cookies that are due, for example after `login`,
   * leave with the response, so `save` cannot be called after it: in a stream, use a session of `manager.open()`.
   *
   * @returns `ok: false` if nothing was saved: the session ended (`ended`), or as for a response 409 (`conflict`,
   *   `withheld`). Then nothing more of this request is saved, and the response is 409
   * @throws KeepsakeError `too_late` after the response; as `commit` if the backend fails: the changes stay, so it can be
   *   called again
   */
  save(): Promise<SaveResult>
}

const LOGIN_OPTIONS = ['keep', 'idleTimeout', 'absoluteTimeout', 'persistent'] as const
const NO_FIELDS_KEPT: readonly string[] = []

/** Checks the name of a field. @throws KeepsakeError `invalid_option`, `not_json` */
const checkFieldName = (field: unknown): string => {
  if (field === FLASH) {
    const message = `A field was named ${FLASH}, but this name is reserved for flash messages. Choose another name.`
    throw new KeepsakeError('invalid_option', message)
  }
  if (typeof field === 'string') return field
  throw new KeepsakeError('not_json', `The name of a field was a value of type ${typeof field}. Use a string.`)
}

class SessionHandle implements Session {
  readonly #work: UnitOfWork

  constructor(work: UnitOfWork) {
    this.#work = work
  }

  get label(): string {
    const work = this.#readable()
    const { snapshot, transition } = work
    return snapshot !== undefined && transition === undefined ? snapshot.label : labelOf(reserveKey(work))
  }

  get expiresAt(): number {
    const work = this.#readable()
    const { snapshot, context, transition, loginSettings } = work
    const now = context.now()
    if (snapshot !== undefined && transition === undefined) {
      const { entry, metadata } = snapshot
      if (expiryDue(context, snapshot, now) && extendsSession(work)) return expiryOf(context, metadata, now)
      return Math.min(entry.expiresAt, absoluteEndOf(context, metadata))
    }
    return expiryOf(context, { createdAt: now, currentHash: '', recentVersions: '', ...loginSettings }, now)
  }

  get owner(): string | undefined {
    return this.#readable().owner
  }

  get authenticatedAt(): number | undefined {
    const { context, snapshot, transition, owner } = this.#readable()
    if (snapshot !== undefined && transition === undefined) return authenticatedAt(snapshot)
    return owner === undefined ? undefined : context.now()
  }

  get withheld(): Session['withheld'] {
    return this.#work.withheld?.by
  }

  get fields(): AnyFields {
    const { fields } = this.#readable()
    const copy: Draft = {}
    for (const field of Object.keys(fields)) if (field !== FLASH) setOwn(copy, field, fieldOf(fields, field) ?? null)
    return Object.freeze(copy)
  }

  get(field: string): unknown {
    const { fields } = this.#readable()
    return field === FLASH ? undefined : fieldOf(fields, field)
  }

  set(field: string, value: unknown): void {
    this.#change({ set: checkFieldName(field), value: frozenCopy(value, field) })
  }

  delete(field: string): void {
    this.#change({ delete: checkFieldName(field) })
  }

  update(field: string, by: (value: unknown) => unknown): void {
    this.#change({ update: checkFieldName(field), by })
  }

  rotateKey(): void {
    this.#writable().rotate = true
  }

  login(owner: string, options?: LoginOptions): void {
    if (options !== undefined) checkOptionNames(options, LOGIN_OPTIONS, 'login()')
    const work = this.#writable('login')
    const keep = options?.keep === undefined ? NO_FIELDS_KEPT : checkKeep(options.keep)
    const loginSettings = options && checkLoginSettings(work.context, options)
    checkOwner(owner)
    work.loginSettings = loginSettings
    if (work.owner === owner) {
      work.transition ??= 'reauthenticate'
      return
    }
    recordChange(work, { keep })
    if (work.transition !== 'invalidate') work.transition = 'login'
    work.owner = owner
  }

  invalidate(): void {
    const work = this.#writable('invalidate')
    work.transition = 'invalidate'
    work.changes = []
    work.fields = Object.freeze({})
    work.draft = undefined
    work.owner = undefined
    work.loginSettings = undefined
    work.rotate = false
    work.newKey = undefined
    work.preSession = undefined
    work.preSessionUnread = false
    work.preSessionChanged = false
  }

  async save(): Promise<SaveResult> {
    return saveNow(this.#writable())
  }

  #change(change: FieldChange): void {
    recordChange(this.#writable(), change)
  }

  /** @throws KeepsakeError `unavailable` if the session could not be read */
  #readable(): UnitOfWork {
    const { readOnly, transition } = this.#work
    if (readOnly !== undefined && !readOnly.reads && transition === undefined) throw readOnly.error
    return this.#work
  }

  /** @throws KeepsakeError `too_late`, or `unavailable` if the session could not be read */
  #writable(call?: 'login' | 'invalidate'): UnitOfWork {
    const { readOnly, transition } = this.#work
    const allowed =
      (call === 'invalidate' && readOnly?.logsOut !== false) ||
      (readOnly?.logsIn && (call === 'login' || transition !== undefined))
    if (readOnly !== undefined && !allowed) throw readOnly.error
    if (!this.#work.committed) return this.#work
    throw new KeepsakeError(
      'too_late',
      'The session was changed after the response was sent. Change it before, or open a session of its own with manager.open().',
    )
  }
}

/* An assignment to a property that a session does not have throws, because `s.user = 'anna'` would not be saved. */
Object.setPrototypeOf(
  SessionHandle.prototype,
  new Proxy(Object.prototype, {
    set(_, name) {
      const field = JSON.stringify(String(name))
      throw new KeepsakeError(
        'invalid_option',
        `A session has no property ${field}. To save a field: s.set(${field}, value).`,
      )
    },
  }),
)

/** Creates the session object of a request. */
export const createHandle = <F extends object = AnyFields>(work: UnitOfWork): Session<F> =>
  new SessionHandle(work) as unknown as Session<F>
