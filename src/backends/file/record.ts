// The text of a session file: a line with a checksum, a line about the entry, and the value.

import { hash } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import type { Entry } from '../contract.ts'
import { isTrustedUser } from '../ownership.ts'
import { codeOf } from './file-system.ts'

/*
 * keepsake 1 5d41…
 * {"version":"bm9uY2Ux","expiresAt":1760000000000,"metadata":"1.abc.def","owner":"anna"}
 * {"cart":[1,2]}
 *
 * The first line has the SHA-256 of all following lines: `tail -n +2 FILE | sha256sum`. If the value is undefined, there
 * is no third line.
 */
const FIRST = 'keepsake 1 '
const BODY = FIRST.length + 64 + 1

/** The reason why a file is no session that this version can read. */
export class Unreadable {
  readonly reason: string
  /** A newer version of keepsake wrote the file, and may still need it. */
  readonly newer: boolean

  constructor(reason: string, newer = false) {
    this.reason = reason
    this.newer = newer
  }
}

/** A text, and before it the line that shows whether the text is complete. */
export const withChecksum = (body: string): string => `${FIRST}${hash('sha256', body)}\n${body}`

/** The text after the checksum, if it is the text that was written. */
const checkedBody = (text: string): string | Unreadable => {
  const format = /^keepsake (\d{1,9}) /.exec(text)?.[1]
  if (format === undefined) return new Unreadable('it does not begin like a file of keepsake')
  if (format !== '1') return new Unreadable(`its format is ${format}, of a newer version of keepsake`, true)
  const body = text.slice(BODY)
  if (text.slice(FIRST.length, BODY) === `${hash('sha256', body)}\n`) return body
  return new Unreadable('it was cut short or changed, because its SHA-256 is different')
}

/** @throws TypeError if the expiry is not finite, because JSON cannot keep it */
export const encodeRecord = ({ version, expiresAt, metadata, owner, value }: Entry): string => {
  if (!Number.isFinite(expiresAt)) throw new TypeError('expiresAt must be a finite number of milliseconds.')
  const about = JSON.stringify({ version, expiresAt, metadata, owner })
  return withChecksum(`${about}\n${value === undefined ? '' : `${value}\n`}`)
}

const decodeRecord = (body: string): Entry | Unreadable => {
  const end = body.indexOf('\n')
  const rest = body.slice(end + 1)
  try {
    const { version, expiresAt, metadata, owner } = JSON.parse(body.slice(0, end))
    const isEntry =
      typeof version === 'string' &&
      typeof metadata === 'string' &&
      Number.isFinite(expiresAt) &&
      (owner === undefined || typeof owner === 'string')
    if (isEntry) return { value: rest === '' ? undefined : rest.slice(0, -1), metadata, expiresAt, version, owner }
  } catch {
    // The line is no JSON, or null, and neither has these properties.
  }
  return new Unreadable('its second line does not describe a session')
}

/* Without O_NONBLOCK, opening a FIFO waits for its writer. Windows has neither flag. */
const READ = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0)
/** The codes of the errors when a symbolic link (Linux and macOS, BSD) or a socket is opened. */
const IRREGULAR = new Set(['ELOOP', 'EMLINK', 'ENXIO'])

/**
 * The text after the checksum of the regular file at `path`. Returns undefined if nothing has that path.
 *
 * @throws the error of the file system if it cannot read: an error never counts as an absence
 */
export const readBody = (path: string): string | Unreadable | undefined => {
  let file: number
  try {
    file = openSync(path, READ)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'ENOENT') return undefined
    if (IRREGULAR.has(code as string)) return new Unreadable('it is not a regular file')
    throw error
  }
  try {
    const status = fstatSync(file)
    if (!status.isFile()) return new Unreadable('it is not a regular file')
    if (!isTrustedUser(status.uid)) return new Unreadable(`it belongs to user ${status.uid}`)
    return checkedBody(readFileSync(file, 'utf8'))
  } finally {
    closeSync(file)
  }
}

/** The entry in the file at `path`. @throws the errors of `readBody` */
export const readRecord = (path: string): Entry | Unreadable | undefined => {
  const body = readBody(path)
  return typeof body === 'string' ? decodeRecord(body) : body
}
