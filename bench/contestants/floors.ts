// The floors: the least work of a safe session, written by hand, without an API, options or merging.

import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hash,
  randomBytes,
  randomFillSync,
  timingSafeEqual,
} from 'node:crypto'
import { cookieHeader, FIELDS, type Fields, nextSeen, workloadOf } from '../workloads.ts'
import { ALL, type App, type Contestant } from './contestant.ts'

/** The operations of a floor on the value of its cookie. `write` and `login` return the new value of the cookie. */
type Floor = {
  /** The fields of a living session, or undefined. */
  read(token: string): Fields | undefined
  /** Replaces the fields of the session with this token. */
  write(token: string, fields: Fields): string | undefined
  /** Creates a session under a new token and ends the session under the old one. */
  login(token: string | undefined, fields: Fields): string
}

export const LIFETIME = 14 * 86_400_000
export const NAME = 'sid='
export const ATTRIBUTES = '; Max-Age=1209600; Path=/; HttpOnly; Secure; SameSite=Lax'

export const tokenOf = (header: string | undefined): string | undefined => {
  if (header === undefined) return undefined
  for (let at = header.indexOf(NAME); at !== -1; at = header.indexOf(NAME, at + 1)) {
    if (at !== 0 && header[at - 1] !== ' ') continue
    const end = header.indexOf(';', at)
    return header.slice(at + NAME.length, end === -1 ? undefined : end)
  }
  return undefined
}

// The same as src/crypto/random.ts, by hand: a floor uses no code of keepsake.
const pool = Buffer.alloc(4096)
let used = pool.length

/** The position of `bytes` new random bytes in the pool. */
const takeRandom = (bytes: number): number => {
  if (used + bytes > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += bytes
  return used - bytes
}

export const newId = (): string => {
  const at = takeRandom(32)
  return pool.toString('base64url', at, at + 32)
}

/** Random 256-bit ids, stored under their SHA-256, with values as JSON. */
const memory = (): Floor => {
  const entries = new Map<string, { readonly json: string; readonly expiresAt: number }>()
  const put = (key: string, fields: Fields) =>
    entries.set(key, { json: JSON.stringify(fields), expiresAt: Date.now() + LIFETIME })
  const storageKeyOf = (token: string) => hash('sha256', token, 'base64url')
  return {
    read(token) {
      const entry = entries.get(storageKeyOf(token))
      return entry !== undefined && Date.now() < entry.expiresAt ? JSON.parse(entry.json) : undefined
    },
    write(token, fields) {
      put(storageKeyOf(token), fields)
      return undefined
    },
    login(token, fields) {
      if (token !== undefined) entries.delete(storageKeyOf(token))
      const id = newId()
      put(storageKeyOf(id), fields)
      return id
    },
  }
}

type Envelope = Fields & { readonly expiresAt: number }

const alive = (envelope: Envelope): Envelope | undefined =>
  typeof envelope.expiresAt === 'number' && Date.now() < envelope.expiresAt ? envelope : undefined

/** JSON with its HMAC-SHA-256. */
const signed = (): Floor => {
  const key = createSecretKey(randomBytes(32))
  const sign = (text: string) => createHmac('sha256', key).update(text).digest()
  const seal = (fields: Fields) => {
    const text = Buffer.from(JSON.stringify({ ...fields, expiresAt: Date.now() + LIFETIME })).toString('base64url')
    return `${text}.${sign(text).toString('base64url')}`
  }
  return {
    read(token) {
      const dot = token.indexOf('.')
      const text = token.slice(0, dot)
      const signature = Buffer.from(token.slice(dot + 1), 'base64url')
      if (signature.length !== 32 || !timingSafeEqual(signature, sign(text))) return undefined
      return alive(JSON.parse(Buffer.from(text, 'base64url').toString()))
    },
    write: (_, fields) => seal(fields),
    login: (_, fields) => seal(fields),
  }
}

/** JSON that is sealed by AES-256-GCM with a random nonce. */
const encrypted = (): Floor => {
  const key = createSecretKey(randomBytes(32))
  const seal = (fields: Fields) => {
    const at = takeRandom(12)
    const nonce = pool.subarray(at, at + 12)
    const cipher = createCipheriv('aes-256-gcm', key, nonce)
    const sealed = cipher.update(JSON.stringify({ ...fields, expiresAt: Date.now() + LIFETIME }))
    cipher.final()
    return Buffer.concat([nonce, sealed, cipher.getAuthTag()]).toString('base64url')
  }
  return {
    read(token) {
      const bytes = Buffer.from(token, 'base64url')
      if (bytes.length < 28) return undefined
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, 12), { authTagLength: 16 })
      decipher.setAuthTag(bytes.subarray(-16))
      const plain = decipher.update(bytes.subarray(12, -16), undefined, 'utf8')
      try {
        decipher.final()
      } catch {
        return undefined
      }
      return alive(JSON.parse(plain))
    },
    write: (_, fields) => seal(fields),
    login: (_, fields) => seal(fields),
  }
}

type Answer = { readonly text: string; readonly token?: string | undefined }

const answer = (floor: Floor, workload: string, header: string | undefined): Answer => {
  if (workload === 'untouched') return { text: 'ok' }
  const token = tokenOf(header)
  if (workload === 'login') return { text: 'ok', token: floor.login(token, FIELDS) }
  const fields = token === undefined ? undefined : floor.read(token)
  if (workload === 'anonymous') return { text: fields === undefined ? 'ok' : 'wrong' }
  if (token === undefined || fields?.user !== FIELDS.user) return { text: 'wrong' }
  if (workload === 'read') return { text: String(fields.seen) }
  return { text: 'ok', token: floor.write(token, { ...fields, seen: nextSeen() }) }
}

const overNode = (floor: Floor): App => ({
  kind: 'node',
  listener: (request, response) => {
    const { text, token } = answer(floor, workloadOf(request.url ?? ''), request.headers.cookie)
    if (text === 'wrong') response.statusCode = 500
    if (token !== undefined) response.setHeader('Set-Cookie', NAME + token + ATTRIBUTES)
    response.end(text)
  },
})

const overFetch = (floor: Floor): App => ({
  kind: 'fetch',
  handler: async (request) => {
    const header = request.headers.get('cookie') ?? undefined
    const { text, token } = answer(floor, workloadOf(request.url), header)
    if (text === 'wrong') return new Response(text, { status: 500 })
    const response = new Response(text)
    if (token !== undefined) response.headers.append('set-cookie', NAME + token + ATTRIBUTES)
    return response
  },
})

// Checks that the floors are safe: a forged token or a cookie with another name must open nothing.
for (const floor of [memory(), signed(), encrypted()]) {
  const token = floor.login(undefined, FIELDS)
  const forged = `${token.slice(0, -2)}${token.at(-2) === 'A' ? 'B' : 'A'}${token.slice(-1)}`
  if (floor.read(forged) !== undefined || tokenOf(cookieHeader(`xsid=${token}`)) !== undefined) {
    throw new Error('A floor accepted a forged token or a cookie with another name.')
  }
}

export const floors: readonly Contestant[] = [
  { name: 'floor: memory', bare: 'node', workloads: ALL, open: async () => overNode(memory()) },
  {
    name: 'floor: memory, over Fetch',
    bare: 'fetch',
    workloads: ALL,
    open: async () => overFetch(memory()),
  },
  { name: 'floor: signed cookie', bare: 'node', workloads: ALL, open: async () => overNode(signed()) },
  { name: 'floor: encrypted cookie', bare: 'node', workloads: ALL, open: async () => overNode(encrypted()) },
]
