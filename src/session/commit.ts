// The end of a visit: what it asked for is carried out, in the order that the model of this house was tested in.

import { type Awaitable, chain } from '../error.ts'
import { FLASH } from './changes.ts'
import type { ManagerContext } from './context.ts'
import { createSession } from './create.ts'
import { end } from './end.ts'
import { absoluteEndOf, expiryDue, expiryOf, isAlive } from './expiry.ts'
import { storeMessages } from './flash.ts'
import { preSession, preSessionToken, sealOwnPreSession } from './form-secret.ts'
import { login } from './login.ts'
import { confirmsRotation, type Metadata, OFFER_MAX_AGE, offeredKey } from './metadata.ts'
import { lastSeenAt } from './owned.ts'
import { newPreSession, type PreSession } from './pre-session.ts'
import { serialize } from './queue.ts'
import { save, type WriteFailure } from './save.ts'
import { callWrite, ensureDurable, heldIn, type Snapshot, type UnitOfWork } from './work.ts'

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
const sessionCookie = (context: ManagerContext, key: string, metadata: Metadata): CommitOutcome => ({
  session: { key, until: (metadata.persistent ?? context.persistent) ? absoluteEndOf(context, metadata) : undefined },
})

/** A pre-session as it is sealed anew: the newest of those that the browser may hold. */
const preSessionCookie = (work: UnitOfWork, pre: PreSession): CommitOutcome => {
  const madeAt = work.context.now()
  return {
    preSession: { token: sealOwnPreSession(work, { ...pre, madeAt }), until: madeAt + work.context.idleTimeout },
  }
}

/** What becomes of the pre-session cookie where a session begins: it goes, unless messages can travel nowhere else. */
const preSessionAtCreation = (work: UnitOfWork): CommitOutcome => {
  const { context } = work
  const flash = context.backend.stateless ? (preSession(work)?.flash ?? []) : []
  work.preSessionChanged = false
  if (flash.length > 0) return preSessionCookie(work, { ...newPreSession(context.now()), flash })
  return preSessionToken(work) === undefined ? NO_COOKIES : { preSession: 'clear' }
}

const adoptCreated = (work: UnitOfWork, made: Snapshot): CommitOutcome => {
  const pre = preSessionAtCreation(work)
  work.snapshot = made
  return { ...sessionCookie(work.context, made.key, made.metadata), ...pre }
}

/** Whether a visitor without a session did something that is to be kept; what a schema made of nothing is not. */
const createsSession = ({ fields, changes }: UnitOfWork): boolean => {
  if (changes.length > 0) for (const field in fields) if (field !== FLASH) return true
  return false
}

/** An offer that the visit is to pass on, unless it has grown so old that it could undo a newer renewal. */
const offerRotatedKey = (
  work: UnitOfWork,
  { key, at, storageKey, label }: Snapshot,
  metadata: Metadata,
): Awaitable<CommitOutcome> => {
  const { context } = work
  const next = offeredKey(metadata, key)
  if (next === undefined || context.now() - at >= OFFER_MAX_AGE) return NO_COOKIES
  const outcome = sessionCookie(context, next, metadata)
  if (context.backend.ensureDurable === undefined) return outcome
  // Where the store lost the renewal after all, the new key would open nothing. The old one stays good for another try.
  const wait = async () => ensureDurable(work, storageKey)
  return wait().then(
    () => outcome,
    (error) => {
      context.emit('store_error', { label, error })
      return NO_COOKIES
    },
  )
}

const extend = async (work: UnitOfWork, snapshot: Snapshot, now: number): Promise<CommitOutcome> => {
  const { context } = work
  const { storageKey, metadata } = snapshot
  const answer = await callWrite(work, (backend) => backend.touch(storageKey, expiryOf(context, metadata, now)))
  const held = heldIn(context, answer)
  return held === undefined ? NO_COOKIES : sessionCookie(context, held, metadata)
}

