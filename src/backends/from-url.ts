// A backend from a URL, loaded when it is first wanted.

import { fileURLToPath } from 'node:url'
import { HOW_TO_MAKE_ONE, newSecret } from '../crypto/seal.ts'
import { checkOptionNames, KeepsakeError, messageOf } from '../error.ts'
import type { SessionEventListener } from '../events.ts'
import type { Backend } from './contract.ts'

export type BackendFromUrlOptions = {
  /** Milliseconds since 1970; for a backend that tidies up by itself. */
  readonly now?: (() => number) | undefined
  /** Hears of evictions, and of files that cannot be read. */
  readonly onEvent?: SessionEventListener | undefined
  /** For `cookie:`, as `sessionManager()` takes them. */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[] | undefined
  readonly namespace?: string | undefined
  readonly absoluteTimeout?: number | undefined
  /** Seconds that one visit may wait, for a client that must not give up before. Default 2. */
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
 * The path that follows `file:` or `sqlite:`. With three slashes, as the `href` of a file URL has them, it is
 * percent-encoded (RFC 8089); any other is a path as it stands, in which `%20` is three characters.
 */
const pathIn = (rest: string): string => {
  if (!/^\/\/(?:localhost)?\//.test(rest)) return rest.replace(/^\/\//, '')
  const refuse = (why: string, cause?: unknown) =>
    new KeepsakeError('unknown_backend', `The path ${JSON.stringify(rest.slice(2))} in a backend's URL ${why}.`, {
      cause,
    })
  if (/[?#]/.test(rest)) throw refuse('has a ? or a #, which a path in a URL writes as %3F and %23')
  try {
    return fileURLToPath(`file:${rest}`)
  } catch (cause) {
    throw refuse(`cannot be read (${messageOf(cause)}): a % that is part of a name is written as %25`, cause)
  }
}

const schemes: Readonly<Record<string, Opener>> = {
  memory: async (rest, options) => {
    if (rest !== '') throw new KeepsakeError('unknown_backend', "'memory:' takes nothing behind the colon.")
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
    const own = { secret, namespace, absoluteTimeout, now }
    if (rest === '') return cookieBackend(own)
    const ends = await backendFromUrl(rest, options)
    return cookieBackend({ ...own, ends }, await ends.keepSecret?.(newSecret()))
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

/** Backends that keep a secret beside their data, where nobody else reads it. */
const keepers = ['memory', 'sqlite', 'file']

const split = (url: string): { readonly scheme: string; readonly open: Opener; readonly rest: string } => {
  const colon = url.indexOf(':')
  const scheme = url.slice(0, Math.max(colon, 0))
  if (!Object.hasOwn(schemes, scheme)) {
    // The URL itself may hold a password: it stays out of the message.
    throw new KeepsakeError(
      'unknown_backend',
      `A backend's URL begins with one of ${Object.keys(schemes)
        .map((name) => `'${name}:'`)
        .join(', ')}; this one does not.`,
    )
  }
  return { scheme, open: schemes[scheme] as Opener, rest: url.slice(colon + 1) }
}

/**
 * Whether a URL names a backend, so far as can be told without opening it.
 *
 * @throws KeepsakeError `unknown_backend`
 */
export const checkUrl = (url: string): void => {
  const { scheme, rest } = split(url)
  if (scheme === 'cookie' && rest !== '') checkUrl(rest)
}

/**
 * Whether there is a secret, or the backend of a URL will keep one. Asked before it is opened, and no sooner: a build
 * loads the modules of an application where no secret may be.
 *
 * @throws KeepsakeError `no_secret`
 */
export const checkSecret = (url: string, { secret }: BackendFromUrlOptions): void => {
  const { scheme, rest } = split(url)
  if (scheme === 'cookie' && rest !== '') {
    checkSecret(rest, { secret })
    return
  }
  if (secret !== undefined || keepers.includes(scheme)) return
  const why =
    scheme === 'cookie'
      ? 'Sessions in cookies are sealed, so they need a secret'
      : `A ${scheme} backend keeps no secret of its own, so sessions need one`
  throw new KeepsakeError(
    'no_secret',
    `${why} that all processes share: sessionManager({ backend: '${scheme}:…', secret }). Make one: ${HOW_TO_MAKE_ONE}`,
  )
}

/**
 * The backend that a URL names:
 * - `memory:`
 * - `sqlite:` and the path of a file: `sqlite:a.db`, `sqlite:/var/a.db`; or, with three slashes, percent-encoded as the
 *   `href` of a URL is: `sqlite:///var/my%20shop.db`
 * - `file:` and the path of a folder, in the same ways: `file:sessions`, `new URL('./sessions', import.meta.url).href`
 * - `cookie:`, and behind it, if you like, the URL of the backend that keeps the ends of sessions: `cookie:sqlite:ends.db`
 * - `postgres://user:password@host/database`, by the package `pg`
 * - `mysql://user:password@host/database`, also `mariadb:`, by the package `mysql2`
 * - `redis://host:6379`, `redis+cluster://host:6379,host:6379`, `redis+sentinel://host:26379,host:26379/name`, and with
 *   `rediss` the same over TLS, by the package `ioredis`
 *
 * A URL object is taken by its `href`. A server is not asked before it is needed.
 *
 * @throws KeepsakeError `unknown_backend`, `no_secret`, `unavailable`
 */
export const backendFromUrl = async (url: string | URL, options: BackendFromUrlOptions = {}): Promise<Backend> => {
  checkOptionNames(options, ['now', 'onEvent', 'secret', 'namespace', 'absoluteTimeout', 'storeTimeout'], 'connect()')
  const text = String(url)
  const { open, rest } = split(text)
  return open(rest, options, text)
}
