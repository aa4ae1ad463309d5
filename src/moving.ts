// Moving to another backend while both run: sessions are copied, and read where they are, and nobody is logged out.

import type { Backend, Entry } from './backend.ts'
import { newVersion } from './keys.ts'
import { Fault } from './outcome.ts'

/*
 * What ended must not come back by being copied. So where a session ends, a mark takes its place in the new store, which
 * keeps out a copy that is under way, for as long as the old entry would have lived. Nothing but what ended is ever
 * removed from the old store.
 */
const MARK = 'moved and ended'
/** Milliseconds that a mark is kept at least: far longer than a copy is under way. */
const MARKED = 3_600_000

const isMark = ({ head }: Entry): boolean => head === MARK
const real = (entry: Entry | undefined): Entry | undefined => (entry !== undefined && isMark(entry) ? undefined : entry)

const mark = (until: number) => ({ value: undefined, head: MARK, expiresAt: until, version: newVersion() })

export type MovingOptions = {
  /**
   * Milliseconds since 1970: until then the old store alone is used. Give a time at which every process will run this,
   * so that none works on the old store while another works on the new. Default: at once.
   */
  readonly startsAt?: number
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

/** Copies an entry, unless it is there or has ended. */
const copied = async (to: Backend, key: string, entry: Entry): Promise<boolean> =>
  (await to.generate(key, entry)) === undefined

const statefulOnly = (...backends: readonly Backend[]): void => {
  const stateless = backends.find((backend) => backend.stateless)
  if (stateless === undefined) return
  throw new Fault('bad_option', `The ${stateless.name} backend keeps no sessions that could be moved.`)
}

/**
 * A backend that is on its way from one store to another: what is asked for is copied, what is written is written to the
 * new one, and what ends, ends in both. Put it in the place of the old one, let `copySessions` run, and put the new one
 * in its place. Both stay yours to close.
 *
 * @throws Fault `bad_option`
 */
export const movingBackend = (from: Backend, to: Backend, options: MovingOptions = {}): Backend => {
  statefulOnly(from, to)
  const { startsAt = 0, now = Date.now } = options
  const moves = () => now() >= startsAt

  /** The entry, from now on in the new store. */
  const here = async (key: string): Promise<Entry | undefined> => {
    const there = await to.get(key)
    if (there !== undefined) return real(there)
    const old = await from.get(key)
    if (old === undefined || old.expiresAt <= now()) return old
    await copied(to, key, old)
    return real(await to.get(key))
  }
  /** Puts a mark in the place of an entry, if it has this version. */
  const marked = async (key: string, there: Entry, version: string): Promise<boolean> => {
    const until = Math.max(there.expiresAt, now() + MARKED)
    return (await to.set(key, mark(until), version)) === undefined
  }
  const clear = async (key: string): Promise<undefined> => {
    await from.clear(key)
    for (;;) {
      const there = await to.get(key)
      if (there !== undefined && isMark(there)) return undefined
      const done =
        there === undefined
          ? (await to.generate(key, mark(now() + MARKED))) !== 'taken'
          : await marked(key, there, there.version)
      if (done) return undefined
    }
  }
  /** All keys that an owner has or had. */
  const keysOf = async (owner: string): Promise<readonly string[]> => {
    const [old, fresh] = [await from.owned?.list(owner), await to.owned?.list(owner)]
    return [...new Set([...(old ?? []), ...(fresh ?? [])].map(({ key }) => key))]
  }
  /** Of these keys, what is there: it may have been changed in the new store since, or have ended. */
  const living = async (keys: readonly string[]) => {
    const latest = await Promise.all(keys.map(async (key) => [key, await here(key)] as const))
    return latest.flatMap(([key, entry]) => (entry === undefined ? [] : [{ ...entry, key }]))
  }
  const settling = from.settle !== undefined || to.settle !== undefined
  const { secret } = from.secret === undefined ? to : from

  return {
    name: `${from.name} to ${to.name}`,
    get: (key) => (moves() ? here(key) : from.get(key)),
    async generate(key, entry) {
      if (!moves()) return from.generate(key, entry)
      const answer = await to.generate(key, entry)
      const there = answer === 'taken' ? await to.get(key) : undefined
      if (there === undefined || !isMark(there)) return answer
      await to.clear(key, there.version)
      return to.generate(key, entry)
    },
    async set(key, change, version) {
      if (!moves()) return from.set(key, change, version)
      const answer = await to.set(key, change, version)
      if (answer === undefined || (await here(key)) !== undefined) {
        return answer === 'gone' ? to.set(key, change, version) : answer
      }
      return 'gone'
    },
    async clear(key, version) {
      if (!moves()) return from.clear(key, version)
      if (version === undefined) return clear(key)
      // The new store decides, and the old one follows.
      const there = await here(key)
      if (there === undefined || !(await marked(key, there, version))) return 'stale'
      return from.clear(key)
    },
    async touch(key, expiresAt) {
      if (!moves()) return from.touch(key, expiresAt)
      await here(key)
      return to.touch(key, expiresAt)
    },
    ...(settling && { settle: (key: string) => (moves() ? to : from).settle?.(key) }),
    async sweep(time, limit) {
      const swept = (await from.sweep?.(time, limit)) ?? 0
      return swept + ((moves() && (await to.sweep?.(time, Math.max(1, limit - swept)))) || 0)
    },
    ...(from.owned &&
      to.owned && {
        owned: {
          list: async (owner: string) =>
            moves() ? living(await keysOf(owner)) : ((await from.owned?.list(owner)) ?? []),
          async clear(owner: string, except?: string) {
            if (!moves()) return (await from.owned?.clear(owner, except)) ?? 0
            const keys = (await keysOf(owner)).filter((key) => key !== except)
            const { length } = await living(keys)
            await from.owned?.clear(owner, except)
            await to.owned?.clear(owner, except)
            // Those that were read from the old store before that may be copied still, and their marks are gone.
            for (const key of keys) await clear(key)
            return length
          },
        },
      }),
    ...(secret && { secret: (fresh: string) => secret(fresh) }),
  }
}

export type CopyProgress = {
  /** Sessions that are in the new store now as they are in the old one. */
  readonly copied: number
  /** Sessions that have been changed in the new store since, have expired, or have ended. */
  readonly skipped: number
  /** Where a later call can go on; undefined at the end. */
  readonly cursor: string | undefined
}

export type CopyOptions = {
  /** Hears how far it is, after each batch. */
  readonly onProgress?: (progress: CopyProgress) => void
  /** The cursor of an earlier call that was interrupted. Default: from the start, which is as right, and slower. */
  readonly cursor?: string
  /** Sessions in one batch. Default 500. */
  readonly batch?: number
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

/**
 * Copies the living sessions of one backend to another, as they are: keys, fields, owners and ends. What is there stays
 * as it is, so it may be interrupted and called again. While visitors come, they have to come through `movingBackend`.
 *
 * @throws Fault `bad_option`, and whatever a backend throws
 */
export const copySessions = async (from: Backend, to: Backend, options: CopyOptions = {}): Promise<CopyProgress> => {
  statefulOnly(from, to)
  const { onProgress, batch = 500, now = Date.now } = options
  const scan = from.scan?.bind(from)
  if (scan === undefined) throw new Fault('bad_option', `The ${from.name} backend cannot tell what it keeps.`)
  let progress: CopyProgress = { copied: 0, skipped: 0, cursor: options.cursor }
  do {
    const { entries, cursor } = await scan(progress.cursor, batch)
    const results = await Promise.all(
      entries.map(async ({ key, ...entry }) => entry.expiresAt > now() && copied(to, key, entry)),
    )
    const done = results.filter(Boolean).length
    progress = { copied: progress.copied + done, skipped: progress.skipped + results.length - done, cursor }
    onProgress?.(progress)
  } while (progress.cursor !== undefined)
  return progress
}
