// Locks for the files of a folder: one process at a time changes a file, and no dead process keeps a lock.

import { randomUUID } from 'node:crypto'
import { closeSync, fsyncSync, openSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Awaitable, KeepsakeError } from '../../error.ts'
import { flushFolder, ignoreErrors, removeIfPresent, renameIfPresent } from './file-system.ts'
import { FREE, openTokens, SLOTS } from './tokens.ts'

/*
 * Each of 256 locks has one token, an empty file. A process takes a lock by renaming `locks/3f.free` to `locks/3f.TICKET`,
 * and gives it back by renaming it back. If many processes rename one name, one succeeds. Nothing is created or removed,
 * so sessions can be removed on a full disk.
 *
 * A process that dies or stops while it holds a lock would keep it. So a process that has waited and has seen one ticket
 * for HOLD ends that ticket, whether its holder lives or not. First it removes `TICKET.tmp`, the draft that the holder
 * created before it took the token and must rename to write. Then it renames `3f.TICKET` to `3f.free`. From then on the
 * old holder cannot write: its draft is gone, its rename fails with ENOENT, and it takes the lock again. If two processes
 * end one ticket, the slower one finds no token of that name, because the next holder has another ticket. So no process
 * compares its clock with the clock of another, or uses a process id of another container.
 *
 * A removal needs no draft, so nothing can stop it. It looks at the clock before it removes.
 */

/** Milliseconds after which a waiting process ends the ticket of another. */
const HOLD = 1_000
/** Milliseconds after taking a lock, within which a removal must happen. */
const REMOVE_WITHIN = 500
/** Milliseconds that a process waits for a lock. */
const WAIT = 2_000

/** The lock is held, or was lost. */
const BUSY: unique symbol = Symbol('busy')
/** Another process ended the ticket. */
const LOST = new Error('the lock was lost')

/** Replaces the file at `path`, in one step. With `flush`, the change survives a loss of power. */
type Put = (path: string, text: string, flush: boolean) => void
/** Removes the file at `path`, or moves it to `to`. */
type Remove = (path: string, flush: boolean, to?: string) => void

export type Locks = {
  /**
   * Calls `work` under the lock of `slot`. It may put one file. It is called again if the lock was lost.
   *
   * @throws KeepsakeError `unavailable` after two seconds of waiting
   */
  write<T>(slot: string, work: (put: Put) => T): Awaitable<T>
  /** Calls `work` under the lock of `slot`. It may remove one file. @throws the errors of `write` */
  remove<T>(slot: string, work: (remove: Remove) => T): Awaitable<T>
  /** Does the same as `remove`, but returns `BUSY` instead of waiting. */
  tryRemove<T>(slot: string, work: (remove: Remove) => T): T | typeof BUSY
  /**
   * Calls `work` under many locks at once, until it has run under each of the 256. It must be short, because all writers
   * wait for it.
   *
   * @throws the errors of `write`, after it has called `work` under the locks that were free
   */
  underEach(work: () => void): Promise<void>
  /** @throws KeepsakeError `unavailable` if the folder is gone: then an absent file proves nothing */
  assertPresent(): void
}

/** A draft of a file, or a folder that was never renamed to its name: a process that died leaves it behind. */
export const isLeftover = (file: string): boolean => /^(?:[0-9a-f-]{36}\.tmp|locks\.[0-9a-f-]{36}\.new)$/.test(file)

/**
 * Calls `attempt` again and again, without blocking the process, until it returns anything but `BUSY`. It ends the ticket
 * of a holder that keeps the lock for more than HOLD.
 */
const retryUntilFree = async <T>(
  holderOf: () => string | undefined,
  attempt: () => T | typeof BUSY,
  endTicket: (ticket: string | undefined) => void,
): Promise<T> => {
  const started = performance.now()
  let seen: string | undefined = FREE
  let since = started
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 5))
    const ticket = holderOf()
    if (ticket === FREE) {
      const answer = attempt()
      if (answer !== BUSY) return answer
    }
    const now = performance.now()
    if (ticket !== seen) {
      seen = ticket
      since = now
    } else if (ticket !== FREE && now - since > HOLD) endTicket(ticket)
    if (now - started > WAIT) {
      throw new KeepsakeError(
        'unavailable',
        'Other processes kept changing files of the session directory for two seconds. Nothing was changed. Try again.',
      )
    }
  }
}

