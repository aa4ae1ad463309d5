// What the forms of a visitor are bound to: his session, or a sealed pre-session where nothing is stored for him.

import { labelOf } from '../crypto/keys.ts'
import { cookieValues } from '../http/cookie.ts'
import type { Planter } from '../http/cookie-names.ts'
import { type Source, sourceOf } from '../http/origin.ts'
import { reserveKey } from './create.ts'
import { newPreSession, openPreSession, type PreSession, sealPreSession } from './pre-session.ts'
import type { UnitOfWork } from './work.ts'

/** The value of the pre-session cookie that a request brought, the first of several. */
export const preSessionToken = ({ cookieHeader: header, cookies }: UnitOfWork): string | undefined =>
  header === null ? undefined : cookieValues(header, cookies.preSession, (value) => value !== '')[0]

const sealContext = ({ context, cookies }: UnitOfWork) => ({
  cookie: cookies.preSession,
  place: cookies.place,
  namespace: context.namespace,
})

export const sealOwnPreSession = (work: UnitOfWork, pre: PreSession): string =>
  sealPreSession(work.context.keyRing, sealContext(work), pre)

/**
 * The pre-sessions that a request brought, the newest first, and whether anything else came under their name. A cookie
 * that does not open hides none that does, wherever it stands. Whichever of several is taken, the visit leaves with one
 * that is newer than all of them once it changes it, so the newest is the visitor's own from then on.
 */
const readPreSessions = (work: UnitOfWork): { readonly pres: readonly PreSession[]; readonly junk: boolean } => {
  const { context, cookies, cookieHeader: header } = work
  const pres: PreSession[] = []
  let junk = false
  const opens = (value: string): boolean => {
    if (value === '') return false
    const pre = openPreSession(context.keyRing, sealContext(work), value, context.now(), context.idleTimeout)
    if (pre === undefined) junk = true
    else pres.push(pre)
    return pre !== undefined
  }
  if (header !== null) cookieValues(header, cookies.preSession, opens)
  return { pres: pres.sort((a, b) => b.madeAt - a.madeAt), junk }
}

/** The pre-session of a visit: the newest that its cookies hold, or the one made since. */
export const preSession = (work: UnitOfWork): PreSession | undefined => {
  if (!work.preSessionUnread) return work.preSession
  work.preSessionUnread = false
  const { pres, junk } = readPreSessions(work)
  if (junk) work.context.emit('invalid_pre_session')
  work.preSession = pres[0]
  return work.preSession
}

/** The pre-session that the visit leaves with: a new one, or one whose cookie is renewed in the second half of its life. */
export const ensurePreSession = (work: UnitOfWork): PreSession => {
  const { context } = work
  const now = context.now()
  const known = preSession(work)
  if (known !== undefined && now - known.madeAt <= context.idleTimeout / 2) return known
  work.preSession = { ...newPreSession(now), ...(known && { form: known.form, flash: known.flash }) }
  work.preSessionChanged = true
  return work.preSession
}

/** Whether nobody but this host can have put the pre-session into the visitor's browser. */
const isUnplantable = ({ cookies }: UnitOfWork): boolean => cookies.plantedBy === 'nobody'

/**
 * The form secret that the visitor's next form is bound to: new at login and at logout. A stranger's is sealed into a
 * cookie that this visit sends; it costs no entry. Where nobody can have planted that, it stays the same over his first
 * write and over renewals; else his session has one of its own.
 */
export const formSecret = (work: UnitOfWork): string => {
  const { snapshot, transition } = work
  const loggedIn = transition === 'invalidate' ? work.owner !== undefined : transition !== undefined
  if (loggedIn) return labelOf(reserveKey(work))
  if (transition !== undefined || snapshot === undefined) return ensurePreSession(work).form
  return isUnplantable(work) ? (snapshot.metadata.form ?? snapshot.label) : snapshot.label
}

/**
 * What a request has to say of its page before a pre-session counts that somebody may have planted
 * (docs/decisions/016). Without TLS, browsers tell less: then `hidden` has to do, because nothing tells more of a page
 * with `Referrer-Policy: no-referrer`; and on this machine whatever says nothing is a program.
 */
const SUFFICIENT: Readonly<Record<Planter, readonly Source[]>> = {
  nobody: ['same', 'cross', 'hidden', 'unknown'],
  neighbours: ['same'],
  'the network': ['same', 'hidden'],
  'this machine': ['same', 'hidden', 'unknown'],
}

/** Whether a request is a stranger's and does not say enough of its page for his pre-session to count. */
export const lacksOrigin = ({ snapshot, transition, cookies }: UnitOfWork, request: Request): boolean =>
  snapshot === undefined && transition === undefined && !SUFFICIENT[cookies.plantedBy].includes(sourceOf(request))

/** How many tokens of one page are remembered. */
const MAX_TOKENS = 20

/**
 * Notes a token that the page gets, where others can plant the cookie: a client that says nothing of its pages shows by
 * it that the token and the cookie are of one response.
 */
export const rememberToken = (work: UnitOfWork, name: string): void => {
  const { snapshot, transition, cookies } = work
  if (snapshot !== undefined || transition !== undefined || SUFFICIENT[cookies.plantedBy].includes('unknown')) return
  work.tokens = [...work.tokens, name].slice(-MAX_TOKENS)
  work.preSession = { ...ensurePreSession(work), tokens: work.tokens }
  work.preSessionChanged = true
}

/** The form secrets that the token of a request may be bound to. `name` is the token's. */
export const acceptedSecrets = (work: UnitOfWork, request: Request, name: string): readonly string[] => {
  const { snapshot, transition, cookies } = work
  if (transition !== undefined) return [formSecret(work)]
  if (snapshot === undefined) {
    const pre = preSession(work)
    const all = [...(pre ? [pre] : []), ...readPreSessions(work).pres]
    const little = lacksOrigin(work, request)
    const counting = little && sourceOf(request) !== 'unknown' ? [] : all
    const forms = counting.filter(({ tokens }) => !little || tokens?.includes(name)).map(({ form }) => form)
    return [...new Set(forms)]
  }
  const { label, metadata } = snapshot
  if (isUnplantable(work) || metadata.form === undefined) return [formSecret(work)]
  // A form from before the first write, of whoever made the pre-session: good for a page of this origin alone.
  const source = sourceOf(request)
  return source !== 'hidden' && SUFFICIENT[cookies.plantedBy].includes(source) ? [label, metadata.form] : [label]
}
