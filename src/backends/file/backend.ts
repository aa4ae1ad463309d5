// Sessions as files, one each: an operator can read them, they survive a restart, and several processes share them.

import { join, resolve } from 'node:path'
import { chain, checkOptionNames, KeepsakeError } from '../../error.ts'
import { emitter, type SessionEventListener } from '../../events.ts'
import type { Backend, Entry, ScanPage } from '../contract.ts'
import { type EntryFiles, entryFiles, isBroken, QUARANTINE } from './entry-files.ts'
import { fileOf, isStorageKey, keyOf, slotOf } from './file-name.ts'
import { type HeldFolder, holdFolder, secureFolder, wrapErrors } from './folder.ts'
import { allFiles, yieldEvery } from './listing.ts'
import { type Locks, openLocks } from './locks.ts'
import { ownerIndex } from './owners.ts'
import { encodeRecord, Unreadable } from './record.ts'
import { keepSecret } from './secret.ts'
import { folderSweep } from './sweep.ts'

export type FileOptions = {
  /**
   * `process` (the default): a saved session survives the sudden end of the process. `power`: it also survives a loss of
   * power, but each write waits for the disk.
   */
  readonly durability?: 'process' | 'power' | undefined
  /** Receives `corrupt_entry` for files that cannot be read. */
  readonly onEvent?: SessionEventListener | undefined
}

/** Milliseconds: the longest life of a session. */
const LONGEST = 400 * 86_400_000

/** An entry in the place of a file that a newer version wrote: the manager recognises that it cannot read it. */
const unreadableEntry = (): Entry => ({
  value: undefined,
  metadata: 'unreadable',
  expiresAt: Date.now() + LONGEST,
  version: 'unknown',
  owner: undefined,
})

type Folder = {
  readonly root: string
  readonly held: HeldFolder
  readonly locks: Locks
}

/** @throws KeepsakeError `invalid_option`, `unavailable` */
const openFolder = (root: string): Folder =>
  wrapErrors(root, () => {
    secureFolder(root)
    secureFolder(join(root, QUARANTINE))
    const held = holdFolder(root)
    const locks = openLocks(root, held.check)
    secureFolder(join(root, 'locks'))
    return { root, held, locks }
  })

/** The operations on one session. @param flush whether changes must survive a loss of power */
const sessionOperations = (
  { held, locks }: Folder,
  { pathOf, read, readEntry, end, quarantine }: EntryFiles,
  flush: boolean,
): Pick<Backend, 'get' | 'generate' | 'set' | 'clear' | 'touch'> => ({
  get(key) {
    // No entry has such a key. A value that is no text throws below.
    if (typeof key === 'string' && !isStorageKey(key)) return undefined
    const file = fileOf(key)
    const content = read(file)
    if (isBroken(content)) {
      quarantine(file, content)
      return undefined
    }
    if (content === undefined) locks.assertPresent()
    else held.check()
    return content instanceof Unreadable ? unreadableEntry() : content
  },
  generate(key, entry) {
    const file = fileOf(key)
    held.check()
    const text = encodeRecord(entry)
    return locks.write<undefined | 'taken'>(slotOf(file), (put) => {
      const content = read(file)
      if (content === undefined) put(pathOf(file), text, flush)
      else if (content instanceof Unreadable || content.version !== entry.version) return 'taken'
      return undefined
    })
  },
  set(key, { value, metadata, version, expiresAt }, expected) {
    const file = fileOf(key)
    return locks.write<undefined | 'stale' | 'gone'>(slotOf(file), (put) => {
      const content = read(file)
      if (content === undefined || isBroken(content)) return 'gone'
      if (content instanceof Unreadable) return 'stale'
      if (content.version === version) return undefined
      if (content.version !== expected) return 'stale'
      const next = { ...content, value, metadata, version, expiresAt: expiresAt ?? content.expiresAt }
      put(pathOf(file), encodeRecord(next), flush)
      return undefined
    })
  },
  clear(key, expected, mark) {
    const ended = end(fileOf(key), mark, (content) => {
      if (expected === undefined) return true
      if (content === undefined || content instanceof Unreadable) return false
      return content.version === expected || content.version === mark?.version
    })
    return chain(ended, (done) => (done ? undefined : 'stale'))
  },
  touch(key, expiresAt) {
    const file = fileOf(key)
    return locks.write(slotOf(file), (put) => {
      const entry = readEntry(file)
      if (entry !== undefined && entry.expiresAt < expiresAt) {
        put(pathOf(file), encodeRecord({ ...entry, expiresAt }), flush)
      }
      return undefined
    })
  },
})

