// Moving to another backend while both run: sessions are moved when they are asked for, and all others by a copier.

import { type Awaitable, checkOptionNames, KeepsakeError } from '../error.ts'
import type { Backend, Entry, Mark, OwnerIndex } from './contract.ts'
import { finder, isCopy, isMoved, isThere, type Place } from './move-entry.ts'

export type MovingOptions = {
  /**
   * Milliseconds since 1970: until then nothing is moved because a visitor asks for it, and new sessions begin in the old
   * store. Give a time at which every process will run this: one that works on the old store alone does not find what
   * has moved. Clocks may differ: a process whose clock is behind follows what others have moved. Default: at once.
   */
  readonly startsAt?: number | undefined
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
}

const statefulOnly = (...backends: readonly Backend[]): void => {
  const stateless = backends.find((backend) => backend.stateless)
  if (stateless === undefined) return
  throw new KeepsakeError('invalid_option', `The ${stateless.name} backend keeps no sessions that could be moved.`)
}

/**
 * A backend that is on its way from one store to another. At each moment a session is in one of them, where it is read,
 * changed and ended; what is asked for is moved to the new one, where new sessions begin. Put it in the place of the old
 * one, let `copySessions` move the rest, and put the new one in its place. Both stay yours to close.
 *
 * A session that has moved leaves a small mark in the old store. Most visits ask one store; the first of a session that
 * moves makes eight calls, and an unknown key is looked for in both.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const movingBackend = (from: Backend, to: Backend, options: MovingOptions = {}): Backend => {
  statefulOnly(from, to)
  checkOptionNames(options, ['startsAt', 'now'], 'movingBackend()')
  const { startsAt = 0, now = () => Date.now() } = options
  const moves = () => now() >= startsAt
  const find = finder(from, to, now)
  /** Where most of what is asked for is. */
  const usual = () => (moves() ? to : from)

  /** Does something with an entry where it is. */
  const inPlace = async <T>(key: string, none: T, act: (place: Place) => Awaitable<T>): Promise<T> => {
    const place = await find(key, moves())
    return place === undefined ? none : act(place)
  }
  /** Ends whatever is under a key. */
  const end = async (key: string, mark: Mark | undefined): Promise<undefined> => {
    for (;;) {
      const place = await find(key, moves())
      if (place === undefined) return undefined
      // In the old store only what was found there: to remove a mark of the move would not end what has moved.
      const version = place.store === from ? place.entry.version : undefined
      if ((await place.store.clear(key, version, mark)) === undefined) return undefined
    }
  }
  const settling = from.ensureDurable !== undefined || to.ensureDurable !== undefined
  const { keepSecret } = from.keepSecret === undefined ? to : from

  return {
    name: `${from.name} to ${to.name}`,
    async get(key) {
      const old = moves() ? undefined : await from.get(key)
      return isThere(old) ? old : (await find(key, moves()))?.entry
    },
    async generate(key, entry) {
      const answer = await usual().generate(key, entry)
      if (answer !== 'taken') return answer
      const place = await find(key, moves())
      // What was in the way was only a copy or a mark of the move.
      if (place === undefined) return to.generate(key, entry)
      return place.entry.version === entry.version ? undefined : 'taken'
    },
    async set(key, change, version) {
      const answer = await usual().set(key, change, version)
      return answer && inPlace(key, 'gone', ({ store }) => store.set(key, change, version))
    },
    async clear(key, version, mark) {
      if (version === undefined) return end(key, mark)
      const answer = await usual().clear(key, version, mark)
      return answer && inPlace(key, 'stale', ({ store }) => store.clear(key, version, mark))
    },
    async touch(key, expiresAt) {
      if (moves()) return inPlace(key, undefined, ({ store }) => store.touch(key, expiresAt))
      // In this order, so that no process that moves it meanwhile takes the earlier expiry along.
      await from.touch(key, expiresAt)
      return to.touch(key, expiresAt)
    },
    ...(settling && {
      async ensureDurable(key: string) {
        await Promise.all([from.ensureDurable?.(key), to.ensureDurable?.(key)])
      },
    }),
    async sweep(time, limit, removed) {
      const swept = (await from.sweep?.(time, limit, removed)) ?? 0
      return swept < limit ? swept + ((await to.sweep?.(time, limit - swept, removed)) ?? 0) : swept
    },
    ...(from.byOwner && to.byOwner && { byOwner: owned(from.byOwner, to.byOwner, (key) => find(key, moves())) }),
    ...(keepSecret && { keepSecret: (fresh: string) => keepSecret(fresh) }),
    ...((from.check || to.check) && {
      check: async (use: 'sessions' | 'ends') => (await to.check?.(use)) ?? (await from.check?.(use)),
    }),
  }
}

