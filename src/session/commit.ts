// The commit of a request: saves its changes in the order of writes that test/model checks.

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
import {
  type CommitOutcome,
  callWrite,
  ensureDurable,
  extendsSession,
  heldIn,
  namesOf,
  type Snapshot,
  type UnitOfWork,
} from './work.ts'

const NO_COOKIES: CommitOutcome = Object.freeze({})

const sessionCookie = (context: ManagerContext, key: string, metadata: Metadata): CommitOutcome => ({
  session: { key, until: (metadata.persistent ?? context.persistent) ? absoluteEndOf(context, metadata) : undefined },
})

/** A pre-session sealed again, which makes it the newest of those that the browser may have. */
const preSessionCookie = (work: UnitOfWork, pre: PreSession): CommitOutcome => {
  const madeAt = work.context.now()
  return {
    preSession: { token: sealOwnPreSession(work, { ...pre, madeAt }), until: madeAt + work.context.idleTimeout },
  }
}

/** The pre-session cookie of a request that creates a session: cleared, unless flash messages have no other place. */
const preSessionAtCreation = (work: UnitOfWork): CommitOutcome => {
  const { context } = work
  const flash = context.backend.stateless ? (preSession(work)?.flash ?? []) : []
  work.preSessionChanged = false
  if (flash.length > 0) return preSessionCookie(work, { ...newPreSession(context.now()), flash })
  return preSessionToken(work) === undefined ? NO_COOKIES : { preSession: 'clear' }
}

const adoptCreated = (work: UnitOfWork, created: Snapshot): CommitOutcome => {
  const preSessionChange = preSessionAtCreation(work)
  work.snapshot = created
  const cookie = sessionCookie(work.context, created.key, created.metadata)
  return preSessionChange === NO_COOKIES ? cookie : { ...cookie, ...preSessionChange }
}

/** Whether an anonymous request changed any field, or added a message that must be stored. Schema defaults do not count. */
const createsSession = ({ fields, changes, storesFlash, flashAdded, context }: UnitOfWork): boolean => {
  if (storesFlash && flashAdded.length > 0 && context.backend.stateless !== true) return true
  if (changes.length > 0) for (const field in fields) if (field !== FLASH) return true
  return false
}

/** Sends the offered key, unless the offer has become so old that it could undo a newer rotation. */
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
  // If a failover lost the rotation, the new key would open nothing. Without the offer the old key stays valid.
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
  const answer = await callWrite(work, 'touch', (backend) =>
    backend.touch(storageKey, expiryOf(context, metadata, now)),
  )
  const held = heldIn(context, answer)
  return held === undefined ? NO_COOKIES : sessionCookie(context, held, metadata)
}

/** Whether the time of the last request must be written, because the option `lastSeenInterval` asks for that precision. */
const lastSeenDue = (context: ManagerContext, { entry, metadata }: Snapshot, now: number): boolean =>
  context.lastSeenInterval !== undefined &&
  metadata.label !== undefined &&
  now - lastSeenAt(context, entry, metadata) >= context.lastSeenInterval

/**
 * The commit of a request that changed nothing. It may confirm a rotation, and send an offered key. If the request extends
 * the session, it may also write `lastSeenAt` and move the expiry. If one of these fails, the failure is an event, and the request succeeds.
 */
const commitRead = (work: UnitOfWork, snapshot: Snapshot): Awaitable<CommitOutcome> => {
  const { context } = work
  const { key, metadata } = snapshot
  const now = context.now()
  const onError = (error: unknown): CommitOutcome => {
    context.emit('store_error', { label: snapshot.label, error })
    return NO_COOKIES
  }
  const offer = () => offerRotatedKey(work, snapshot, metadata)
  if (confirmsRotation(metadata, key) || (lastSeenDue(context, snapshot, now) && extendsSession(work))) {
    return Promise.resolve(serialize(work, snapshot.storageKey, async () => save(work, snapshot))).then(offer, onError)
  }
  if (!expiryDue(context, snapshot, now) || !extendsSession(work) || !isAlive(context, snapshot, now)) return offer()
  // Also while a key is offered: the browser may never use the new key, and then the previous one keeps the session alive.
  return extend(work, snapshot, now).then((extended) => (extended.session ? extended : offer()), onError)
}

/** Reports that nothing was saved, and why. */
const notSaved = (
  { context }: UnitOfWork,
  failure: WriteFailure,
  session: UnitOfWork['snapshot'] | UnitOfWork['missing'],
): CommitOutcome => {
  context.emit(failure === 'ended' ? 'write_after_end' : 'write_conflict', session && namesOf(context, session))
  return { failure }
}

const commitWrite = (work: UnitOfWork, first: Snapshot): Awaitable<CommitOutcome> =>
  chain(save(work, first), (metadata) => {
    if (typeof metadata === 'string') return notSaved(work, metadata, first)
    const latest = work.snapshot as Snapshot
    if (latest.key === first.key) return offerRotatedKey(work, latest, metadata)
    return sessionCookie(work.context, latest.key, metadata)
  })

/** Emits the event of a session that this request created, and sets its cookie. */
const announce = (
  work: UnitOfWork,
  type: 'created' | 'login',
  created: Snapshot | WriteFailure,
  previousLabel?: string,
): CommitOutcome => {
  const { context, snapshot } = work
  if (typeof created === 'string') return notSaved(work, created, snapshot)
  const names = namesOf(context, created)
  context.emit(type, previousLabel === undefined ? names : { ...names, previousLabel })
  return adoptCreated(work, created)
}

