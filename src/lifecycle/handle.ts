// The session as a handler holds it: everything on it is synchronous, and nothing on it is a secret.

import { type FieldChange, FLASH, fieldOf } from '../changes.ts'
import { frozen } from '../json.ts'
import { labelOf } from '../keys.ts'
import { Fault } from '../outcome.ts'
import { freshKey } from './begin.ts'
import { due, expiryOf } from './save.ts'
import { record, type Visit } from './visit.ts'

/** Fields of which nothing was said: any names, values of any type that JSON keeps. */
// biome-ignore lint/suspicious/noExplicitAny: what a field holds is the application's to know where it gives no schema
export type AnyFields = { readonly [field: string]: any }

/** A visitor's session. A stranger has one too: empty, and stored only once something is set. */
export type Session<F extends object = AnyFields> = {
  /** Names the session in logs and lists. Opens nothing. New at birth, login and invalidate; stays at renewal. */
  readonly label: string
  /** Milliseconds since 1970: when the session ends, if this were its last visit. */
  readonly expiresAt: number
  /** Whom `login` named. */
  readonly owner: string | undefined
  /** All fields, as a copy that cannot be changed. */
  readonly fields: Readonly<F>
  /** The value of a field, deeply frozen: to change it, `set` or `update` it. */
  get<K extends keyof F & string>(field: K): F[K] | undefined
  /**
   * Sets a field. Saved before the response leaves, even where the value is the same.
   *
   * @throws Fault `not_json`, `too_late`
   */
  set<K extends keyof F & string>(field: K, value: F[K]): void
  /** Removes a field. @throws Fault `too_late` */
  drop(field: keyof F & string): void
  /**
   * Sets a field to what `by` makes of it. Where another visit changed it meanwhile, `by` runs again on the newer
   * value: so it may run more than once, and must do nothing else. If it throws then, nothing of the visit is saved.
   *
   * @throws whatever `by` throws, Fault `not_json`, `too_late`
   */
  update<K extends keyof F & string>(field: K, by: (value: F[K] | undefined) => F[K]): void
  /**
   * Gives the session a new key: same fields, label and owner. The old key opens it until 30 seconds after the new one
   * was first used. Does not shut out a thief of the old key: only `login` does.
   */
  renew(): void
  /**
   * Names the owner of the session, at a login or at any change of rights: new key, new label; the old key is dead at
   * once. Fields come along only if `keep` names them, so that a stranger's leavings are not taken for an account's;
   * where the owner stays the same, all do.
   *
   * @throws Fault `bad_owner`, `too_late`
   */
  login(owner: string, options?: { readonly keep?: readonly (keyof F & string)[] }): void
  /** Ends the session; what is set afterwards begins another. Carried out even if the handler throws later. */
  invalidate(): void
}

const fieldName = (field: unknown): string => {
  if (field === FLASH) throw new Fault('bad_option', `A field cannot be called ${FLASH}: flash messages lie there.`)
  if (typeof field === 'string') return field
  throw new Fault('not_json', `The name of a field has to be a string, and is a ${typeof field}.`)
}

class Handle implements Session {
  readonly #visit: Visit

  constructor(visit: Visit) {
    this.#visit = visit
  }

  get label(): string {
    const { stored, turn } = this.#visit
    return stored !== undefined && turn === undefined ? stored.label : labelOf(freshKey(this.#visit))
  }

  get expiresAt(): number {
    const { stored, house, turn } = this.#visit
    const now = house.now()
    if (stored === undefined || turn !== undefined) return expiryOf(house, now, now)
    return due(this.#visit, stored, now) ? expiryOf(house, stored.head.bornAt, now) : stored.entry.expiresAt
  }

  get owner(): string | undefined {
    return this.#visit.owner
  }

  get fields(): AnyFields {
    const { fields } = this.#visit
    const copy = Object.create(null)
    for (const field of Object.keys(fields)) if (field !== FLASH) copy[field] = fieldOf(fields, field)
    return Object.freeze(copy)
  }

  get(field: string): unknown {
    return field === FLASH ? undefined : fieldOf(this.#visit.fields, field)
  }

  set(field: string, value: unknown): void {
    this.#change({ set: fieldName(field), value: frozen(value, field) })
  }

  drop(field: string): void {
    this.#change({ drop: fieldName(field) })
  }

  update(field: string, by: (value: unknown) => unknown): void {
    this.#change({ update: fieldName(field), by })
  }

  renew(): void {
    this.#open().renew = true
  }

  login(owner: string, { keep = [] }: { readonly keep?: readonly string[] } = {}): void {
    const visit = this.#open()
    if (
      typeof owner !== 'string' ||
      owner === '' ||
      owner.length > 255 ||
      !owner.isWellFormed() ||
      owner.includes('\0')
    ) {
      throw new Fault(
        'bad_owner',
        'An owner has to be a string of 1 to 255 characters: the name or number of an account.',
      )
    }
    if (visit.owner === owner) {
      visit.turn ??= 'same'
      return
    }
    this.#change({ keep })
    if (visit.turn !== 'invalidate') visit.turn = 'login'
    visit.owner = owner
  }

  invalidate(): void {
    const visit = this.#open()
    visit.turn = 'invalidate'
    visit.changes = []
    visit.fields = Object.freeze({})
    visit.draft = undefined
    visit.owner = undefined
    visit.renew = false
    visit.fresh = undefined
    visit.pre = undefined
    visit.preUnread = false
    visit.preChanged = false
  }

  #change(change: FieldChange): void {
    record(this.#open(), change)
  }

  #open(): Visit {
    if (this.#visit.barred !== undefined) throw this.#visit.barred
    if (!this.#visit.over) return this.#visit
    throw new Fault(
      'too_late',
      'The session was changed after its response had left. Change it before, or open a visit of its own with sessions.open().',
    )
  }
}

// What an inspector prints, and a name that says what it is.
Object.defineProperty(Handle, 'name', { value: 'Session' })

/** The handle on a visit's session. */
export const handle = <F extends object = AnyFields>(visit: Visit): Session<F> =>
  new Handle(visit) as unknown as Session<F>
