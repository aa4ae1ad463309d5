// What the forms of a visitor are bound to: his session, or a sealed pre-session where nothing is stored for him.

import { cookieValues } from '../cookie.ts'
import { labelOf } from '../keys.ts'
import { newPreSession, openPreSession, type PreSession } from '../presession.ts'
import { freshKey } from './begin.ts'
import type { Visit } from './visit.ts'

/** The value of the pre-session cookie that a request brought. */
export const preTokenOf = ({ header, names }: Visit): string | undefined =>
  header === null ? undefined : cookieValues(header, names.preSession, (value) => value !== '')[0]

/** The pre-session of a visit: the one that its cookie holds, or the one made since. */
export const preSession = (visit: Visit): PreSession | undefined => {
  const { house, names } = visit
  if (!visit.preUnread) return visit.pre
  visit.preUnread = false
  const preToken = preTokenOf(visit)
  if (preToken === undefined) return visit.pre
  visit.pre = openPreSession(house.ring, names.preSession, preToken, house.now(), house.lifetime)
  if (visit.pre === undefined) house.emit('bad_pre_session')
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

/**
 * The form secret: the same from a stranger's first form over his first write and over renewals, new at login and at
 * logout. A stranger's is sealed into a cookie that this visit sends; it costs no entry.
 */
export const formSecret = (visit: Visit): string => {
  const { stored, turn } = visit
  const loggedIn = turn === 'invalidate' ? visit.owner !== undefined : turn !== undefined
  if (loggedIn) return labelOf(freshKey(visit))
  if (turn === undefined && stored !== undefined) return stored.head.form ?? stored.label
  return keptPreSession(visit).form
}
