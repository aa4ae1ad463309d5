// Sessions in the memory of this process: gone when it ends, bounded in number and size, strangers evicted first.

import type { Backend, Entry } from '../backend.ts'
import { emitter, type Listener } from '../events.ts'
import { Fault } from '../outcome.ts'

export type MemoryOptions = {
  /** How many sessions are kept. Default 1 000 000. */
  readonly maxEntries?: number
  /** How many bytes they may take, roughly. Default 1 GiB. */
  readonly maxBytes?: number
  /** Milliseconds since 1970. */
  readonly now?: () => number
  /** Hears of evictions. */
  readonly onEvent?: Listener
}

/** Bytes of an entry beside its texts: its object, its key, its place in a map. Measured on Node 24. */
const OVERHEAD = 250
/** Entries looked at, at each write, to see whether they have expired. */
const STEPS = 2
/** Entries looked at in one sweep: it goes on where it stopped. */
const LOOKS = 10_000

const sizeOf = ({ value, head, owner }: Entry): number =>
  OVERHEAD + (value?.length ?? 0) + head.length + (owner?.length ?? 0)

/** Entries from the one written longest ago to the one written last, with a hand that goes round them. */
class Shelf {
  readonly entries = new Map<string, Entry>()
  bytes = 0
  #hand = this.entries.entries()

  /** Puts an entry last, in the place of the one that had its key. */
  put(key: string, entry: Entry, there: Entry | undefined): void {
    if (there !== undefined) this.remove(key, there)
    this.entries.set(key, entry)
    this.bytes += sizeOf(entry)
  }

  remove(key: string, entry: Entry): void {
    this.bytes -= sizeOf(entry)
    this.entries.delete(key)
  }

  /** Moves the hand on by so many entries, and removes what it finds expired, so much at most; how much it was. */
  tidy(now: number, steps: number, limit: number): number {
    let removed = 0
    for (let step = Math.min(steps, this.entries.size); step > 0 && removed < limit; step--) {
      let next = this.#hand.next()
      if (next.done) {
        this.#hand = this.entries.entries()
        next = this.#hand.next()
        if (next.done) break
      }
      const [key, entry] = next.value
      // So put, because an expiry that is no number is for the layer above to judge.
      if (!(now >= entry.expiresAt)) continue
      this.remove(key, entry)
      removed++
    }
    return removed
  }
}

const positive = (value: number, name: string): number => {
  if (Number.isFinite(value) && value >= 1) return value
  throw new Fault('bad_option', `${name} has to be a number of at least 1.`)
}

/**
 * A backend in this process. Where it is full, it makes room by the session written longest ago, of a stranger if there
 * is one, else of an owner; the event is `evicted`.
 *
 * @throws Fault `bad_option`
 */
export const memoryBackend = (options: MemoryOptions = {}): Backend => {
  const maxEntries = positive(options.maxEntries ?? 1_000_000, 'maxEntries')
  const maxBytes = positive(options.maxBytes ?? 2 ** 30, 'maxBytes')
  const { now = Date.now } = options
  const emit = emitter(options.onEvent)
  const strangers = new Shelf()
  const owned = new Shelf()
  let kept: string | undefined
  const shelfOf = (entry: Entry) => (entry.owner === undefined ? strangers : owned)
  const find = (key: string): Entry | undefined => strangers.entries.get(key) ?? owned.entries.get(key)

  const put = (key: string, entry: Entry, there: Entry | undefined): void => {
    const shelf = shelfOf(entry)
    shelf.put(key, entry, there)
    shelf.tidy(now(), STEPS, STEPS)
    while (strangers.entries.size + owned.entries.size > maxEntries || strangers.bytes + owned.bytes > maxBytes) {
      const fullest = strangers.entries.size > 0 ? strangers : owned
      const [oldest] = fullest.entries
      if (oldest === undefined) return
      fullest.remove(...oldest)
      emit('evicted', { message: 'The memory backend was full and forgot a session. See maxEntries and maxBytes.' })
    }
  }

  return {
    name: 'memory',
    defaultPeriod: 604_800,
    get: find,
    generate(key, entry) {
      const there = find(key)
      if (there !== undefined) return there.version === entry.version ? undefined : 'taken'
      put(key, entry, undefined)
      return undefined
    },
    set(key, change, version) {
      const there = find(key)
      if (there === undefined) return 'gone'
      if (there.version === change.version) return undefined
      if (there.version !== version) return 'stale'
      const { value, head, expiresAt = there.expiresAt } = change
      put(key, { value, head, expiresAt, version: change.version, owner: there.owner }, there)
      return undefined
    },
    clear(key, version) {
      const there = find(key)
      if (version !== undefined && there?.version !== version) return 'stale'
      if (there !== undefined) shelfOf(there).remove(key, there)
      return undefined
    },
    touch(key, expiresAt) {
      const there = find(key)
      if (there !== undefined && expiresAt > there.expiresAt) shelfOf(there).put(key, { ...there, expiresAt }, there)
      return undefined
    },
    sweep(before, limit) {
      const swept = strangers.tidy(before, LOOKS, limit)
      return swept + owned.tidy(before, LOOKS, limit - swept)
    },
    secret(fresh) {
      kept ??= fresh
      return kept
    },
  }
}