/** Whether the store has to be told that an owner's session was seen, because somebody asks for that to the minute. */
const lastSeenDue = (context: ManagerContext, { entry, metadata }: Snapshot, now: number): boolean =>
  context.lastSeenInterval !== undefined &&
  metadata.label !== undefined &&
  now - lastSeenAt(context, entry, metadata) >= context.lastSeenInterval

/** What a read may do: confirm an offer, say that it was seen, move the expiry, pass on an offer. Where it fails the visit goes on. */
const commitRead = (work: UnitOfWork, snapshot: Snapshot): Awaitable<CommitOutcome> => {
  const { context } = work
  const { key, metadata } = snapshot
  const now = context.now()
  const failed = (error: unknown): CommitOutcome => {
    context.emit('store_error', { label: snapshot.label, error })
    return NO_COOKIES
  }
  const passedOn = () => offerRotatedKey(work, snapshot, metadata)
  const marked = () =>
    Promise.resolve(serialize(work, snapshot.storageKey, async () => save(work, snapshot))).then(passedOn, failed)
  if (confirmsRotation(metadata, key) || lastSeenDue(context, snapshot, now)) return marked()
  if (!expiryDue(context, snapshot, now) || !isAlive(context, snapshot, now)) return passedOn()
  // A key on offer may never be taken up: the session lives on by the key before it.
  return extend(work, snapshot, now).then((moved) => (moved.session ? moved : passedOn()), failed)
}

/** Reports that nothing was saved, and why. */
const notSaved = ({ context }: UnitOfWork, lost: WriteFailure, label: string | undefined): CommitOutcome => {
  context.emit(lost === 'ended' ? 'write_after_end' : 'write_conflict', label === undefined ? {} : { label })
  return { lost }
}

const commitWrite = (work: UnitOfWork, first: Snapshot): Awaitable<CommitOutcome> =>
  chain(save(work, first), (metadata) => {
    if (typeof metadata === 'string') return notSaved(work, metadata, first.label)
    const latest = work.snapshot as Snapshot
    if (latest.key === first.key) return offerRotatedKey(work, latest, metadata)
    return sessionCookie(work.context, latest.key, metadata)
  })

/** A session that this visit began, told to whom it concerns. */
const announce = (work: UnitOfWork, type: 'created' | 'login', made: Snapshot | WriteFailure): CommitOutcome => {
  const { context, snapshot } = work
  if (typeof made === 'string') return notSaved(work, made, snapshot?.label)
  context.emit(type, { label: made.label })
  return adoptCreated(work, made)
}

const commitLogin = (work: UnitOfWork): Awaitable<CommitOutcome> =>
  chain(login(work), (made) => announce(work, 'login', made))

const commitFirstWrite = (work: UnitOfWork, form: string | undefined): Awaitable<CommitOutcome> =>
  chain(createSession(work, form), (made) => announce(work, 'created', made))

/** The pre-session cookie that a visitor without a session gets: a new one, none, or the one that he has. */
const anonymousPreSession = (work: UnitOfWork): CommitOutcome => {
  const { preSession: pre, preSessionChanged, preSessionUnread, transition } = work
  if (pre !== undefined && preSessionChanged) return preSessionCookie(work, pre)
  // What an invalidate leaves behind, and what does not open, has no use any more.
  const useless =
    !preSessionUnread && (transition === 'invalidate' || pre === undefined) && preSessionToken(work) !== undefined
  return useless ? { preSession: 'clear' } : NO_COOKIES
}

const commitInvalidate = async (work: UnitOfWork): Promise<CommitOutcome> => {
  const { snapshot } = work
  await end(work)
  work.snapshot = undefined
  work.readOnly = undefined
  if (work.owner !== undefined) return commitLogin(work)
  if (work.endedBy !== undefined) {
    // The browser has a newer cookie by now, or none.
    if (work.endedBy === 'end' && !createsSession(work)) return NO_COOKIES
    return notSaved(work, 'ended', snapshot?.label)
  }
  if (createsSession(work)) return commitFirstWrite(work, work.preSession?.form)
  return { ...anonymousPreSession(work), ...(work.hadCookie && { session: 'clear' }) }
}

