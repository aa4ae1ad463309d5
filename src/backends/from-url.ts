// Opens the backend that a URL names, and loads its module only then.

import { fileURLToPath } from 'node:url'
import { HOW_TO_MAKE_ONE, newSecret } from '../crypto/seal.ts'
import { checkOptionNames, KeepsakeError, messageOf } from '../error.ts'
import type { SessionEventListener } from '../events.ts'
import { IS_CLOUDFLARE_WORKER } from './cloudflare-workers.ts'
import type { Backend } from './contract.ts'

export type BackendFromUrlOptions = {
  /** Milliseconds since 1970, for a backend that removes expired entries by itself. Default `Date.now`. */
  readonly now?: (() => number) | undefined
  /** Receives the events of the backend: evictions, and files that cannot be read. */
  readonly onEvent?: SessionEventListener | undefined
  /** For `cookie:`, the same as the options of `sessionManager()`. */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[] | undefined
  readonly namespace?: string | undefined
  readonly absoluteTimeout?: number | undefined
  /** Seconds that a request may wait for the backend, for a driver that must not give up earlier. Default 2. */
  readonly storeTimeout?: number | undefined
}

type Opener = (rest: string, options: BackendFromUrlOptions, url: string) => Promise<Backend>

const redis: Opener = async (_, { now, storeTimeout }, url) => {
  const { connectRedis } = await import('./redis/backend.ts')
  return connectRedis(url, { ...(now && { now }), ...(storeTimeout !== undefined && { storeTimeout }) })
}
const postgres: Opener = async (_rest, _options, url) => (await import('./sql/postgres.ts')).connectPostgres(url)
const mysql: Opener = async (_rest, _options, url) => (await import('./sql/mysql.ts')).connectMysql(url)

/**
 * The path after `file:` or `sqlite:`. With three slashes, as in the `href` of a file URL, it is percent-encoded (RFC 8089).
 * Any other path is taken literally: its `%20` is three characters.
 */
