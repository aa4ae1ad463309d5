// Commits the session of a request before its response leaves, or drops its changes, however the response is sent.

import { type Awaitable, isThenable, KeepsakeError } from './error.ts'
import type { Emit } from './events.ts'
import type { ErrorKind } from './http/error-response.ts'
import { openOnce, type RequestContext, type RequestLike, release } from './request-context.ts'
import { type ResponseCookie, responseCookies, setCookieHeaders } from './response.ts'
import { commit } from './session/commit.ts'
import { end } from './session/end.ts'
import { giveBackMessages, returnMessages } from './session/flash.ts'
import type { CommitOutcome, UnitOfWork } from './session/work.ts'

/** The result of a request: the cookies for its response, or the reason for another response in its place. */
export type RequestOutcome = {
  /** Undefined: everything is saved, and the response may be sent. */
  readonly failure: ErrorKind | undefined
  /** The error behind the failure, if there is one. */
  readonly error?: KeepsakeError
  /** Set-Cookie values. They belong to the other response too. */
  readonly cookies: readonly string[]
  /** The same cookies as objects, for frameworks that set cookies by name. */
  readonly cookieObjects: () => readonly ResponseCookie[]
  /** The response contains something of this visitor alone, so no shared cache may keep it. */
  readonly privateResponse: boolean
  readonly emit: Emit
}

const cookiesOf = (outcome: CommitOutcome, work: UnitOfWork): Pick<RequestOutcome, 'cookies' | 'cookieObjects'> => ({
  cookies: setCookieHeaders(outcome, work),
  cookieObjects: () => responseCookies(outcome, work),
})

const noCookies: ReturnType<typeof cookiesOf> = { cookies: [], cookieObjects: () => [] }

/** The cookies that leave with a failure: a logout clears the browser's cookie although the store failed. */
const clearing = (work: UnitOfWork): ReturnType<typeof cookiesOf> => {
  const { transition, hadCookie, unusable } = work
  const ends = transition === 'invalidate' || (transition !== undefined && unusable.some(({ proven }) => !proven))
  if (ends && hadCookie) return cookiesOf({ ...work.saved, session: 'clear' }, work)
  return work.saved === undefined ? noCookies : cookiesOf(work.saved, work)
}

/** The Set-Cookie values that leave with a failure. */
export const clearingCookies = (work: UnitOfWork): readonly string[] => clearing(work).cookies

const kindOf = ({ status }: KeepsakeError): ErrorKind => (status === 503 ? 'unavailable' : 'not_saved')

/** Whether a request used its session, or added a flash message. */
export const usesSession = ({ session, flashAdded }: RequestContext): boolean =>
  session !== undefined || flashAdded.length > 0

const failed = async (work: UnitOfWork, error: unknown): Promise<RequestOutcome> => {
  const { emit } = work.context
  if (error instanceof KeepsakeError) {
    emit('store_error', { error })
    await giveBackMessages(work)
    return { failure: kindOf(error), error, ...clearing(work), privateResponse: false, emit }
  }
  await giveBackMessages(work)
  throw error
}

const committed = (work: UnitOfWork, outcome: CommitOutcome): Awaitable<RequestOutcome> => {
  const cookies = setCookieHeaders(outcome, work)
  const cookieObjects = () => responseCookies(outcome, work)
  const { emit } = work.context
  const { failure } = outcome
  if (failure === undefined) return { failure, cookies, cookieObjects, privateResponse: work.privateResponse, emit }
  return giveBackMessages(work).then(() => ({ failure, cookies, cookieObjects, privateResponse: false, emit }))
}

/** @throws every error that is no KeepsakeError, always as a rejected promise */
const commitWork = (work: UnitOfWork, status: number): Awaitable<RequestOutcome> => {
  const onCommit = (outcome: CommitOutcome) => committed(work, outcome)
  const onError = (error: unknown) => failed(work, error)
  try {
    // After a 304 the browser shows the page that it has, so the messages wait for the next page.
    const notShown = status === 304 && work.flashTaken.length > 0
    const outcome = notShown ? returnMessages(work).then(() => commit(work)) : commit(work)
    return isThenable(outcome) ? outcome.then(onCommit, onError) : onCommit(outcome)
  } catch (error) {
    return onError(error)
  }
}

/** Opens the session of a request that added a flash message and did not wait for its session, and commits it. */
const openAndCommit = async (requestContext: RequestContext, status: number): Promise<RequestOutcome | undefined> => {
  const { flashAdded, manager } = requestContext
  try {
    await openOnce(requestContext)
  } catch (error) {
    // Without a message the handler's response is sent: it did not wait for the session, or it caught this error.
    if (flashAdded.length === 0) return undefined
    if (!(error instanceof KeepsakeError)) throw error
    manager.emit('store_error', { error })
    return { failure: kindOf(error), error, ...noCookies, privateResponse: false, emit: manager.emit }
  }
  const work = requestContext.work as UnitOfWork
  work.flashAdded = flashAdded
  return commitWork(work, status)
}

/**
 * Commits the session of a request. The caller adds the result to the response and then sends it, or sends another
 * response. Undefined if there is nothing to add. If the backend is synchronous, so is the result.
 *
 * @param target the object that `attach` attached
 * @param status the HTTP status of the response
 * @throws every error that is no KeepsakeError, such as one of an `update`; always as a rejected promise
 */
export const commitRequest = (
  target: RequestLike,
  requestContext: RequestContext,
  status: number,
): Awaitable<RequestOutcome | undefined> => {
  requestContext.answered = true
  if (!usesSession(requestContext)) {
    release(target, requestContext)
    return undefined
  }
  const { work } = requestContext
  if (work !== undefined) work.flashAdded = requestContext.flashAdded
  const outcome = work === undefined ? openAndCommit(requestContext, status) : commitWork(work, status)
  if (isThenable(outcome)) return outcome.finally(() => release(target, requestContext))
  release(target, requestContext)
  return outcome
}

/**
 * Drops the changes of a request whose handler threw an error. An `invalidate` ends the session all the same.
 *
 * @returns the failure `unavailable` if the error is a KeepsakeError with the status 503, otherwise undefined. Never rejects
 */
export const abandonRequest = async (
  target: RequestLike,
  requestContext: RequestContext,
  error: unknown,
): Promise<RequestOutcome | undefined> => {
  requestContext.answered = true
  await requestContext.session?.catch(() => {})
  const { work } = requestContext
  const { emit } = work?.context ?? requestContext.manager
  try {
    if (work !== undefined) {
      work.committed = true
      if (work.transition === 'invalidate') await end(work)
      else await giveBackMessages(work)
    }
  } catch (failure) {
    emit('store_error', { error: failure })
  }
  release(target, requestContext)
  if (!(error instanceof KeepsakeError) || error.status !== 503) return undefined
  emit('store_error', { error })
  const cookies = work === undefined ? noCookies : clearing(work)
  return { failure: 'unavailable', error, ...cookies, privateResponse: false, emit }
}