/** The sessions of an owner in both stores: the old one first, because sessions go from there, and never come back. */
const owned = (from: OwnerIndex, to: OwnerIndex, find: (key: string) => Promise<Place | undefined>): OwnerIndex => ({
  async list(owner) {
    const found = new Map<string, Entry>()
    for (const { key, ...entry } of await from.list(owner)) if (isThere(entry)) found.set(key, entry)
    for (const { key, ...entry } of await to.list(owner)) {
      const place = !isCopy(entry) ? { entry } : found.has(key) ? undefined : await find(key)
      if (place?.entry.owner === owner) found.set(key, place.entry)
    }
    return [...found].map(([key, entry]) => ({ ...entry, key }))
  },
  async clear(owner, except, mark) {
    const ended = await from.clear(owner, except, mark)
    // Copies of what has ended are not to be counted again.
    for (const { key, metadata } of await to.list(owner)) if (key !== except && isCopy({ metadata })) await find(key)
    const more = await to.clear(owner, except, mark)
    // One that began in the old store since, and lost its copy just now, ends as well: it counts as before this.
    return ended + more + (await from.clear(owner, except, mark))
  },
})

export type CopyProgress = {
  /** Sessions that were moved to the new store. Where the old one tells of a session twice, as Redis may, it counts twice. */
  readonly copied: number
  /** Sessions that have expired, or ended meanwhile. What had moved before counts nowhere. */
  readonly skipped: number
  /** Where a later call can go on; undefined at the end. */
  readonly cursor: string | undefined
}

export type CopyOptions = {
  /** Hears how far it is, after each batch. */
  readonly onProgress?: ((progress: CopyProgress) => void) | undefined
  /** The cursor of an earlier call that was interrupted. Default: from the start, which does the same, and is slower. */
  readonly cursor?: string | undefined
  /** Sessions in one batch. Default 500. */
  readonly batch?: number | undefined
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
}

/**
 * Moves all living sessions of one backend to another, as they are: keys, fields, owners and expiries. Each leaves a mark
 * in the old one, so that it lives in one place only: there it is found by `movingBackend`, and not by a process that
 * works on the old backend alone. So all visitors have to come through `movingBackend` by then, at whatever time it
 * starts to move by itself.
 *
 * It may be interrupted, even killed, and called again; and it goes back by `copySessions(to, from)` while nobody visits.
 *
 * @throws KeepsakeError `invalid_option`, `unavailable`, and whatever a backend throws
 */
export const copySessions = async (from: Backend, to: Backend, options: CopyOptions = {}): Promise<CopyProgress> => {
  statefulOnly(from, to)
  checkOptionNames(options, ['onProgress', 'cursor', 'batch', 'now'], 'copySessions()')
  const { onProgress, batch = 500, now = () => Date.now() } = options
  const scan = from.scan?.bind(from)
  if (scan === undefined)
    throw new KeepsakeError('invalid_option', `The ${from.name} backend cannot tell what it keeps.`)
  const find = finder(from, to, now)
  /** Whether it moved; undefined for what is no session. */
  const move = async (key: string, entry: Entry): Promise<boolean | undefined> => {
    // What has moved is found once more, because who moved it may have been killed before it was done.
    if (isMoved(entry)) await find(key, true)
    if (!isThere(entry)) return undefined
    return now() < entry.expiresAt && (await find(key, true, entry))?.store === to
  }
  let progress: CopyProgress = { copied: 0, skipped: 0, cursor: options.cursor }
  do {
    const { entries, cursor } = await scan(progress.cursor, batch)
    const results = await Promise.all(entries.map(({ key, ...entry }) => move(key, entry)))
    progress = {
      copied: progress.copied + results.filter((moved) => moved === true).length,
      skipped: progress.skipped + results.filter((moved) => moved === false).length,
      cursor,
    }
    onProgress?.(progress)
  } while (progress.cursor !== undefined)
  return progress
}
