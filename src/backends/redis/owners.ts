// The sessions of an owner in Redis: one list of keys for each owner, without a transaction over several keys.

import { KeepsakeError } from '../../error.ts'
import type { Entry, Mark, OwnerIndex } from '../contract.ts'
import { asLaterStep } from './refusals.ts'
import {
  addToList,
  clearEntry,
  clearOwnedEntry,
  confirmListed,
  encodeOwner,
  markForRemoval,
  readList,
  removeFromList,
  type Script,
  updateList,
} from './scripts.ts'

/*
 * In a cluster, the list and the entries are on different servers, and no command is about both. So:
 *
 * generate   1. adds the key to the list. 2. inserts the entry. 3. checks that the key is still listed. If it is not, it
 *            removes the entry and returns `gone`.
 * clear      1. marks all keys for removal, in one step. 2. ends the entry of each. 3. removes the keys from the list.
 *
 * After `generate` has returned, the key is listed, so a later clear removes the entry. If a clear marks the key before
 * step 3 of a generate in progress, the clear or step 3 removes the entry. If step 3 comes before the mark, the clear
 * removes it. If all steps of the generate come after step 1 of the clear, the session counts as generated after the
 * clear. In between, an entry may exist for a moment, but no visitor has its key.
 *
 * A marked key stays until its entry is gone. So if a clear fails halfway, or its client sends it twice, the next clear
 * finishes it. If a generate fails halfway, it leaves a key without an entry, which a later call removes after its time,
 * or an entry that expires, whose key no visitor has. A failover may undo all of this, unless `waitReplicas` is set.
 */

/** The lists use these functions of the backend. */
export type OwnerListContext = {
  readonly now: () => number
  /** The Redis key of an owner's list. */
  readonly listName: (owner: string) => string
  /** The Redis key of an entry. */
  readonly entryName: (key: string) => string
  /** The arguments of a script for a mark: its version, its text, and its milliseconds to live. */
  readonly markArgs: (mark: Mark | undefined) => readonly string[]
  readonly get: (key: string) => Promise<Entry | undefined>
  /** The answer of PTTL for an entry: the milliseconds until Redis removes it, or -2 if it does not exist. */
  readonly timeToLive: (key: string) => Promise<number>
  readonly run: (script: Script, name: string, args: readonly string[]) => Promise<unknown>
  /** Runs a script, and waits for replicas if `waitReplicas` is set. */
  readonly runDurably: (script: Script, name: string, args: readonly string[]) => Promise<unknown>
}

export type OwnerLists = OwnerIndex & {
  /**
   * Generates an entry of an owner, and adds its key to the owner's list.
   *
   * @param life milliseconds that Redis keeps the entry
   */
  generate(
    key: string,
    owner: string,
    entry: Entry,
    life: number,
    insert: () => Promise<'taken' | undefined>,
  ): Promise<'taken' | 'gone' | undefined>
  /** Removes the key of a removed entry, without waiting. If that fails, a later call removes the key after its time. */
  removeKey(key: string, owner: string): void
}

const HOUR = 3_600_000
/** A list outlives all of its entries: no option lets a session live longer than 400 days after its login. */
const LIST_LIFE = 400 * 24 * HOUR + HOUR
/**
 * Each login checks so many listed keys whose time has passed: more than the one key that it adds, so lists get shorter.
 */
const CHECKS_PER_LOGIN = 10
/** Entries that are requested concurrently. */
const BATCH = 500

type ListedKey = { readonly key: string; readonly score: string }

/** Pairs the keys and scores of a reply. */
const parseList = (reply: unknown): ListedKey[] => {
  const flat = (reply as unknown[]).map(String)
  return flat.flatMap((key, i) => (i % 2 === 0 ? [{ key, score: flat[i + 1] as string }] : []))
}

