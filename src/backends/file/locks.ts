// Turns at changing the files of a folder, one process at a time: a token's name says whose turn it is.

import { randomUUID } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type Awaitable, KeepsakeError } from '../../error.ts'
import { codeOf } from './record.ts'

/*
 * Each of 256 slots has one token, an empty file. A turn is taken by renaming `locks/3f.free` to `locks/3f.TICKET`, and
 * given back by renaming it back: of many who rename one name, one succeeds, and nothing is made or removed, so a full
 * disk stops nobody from removing.
 *
 * Whoever dies, or stands still, in his turn would keep it. So who has waited and seen one ticket for HOLD ends its turn
 * for it, whether its process lives or not: he first removes `TICKET.tmp`, the draft that its holder has made before
 * taking the token and must rename to write, and only then renames `3f.TICKET` to `3f.free`. From there on that holder
 * can write no more: his draft is gone, he hears ENOENT and takes another turn. Of two who end one turn, the slower
 * finds no token of that name: the turn of the next holder has another. No clock is compared with another's, and no
 * process id with one of another container.
 *
 * A removal needs no draft, and so cannot be stopped: it looks at the clock before it strikes.
 */

/** Milliseconds that a turn may last while others wait; that a removal may come after its beginning; that one waits. */
const HOLD = 1_000
const PROMPT = 500
const PATIENCE = 2_000

const LOCKS = 'locks'
const FREE = 'free'

/** Somebody else has the turn. */
const BUSY: unique symbol = Symbol('busy')
/** The turn was ended by another. */
const LOST = new Error('the turn is over')

/** Puts a file, whole and at once, in the place of what is at `path`; with `flush`, so that it survives a loss of power. */
type Put = (path: string, text: string, flush: boolean) => void
/** Removes what is at `path`, or moves it to `to`. */
export type Remove = (path: string, flush: boolean, to?: string) => void

export type Locks = {
  /** Work that may put one file, in the turn of `slot`. @throws KeepsakeError `unavailable` after two seconds of waiting */
  write<T>(slot: string, work: (put: Put) => T): Awaitable<T>
  /** Work that may remove one file. @throws as `write` */
  remove<T>(slot: string, work: (remove: Remove) => T): Awaitable<T>
  /** As `remove`, without waiting. */
  tryRemove<T>(slot: string, work: (remove: Remove) => T): T | typeof BUSY
  /** @throws KeepsakeError `unavailable` where the folder has gone: then a file that is not there says nothing */
  stand(): void
}

/** Renames; false where there is nothing of that name. */
export const renamed = (from: string, to: string): boolean => {
  try {
    renameSync(from, to)
    return true
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false
    throw error
  }
}

/** Removes what may have gone already. */
export const removed = (path: string): void => {
  try {
    unlinkSync(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
  }
}

/** For what is only tidy to do, where another error is on its way or the work is done. */
export const quietly = (act: () => void): void => {
  try {
    act()
  } catch {
    // Others end the turn after HOLD, and the sweep finds the draft.
  }
}

const slots = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))

/** A draft of a file, or a folder that was never put in its place: left over if nobody renames it. */
export const leftover = /^(?:[0-9a-f-]{36}\.tmp|(?:locks|owners)\.[0-9a-f-]{36}\.new)$/

/** Makes a folder that comes into being at once, with all that `fill` puts into it, where there is none of that name. */
export const appear = (directory: string, name: string, fill: (fresh: string) => void): void => {
  if (existsSync(join(directory, name))) return
  const fresh = join(directory, `${name}.${randomUUID()}.new`)
  mkdirSync(fresh, 0o700)
  try {
    fill(fresh)
    renameSync(fresh, join(directory, name))
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true })
    // ENOTEMPTY, or its other names: somebody was first.
    if (!['ENOTEMPTY', 'EEXIST', 'EPERM'].includes(codeOf(error) as string)) throw error
  }
}

const gone = (directory: string): KeepsakeError =>
  new KeepsakeError(
    'unavailable',
    `The session directory ${JSON.stringify(directory)} has gone, or its folder ${LOCKS} has. Bring it back, or start again.`,
  )

