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
      'bad_option',
      `Say what a sealed text is for, such as 'password reset', in 1 to ${LONGEST_ASSOCIATED} characters of well-formed Unicode: it opens for that alone.`,
    )
  }
  return { purpose: 'text', name: associated, audience: namespace }
}

/** @throws Fault `bad_option`, `too_large`, `unavailable` */
export const sealText = async (ground: Manager, text: string, associated: string): Promise<string> => {
  const bytes = Buffer.from(text)
  const where = sealContext(ground, associated)
  if (bytes.length <= LARGEST) return (await ground.house()).ring.seal(where, bytes)
  throw new KeepsakeError('too_large', `The text has ${bytes.length} bytes, and at most ${LARGEST} can be sealed.`)
}

/** @throws Fault `bad_option`, `unavailable` */
export const unsealText = async (ground: Manager, sealed: string, associated: string): Promise<string | undefined> => {
  const where = sealContext(ground, associated)
  const { ring } = await ground.house()
  return typeof sealed === 'string' ? ring.open(where, sealed, LONGEST)?.toString() : undefined
}

/**
 * Seals a text, so that only this application reads it, and nobody makes one: for a link in a letter, say. It opens with
 * the same associated data alone; say there what it is for. Under the newest secret; it opens for as long as that is one.
 *
 * @throws Fault `bad_option`, `too_large` over 64 KiB, `no_session`, `unavailable`
 */
export const seal = async (request: Request, text: string, associated: string): Promise<string> =>
  sealText(managerOf(request), text, associated)

/**
 * The text of a sealed one; undefined for whatever was not sealed here with this associated data.
 *
 * @throws Fault `bad_option`, `no_session`, `unavailable`
 */
export const unseal = async (request: Request, sealed: string, associated: string): Promise<string | undefined> =>
  unsealText(managerOf(request), sealed, associated)
