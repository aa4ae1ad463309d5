// Seals bytes with XAES-256-GCM under a list of secrets, and binds each token to its purpose, name and audience.

import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto'
import { types } from 'node:util'
import { KeepsakeError } from '../error.ts'
import { randomBuffer } from './random.ts'

const DOMAIN = 'keepsake/v1'
const VERSION = 1
const KEY_ID = 4
const NONCE = 24
const TAG = 16
const HEADER = 1 + KEY_ID + NONCE
/** Characters of a token without content. */
const MIN_LENGTH = Math.ceil(((HEADER + TAG) * 4) / 3)
/** The most characters of a token: browsers keep no longer cookies (RFC 6265bis §5.6). */
const MAX_LENGTH = 4096

/**
 * The context of a token. It opens only with the same three texts, so a token of one cookie is not valid in another.
 */
type Context = { readonly purpose: string; readonly name: string; readonly audience?: string }

/** Secrets, newest first: the first one seals, all of them open. */
export type KeyRing = {
  /** The bytes as a token of base64url. */
  seal(context: Context, plain: Uint8Array): string
  /** The bytes of a token. Undefined if no secret of this ring sealed it for this context. */
  open(context: Context, token: string, maxLength?: number): Buffer | undefined
  /** The HMAC-SHA-256 of a message under the newest secret. */
  sign(message: string | Uint8Array): Buffer
  /** Whether `mac` is such an HMAC of the message under any secret of this ring, or its first 16 bytes or more. */
  verify(message: string | Uint8Array, mac: Uint8Array): boolean
}

export type Aead = {
  seal(nonce: Uint8Array, plain: Uint8Array, associated: Uint8Array): Buffer
  open(nonce: Uint8Array, sealed: Uint8Array, associated: Uint8Array): Buffer | undefined
}

/** AES-256-GCM (NIST SP 800-38D) with a nonce of 12 bytes. The whole tag follows the ciphertext. */
export const gcm = {
  seal(key: KeyObject, nonce: Uint8Array, plain: Uint8Array, associated: Uint8Array): Buffer {
    const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG })
    cipher.setAAD(associated)
    const sealed = cipher.update(plain)
    cipher.final()
    return Buffer.concat([sealed, cipher.getAuthTag()])
  },
  open(key: KeyObject, nonce: Uint8Array, sealed: Uint8Array, associated: Uint8Array): Buffer | undefined {
    // The tag is cut at a fixed offset: Node 22 and 24 would accept one of four bytes.
    if (sealed.length < TAG) return undefined
    const end = sealed.length - TAG
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG })
    decipher.setAAD(associated)
    decipher.setAuthTag(sealed.subarray(end))
    const plain = decipher.update(sealed.subarray(0, end))
    try {
      decipher.final()
      return plain
    } catch {
      return undefined
    }
  },
}

/**
 * XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is derived from the first half of the
 * nonce. The nonce is long enough to be random without a limit on the number of tokens.
 */
export const xaes = (key: Uint8Array): Aead => {
  // ECB without padding has no state between whole blocks, so one object serves all derivations. It has no IV: the
  // argument is '' because workerd refuses null.
  const block = createCipheriv('aes-256-ecb', createSecretKey(key), '').setAutoPadding(false)
  const zero = block.update(Buffer.alloc(16))
  const mask = Buffer.from(zero.map((byte, i) => (byte << 1) | ((zero[i + 1] ?? 0) >> 7)))
  if ((zero[0] as number) > 0x7f) mask[15] = (mask[15] as number) ^ 0x87
  const derivedKey = (nonce: Uint8Array) => {
    const blocks = Buffer.alloc(32)
    for (let half = 0; half < 2; half++) {
      blocks.set([0, half + 1, 0x58, 0], half * 16)
      blocks.set(nonce.subarray(0, 12), half * 16 + 4)
      for (let i = 0; i < 16; i++) blocks[half * 16 + i] = (blocks[half * 16 + i] as number) ^ (mask[i] as number)
    }
    return createSecretKey(block.update(blocks))
  }
  return {
    seal: (nonce, plain, associated) => gcm.seal(derivedKey(nonce), nonce.subarray(12), plain, associated),
    open: (nonce, sealed, associated) => gcm.open(derivedKey(nonce), nonce.subarray(12), sealed, associated),
  }
}

/** HKDF-SHA-256 (RFC 5869) without salt. */
export const hkdf = (secret: Uint8Array, info: string, length: number): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, '', info, length))

/** A key for one purpose. It reveals neither the secret nor the key for another purpose. */
const subkey = (secret: Uint8Array, purpose: string, length: number): Buffer =>
  hkdf(secret, `${DOMAIN}/${purpose}`, length)

const refuse = (why: string): never => {
  throw new KeepsakeError(
    'invalid_option',
    `A secret is not usable: ${why}. It must be 32 random bytes or more, as base64url, hex or a Uint8Array. Make one: ${HOW_TO_MAKE_ONE}`,
  )
}

/** A new secret for a backend to store, in hex because no check of secrets mistakes hex for a phrase. */
export const newSecret = (): string => randomBytes(32).toString('hex')

export const HOW_TO_MAKE_ONE = `node -p "crypto.randomBytes(32).toString('base64url')"`

/**
 * Words that people type instead of random characters. A random text of 43 characters contains one once in 10^7 times.
 */
const looksTyped = /secret|passw|change|sample|example|complex|random/i

