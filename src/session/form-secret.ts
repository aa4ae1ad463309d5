// What the forms of a visitor are bound to: his session, or a sealed pre-session where nothing is stored for him.

import { labelOf } from '../crypto/keys.ts'
import { cookieValues } from '../http/cookie.ts'
import type { Planter } from '../http/cookie-names.ts'
import { type Source, sourceOf } from '../http/origin.ts'
import { reserveKey } from './create.ts'
import { newPreSession, openPreSession, type PreSession, sealPreSession } from './pre-session.ts'
import type { UnitOfWork } from './work.ts'

/** The value of the pre-session cookie that a request brought, the first of several. */
export const preSessionToken = ({ header, names }: UnitOfWork): string | undefined =>
  header === null ? undefined : cookieValues(header, names.preSession, (value) => value !== '')[0]

const sealContext = ({ house, names }: UnitOfWork) => ({
  cookie: names.preSession,
  place: names.place,
  namespace: house.namespace,
})

export const sealOwnPreSession = (visit: UnitOfWork, pre: PreSession): string =>
  sealPreSession(visit.house.ring, sealContext(visit), pre)

/**
 * The pre-sessions that a request brought, the newest first, and whether anything else came under their name. A cookie
 * that does not open hides none that does, wherever it stands. Whichever of several is taken, the visit leaves with one
 * that is newer than all of them once it changes it, so the newest is the visitor's own from then on.
 */
const readPreSessions = (visit: UnitOfWork): { readonly pres: readonly PreSession[]; readonly junk: boolean } => {
  const { house, names, header } = visit
  const pres: PreSession[] = []
  let junk = false
  const opens = (value: string): boolean => {
    if (value === '') return false
    const pre = openPreSession(house.ring, sealContext(visit), value, house.now(), house.lifetime)
    if (pre === undefined) junk = true
    else pres.push(pre)
    return pre !== undefined
  }
  if (header !== null) cookieValues(header, names.preSession, opens)
  return { pres: pres.sort((a, b) => b.madeAt - a.madeAt), junk }
}

/** The pre-session of a visit: the newest that its cookies hold, or the one made since. */
export const preSession = (visit: UnitOfWork): PreSession | undefined => {
  if (!visit.preUnread) return visit.pre
  visit.preUnread = false
  const { pres, junk } = readPreSessions(visit)
  if (junk) visit.house.emit('bad_pre_session')
  visit.pre = pres[0]
  return visit.pre
}

/** The pre-session that the visit leaves with: a new one, or one whose cookie is renewed in the second half of its life. */
export const ensurePreSession = (visit: UnitOfWork): PreSession => {
  const { house } = visit
  const now = house.now()
  const known = preSession(visit)
  if (known !== undefined && now - known.madeAt <= house.lifetime / 2) return known
  visit.pre = { ...newPreSession(now), ...(known && { form: known.form, flash: known.flash }) }
  visit.preChanged = true
  return visit.pre
}

/** Whether nobody but this host can have put the pre-session into the visitor's browser. */
const isUnplantable = ({ names }: UnitOfWork): boolean => names.plantedBy === 'nobody'

/**
 * The form secret that the visitor's next form is bound to: new at login and at logout. A stranger's is sealed into a
 * cookie that this visit sends; it costs no entry. Where nobody can have planted that, it stays the same over his first
 * write and over renewals; else his session has one of its own.
 */
export const formSecret = (visit: UnitOfWork): string => {
  const { stored, turn } = visit
  const loggedIn = turn === 'invalidate' ? visit.owner !== undefined : turn !== undefined
  if (loggedIn) return labelOf(reserveKey(visit))
  if (turn !== undefined || stored === undefined) return ensurePreSession(visit).form
  return isUnplantable(visit) ? (stored.head.form ?? stored.label) : stored.label
}

/**
 * What a request has to say of its page before a pre-session counts that somebody may have planted
 * (docs/decisions/016). Without TLS, browsers tell less: then `hidden` has to do, because nothing tells more of a page
 * with `Referrer-Policy: no-referrer`; and on this machine whatever says nothing is a program.
 */
const SUFFICIENT: Readonly<Record<Planter, readonly Source[]>> = {
  nobody: ['own', 'foreign', 'hidden', 'unknown'],
  neighbours: ['own'],
  'the network': ['own', 'hidden'],
  'this machine': ['own', 'hidden', 'unknown'],
}

/** Whether a request is a stranger's and does not say enough of its page for his pre-session to count. */
export const lacksOrigin = ({ stored, turn, names }: UnitOfWork, request: Request): boolean =>
  stored === undefined && turn === undefined && !SUFFICIENT[names.plantedBy].includes(sourceOf(request))

/** How many tokens of one page are remembered. */
const MAX_TOKENS = 20

/**
 * Notes a token that the page gets, where others can plant the cookie: a client that says nothing of its pages shows by
 * it that the token and the cookie are of one response.
 */
export const rememberToken = (visit: UnitOfWork, name: string): void => {
  const { stored, turn, names } = visit
  if (stored !== undefined || turn !== undefined || SUFFICIENT[names.plantedBy].includes('unknown')) return
  visit.tokens = [...visit.tokens, name].slice(-MAX_TOKENS)
  visit.pre = { ...ensurePreSession(visit), tokens: visit.tokens }
  visit.preChanged = true
}

/** The form secrets that the token of a request may be bound to. `name` is the token's. */
export const acceptedSecrets = (visit: UnitOfWork, request: Request, name: string): readonly string[] => {
  const { stored, turn, names } = visit
  if (turn !== undefined) return [formSecret(visit)]
  if (stored === undefined) {
    const pre = preSession(visit)
    const all = [...(pre ? [pre] : []), ...readPreSessions(visit).pres]
    const little = lacksOrigin(visit, request)
    const counting = little && sourceOf(request) !== 'unknown' ? [] : all
    const forms = counting.filter(({ tokens }) => !little || tokens?.includes(name)).map(({ form }) => form)
    return [...new Set(forms)]
  }
  const { label, head } = stored
  if (isUnplantable(visit) || head.form === undefined) return [formSecret(visit)]
  // A form from before the first write, of whoever made the pre-session: good for a page of this origin alone.
  const source = sourceOf(request)
  return source !== 'hidden' && SUFFICIENT[names.plantedBy].includes(source) ? [label, head.form] : [label]
}
