// The session files of a folder: the listing is complete even while other processes write.

import { readdirSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { keyOf } from './file-name.ts'
import type { Locks } from './locks.ts'

/** Milliseconds that work on many files blocks the event loop at a time. */
const SLICE = 5

/** Returns a function for each step of long work: it waits now and then, so that the event loop can do other work. */
export const yieldEvery = (): (() => undefined | Promise<void>) => {
  let since = performance.now()
  return () => {
    if (performance.now() - since <= SLICE) return undefined
    return setImmediate().then(() => {
      since = performance.now()
    })
  }
}

export type Listing = {
  /** The names of session files, sorted. */
  readonly files: readonly string[]
  /** The error because of which the listing may be incomplete. */
  readonly failure: unknown
}

/**
 * Lists the session files of a folder.
 *
 * A save renames a draft to the name of the session. POSIX does not define whether a listing that is in progress then
 * returns that name (readdir, on files that are added or removed), and file systems differ. So all writers wait while the
 * folder is listed.
 */
export const listFiles = async (directory: string, locks: Locks): Promise<Listing> => {
  const names = new Set<string>()
  let failure: unknown
  try {
    await locks.underEach(() => {
      for (const name of readdirSync(directory)) names.add(name)
    })
  } catch (error) {
    failure = error
  }
  return { files: [...names].filter((name) => keyOf(name) !== undefined).sort(), failure }
}

/** All session files of a folder, sorted. @throws KeepsakeError `unavailable` if a lock stays busy */
export const allFiles = async (directory: string, locks: Locks): Promise<readonly string[]> => {
  const { files, failure } = await listFiles(directory, locks)
  if (failure !== undefined) throw failure
  return files
}
