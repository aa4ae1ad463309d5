// Moves sessions to another backend while the application runs: each one on its next request, the rest by a copy.

import { type Awaitable, checkOptionNames, KeepsakeError } from '../error.ts'
import type { Backend, Entry, KeyedEntry, Mark, OwnerIndex, ScanPage } from './contract.ts'
import { isCopy, isOrdinary, isTombstone, moveEntry, type Place } from './move-entry.ts'

export type MovingOptions = {
  /**
   * Milliseconds since 1970. Before this time no request moves a session, and new sessions are created in the old store.
   * Choose a time at which every process uses `movingBackend`, because a process that uses only the old store does not find
   * moved sessions. Clocks may differ: a process whose clock is behind still finds the sessions that others have moved. Default: now.
   */
  readonly startsAt?: number | undefined
  /** Milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
}

/** The backends that `movingBackend` has made. A tombstone of a second move would not stay in them. */
const movingBackends = new WeakSet<Backend>()

const statefulOnly = (...backends: readonly Backend[]): void => {
  const stateless = backends.find((backend) => backend.stateless)
  if (stateless === undefined) return
  throw new KeepsakeError(
    'invalid_option',
    `The ${stateless.name} backend stores no sessions, so none can be moved. Pass a backend that stores them.`,
  )
}

/**
 * A backend that moves sessions from one store to another. At each moment exactly one of the stores has a session, and it is
 * read, changed and ended there. A request for a session moves it to the new store. New sessions are created there. Use
 * `movingBackend` in the place of the old backend, let `copySessions` move the rest, and then use the new backend. Both
 * backends stay yours to close.
 *
 * A session that has moved leaves a small entry, a tombstone, in the old store. Most requests call one store. The first
 * request of a session that moves makes eight calls, and an unknown key is looked up in both stores.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const movingBackend = (from: Backend, to: Backend, options: MovingOptions = {}): Backend => {
  statefulOnly(from, to)
  checkOptionNames(options, ['startsAt', 'now'], 'movingBackend()')
  const { startsAt = 0, now = () => Date.now() } = options
  const moves = () => now() >= startsAt
  const find = moveEntry(from, to, now)
  /** The store that has most of the requested sessions. */
  const likelyStore = () => (moves() ? to : from)

  /** Acts on an entry in the store that has it. Returns `missing` if no store has it. */
  const inItsStore = async <T>(key: string, missing: T, act: (place: Place) => Awaitable<T>): Promise<T> => {
    const place = await find(key, moves())
    return place === undefined ? missing : act(place)
  }
  /** Ends the session of a key in any version. */
  const end = async (key: string, mark: Mark | undefined): Promise<undefined> => {
    for (;;) {
      const place = await find(key, moves())
      if (place === undefined) return undefined
      // In the old store only the version that was found: removing a tombstone would not end the session that has moved.
      const version = place.store === from ? place.entry.version : undefined
      if ((await place.store.clear(key, version, mark)) === undefined) return undefined
    }
  }
  const needsDurable = from.ensureDurable !== undefined || to.ensureDurable !== undefined
  const { keepSecret } = from.keepSecret === undefined ? to : from

  const backend: Backend = {
    name: `${from.name} to ${to.name}`,
    async get(key) {
      const old = moves() ? undefined : await from.get(key)
      return isOrdinary(old) ? old : (await find(key, moves()))?.entry
    },
    async generate(key, entry) {
      const answer = await likelyStore().generate(key, entry)
      if (answer !== 'taken') return answer
      const place = await find(key, moves())
      // Only a copy or a tombstone had the key, so the key is free.
      if (place === undefined) return to.generate(key, entry)
      return place.entry.version === entry.version ? undefined : 'taken'
    },
    async set(key, change, version) {
      const answer = await likelyStore().set(key, change, version)
      return answer && inItsStore(key, 'gone', ({ store }) => store.set(key, change, version))
    },
    async clear(key, version, mark) {
      if (version === undefined) return end(key, mark)
      const answer = await likelyStore().clear(key, version, mark)
      return answer && inItsStore(key, 'stale', ({ store }) => store.clear(key, version, mark))
    },
    async touch(key, expiresAt) {
      if (moves()) return inItsStore(key, undefined, ({ store }) => store.touch(key, expiresAt))
      // The old store first, so that a process that moves the entry concurrently does not copy the earlier expiry.
      await from.touch(key, expiresAt)
      return to.touch(key, expiresAt)
    },
    ...(needsDurable && {
      async ensureDurable(key: string) {
        await Promise.all([from.ensureDurable?.(key), to.ensureDurable?.(key)])
      },
    }),
    async sweep(time, limit, removed) {
      const swept = (await from.sweep?.(time, limit, removed)) ?? 0
      return swept < limit ? swept + ((await to.sweep?.(time, limit - swept, removed)) ?? 0) : swept
    },
    ...(from.scan && to.scan && { scan: bothScans(from, to, (key) => find(key, moves())) }),
    ...(from.byOwner && to.byOwner && { byOwner: bothIndexes(from.byOwner, to.byOwner, (key) => find(key, moves())) }),
    ...(keepSecret && { keepSecret: (candidate: string) => keepSecret(candidate) }),
    ...((from.check || to.check) && {
      check: async (use: 'sessions' | 'ends') => (await to.check?.(use)) ?? (await from.check?.(use)),
    }),
  }
  movingBackends.add(backend)
  return backend
}

/** A cursor of both stores: the store, and its own cursor. */
const CURSOR = /^(from|to) (.*)$/s

