// Sessions in the memory of this process: gone when it ends, bounded in number and size, strangers evicted first.

import { getHeapStatistics, isStringOneByteRepresentation } from 'node:v8'
import { checkOptionNames, KeepsakeError } from '../error.ts'
import { emitter, type SessionEventListener } from '../events.ts'
import type { Backend, Entry, Mark, Removed } from './contract.ts'
import { cursors } from './cursors.ts'

export type MemoryOptions = {
  /** How many sessions are kept. Default 1 000 000. */
  readonly maxEntries?: number | undefined
  /**
   * How many bytes of the heap they may take, roughly. Default an eighth of the largest heap that this process may have
   * (`heap_size_limit` of `node:v8`), and 1 GiB at most.
   */
  readonly maxBytes?: number | undefined
  /** Milliseconds since 1970. */
  readonly now?: (() => number) | undefined
  /** Hears of evictions. */
  readonly onEvent?: SessionEventListener | undefined
}

/** Bytes of an entry beside its text: its key, and its place in a map. Measured on Node 24: 111 to 157. */
const OVERHEAD = 140
/** More of one that has an owner, beside his name: places in two maps. Measured: 78 to 135, and half of it where he has eight. */
const OWNED = 110
/** The part of the heap that sessions may fill by default. Of the rest the application lives, and the collector. */
const SHARE = 1 / 8
const MOST = 2 ** 30
/** Keys of one owner that are no set yet. */
const FEW = 8
/** Entries looked at, at each write, to see whether they have expired. */
const STEPS = 2
/** Removed entries of owners that are remembered for the next sweep. */
const TIDIED = 10_000
/** Entries looked at in one sweep: it goes on where it stopped. */
const LOOKS = 10_000

/** What stands for no value: JSON.stringify never prints it. */
const NONE = '\0'

/*
 * An entry is kept as one text, in lines: expiry, version, head, value, owner. As an object it would take a quarter more
 * memory, and a million objects are more work for the collector than a million texts. The owner is last, because only
 * he may have a line break in him; whether there is one, the shelf says.
 */
const encodeEntry = ({ expiresAt, version, metadata, value = NONE, owner }: Entry): string =>
  [String(expiresAt), version, metadata, value, owner].join('\n')

const expiryIn = (text: string): number => Number.parseFloat(text)

const versionIn = (text: string): string => {
  const at = text.indexOf('\n') + 1
  return text.slice(at, text.indexOf('\n', at))
}

const afterVersion = (text: string, at: number): number => text.indexOf('\n', at) + 1

const ownerIn = (text: string): string =>
  text.slice(afterVersion(text, afterVersion(text, afterVersion(text, afterVersion(text, 0)))))

const decodeEntry = (text: string, owned: boolean): Entry => {
  const version = afterVersion(text, 0)
  const metadata = afterVersion(text, version)
  const value = afterVersion(text, metadata)
  const owner = afterVersion(text, value)
  const fields = text.slice(value, owner - 1)
  return {
    value: fields === NONE ? undefined : fields,
    metadata: text.slice(metadata, value - 1),
    expiresAt: expiryIn(text),
    version: text.slice(version, metadata - 1),
    owner: owned ? text.slice(owner) : undefined,
  }
}

/** Bytes of the characters of a text: two each where only one of them is beyond Latin-1. */
const bytesOf = (text: string): number => (isStringOneByteRepresentation(text) ? 1 : 2) * text.length

/**
 * A text with characters of its own. One that was cut out of another, or added up, would keep those in memory: an owner's
 * name the whole body of the form that it came with.
 */
const ownCopy = (text: string): string => [text.slice(0, 1), text.slice(1)].join('')

/** The keys of each owner. Most have one or a few, for which a set would take more memory than all else of them. */
class OwnerSets {
  readonly #keys = new Map<string, string | readonly string[] | Set<string>>()

  add(owner: string, key: string): void {
    const there = this.#keys.get(owner)
    if (there === undefined) this.#keys.set(owner, key)
    else if (there instanceof Set) there.add(key)
    // Not spread: an array that grows makes room for sixteen.
    else this.#keep(owner, this.of(owner).concat(key))
  }

  remove(owner: string, key: string): void {
    const there = this.#keys.get(owner)
    if (there instanceof Set) {
      there.delete(key)
      if (there.size < FEW / 2) this.#keep(owner, [...there])
    } else {
      const keys = this.of(owner)
      this.#keep(owner, keys.toSpliced(keys.indexOf(key), 1))
    }
  }

