// Keys, labels, versions and storage keys: their formats, and how each is made.

import { createHmac, hash, timingSafeEqual } from 'node:crypto'
import { random, randomBuffer } from './random.ts'

/**
 * Characters of a label. A key is 32 random bytes in 43 characters of base64url. The first 9 bytes, 12 characters, are
 * its label: it names the entry and is safe to log and to show. The other 23 bytes are its secret, which is never
 * stored: an entry has the SHA-256 of the key. 184 secret bits are more than the 128 of OWASP ASVS 5.0 §7.2.3. Labels
 * are short, and among 10^11 of them two are likely to be equal, so a backend inserts a new entry only if its storage
 * key is free.
 */
export const LABEL_LENGTH = 12

/** 43 characters of base64url. The last one has no unused bits (RFC 4648 §3.5), so a key has one spelling. */
const KEY = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/

export const newKey = (): string => random(32)

/** 12 characters of base64url. */
const LABEL = /^[A-Za-z0-9_-]{12}$/

/** Characters of a version. */
export const VERSION_LENGTH = 8

/** The first characters of a version, which name its writer. */
export const WRITER = 4

/**
 * Makes versions: 24 random bits that name the writer, and a 24-bit number that counts up from a random one. A writer
 * commits one session's changes one after another, so an entry needs to remember only the last version of each writer.
 * The bits are drawn for the first version, because Cloudflare Workers refuse random numbers while modules are loaded.
 */
export const versions = (): (() => string) => {
  let writer: string | undefined
  const bytes = Buffer.alloc(3)
  let count = 0
  return () => {
    if (writer === undefined) {
      writer = random(3)
      count = randomBuffer(3).readUIntBE(0, 3)
    }
    count = (count + 1) % 0x1_00_00_00
    bytes.writeUIntBE(count, 0, 3)
    return writer + bytes.toString('base64url')
  }
}

/** A version of this process, for writes that belong to no manager. */
export const newVersion = versions()

/** Whether a text has the format of a key. Only such texts are looked up. */
export const isKey = (text: string): boolean => KEY.test(text)

/** Whether a text has the format of a label. */
export const isLabel = (text: string): boolean => LABEL.test(text)

export const labelOf = (key: string): string => key.slice(0, LABEL_LENGTH)

/** A namespace that a storage key contains unchanged. */
const PLAIN_NAMESPACE = /^[A-Za-z0-9-]{1,40}$/

/**
 * Makes storage keys from the labels of a namespace: `sid.Q2hhcmxvdHRl`, so that an operator finds the entry of a label
 * that a log names. The key contains the namespace, so a key of one application opens nothing in another application
 * that shares its store. A namespace with other characters is hashed, and its storage keys begin with `_`, which no
 * plain namespace does.
 *
 * A label opens nothing: it has 72 of a key's 256 bits, and the other 184 are never stored (docs/decisions/022).
 *
 * @param kind separates other entries of the same label from sessions
 */
export const storageKeys = (namespace: string, kind: '' | 'end.' = ''): ((label: string) => string) => {
  const plain = PLAIN_NAMESPACE.test(namespace)
  const name = plain ? namespace : `_${hash('sha256', `keepsake/1 namespace ${namespace}`, 'base64url').slice(0, 22)}`
  const prefix = `${name}.${kind}`
  return (label) => prefix + label
}

/** Converts the names of owners to those in entries, so that applications that share a store have separate owners. */
export type OwnerNames = {
  readonly encode: (name: string) => string
  /** Returns a name without the namespace's prefix unchanged. */
  readonly decode: (encoded: string) => string
  /** Whether a name in an entry is of this application. */
  readonly owns: (encoded: string) => boolean
}

/** The namespace and the name in an owner of an entry. Undefined if it has no namespace. */
export const splitOwner = (encoded: string): { readonly namespace: string; readonly name: string } | undefined => {
  const colon = encoded.indexOf(':')
  if (colon === -1) return undefined
  const namespace = encoded.slice(0, colon).replaceAll('%3A', ':').replaceAll('%25', '%')
  return { namespace, name: encoded.slice(colon + 1) }
}

export const ownerNames = (namespace: string): OwnerNames => {
  const prefix = `${namespace.replaceAll('%', '%25').replaceAll(':', '%3A')}:`
  return {
    encode: (name) => prefix + name,
    decode: (encoded) => (encoded.startsWith(prefix) ? encoded.slice(prefix.length) : encoded),
    owns: (encoded) => encoded.startsWith(prefix),
  }
}

/** The hash of a key in its entry. It recognises the key, and a reader of the store cannot use it as a key. */
export const hashKey = (key: string): string => hash('sha256', key, 'base64url')

/** Characters of a SHA-256 in base64url. */
const HASH_LENGTH = 43
const left = Buffer.alloc(HASH_LENGTH)
const right = Buffer.alloc(HASH_LENGTH)

/** Whether two hashes are equal, in a time that does not depend on the position of the first difference. */
export const sameHash = (a: string, b: string): boolean => {
  if (a.length !== HASH_LENGTH || b.length !== HASH_LENGTH) return false
  left.write(a, 'latin1')
  right.write(b, 'latin1')
  // `write` keeps the low byte of each character, so texts that are no hashes could be equal here: compare those too.
  return timingSafeEqual(left, right) && a === b
}

/** The key after `key` in a rotation: the same label, and a new secret that requires the old key and the salt. */
export const rotatedKey = (key: string, salt: string): string => {
  const secret = createHmac('sha256', salt).update(`keepsake/1 renew ${key}`).digest()
  return labelOf(key) + secret.toString('base64url', 0, 23)
}
