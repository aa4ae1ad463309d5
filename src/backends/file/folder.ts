// A folder of sessions is for its owner alone, and the reason why it is refused says what to do.

import { closeSync, constants, lstatSync, mkdirSync, openSync } from 'node:fs'
import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'
import { identityAt, isSameFile } from '../ownership.ts'
import { codeOf } from './record.ts'

/** Makes a folder for its owner alone, or takes one where nobody else can plant a file. */
export const secureFolder = (path: string): void => {
  const refuse = (why: string) =>
    new KeepsakeError('invalid_option', `The session directory ${JSON.stringify(path)} ${why}.`)
  try {
    mkdirSync(path, 0o700)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
  }
  const there = lstatSync(path)
  const user = process.geteuid?.()
  if (there.isSymbolicLink()) throw refuse('is a symbolic link: name the directory that it leads to')
  if (!there.isDirectory()) throw refuse('is not a directory: name another, or one that is not there yet')
  // Windows has neither owners nor modes of this kind.
  if (user === undefined) return
  if (there.uid !== user)
    throw refuse(`belongs to user ${there.uid}, and this process runs as user ${user}: give it its own`)
  if ((there.mode & 0o022) !== 0) throw refuse('can be written to by others: take that away with chmod go-w')
}

export type HeldFolder = {
  /** @throws KeepsakeError `unavailable` where the folder has gone, or another lies in its place */
  check(): void
  release(): void
}

/**
 * Holds a folder open, so that whatever takes its place is told from it: whoever may write to its parent could put a
 * folder of his own there, with sessions that he made.
 */
export const holdFolder = (path: string): HeldFolder => {
  const taken = identityAt(path)
  let descriptor: number | undefined
  try {
    descriptor = openSync(path, constants.O_RDONLY | (constants.O_DIRECTORY ?? 0) | (constants.O_NOFOLLOW ?? 0))
  } catch (error) {
    // Windows opens no folders this way, and lets nobody replace one that has open files.
    if (process.platform !== 'win32') throw error
  }
  return {
    check() {
      const there = identityAt(path)
      if (isSameFile(there, taken)) return
      const what = there === undefined ? 'has gone' : 'is another than at the start: somebody put it in its place'
      throw new KeepsakeError(
        'unavailable',
        `The session directory ${JSON.stringify(path)} ${what}. Bring back the one that was there, or start again.`,
      )
    },
    release() {
      if (descriptor !== undefined) closeSync(descriptor)
      descriptor = undefined
    },
  }
}

/** @throws KeepsakeError `unavailable` in the place of the error of the file system */
export const wrapErrors = <T>(directory: string, work: () => T): T => {
  try {
    return work()
  } catch (cause) {
    if (isKeepsakeError(cause)) throw cause
    const why = messageOf(cause)
    throw new KeepsakeError(
      'unavailable',
      `The session directory ${JSON.stringify(directory)} cannot be used: ${why}. Give a path in a folder that this process may write to.`,
      { cause },
    )
  }
}
