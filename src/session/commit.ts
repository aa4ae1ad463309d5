// The end of a visit: what it asked for is carried out, in the order that the model of this house was tested in.

import { type Awaitable, chain } from '../error.ts'
import { FLASH } from './changes.ts'
import { createSession, login } from './create.ts'
import { end } from './end.ts'
import { storeMessages } from './flash.ts'
import { preSession, preSessionToken, sealOwnPreSession } from './form-secret.ts'
import { confirmsRotation, type Metadata, OFFER_MAX_AGE, offeredKey } from './metadata.ts'
import { lastSeenAt } from './owned.ts'
import { newPreSession, type PreSession } from './pre-session.ts'
import { serialize } from './queue.ts'
import { expiryDue, expiryOf, type WriteFailure, save } from './save.ts'
import { isAlive, callWrite, absoluteEndOf, type ManagerContext, type Snapshot, ensureDurable, type UnitOfWork } from './work.ts'

/** What the client is to be told. Times are in milliseconds since 1970. */
export type CommitOutcome = {
  /** Why nothing was saved. */
  readonly lost?: WriteFailure | 'withheld'
  /** The key that the client holds from now on, and the absolute end of its session: undefined if it ends with the browser. */
  readonly session?: { readonly key: string; readonly until: number | undefined } | 'clear'
  /** The pre-session cookie's new value. */
  readonly preSession?: { readonly token: string; readonly until: number } | 'clear'
}

const NO_COOKIES: CommitOutcome = Object.freeze({})

/** What the client is told of its key. */
const sessionCookie = (house: ManagerContext, key: string, head: Metadata): CommitOutcome => ({
  session: { key, until: (head.persistent ?? house.persistent) ? absoluteEndOf(house, head) : undefined },
})

/** A pre-session as it is sealed anew: the newest of those that the browser may hold. */
const preSessionCookie = (visit: UnitOfWork, pre: PreSession): CommitOutcome => {
  const madeAt = visit.house.now()
  return { preSession: { token: sealOwnPreSession(visit, { ...pre, madeAt }), until: madeAt + visit.house.lifetime } }
}

/** What becomes of the pre-session cookie where a session begins: it goes, unless messages can travel nowhere else. */
const preSessionAtCreation = (visit: UnitOfWork): CommitOutcome => {
  const { house } = visit
  const flash = house.backend.stateless ? (preSession(visit)?.flash ?? []) : []
  visit.preChanged = false
  if (flash.length > 0) return preSessionCookie(visit, { ...newPreSession(house.now()), flash })
  return preSessionToken(visit) === undefined ? NO_COOKIES : { preSession: 'clear' }
}

const adoptCreated = (visit: UnitOfWork, made: Snapshot): CommitOutcome => {
  const pre = preSessionAtCreation(visit)
  visit.stored = made
  return { ...sessionCookie(visit.house, made.key, made.head), ...pre }
}

/** Whether a visitor without a session did something that is to be kept; what a schema made of nothing is not. */
const createsSession = ({ fields, changes }: UnitOfWork): boolean => {
  if (changes.length > 0) for (const field in fields) if (field !== FLASH) return true
  return false
}

/** An offer that the visit is to pass on, unless it has grown so old that it could undo a newer renewal. */
const offerRotatedKey = (visit: UnitOfWork, { key, at, address, label }: Snapshot, head: Metadata): Awaitable<CommitOutcome> => {
  const { house } = visit
  const next = offeredKey(head, key)
  if (next === undefined || house.now() - at >= OFFER_MAX_AGE) return NO_COOKIES
  const outcome = sessionCookie(house, next, head)
  if (house.backend.settle === undefined) return outcome
  // Where the store lost the renewal after all, the new key would open nothing. The old one stays good for another try.
  const wait = async () => ensureDurable(visit, address)
  return wait().then(
    () => outcome,
    (error) => {
      house.emit('store_error', { label, error })
      return NO_COOKIES
    },
  )
}

const extend = async (visit: UnitOfWork, stored: Snapshot, now: number): Promise<CommitOutcome> => {
  const { house } = visit
  const { address, head } = stored
  const held = await callWrite(visit, (backend) => backend.touch(address, expiryOf(house, head, now)))
  return held === undefined ? NO_COOKIES : sessionCookie(house, held, head)
}

/** Whether the store has to be told that an owner's session was seen, because somebody asks for that to the minute. */
const lastSeenDue = (house: ManagerContext, { entry, head }: Snapshot, now: number): boolean =>
  house.seenWithin !== undefined && head.label !== undefined && now - lastSeenAt(house, entry, head) >= house.seenWithin

/** What a read may do: confirm an offer, say that it was seen, move the expiry, pass on an offer. Where it fails the visit goes on. */
const commitRead = (visit: UnitOfWork, stored: Snapshot): Awaitable<CommitOutcome> => {
  const { house } = visit
  const { key, head } = stored
  const now = house.now()
  const failed = (error: unknown): CommitOutcome => {
    house.emit('store_error', { label: stored.label, error })
    return NO_COOKIES
  }
  const passedOn = () => offerRotatedKey(visit, stored, head)
  const marked = () =>
    Promise.resolve(serialize(visit, stored.address, async () => save(visit, stored))).then(passedOn, failed)
  if (confirmsRotation(head, key) || lastSeenDue(house, stored, now)) return marked()
  if (!expiryDue(visit, stored, now) || !isAlive(house, stored, now)) return passedOn()
  // A key on offer may never be taken up: the session lives on by the key before it.
  return extend(visit, stored, now).then((moved) => (moved.session ? moved : passedOn()), failed)
}