/** Calls `act` for every item, and throws the first error only after all calls have ended. */
const mapAll = async <T, R>(items: readonly T[], act: (item: T) => Promise<R>): Promise<R[]> => {
  const results: R[] = []
  const errors: unknown[] = []
  for (let i = 0; i < items.length; i += BATCH) {
    for (const outcome of await Promise.allSettled(items.slice(i, i + BATCH).map(act))) {
      if (outcome.status === 'fulfilled') results.push(outcome.value)
      else errors.push(outcome.reason)
    }
  }
  if (errors.length > 0) throw errors[0]
  return results
}

export const ownerLists = (context: OwnerListContext): OwnerLists => {
  const { now, listName, entryName, markArgs, get, timeToLive, run, runDurably } = context

  const removeKeys = async (list: string, keys: readonly ListedKey[]): Promise<void> => {
    for (let i = 0; i < keys.length; i += BATCH) {
      const updates = keys.slice(i, i + BATCH).flatMap(({ key, score }) => [key, score, ''])
      await run(updateList, list, updates)
    }
  }

  /** Returns the update of a key whose time has passed: its removal, or a new time. Nothing if Redis does not answer. */
  const updateOf = async ({ key, score }: ListedKey): Promise<string[]> => {
    try {
      const milliseconds = await timeToLive(key)
      if (milliseconds === -2) return [key, score, '']
      return [key, score, String(now() + (milliseconds < 0 ? LIST_LIFE : milliseconds))]
    } catch {
      return []
    }
  }

  return {
    async generate(key, owner, entry, life, insert) {
      const list = listName(owner)
      const started = now()
      const args = [key, String(started + life), String(started), String(LIST_LIFE), String(CHECKS_PER_LOGIN)]
      const overdue = parseList(await run(addToList, list, args))
      const [result, ...updates] = await Promise.all([insert(), ...overdue.map(updateOf)])
      if (result === 'taken') return 'taken'
      // Never equal to the first score: another process that read the first one has not seen the entry.
      const score = String(Math.max(now(), started + 1) + life)
      const confirmation = runDurably(confirmListed, list, [key, score, String(LIST_LIFE), ...updates.flat()])
      if ((await asLaterStep(confirmation)) !== 'gone') return undefined
      await asLaterStep(run(clearEntry, entryName(key), [entry.version]))
      return 'gone'
    },
    removeKey(key, owner) {
      run(removeFromList, listName(owner), [key]).catch(() => {})
    },
    async list(owner) {
      const list = listName(owner)
      const listed = await mapAll(parseList(await run(readList, list, [])), async (listedKey) => {
        const entry = await get(listedKey.key)
        return { ...listedKey, entry: entry?.owner === owner ? entry : undefined }
      })
      // A key that is not marked, and whose time has not passed, may belong to a generate in progress.
      await removeKeys(
        list,
        listed.filter(({ entry, score }) => entry === undefined && Number(score) < now()),
      )
      return listed.flatMap(({ key, entry }) => (entry ? [{ ...entry, key }] : []))
    },
    async clear(owner, except = '', mark) {
      const list = listName(owner)
      const args = [encodeOwner(owner), ...markArgs(mark)]
      const [doubt, ...reply] = (await run(markForRemoval, list, [except])) as unknown[]
      const marked = parseList(reply)
      const counts = await mapAll(marked, async ({ key }) =>
        Number(await asLaterStep(runDurably(clearOwnedEntry, entryName(key), args))),
      )
      await asLaterStep(removeKeys(list, marked))
      const total = counts.reduce((sum, count) => sum + count, 0)
      if (String(doubt) !== '') throw incompleteError(total, String(doubt))
      return total
    },
  }
}

const incompleteError = (count: number, policy: string): KeepsakeError =>
  new KeepsakeError(
    'unknown_outcome',
    `${count} sessions of this owner were ended, but others may still exist: Redis may have evicted the list of them (maxmemory-policy ${policy}). Set maxmemory-policy noeviction.`,
  )
