// The floors: the least that a safe session can do, written by hand, without an API, options or merging.

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
import { ALL, type App, type Contestant, platformReply, type Reply } from './contestant.ts'

/** What a floor can do with the value of its cookie. What it returns to set is the cookie's new value. */
type Floor = {
  /** The fields of a living session, or undefined. */
  read(token: string): Fields | undefined
  /** Keeps other fields for the session that has this token. */
  write(token: string, fields: Fields): string | undefined
  /** A session under a new token; the one under the old token ends. */
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

const pool = Buffer.alloc(4096)
let used = pool.length

/** Where `bytes` fresh random bytes begin in the pool. */
const draw = (bytes: number): number => {
  if (used + bytes > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += bytes
  return used - bytes
}

export const newId = (): string => {
  const at = draw(32)
  return pool.toString('base64url', at, at + 32)
}

/** Random 256-bit ids, found under their SHA-256; values kept as JSON. */
const memory = (): Floor => {
  const kept = new Map<string, { readonly json: string; readonly expiresAt: number }>()
  const put = (address: string, fields: Fields) =>
    kept.set(address, { json: JSON.stringify(fields), expiresAt: Date.now() + LIFETIME })
  const addressOf = (token: string) => hash('sha256', token, 'base64url')
  return {
    read(token) {
      const entry = kept.get(addressOf(token))
      return entry !== undefined && Date.now() < entry.expiresAt ? JSON.parse(entry.json) : undefined
    },
    write(token, fields) {
      put(addressOf(token), fields)
      return undefined
    },
    login(token, fields) {
      if (token !== undefined) kept.delete(addressOf(token))
      const id = newId()
      put(addressOf(id), fields)
      return id
    },
  }
}

type Envelope = Fields & { readonly expiresAt: number }

const alive = (envelope: Envelope): Envelope | undefined =>
  typeof envelope.expiresAt === 'number' && Date.now() < envelope.expiresAt ? envelope : undefined

/** JSON and its HMAC-SHA-256. */
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

/** JSON sealed by AES-256-GCM under a random nonce. */
const encrypted = (): Floor => {
  const key = createSecretKey(randomBytes(32))
  const seal = (fields: Fields) => {
    const at = draw(12)
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

const answered = (floor: Floor, workload: string, header: string | undefined): Answer => {
  if (workload === 'untouched') return { text: 'ok' }
  const token = tokenOf(header)
  if (workload === 'login') return { text: 'ok', token: floor.login(token, FIELDS) }
  const fields = token === undefined ? undefined : floor.read(token)
  if (workload === 'stranger') return { text: fields === undefined ? 'ok' : 'wrong' }
  if (token === undefined || fields?.user !== FIELDS.user) return { text: 'wrong' }
  if (workload === 'read') return { text: String(fields.seen) }
  return { text: 'ok', token: floor.write(token, { ...fields, seen: nextSeen() }) }
}

const overNode = (floor: Floor): App => ({
  kind: 'node',
  listener: (request, response) => {
    const { text, token } = answered(floor, workloadOf(request.url ?? ''), request.headers.cookie)
    if (text === 'wrong') response.statusCode = 500
    if (token !== undefined) response.setHeader('Set-Cookie', NAME + token + ATTRIBUTES)
    response.end(text)
  },
})

const overFetch = (floor: Floor, reply: Reply = platformReply): App => ({
  kind: 'fetch',
  handler: async (request) => {
    const header = request.headers.get('cookie') ?? undefined
    const { text, token } = answered(floor, workloadOf(request.url), header)
    if (text === 'wrong') return new Response(text, { status: 500 })
    const response = reply(text)
    if (token !== undefined) response.headers.append('set-cookie', NAME + token + ATTRIBUTES)
    return response
  },
})

// A floor that could be had with a cookie of another name, or a forged one, would be no floor.
for (const floor of [memory(), signed(), encrypted()]) {
  const token = floor.login(undefined, FIELDS)
  const forged = `${token.slice(0, -2)}${token.at(-2) === 'A' ? 'B' : 'A'}${token.slice(-1)}`
  if (floor.read(forged) !== undefined || tokenOf(cookieHeader(`xsid=${token}`)) !== undefined) {
    throw new Error('A floor is not safe.')
  }
}

export const floors: readonly Contestant[] = [
  { name: 'floor: memory', bare: 'node', workloads: ALL, open: async () => overNode(memory()) },
  {
    name: 'floor: memory, over Fetch',
    bare: 'fetch',
    workloads: ALL,
    open: async (_, reply) => overFetch(memory(), reply),
  },
  { name: 'floor: signed cookie', bare: 'node', workloads: ALL, open: async () => overNode(signed()) },
  { name: 'floor: encrypted cookie', bare: 'node', workloads: ALL, open: async () => overNode(encrypted()) },
]
