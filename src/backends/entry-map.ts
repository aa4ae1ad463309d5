// Entries in memory as short texts, in the order in which they were written, with an index by owner.

import v8 from 'node:v8'
import type { Entry, Removed } from './contract.ts'

/** Bytes of an entry besides its text: its key, and its place in a map. Measured on Node 24: 111 to 157. */
const OVERHEAD = 140
/** More bytes of an entry with an owner, besides the owner's name: places in two maps. Measured: 78 to 135 if the owner has one, half of it if eight. */
const OWNED_OVERHEAD = 110
/** The most keys of one owner that are kept as a text: a set of a few keys would take more memory than the rest of them. */
const MAX_IN_TEXT = 8

/** Stands for an undefined value: JSON.stringify never prints a NUL. */
const UNDEFINED = '\0'

/*
 * An entry is kept as one text, in lines: expiry, version, metadata, value, owner. An object would take a quarter more
 * memory, and a million objects are more work for the garbage collector than a million texts. The owner comes last, because
 * only an owner may contain a line break. The map knows whether its entries have owners.
 */
const encodeEntry = ({ expiresAt, version, metadata, value = UNDEFINED, owner }: Entry): string =>
  [String(expiresAt), version, metadata, value, owner].join('\n')

export const expiryIn = (text: string): number => Number.parseFloat(text)

export const versionIn = (text: string): string => {
  const at = text.indexOf('\n') + 1
  return text.slice(at, text.indexOf('\n', at))
}

const nextLine = (text: string, at: number): number => text.indexOf('\n', at) + 1

const ownerIn = (text: string): string => {
  const version = nextLine(text, 0)
  const metadata = nextLine(text, version)
  const value = nextLine(text, metadata)
  return text.slice(nextLine(text, value))
}

const decodeEntry = (text: string, hasOwner: boolean): Entry => {
  const version = nextLine(text, 0)
  const metadata = nextLine(text, version)
  const value = nextLine(text, metadata)
  const owner = nextLine(text, value)
  const fields = text.slice(value, owner - 1)
  return {
    value: fields === UNDEFINED ? undefined : fields,
    metadata: text.slice(metadata, value - 1),
    expiresAt: expiryIn(text),
    version: text.slice(version, metadata - 1),
    owner: hasOwner ? text.slice(owner) : undefined,
  }
}

const isLatin1 = (text: string): boolean => !/[\u0100-\uffff]/.test(text)

/** Reads how V8 keeps a text. Deno has no such function, and that of Cloudflare Workers throws: there the text is searched. */
const hasOneByteCharacters = (() => {
  try {
    v8.isStringOneByteRepresentation('')
    return v8.isStringOneByteRepresentation
  } catch {
    return isLatin1
  }
})()

/** Bytes of the characters of a text: two for each if any of them is outside Latin-1. */
const bytesOf = (text: string): number => (hasOneByteCharacters(text) ? 1 : 2) * text.length

/**
 * A copy of a text with its own characters. V8 keeps a slice or a sum as a reference to the longer text: the name of an
 * owner would keep the whole body of the form from which it came.
 */
const ownCopy = (text: string): string => [text.slice(0, 1), text.slice(1)].join('')

/** The keys of each owner: up to eight as a text with one key in each line, more as a set. */
class OwnerSets {
  readonly #keys = new Map<string, string | Set<string>>()

  add(owner: string, key: string): void {
    const keys = this.#keys.get(owner)
    if (keys instanceof Set) keys.add(ownCopy(key))
    else this.#put(owner, this.keysOf(owner).concat(key))
  }

  remove(owner: string, key: string): void {
    const keys = this.#keys.get(owner)
    if (keys instanceof Set) {
      keys.delete(key)
      if (keys.size < MAX_IN_TEXT / 2) this.#put(owner, [...keys])
    } else {
      this.#put(
        owner,
        this.keysOf(owner).filter((other) => other !== key),
      )
    }
  }

  keysOf(owner: string): readonly string[] {
    const keys = this.#keys.get(owner)
    if (keys === undefined) return []
    return typeof keys === 'string' ? keys.split('\n') : [...keys]
  }

  #put(owner: string, keys: readonly string[]): void {
    if (keys.length === 0) this.#keys.delete(owner)
    else if (keys.length > MAX_IN_TEXT) this.#keys.set(ownCopy(owner), new Set(keys.map(ownCopy)))
    else this.#keys.set(ownCopy(owner), ownCopy(keys.join('\n')))
  }
}

