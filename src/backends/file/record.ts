// A record as a file: a line that proves it whole, a line about the entry, and the value as it is.

import { hash } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import type { Entry } from '../contract.ts'
import { isTrustedUser } from '../ownership.ts'

/*
 * keepsake 1 5d41…
 * {"version":"bm9uY2Ux","expiresAt":1760000000000,"head":"1.abc.def","owner":"anna"}
 * {"cart":[1,2]}
 *
 * The first line has the SHA-256 of all that follows it: `tail -n +2 FILE | sha256sum`. Where the value is undefined,
 * there is no third line.
 */
const FIRST = 'keepsake 1 '
const BODY = FIRST.length + 64 + 1

/** The name of a record's file. */
export const record = /^[0-9a-f]{64}$/
/** 32 bytes in base64url: the last of 43 letters has but four bits, and one that had more would name a key twice. */
export const shape = /^[\w-]{42}[AEIMQUYcgkosw048]$/

/** In hexadecimal, because there are file systems to which A and a are one letter. @throws TypeError for what is no key */
export const fileOf = (key: string): string => {
  if (typeof key !== 'string' || !shape.test(key)) throw new TypeError('A key has to be 43 characters of base64url.')
  return Buffer.from(key, 'base64url').toString('hex')
}

export const keyOf = (file: string): string => Buffer.from(file, 'hex').toString('base64url')

/** Which of 256 turns it takes to change a file. */
export const slotOf = (file: string): string => file.slice(0, 2)

/** Something lies there that is no record of ours. */
export class Unreadable {
  readonly why: string
  /** A newer version of this library wrote it, and may still want it. */
  readonly newer: boolean

  constructor(why: string, newer = false) {
    this.why = why
    this.newer = newer
  }
}

/** A text with the line before it that proves it whole. */
export const withChecksum = (body: string): string => `${FIRST}${hash('sha256', body)}\n${body}`

/** The text that was proved, or why it is not the one that was written. */
const bodyOf = (text: string): string | Unreadable => {
  const format = /^keepsake (\d{1,9}) /.exec(text)?.[1]
  if (format === undefined) return new Unreadable('it does not begin as our files do')
  if (format !== '1') return new Unreadable(`its format is ${format}, of a newer version of keepsake`, true)
  const body = text.slice(BODY)
  if (text.slice(FIRST.length, BODY) === `${hash('sha256', body)}\n`) return body
  return new Unreadable('it was cut short or changed: its SHA-256 is another')
}

/** @throws TypeError where JSON could not bring the expiry back */
export const printed = ({ version, expiresAt, metadata, owner, value }: Entry): string => {
  if (!Number.isFinite(expiresAt)) throw new TypeError('expiresAt has to be a finite number of milliseconds.')
  const about = JSON.stringify({ version, expiresAt, metadata, owner })
  return withChecksum(`${about}\n${value === undefined ? '' : `${value}\n`}`)
}

const parsed = (body: string): Entry | Unreadable => {
  const end = body.indexOf('\n')
  const rest = body.slice(end + 1)
  try {
    const { version, expiresAt, metadata, owner } = JSON.parse(body.slice(0, end))
    const sound =
      typeof version === 'string' &&
      typeof metadata === 'string' &&
      Number.isFinite(expiresAt) &&
      (owner === undefined || typeof owner === 'string')
    if (sound) return { value: rest === '' ? undefined : rest.slice(0, -1), metadata, expiresAt, version, owner }
  } catch {
    // Not JSON, or null: neither has these fields.
  }
  return new Unreadable('its second line is not about a session')
}

/* Without O_NONBLOCK, to open a FIFO is to wait for its writer. Windows has neither flag. */
const READ = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0)
/** What opening a symbolic link (Linux and macOS, BSD) and a socket fail with. */
const irregular = new Set(['ELOOP', 'EMLINK', 'ENXIO'])

export const codeOf = (error: unknown): unknown => (error as { code?: unknown } | undefined)?.code

/**
 * The proved text in the regular file at `path`; undefined where there is nothing at all.
 *
 * @throws the error of the file system where it cannot say: that is not absence
 */
export const readBody = (path: string): string | Unreadable | undefined => {
  let file: number
  try {
    file = openSync(path, READ)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'ENOENT') return undefined
    if (irregular.has(code as string)) return new Unreadable('it is not a regular file')
    throw error
  }
  try {
    const about = fstatSync(file)
    if (!about.isFile()) return new Unreadable('it is not a regular file')
    if (!isTrustedUser(about.uid)) return new Unreadable(`it belongs to user ${about.uid}`)
    return bodyOf(readFileSync(file, 'utf8'))
  } finally {
    closeSync(file)
  }
}

/** The entry in the file at `path`. @throws as `readBody` */
export const readRecord = (path: string): Entry | Unreadable | undefined => {
  const body = readBody(path)
  return typeof body === 'string' ? parsed(body) : body
}
