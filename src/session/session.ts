// The session as a handler holds it: everything on it is synchronous, and nothing on it is a secret.

import { labelOf } from '../crypto/keys.ts'
import { checkOptionNames, KeepsakeError } from '../error.ts'
import { frozenCopy, setOwn } from '../json.ts'
import { type Draft, type FieldChange, FLASH, fieldOf } from './changes.ts'
import { reserveKey } from './create.ts'
import { expiryDue, expiryOf } from './expiry.ts'
import type { LoginSettings } from './metadata.ts'
import { recordChange, type UnitOfWork } from './work.ts'

/** Fields of which nothing was said: any names, values of any type that JSON keeps. */
// biome-ignore lint/suspicious/noExplicitAny: what a field holds is the application's to know where it gives no schema
export type AnyFields = { readonly [field: string]: any }

export type LoginOptions<F extends object = AnyFields> = {
  /** The fields that come along from the session before. Default none; if the owner stays the same, all do. */
  readonly keep?: readonly (keyof F & string)[] | undefined
  /** Seconds without a visit after which this session has ended. Default: as the manager is set. */
  readonly idleTimeout?: number | undefined
  /** Seconds after which this session has ended, however often it was used. Default: as the manager is set, which is the most. */
  readonly absoluteTimeout?: number | undefined
  /** false: the cookie goes when the browser is closed. Default: as the manager is set. */
  readonly persistent?: boolean | undefined
}

/** A visitor's session. A stranger has one too: empty, and stored only once something is set. */
export type Session<F extends object = AnyFields> = {
  /** Names the session in logs and lists. Opens nothing. New at birth, login and invalidate; stays at renewal. */
  readonly label: string
  /** Milliseconds since 1970: when the session ends, if this were its last visit. */
  readonly expiresAt: number
  /** Whom `login` named. */
  readonly owner: string | undefined
  /**
   * Why the browser sent no session cookie with this request, if that is because of where the request came from:
   * `cross_site`, a page of another site sent it; `path`, it is outside of `cookie.path`. The visitor may have a session
   * all the same, so this request can save nothing: the answer is then 409.
   */
  readonly withheld: 'cross_site' | 'path' | undefined
  /** All fields, as a copy that cannot be changed. Any may be missing: a stranger has none. */
  readonly fields: Readonly<Partial<F>>
  /** The value of a field, deeply frozen: to change it, `set` or `update` it. */
  get<K extends keyof F & string>(field: K): F[K] | undefined
  /**
   * Sets a field. Saved before the response leaves, even where the value is the same.
   *
   * @throws KeepsakeError `not_json`, `too_late`
   */
  set<K extends keyof F & string>(field: K, value: F[K]): void
  /** Removes a field. @throws KeepsakeError `too_late` */
  delete(field: keyof F & string): void
  /**
   * Sets a field to what `by` makes of it. Where another visit changed it meanwhile, `by` runs again on the newer
   * value: so it may run more than once, and must do nothing else. If it throws then, nothing of the visit is saved.
   *
   * @throws whatever `by` throws, KeepsakeError `not_json`, `too_late`
   */
  update<K extends keyof F & string>(field: K, by: (value: F[K] | undefined) => F[K]): void
  /**
   * Gives the session a new key: same fields, label and owner. The old key opens it until 30 seconds after the new one
   * was first used. Does not shut out a thief of the old key: only `login` does.
   */
  rotateKey(): void
  /**
   * Names the owner of the session, at a login or at any change of rights: new key, new label; the old key is dead at
   * once. Fields come along only if `keep` names them, so that a stranger's leavings are not taken for an account's;
   * where the owner stays the same, all do. What the login says of lifetimes holds for this session, also over renewals,
   * and until the next login, which begins another.
   *
   * @throws KeepsakeError `invalid_owner`, `invalid_option`, `too_late`
   */
  login(owner: string, options?: LoginOptions<F>): void
  /** Ends the session; what is set afterwards begins another. Carried out even if the handler throws later. */
  invalidate(): void
}

const fieldName = (field: unknown): string => {
  if (field === FLASH)
    throw new KeepsakeError('invalid_option', `A field cannot be called ${FLASH}: flash messages lie there.`)
  if (typeof field === 'string') return field
  throw new KeepsakeError('not_json', `The name of a field has to be a string, and is a ${typeof field}.`)
}

/** Seconds as an option gives them, in milliseconds. @throws KeepsakeError `invalid_option` */
const milliseconds = (name: string, seconds: unknown, most: number): number | undefined => {
  if (seconds === undefined) return undefined
  if (typeof seconds === 'number' && seconds >= 0.001 && seconds * 1000 <= most) return Math.ceil(seconds * 1000)
  const limit = `${most / 1000}, the absoluteTimeout of the manager`
  throw new KeepsakeError('invalid_option', `${name} of a login has to be a number of seconds from 0.001 to ${limit}.`)
}

