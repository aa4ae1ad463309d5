// The form secret: form tokens are bound to the visitor's session or, for an anonymous visitor, to their pre-session.

import { labelOf } from '../crypto/keys.ts'
import { cookieValues } from '../http/cookie.ts'
import type { Planter } from '../http/cookie-names.ts'
import { type Source, sourceOf } from '../http/origin.ts'
import { reserveKey } from './create.ts'
import { newPreSession, openPreSession, type PreSession, sealPreSession } from './pre-session.ts'
import type { UnitOfWork } from './work.ts'

/** The value of the pre-session cookie of a request: the first one, if there are several. */
export const preSessionToken = ({ cookieHeader, cookies }: UnitOfWork): string | undefined =>
  cookieHeader === null ? undefined : cookieValues(cookieHeader, cookies.preSession, (value) => value !== '')[0]

const sealContext = ({ context, cookies }: UnitOfWork) => ({
  cookie: cookies.preSession,
  place: cookies.place,
  namespace: context.namespace,
})

export const sealOwnPreSession = (work: UnitOfWork, pre: PreSession): string =>
  sealPreSession(work.context.keyRing, sealContext(work), pre)

/**
 * The pre-sessions of a request, the newest first, and whether it brought a cookie of that name that cannot be opened. Such a
 * cookie does not hide a valid one, in any order. If there are several, the request uses the newest. Once it changes that
 * one, the response sets a still newer one, so the visitor's own pre-session is the newest from then on.
 */
const readPreSessions = (
  work: UnitOfWork,
): { readonly preSessions: readonly PreSession[]; readonly hasInvalid: boolean } => {
  const { context, cookies, cookieHeader } = work
  const preSessions: PreSession[] = []
  let hasInvalid = false
  const accept = (value: string): boolean => {
    if (value === '') return false
    const pre = openPreSession(context.keyRing, sealContext(work), value, context.now(), context.idleTimeout)
    if (pre === undefined) hasInvalid = true
    else preSessions.push(pre)
    return pre !== undefined
  }
  if (cookieHeader !== null) cookieValues(cookieHeader, cookies.preSession, accept)
  return { preSessions: preSessions.sort((a, b) => b.madeAt - a.madeAt), hasInvalid }
}

/** The pre-session of a request: the newest in its cookies, or the one that the request has made. */
export const preSession = (work: UnitOfWork): PreSession | undefined => {
  if (!work.preSessionUnread) return work.preSession
  work.preSessionUnread = false
  const { preSessions, hasInvalid } = readPreSessions(work)
  if (hasInvalid) work.context.emit('invalid_pre_session')
  work.preSession = preSessions[0]
  return work.preSession
}

/** The pre-session of a request, or a new one. Its cookie is set again in the second half of its lifetime. */
export const ensurePreSession = (work: UnitOfWork): PreSession => {
  const { context } = work
  const now = context.now()
  const current = preSession(work)
  if (current !== undefined && now - current.madeAt <= context.idleTimeout / 2) return current
  work.preSession = { ...newPreSession(now), ...(current && { form: current.form, flash: current.flash }) }
  work.preSessionChanged = true
  return work.preSession
}

/** Whether only this host can have set the pre-session cookie in the visitor's browser. */
const isUnplantable = ({ cookies }: UnitOfWork): boolean => cookies.plantedBy === 'nobody'

/**
 * The form secret for the visitor's next form. A login and a logout change it. For an anonymous visitor it is sealed into the
 * pre-session cookie, so nothing is stored. If nobody can plant that cookie, the secret stays the same after the first
 * write and after a rotation. Otherwise the session has a secret of its own.
 */
export const formSecret = (work: UnitOfWork): string => {
  const { snapshot, transition } = work
  const loggedIn = transition === 'invalidate' ? work.owner !== undefined : transition !== undefined
  if (loggedIn) return labelOf(reserveKey(work))
  if (transition !== undefined || snapshot === undefined) return ensurePreSession(work).form
  return isUnplantable(work) ? (snapshot.metadata.form ?? snapshot.label) : snapshot.label
}

/**
 * The sources of requests for which a pre-session counts, by the party that can plant its cookie (docs/decisions/016).
 * Without TLS browsers send fewer headers, so `hidden` suffices: a page with `Referrer-Policy: no-referrer` cannot show
 * more. On this machine a request without such headers comes from a program, so `unknown` suffices.
 */
const SUFFICIENT: Readonly<Record<Planter, readonly Source[]>> = {
  nobody: ['same', 'cross', 'hidden', 'unknown'],
  neighbours: ['same'],
  'the network': ['same', 'hidden'],
  'this machine': ['same', 'hidden', 'unknown'],
}

/** Whether an anonymous request does not show enough of its page for its pre-session to count. */
export const lacksOrigin = ({ snapshot, transition, cookies }: UnitOfWork, request: Request): boolean =>
  snapshot === undefined && transition === undefined && !SUFFICIENT[cookies.plantedBy].includes(sourceOf(request))

/** How many tokens of one page the pre-session names. */
const MAX_TOKENS = 20

/**
 * Writes the name of a token of this page into the pre-session, if others can plant the cookie. A client that sends no headers
 * about its pages proves by its token that the token and the cookie came with the same response.
 */
export const rememberToken = (work: UnitOfWork, name: string): void => {
  const { snapshot, transition, cookies } = work
  if (snapshot !== undefined || transition !== undefined || SUFFICIENT[cookies.plantedBy].includes('unknown')) return
  work.tokens = [...work.tokens, name].slice(-MAX_TOKENS)
  work.preSession = { ...ensurePreSession(work), tokens: work.tokens }
  work.preSessionChanged = true
}

/** The form secrets that the token of a request may be bound to. `name` is the name of the token. */
export const acceptedSecrets = (work: UnitOfWork, request: Request, name: string): readonly string[] => {
  const { snapshot, transition, cookies } = work
  if (transition !== undefined) return [formSecret(work)]
  if (snapshot === undefined) {
    const pre = preSession(work)
    const all = [...(pre ? [pre] : []), ...readPreSessions(work).preSessions]
    const needsToken = lacksOrigin(work, request)
    const candidates = needsToken && sourceOf(request) !== 'unknown' ? [] : all
    const forms = candidates.filter(({ tokens }) => !needsToken || tokens?.includes(name)).map(({ form }) => form)
    return [...new Set(forms)]
  }
  const { label, metadata } = snapshot
  if (isUnplantable(work) || metadata.form === undefined) return [formSecret(work)]
  // The form is older than the first write, and others may have planted its pre-session: only a page of this origin may use it.
  const source = sourceOf(request)
  return source !== 'hidden' && SUFFICIENT[cookies.plantedBy].includes(source) ? [label, metadata.form] : [label]
}