  of(owner: string): readonly string[] {
    const there = this.#keys.get(owner) ?? []
    return typeof there === 'string' ? [there] : [...there]
  }

  #keep(owner: string, keys: readonly string[]): void {
    const [first] = keys
    if (first === undefined) this.#keys.delete(owner)
    else if (keys.length > FEW) this.#keys.set(owner, new Set(keys))
    else this.#keys.set(owner, keys.length === 1 ? first : keys)
  }
}

/** Entries from the one written longest ago to the one written last, with a hand that goes round them. */
class EntryMap {
  readonly entries = new Map<string, string>()
  /** Kept in step by all that puts or removes: the shelf of strangers has none, and pays nothing. */
  readonly owners: OwnerSets | undefined
  readonly #overhead: number
  bytes = 0
  #hand = this.entries.entries()
  /**
   * Stands behind the entry that was evicted last. A fresh iterator would pass over the holes of all that were evicted
   * before it, tens of thousands at each write of a flood. One that stands still keeps tables that the map has left
   * behind, so it begins anew as often as the hand does.
   */
  #oldest: MapIterator<[string, string]> | undefined

  constructor(overhead: number, owners?: OwnerSets) {
    this.#overhead = overhead
    this.owners = owners
  }

  /** Puts an entry last, in the place of the one that had its key. */
  put(key: string, text: string, there: string): void {
    this.#drop(key, there)
    this.#add(key, text)
  }

  /** Puts a new entry last. The owner is no piece of the text, which an index of pieces would keep for ever. */
  putNew(key: string, text: string, owner = ''): void {
    this.owners?.add(ownCopy(owner), ownCopy(key))
    this.#add(key, text)
  }

  remove(key: string, text: string): void {
    this.owners?.remove(ownerIn(text), key)
    this.#drop(key, text)
  }

  /** Removes the entry written longest ago. */
  evict(): void {
    this.#oldest ??= this.entries.entries()
    let next = this.#oldest.next()
    if (next.done) {
      this.#oldest = this.entries.entries()
      next = this.#oldest.next()
    }
    if (!next.done) this.remove(...next.value)
  }

  #add(key: string, text: string): void {
    this.entries.set(ownCopy(key), text)
    this.bytes += this.#cost(text)
  }

  #drop(key: string, text: string): void {
    this.entries.delete(key)
    this.bytes -= this.#cost(text)
  }

  #cost(text: string): number {
    const name = this.owners ? bytesOf(ownerIn(text)) : 0
    return this.#overhead + bytesOf(text) + name
  }

  /** Moves the hand on by so many entries, and removes what it finds expired, so much at most; how much it was. */
  tidy(now: number, steps: number, limit: number, gone?: (entry: Removed) => void): number {
    let removed = 0
    for (let step = Math.min(steps, this.entries.size); step > 0 && removed < limit; step--) {
      let next = this.#hand.next()
      if (next.done) {
        this.#hand = this.entries.entries()
        this.#oldest = undefined
        next = this.#hand.next()
        if (next.done) break
      }
      const [key, text] = next.value
      // So put, because an expiry that is no number is for the layer above to judge.
      if (!(now >= expiryIn(text))) continue
      const { metadata, owner } = decodeEntry(text, this.owners !== undefined)
      this.remove(key, text)
      if (owner !== undefined) gone?.({ key, metadata, owner })
      removed++
    }
    return removed
  }
}

const positive = (value: number, name: string): number => {
  if (Number.isFinite(value) && value >= 1) return value
  throw new KeepsakeError('invalid_option', `${name} has to be a number of at least 1.`)
}

