// The end of a visit: what it asked for is carried out, in the order that the model of this house was tested in.

import { type Awaitable, after } from '../error.ts'
import { FLASH } from './changes.ts'
import { begin, login } from './create.ts'
import { end } from './end.ts'
import { deliver } from './flash.ts'
import { preSession, preTokenOf, sealedPre } from './form-secret.ts'
import { confirms, type Head, OFFER, offered } from './metadata.ts'
import { seenAt } from './owned.ts'
import { newPreSession, type PreSession } from './pre-session.ts'
import { inTurn } from './queue.ts'
import { due, expiryOf, type Lost, save } from './save.ts'
import { alive, changing, endOf, type House, type Stored, settled, type Visit } from './work.ts'

/** What the client is to be told. Times are in milliseconds since 1970. */
export type Outcome = {
  /** Why nothing was saved. */
  readonly lost?: Lost | 'withheld'
  /** The key that the client holds from now on, and the absolute end of its session: undefined if it ends with the browser. */
  readonly session?: { readonly key: string; readonly until: number | undefined } | 'clear'
  /** The pre-session cookie's new value. */
  readonly preSession?: { readonly token: string; readonly until: number } | 'clear'
}

const nothing: Outcome = Object.freeze({})

/** What the client is told of its key. */
const keyOf = (house: House, key: string, head: Head): Outcome => ({
  session: { key, until: (head.persistent ?? house.persistent) ? endOf(house, head) : undefined },
})

/** A pre-session as it is sealed anew: the newest of those that the browser may hold. */
const preToken = (visit: Visit, pre: PreSession): Outcome => {
  const madeAt = visit.house.now()
  return { preSession: { token: sealedPre(visit, { ...pre, madeAt }), until: madeAt + visit.house.lifetime } }
}

/** What becomes of the pre-session cookie where a session begins: it goes, unless messages can travel nowhere else. */
const preAtBirth = (visit: Visit): Outcome => {
  const { house } = visit
  const flash = house.backend.stateless ? (preSession(visit)?.flash ?? []) : []
  visit.preChanged = false
  if (flash.length > 0) return preToken(visit, { ...newPreSession(house.now()), flash })
  return preTokenOf(visit) === undefined ? nothing : { preSession: 'clear' }
}

const begunWith = (visit: Visit, made: Stored): Outcome => {
  const pre = preAtBirth(visit)
  visit.stored = made
  return { ...keyOf(visit.house, made.key, made.head), ...pre }
}

/** Whether a visitor without a session did something that is to be kept; what a schema made of nothing is not. */
const begins = ({ fields, changes }: Visit): boolean => {
  if (changes.length > 0) for (const field in fields) if (field !== FLASH) return true
  return false
}

/** An offer that the visit is to pass on, unless it has grown so old that it could undo a newer renewal. */
const offer = (visit: Visit, { key, at, address, label }: Stored, head: Head): Awaitable<Outcome> => {
  const { house } = visit
  const next = offered(head, key)
  if (next === undefined || house.now() - at >= OFFER) return nothing
  const outcome = keyOf(house, next, head)
  if (house.backend.settle === undefined) return outcome
  // Where the store lost the renewal after all, the new key would open nothing. The old one stays good for another try.
  const wait = async () => settled(visit, address)
  return wait().then(
    () => outcome,
    (error) => {
      house.emit('store_error', { label, error })
      return nothing
    },
  )
}

const touch = async (visit: Visit, stored: Stored, now: number): Promise<Outcome> => {
  const { house } = visit
  const { address, head } = stored
  const held = await changing(visit, (backend) => backend.touch(address, expiryOf(house, head, now)))
  return held === undefined ? nothing : keyOf(house, held, head)
}

/** Whether the store has to be told that an owner's session was seen, because somebody asks for that to the minute. */
const unseen = (house: House, { entry, head }: Stored, now: number): boolean =>
  house.seenWithin !== undefined && head.label !== undefined && now - seenAt(house, entry, head) >= house.seenWithin

/** What a read may do: confirm an offer, say that it was seen, move the expiry, pass on an offer. Where it fails the visit goes on. */
const read = (visit: Visit, stored: Stored): Awaitable<Outcome> => {
  const { house } = visit
  const { key, head } = stored
  const now = house.now()
  const failed = (error: unknown): Outcome => {
    house.emit('store_error', { label: stored.label, error })
    return nothing
  }
  const passedOn = () => offer(visit, stored, head)
  const marked = () =>
    Promise.resolve(inTurn(visit, stored.address, async () => save(visit, stored))).then(passedOn, failed)
  if (confirms(head, key) || unseen(house, stored, now)) return marked()
  if (!due(visit, stored, now) || !alive(house, stored, now)) return passedOn()
  // A key on offer may never be taken up: the session lives on by the key before it.
  return touch(visit, stored, now).then((moved) => (moved.session ? moved : passedOn()), failed)
}

