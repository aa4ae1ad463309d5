// The session files of a folder: how a file is read, ended under its lock, and moved to quarantine.

import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { type Awaitable, chain, isThenable } from '../../error.ts'
import type { SessionEvent } from '../../events.ts'
import type { Entry, Mark } from '../contract.ts'
import { slotOf } from './file-name.ts'
import { codeOf } from './file-system.ts'
import type { Locks } from './locks.ts'
import { encodeRecord, readRecord, Unreadable } from './record.ts'

export const QUARANTINE = 'quarantine'

/** The entry of a file, the reason why it cannot be read, or undefined if there is no file. */
export type Content = Entry | Unreadable | undefined

export type EntryFiles = {
  pathOf(file: string): string
  read(file: string): Content
  /** The entry of a file. Returns undefined also if it cannot be read. */
  readEntry(file: string): Entry | undefined
  /**
   * Removes a file under its lock, or puts a mark in its place. Does nothing and returns false if `isMeant` returns false
   * for its content. If the disk is full, the file is removed without a mark.
   */
  end(file: string, mark: Mark | undefined, isMeant: (content: Content) => boolean): Awaitable<boolean>
  /** Moves a file to quarantine if it is still unreadable, and emits `corrupt_entry`. A held lock prevents the move. */
  quarantine(file: string, unreadable: Unreadable): void
}

/** Whether a file is damaged, or is no file of this backend. A file of a newer version is neither. */
export const isBroken = (content: Content): content is Unreadable => content instanceof Unreadable && !content.newer

/** Whether the disk or the quota of this user is full: then nothing can be written, but files can be removed. */
const isFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(codeOf(error) as string)

/** Calls `work`, and then `fallback` if the disk is full. */
const orIfFull = <T>(work: () => Awaitable<T>, fallback: () => Awaitable<T>): Awaitable<T> => {
  const recover = (error: unknown) => {
    if (!isFull(error)) throw error
    return fallback()
  }
  try {
    const answer = work()
    return isThenable(answer) ? answer.then(undefined, recover) : answer
  } catch (error) {
    return recover(error)
  }
}

/** @param flush whether changes must survive a loss of power */
export const entryFiles = (
  directory: string,
  locks: Locks,
  flush: boolean,
  emit: (type: 'corrupt_entry', details: Omit<SessionEvent, 'type'>) => void,
): EntryFiles => {
  const pathOf = (file: string) => join(directory, file)
  const read = (file: string) => readRecord(pathOf(file))
  const nameInQuarantine = (file: string) => join(QUARANTINE, `${file}.${randomUUID()}`)

  return {
    pathOf,
    read,
    readEntry(file) {
      const content = read(file)
      return content instanceof Unreadable ? undefined : content
    },
    end(file, mark, isMeant) {
      const slot = slotOf(file)
      const remove = () =>
        locks.remove(slot, (remove) => {
          const content = read(file)
          if (!isMeant(content)) return false
          // A broken file may be a directory, which cannot be removed like a file.
          remove(pathOf(file), flush, isBroken(content) ? pathOf(nameInQuarantine(file)) : undefined)
          return true
        })
      if (mark === undefined) return remove()
      const replace = () =>
        locks.write<boolean | 'broken'>(slot, (put) => {
          const content = read(file)
          if (!isMeant(content)) return false
          if (isBroken(content)) return 'broken'
          if (content !== undefined) put(pathOf(file), encodeRecord({ value: undefined, ...mark }), flush)
          return true
        })
      // On a full disk the session ends without a mark: the end matters more than its explanation.
      return orIfFull<boolean>(() => chain(replace(), (ended) => (ended === 'broken' ? remove() : ended)), remove)
    },
    quarantine(file, { reason }) {
      let error: unknown
      let place = 'The file was left in its place.'
      const moved = nameInQuarantine(file)
      try {
        locks.tryRemove(slotOf(file), (remove) => {
          if (!isBroken(read(file))) return
          remove(pathOf(file), false, pathOf(moved))
          place = `The file is now ${moved}.`
        })
      } catch (caught) {
        error = caught
      }
      emit('corrupt_entry', {
        message: `The session file ${JSON.stringify(pathOf(file))} cannot be read: ${reason}. ${place}`,
        error,
      })
    },
  }
}