/**
 * Opens the locks of a folder, and creates their tokens if they are missing. `check` throws if another folder has taken
 * the place of this one.
 *
 * @throws the error of the file system
 */
export const openLocks = (directory: string, check: () => void = () => {}): Locks => {
  const draftOf = (ticket: string) => join(directory, `${ticket}.tmp`)
  const tokens = openTokens(directory, draftOf)

  const assertPresent = () => {
    check()
    if (tokens.arePresent()) return
    throw new KeepsakeError(
      'unavailable',
      `The session directory ${JSON.stringify(directory)} or its folder "locks" is gone. Bring it back, or restart the process.`,
    )
  }

  const runLocked = <T>(slot: string, ticket: string, work: () => T): T | typeof BUSY => {
    if (!tokens.take(slot, ticket)) return BUSY
    try {
      return work()
    } catch (error) {
      if (error === LOST) return BUSY
      throw error
    } finally {
      ignoreErrors(() => tokens.release(slot, ticket))
    }
  }

  const tryWrite = <T>(slot: string, work: (put: Put) => T): T | typeof BUSY => {
    check()
    const ticket = randomUUID()
    const draft = draftOf(ticket)
    const file = openSync(draft, 'wx', 0o600)
    let isOpen = true
    let isDraft = true
    const close = () => {
      isOpen = false
      closeSync(file)
    }
    const put: Put = (path, text, flush) => {
      writeFileSync(file, text)
      if (flush) fsyncSync(file)
      close()
      if (!renameIfPresent(draft, path)) throw LOST
      isDraft = false
      if (flush) flushFolder(directory)
    }
    try {
      return runLocked(slot, ticket, () => work(put))
    } finally {
      if (isOpen) ignoreErrors(close)
      if (isDraft) ignoreErrors(() => unlinkSync(draft))
    }
  }

  const tryRemove = <T>(slot: string, work: (remove: Remove) => T): T | typeof BUSY => {
    check()
    const started = performance.now()
    const remove: Remove = (path, flush, to) => {
      if (performance.now() - started > REMOVE_WITHIN) throw LOST
      if (to === undefined) removeIfPresent(path)
      else renameIfPresent(path, to)
      if (flush) flushFolder(directory)
    }
    return runLocked(slot, randomUUID(), () => work(remove))
  }

  /** Calls `work` under the locks of `slots` that are free. Returns the slots whose lock it did not hold all the time. */
  const tryTogether = (slots: readonly string[], work: () => void): readonly string[] => {
    check()
    const ticket = randomUUID()
    const taken: string[] = []
    const released = new Set<string>()
    try {
      for (const slot of slots) if (tokens.take(slot, ticket)) taken.push(slot)
      if (taken.length > 0) work()
    } finally {
      for (const slot of taken) {
        ignoreErrors(() => {
          if (tokens.release(slot, ticket)) released.add(slot)
        })
      }
    }
    return slots.filter((slot) => !released.has(slot))
  }

  const wait = <T>(slot: string, attempt: () => T | typeof BUSY): Promise<T> => {
    const holderOf = () => {
      assertPresent()
      return tokens.holderOf(slot)
    }
    return retryUntilFree(holderOf, attempt, (ticket) => tokens.end(slot, ticket))
  }

  const waiting =
    <W>(attempt: <T>(slot: string, work: (act: W) => T) => T | typeof BUSY) =>
    <T>(slot: string, work: (act: W) => T): Awaitable<T> => {
      const answer = attempt(slot, work)
      return answer === BUSY ? wait(slot, () => attempt(slot, work)) : answer
    }

  return {
    write: waiting<Put>(tryWrite),
    remove: waiting<Remove>(tryRemove),
    tryRemove,
    async underEach(work) {
      let left = tryTogether(SLOTS, work)
      while (left.length > 0) {
        const [busy = '', ...others] = left
        try {
          await wait(busy, () => (tryTogether([busy], work).length > 0 ? BUSY : undefined))
        } catch (error) {
          tryTogether(others, work)
          throw error
        }
        left = tryTogether(others, work)
      }
    },
    assertPresent,
  }
}
