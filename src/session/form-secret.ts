// What the forms of a visitor are bound to: his session, or a sealed pre-session where nothing is stored for him.

import { labelOf } from '../crypto/keys.ts'
import { cookieValues } from '../http/cookie.ts'
import type { Planter } from '../http/cookie-names.ts'
import { type Source, sourceOf } from '../http/origin.ts'
import { freshKey } from './create.ts'
import { newPreSession, openPreSession, type PreSession, sealPreSession } from './pre-session.ts'
import type { Visit } from './work.ts'

/** The value of the pre-session cookie that a request brought, the first of several. */
export const preTokenOf = ({ header, names }: Visit): string | undefined =>
  header === null ? undefined : cookieValues(header, names.preSession, (value) => value !== '')[0]

const sealedFor = ({ house, names }: Visit) => ({
  cookie: names.preSession,
  place: names.place,
  namespace: house.namespace,
})

export const sealedPre = (visit: Visit, pre: PreSession): string =>
  sealPreSession(visit.house.ring, sealedFor(visit), pre)

/**
 * The pre-sessions that a request brought, the newest first, and whether anything else came under their name. A cookie
 * that does not open hides none that does, wherever it stands. Whichever of several is taken, the visit leaves with one
 * that is newer than all of them once it changes it, so the newest is the visitor's own from then on.
 */
const brought = (visit: Visit): { readonly pres: readonly PreSession[]; readonly junk: boolean } => {
  const { house, names, header } = visit
  const pres: PreSession[] = []
  let junk = false
  const opens = (value: string): boolean => {
    if (value === '') return false
    const pre = openPreSession(house.ring, sealedFor(visit), value, house.now(), house.lifetime)
    if (pre === undefined) junk = true
    else pres.push(pre)
    return pre !== undefined
  }
  if (header !== null) cookieValues(header, names.preSession, opens)
  return { pres: pres.sort((a, b) => b.madeAt - a.madeAt), junk }
}

/** The pre-session of a visit: the newest that its cookies hold, or the one made since. */
export const preSession = (visit: Visit): PreSession | undefined => {
  if (!visit.preUnread) return visit.pre
  visit.preUnread = false
  const { pres, junk } = brought(visit)
  if (junk) visit.house.emit('bad_pre_session')
  visit.pre = pres[0]
  return visit.pre
}

/** The pre-session that the visit leaves with: a new one, or one whose cookie is renewed in the second half of its life. */
export const keptPreSession = (visit: Visit): PreSession => {
  const { house } = visit
  const now = house.now()
  const known = preSession(visit)
  if (known !== undefined && now - known.madeAt <= house.lifetime / 2) return known
  visit.pre = { ...newPreSession(now), ...(known && { form: known.form, flash: known.flash }) }
  visit.preChanged = true
  return visit.pre
}

/** Whether nobody but this host can have put the pre-session into the visitor's browser. */
const guarded = ({ names }: Visit): boolean => names.plantedBy === 'nobody'

/**
 * The form secret that the visitor's next form is bound to: new at login and at logout. A stranger's is sealed into a
 * cookie that this visit sends; it costs no entry. Where nobody can have planted that, it stays the same over his first
 * write and over renewals; else his session has one of its own.
 */
export const formSecret = (visit: Visit): string => {
  const { stored, turn } = visit
  const loggedIn = turn === 'invalidate' ? visit.owner !== undefined : turn !== undefined
  if (loggedIn) return labelOf(freshKey(visit))
  if (turn !== undefined || stored === undefined) return keptPreSession(visit).form
  return guarded(visit) ? (stored.head.form ?? stored.label) : stored.label
}

/**
 * What a request has to say of its page before a pre-session counts that somebody may have planted
 * (docs/decisions/016). Without TLS, browsers tell less: then `hidden` has to do, because nothing tells more of a page
 * with `Referrer-Policy: no-referrer`; and on this machine whatever says nothing is a program.
 */
const enough: Readonly<Record<Planter, readonly Source[]>> = {
  nobody: ['own', 'foreign', 'hidden', 'unknown'],
  neighbours: ['own'],
  'the network': ['own', 'hidden'],
  'this machine': ['own', 'hidden', 'unknown'],
}

/** Whether a request is a stranger's and does not say enough of its page for his pre-session to count. */
export const saysTooLittle = ({ stored, turn, names }: Visit, request: Request): boolean =>
  stored === undefined && turn === undefined && !enough[names.plantedBy].includes(sourceOf(request))

/** How many tokens of one page are remembered. */
const TOKENS = 20

/**
 * Notes a token that the page gets, where others can plant the cookie: a client that says nothing of its pages shows by
 * it that the token and the cookie are of one response.
 */
export const noteToken = (visit: Visit, name: string): void => {
  const { stored, turn, names } = visit
  if (stored !== undefined || turn !== undefined || enough[names.plantedBy].includes('unknown')) return
  visit.tokens = [...visit.tokens, name].slice(-TOKENS)
  visit.pre = { ...keptPreSession(visit), tokens: visit.tokens }
  visit.preChanged = true
}

/** The form secrets that the token of a request may be bound to. `name` is the token's. */
export const heldSecrets = (visit: Visit, request: Request, name: string): readonly string[] => {
  const { stored, turn, names } = visit
  if (turn !== undefined) return [formSecret(visit)]
  if (stored === undefined) {
    const pre = preSession(visit)
    const all = [...(pre ? [pre] : []), ...brought(visit).pres]
    const little = saysTooLittle(visit, request)
    const counting = little && sourceOf(request) !== 'unknown' ? [] : all
    const forms = counting.filter(({ tokens }) => !little || tokens?.includes(name)).map(({ form }) => form)
    return [...new Set(forms)]
  }
  const { label, head } = stored
  if (guarded(visit) || head.form === undefined) return [formSecret(visit)]
  // A form from before the first write, of whoever made the pre-session: good for a page of this origin alone.
  const source = sourceOf(request)
  return source !== 'hidden' && enough[names.plantedBy].includes(source) ? [label, head.form] : [label]
}
