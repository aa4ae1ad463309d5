// What a stranger carries between requests, sealed in a cookie of its own, so that no store keeps anything for him.

import { random } from '../crypto/random.ts'
import type { KeyRing } from '../crypto/seal.ts'
import { decodeFlashes, encodeFlashes, type Flash } from './flash-messages.ts'

/** A pre-session: what the forms of a visitor are bound to for whom nothing is stored, and messages for his next page. */
export type PreSession = {
  readonly form: string
  readonly madeAt: number
  readonly flash: readonly Flash[]
  /** Which tokens the page got with which this cookie was set, where others can plant it. */
  readonly tokens?: readonly string[]
}

/** Milliseconds that the clocks of two machines may differ. */
export const CLOCK_SKEW = 60_000

export const newPreSession = (now: number): PreSession => ({ form: random(16), madeAt: now, flash: [] })

/** What a pre-session is sealed for: it opens as that of another cookie, place or application no more than as a session. */
export type PreSessionPlace = { readonly cookie: string; readonly place: string; readonly namespace: string }

const sealContext = ({ cookie, place, namespace }: PreSessionPlace) => ({
  purpose: 'pre-session',
  name: cookie + place,
  audience: namespace,
})

/** @internal */
export const sealPreSession = (
  keyRing: KeyRing,
  where: PreSessionPlace,
  { form, madeAt, flash, tokens }: PreSession,
): string => {
  const kept = { form, at: madeAt, ...(flash.length > 0 && { flash: encodeFlashes(flash) }), tokens }
  return keyRing.seal(sealContext(where), Buffer.from(JSON.stringify(kept)))
}

/** The pre-session in a cookie's value, or undefined for one that we did not seal, or that is older than `idleTimeout` milliseconds. @internal */
export const openPreSession = (
  keyRing: KeyRing,
  where: PreSessionPlace,
  token: string,
  now: number,
  idleTimeout: number,
): PreSession | undefined => {
  const plain = keyRing.open(sealContext(where), token)
  if (plain === undefined) return undefined
  try {
    const { form, at, flash, tokens }: Record<string, unknown> = JSON.parse(plain.toString())
    if (typeof form !== 'string' || typeof at !== 'number' || at > now + CLOCK_SKEW || now >= at + idleTimeout)
      return undefined
    return { form, madeAt: at, flash: decodeFlashes(flash), ...(Array.isArray(tokens) && { tokens }) }
  } catch {
    // Ours, and of another version: not JSON, or null.
    return undefined
  }
}
