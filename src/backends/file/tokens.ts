// The tokens of the locks of a folder: 256 empty files, each named after its holder.

import { closeSync, existsSync, openSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createFolder, removeIfPresent, renameIfPresent } from './file-system.ts'

const LOCKS = 'locks'
export const FREE = 'free'

/** The names of the locks: `00` to `ff`. */
export const SLOTS: readonly string[] = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))

export type Tokens = {
  /** Whether the folder of the tokens is present. */
  arePresent(): boolean
  /** Takes a lock for a ticket. Returns false if the lock is not free. */
  take(slot: string, ticket: string): boolean
  /** Gives a lock back. Returns false if another process has ended this ticket. */
  release(slot: string, ticket: string): boolean
  /** The ticket that holds a lock, `FREE`, or undefined if the token is missing. */
  holderOf(slot: string): string | undefined
  /** Ends a ticket, so that its holder writes nothing more. Creates the token if it is missing. */
  end(slot: string, ticket: string | undefined): void
}

/**
 * Opens the tokens of a folder, and creates them if they are missing.
 *
 * @throws the error of the file system
 */
export const openTokens = (directory: string, draftOf: (ticket: string) => string): Tokens => {
  const locks = join(directory, LOCKS)
  const pathOf = (slot: string, ticket: string) => join(locks, `${slot}.${ticket}`)
  const release = (slot: string, ticket: string) => renameIfPresent(pathOf(slot, ticket), pathOf(slot, FREE))
  // All of them in one step, because a token that existed twice would be two locks.
  createFolder(directory, LOCKS, (draft) => {
    for (const slot of SLOTS) closeSync(openSync(join(draft, `${slot}.${FREE}`), 'wx', 0o600))
  })
  return {
    arePresent: () => existsSync(locks),
    take: (slot, ticket) => renameIfPresent(pathOf(slot, FREE), pathOf(slot, ticket)),
    release,
    holderOf: (slot) =>
      readdirSync(locks)
        .find((name) => name.startsWith(`${slot}.`))
        ?.slice(slot.length + 1),
    end(slot, ticket) {
      if (ticket === undefined) return closeSync(openSync(pathOf(slot, FREE), 'a', 0o600))
      removeIfPresent(draftOf(ticket))
      for (const name of readdirSync(locks)) {
        if (name.endsWith(`.${ticket}`)) release(name.slice(0, -ticket.length - 1), ticket)
      }
    },
  }
}
