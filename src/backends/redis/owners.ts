// Whose sessions, in Redis: a list of keys for each owner, kept without a transaction over several keys.

import { KeepsakeError } from '../../error.ts'
import type { Entry, Mark, OwnerIndex } from '../contract.ts'
import { later } from './refusals.ts'
import {
  clearEntry,
  clearOwned,
  confirmListed,
  enlist,
  listed,
  markForRemoval,
  ownerName,
  type Script,
  settle,
  unlist,
} from './scripts.ts'

/*
 * In a cluster, the list and the entries lie on different servers, and no command is about both. So:
 *
 * generate   1 puts the key on the list, 2 inserts the entry, 3 looks whether the key is still listed; if not, it
 *            removes the entry and answers `gone`.
 * clear      1 strikes all keys out, at once, and leaves them there, 2 ends the entry of each, 3 takes the keys off.
 *
 * An entry whose generate has answered is listed, so a clear that begins later removes it. One whose generate is under
 * way was struck out before step 3, and then it is removed by the clear or by step 3 itself; or step 3 came first, and
 * the clear removes it; or all its steps came after the clear's first, and it counts as generated after it. In between,
 * an entry may be there for a moment under a key that nobody has been told.
 *
 * Struck keys stay until their entries are gone, so that a clear that broke off, or that its driver sent twice, is
 * finished by the next. A generate that broke off leaves a key without an entry, which goes when its time is over, or an
 * entry with a key that nobody knows, which expires. What a failover forgets is forgotten, unless `waitReplicas` is set.
 */

/** What lists need of the backend. */
export type OwnersNeed = {
  readonly now: () => number
  /** Where an owner's list lies. */
  readonly placeOf: (owner: string) => string
  readonly addressOf: (key: string) => string
  /** A mark as scripts take it: its version, its text, and milliseconds to live. */
  readonly markWords: (mark: Mark | undefined) => readonly string[]
  readonly get: (key: string) => Promise<Entry | undefined>
  /** Milliseconds until the entry of this address is forgotten, as PTTL says it. */
  readonly left: (key: string) => Promise<number>
  readonly run: (script: Script, key: string, args: readonly string[]) => Promise<unknown>
  /** The same, for what replicas have to have. */
  readonly write: (script: Script, key: string, args: readonly string[]) => Promise<unknown>
}

export type Owners = OwnerIndex & {
  /** Generates an owner's entry, which lives so many milliseconds, by way of his list. */
  generate(
    key: string,
    owner: string,
    entry: Entry,
    life: number,
    insert: () => Promise<'taken' | undefined>,
  ): Promise<'taken' | 'gone' | undefined>
  /** The entry of a key was removed. Nobody waits for it: what stays listed goes when its time is over. */
  removed(key: string, owner: string): void
}

const HOUR = 3_600_000
/** A list outlives whatever is on it: no option lets a session live longer than 400 days after its login. */
const LIST_LIFE = 400 * 24 * HOUR + HOUR
/** Keys whose time is over that one login looks at: more than it adds, so that lists get shorter. */
const LOOKS = 10
/** Entries asked for at once. */
const AT_ONCE = 500

type Seen = { readonly key: string; readonly score: string }

const seenIn = (reply: unknown): Seen[] => {
  const flat = (reply as unknown[]).map(String)
  return flat.flatMap((key, i) => (i % 2 === 0 ? [{ key, score: flat[i + 1] as string }] : []))
}

/** Goes through with all of them, and throws afterwards where one failed. */
const eachOf = async <T, R>(items: readonly T[], act: (item: T) => Promise<R>): Promise<R[]> => {
  const results: R[] = []
  const errors: unknown[] = []
  for (let i = 0; i < items.length; i += AT_ONCE) {
    for (const one of await Promise.allSettled(items.slice(i, i + AT_ONCE).map(act))) {
      if (one.status === 'fulfilled') results.push(one.value)
      else errors.push(one.reason)
    }
  }
  if (errors.length > 0) throw errors[0]
  return results
}

export const ownersOf = (need: OwnersNeed): Owners => {
  const { now, placeOf, addressOf, markWords, get, left, run, write } = need

  const takeOff = async (place: string, seen: readonly Seen[]): Promise<void> => {
    for (let i = 0; i < seen.length; i += AT_ONCE) {
      const some = seen.slice(i, i + AT_ONCE)
      await run(
        settle,
        place,
        some.flatMap(({ key, score }) => [key, score, '']),
      )
    }
  }

  /** What becomes of a key whose time is over: off the list, or a new time; nothing where Redis does not say. */
  const settled = async ({ key, score }: Seen): Promise<string[]> => {
    try {
      const milliseconds = await left(key)
      if (milliseconds === -2) return [key, score, '']
      return [key, score, String(now() + (milliseconds < 0 ? LIST_LIFE : milliseconds))]
    } catch {
      return []
    }
  }

  return {
    async generate(key, owner, entry, life, insert) {
      const place = placeOf(owner)
      const started = now()
      const args = [key, String(started + life), String(started), String(LIST_LIFE), String(LOOKS)]
      const overdue = seenIn(await run(enlist, place, args))
      const [answer, ...settlements] = await Promise.all([insert(), ...overdue.map(settled)])
      if (answer === 'taken') return 'taken'
      // Never the score that it was listed with: whoever saw that one has not seen an entry.
      const score = String(Math.max(now(), started + 1) + life)
      const confirming = write(confirmListed, place, [key, score, String(LIST_LIFE), ...settlements.flat()])
      if ((await later(confirming)) !== 'gone') return undefined
      await later(run(clearEntry, addressOf(key), [entry.version]))
      return 'gone'
    },
    removed(key, owner) {
      run(unlist, placeOf(owner), [key]).catch(() => {})
    },
    async list(owner) {
      const place = placeOf(owner)
      const seen = seenIn(await run(listed, place, []))
      const found = await eachOf(seen, async (one) => {
        const entry = await get(one.key)
        return { ...one, entry: entry?.owner === owner ? entry : undefined }
      })
      // A key that is neither struck out nor over may be waiting for its entry.
      await takeOff(
        place,
        found.filter(({ entry, score }) => entry === undefined && Number(score) < now()),
      )
      return found.flatMap(({ key, entry }) => (entry ? [{ ...entry, key }] : []))
    },
    async clear(owner, except = '', mark) {
      const place = placeOf(owner)
      const words = [ownerName(owner), ...markWords(mark)]
      const [doubt, ...flat] = (await run(markForRemoval, place, [except])) as unknown[]
      const struck = seenIn(flat)
      const counts = await eachOf(struck, async ({ key }) =>
        Number(await later(write(clearOwned, addressOf(key), words))),
      )
      await later(takeOff(place, struck))
      const count = counts.reduce((sum, one) => sum + one, 0)
      if (String(doubt) !== '') throw incomplete(count, String(doubt))
      return count
    },
  }
}

const incomplete = (count: number, policy: string): KeepsakeError =>
  new KeepsakeError(
    'unknown_outcome',
    `${count} sessions of this owner were ended, and others may still be there: Redis evicts keys (maxmemory-policy ${policy}), and may have evicted the list of them. Set maxmemory-policy noeviction.`,
  )
