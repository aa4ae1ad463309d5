// Sealed bytes: XAES-256-GCM under a ring of secrets, each token bound to its purpose, its cookie and its audience.

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

const LABEL = 'keepsake/v1'
const VERSION = 1
const KEY_ID = 4
const NONCE = 24
const TAG = 16
const HEADER = 1 + KEY_ID + NONCE
/** Characters of a token with nothing in it. */
const SHORTEST = Math.ceil(((HEADER + TAG) * 4) / 3)
/** Characters of a token: what a cookie can carry (RFC 6265bis §5.6). */
const LONGEST = 4096

/** What a token is for. It opens for the same three only: a token of one cookie is worthless as another's. */
type Context = { readonly purpose: string; readonly name: string; readonly audience?: string }

/** Secrets, newest first: the first one seals, all of them open. */
export type KeyRing = {
  /** The bytes as a token of base64url. */
  seal(context: Context, plain: Uint8Array): string
  /** The bytes of a token, or undefined for whatever was not sealed for this context by a secret of this ring. */
  open(context: Context, token: string, longest?: number): Buffer | undefined
  /** An HMAC-SHA-256 of a message under the newest secret, for what is to be recognised and not read. */
  sign(message: string | Uint8Array): Buffer
  /** Whether this is such an HMAC of a message, or its first bytes, under any secret of this ring. At least 16 bytes. */
  signed(message: string | Uint8Array, mac: Uint8Array): boolean
}

export type Aead = {
  seal(nonce: Uint8Array, plain: Uint8Array, associated: Uint8Array): Buffer
  open(nonce: Uint8Array, sealed: Uint8Array, associated: Uint8Array): Buffer | undefined
}

/** AES-256-GCM (NIST SP 800-38D) with a nonce of 12 bytes and the whole tag behind the text. */
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
 * XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key derived from the first half of a nonce that is
 * long enough to be drawn at random for ever.
 */
export const xaes = (key: Uint8Array): Aead => {
  // ECB without padding keeps nothing between whole blocks, so one object serves all derivations. It has no IV: '' says
  // so to every runtime, where workerd refuses null.
  const block = createCipheriv('aes-256-ecb', createSecretKey(key), '').setAutoPadding(false)
  const zero = block.update(Buffer.alloc(16))
  const mask = Buffer.from(zero.map((byte, i) => (byte << 1) | ((zero[i + 1] ?? 0) >> 7)))
  if ((zero[0] as number) > 0x7f) mask[15] = (mask[15] as number) ^ 0x87
  const derived = (nonce: Uint8Array) => {
    const blocks = Buffer.alloc(32)
    for (let half = 0; half < 2; half++) {
      blocks.set([0, half + 1, 0x58, 0], half * 16)
      blocks.set(nonce.subarray(0, 12), half * 16 + 4)
      for (let i = 0; i < 16; i++) blocks[half * 16 + i] = (blocks[half * 16 + i] as number) ^ (mask[i] as number)
    }
    return createSecretKey(block.update(blocks))
  }
  return {
    seal: (nonce, plain, associated) => gcm.seal(derived(nonce), nonce.subarray(12), plain, associated),
    open: (nonce, sealed, associated) => gcm.open(derived(nonce), nonce.subarray(12), sealed, associated),
  }
}

/** HKDF-SHA-256 (RFC 5869) without salt. */
export const hkdf = (secret: Uint8Array, info: string, length: number): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, '', info, length))

/** A key for one purpose, from which neither the root secret nor a key for another purpose can be had. */
const subkey = (secret: Uint8Array, purpose: string, length: number): Buffer =>
  hkdf(secret, `${LABEL}/${purpose}`, length)

const refuse = (why: string): never => {
  throw new KeepsakeError(
    'invalid_option',
    `A secret has to be 32 random bytes or more, as base64url, hex or a Uint8Array; ${why}. Make one: ${HOW_TO_MAKE_ONE}`,
  )
}

/** A secret for a store to keep: hex, which no check can take for a phrase. */
export const newSecret = (): string => randomBytes(32).toString('hex')

export const HOW_TO_MAKE_ONE = `node -p "crypto.randomBytes(32).toString('base64url')"`

/** What people type instead of random characters. Random text of 43 has one of these once in 10^7 times. */
const looksTyped = /secret|passw|change|sample|example|complex|random/i

const bytesOf = (secret: string | Uint8Array): Uint8Array => {
  if (types.isUint8Array(secret)) return secret
  if (typeof secret !== 'string') return refuse(`this is a ${typeof secret}`)
  if (looksTyped.test(secret)) return refuse('this one has a word in it')
  if (/^([0-9a-f]{2})+$/i.test(secret)) return Buffer.from(secret, 'hex')
  if (!/^[A-Za-z0-9_+/-]+={0,2}$/.test(secret)) return refuse('this one has other characters in it')
  // 32 random bytes have no capital or no small letter once in 10^9 times; a phrase often has none.
  if (!/[a-z]/.test(secret) || !/[A-Z]/.test(secret)) return refuse('this one looks like a phrase')
  return Buffer.from(secret, 'base64url')
}

