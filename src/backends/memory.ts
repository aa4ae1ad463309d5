// Keeps sessions in the memory of this process, up to a number and a size. Sessions without an owner are evicted first.

import { getHeapStatistics } from 'node:v8'
import { checkOptionNames, KeepsakeError } from '../error.ts'
import { emitter, type SessionEventListener } from '../events.ts'
import type { Backend, KeyedEntry, Mark, Removed } from './contract.ts'
import { cursors } from './cursors.ts'
import { EntryMap, expiryIn, versionIn } from './entry-map.ts'

export type MemoryOptions = {
  /** The most sessions that are kept. Default 1 000 000. */
  readonly maxEntries?: number | undefined
  /**
   * The most bytes of the heap that the sessions take, approximately. Default an eighth of the heap limit of this process
   * (`heap_size_limit` of `node:v8`), and at most 1 GiB.
   */
  readonly maxBytes?: number | undefined
  /** Milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
  /** Receives the event `evicted`. */
  readonly onEvent?: SessionEventListener | undefined
}

/** The part of the heap that sessions may fill by default. The application and the garbage collector need the rest. */
const HEAP_SHARE = 1 / 8
const MAX_DEFAULT_BYTES = 2 ** 30
/** Cloudflare Workers report a limit of 0. This is their limit (developers.cloudflare.com/workers/platform/limits). */
const HEAP_OF_WORKER = 128 * 2 ** 20
/** How many entries each write checks for expiry. */
const CHECKS_PER_WRITE = 2
/** How many entries a sweep checks for expiry. The next sweep continues there. */
const CHECKS_PER_SWEEP = 10_000
/** How many expired entries with owners are remembered for the next sweep, which reports them. */
const MAX_UNREPORTED = 10_000

const atLeastOne = (value: number, name: string): number => {
  if (Number.isFinite(value) && value >= 1) return value
  throw new KeepsakeError('invalid_option', `The option ${name} must be a number of at least 1.`)
}

/**
 * Keeps sessions in the memory of this process. When it is full, it evicts the session whose last write is the oldest: one
 * without an owner if there is any. Each eviction is an event `evicted`.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const memoryBackend = (options: MemoryOptions = {}): Backend => {
  checkOptionNames(options, ['maxEntries', 'maxBytes', 'now', 'onEvent'], 'memoryBackend()')
  const heap = getHeapStatistics().heap_size_limit || HEAP_OF_WORKER
  const heapShare = Math.min(MAX_DEFAULT_BYTES, heap * HEAP_SHARE)
  const maxEntries = atLeastOne(options.maxEntries ?? 1_000_000, 'maxEntries')
  const maxBytes = atLeastOne(options.maxBytes ?? heapShare, 'maxBytes')
  const { now = () => Date.now() } = options
  const emit = emitter(options.onEvent)
  /** Entries without an owner, marks among them, and entries with one. */
  const [anonymous, owned] = [new EntryMap(false), new EntryMap(true)]
  let secret: string | undefined

  /** An entry as it is kept, and the map that has it. */
  const find = (key: string): { readonly map: EntryMap; readonly text: string } | undefined => {
    const text = anonymous.text(key)
    if (text !== undefined) return { map: anonymous, text }
    const other = owned.text(key)
    return other === undefined ? undefined : { map: owned, text: other }
  }

  /** Expired entries that a write removed since the last sweep. The next sweep reports them. */
  const unreported: Removed[] = []

  /** Removes some expired entries of the map that was written to. If the backend is still too full, it evicts. */
  const makeRoom = (written: EntryMap): void => {
    written.tidy(now(), CHECKS_PER_WRITE, CHECKS_PER_WRITE, (entry) => unreported.push(entry))
    if (unreported.length > MAX_UNREPORTED) unreported.shift()
    while (anonymous.size + owned.size > maxEntries || anonymous.bytes + owned.bytes > maxBytes) {
      const map = anonymous.size > 0 ? anonymous : owned
      if (map.size === 0) return
      map.evict()
      emit('evicted', {
        message: 'The memory backend was full and evicted a session. Raise its options maxEntries and maxBytes.',
      })
    }
  }

  const end = (map: EntryMap, key: string, text: string, mark: Mark | undefined): void => {
    map.remove(key, text)
    if (mark !== undefined) anonymous.add(key, { value: undefined, ...mark })
  }

  /** A scan reads the keys that exist at its start: every write moves an entry to the end, so an iterator might never finish. */
  const scans = cursors(function* (): Generator<KeyedEntry> {
    for (const key of [...anonymous.keys(), ...owned.keys()]) {
      const found = find(key)
      if (found !== undefined) yield { key, ...found.map.entryIn(found.text) }
    }
  })

  return {
    name: 'memory',
    defaultPeriod: 604_800,
    get(key) {
      const text = anonymous.text(key)
      if (text !== undefined) return anonymous.entryIn(text)
      const other = owned.text(key)
      return other === undefined ? undefined : owned.entryIn(other)
    },
    generate(key, entry) {
      const found = find(key)
      if (found !== undefined) return versionIn(found.text) === entry.version ? undefined : 'taken'
      const map = entry.owner === undefined ? anonymous : owned
      map.add(key, entry)
      makeRoom(map)
      return undefined
    },
    set(key, { value, metadata, version, expiresAt }, expected) {
      const found = find(key)
      if (found === undefined) return 'gone'
      const { map, text } = found
      const present = versionIn(text)
      if (present === version) return undefined
      if (present !== expected) return 'stale'
      const { owner, expiresAt: presentExpiry } = map.entryIn(text)
      map.replace(key, { value, metadata, version, expiresAt: expiresAt ?? presentExpiry, owner }, text)
      makeRoom(map)
      return undefined
    },
    clear(key, version, mark) {
      const found = find(key)
      const present = found && versionIn(found.text)
      if (present !== undefined && present === mark?.version) return undefined
      if (version !== undefined && present !== version) return 'stale'
      if (found !== undefined) end(found.map, key, found.text, mark)
      return undefined
    },
    touch(key, expiresAt) {
      const found = find(key)
      if (found === undefined || expiresAt <= expiryIn(found.text)) return undefined
      const { map, text } = found
      map.replace(key, { ...map.entryIn(text), expiresAt }, text)
      return undefined
    },
    sweep(before, limit, removed) {
      for (const entry of unreported.splice(0)) removed?.(entry)
      const swept = anonymous.tidy(before, CHECKS_PER_SWEEP, limit)
      return swept + owned.tidy(before, CHECKS_PER_SWEEP, limit - swept, removed)
    },
    scan(cursor, limit) {
      const { values: entries, cursor: next } = scans.next(cursor, limit)
      return { entries, cursor: next }
    },
    keepSecret(candidate) {
      secret ??= candidate
      return secret
    },
    byOwner: {
      list: (owner) => owned.keysOf(owner).map((key) => ({ key, ...owned.entryIn(owned.text(key) as string) })),
      clear(owner, except, mark) {
        const keys = owned.keysOf(owner).filter((key) => key !== except)
        for (const key of keys) end(owned, key, owned.text(key) as string, mark)
        return keys.length
      },
    },
  }
}
