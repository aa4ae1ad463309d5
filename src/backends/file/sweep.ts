// The sweep of a folder: removes expired sessions and the leftovers of dead processes, some files at a time.

import { type Dir, lstatSync, opendirSync, rmSync } from 'node:fs'
import type { Removed } from '../contract.ts'
import { type EntryFiles, isBroken } from './entry-files.ts'
import { keyOf, slotOf } from './file-name.ts'
import { yieldEvery } from './listing.ts'
import { isLeftover, type Locks } from './locks.ts'
import { Unreadable } from './record.ts'

/** Files that one sweep looks at. */
const FILES = 10_000
/** Milliseconds after which a draft is a leftover. */
const LEFTOVER_AGE = 600_000

export type Sweep = {
  /** As `sweep` of the contract. The next call continues in the folder after the last file. */
  run(now: number, limit: number, removed?: (entry: Removed) => void): Promise<number>
  close(): void
}

export const folderSweep = (
  directory: string,
  locks: Locks,
  { pathOf, read, readEntry, quarantine }: EntryFiles,
): Sweep => {
  /** The position in the folder, from one call to the next. It is undefined at the beginning of a round. */
  let round: Dir | undefined
  const endRound = () => {
    round?.closeSync()
    round = undefined
  }
  const nextName = (): string | undefined => {
    round ??= opendirSync(directory)
    const next = round.readSync()
    if (next === null) endRound()
    return next?.name
  }

  /** Removes a session if it has expired. */
  const sweepSession = (key: string, file: string, now: number, removed?: (entry: Removed) => void): boolean => {
    const content = read(file)
    if (isBroken(content)) quarantine(file, content)
    if (content === undefined || content instanceof Unreadable || content.expiresAt > now) return false
    const done = locks.tryRemove(slotOf(file), (remove) => {
      // A request may have touched it in the meantime.
      const entry = readEntry(file)
      if (entry === undefined || entry.expiresAt > now) return false
      remove(pathOf(file), false)
      return true
    })
    if (done !== true) return false
    const { metadata, owner } = content
    if (owner !== undefined) removed?.({ key, metadata, owner })
    return true
  }

  /** Removes the draft of a process that died. If the process only stopped for a while, its rename fails and it retries. */
  const sweepLeftover = (file: string, now: number): void => {
    const status = lstatSync(pathOf(file), { throwIfNoEntry: false })
    if (status === undefined || status.mtimeMs >= now - LEFTOVER_AGE) return
    if (status.isFile() || status.isDirectory()) rmSync(pathOf(file), { recursive: true, force: true })
  }

  return {
    async run(now, limit, removed) {
      let swept = 0
      let isWholeRound = round === undefined
      const pause = yieldEvery()
      for (let looked = 0; looked < FILES && swept < limit; looked++) {
        const file = nextName()
        const key = file === undefined ? undefined : keyOf(file)
        if (file === undefined) {
          if (isWholeRound) break
          // This call began in the middle of a round, so the next round has the files before that.
          isWholeRound = true
        } else if (key !== undefined) {
          if (sweepSession(key, file, now, removed)) swept++
        } else if (isLeftover(file)) sweepLeftover(file, now)
        await pause()
      }
      return swept
    },
    close: endRound,
  }
}