/**
 * The entries of both stores. The old store is read first, because entries move only to the new one. An entry that moves
 * during the scan may be returned twice.
 */
const bothScans =
  (from: Backend, to: Backend, find: (key: string) => Promise<Place | undefined>): NonNullable<Backend['scan']> =>
  async (cursor, limit): Promise<ScanPage> => {
    const [, place = 'from', inStore = ''] = CURSOR.exec(cursor ?? '') ?? []
    const isOld = place === 'from'
    const page = await (isOld ? from : to).scan?.(inStore || undefined, limit)
    const next = page?.cursor === undefined ? (isOld ? 'to ' : undefined) : `${place} ${page.cursor}`
    const entries: KeyedEntry[] = []
    for (const found of page?.entries ?? []) {
      if (!isCopy(found)) {
        if (!isTombstone(found)) entries.push(found)
        continue
      }
      // Step 3 of its move may be missing. If its entry is in the old store, it was returned from there.
      const moved = isOld ? undefined : await find(found.key)
      if (moved?.store === to) entries.push({ ...moved.entry, key: found.key })
    }
    return { entries, cursor: next }
  }

/** The entries of an owner in both stores. The old store is read first, because entries move only to the new one. */
const bothIndexes = (
  from: OwnerIndex,
  to: OwnerIndex,
  find: (key: string) => Promise<Place | undefined>,
): OwnerIndex => ({
  async list(owner) {
    const found = new Map<string, Entry>()
    for (const { key, ...entry } of await from.list(owner)) if (isOrdinary(entry)) found.set(key, entry)
    for (const { key, ...entry } of await to.list(owner)) {
      const place = !isCopy(entry) ? { entry } : found.has(key) ? undefined : await find(key)
      if (place?.entry.owner === owner) found.set(key, place.entry)
    }
    return [...found].map(([key, entry]) => ({ ...entry, key }))
  },
  async clear(owner, except, mark) {
    const ended = await from.clear(owner, except, mark)
    // Removes the copies of sessions that have just ended, so that they are not counted again.
    for (const { key, metadata } of await to.list(owner)) if (key !== except && isCopy({ metadata })) await find(key)
    const more = await to.clear(owner, except, mark)
    // A session that was created in the old store since, and just lost its copy, ends too: it counts as before this call.
    return ended + more + (await from.clear(owner, except, mark))
  },
})

export type CopyProgress = {
  /** Sessions that were moved to the new store. If a scan returns a session twice, as Redis may, it counts twice. */
  readonly copied: number
  /** Sessions that had expired, or ended during the copy. Sessions that had moved before are not counted. */
  readonly skipped: number
  /** Continues the copy in a later call. Undefined at the end. */
  readonly cursor: string | undefined
}

export type CopyOptions = {
  /** Called after each batch. */
  readonly onProgress?: ((progress: CopyProgress) => void) | undefined
  /** The cursor of an earlier call that was interrupted. Default: from the start, with the same result in more time. */
  readonly cursor?: string | undefined
  /** Sessions in one batch. Default 500. */
  readonly batch?: number | undefined
  /** Milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
}

/**
 * Moves all living sessions of one backend to another, unchanged: keys, fields, owners and expiries. Each leaves a tombstone
 * in the old store. `movingBackend` finds the moved sessions, but a process that uses only the old backend does not. So all
 * processes must use `movingBackend` before the copy starts. Its `startsAt` does not matter.
 *
 * The copy may be interrupted or killed, and called again. `copySessions(to, from)` moves the sessions back while no
 * visitor sends requests.
 *
 * @throws KeepsakeError `invalid_option`, `unavailable`, and the errors of both backends
 */
export const copySessions = async (from: Backend, to: Backend, options: CopyOptions = {}): Promise<CopyProgress> => {
  statefulOnly(from, to)
  if (movingBackends.has(from) || movingBackends.has(to)) {
    throw new KeepsakeError(
      'invalid_option',
      'copySessions() got a backend of movingBackend(). Pass the two stores themselves: copySessions(from, to).',
    )
  }
  checkOptionNames(options, ['onProgress', 'cursor', 'batch', 'now'], 'copySessions()')
  const { onProgress, batch = 500, now = () => Date.now() } = options
  const scan = from.scan?.bind(from)
  if (scan === undefined)
    throw new KeepsakeError(
      'invalid_option',
      `The ${from.name} backend has no scan, so its sessions cannot be copied. Pass a backend with scan.`,
    )
  const find = moveEntry(from, to, now)
  /** Returns whether the session moved, or undefined for an entry that is no session. */
  const moveScanned = async (key: string, entry: Entry): Promise<boolean | undefined> => {
    // Step 3 may be missing, if the process that moved the entry was killed.
    if (isTombstone(entry)) await find(key, true)
    if (!isOrdinary(entry)) return undefined
    return now() < entry.expiresAt && (await find(key, true, entry))?.store === to
  }
  let progress: CopyProgress = { copied: 0, skipped: 0, cursor: options.cursor }
  do {
    const { entries, cursor } = await scan(progress.cursor, batch)
    const results = await Promise.all(entries.map(({ key, ...entry }) => moveScanned(key, entry)))
    progress = {
      copied: progress.copied + results.filter((moved) => moved === true).length,
      skipped: progress.skipped + results.filter((moved) => moved === false).length,
      cursor,
    }
    onProgress?.(progress)
  } while (progress.cursor !== undefined)
  return progress
}
