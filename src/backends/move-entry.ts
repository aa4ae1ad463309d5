// How one entry moves from an old store to a new one: by one compare-and-set, which no clock and no crash can undo.

import { newVersion } from '../crypto/keys.ts'
import { KeepsakeError } from '../error.ts'
import type { Backend, Entry } from './contract.ts'

/*
 * The old store decides which store has an entry. An entry moves in three steps. Any process may do the next step for
 * another process:
 *
 *   1. A copy is put into the new store. Its metadata marks it as a copy of one version, so no process takes it for the entry.
 *   2. In the old store a tombstone that names this copy replaces the entry: a compare-and-set on its version. From now on
 *      the copy is the entry.
 *   3. The copy becomes an ordinary entry, with the metadata and the version of the old one.
 *
 * A change or an end in the old store before step 2 is not undone: step 2 fails, and the copy counts for nothing. A process
 * that comes after step 2 finds the tombstone, and continues in the new store. A copy counts only if the old store still
 * has its version, or the tombstone that names it. Any other copy is removed by the process that finds it: its entry has
 * ended or changed, or a slow process made the copy from an old read.
 */
const COPY = 'moving.'
const MOVED = 'moved.'

/** Milliseconds that a tombstone outlives its entry: the longest `absoluteTimeout` of `sessionManager`, so that it outlives any touched copy. */
const TOMBSTONE_KEPT = 400 * 86_400_000

/** Steps that other processes may take for one entry in the meantime. So many never happen, unless the new store loses entries. */
const MAX_ROUNDS = 100

type WithMetadata = Pick<Entry, 'metadata'>

export const isCopy = ({ metadata }: WithMetadata): boolean => metadata.startsWith(COPY)
export const isTombstone = ({ metadata }: WithMetadata): boolean => metadata.startsWith(MOVED)

/** Whether this is an ordinary entry: no tombstone, and no copy that is left from a move in the other direction. */
export const isOrdinary = (entry: Entry | undefined): entry is Entry =>
  entry !== undefined && !isTombstone(entry) && !isCopy(entry)

const copyOf = (entry: Entry): Entry => ({
  ...entry,
  metadata: `${COPY}${entry.version}.${entry.metadata}`,
  version: newVersion(),
})

/** The metadata and the version of the entry that was copied. */
const originalOf = ({ metadata }: Entry): Pick<Entry, 'metadata' | 'version'> => {
  const dot = metadata.indexOf('.', COPY.length)
  return { version: metadata.slice(COPY.length, dot), metadata: metadata.slice(dot + 1) }
}

/** Whether a copy counts: the old store has the version that was copied, or the tombstone that names the copy. */
const isValidCopy = (copy: Entry, old: Entry | undefined): boolean =>
  old !== undefined &&
  (isTombstone(old) ? old.metadata === MOVED + copy.version : old.version === originalOf(copy).version)

/** An entry, and the store that has it. */
export type Place = { readonly store: Backend; readonly entry: Entry }

/**
 * Finds the entry of a key. If it is in the old store and has not expired, it is moved first, if `moves`. `read` is the entry
 * as it was read from the old store: this saves a call.
 *
 * @throws KeepsakeError `unavailable` if the new store loses entries
 */
export type MoveEntry = (key: string, moves: boolean, read?: Entry) => Promise<Place | undefined>

export const moveEntry = (from: Backend, to: Backend, now: () => number): MoveEntry => {
  /** Step 3. */
  const finish = async (key: string, copy: Entry): Promise<unknown> =>
    to.set(key, { ...originalOf(copy), value: copy.value }, copy.version)

  return async (key, moves, read) => {
    if (read !== undefined && moves) await to.generate(key, copyOf(read))
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const found = await to.get(key)
      if (found !== undefined && !isCopy(found) && !isTombstone(found)) return { store: to, entry: found }
      // The old store is read second, because entries move only in this direction.
      const old = await from.get(key)
      if (found !== undefined && (isTombstone(found) || !isValidCopy(found, old))) {
        await to.clear(key, found.version)
        continue
      }
      if (old === undefined || isCopy(old)) return undefined
      if (isTombstone(old)) {
        if (found !== undefined) await finish(key, found)
        // The copy existed before the tombstone. If the second read finds none either, the session has ended.
        else if ((await to.get(key)) === undefined) return undefined
      } else if (!moves || now() >= old.expiresAt) {
        return { store: from, entry: old }
      } else if (found === undefined) {
        await to.generate(key, copyOf(old))
      } else {
        // The copy was read first and the entry second, so the entry may have a later expiry.
        if (old.expiresAt > found.expiresAt) await to.touch(key, old.expiresAt)
        const tombstone = {
          metadata: MOVED + found.version,
          expiresAt: old.expiresAt + TOMBSTONE_KEPT,
          version: newVersion(),
        }
        if ((await from.clear(key, old.version, tombstone)) === undefined) await finish(key, found)
      }
    }
    throw new KeepsakeError(
      'unavailable',
      `A session could not be moved to the ${to.name} backend, because entries did not stay there. Check that it evicts nothing.`,
    )
  }
}
