// Texts sealed for the application under its secrets, each bound to what it is for.

import { KeepsakeError } from './error.ts'
import { type Manager, managerOf } from './request.ts'

/** Bytes of a text, and characters of one sealed. */
const LARGEST = 65_536
const LONGEST_ASSOCIATED = 1_000
const LONGEST = Math.ceil(((LARGEST + 100) * 4) / 3)

/* The associated data stand where a cookie's name does for cookies: bound, and not in the token. */
const sealContext = ({ namespace }: Manager, associated: string) => {
  const fits = typeof associated === 'string' && associated !== '' && associated.length <= LONGEST_ASSOCIATED
  // Half a surrogate pair has no UTF-8: two such texts would be the same bytes.
  if (!fits || !associated.isWellFormed()) {
    throw new KeepsakeError(
      'invalid_option',
      `Say what a sealed text is for, such as 'password reset', in 1 to ${LONGEST_ASSOCIATED} characters of well-formed Unicode: it opens for that alone.`,
    )
  }
  return { purpose: 'text', name: associated, audience: namespace }
}

/** @throws KeepsakeError `invalid_option`, `too_large`, `unavailable` */
export const sealText = async (manager: Manager, text: string, associated: string): Promise<string> => {
  const bytes = Buffer.from(text)
  const where = sealContext(manager, associated)
  if (bytes.length <= LARGEST) return (await manager.context()).keyRing.seal(where, bytes)
  throw new KeepsakeError('too_large', `The text has ${bytes.length} bytes, and at most ${LARGEST} can be sealed.`)
}

/** @throws KeepsakeError `invalid_option`, `unavailable` */
export const unsealText = async (manager: Manager, sealed: string, associated: string): Promise<string | undefined> => {
  const where = sealContext(manager, associated)
  const { keyRing } = await manager.context()
  return typeof sealed === 'string' ? keyRing.open(where, sealed, LONGEST)?.toString() : undefined
}

/**
 * Seals a text, so that only this application reads it, and nobody makes one: for a link in a letter, say. It opens with
 * the same associated data alone; say there what it is for. Under the newest secret; it opens for as long as that is one.
 *
 * @throws KeepsakeError `invalid_option`, `too_large` over 64 KiB, `no_middleware`, `unavailable`
 */
export const seal = async (request: Request, text: string, associated: string): Promise<string> =>
  sealText(managerOf(request), text, associated)

/**
 * The text of a sealed one; undefined for whatever was not sealed here with this associated data.
 *
 * @throws KeepsakeError `invalid_option`, `no_middleware`, `unavailable`
 */
export const unseal = async (request: Request, sealed: string, associated: string): Promise<string | undefined> =>
  unsealText(managerOf(request), sealed, associated)
