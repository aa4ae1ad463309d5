// The file name of a key: an operator can read it, and it is unique even if the file system ignores case.

import { hash } from 'node:crypto'

/*
 * The file of the key `sid.Q2hhcmxvdHRl` is `session.sid.Q2hhcmxvdHRl.0806`, so `ls *Q2hhcmxvdHRl*` finds the file of a
 * label that a log names.
 *
 * The last part has one hexadecimal digit for each four characters of the key. Its bits, from 8 down to 1, name the
 * upper-case letters among them: two keys that differ only in case get two names, also on Windows and macOS.
 *
 * The prefix keeps keys such as `..`, `.htaccess`, `con` (a device on Windows) and `secret` (a file of this backend) from
 * becoming names of their own. The last part keeps a name from ending in a dot, which Windows drops. A name has at most 89
 * characters, all of them harmless in a shell.
 */
const PREFIX = 'session.'
const KEY = /^[\w.-]{1,64}$/
const NAME = /^session\.([\w.-]{1,64})\.[0-9a-f]{1,16}$/

/** Whether a text could be a storage key: 1 to 64 characters of `A-Z a-z 0-9 _ - .`. */
export const isStorageKey = (text: string): boolean => KEY.test(text)

const isUpperCase = (character: string | undefined): boolean =>
  character !== undefined && character >= 'A' && character <= 'Z'

const caseOf = (key: string): string => {
  let digits = ''
  for (let at = 0; at < key.length; at += 4) {
    let digit = 0
    for (let bit = 0; bit < 4; bit++) digit = digit * 2 + Number(isUpperCase(key[at + bit]))
    digits += digit.toString(16)
  }
  return digits
}

/** @throws TypeError if the key is no storage key */
export const fileOf = (key: string): string => {
  if (typeof key === 'string' && KEY.test(key)) return `${PREFIX}${key}.${caseOf(key)}`
  throw new TypeError('The key is no storage key. Use 1 to 64 characters of A-Z a-z 0-9 _ - and dots.')
}

/** The key of a session file. Returns undefined for every other name. */
export const keyOf = (file: string): string | undefined => {
  const key = NAME.exec(file)?.[1]
  return key !== undefined && fileOf(key) === file ? key : undefined
}

/** Which of 256 locks protects a file: two hexadecimal digits. */
export const slotOf = (file: string): string => hash('sha256', file).slice(0, 2)
