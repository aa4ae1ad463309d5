// Sessions as files, one each, that an operator can read: they survive a restart, and several processes share them.

import { randomUUID } from 'node:crypto'
import { type Dir, lstatSync, mkdirSync, opendirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import type { Backend, Entry } from '../backend.ts'
import { emitter, type Listener } from '../events.ts'
import { Fault } from '../outcome.ts'
import { codeOf, printed, proved, readBody, readRecord, Unreadable } from './file-record.ts'
import { leftover, type Turns, turnsIn } from './file-turns.ts'

export type FileOptions = {
  /**
   * `process` (the default): what was saved survives the end of the process, however sudden. `power`: also a loss of
   * power, for a wait on the disk at each write.
   */
  readonly durability?: 'process' | 'power'
  /** Hears of files that cannot be read. */
  readonly onEvent?: Listener
}

/** Files looked at in one sweep; milliseconds that it holds up the process at a time; and until a draft is left over. */
const LOOKS = 10_000
const SLICE = 5
const LEFT = 600_000

const QUARANTINE = 'quarantine'
const SECRET = 'secret'

const record = /^[0-9a-f]{64}$/
/** 32 bytes in base64url: the last of 43 letters has but four bits, and one that had more would name a key twice. */
const shape = /^[\w-]{42}[AEIMQUYcgkosw048]$/

/** In hexadecimal, because there are file systems to which A and a are one letter. @throws TypeError for what is no key */
const fileOf = (key: string): string => {
  if (typeof key !== 'string' || !shape.test(key)) throw new TypeError('A key has to be 43 characters of base64url.')
  return Buffer.from(key, 'base64url').toString('hex')
}

const slotOf = (file: string): string => file.slice(0, 2)

/** Makes a folder for its owner alone, or takes one where nobody else can plant a file. */
const takeFolder = (path: string): void => {
  const refuse = (why: string) => new Fault('bad_option', `The session directory ${JSON.stringify(path)} ${why}.`)
  try {
    mkdirSync(path, 0o700)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
  }
  const there = lstatSync(path)
  const user = process.geteuid?.()
  if (there.isSymbolicLink()) throw refuse('is a symbolic link: name the directory that it leads to')
  if (!there.isDirectory()) throw refuse('is not a directory: name another, or one that is not there yet')
  // Windows has neither owners nor modes of this kind.
  if (user === undefined) return
  if (there.uid !== user)
    throw refuse(`belongs to user ${there.uid}, and this process runs as user ${user}: give it its own`)
  if ((there.mode & 0o022) !== 0) throw refuse('can be written to by others: take that away with chmod go-w')
}

const open = (directory: string): Turns => {
  try {
    takeFolder(directory)
    takeFolder(join(directory, QUARANTINE))
    const turns = turnsIn(directory)
    takeFolder(join(directory, 'locks'))
    return turns
  } catch (cause) {
    if (cause instanceof Fault) throw cause
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new Fault(
      'unavailable',
      `The session directory ${JSON.stringify(directory)} cannot be used: ${why}. Give a path in a folder that this process may write to.`,
      { cause },
    )
  }
}

/**
 * A backend in the folder `directory`, which is made where it is missing, for its owner alone; its parent has to be there.
 *
 * A file is named after the bytes of its key, and replaced as a whole: readers never wait and never see half of one.
 * Writers of other processes are waited for, two seconds at most, without blocking. The processes may be of several
 * containers, but of one host: to others, a network file system may show what has been replaced.
 *
 * A file that is damaged is moved to the folder `quarantine`, where nothing is ever deleted; one that a newer version of
 * this library wrote stays where it is. The visitors of both are strangers, and the event is `corrupt`.
 *
 * @throws Fault `bad_option`, also where others may write to the directory; `unavailable` where it cannot be used
 */
export const fileBackend = (directory: string, { durability = 'process', onEvent }: FileOptions = {}): Backend => {
  if (typeof directory !== 'string' || directory === '') {
    throw new Fault('bad_option', "A file backend needs the path of its directory, such as 'file:sessions'.")
  }
  if (durability !== 'process' && durability !== 'power') {
    throw new Fault('bad_option', "durability has to be 'process' or 'power'.")
  }
  const flush = durability === 'power'
  const root = resolve(directory)
  const turns = open(root)
  const emit = emitter(onEvent)
  const pathOf = (file: string) => join(root, file)
  const secretPath = pathOf(SECRET)
  const read = (file: string) => readRecord(pathOf(file))
  /** The entry of a file; undefined also where it cannot be read. */
  const entryOf = (file: string): Entry | undefined => {
    const there = read(file)
    return there instanceof Unreadable ? undefined : there
  }
  const nameInQuarantine = (file: string) => join(QUARANTINE, `${file}.${randomUUID()}`)

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
    emit('corrupt', { message: `The session file ${pathOf(file)} cannot be read: ${why}. ${where}`, error })
  }

  const readSecret = (): string | undefined => {
    const body = readBody(secretPath)
    if (!(body instanceof Unreadable)) return body?.slice(0, -1)
    throw new Fault(
      'unavailable',
      `The secret in ${JSON.stringify(secretPath)} cannot be used: ${body.why}. Put a copy of it back; or delete it, and every visitor starts anew.`,
    )
  }

  /** Removes the session of a file if it has expired. */
  const sweepRecord = (file: string, now: number): boolean => {
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
    return done === true
  }

  /** Removes what a process that died has left behind. If it only stood still, it hears that its draft has gone. */
  const sweepLeftover = (file: string, now: number): void => {
    const there = lstatSync(pathOf(file), { throwIfNoEntry: false })
    if (there === undefined || there.mtimeMs >= now - LEFT) return
    if (there.isFile() || there.isDirectory()) rmSync(pathOf(file), { recursive: true, force: true })
  }

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
      if (there === undefined) turns.stand()
      if (!(there instanceof Unreadable)) return there
      report(file, there)
      return undefined
    },
    generate(key, entry) {
      const file = fileOf(key)
      const text = printed(entry)
      return turns.write(slotOf(file), (put) => {
        const there = read(file)
        if (there !== undefined) {
          return there instanceof Unreadable || there.version !== entry.version ? 'taken' : undefined
        }
        put(pathOf(file), text, flush)
        return undefined
      })
    },
    set(key, { value, head, version, expiresAt }, expected) {
      const file = fileOf(key)
      return turns.write(slotOf(file), (put) => {
        const there = entryOf(file)
        if (there === undefined) return 'gone'
        if (there.version === version) return undefined
        if (there.version !== expected) return 'stale'
        const text = printed({ ...there, value, head, version, expiresAt: expiresAt ?? there.expiresAt })
        put(pathOf(file), text, flush)
        return undefined
      })
    },
    clear(key, expected) {
      const file = fileOf(key)
      return turns.remove(slotOf(file), (remove) => {
        const there = read(file)
        const unreadable = there instanceof Unreadable
        if (expected !== undefined && (unreadable || there?.version !== expected)) return 'stale'
        // What is no file of ours may be a directory: out of the way is as good as gone.
        remove(pathOf(file), flush, unreadable && !there.newer ? pathOf(nameInQuarantine(file)) : undefined)
        return undefined
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
    async sweep(now, limit) {
      let swept = 0
      let whole = round === undefined
      let since = performance.now()
      for (let looked = 0; looked < LOOKS && swept < limit; looked++) {
        const file = nextName()
        if (file === undefined) {
          if (whole) break
          // This sweep began in the middle of a round: the next one has what it missed.
          whole = true
        } else if (record.test(file)) {
          if (sweepRecord(file, now)) swept++
        } else if (leftover.test(file)) sweepLeftover(file, now)
        if (performance.now() - since > SLICE) {
          await setImmediate()
          since = performance.now()
        }
      }
      return swept
    },
    secret(fresh) {
      // Kept against a loss of power whatever the durability: without it, every session would be lost.
      const kept = readSecret()
      if (kept !== undefined) return kept
      return turns.write('00', (put) => {
        const there = readSecret()
        if (there === undefined) put(secretPath, proved(`${fresh}\n`), true)
        return there ?? fresh
      })
    },
    close: endRound,
  }
}