/** What a login says of its session alone. @throws KeepsakeError `invalid_option` */
const checkLoginSettings = ({ context }: UnitOfWork, options: LoginOptions): LoginSettings | undefined => {
  const { persistent } = options
  if (persistent !== undefined && typeof persistent !== 'boolean') {
    throw new KeepsakeError('invalid_option', 'persistent of a login has to be true or false.')
  }
  const absoluteTimeout = milliseconds('absoluteTimeout', options.absoluteTimeout, context.absoluteTimeout)
  const idleTimeout = milliseconds('idleTimeout', options.idleTimeout, absoluteTimeout ?? context.absoluteTimeout)
  if (idleTimeout === undefined && absoluteTimeout === undefined && persistent === undefined) return undefined
  return { idleTimeout, absoluteTimeout, persistent }
}

class SessionHandle implements Session {
  readonly #work: UnitOfWork

  constructor(work: UnitOfWork) {
    this.#work = work
  }

  get label(): string {
    const work = this.#read()
    const { snapshot, transition } = work
    return snapshot !== undefined && transition === undefined ? snapshot.label : labelOf(reserveKey(work))
  }

  get expiresAt(): number {
    const work = this.#read()
    const { snapshot, context, transition, loginSettings } = work
    const now = context.now()
    if (snapshot !== undefined && transition === undefined) {
      return expiryDue(context, snapshot, now) ? expiryOf(context, snapshot.metadata, now) : snapshot.entry.expiresAt
    }
    return expiryOf(context, { createdAt: now, currentHash: '', recentVersions: '', ...loginSettings }, now)
  }

  get owner(): string | undefined {
    return this.#read().owner
  }

  get withheld(): Session['withheld'] {
    return this.#work.withheld?.by
  }

  get fields(): AnyFields {
    const { fields } = this.#read()
    const copy: Draft = {}
    for (const field of Object.keys(fields)) if (field !== FLASH) setOwn(copy, field, fieldOf(fields, field) ?? null)
    return Object.freeze(copy)
  }

  get(field: string): unknown {
    const { fields } = this.#read()
    return field === FLASH ? undefined : fieldOf(fields, field)
  }

  set(field: string, value: unknown): void {
    this.#change({ set: fieldName(field), value: frozenCopy(value, field) })
  }

  delete(field: string): void {
    this.#change({ delete: fieldName(field) })
  }

  update(field: string, by: (value: unknown) => unknown): void {
    this.#change({ update: fieldName(field), by })
  }

  rotateKey(): void {
    this.#open().rotate = true
  }

  login(owner: string, options: LoginOptions = {}): void {
    checkOptionNames(options, ['keep', 'idleTimeout', 'absoluteTimeout', 'persistent'], 'login()')
    const work = this.#open('login')
    const { keep = [] } = options
    if (!Array.isArray(keep))
      throw new KeepsakeError('invalid_option', 'keep of a login has to be a list of names of fields.')
    const loginSettings = checkLoginSettings(work, options)
    if (
      typeof owner !== 'string' ||
      owner === '' ||
      owner.length > 255 ||
      !owner.isWellFormed() ||
      owner.includes('\0')
    ) {
      throw new KeepsakeError(
        'invalid_owner',
        'An owner has to be a string of 1 to 255 characters: the name or number of an account.',
      )
    }
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
    const work = this.#open('invalidate')
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

  #change(change: FieldChange): void {
    recordChange(this.#open(), change)
  }

  /** @throws KeepsakeError `unavailable` if the session could not be read */
  #read(): UnitOfWork {
    const { readOnly, transition } = this.#work
    if (readOnly !== undefined && !readOnly.reads && transition === undefined) throw readOnly.error
    return this.#work
  }

  #open(act?: 'login' | 'invalidate'): UnitOfWork {
    const { readOnly, transition } = this.#work
    // Whatever the store does, a logout has to clear the browser's cookie.
    const may = act === 'invalidate' || (readOnly?.logsIn && (act === 'login' || transition !== undefined))
    if (readOnly !== undefined && !may) throw readOnly.error
    if (!this.#work.committed) return this.#work
    throw new KeepsakeError(
      'too_late',
      'The session was changed after its response had left. Change it before, or open a visit of its own with manager.open().',
    )
  }
}

/* Reached by an assignment to a name that the session does not have: `s.user = 'anna'` would be saved nowhere. */
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

/** The handle on a visit's session. */
export const createHandle = <F extends object = AnyFields>(work: UnitOfWork): Session<F> =>
  new SessionHandle(work) as unknown as Session<F>
