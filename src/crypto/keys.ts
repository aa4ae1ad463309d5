// Keys and labels: made at random, recognised by their shape, and hashed before anything is stored.

import { createHmac, hash, timingSafeEqual } from 'node:crypto'
import { random, randomBuffer } from './random.ts'

/*
 * A key is 32 random bytes in 43 base64url characters. The first nine bytes, twelve characters, are its label: the
 * address of the entry, safe to log and to show. The other 23, its secret, are never stored: an entry keeps a SHA-256.
 * 184 secret bits are more than the 128 of OWASP ASVS 5.0 §7.2.3. Labels are short: among 10^11 of them two are likely
 * to be equal, which is why a new entry is inserted only where there is none.
 */
const LABEL = 12

/** 43 characters of base64url whose last one has no stray bits (RFC 4648 §3.5): one spelling a key. */
const shape = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/

export const newKey = (): string => random(32)

/** Characters of a version that name who wrote it. */
export const WRITER = 4

/**
 * Names for the states of entries: 24 random bits of whoever writes them, and a number of 24 bits that counts on from a
 * random one. Commits of one session by one writer go one after another, so its last version is all that has to be
 * remembered of it.
 */
export const versions = (): (() => string) => {
  const writer = random(3)
  const bytes = randomBuffer(3)
  let count = bytes.readUIntBE(0, 3)
  return () => {
    count = (count + 1) % 0x1_00_00_00
    bytes.writeUIntBE(count, 0, 3)
    return writer + bytes.toString('base64url')
  }
}

/** A version of nobody in particular. */
export const newVersion = versions()

/** Whether a text could be a key: nothing else is ever looked up. */
export const isKey = (text: string): boolean => shape.test(text)

export const labelOf = (key: string): string => key.slice(0, LABEL)

/** A namespace that can stand in a storage key as it is. */
const PLAIN_NAMESPACE = /^[A-Za-z0-9-]{1,40}$/

/**
 * The storage keys of a namespace, by the label of a session: `sid.Q2hhcmxvdHRl`, so that an operator finds the entry of a
 * label that a log names. The namespace is a part of it, so a key of one application opens nothing in another that shares
 * its store. A namespace with other characters is hashed: its storage keys begin with `_`, which no plain one does.
 *
 * A label opens nothing: of a key's 256 bits it has 72, and the other 184 are never stored (docs/decisions/022).
 *
 * @param kind separates other entries of the same label from sessions
 */
export const storageKeys = (namespace: string, kind: '' | 'end.' = ''): ((label: string) => string) => {
  const plain = PLAIN_NAMESPACE.test(namespace)
  const name = plain ? namespace : `_${hash('sha256', `keepsake/1 namespace ${namespace}`, 'base64url').slice(0, 22)}`
  const prefix = `${name}.${kind}`
  return (label) => prefix + label
}

/** The accounts of a namespace as entries name them, so that applications that share a store keep their own lists. */
export type OwnerNames = {
  readonly encode: (name: string) => string
  /** Of an entry that has no such prefix: what it has. */
  readonly decode: (encoded: string) => string
}

export const ownerNames = (namespace: string): OwnerNames => {
  const prefix = `${namespace.replaceAll('%', '%25').replaceAll(':', '%3A')}:`
  return {
    encode: (name) => prefix + name,
    decode: (encoded) => (encoded.startsWith(prefix) ? encoded.slice(prefix.length) : encoded),
  }
}

/** What an entry keeps of a key: enough to recognise it, useless to whoever reads the store. */
export const hashKey = (key: string): string => hash('sha256', key, 'base64url')

/** Characters of a SHA-256 in base64url. */
const DIGEST = 43
const left = Buffer.alloc(DIGEST)
const right = Buffer.alloc(DIGEST)

/** Whether two digests are equal, in a time that does not depend on where they differ. */
export const sameHash = (a: string, b: string): boolean => {
  if (a.length !== DIGEST || b.length !== DIGEST) return false
  left.write(a, 'latin1')
  right.write(b, 'latin1')
  // The bytes are the low halves of the characters: only digests have no others.
  return timingSafeEqual(left, right) && a === b
}

/** The key that follows `key` at a renewal: the same label, and a secret that only holders of both parts can tell. */
export const rotatedKey = (key: string, salt: string): string => {
  const secret = createHmac('sha256', salt).update(`keepsake/1 renew ${key}`).digest()
  return labelOf(key) + secret.toString('base64url', 0, 23)
}
