// The owner and the identity of files: keepsake reads only files of its own user or of root.

import { type BigIntStats, statSync } from 'node:fs'

/** Whether a file of this user can be trusted: the user of this process, or root. Always true on Windows, which has no such users. */
export const isTrustedUser = (uid: number | bigint): boolean => {
  const user = process.geteuid?.()
  return user === undefined || Number(uid) === user || Number(uid) === 0
}

/** Identifies one file or folder, also after a move. Bigints, because some file systems use all 64 bits. */
export type Identity = Pick<BigIntStats, 'dev' | 'ino'>

/**
 * The identity of the file or folder at a path. Undefined if there is none. An identity is unique only as long as the file
 * is open: after that, the file system may use it for another file.
 */
export const identityAt = (path: string): Identity | undefined =>
  statSync(path, { bigint: true, throwIfNoEntry: false })

export const isSameFile = (one: Identity | undefined, other: Identity | undefined): boolean =>
  one?.ino === other?.ino && one?.dev === other?.dev
