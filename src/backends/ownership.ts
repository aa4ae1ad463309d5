// Which files hold our sessions: those that belong to this user or to root, and not others put in their place.

import { type BigIntStats, statSync } from 'node:fs'

/** Whether what belongs to this user can be believed: root and the user of this process. Windows has no such owners. */
export const trusted = (uid: number | bigint): boolean => {
  const user = process.geteuid?.()
  return user === undefined || Number(uid) === user || Number(uid) === 0
}

/** Names one file or folder, whatever its path. As bigints, because some file systems use all 64 bits. */
export type Identity = Pick<BigIntStats, 'dev' | 'ino'>

/**
 * What lies at a path; undefined where nothing does. While somebody has it open, nothing else can have its identity: so
 * whoever compares identities holds open what he began with.
 */
export const identityAt = (path: string): Identity | undefined =>
  statSync(path, { bigint: true, throwIfNoEntry: false })

export const same = (one: Identity | undefined, other: Identity | undefined): boolean =>
  one?.ino === other?.ino && one?.dev === other?.dev