const commitAnonymous = (work: UnitOfWork): Awaitable<CommitOutcome> =>
  createsSession(work) ? commitFirstWrite(work, preSession(work)?.form) : anonymousPreSession(work)

/**
 * What becomes of a request whose response must bring no cookie, because the browser may have a newer one, or one that it
 * did not send: it may ask for nothing that would have to be saved. Undefined for any other request.
 */
const commitWithoutCookies = (work: UnitOfWork): Awaitable<CommitOutcome> | undefined => {
  const { context, snapshot, endedBy, withheld, transition, flashAdded, missing } = work
  if (snapshot !== undefined || (endedBy ?? withheld) === undefined) return undefined
  const saves = createsSession(work) || flashAdded.length > 0
  if (withheld !== undefined) {
    if (!saves && transition === undefined) return withheld.navigates ? anonymousPreSession(work) : NO_COOKIES
    context.emit('cookie_withheld', { message: WITHHELD[withheld.by] })
    return { lost: 'withheld' }
  }
  // Whoever logs in has just proved who he is, and gets a session of his own.
  if (work.owner !== undefined) return undefined
  if (saves || (transition === 'invalidate' && endedBy === 'login')) return notSaved(work, 'ended', missing?.label)
  return transition === 'invalidate' ? end(work).then(() => NO_COOKIES) : NO_COOKIES
}

const WITHHELD = {
  cross_site:
    'A page of another site sent a request that changes the session, and browsers send no session cookie with it. Nothing was saved. Answer such a request with a redirect to a page of your own that does the work.',
  path: 'A request outside of cookie.path changed the session, and browsers send no session cookie there. Nothing was saved. Move the page below cookie.path, or widen that.',
} as const

/**
 * Carries out what the visit asked for. Nothing can be changed afterwards.
 *
 * @throws KeepsakeError: then the client must not be told that anything was saved. A clearing cookie may still go out
 */
export const commit = (work: UnitOfWork): Awaitable<CommitOutcome> => {
  work.committed = true
  const { readOnly } = work
  if (readOnly !== undefined && !readOnly.reads && work.transition === undefined && work.flashAdded.length > 0)
    throw readOnly.error
  const unsaid = commitWithoutCookies(work)
  if (unsaid !== undefined) return unsaid
  storeMessages(work, createsSession(work))
  const outcome = dispatch(work)
  const { stateless } = work.context.backend
  if (!work.preSessionChanged || !stateless || work.transition !== undefined || work.snapshot === undefined)
    return outcome
  // A session in a cookie has its messages in another.
  const { preSession: pre } = work
  const carried: CommitOutcome =
    pre !== undefined && pre.flash.length > 0 ? preSessionCookie(work, pre) : { preSession: 'clear' }
  return chain(outcome, (told) => (told.lost || !work.preSessionChanged ? told : { ...told, ...carried }))
}

const dispatch = (work: UnitOfWork): Awaitable<CommitOutcome> => {
  const { snapshot, transition, context } = work
  if (snapshot === undefined)
    return transition === undefined
      ? commitAnonymous(work)
      : transition === 'invalidate'
        ? commitInvalidate(work)
        : commitLogin(work)
  const writes = work.changes.length > 0 || work.rotate
  if (transition === undefined && !writes) return commitRead(work, snapshot)
  const job = (): Awaitable<CommitOutcome> => {
    if (transition === 'invalidate') return commitInvalidate(work)
    return transition === undefined ? commitWrite(work, snapshot) : commitLogin(work)
  }
  return context.backend.stateless ? job() : serialize(work, snapshot.storageKey, job)
}