/**
 * The turns of a folder, whose tokens are made where they are missing. `check` throws where the folder is not the one
 * that it was.
 *
 * @throws the error of the file system
 */
export const openLocks = (directory: string, check: () => void = () => {}): Locks => {
  const locks = join(directory, LOCKS)
  const token = (slot: string, ticket: string) => join(locks, `${slot}.${ticket}`)
  const draftOf = (ticket: string) => join(directory, `${ticket}.tmp`)

  const stand = () => {
    check()
    if (!existsSync(locks)) throw gone(directory)
  }

  const flushFolder = () => {
    const folder = openSync(directory, 'r')
    try {
      fsyncSync(folder)
    } finally {
      closeSync(folder)
    }
  }

  const during = <T>(slot: string, ticket: string, work: () => T): T | typeof BUSY => {
    if (!renamed(token(slot, FREE), token(slot, ticket))) return BUSY
    try {
      return work()
    } catch (error) {
      if (error === LOST) return BUSY
      throw error
    } finally {
      quietly(() => renameSync(token(slot, ticket), token(slot, FREE)))
    }
  }

  const tryWrite = <T>(slot: string, work: (put: Put) => T): T | typeof BUSY => {
    check()
    const ticket = randomUUID()
    const draft = draftOf(ticket)
    const file = openSync(draft, 'wx', 0o600)
    let open = true
    let drafted = true
    const close = () => {
      open = false
      closeSync(file)
    }
    const put: Put = (path, text, flush) => {
      writeFileSync(file, text)
      if (flush) fsyncSync(file)
      close()
      if (!renamed(draft, path)) throw LOST
      drafted = false
      if (flush) flushFolder()
    }
    try {
      return during(slot, ticket, () => work(put))
    } finally {
      if (open) quietly(close)
      if (drafted) quietly(() => unlinkSync(draft))
    }
  }

  const tryRemove = <T>(slot: string, work: (remove: Remove) => T): T | typeof BUSY => {
    check()
    const started = performance.now()
    const remove: Remove = (path, flush, to) => {
      if (performance.now() - started > PROMPT) throw LOST
      if (to === undefined) removed(path)
      else renamed(path, to)
      if (flush) flushFolder()
    }
    return during(slot, randomUUID(), () => work(remove))
  }

  /** Ends a turn for its holder. Without one, somebody took the token out of the folder. */
  const end = (slot: string, ticket: string | undefined) => {
    if (ticket === undefined) return closeSync(openSync(token(slot, FREE), 'a', 0o600))
    removed(draftOf(ticket))
    renamed(token(slot, ticket), token(slot, FREE))
  }

  /** Tries again, without holding up the process, while others have their turns. */
  const patiently = async <T>(slot: string, attempt: () => T | typeof BUSY): Promise<T> => {
    const started = performance.now()
    let seen: string | undefined = FREE
    let since = started
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 5))
      stand()
      const ticket = readdirSync(locks)
        .find((name) => name.startsWith(`${slot}.`))
        ?.slice(slot.length + 1)
      if (ticket === FREE) {
        const answer = attempt()
        if (answer !== BUSY) return answer
      }
      const now = performance.now()
      if (ticket !== seen) {
        seen = ticket
        since = now
      } else if (ticket !== FREE && now - since > HOLD) end(slot, ticket)
      if (now - started > PATIENCE) {
        throw new KeepsakeError(
          'unavailable',
          'Others kept changing files of the session directory. Nothing was changed.',
        )
      }
    }
  }

  const waiting =
    <W>(attempt: <T>(slot: string, work: (act: W) => T) => T | typeof BUSY) =>
    <T>(slot: string, work: (act: W) => T): Awaitable<T> => {
      const answer = attempt(slot, work)
      return answer === BUSY ? patiently(slot, () => attempt(slot, work)) : answer
    }

  // A token made twice would be two turns at once.
  appear(directory, LOCKS, (fresh) => {
    for (const slot of slots) closeSync(openSync(join(fresh, `${slot}.${FREE}`), 'wx', 0o600))
  })
  return {
    write: waiting<Put>(tryWrite),
    remove: waiting<Remove>(tryRemove),
    tryRemove,
    stand,
  }
}