const pathIn = (rest: string): string => {
  if (!/^\/\/(?:localhost)?\//.test(rest)) return rest.replace(/^\/\//, '')
  const invalid = (problem: string, cause?: unknown) =>
    new KeepsakeError(
      'unknown_backend',
      `The path ${JSON.stringify(rest.slice(2))} in the URL of a backend ${problem}.`,
      {
        cause,
      },
    )
  if (/[?#]/.test(rest)) throw invalid('contains ? or #: write %3F or %23')
  try {
    return fileURLToPath(`file:${rest}`)
  } catch (cause) {
    throw invalid(`cannot be decoded (${messageOf(cause)}): write %25 for a % in a name`, cause)
  }
}

const schemes: Readonly<Record<string, Opener>> = {
  memory: async (rest, options) => {
    if (rest !== '')
      throw new KeepsakeError('unknown_backend', "The URL 'memory:' has text after its colon. Pass exactly 'memory:'.")
    const { memoryBackend } = await import('./memory.ts')
    const { now, onEvent } = options
    return memoryBackend({ now, onEvent })
  },
  sqlite: async (rest) => {
    const { sqliteBackend } = await import('./sqlite/backend.ts')
    return sqliteBackend(pathIn(rest))
  },
  file: async (rest, { onEvent }) => {
    const { fileBackend } = await import('./file/backend.ts')
    return fileBackend(pathIn(rest), onEvent && { onEvent })
  },
  cookie: async (rest, options) => {
    const { cookieBackend } = await import('./cookie.ts')
    const { secret, namespace, absoluteTimeout, now } = options
    const cookieOptions = { secret, namespace, absoluteTimeout, now }
    if (rest === '') return cookieBackend(cookieOptions)
    const ends = await backendFromUrl(rest, options)
    return cookieBackend({ ...cookieOptions, ends }, await ends.keepSecret?.(newSecret()))
  },
  postgres,
  postgresql: postgres,
  mysql,
  mariadb: mysql,
  redis,
  rediss: redis,
  'redis+sentinel': redis,
  'rediss+sentinel': redis,
  'redis+cluster': redis,
  'rediss+cluster': redis,
}

const schemesOfFiles = ['sqlite', 'file']

/** Backends that store a secret beside their data, which nobody else reads. */
const secretKeepers = ['memory', 'sqlite', 'file']

const split = (url: string): { readonly scheme: string; readonly open: Opener; readonly rest: string } => {
  const colon = url.indexOf(':')
  const scheme = url.slice(0, Math.max(colon, 0))
  if (!Object.hasOwn(schemes, scheme)) {
    // The URL may contain a password, so the message does not quote it.
    throw new KeepsakeError(
      'unknown_backend',
      `The URL of the backend begins with no known scheme. Pass a URL that begins with one of ${Object.keys(schemes)
        .map((name) => `'${name}:'`)
        .join(', ')}.`,
    )
  }
  if (IS_CLOUDFLARE_WORKER && schemesOfFiles.includes(scheme)) {
    throw new KeepsakeError(
      'unknown_backend',
      `Cloudflare Workers keep no files, so the backend ${scheme}: does not work there. Use 'cookie:', or a backend on a server, such as 'postgres:'.`,
    )
  }
  return { scheme, open: schemes[scheme] as Opener, rest: url.slice(colon + 1) }
}

/**
 * Checks that a URL names a backend, without opening it.
 *
 * @throws KeepsakeError `unknown_backend`
 */
export const checkUrl = (url: string): void => {
  const { scheme, rest } = split(url)
  if (scheme === 'cookie' && rest !== '') checkUrl(rest)
}

/**
 * Checks that there is a secret, or that the backend of a URL stores one. Call it just before the backend is opened, not
 * earlier: a build loads the modules of an application too, and may have no secret.
 *
 * @throws KeepsakeError `no_secret`
 */
export const checkSecret = (url: string, { secret }: BackendFromUrlOptions): void => {
  const { scheme, rest } = split(url)
  if (scheme === 'cookie' && rest !== '') {
    checkSecret(rest, { secret })
    return
  }
  if (secret !== undefined || secretKeepers.includes(scheme)) return
  const reason = scheme === 'cookie' ? 'Sessions in cookies are encrypted' : `A ${scheme} backend stores no secret`
  throw new KeepsakeError(
    'no_secret',
    `${reason}, so the option secret is required, the same in all processes: sessionManager({ backend: '${scheme}:…', secret }). Make one: ${HOW_TO_MAKE_ONE}`,
  )
}

/**
 * Opens the backend that a URL names:
 * - `memory:`
 * - `sqlite:` and the path of a file: `sqlite:a.db`, `sqlite:/var/a.db`. With three slashes the path is percent-encoded,
 *   as in the `href` of a URL: `sqlite:///var/my%20shop.db`
 * - `file:` and the path of a folder, in the same forms: `file:sessions`, `new URL('./sessions', import.meta.url).href`
 * - `cookie:`, optionally with the URL of the backend that remembers the ends of sessions: `cookie:sqlite:ends.db`
 * - `postgres://user:password@host/database`, with the package `pg`
 * - `mysql://user:password@host/database`, also `mariadb:`, with the package `mysql2`
 * - `redis://host:6379`, `redis+cluster://host:6379,host:6379`, `redis+sentinel://host:26379,host:26379/name`, and the same
 *   with `rediss` over TLS, with the package `ioredis`
 *
 * A URL object counts as its `href`. A server is contacted by the first operation.
 *
 * @throws KeepsakeError `unknown_backend`, `no_secret`, `unavailable`
 */
export const backendFromUrl = async (url: string | URL, options: BackendFromUrlOptions = {}): Promise<Backend> => {
  checkOptionNames(
    options,
    ['now', 'onEvent', 'secret', 'namespace', 'absoluteTimeout', 'storeTimeout'],
    'backendFromUrl()',
  )
  const text = String(url)
  const { open, rest } = split(text)
  return open(rest, options, text)
}
