// The requests of a visitor and the session of that visitor: the same for every contestant.

import { hash } from 'node:crypto'

/**
 * - `untouched`: the request has a session, and the handler does not ask for it.
 * - `anonymous`: the request has no cookie; the handler looks for the user and finds none.
 * - `read`: the handler reads two fields.
 * - `write`: the handler reads the user and sets one field.
 * - `login`: the request has no cookie; the handler rotates the key and sets all fields.
 */
export type Workload = 'untouched' | 'anonymous' | 'read' | 'write' | 'login'

export type Fields = {
  readonly user: string
  readonly name: string
  readonly language: string
  readonly seen: number
  /** Padding for a larger session. */
  readonly more?: string
}

/** The length of the JSON of a session's fields. */
export const BYTES = Number(process.env.BENCH_BYTES ?? 145)

const small: Fields = {
  user: '01JD3ZK8Q4W7N5RXB2T6HVME9C',
  name: 'Augusta Ada King-Noel, Countess of Lovelace',
  language: 'en-GB-oxendict-u-hc0',
  seen: 1_700_000_000_000,
}
const more = BYTES - 145 - ',"more":""'.length
export const FIELDS: Fields = more > 0 ? { ...small, more: 'm'.repeat(more) } : small
if (JSON.stringify(FIELDS).length !== BYTES) throw new Error(`The payload is not ${BYTES} bytes.`)

let clock = FIELDS.seen

/** A new value for `seen`, of the same length. */
export const nextSeen = (): number => ++clock

/** Concurrent requests. */
export const IN_FLIGHT = 32

/** The number of sessions. It is small, so that a bounded cache of tokens contains them all. */
export const SESSIONS = 256

/** Storage keys like those of keepsake: the namespace, a dot, and a label of 12 characters. */
export const storageKeys: readonly string[] = Array.from(
  { length: SESSIONS },
  (_, at) => `sid.${hash('sha256', `session ${at}`, 'base64url').slice(0, 12)}`,
)

/** Other cookies that every request has. */
const OTHER_COOKIES = 'theme=dark; _ga=GA1.1.2044113221.1700000000'

/** A Cookie header with the cookies of the session, if there are any. */
export const cookieHeader = (session: string | undefined): string =>
  session === undefined ? OTHER_COOKIES : `${OTHER_COOKIES}; ${session}`

/** The cookies that a browser keeps of these Set-Cookie headers: `a=1; b=2`, or undefined if there are none. */
export const cookiesIn = (setCookies: readonly string[]): string | undefined => {
  const pairs = setCookies
    .map((header) => header.split(';', 1)[0] as string)
    .filter((pair) => pair.indexOf('=') < pair.length - 1)
  return pairs.length === 0 ? undefined : pairs.join('; ')
}

/** The workload of a path: its last part. */
export const workloadOf = (url: string): string => url.slice(url.lastIndexOf('/') + 1)
