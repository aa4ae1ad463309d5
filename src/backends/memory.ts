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

/** Bytes of an entry beside its text: its key, and its place in a map. Measured on Node 24. */
const OVERHEAD = 120
/** Entries looked at, at each write, to see whether they have expired. */
const STEPS = 2
/** Entries looked at in one sweep: it goes on where it stopped. */
const LOOKS = 10_000

/** What stands for no value: JSON.stringify never prints it. */
const NONE = '\0'

/*
 * An entry is kept as one text, in lines: expiry, version, head, value, owner. As an object it would take a quarter more
 * memory, and a million objects are more work for the collector than a million texts. The owner is last, because only
 * he may have a line break in him; whether there is one, the shelf says.
 */
const packed = ({ expiresAt, version, head, value = NONE, owner }: Entry): string =>
  [String(expiresAt), version, head, value, owner].join('\n')

const expiryOf = (text: string): number => Number.parseFloat(text)

const versionOf = (text: string): string => {
  const at = text.indexOf('\n') + 1
  return text.slice(at, text.indexOf('\n', at))
}

const unpacked = (text: string, owned: boolean): Entry => {
  const version = text.indexOf('\n') + 1
  const head = text.indexOf('\n', version) + 1
  const value = text.indexOf('\n', head) + 1
  const owner = text.indexOf('\n', value) + 1
  const fields = text.slice(value, owner - 1)
  return {
    value: fields === NONE ? undefined : fields,
    head: text.slice(head, value - 1),
    expiresAt: expiryOf(text),
    version: text.slice(version, head - 1),
    owner: owned ? text.slice(owner) : undefined,
  }
}

/** Entries from the one written longest ago to the one written last, with a hand that goes round them. */
class Shelf {
  readonly entries = new Map<string, string>()
  bytes = 0
  #hand = this.entries.entries()

  /** Puts an entry last, in the place of the one that had its key. */
  put(key: string, text: string, there: string | undefined): void {
    if (there !== undefined) this.remove(key, there)
    this.entries.set(key, text)
    this.bytes += OVERHEAD + text.length
  }

  remove(key: string, text: string): void {
    this.bytes -= OVERHEAD + text.length
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
      const [key, text] = next.value
      // So put, because an expiry that is no number is for the layer above to judge.
      if (!(now >= expiryOf(text))) continue
      this.remove(key, text)
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
  /** The shelf on which a key has an entry. */
  const shelfOf = (key: string): Shelf | undefined =>
    strangers.entries.has(key) ? strangers : owned.entries.has(key) ? owned : undefined

  const put = (shelf: Shelf, key: string, text: string, there: string | undefined): void => {
    shelf.put(key, text, there)
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
    get(key) {
      const text = strangers.entries.get(key)
      if (text !== undefined) return unpacked(text, false)
      const other = owned.entries.get(key)
      return other === undefined ? undefined : unpacked(other, true)
    },
    generate(key, entry) {
      const there = shelfOf(key)?.entries.get(key)
      if (there !== undefined) return versionOf(there) === entry.version ? undefined : 'taken'
      put(entry.owner === undefined ? strangers : owned, key, packed(entry), undefined)
      return undefined
    },
    set(key, { value, head, version, expiresAt }, expected) {
      const shelf = shelfOf(key)
      const text = shelf?.entries.get(key)
      if (shelf === undefined || text === undefined) return 'gone'
      const there = versionOf(text)
      if (there === version) return undefined
      if (there !== expected) return 'stale'
      const { owner, expiresAt: before } = unpacked(text, shelf === owned)
      put(shelf, key, packed({ value, head, version, expiresAt: expiresAt ?? before, owner }), text)
      return undefined
    },
    clear(key, version) {
      const shelf = shelfOf(key)
      const text = shelf?.entries.get(key)
      if (version !== undefined && (text === undefined || versionOf(text) !== version)) return 'stale'
      if (text !== undefined) shelf?.remove(key, text)
      return undefined
    },
    touch(key, expiresAt) {
      const shelf = shelfOf(key)
      const text = shelf?.entries.get(key)
      if (shelf === undefined || text === undefined || expiresAt <= expiryOf(text)) return undefined
      shelf.put(key, packed({ ...unpacked(text, shelf === owned), expiresAt }), text)
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