const write = (visit: Visit, first: Stored): Awaitable<Outcome> =>
  after(save(visit, first), (head) => {
    if (typeof head === 'string') {
      visit.house.emit(head, { label: first.label })
      return { lost: head }
    }
    const latest = visit.stored as Stored
    if (latest.key === first.key) return offer(visit, latest, head)
    return keyOf(visit.house, latest.key, head)
  })

/** A session that this visit began, told to whom it concerns. */
const begun = (visit: Visit, reason: 'born' | 'login', made: Stored | Lost): Outcome => {
  const { house, stored } = visit
  if (typeof made === 'string') {
    house.emit(made, stored && { label: stored.label })
    return { lost: made }
  }
  house.emit(reason, { label: made.label })
  return begunWith(visit, made)
}

const loggedIn = (visit: Visit): Awaitable<Outcome> => after(login(visit), (made) => begun(visit, 'login', made))

const firstWrite = (visit: Visit, form: string | undefined): Awaitable<Outcome> =>
  after(begin(visit, form), (made) => begun(visit, 'born', made))

/** The pre-session cookie that a visitor without a session gets: a new one, none, or the one that he has. */
const preCookie = (visit: Visit): Outcome => {
  const { pre, preChanged, preUnread, turn } = visit
  if (pre !== undefined && preChanged) return preToken(visit, pre)
  // What an invalidate leaves behind, and what does not open, has no use any more.
  const useless = !preUnread && (turn === 'invalidate' || pre === undefined) && preTokenOf(visit) !== undefined
  return useless ? { preSession: 'clear' } : nothing
}

const invalidated = async (visit: Visit): Promise<Outcome> => {
  const { house, stored } = visit
  await end(visit)
  visit.stored = undefined
  visit.barred = undefined
  if (visit.owner !== undefined) return loggedIn(visit)
  if (visit.endedBy !== undefined) {
    // The browser has a newer cookie by now, or none.
    if (visit.endedBy === 'end' && !begins(visit)) return nothing
    house.emit('ended', stored && { label: stored.label })
    return { lost: 'ended' }
  }
  if (begins(visit)) return firstWrite(visit, visit.pre?.form)
  return { ...preCookie(visit), ...(visit.presented && { session: 'clear' }) }
}

const stranger = (visit: Visit): Awaitable<Outcome> =>
  begins(visit) ? firstWrite(visit, preSession(visit)?.form) : preCookie(visit)

/**
 * What becomes of a request whose response must bring no cookie, because the browser may have a newer one, or one that it
 * did not send: it may ask for nothing that would have to be saved. Undefined for any other request.
 */
const withoutCookies = (visit: Visit): Awaitable<Outcome> | undefined => {
  const { house, stored, endedBy, withheld, turn, outbox, vanished } = visit
  if (stored !== undefined || (endedBy ?? withheld) === undefined) return undefined
  const saves = begins(visit) || outbox.length > 0
  if (withheld !== undefined) {
    if (!saves && turn === undefined) return withheld.navigates ? preCookie(visit) : nothing
    house.emit('cookie_withheld', { message: WITHHELD[withheld.by] })
    return { lost: 'withheld' }
  }
  // Whoever logs in has just proved who he is, and gets a session of his own.
  if (visit.owner !== undefined) return undefined
  if (saves || (turn === 'invalidate' && endedBy === 'login')) {
    house.emit('ended', vanished && { label: vanished.label })
    return { lost: 'ended' }
  }
  return turn === 'invalidate' ? end(visit).then(() => nothing) : nothing
}

const WITHHELD = {
  cross_site:
    'A page of another site sent a request that changes the session, and browsers send no session cookie with it. Nothing was saved. Answer such a request with a redirect to a page of your own that does the work.',
  path: 'A request outside of cookie.path changed the session, and browsers send no session cookie there. Nothing was saved. Move the page below cookie.path, or widen that.',
} as const

/**
 * Carries out what the visit asked for. Nothing can be changed afterwards.
 *
 * @throws Fault: then the client must not be told that anything was saved. A clearing cookie may still go out
 */
export const commit = (visit: Visit): Awaitable<Outcome> => {
  visit.over = true
  const { barred } = visit
  if (barred !== undefined && !barred.reads && visit.turn === undefined && visit.outbox.length > 0) throw barred.fault
  const unsaid = withoutCookies(visit)
  if (unsaid !== undefined) return unsaid
  deliver(visit, begins(visit))
  const outcome = committed(visit)
  const { stateless } = visit.house.backend
  if (!visit.preChanged || !stateless || visit.turn !== undefined || visit.stored === undefined) return outcome
  // A session in a cookie has its messages in another.
  const { pre } = visit
  const carried: Outcome = pre !== undefined && pre.flash.length > 0 ? preToken(visit, pre) : { preSession: 'clear' }
  return after(outcome, (told) => (told.lost || !visit.preChanged ? told : { ...told, ...carried }))
}

const committed = (visit: Visit): Awaitable<Outcome> => {
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
