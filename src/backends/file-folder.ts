// A folder of sessions is for its owner alone, and the reason why it is refused says what to do.

import { lstatSync, mkdirSync } from 'node:fs'
import { Fault, messageOf } from '../outcome.ts'
import { codeOf } from './file-record.ts'

/** Makes a folder for its owner alone, or takes one where nobody else can plant a file. */
export const takeFolder = (path: string): void => {
  const refuse = (why: string) => new Fault('bad_option', `The session directory ${JSON.stringify(path)} ${why}.`)
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

/** @throws Fault `unavailable` in the place of the error of the file system */
export const opening = <T>(directory: string, work: () => T): T => {
  try {
    return work()
  } catch (cause) {
    if (cause instanceof Fault) throw cause
    const why = messageOf(cause)
    throw new Fault(
      'unavailable',
      `The session directory ${JSON.stringify(directory)} cannot be used: ${why}. Give a path in a folder that this process may write to.`,
      { cause },
    )
  }
}