const bytesOf = (secret: string | Uint8Array): Uint8Array => {
  if (types.isUint8Array(secret)) return secret
  if (typeof secret !== 'string') return refuse(`it is a ${typeof secret}`)
  if (looksTyped.test(secret)) return refuse('it contains a word')
  if (/^([0-9a-f]{2})+$/i.test(secret)) return Buffer.from(secret, 'hex')
  if (!/^[A-Za-z0-9_+/-]+={0,2}$/.test(secret))
    return refuse('it contains characters that are neither base64url nor hex')
  // 32 random bytes lack capital or small letters once in 10^9 times, but a phrase often does.
  if (!/[a-z]/.test(secret) || !/[A-Z]/.test(secret)) return refuse('it looks like a phrase')
  return Buffer.from(secret, 'base64url')
}

/** The bytes of a secret. @throws KeepsakeError `invalid_option` if it is too short or visibly not random */
const checkedSecret = (secret: string | Uint8Array): Uint8Array => {
  const bytes = bytesOf(secret)
  if (bytes.length < 32) return refuse(`it has ${bytes.length} bytes`)
  // Of 32 random bytes about 30 differ. Fewer than 16 is no chance.
  return new Set(bytes).size < 16 ? refuse('it repeats itself') : bytes
}

const lengthPrefixed = (text: string): Buffer => {
  const bytes = Buffer.from(text)
  const length = Buffer.alloc(2)
  length.writeUInt16BE(bytes.length)
  return Buffer.concat([length, bytes])
}

const associated = ({ purpose, name, audience = '' }: Context, header: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(`${DOMAIN}\0`), ...[purpose, name, audience].map(lengthPrefixed), header])

/** The most contexts whose associated data are cached. */
const MAX_CACHED = 100

/** A cache of associated data: an application has a few cookies, and on loopback one name for each port. */
const associatedCache = () => {
  const cache = new Map<string, Buffer>()
  return (context: Context, header: Buffer): Buffer => {
    const { purpose, name, audience = '' } = context
    // The lengths come first, so two contexts never have the same text.
    const id = `${purpose.length} ${name.length} ${header.readUInt32BE(1)} ${purpose}${name}${audience}`
    const cached = cache.get(id)
    if (cached !== undefined) return cached
    if (cache.size === MAX_CACHED) cache.clear()
    const data = associated(context, header)
    cache.set(id, data)
    return data
  }
}

/** The fewest bytes of a MAC that cannot be guessed. */
const MIN_MAC = 16

const hmac = (key: KeyObject, message: string | Uint8Array): Buffer =>
  createHmac('sha256', key).update(message).digest()

/** Whether a text has the format of a token. Only such texts are opened. */
export const isToken = (text: string): boolean => text.length >= MIN_LENGTH && /^[A-Za-z0-9_-]+$/.test(text)

/**
 * A key ring of secrets, newest first.
 *
 * @param storedSecret a secret that the backend keeps: it still opens tokens from before the option `secret` was set
 * @throws KeepsakeError `invalid_option` for an empty list, a secret that is not usable, or the same secret twice
 */
export const keyRing = (secrets: readonly (string | Uint8Array)[], storedSecret?: string): KeyRing => {
  const keys = new Map<number, Aead>()
  const signers: KeyObject[] = []
  let newest: Buffer | undefined
  for (const secret of storedSecret === undefined ? secrets : [...secrets, storedSecret]) {
    const bytes = checkedSecret(secret)
    const id = subkey(bytes, 'kid', KEY_ID)
    if (keys.has(id.readUInt32BE()) && secret === storedSecret) break
    if (keys.has(id.readUInt32BE()))
      throw new KeepsakeError('invalid_option', 'The option secret has the same secret twice. Remove one of the two.')
    keys.set(id.readUInt32BE(), xaes(subkey(bytes, 'seal', 32)))
    signers.push(createSecretKey(subkey(bytes, 'csrf', 32)))
    newest ??= Buffer.from([VERSION, ...id])
  }
  if (newest === undefined)
    throw new KeepsakeError('invalid_option', `The option secret is an empty list. Make a secret: ${HOW_TO_MAKE_ONE}`)
  const header = newest
  const sealer = keys.get(header.readUInt32BE(1)) as Aead
  const cachedAssociated = associatedCache()
  return {
    seal(context, plain) {
      const nonce = randomBuffer(NONCE)
      return Buffer.concat([header, nonce, sealer.seal(nonce, plain, associated(context, header))]).toString(
        'base64url',
      )
    },
    open(context, token, maxLength = MAX_LENGTH) {
      if (token.length > maxLength) return undefined
      const bytes = Buffer.from(token, 'base64url')
      // Decoding skips unknown characters and ignores unused bits. The comparison leaves one spelling for each token.
      if (bytes.length < HEADER + TAG || bytes.toString('base64url') !== token || bytes[0] !== VERSION) return undefined
      const opener = keys.get(bytes.readUInt32BE(1))
      if (opener === undefined) return undefined
      const idBytes = bytes.subarray(0, 1 + KEY_ID)
      return opener.open(bytes.subarray(1 + KEY_ID, HEADER), bytes.subarray(HEADER), cachedAssociated(context, idBytes))
    },
    sign: (message) => hmac(signers[0] as KeyObject, message),
    verify: (message, mac) =>
      mac.length >= MIN_MAC &&
      mac.length <= 32 &&
      signers.some((key) => timingSafeEqual(hmac(key, message).subarray(0, mac.length), mac)),
  }
}
