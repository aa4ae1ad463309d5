// Removes expired sessions from MariaDB or MySQL in batches, each of which begins at the end of the last one.

import type { Backend } from '../contract.ts'
import type { Value } from './mysql-connection.ts'
import { isStorageKey, type Statements } from './mysql-statements.ts'
import { type Row, textOf } from './table.ts'

type Sweep = NonNullable<Backend['sweep']>
type Run = (sql: string, ...values: Value[]) => Promise<{ readonly rows: readonly Row[]; readonly affected: number }>

/** Earlier than all expiries. */
const ALL_TIME = Number.MIN_SAFE_INTEGER

/** @param run runs a statement without preparing it, because the limit is a part of its text */
export const createSweep = (statements: Statements, run: Run): Sweep => {
  /*
   * The end of the last batch. InnoDB keeps removed rows in the index until it purges them, and without this start each
   * batch would read all of them again.
   */
  let lastEnd = ALL_TIME

  /**
   * Reports the entries that the batch removed. If two processes sweep at the same moment, both may report an entry, because
   * MySQL cannot return the rows that it deletes. An entry that was moved, or belongs to the next batch, is
   * still there.
   */
  const report = async (candidates: readonly Row[], removed: NonNullable<Parameters<Sweep>[2]>) => {
    const expired = candidates
      .map(([key, metadata, owner]) => ({ key: textOf(key), metadata: textOf(metadata), owner: textOf(owner) }))
      .filter(({ key }) => isStorageKey(key))
    if (expired.length === 0) return
    const { rows } = await run(statements.selectKeys(expired.length), ...expired.map(({ key }) => key))
    const kept = new Set(rows.map(([key]) => textOf(key)))
    for (const entry of expired) if (!kept.has(entry.key)) removed(entry)
  }

  return async (now, limit, removed) => {
    const most = Math.trunc(limit)
    const start = lastEnd
    lastEnd = ALL_TIME
    const [[end] = []] = most > 0 ? (await run(statements.selectBatchEnd(most), now, start)).rows : []
    const removeBatch = async (size: number, until: number, from: number): Promise<number> => {
      const reports = removed !== undefined && size > 0
      const candidates = reports ? (await run(statements.selectExpiredOwned(size), now, from)).rows : []
      const { affected } = await run(statements.removeExpired(size), until, from)
      if (reports) await report(candidates, removed)
      return affected
    }
    const affected = await removeBatch(most, end === undefined ? now : Number(end), start)
    if (end !== undefined) {
      lastEnd = Number(end)
      return affected
    }
    if (start === ALL_TIME) return affected
    // The last of many batches. The same sweep also removes older entries, for example those that were locked before.
    return affected + (await removeBatch(most - affected, now, ALL_TIME))
  }
}