/**
 * A backend in this process. Where it is full, it makes room by the session written longest ago, of a stranger if there
 * is one, else of an owner; the event is `evicted`.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const memoryBackend = (options: MemoryOptions = {}): Backend => {
  checkOptionNames(options, ['maxEntries', 'maxBytes', 'now', 'onEvent'], 'memoryBackend()')
  const maxEntries = positive(options.maxEntries ?? 1_000_000, 'maxEntries')
  const maxBytes = positive(options.maxBytes ?? Math.min(MOST, getHeapStatistics().heap_size_limit * SHARE), 'maxBytes')
  const { now = () => Date.now() } = options
  const emit = emitter(options.onEvent)
  const strangers = new EntryMap(OVERHEAD)
  const owners = new OwnerSets()
  const owned = new EntryMap(OVERHEAD + OWNED, owners)
  let kept: string | undefined
  /** The shelf on which a key has an entry. */
  const shelfOf = (key: string): EntryMap | undefined =>
    strangers.entries.has(key) ? strangers : owned.entries.has(key) ? owned : undefined

  /** What was removed between two sweeps: the next one tells of it. */
  const tidied: Removed[] = []

  /** Has a shelf that was written to forget a little of what has expired, and evicts what is too much. */
  const makeRoom = (written: EntryMap): void => {
    written.tidy(now(), STEPS, STEPS, (entry) => tidied.push(entry))
    if (tidied.length > TIDIED) tidied.shift()
    while (strangers.entries.size + owned.entries.size > maxEntries || strangers.bytes + owned.bytes > maxBytes) {
      const shelf = strangers.entries.size > 0 ? strangers : owned
      if (shelf.entries.size === 0) return
      shelf.evict()
      emit('evicted', { message: 'The memory backend was full and forgot a session. See maxEntries and maxBytes.' })
    }
  }

  const end = (shelf: EntryMap, key: string, text: string, mark: Mark | undefined): void => {
    shelf.remove(key, text)
    if (mark !== undefined) strangers.putNew(key, encodeEntry({ value: undefined, ...mark }))
  }

  const everything = cursors(function* () {
    for (const [key, text] of strangers.entries) yield { key, ...decodeEntry(text, false) }
    for (const [key, text] of owned.entries) yield { key, ...decodeEntry(text, true) }
  })

  return {
    name: 'memory',
    defaultPeriod: 604_800,
    get(key) {
      const text = strangers.entries.get(key)
      if (text !== undefined) return decodeEntry(text, false)
      const other = owned.entries.get(key)
      return other === undefined ? undefined : decodeEntry(other, true)
    },
    generate(key, entry) {
      const there = shelfOf(key)?.entries.get(key)
      if (there !== undefined) return versionIn(there) === entry.version ? undefined : 'taken'
      const shelf = entry.owner === undefined ? strangers : owned
      shelf.putNew(key, encodeEntry(entry), entry.owner)
      makeRoom(shelf)
      return undefined
    },
    set(key, { value, metadata, version, expiresAt }, expected) {
      const shelf = shelfOf(key)
      const text = shelf?.entries.get(key)
      if (shelf === undefined || text === undefined) return 'gone'
      const there = versionIn(text)
      if (there === version) return undefined
      if (there !== expected) return 'stale'
      const { owner, expiresAt: before } = decodeEntry(text, shelf === owned)
      shelf.put(key, encodeEntry({ value, metadata, version, expiresAt: expiresAt ?? before, owner }), text)
      makeRoom(shelf)
      return undefined
    },
    clear(key, version, mark) {
      const shelf = shelfOf(key)
      const text = shelf?.entries.get(key)
      const there = text && versionIn(text)
      if (there !== undefined && there === mark?.version) return undefined
      if (version !== undefined && there !== version) return 'stale'
      if (text !== undefined) end(shelf as EntryMap, key, text, mark)
      return undefined
    },
    touch(key, expiresAt) {
      const shelf = shelfOf(key)
      const text = shelf?.entries.get(key)
      if (shelf === undefined || text === undefined || expiresAt <= expiryIn(text)) return undefined
      shelf.put(key, encodeEntry({ ...decodeEntry(text, shelf === owned), expiresAt }), text)
      return undefined
    },
    sweep(before, limit, removed) {
      for (const entry of tidied.splice(0)) removed?.(entry)
      const swept = strangers.tidy(before, LOOKS, limit)
      return swept + owned.tidy(before, LOOKS, limit - swept, removed)
    },
    scan(from, limit) {
      const { values: entries, cursor } = everything.next(from, limit)
      return { entries, cursor }
    },
    keepSecret(candidate) {
      kept ??= candidate
      return kept
    },
    byOwner: {
      list: (owner) => owners.of(owner).map((key) => ({ key, ...decodeEntry(owned.entries.get(key) as string, true) })),
      clear(owner, except, mark) {
        const keys = owners.of(owner).filter((key) => key !== except)
        for (const key of keys) end(owned, key, owned.entries.get(key) as string, mark)
        return keys.length
      },
    },
  }
}
