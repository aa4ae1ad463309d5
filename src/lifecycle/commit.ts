// The end of a visit: what it asked for is carried out, in the order that the model of this house was tested in.

import { confirms, type Head, OFFER, offered } from '../head.ts'
import { type Awaitable, after } from '../outcome.ts'
import { sealPreSession } from '../presession.ts'
import { begin, login } from './begin.ts'
import { end } from './end.ts'
import { preSession, preTokenOf } from './form.ts'
import { due, expiryOf, save } from './save.ts'
import { inTurn } from './turns.ts'
import { alive, changing, type Stored, type Visit } from './visit.ts'

/** What the client is to be told. Times are in milliseconds since 1970. */
export type Outcome = {
  /** Changes were not saved, because another ended the session meanwhile. */
  readonly ended?: true
  /** The key that the client holds from now on, and the absolute end of its session. */
  readonly session?: { readonly key: string; readonly until: number } | 'clear'
  /** The pre-session cookie's new value. */
  readonly preSession?: { readonly token: string; readonly until: number } | 'clear'
}

const nothing: Outcome = Object.freeze({})

const begunWith = (visit: Visit, made: Stored): Outcome => {
  visit.stored = made
  return {
    session: { key: made.key, until: made.head.bornAt + visit.house.absolute },
    ...(preTokenOf(visit) !== undefined && { preSession: 'clear' }),
  }
}

const hasFields = (visit: Visit): boolean => {
  for (const _ in visit.fields) return true
  return false
}

/** An offer that the visit is to pass on, unless it has grown so old that it could undo a newer renewal. */
const offer = (visit: Visit, { key, at }: Stored, head: Head): Outcome => {
  const next = offered(head, key)
  if (next === undefined || visit.house.now() - at >= OFFER) return nothing
  return { session: { key: next, until: head.bornAt + visit.house.absolute } }
}

const touch = async (visit: Visit, stored: Stored, now: number): Promise<Outcome> => {
  const { house } = visit
  const { address, head } = stored
  const held = await changing(visit, (backend) => backend.touch(address, expiryOf(house, head.bornAt, now)))
  return held === undefined ? nothing : { session: { key: held, until: head.bornAt + house.absolute } }
}

/** What a read may do: confirm an offer, move the expiry, pass on an offer. Where it fails the visit goes on. */
const read = (visit: Visit, stored: Stored): Awaitable<Outcome> => {
  const { house } = visit
  const { key, head } = stored
  const now = house.now()
  const failed = (error: unknown): Outcome => {
    house.emit('store_error', { label: stored.label, error })
    return nothing
  }
  const passedOn = () => offer(visit, stored, head)
  if (head.salt !== undefined) {
    if (!confirms(head, key)) return passedOn()
    return Promise.resolve(inTurn(visit, stored.address, async () => save(visit, stored))).then(passedOn, failed)
  }
  if (due(visit, stored, now) && alive(house, stored, now)) return touch(visit, stored, now).catch(failed)
  return nothing
}

const write = (visit: Visit, first: Stored): Awaitable<Outcome> =>
  after(save(visit, first), (head) => {
    if (head === 'ended') {
      visit.house.emit('ended', { label: first.label })
      return { ended: true }
    }
    const latest = visit.stored as Stored
    if (latest.key === first.key) return offer(visit, latest, head)
    return { session: { key: latest.key, until: head.bornAt + visit.house.absolute } }
  })

/** A session that this visit began, told to whom it concerns. */
const begun = (visit: Visit, reason: 'born' | 'login', made: Stored | 'ended'): Outcome => {
  const { house, stored } = visit
  if (made === 'ended') {
    house.emit('ended', stored && { label: stored.label })
    return { ended: true }
  }
  house.emit(reason, { label: made.label })
  return begunWith(visit, made)
}

const loggedIn = (visit: Visit): Awaitable<Outcome> => after(login(visit), (made) => begun(visit, 'login', made))

const firstWrite = (visit: Visit, form: string | undefined): Awaitable<Outcome> =>
  after(begin(visit, visit.fields, form), (made) => begun(visit, 'born', made))

/** The pre-session cookie that a visitor without a session gets: a new one, none, or the one that he has. */
const preCookie = (visit: Visit): Outcome => {
  const { pre, preChanged, preUnread, names, house, turn } = visit
  if (pre !== undefined && preChanged) {
    return {
      preSession: { token: sealPreSession(house.ring, names.preSession, pre), until: pre.madeAt + house.lifetime },
    }
  }
  // What an invalidate leaves behind, and what does not open, has no use any more.
  const useless = !preUnread && (turn === 'invalidate' || pre === undefined) && preTokenOf(visit) !== undefined
  return useless ? { preSession: 'clear' } : nothing
}

const invalidated = async (visit: Visit): Promise<Outcome> => {
  await end(visit)
  visit.stored = undefined
  if (visit.owner !== undefined) return loggedIn(visit)
  if (hasFields(visit)) return firstWrite(visit, visit.pre?.form)
  return { ...preCookie(visit), ...(visit.presented && { session: 'clear' }) }
}

const stranger = (visit: Visit): Awaitable<Outcome> =>
  hasFields(visit) ? firstWrite(visit, preSession(visit)?.form) : preCookie(visit)

/**
 * Carries out what the visit asked for. Nothing can be changed afterwards.
 *
 * @throws Fault: then the client must not be told that anything was saved. A clearing cookie may still go out
 */
export const commit = (visit: Visit): Awaitable<Outcome> => {
  visit.over = true
  const { stored, turn, house } = visit
  if (stored === undefined)
    return turn === undefined ? stranger(visit) : turn === 'invalidate' ? invalidated(visit) : loggedIn(visit)
  const writes = visit.changes.length > 0 || visit.renew
  if (turn === undefined && !writes) return read(visit, stored)
  const job = (): Awaitable<Outcome> => {
    if (turn === 'invalidate') return invalidated(visit)
    return turn === undefined ? write(visit, stored) : loggedIn(visit)
  }
  return house.backend.stateless ? job() : inTurn(visit, stored.address, job)
}
