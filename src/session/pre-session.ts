// The pre-session of an anonymous visitor: an encrypted cookie, so that the backend stores nothing for them.

import { random } from '../crypto/random.ts'
import type { KeyRing } from '../crypto/seal.ts'
import { decodeFlashes, encodeFlashes, type Flash } from './flash-messages.ts'

/** The content of a pre-session cookie: a form secret, and flash messages for the next page. */
export type PreSession = {
  /** The form secret: the visitor's form tokens are bound to it. */
  readonly form: string
  /** When the cookie was sealed, in milliseconds since 1970. */
  readonly madeAt: number
  readonly flash: readonly Flash[]
  /** The names of the form tokens of the page that set this cookie, if others can plant it. */
  readonly tokens?: readonly string[]
}

/** Milliseconds by which the clocks of two machines may differ. */
export const CLOCK_SKEW = 60_000

export const newPreSession = (now: number): PreSession => ({ form: random(16), madeAt: now, flash: [] })

/** A pre-session is sealed for these three, and cannot be opened for another cookie name, place or application. */
export type PreSessionPlace = { readonly cookie: string; readonly place: string; readonly namespace: string }

const sealContext = ({ cookie, place, namespace }: PreSessionPlace) => ({
  purpose: 'pre-session',
  name: cookie + place,
  audience: namespace,
})

/** @internal */
export const sealPreSession = (
  keyRing: KeyRing,
  place: PreSessionPlace,
  { form, madeAt, flash, tokens }: PreSession,
): string => {
  const content = { form, at: madeAt, ...(flash.length > 0 && { flash: encodeFlashes(flash) }), tokens }
  return keyRing.seal(sealContext(place), Buffer.from(JSON.stringify(content)))
}

/**
 * The pre-session in a cookie's value. Undefined if this application did not seal it for this place, or if it is older than
 * `idleTimeout` milliseconds.
 *
 * @internal
 */
export const openPreSession = (
  keyRing: KeyRing,
  place: PreSessionPlace,
  token: string,
  now: number,
  idleTimeout: number,
): PreSession | undefined => {
  const plain = keyRing.open(sealContext(place), token)
  if (plain === undefined) return undefined
  try {
    const { form, at, flash, tokens }: Record<string, unknown> = JSON.parse(plain.toString())
    if (typeof form !== 'string' || typeof at !== 'number' || at > now + CLOCK_SKEW || now >= at + idleTimeout)
      return undefined
    return { form, madeAt: at, flash: decodeFlashes(flash), ...(Array.isArray(tokens) && { tokens }) }
  } catch {
    // Another version of keepsake sealed it: it is not JSON, or null.
    return undefined
  }
}