/** A page of all entries, in the order of the names of their files. The cursor is the last name of a page. */
const scan = async (
  { root, locks }: Folder,
  { readEntry }: EntryFiles,
  cursor: string | undefined,
  limit: number,
): Promise<ScanPage> => {
  const entries: (Entry & { readonly key: string })[] = []
  const pause = yieldEvery()
  for (const file of await allFiles(root, locks)) {
    if (cursor !== undefined && file <= cursor) continue
    const entry = readEntry(file)
    if (entry !== undefined) entries.push({ key: keyOf(file) as string, ...entry })
    if (entries.length >= limit) return { entries, cursor: file }
    await pause()
  }
  return { entries, cursor: undefined }
}

/**
 * A backend in the folder `directory`. The folder is created if it is missing, for the user of this process alone; its
 * parent must exist.
 *
 * A file is named after its key, so `ls *LABEL*` finds the session of a label. A file is replaced in one step: a reader
 * never waits and never reads a part of one. A writer waits for the writers of other processes, two seconds at most and
 * without blocking. The processes may run in several containers of one host. They must not run on several hosts, because a
 * network file system may return a file that has been replaced.
 *
 * A file that is damaged, or belongs to another user, is moved to the folder `quarantine`, from which keepsake deletes
 * nothing. A file that a newer version of keepsake wrote stays in its place. The visitors of both are anonymous, and the
 * event is `corrupt_entry`.
 *
 * The backend holds the folder open. If the folder is removed or replaced by another, every operation throws `unavailable`.
 *
 * There is no index of owners: `byOwner` reads every file of the folder, so its time grows with the number of sessions.
 * Use `sqlite:` for more than a few thousand. `byOwner.clear` throws `unknown_outcome` if a newer version wrote files,
 * because this version cannot read their owners.
 *
 * @throws KeepsakeError `invalid_option`, also if other users may write to the directory; `unavailable` if it cannot be used
 */
export const fileBackend = (directory: string, options: FileOptions = {}): Backend => {
  checkOptionNames(options, ['durability', 'onEvent'], 'fileBackend()')
  const { durability = 'process', onEvent } = options
  if (typeof directory !== 'string' || directory === '') {
    throw new KeepsakeError(
      'invalid_option',
      "The file backend has no directory. Give it the path of one, for example 'file:sessions'.",
    )
  }
  if (durability !== 'process' && durability !== 'power') {
    throw new KeepsakeError(
      'invalid_option',
      `The option durability is ${JSON.stringify(durability)}. It must be 'process' or 'power'.`,
    )
  }
  const flush = durability === 'power'
  const folder = openFolder(resolve(directory))
  const { root, held, locks } = folder
  const files = entryFiles(root, locks, flush, emitter(onEvent))
  const sweep = folderSweep(root, locks, files)
  const owners = ownerIndex(root, locks, files)

  return {
    name: 'file',
    defaultPeriod: 604_800,
    ...sessionOperations(folder, files, flush),
    async sweep(now, limit, removed) {
      held.check()
      return sweep.run(now, limit, removed)
    },
    scan: (cursor, limit) => scan(folder, files, cursor, limit),
    keepSecret(candidate) {
      held.check()
      return keepSecret(root, locks, candidate)
    },
    byOwner: owners,
    close() {
      sweep.close()
      held.release()
    },
  }
}
