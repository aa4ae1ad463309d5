// Sessions as files, one each, that an operator can read: they survive a restart, and several processes share them.

import { randomUUID } from 'node:crypto'
import { type Dir, lstatSync, opendirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { type Awaitable, chain, checkOptionNames, isThenable, KeepsakeError } from '../../error.ts'
import { emitter, type SessionEventListener } from '../../events.ts'
import type { Backend, Entry, Mark, Removed } from '../contract.ts'
import { cursors } from '../cursors.ts'
import { holdFolder, secureFolder, wrapErrors } from './folder.ts'
import { leftover, openLocks, type Remove } from './locks.ts'
import { ownersIn, yieldEvery } from './owners.ts'
import {
  codeOf,
  fileOf,
  keyOf,
  printed,
  readBody,
  readRecord,
  record,
  shape,
  slotOf,
  Unreadable,
  withChecksum,
} from './record.ts'

export type FileOptions = {
  /**
   * `process` (the default): what was saved survives the end of the process, however sudden. `power`: also a loss of
   * power, for a wait on the disk at each write.
   */
  readonly durability?: 'process' | 'power' | undefined
  /** Hears of files that cannot be read. */
  readonly onEvent?: SessionEventListener | undefined
}

/** Files looked at in one sweep, and marks of owners; milliseconds until a draft is left over. */
const LOOKS = 10_000
const LOOKS_AT_MARKS = 1_000
const LEFT = 600_000

const QUARANTINE = 'quarantine'
const SECRET = 'secret'

/** Milliseconds: as long as a session may live at most. */
const LONGEST = 400 * 86_400_000

/** What a newer version wrote, as an entry that the layers above know to be none of theirs. */
const unreadable = (): Entry => ({
  value: undefined,
  metadata: 'unreadable',
  expiresAt: Date.now() + LONGEST,
  version: 'unknown',
  owner: undefined,
})

/** The disk or the quota of this user is full: then nothing can be put, and things can be removed. */
const noSpace = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(codeOf(error) as string)

/** What `work` gives, or `instead` where the disk is full. */
const whereThereIsSpace = <T>(work: () => Awaitable<T>, instead: () => Awaitable<T>): Awaitable<T> => {
  const failed = (error: unknown) => {
    if (!noSpace(error)) throw error
    return instead()
  }
  try {
    const answer = work()
    return isThenable(answer) ? answer.then(undefined, failed) : answer
  } catch (error) {
    return failed(error)
  }
}

/**
 * A backend in the folder `directory`, which is made where it is missing, for its owner alone; its parent has to be there.
 *
 * A file is named after the bytes of its key, and replaced as a whole: readers never wait and never see half of one.
 * Writers of other processes are waited for, two seconds at most, without blocking. The processes may be of several
 * containers, but of one host: to others, a network file system may show what has been replaced.
 *
 * A file that is damaged, or belongs to another user, is moved to the folder `quarantine`, where nothing is ever deleted;
 * one that a newer version of this library wrote stays where it is. The visitors of both are strangers, and the event is
 * `corrupt_entry`.
 *
 * The folder is held: once it has gone, or another was put in its place, every operation throws `unavailable`.
 *
 * The sessions of an owner are found by empty files in the folder `owners`. Where that is missing it is made of all the
 * sessions that are there, before this function returns: some ten seconds for 100 000. While it runs, no process of a
 * version that knows no owners may write to the directory: nobody would find what it begins.
 *
 * @throws KeepsakeError `invalid_option`, also where others may write to the directory; `unavailable` where it cannot be used
 */
export const fileBackend = (directory: string, options: FileOptions = {}): Backend => {
  checkOptionNames(options, ['durability', 'onEvent'], 'fileBackend()')
  const { durability = 'process', onEvent } = options
  if (typeof directory !== 'string' || directory === '') {
    throw new KeepsakeError(
      'invalid_option',
      "A file backend needs the path of its directory, such as 'file:sessions'.",
    )
  }
  if (durability !== 'process' && durability !== 'power') {
    throw new KeepsakeError('invalid_option', "durability has to be 'process' or 'power'.")
  }
  const flush = durability === 'power'
  const root = resolve(directory)
  const { turns, held } = wrapErrors(root, () => {
    secureFolder(root)
    secureFolder(join(root, QUARANTINE))
    const held = holdFolder(root)
    const turns = openLocks(root, held.check)
    secureFolder(join(root, 'locks'))
    return { turns, held }
  })
  const emit = emitter(onEvent)
  const pathOf = (file: string) => join(root, file)
  const secretPath = pathOf(SECRET)
  const read = (file: string) => readRecord(pathOf(file))
  /** The entry of a file; undefined also where it cannot be read. */
  const entryOf = (file: string): Entry | undefined => {
    const there = read(file)
    return there instanceof Unreadable ? undefined : there
  }
  const isBroken = (there: Entry | Unreadable | undefined): boolean => there instanceof Unreadable && !there.newer
  const nameInQuarantine = (file: string) => join(QUARANTINE, `${file}.${randomUUID()}`)

  /** Removes a session, and what is no file of ours out of the way: it may be a directory. Whether it was a session. */
  const discard = (file: string, there: Entry | Unreadable | undefined, remove: Remove): boolean => {
    const broken = isBroken(there)
    remove(pathOf(file), flush, broken ? pathOf(nameInQuarantine(file)) : undefined)
    return !broken
  }

  /** Moves what is still unreadable out of the way, unless others are at it, and says so. */
  const report = (file: string, { why }: Unreadable): void => {
    let error: unknown
    let where = 'It is left where it is.'
    const moved = nameInQuarantine(file)
    try {
      turns.tryRemove(slotOf(file), (remove) => {
        const there = read(file)
        if (!(there instanceof Unreadable) || there.newer) return
        remove(pathOf(file), false, pathOf(moved))
        where = `It is now ${moved}.`
      })
    } catch (caught) {
      error = caught
    }
    emit('corrupt_entry', { message: `The session file ${pathOf(file)} cannot be read: ${why}. ${where}`, error })
  }

  const readSecret = (): string | undefined => {
    const body = readBody(secretPath)
    if (!(body instanceof Unreadable)) return body?.slice(0, -1)
    throw new KeepsakeError(
      'unavailable',
      `The secret in ${JSON.stringify(secretPath)} cannot be used: ${body.why}. Put a copy of it back; or delete it, and every visitor starts anew.`,
    )
  }

  /** Removes the session of a file if it has expired. */
  const sweepRecord = (file: string, now: number, removed?: (entry: Removed) => void): boolean => {
    const there = read(file)
    if (there instanceof Unreadable && !there.newer) report(file, there)
    if (there === undefined || there instanceof Unreadable || there.expiresAt > now) return false
    const done = turns.tryRemove(slotOf(file), (remove) => {
      // It may have been touched since.
      const still = entryOf(file)
      if (still === undefined || still.expiresAt > now) return false
      remove(pathOf(file), false)
      return true
    })
    if (done !== true) return false
    const { metadata, owner } = there
    if (owner !== undefined) {
      owners.tidy(owner, file)
      removed?.({ key: keyOf(file), metadata, owner })
    }
    return true
  }

  /** Removes what a process that died has left behind. If it only stood still, it hears that its draft has gone. */
  const sweepLeftover = (file: string, now: number): void => {
    const there = lstatSync(pathOf(file), { throwIfNoEntry: false })
    if (there === undefined || there.mtimeMs >= now - LEFT) return
    if (there.isFile() || there.isDirectory()) rmSync(pathOf(file), { recursive: true, force: true })
  }

  const owners = wrapErrors(root, () => {
    const made = ownersIn({
      directory: root,
      turns,
      flush,
      read: entryOf,
      end(file, owner, left) {
        const his = (there: Entry | Unreadable | undefined): there is Entry | Unreadable =>
          there !== undefined && (there instanceof Unreadable || there.owner === owner)
        const removed = () =>
          turns.remove(slotOf(file), (remove) => {
            const there = read(file)
            return his(there) && discard(file, there, remove)
          })
        if (left === undefined) return removed()
        const marked = () =>
          turns.write(slotOf(file), (put) => {
            const there = read(file)
            if (!his(there)) return false
            if (isBroken(there)) return undefined
            put(pathOf(file), printed({ value: undefined, ...left }), flush)
            return true
          })
        return whereThereIsSpace(() => chain(marked(), (done) => done ?? removed()), removed)
      },
    })
    secureFolder(join(root, 'owners'))
    return made
  })

  const everything = cursors(function* () {
    const directory = opendirSync(root)
    try {
      for (let next = directory.readSync(); next !== null; next = directory.readSync()) {
        const entry = record.test(next.name) ? entryOf(next.name) : undefined
        if (entry !== undefined) yield { key: Buffer.from(next.name, 'hex').toString('base64url'), ...entry }
      }
    } finally {
      directory.closeSync()
    }
  })

  /** Where the sweep stands in the directory, from one call to the next; undefined at its start. */
  let round: Dir | undefined
  const nextName = (): string | undefined => {
    round ??= opendirSync(root)
    const next = round.readSync()
    if (next === null) endRound()
    return next?.name
  }
  const endRound = () => {
    round?.closeSync()
    round = undefined
  }

  return {
    name: 'file',
    defaultPeriod: 604_800,
    get(key) {
      // Whatever other text somebody asks for, nothing is kept under it.
      if (typeof key === 'string' && !shape.test(key)) return undefined
      const file = fileOf(key)
      const there = read(file)
      if (there instanceof Unreadable && !there.newer) {
        report(file, there)
        return undefined
      }
      if (there === undefined) turns.stand()
      else held.check()
      return there instanceof Unreadable ? unreadable() : there
    },
    generate(key, entry) {
      const file = fileOf(key)
      held.check()
      const text = printed(entry)
      const { owner, version } = entry
      if (owner !== undefined) owners.mark(owner, file)
      const answer = turns.write(slotOf(file), (put) => {
        const there = read(file)
        if (there !== undefined) return there instanceof Unreadable || there.version !== version ? 'taken' : undefined
        put(pathOf(file), text, flush)
        return undefined
      })
      if (owner === undefined) return answer
      return chain(answer, (taken) => {
        if (taken || owners.marked(owner, file)) return taken
        // The owner was cleared meanwhile. Nobody has the key yet, so nobody has changed what is there.
        return turns.remove(slotOf(file), (remove) => {
          if (entryOf(file)?.version === version) remove(pathOf(file), flush)
          return 'gone'
        })
      })
    },
    set(key, { value, metadata, version, expiresAt }, expected) {
      const file = fileOf(key)
      return turns.write(slotOf(file), (put) => {
        const there = read(file)
        if (there === undefined || isBroken(there)) return 'gone'
        if (there instanceof Unreadable) return 'stale'
        if (there.version === version) return undefined
        if (there.version !== expected) return 'stale'
        const text = printed({ ...there, value, metadata, version, expiresAt: expiresAt ?? there.expiresAt })
        put(pathOf(file), text, flush)
        return undefined
      })
    },
    clear(key, expected, left) {
      const file = fileOf(key)
      let owner: string | undefined
      /** What is there, and whether it is what is to end. */
      const asked = () => {
        const there = read(file)
        const entry = there instanceof Unreadable ? undefined : there
        owner = entry?.owner
        return { there, entry, meant: expected === undefined || entry?.version === expected }
      }
      const removed = () =>
        turns.remove<undefined | 'stale'>(slotOf(file), (remove) => {
          const { there, meant } = asked()
          if (!meant) return 'stale'
          discard(file, there, remove)
          return undefined
        })
      const marked = (left: Mark) =>
        turns.write<undefined | 'stale' | 'broken'>(slotOf(file), (put) => {
          const { there, entry, meant } = asked()
          if (entry?.version === left.version) return undefined
          if (!meant) return 'stale'
          if (isBroken(there)) return 'broken'
          if (there !== undefined) put(pathOf(file), printed({ value: undefined, ...left }), flush)
          return undefined
        })
      const answer =
        left === undefined
          ? removed()
          : whereThereIsSpace<undefined | 'stale'>(
              () => chain(marked(left), (answer) => (answer === 'broken' ? removed() : answer)),
              // To end is worth more than to say so later.
              removed,
            )
      return chain(answer, (stale) => {
        if (stale === undefined && owner !== undefined) owners.tidy(owner, file)
        return stale
      })
    },
    touch(key, expiresAt) {
      const file = fileOf(key)
      return turns.write(slotOf(file), (put) => {
        const there = entryOf(file)
        if (there !== undefined && there.expiresAt < expiresAt) {
          put(pathOf(file), printed({ ...there, expiresAt }), flush)
        }
        return undefined
      })
    },
    async sweep(now, limit, removed) {
      held.check()
      let swept = 0
      let whole = round === undefined
      const breathe = yieldEvery()
      for (let looked = 0; looked < LOOKS && swept < limit; looked++) {
        const file = nextName()
        if (file === undefined) {
          if (whole) break
          // This sweep began in the middle of a round: the next one has what it missed.
          whole = true
        } else if (record.test(file)) {
          if (sweepRecord(file, now, removed)) swept++
        } else if (leftover.test(file)) sweepLeftover(file, now)
        await breathe()
      }
      // Marks are left over where somebody died, and can wait until the sessions that have expired are gone.
      for (let looked = 0; looked < LOOKS_AT_MARKS && swept < limit && owners.sweep(now); looked++) await breathe()
      return swept
    },
    scan(from, limit) {
      held.check()
      const { values: entries, cursor } = everything.next(from, limit)
      return { entries, cursor }
    },
    keepSecret(candidate) {
      held.check()
      // Kept against a loss of power whatever the durability: without it, every session would be lost.
      const kept = readSecret()
      if (kept !== undefined) return kept
      return turns.write('00', (put) => {
        const there = readSecret()
        if (there === undefined) put(secretPath, withChecksum(`${candidate}\n`), true)
        return there ?? candidate
      })
    },
    byOwner: {
      async list(owner) {
        held.check()
        return owners.list(owner)
      },
      async clear(owner, except, left) {
        held.check()
        return owners.clear(owner, except, left)
      },
    },
    close() {
      endRound()
      owners.close()
      held.release()
    },
  }
}