const commitWrite = (visit: UnitOfWork, first: Snapshot): Awaitable<CommitOutcome> =>
  chain(save(visit, first), (head) => {
    if (typeof head === 'string') {
      visit.house.emit(head, { label: first.label })
      return { lost: head }
    }
    const latest = visit.stored as Snapshot
    if (latest.key === first.key) return offerRotatedKey(visit, latest, head)
    return sessionCookie(visit.house, latest.key, head)
  })

/** A session that this visit began, told to whom it concerns. */
const announce = (visit: UnitOfWork, reason: 'born' | 'login', made: Snapshot | WriteFailure): CommitOutcome => {
  const { house, stored } = visit
  if (typeof made === 'string') {
    house.emit(made, stored && { label: stored.label })
    return { lost: made }
  }
  house.emit(reason, { label: made.label })
  return adoptCreated(visit, made)
}

const commitLogin = (visit: UnitOfWork): Awaitable<CommitOutcome> => chain(login(visit), (made) => announce(visit, 'login', made))

const commitFirstWrite = (visit: UnitOfWork, form: string | undefined): Awaitable<CommitOutcome> =>
  chain(createSession(visit, form), (made) => announce(visit, 'born', made))

/** The pre-session cookie that a visitor without a session gets: a new one, none, or the one that he has. */
const anonymousPreSession = (visit: UnitOfWork): CommitOutcome => {
  const { pre, preChanged, preUnread, turn } = visit
  if (pre !== undefined && preChanged) return preSessionCookie(visit, pre)
  // What an invalidate leaves behind, and what does not open, has no use any more.
  const useless = !preUnread && (turn === 'invalidate' || pre === undefined) && preSessionToken(visit) !== undefined
  return useless ? { preSession: 'clear' } : NO_COOKIES
}

const commitInvalidate = async (visit: UnitOfWork): Promise<CommitOutcome> => {
  const { house, stored } = visit
  await end(visit)
  visit.stored = undefined
  visit.barred = undefined
  if (visit.owner !== undefined) return commitLogin(visit)
  if (visit.endedBy !== undefined) {
    // The browser has a newer cookie by now, or none.
    if (visit.endedBy === 'end' && !createsSession(visit)) return NO_COOKIES
    house.emit('ended', stored && { label: stored.label })
    return { lost: 'ended' }
  }
  if (createsSession(visit)) return commitFirstWrite(visit, visit.pre?.form)
  return { ...anonymousPreSession(visit), ...(visit.presented && { session: 'clear' }) }
}

const commitAnonymous = (visit: UnitOfWork): Awaitable<CommitOutcome> =>
  createsSession(visit) ? commitFirstWrite(visit, preSession(visit)?.form) : anonymousPreSession(visit)

/**
 * What becomes of a request whose response must bring no cookie, because the browser may have a newer one, or one that it
 * did not send: it may ask for nothing that would have to be saved. Undefined for any other request.
 */
const commitWithoutCookies = (visit: UnitOfWork): Awaitable<CommitOutcome> | undefined => {
  const { house, stored, endedBy, withheld, turn, outbox, vanished } = visit
  if (stored !== undefined || (endedBy ?? withheld) === undefined) return undefined
  const saves = createsSession(visit) || outbox.length > 0
  if (withheld !== undefined) {
    if (!saves && turn === undefined) return withheld.navigates ? anonymousPreSession(visit) : NO_COOKIES
    house.emit('cookie_withheld', { message: WITHHELD[withheld.by] })
    return { lost: 'withheld' }
  }
  // Whoever logs in has just proved who he is, and gets a session of his own.
  if (visit.owner !== undefined) return undefined
  if (saves || (turn === 'invalidate' && endedBy === 'login')) {
    house.emit('ended', vanished && { label: vanished.label })
    return { lost: 'ended' }
  }
  return turn === 'invalidate' ? end(visit).then(() => NO_COOKIES) : NO_COOKIES
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
export const commit = (visit: UnitOfWork): Awaitable<CommitOutcome> => {
  visit.over = true
  const { barred } = visit
  if (barred !== undefined && !barred.reads && visit.turn === undefined && visit.outbox.length > 0) throw barred.fault
  const unsaid = commitWithoutCookies(visit)
  if (unsaid !== undefined) return unsaid
  storeMessages(visit, createsSession(visit))
  const outcome = dispatch(visit)
  const { stateless } = visit.house.backend
  if (!visit.preChanged || !stateless || visit.turn !== undefined || visit.stored === undefined) return outcome
  // A session in a cookie has its messages in another.
  const { pre } = visit
  const carried: CommitOutcome = pre !== undefined && pre.flash.length > 0 ? preSessionCookie(visit, pre) : { preSession: 'clear' }
  return chain(outcome, (told) => (told.lost || !visit.preChanged ? told : { ...told, ...carried }))
}

const dispatch = (visit: UnitOfWork): Awaitable<CommitOutcome> => {
  const { stored, turn, house } = visit
  if (stored === undefined)
    return turn === undefined ? commitAnonymous(visit) : turn === 'invalidate' ? commitInvalidate(visit) : commitLogin(visit)
  const writes = visit.changes.length > 0 || visit.renew
  if (turn === undefined && !writes) return commitRead(visit, stored)
  const job = (): Awaitable<CommitOutcome> => {
    if (turn === 'invalidate') return commitInvalidate(visit)
    return turn === undefined ? commitWrite(visit, stored) : commitLogin(visit)
  }
  return house.backend.stateless ? job() : serialize(visit, stored.address, job)
}
