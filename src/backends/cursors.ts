// Rounds through what a store keeps, gone on with by a cursor: for stores that have no order to go on by.

import { randomUUID } from 'node:crypto'

/** Rounds that may be under way: whoever leaves one unfinished makes room for the others. */
const MOST = 16

export type Cursors<T> = {
  /** The next values of a round, and where to go on. A cursor that is not known any more begins another round. */
  next(
    cursor: string | undefined,
    limit: number,
  ): { readonly values: readonly T[]; readonly cursor: string | undefined }
}

/** Rounds over what `begin` iterates. */
export const cursors = <T>(begin: () => Iterator<T>): Cursors<T> => {
  const open = new Map<string, Iterator<T>>()
  return {
    next(cursor = '', limit) {
      const round = open.get(cursor) ?? begin()
      open.delete(cursor)
      const values: T[] = []
      while (values.length < limit) {
        const { done, value } = round.next()
        if (done) return { values, cursor: undefined }
        values.push(value)
      }
      for (const [name, oldest] of open) {
        if (open.size < MOST) break
        oldest.return?.()
        open.delete(name)
      }
      const next = randomUUID()
      open.set(next, round)
      return { values, cursor: next }
    },
  }
}
