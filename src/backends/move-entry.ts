// How one entry moves from an old store to a new one: by one compare-and-set, that no clock and no crash can undo.

import { newVersion } from '../crypto/keys.ts'
import { KeepsakeError } from '../error.ts'
import type { Backend, Entry } from './contract.ts'

/*
 * The old store decides where an entry is. It moves in three steps, each of which any process may take for another:
 *
 *   1. A copy is put into the new store. Its head says that it is one, of which version, so nobody takes it for the entry.
 *   2. The entry in the old store is replaced by a mark that names this very copy: a compare-and-set on its version.
 *      From now on the copy is the entry, and nothing else has changed for anybody.
 *   3. The copy becomes an entry like any other, with the head and the version that it had.
 *
 * So whoever saves to the old store or ends something there, before the second step, is not undone: that step fails, and
 * the copy is worth nothing. Whoever comes after it finds the mark, and follows. A copy that the old store does not speak
 * for is removed by who finds it: of an entry that ended, or that was changed since, or put there by somebody who read
 * the old store long before.
 */
const COPY = 'moving.'
const MOVED = 'moved.'

/** Milliseconds that a mark outlives its entry: the longest life that `sessionManager` allows, by which a copy may be touched. */
const KEPT = 400 * 86_400_000

/** Rounds that no process is ever held up for by others, each of whom takes a step. */
const ROUNDS = 100

export const isCopy = ({ metadata }: Pick<Entry, 'metadata'>): boolean => metadata.startsWith(COPY)
export const isMoved = ({ metadata }: Pick<Entry, 'metadata'>): boolean => metadata.startsWith(MOVED)

/** Whether an entry of the old store is one, and neither a mark nor left over from a move in the other direction. */
export const isThere = (old: Entry | undefined): old is Entry => old !== undefined && !isMoved(old) && !isCopy(old)

const copyOf = (entry: Entry): Entry => ({
  ...entry,
  metadata: `${COPY}${entry.version}.${entry.metadata}`,
  version: newVersion(),
})

/** What a copy was made of. */
const madeOf = ({ metadata }: Entry): Pick<Entry, 'metadata' | 'version'> => {
  const dot = metadata.indexOf('.', COPY.length)
  return { version: metadata.slice(COPY.length, dot), metadata: metadata.slice(dot + 1) }
}

/** Whether the old store speaks for a copy: it has the entry that it was made of, or the mark that names it. */
const counts = (copy: Entry, old: Entry | undefined): boolean =>
  old !== undefined && (isMoved(old) ? old.metadata === MOVED + copy.version : old.version === madeOf(copy).version)

/** An entry, and the store that it is in. */
export type Place = { readonly store: Backend; readonly entry: Entry }

/**
 * Where the entry of a key is. Where it is in the old store it is moved, if `moves`, unless it has expired. `read` is the
 * entry as the old store had it lately, and spares a look.
 *
 * @throws KeepsakeError `unavailable` where the new store does not keep what it is given
 */
export type Find = (key: string, moves: boolean, read?: Entry) => Promise<Place | undefined>

export const finder = (from: Backend, to: Backend, now: () => number): Find => {
  /** Makes an entry of the copy that the old store's mark names. */
  const finish = async (key: string, copy: Entry): Promise<unknown> =>
    to.set(key, { ...madeOf(copy), value: copy.value }, copy.version)

  return async (key, moves, read) => {
    if (read !== undefined && moves) await to.generate(key, copyOf(read))
    for (let round = 0; round < ROUNDS; round++) {
      const there = await to.get(key)
      if (there !== undefined && !isCopy(there) && !isMoved(there)) return { store: to, entry: there }
      // After what the new store says, because entries go that way alone.
      const old = await from.get(key)
      if (there !== undefined && (isMoved(there) || !counts(there, old))) {
        await to.clear(key, there.version)
        continue
      }
      if (old === undefined || isCopy(old)) return undefined
      if (isMoved(old)) {
        if (there !== undefined) await finish(key, there)
        // Its copy was there before the mark was: where it is not there by now either, the session has ended.
        else if ((await to.get(key)) === undefined) return undefined
      } else if (!moves || now() >= old.expiresAt) {
        return { store: from, entry: old }
      } else if (there === undefined) {
        await to.generate(key, copyOf(old))
      } else {
        // Here the copy was read back, and the entry after it.
        if (old.expiresAt > there.expiresAt) await to.touch(key, old.expiresAt)
        const mark = { metadata: MOVED + there.version, expiresAt: old.expiresAt + KEPT, version: newVersion() }
        if ((await from.clear(key, old.version, mark)) === undefined) await finish(key, there)
      }
    }
    throw new KeepsakeError(
      'unavailable',
      `A session could not be moved to the ${to.name} backend, because what was put there did not stay. Does it evict what it keeps?`,
    )
  }
}
