// The folder of the sessions: no other user may write to it, and no other folder may take its place.

import { closeSync, constants, lstatSync, mkdirSync, openSync } from 'node:fs'
import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import { identityAt, isSameFile } from '../ownership.ts'
import { codeOf } from './file-system.ts'

/**
 * Creates a folder for the user of this process alone, or accepts an existing folder if no other user can write to it.
 *
 * @throws KeepsakeError `invalid_option` if another user could write to it
 */
export const secureFolder = (path: string): void => {
  const refuse = (reason: string) =>
    new KeepsakeError('invalid_option', `The session directory ${JSON.stringify(path)} ${reason}.`)
  try {
    mkdirSync(path, 0o700)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
  }
  const status = lstatSync(path)
  const user = process.geteuid?.()
  if (status.isSymbolicLink()) throw refuse('is a symbolic link. Give the path of the directory that it leads to')
  if (!status.isDirectory()) throw refuse('is not a directory. Give another path, or one that does not exist yet')
  // Windows has no owners and modes of this kind.
  if (user === undefined) return
  if (status.uid !== user)
    throw refuse(`belongs to user ${status.uid}, but this process runs as user ${user}. Give it a directory of its own`)
  if ((status.mode & 0o022) !== 0) throw refuse('can be written to by other users. Forbid that with chmod go-w')
}

export type HeldFolder = {
  /** @throws KeepsakeError `unavailable` if the folder is gone or another has taken its place */
  check(): void
  release(): void
}

/**
 * Holds a folder open, so that `check` recognises another folder at its path: a user who may write to the parent could
 * put a folder there with sessions of their own making.
 */
export const holdFolder = (path: string): HeldFolder => {
  const expected = identityAt(path)
  let descriptor: number | undefined
  try {
    descriptor = openSync(path, constants.O_RDONLY | (constants.O_DIRECTORY ?? 0) | (constants.O_NOFOLLOW ?? 0))
  } catch (error) {
    // Windows opens no folders this way, and allows nobody to replace one that has open files.
    if (process.platform !== 'win32') throw error
  }
  return {
    check() {
      const found = identityAt(path)
      if (isSameFile(found, expected)) return
      const problem = found === undefined ? 'is gone' : 'was replaced by another after this process opened it'
      throw new KeepsakeError(
        'unavailable',
        `The session directory ${JSON.stringify(path)} ${problem}. Bring the first one back, or restart the process.`,
      )
    },
    release() {
      if (descriptor !== undefined) closeSync(descriptor)
      descriptor = undefined
    },
  }
}

/** Calls `work`. @throws KeepsakeError `unavailable` instead of an error of the file system */
export const wrapErrors = <T>(directory: string, work: () => T): T => {
  try {
    return work()
  } catch (cause) {
    if (isKeepsakeError(cause)) throw cause
    throw new KeepsakeError(
      'unavailable',
      `The session directory ${JSON.stringify(directory)} cannot be used: ${messageOf(cause)}. Give a path in a folder that this process may write to.`,
      { cause },
    )
  }
}
