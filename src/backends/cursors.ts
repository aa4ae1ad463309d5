// Scans that continue by a cursor, for stores whose entries have no order by which to continue.

import { randomUUID } from 'node:crypto'

/** The most scans that are kept open. The oldest one is dropped for a new one, because a caller may never finish a scan. */
const MAX_OPEN = 16

export type Cursors<T> = {
  /** Returns the next values of a scan and the next cursor, undefined at the end. An unknown cursor starts another scan. */
  next(
    cursor: string | undefined,
    limit: number,
  ): { readonly values: readonly T[]; readonly cursor: string | undefined }
}

/** Scans over the values that `start` iterates. */
export const cursors = <T>(start: () => Iterator<T>): Cursors<T> => {
  const open = new Map<string, Iterator<T>>()
  return {
    next(cursor = '', limit) {
      const scan = open.get(cursor) ?? start()
      open.delete(cursor)
      const values: T[] = []
      while (values.length < limit) {
        const { done, value } = scan.next()
        if (done) return { values, cursor: undefined }
        values.push(value)
      }
      for (const [name, oldest] of open) {
        if (open.size < MAX_OPEN) break
        oldest.return?.()
        open.delete(name)
      }
      const next = randomUUID()
      open.set(next, scan)
      return { values, cursor: next }
    },
  }
}
