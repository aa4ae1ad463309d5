// Sealed texts of the application: encrypted and authenticated under its secret, each for one purpose.

import { KeepsakeError } from './error.ts'
import { managerOf, tenantOf } from './request.ts'
import type { Manager, RequestLike } from './request-context.ts'

/** The most bytes of a text. */
const MAX_BYTES = 65_536
/** The most characters of the associated data. */
const MAX_ASSOCIATED_LENGTH = 1_000
/** The most characters of a sealed text: base64url of the text and at most 100 more bytes. */
const MAX_SEALED_LENGTH = Math.ceil(((MAX_BYTES + 100) * 4) / 3)

/** The namespace of the application, and the purpose that the text is sealed for. */
type SealPlace = { readonly namespace: string; readonly associated: string }

/* As a cookie's name does for a cookie, the associated data bind the sealed text, and are not in it. */
const sealContext = ({ namespace, associated }: SealPlace) => {
  const fits = typeof associated === 'string' && associated !== '' && associated.length <= MAX_ASSOCIATED_LENGTH
  // Half a surrogate pair has no UTF-8, so two different texts would become the same bytes.
  if (!fits || !associated.isWellFormed()) {
    throw new KeepsakeError(
      'invalid_option',
      `The associated data of a sealed text are not valid. They name its one purpose, such as 'password reset', and must be a string of 1 to ${MAX_ASSOCIATED_LENGTH} characters of well-formed Unicode.`,
    )
  }
  return { purpose: 'text', name: associated, audience: namespace }
}

/** @throws KeepsakeError `invalid_option`, `too_large`, `unavailable` */
export const sealText = async (manager: Manager, place: SealPlace, text: string): Promise<string> => {
  const bytes = Buffer.from(text)
  const context = sealContext(place)
  if (bytes.length <= MAX_BYTES) return (await manager.context()).keyRing.seal(context, bytes)
  throw new KeepsakeError(
    'too_large',
    `The text to seal has ${bytes.length} bytes. At most ${MAX_BYTES} are allowed. Store the text, and seal a reference to it.`,
  )
}

/** @throws KeepsakeError `invalid_option`, `unavailable` */
export const unsealText = async (manager: Manager, place: SealPlace, sealed: string): Promise<string | undefined> => {
  const context = sealContext(place)
  const { keyRing } = await manager.context()
  return typeof sealed === 'string' ? keyRing.open(context, sealed, MAX_SEALED_LENGTH)?.toString() : undefined
}

/**
 * Encrypts and authenticates a text, for example for a password-reset link. Only this application can read it or create
 * one, and only `unseal` with the same associated data opens it: a text that names its one purpose. It is sealed under
 * the newest secret, and opens while that secret is in the list. It does not expire and can be used again, so put an
 * end into the text if it needs one.
 *
 * @throws KeepsakeError `invalid_option`, `too_large` over 64 KiB, `no_middleware`, `unavailable`
 */
export const seal = async (request: RequestLike, text: string, associated: string): Promise<string> =>
  sealText(managerOf(request), { namespace: tenantOf(request).namespace, associated }, text)

/**
 * Opens a text that `seal` made. Returns undefined if this application did not seal it with the same associated data.
 *
 * @throws KeepsakeError `invalid_option`, `no_middleware`, `unavailable`
 */
export const unseal = async (request: RequestLike, sealed: string, associated: string): Promise<string | undefined> =>
  unsealText(managerOf(request), { namespace: tenantOf(request).namespace, associated }, sealed)
