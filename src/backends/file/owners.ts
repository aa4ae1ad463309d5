// The sessions of an owner: found by reading all files of the folder, because a folder for development has few.

import { KeepsakeError } from '../../error.ts'
import type { Entry, Mark, OwnerIndex } from '../contract.ts'
import type { Content, EntryFiles } from './entry-files.ts'
import { fileOf, keyOf } from './file-name.ts'
import { allFiles, listFiles, yieldEvery } from './listing.ts'
import type { Locks } from './locks.ts'
import { Unreadable } from './record.ts'

/** Passes of `clear` at most: the first ends every session that was there at the beginning. */
const PASSES = 5

type Found = {
  /** The files of an owner, and their entries. */
  readonly owned: ReadonlyMap<string, Entry>
  /** The number of files that a newer version wrote: their owner cannot be read. */
  readonly newer: number
}

/**
 * Finds the sessions of an owner without an index. The time grows with the number of sessions in the folder, for `list`
 * and for each pass of `clear`, which makes two to five.
 */
export const ownerIndex = (directory: string, locks: Locks, { read, end }: EntryFiles): OwnerIndex => {
  const find = async (owner: string, files: readonly string[]): Promise<Found> => {
    const pause = yieldEvery()
    const owned = new Map<string, Entry>()
    let newer = 0
    for (const file of files) {
      const content = read(file)
      if (content instanceof Unreadable) newer += Number(content.newer)
      else if (content?.owner === owner) owned.set(file, content)
      await pause()
    }
    return { owned, newer }
  }

  /** Ends the sessions of some files. One that cannot be ended prevents the end of no other. */
  const endAll = async (owner: string, files: readonly string[], mark: Mark | undefined): Promise<number> => {
    const pause = yieldEvery()
    const isMeant = (content: Content) => !(content instanceof Unreadable) && content?.owner === owner
    let ended = 0
    const failures: unknown[] = []
    const endOne = async (file: string) => {
      try {
        if (await end(file, mark, isMeant)) ended++
      } catch (error) {
        failures.push(error)
      }
    }
    const ending: Promise<void>[] = []
    for (const file of files) {
      ending.push(endOne(file))
      await pause()
    }
    await Promise.all(ending)
    if (failures.length > 0) throw failures[0]
    return ended
  }

  return {
    async list(owner) {
      const { owned } = await find(owner, await allFiles(directory, locks))
      return [...owned].map(([file, entry]) => ({ ...entry, key: keyOf(file) as string }))
    },
    async clear(owner, except, mark) {
      const spared = except === undefined ? undefined : fileOf(except)
      let cleared = 0
      let unknown = 0
      // A login may replace a session of the owner by another after a pass has listed the files, and before the pass reads
      // the first session. The next pass finds the other, so two passes in a row must find none. If logins never cease,
      // the last of them count as later than this clear.
      for (let pass = 0, none = 0; pass < PASSES && none < 2; pass++) {
        const { files, failure } = await listFiles(directory, locks)
        const { owned, newer } = await find(owner, files)
        unknown = newer
        const meant = [...owned.keys()].filter((file) => file !== spared)
        none = meant.length === 0 ? none + 1 : 0
        cleared += await endAll(owner, meant, mark)
        if (failure !== undefined) throw failure
      }
      if (unknown === 0) return cleared
      throw new KeepsakeError(
        'unknown_outcome',
        `A newer version of keepsake wrote ${unknown} session files, so their owners are unknown. These sessions were not ended. Revoke them with the newer version.`,
      )
    },
  }
}