const commitLogin = (work: UnitOfWork): Awaitable<CommitOutcome> => {
  const { snapshot, context } = work
  // A login does not replace an expired session, but ends it with an event of its own.
  const previous = snapshot !== undefined && isAlive(context, snapshot, context.now()) ? snapshot.label : undefined
  return chain(login(work), (created) => announce(work, 'login', created, previous))
}

const commitFirstWrite = (work: UnitOfWork, form: string | undefined): Awaitable<CommitOutcome> =>
  chain(createSession(work, form), (created) => announce(work, 'created', created))

/** The pre-session cookie of a visitor without a session: set again, cleared, or left as it is. */
const anonymousPreSession = (work: UnitOfWork): CommitOutcome => {
  const { preSession: pre, preSessionChanged, preSessionUnread, transition } = work
  if (pre !== undefined && preSessionChanged) return preSessionCookie(work, pre)
  // After an invalidate the cookie has no more use, and one that cannot be opened never had.
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
    // Another request ended it: the browser has a newer cookie by now, or none.
    if (work.endedBy === 'end' && !createsSession(work)) return NO_COOKIES
    return notSaved(work, 'ended', snapshot)
  }
  if (createsSession(work)) return commitFirstWrite(work, work.preSession?.form)
  return { ...anonymousPreSession(work), ...(work.hadCookie && { session: 'clear' }) }
}

const commitAnonymous = (work: UnitOfWork): Awaitable<CommitOutcome> =>
  createsSession(work) ? commitFirstWrite(work, preSession(work)?.form) : anonymousPreSession(work)

/**
 * The commit of a request whose response must set no session cookie: the browser may have a newer one, or one that it did
 * not send. Such a request can save nothing. Undefined for any other request.
 */
const commitWithoutCookies = (work: UnitOfWork): Awaitable<CommitOutcome> | undefined => {
  const { context, snapshot, endedBy, withheld, transition, flashAdded, missing } = work
  if (snapshot !== undefined || (endedBy ?? withheld) === undefined) return undefined
  const saves = createsSession(work) || flashAdded.length > 0
  if (withheld !== undefined) {
    if (!saves && transition === undefined) return withheld.navigates ? anonymousPreSession(work) : NO_COOKIES
    context.emit('cookie_withheld', { message: WITHHELD[withheld.by] })
    return { failure: 'withheld' }
  }
  // A login proves the account of the visitor, so it may replace any cookie.
  if (work.owner !== undefined) return undefined
  if (saves || (transition === 'invalidate' && endedBy === 'login')) return notSaved(work, 'ended', missing)
  return transition === 'invalidate' ? end(work).then(() => NO_COOKIES) : NO_COOKIES
}

const WITHHELD = {
  cross_site:
    'A page of another site sent a request that changes the session, and browsers send no session cookie with such a request. Nothing was saved. Answer it with a redirect to your own page, and make the change there.',
  path: 'A request outside of cookie.path changed the session, and browsers send no session cookie there. Nothing was saved. Move the page below cookie.path, or set a shorter cookie.path.',
} as const

/**
 * Commits the changes of a request. Nothing can be changed afterwards.
 *
 * @throws KeepsakeError if the changes may not be saved: the response must not confirm them. It may still clear a cookie
 */
export const commit = (work: UnitOfWork): Awaitable<CommitOutcome> => {
  work.committed = true
  if (work.saving !== undefined) return commitAfterSaves(work)
  return commitChanges(work)
}

/** The commit of a request that called `save`: it adds the cookies of the saves. */
const commitAfterSaves = async (work: UnitOfWork): Promise<CommitOutcome> => {
  await work.saving?.catch(() => {})
  const outcome = work.failure === undefined ? await commitChanges(work) : { failure: work.failure }
  return { ...work.saved, ...outcome }
}

/** Commits the changes of a request so far. @throws as `commit` */
export const commitChanges = (work: UnitOfWork): Awaitable<CommitOutcome> => {
  const { readOnly } = work
  if (readOnly !== undefined && !readOnly.reads && work.transition === undefined && work.flashAdded.length > 0)
    throw readOnly.error
  const withoutCookies = commitWithoutCookies(work)
  if (withoutCookies !== undefined) return withoutCookies
  storeMessages(work, createsSession(work))
  const outcome = dispatch(work)
  const { stateless } = work.context.backend
  if (!work.preSessionChanged || !stateless || work.transition !== undefined || work.snapshot === undefined)
    return outcome
  // If the session is a cookie, its messages are in the pre-session cookie.
  const { preSession: pre } = work
  const preSessionChange: CommitOutcome =
    pre !== undefined && pre.flash.length > 0 ? preSessionCookie(work, pre) : { preSession: 'clear' }
  return chain(outcome, (committed) =>
    committed.failure || !work.preSessionChanged ? committed : { ...committed, ...preSessionChange },
  )
}

/** Chooses the commit by the session of the request and by the calls of the handler. */
const dispatch = (work: UnitOfWork): Awaitable<CommitOutcome> => {
  const { snapshot, transition, context } = work
  if (snapshot === undefined) {
    if (transition === undefined) return commitAnonymous(work)
    return transition === 'invalidate' ? commitInvalidate(work) : commitLogin(work)
  }
  const writes = work.changes.length > 0 || work.rotate
  if (transition === undefined && !writes) return commitRead(work, snapshot)
  const job = (): Awaitable<CommitOutcome> => {
    if (transition === 'invalidate') return commitInvalidate(work)
    return transition === undefined ? commitWrite(work, snapshot) : commitLogin(work)
  }
  return context.backend.stateless ? job() : serialize(work, snapshot.storageKey, job)
}
