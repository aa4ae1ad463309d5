// The secret that a folder of sessions keeps for its application, in a file beside them.

import { join } from 'node:path'
import { type Awaitable, KeepsakeError } from '../../error.ts'
import type { Locks } from './locks.ts'
import { readBody, Unreadable, withChecksum } from './record.ts'

/** Which lock protects the secret. */
const SLOT = '00'

/** @throws KeepsakeError `unavailable` if the file of the secret is damaged */
const readSecret = (path: string): string | undefined => {
  const body = readBody(path)
  if (!(body instanceof Unreadable)) return body?.slice(0, -1)
  throw new KeepsakeError(
    'unavailable',
    `The secret in ${JSON.stringify(path)} cannot be used: ${body.reason}. Put a copy of the file back, or delete it: then every visitor becomes anonymous.`,
  )
}

/** Returns the secret of the folder. Keeps `candidate` as its secret if there is none. @throws the errors of `readSecret` */
export const keepSecret = (directory: string, locks: Locks, candidate: string): Awaitable<string> => {
  const path = join(directory, 'secret')
  const secret = readSecret(path)
  if (secret !== undefined) return secret
  return locks.write(SLOT, (put) => {
    const found = readSecret(path)
    // It survives a loss of power with each durability, because without it every session would be lost.
    if (found === undefined) put(path, withChecksum(`${candidate}\n`), true)
    return found ?? candidate
  })
}
