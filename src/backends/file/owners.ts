// Whose a session is: an empty mark in a folder of the owner, made before the session and looked for after it.

import { hash } from 'node:crypto'
import {
  closeSync,
  type Dir,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  opendirSync,
  openSync,
  readdirSync,
  rmdirSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { KeepsakeError } from '../../error.ts'
import type { Entry, Mark, OwnerIndex } from '../contract.ts'
import { appear, type Locks, quietly, removed, renamed } from './locks.ts'
import { codeOf, fileOf, keyOf, record, slotOf } from './record.ts'

/*
 * owners/3f…/9a…         a mark: this owner has, or is about to have, a session in the file 9a…
 * owners/3f…/9a….struck  the same, and the session is being removed
 *
 * `generate` marks, puts the session, looks for its mark, and removes the session again where the mark is gone. `clear`
 * strikes the marks it sees, removes each session in its turn, then the mark; and looks again, until it sees none. A mark
 * that it sees is gone for its `generate`, whenever that puts its session; one that it does not see was made after the
 * last looks. The model of this is in test/model/owners.ts.
 *
 * So a session without a mark is one that nobody has the key of, whoever dies and when. A mark without a session does no
 * harm, and goes in the turn of that session, so that a `generate` that is about to put one finds it gone.
 */

const OWNERS = 'owners'
const STRUCK = '.struck'
/** Looks of a clear, after which it leaves to others what they never cease to generate; milliseconds until a mark is old. */
const LOOKS = 100
const OLD = 600_000
/** Milliseconds that work on many files holds up the process at a time. */
const SLICE = 5

/** To be called at each step of long work: lets others in between, now and then. */
export const yieldEvery = (): (() => undefined | Promise<void>) => {
  let since = performance.now()
  return () => {
    if (performance.now() - since <= SLICE) return undefined
    return setImmediate().then(() => {
      since = performance.now()
    })
  }
}

/** What the sessions themselves say and do. */
type Sessions = {
  readonly directory: string
  readonly turns: Locks
  /** Whether marks have to survive a loss of power, as their sessions do. */
  readonly flush: boolean
  /** Undefined where there is none, or none that can be read. */
  read(file: string): Entry | undefined
  /** Removes the session of an owner, or leaves this in its place, and says whether there was one. */
  end(file: string, owner: string, left: Mark | undefined): boolean | Promise<boolean>
}

export type Owners = OwnerIndex & {
  mark(owner: string, file: string): void
  /** Whether the mark is still there: else the owner was cleared. */
  marked(owner: string, file: string): boolean
  /** Takes away the mark of a session that is gone; where that cannot be now, a sweep does. */
  tidy(owner: string, file: string): void
  /** Looks at one mark more, and takes it away if it is old and its session gone; false when it has been round. */
  sweep(now: number): boolean
  close(): void
}

const flushFolder = (path: string): void => {
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

/** What is in a folder, name by name; nothing where it has gone. */
function* namesIn(path: string): Generator<string> {
  let folder: Dir
  try {
    folder = opendirSync(path)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return
    throw error
  }
  try {
    for (let next = folder.readSync(); next !== null; next = folder.readSync()) yield next.name
  } finally {
    folder.closeSync()
  }
}

const markedIn = (mark: string): string => (mark.endsWith(STRUCK) ? mark.slice(0, -STRUCK.length) : mark)

/**
 * The owners of the sessions of a folder. Where they are missing, marks are made for all the sessions that are there.
 *
 * @throws the error of the file system
 */
export const ownersIn = ({ directory, turns, flush, read, end }: Sessions): Owners => {
  const root = join(directory, OWNERS)
  const nameOf = (owner: string) => hash('sha256', owner)
  const folderOf = (owner: string) => join(root, nameOf(owner))
  const pathOf = (owner: string, file: string) => join(folderOf(owner), file)
  const isThere = (path: string) => lstatSync(path, { throwIfNoEntry: false }) !== undefined

  const stand = () => {
    turns.stand()
    if (existsSync(root)) return
    throw new KeepsakeError(
      'unavailable',
      `The folder ${JSON.stringify(root)} has gone, and whose each session is with it. Start again: it is then made anew.`,
    )
  }

  const make = (owners: string, owner: string, file: string, flush: boolean): void => {
    const folder = join(owners, nameOf(owner))
    for (;;) {
      try {
        closeSync(openSync(join(folder, file), 'a', 0o600))
        if (flush) flushFolder(folder)
        return
      } catch (error) {
        if (codeOf(error) !== 'ENOENT') throw error
      }
      try {
        mkdirSync(folder, 0o700)
        if (flush) flushFolder(owners)
      } catch (error) {
        // Others make it too, and whoever empties it removes it.
        if (codeOf(error) === 'ENOENT') stand()
        if (codeOf(error) !== 'EEXIST') throw error
      }
    }
  }

  const namesOf = (owner: string): readonly string[] => {
    try {
      return readdirSync(folderOf(owner))
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error
      stand()
      return []
    }
  }

  const filesOf = (owner: string): readonly string[] => [
    ...new Set(
      namesOf(owner)
        .map(markedIn)
        .filter((file) => record.test(file)),
    ),
  ]

  /** Whether a file may hold a session of the owner of this folder: what cannot be read may be anybody's. */
  const holds = (folder: string, file: string): boolean => {
    const entry = read(file)
    if (entry === undefined) return isThere(join(directory, file))
    return entry.owner !== undefined && nameOf(entry.owner) === basename(folder)
  }

  /** A mark goes in the turn of its session, unless that is there after all; and with the last mark, their folder. */
  const drop = (folder: string, file: string): void => {
    turns.tryRemove(slotOf(file), (remove) => {
      if (!holds(folder, file)) remove(join(folder, file), false)
    })
    quietly(() => rmdirSync(folder))
  }

  const isOld = (path: string, now: number): boolean => {
    const there = lstatSync(path, { throwIfNoEntry: false })
    return there !== undefined && there.mtimeMs < now - OLD
  }

  /** One that is not old may be of a `generate` that is about to put its session. */
  const dropOld = (folder: string, name: string, now: number): void => {
    const file = markedIn(name)
    if (!record.test(file) || isThere(join(directory, file))) return
    if (file !== name) removed(join(folder, name))
    else if (isOld(join(folder, name), now)) drop(folder, file)
  }

  /** Removes the sessions of some files, one by one: none keeps another from its end. */
  const endAll = async (owner: string, files: readonly string[], left: Mark | undefined): Promise<number> => {
    const breathe = yieldEvery()
    const strike = (file: string) => renamed(pathOf(owner, file), pathOf(owner, file + STRUCK))
    for (const file of files) {
      strike(file)
      await breathe()
    }
    let ended = 0
    const failures: unknown[] = []
    const finish = async (file: string) => {
      try {
        if (await end(file, owner, left)) ended++
        removed(pathOf(owner, file + STRUCK))
      } catch (error) {
        failures.push(error)
      }
    }
    const ending: Promise<void>[] = []
    for (const file of files) {
      ending.push(finish(file))
      await breathe()
    }
    await Promise.all(ending)
    if (failures.length > 0) throw failures[0]
    return ended
  }

  function* round(): Generator<(now: number) => void> {
    for (const owner of namesIn(root)) {
      if (!record.test(owner)) continue
      const folder = join(root, owner)
      for (const name of namesIn(folder)) yield (now) => dropOld(folder, name, now)
      yield () => quietly(() => rmdirSync(folder))
    }
  }
  let sweeping: ReturnType<typeof round> | undefined

  appear(directory, OWNERS, (fresh) => {
    for (const file of namesIn(directory)) {
      const owner = record.test(file) ? read(file)?.owner : undefined
      if (owner !== undefined) make(fresh, owner, file, false)
    }
    // One wait for all: file systems that keep a journal commit what came before, too.
    if (flush) flushFolder(fresh)
  })

  return {
    mark: (owner, file) => make(root, owner, file, flush),
    marked: (owner, file) => isThere(pathOf(owner, file)),
    tidy: (owner, file) => quietly(() => drop(folderOf(owner), file)),
    async list(owner) {
      const breathe = yieldEvery()
      const found: (Entry & { readonly key: string })[] = []
      for (const file of filesOf(owner)) {
        const entry = read(file)
        // It may be another's, who was first at this key, so that his `generate` was done and this owner's left a mark.
        if (entry?.owner === owner) found.push({ ...entry, key: keyOf(file) })
        else if (entry === undefined) dropOld(folderOf(owner), file, Date.now())
        await breathe()
      }
      return found
    },
    async clear(owner, except, left) {
      const kept = except === undefined ? undefined : fileOf(except)
      let cleared = 0
      // Twice none: a mark that another clear strikes under one's eyes may be seen under neither name, but not again.
      for (let look = 0, none = 0; look < LOOKS && none < 2; look++) {
        const files = filesOf(owner).filter((file) => file !== kept)
        none = files.length === 0 ? none + 1 : 0
        if (none === 0) cleared += await endAll(owner, files, left)
      }
      quietly(() => rmdirSync(folderOf(owner)))
      return cleared
    },
    sweep(now) {
      sweeping ??= round()
      const { done, value: look } = sweeping.next()
      if (done) sweeping = undefined
      else look(now)
      return !done
    },
    close() {
      sweeping?.return(undefined)
      sweeping = undefined
    },
  }
}