/** Entries in the order of their last write, oldest first. Each map has only entries with an owner, or only entries without. */
export class EntryMap {
  readonly #texts = new Map<string, string>()
  /** Every method that adds or removes entries updates it. Entries without an owner need none, so they do not pay for it. */
  readonly #owners: OwnerSets | undefined
  readonly #overhead: number
  /** About how many bytes of the heap the entries take. */
  bytes = 0
  /** Goes round all entries, to find the expired ones. */
  #tidying = this.#texts.entries()
  /**
   * Points behind the entry that was evicted last. A new iterator would skip the empty places of all earlier evictions,
   * tens of thousands at each write of a flood. An iterator that stays in one place keeps old tables of the map alive, so
   * this one starts again whenever `#tidying` does.
   */
  #oldest: MapIterator<[string, string]> | undefined

  constructor(hasOwners: boolean) {
    this.#owners = hasOwners ? new OwnerSets() : undefined
    this.#overhead = hasOwners ? OVERHEAD + OWNED_OVERHEAD : OVERHEAD
  }

  get size(): number {
    return this.#texts.size
  }

  /** The text of an entry: `versionIn`, `expiryIn` and `entryIn` read it. */
  text(key: string): string | undefined {
    return this.#texts.get(key)
  }

  entryIn(text: string): Entry {
    return decodeEntry(text, this.#owners !== undefined)
  }

  keys(): Iterable<string> {
    return this.#texts.keys()
  }

  keysOf(owner: string): readonly string[] {
    return this.#owners?.keysOf(owner) ?? []
  }

  /** Replaces the text `before` of an entry, which becomes the entry written last. */
  replace(key: string, entry: Entry, before: string): void {
    this.#delete(key, before)
    this.#add(key, encodeEntry(entry))
  }

  /** Adds an entry. The owner is not sliced from the text, because its copy in the index outlives the text. */
  add(key: string, entry: Entry): void {
    this.#owners?.add(entry.owner ?? '', key)
    this.#add(key, encodeEntry(entry))
  }

  remove(key: string, text: string): void {
    this.#owners?.remove(ownerIn(text), key)
    this.#delete(key, text)
  }

  /** Removes the entry whose last write is the oldest. */
  evict(): void {
    this.#oldest ??= this.#texts.entries()
    let next = this.#oldest.next()
    if (next.done) {
      this.#oldest = this.#texts.entries()
      next = this.#oldest.next()
    }
    if (!next.done) this.remove(...next.value)
  }

  #add(key: string, text: string): void {
    this.#texts.set(ownCopy(key), text)
    this.bytes += this.#cost(text)
  }

  #delete(key: string, text: string): void {
    this.#texts.delete(key)
    this.bytes -= this.#cost(text)
  }

  #cost(text: string): number {
    const ofOwner = this.#owners ? bytesOf(ownerIn(text)) : 0
    return this.#overhead + bytesOf(text) + ofOwner
  }

  /**
   * Looks at the next `steps` entries, and removes the expired ones, at most `limit`.
   *
   * @returns how many it removed
   */
  tidy(now: number, steps: number, limit: number, onRemoved?: (entry: Removed) => void): number {
    let removed = 0
    for (let step = Math.min(steps, this.#texts.size); step > 0 && removed < limit; step--) {
      let next = this.#tidying.next()
      if (next.done) {
        this.#tidying = this.#texts.entries()
        this.#oldest = undefined
        next = this.#tidying.next()
        if (next.done) break
      }
      const [key, text] = next.value
      // Negated so that an entry with a NaN expiry is kept: the caller handles it.
      if (!(now >= expiryIn(text))) continue
      const { metadata, owner } = this.entryIn(text)
      this.remove(key, text)
      if (owner !== undefined) onRemoved?.({ key, metadata, owner })
      removed++
    }
    return removed
  }
}