/** The bytes of a secret. @throws KeepsakeError `invalid_option` for what is too short or visibly not random */
const checkedSecret = (secret: string | Uint8Array): Uint8Array => {
  const bytes = bytesOf(secret)
  if (bytes.length < 32) return refuse(`this one has ${bytes.length}`)
  // Of 32 random bytes about 30 differ; fewer than 16 is not chance.
  return new Set(bytes).size < 16 ? refuse('this one repeats itself') : bytes
}

const lengthPrefixed = (text: string): Buffer => {
  const bytes = Buffer.from(text)
  const length = Buffer.alloc(2)
  length.writeUInt16BE(bytes.length)
  return Buffer.concat([length, bytes])
}

const associated = ({ purpose, name, audience = '' }: Context, header: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(`${LABEL}\0`), ...[purpose, name, audience].map(lengthPrefixed), header])

/** How many associated data are remembered. */
const CONTEXTS = 100

/** Associated data by what they are of: an application has a few cookies, and plain names by their port. */
const remembered = () => {
  const known = new Map<string, Buffer>()
  return (context: Context, header: Buffer): Buffer => {
    const { purpose, name, audience = '' } = context
    // With the lengths in front, two contexts never have the same text.
    const of = `${purpose.length} ${name.length} ${header.readUInt32BE(1)} ${purpose}${name}${audience}`
    const there = known.get(of)
    if (there !== undefined) return there
    if (known.size === CONTEXTS) known.clear()
    const data = associated(context, header)
    known.set(of, data)
    return data
  }
}

/** Bytes of a MAC that nobody guesses. */
const SHORTEST_MAC = 16

const hmac = (key: KeyObject, message: string | Uint8Array): Buffer =>
  createHmac('sha256', key).update(message).digest()

/** Whether a text could be a token: nothing else is ever opened. */
export const isToken = (text: string): boolean => text.length >= SHORTEST && /^[A-Za-z0-9_-]+$/.test(text)

/**
 * A ring of secrets, newest first, and of one that a store kept from before any was configured.
 *
 * @throws KeepsakeError `invalid_option` for an empty ring, a secret that is no secret, or the same one twice
 */
export const keyRing = (secrets: readonly (string | Uint8Array)[], kept?: string): KeyRing => {
  const keys = new Map<number, Aead>()
  const signers: KeyObject[] = []
  let newest: Buffer | undefined
  for (const secret of kept === undefined ? secrets : [...secrets, kept]) {
    const bytes = checkedSecret(secret)
    const id = subkey(bytes, 'kid', KEY_ID)
    if (keys.has(id.readUInt32BE()) && secret === kept) break
    if (keys.has(id.readUInt32BE())) throw new KeepsakeError('invalid_option', 'Two of the secrets are the same one.')
    keys.set(id.readUInt32BE(), xaes(subkey(bytes, 'seal', 32)))
    signers.push(createSecretKey(subkey(bytes, 'csrf', 32)))
    newest ??= Buffer.from([VERSION, ...id])
  }
  if (newest === undefined)
    throw new KeepsakeError('invalid_option', `The list of secrets is empty. Make one: ${HOW_TO_MAKE_ONE}`)
  const header = newest
  const sealer = keys.get(header.readUInt32BE(1)) as Aead
  const data = remembered()
  return {
    seal(context, plain) {
      const nonce = randomBuffer(NONCE)
      return Buffer.concat([header, nonce, sealer.seal(nonce, plain, associated(context, header))]).toString(
        'base64url',
      )
    },
    open(context, token, longest = LONGEST) {
      if (token.length > longest) return undefined
      const bytes = Buffer.from(token, 'base64url')
      // Decoding skips what it does not know and ignores stray bits: one token has one spelling.
      if (bytes.length < HEADER + TAG || bytes.toString('base64url') !== token || bytes[0] !== VERSION) return undefined
      const opener = keys.get(bytes.readUInt32BE(1))
      if (opener === undefined) return undefined
      const used = bytes.subarray(0, 1 + KEY_ID)
      return opener.open(bytes.subarray(1 + KEY_ID, HEADER), bytes.subarray(HEADER), data(context, used))
    },
    sign: (message) => hmac(signers[0] as KeyObject, message),
    signed: (message, mac) =>
      mac.length >= SHORTEST_MAC &&
      mac.length <= 32 &&
      signers.some((key) => timingSafeEqual(hmac(key, message).subarray(0, mac.length), mac)),
  }
}
