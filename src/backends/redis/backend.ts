// The backend that keeps sessions in Redis or Valkey: one server, a master behind Sentinels, or a cluster.

import { inspect } from 'node:util'
import { checkOptionNames, KeepsakeError } from '../../error.ts'
import type { Backend, Mark } from '../contract.ts'
import { driverOf, type RedisClient } from './client.ts'
import { driverFromUrl } from './connect.ts'
import { type Driver, hasErrorCode } from './driver.ts'
import { checkEviction } from './eviction.ts'
import { ownerLists } from './owners.ts'
import { replicaWaiter } from './replicas.ts'
import { scanKeys } from './scan.ts'
import {
  clearEntry,
  confirmEntry,
  decodeEntry,
  encodeEntry,
  encodeOwner,
  generateEntry,
  isEntry,
  type Script,
  setEntry,
  touchEntry,
} from './scripts.ts'

export type { RedisClient } from './client.ts'

export type RedisOptions = {
  /**
   * The beginning of every Redis key of keepsake. Default `keepsake:`. An entry is at the prefix and its storage key, and
   * the list of an owner is at the prefix, `owner:` and the owner. End it with a colon: if one prefix is the beginning of
   * another, a scan of the shorter one can also return entries of the longer one. In a cluster, braces in the prefix put
   * all sessions into one slot.
   */
  readonly prefix?: string | undefined
  /**
   * How many replicas must confirm a login, a logout, each end of an owner's session, and a rotation before its key is
   * sent. Default 0: a failover may undo the last writes. If fewer replicas confirm, the operation throws a
   * KeepsakeError `unknown_outcome`, but the write stays unless there is a failover. These writes use a connection of
   * their own, which is closed with the client or by `close`.
   */
  readonly waitReplicas?: number | undefined
  /** Seconds that the replicas have to confirm. Default 0.5. */
  readonly waitTimeout?: number | undefined
  /**
   * Returns milliseconds since 1970. Default `Date.now`. Only the time that Redis keeps an entry depends on it, so a
   * difference of a minute between clocks does no harm.
   */
  readonly now?: (() => number) | undefined
}

const MINUTE = 60_000
/** Milliseconds that Redis keeps an entry at most, a hundred years: Redis would reject a larger number. */
const CENTURY = 36_525 * 24 * 60 * MINUTE

const optionNames = ['prefix', 'waitReplicas', 'waitTimeout', 'now'] as const satisfies readonly (keyof RedisOptions)[]

type Settings = { readonly [K in keyof RedisOptions]-?: NonNullable<RedisOptions[K]> }

/** @throws KeepsakeError `invalid_option` */
const requireOption = (isValid: boolean, name: string, value: unknown, requirement: string): void => {
  if (isValid) return
  throw new KeepsakeError('invalid_option', `The option ${name} is ${inspect(value)}. It must be ${requirement}.`)
}

const checkOptions = (options: RedisOptions): Settings => {
  checkOptionNames(options, optionNames, 'redisBackend')
  const { prefix = 'keepsake:', waitReplicas = 0, waitTimeout = 0.5, now = () => Date.now() } = options
  requireOption(typeof prefix === 'string', 'prefix', prefix, "a string, for example 'keepsake:'")
  const isCount = Number.isInteger(waitReplicas) && waitReplicas >= 0
  requireOption(isCount, 'waitReplicas', waitReplicas, 'a whole number of replicas, 0 or more')
  const isTimeout = waitTimeout >= 0.001 && waitTimeout <= 60
  requireOption(isTimeout, 'waitTimeout', waitTimeout, 'a number of seconds from 0.001 to 60')
  return { prefix, waitReplicas, waitTimeout, now }
}

/**
 * Makes a backend on a client of the application: a `Redis` or `Cluster` of ioredis or iovalkey, or a client of
 * `createClient` or `createSentinel` of node-redis. The client is connected, or connects by itself. It needs Redis 7.0 or
 * newer, or Valkey. `close` leaves the client open. Errors of the client are thrown unchanged, and its `error` events
 * end no process from now on.
 *
 * Redis must not evict keys: set `maxmemory-policy noeviction`. An evicted session logs its visitor out. After an
 * evicted list of an owner, `byOwner.clear` throws a KeepsakeError `unknown_outcome`, because it may miss sessions. A
 * Redis that evicts cannot keep the ends of sessions.
 *
 * `byOwner.clear` also ends sessions that other processes generate concurrently, in a cluster too. After it returns, no
 * session works that existed when it began. A session that was generated concurrently only works if all of its steps
 * came after the first step of `clear`. If `clear` throws, call it again: it then goes on with the sessions that are
 * left.
 *
 * `scan` is for administration, for example for a move to another store, because it goes through all keys of Redis. It
 * throws while a cluster is changing, and may return an entry twice.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const redisBackend = (client: RedisClient, options: RedisOptions = {}): Backend => {
  checkOptionNames(options, optionNames, 'redisBackend')
  return backendOn(driverOf(client), checkOptions(options))
}

export type ConnectRedisOptions = RedisOptions & {
  /**
   * Seconds that one request may wait for Redis, as in the option of `sessionManager`. Default 2. A call waits at most
   * three quarters of it while the client connects. A silent connection is cut after two and a half times of it, or
   * after 30 seconds more than it if that is sooner, but not before 5 seconds.
   */
  readonly storeTimeout?: number | undefined
}

/**
 * Makes a backend at a URL, with a client of ioredis of its own. The client connects when it is first used, fails fast
 * while its server is down, prints nothing, and is closed by `close`. The login in the URL is for the servers, not for
 * the Sentinels.
 *
 * - `redis://user:password@host:6379/0`: one server.
 * - `redis+sentinel://host:26379,host:26379/mymaster`: the master that the Sentinels know by that name.
 *   `/` and the number of a database may follow the name.
 * - `redis+cluster://host:6379,host:6379`: a cluster, by the addresses of some of its servers.
 * - `rediss://`, `rediss+sentinel://`, `rediss+cluster://`: the same over TLS.
 *
 * @throws KeepsakeError `unknown_backend` if `ioredis` is not installed, `invalid_option`
 */
export const connectRedis = async (url: string, options: ConnectRedisOptions = {}): Promise<Backend> => {
  checkOptionNames(options, [...optionNames, 'storeTimeout'], 'connectRedis')
  const { storeTimeout = 2, ...others } = options
  const settings = checkOptions(others)
  const isTimeout = typeof storeTimeout === 'number' && storeTimeout >= 0.001 && storeTimeout <= 3600
  requireOption(isTimeout, 'storeTimeout', storeTimeout, 'a number of seconds from 0.001 to 3600')
  const driver = await driverFromUrl(url, storeTimeout * 1000)
  return backendOn(driver, settings, driver.close)
}

const backendOn = (
  driver: Driver,
  { prefix, waitReplicas, waitTimeout, now }: Settings,
  closeClient?: () => void,
): Backend => {
  // A storage key has no colon, so the name of a list is never the name of an entry.
  const entryName = (key: string) => prefix + key
  const listName = (owner: string) => `${prefix}owner:${owner}`
  /** Milliseconds that Redis keeps an entry: a minute longer than it lives, so that the expiry in the entry decides. */
  const lifeOf = (expiresAt: number): number => Math.min(Math.max(Math.ceil(expiresAt - now()), 0) + MINUTE, CENTURY)

  const markArgs = (mark: Mark | undefined) =>
    mark === undefined ? [] : [mark.version, encodeEntry(mark), String(lifeOf(mark.expiresAt))]

  const run = async ({ sha, lua }: Script, name: string, args: readonly string[]): Promise<unknown> => {
    try {
      return await driver.send(['evalsha', sha, '1', name, ...args])
    } catch (error) {
      // A server forgets its scripts when it restarts. A replica that becomes master may never have had them.
      if (!hasErrorCode(error, 'NOSCRIPT')) throw error
      return driver.send(['eval', lua, '1', name, ...args])
    }
  }

  const replicas = waitReplicas > 0 ? replicaWaiter(driver, waitReplicas, Math.ceil(waitTimeout * 1000)) : undefined
  const runDurably: typeof run = replicas
    ? ({ forceWriteLua }, name, args) => replicas.write(name, ['eval', forceWriteLua, '1', name, ...args])
    : run

  const read = async (key: string): Promise<string | undefined> => {
    const text = await driver.send(['get', entryName(key)])
    return text === null || text === undefined ? undefined : String(text)
  }
  const get = async (key: string) => {
    const text = await read(key)
    return text === undefined ? undefined : decodeEntry(text)
  }

  const owners = ownerLists({
    now,
    listName,
    entryName,
    markArgs,
    get,
    timeToLive: async (key) => Number(await driver.send(['pttl', entryName(key)])),
    run,
    runDurably,
  })

  return {
    name: 'redis',
    defaultPeriod: 604_800,
    get,
    async generate(key, entry) {
      const life = lifeOf(entry.expiresAt)
      const args = [entry.version, encodeEntry(entry), String(life)]
      const insert = (by: typeof run) => async () =>
        (await by(generateEntry, entryName(key), args)) === null ? undefined : 'taken'
      if (entry.owner === undefined) return insert(run)()
      return owners.generate(key, entry.owner, entry, life, insert(runDurably))
    },
    async set(key, { value = '', metadata, version, expiresAt }, expected) {
      const args = [expected, version, `${metadata}\n${value}`]
      if (expiresAt !== undefined) args.push(String(expiresAt), String(lifeOf(expiresAt)))
      const reply = await run(setEntry, entryName(key), args)
      return reply === null ? undefined : (String(reply) as 'stale' | 'gone')
    },
    async clear(key, version = '', mark) {
      const reply = await runDurably(clearEntry, entryName(key), [version, ...markArgs(mark)])
      if (reply === null) return undefined
      const text = String(reply)
      if (text === 'stale') return 'stale'
      if (text !== encodeOwner(undefined)) owners.removeKey(key, JSON.parse(text))
      return undefined
    },
    async touch(key, expiresAt) {
      await run(touchEntry, entryName(key), [String(expiresAt), String(lifeOf(expiresAt))])
      return undefined
    },
    ...(replicas && {
      async ensureDurable(key: string) {
        await runDurably(confirmEntry, entryName(key), [])
      },
    }),
    async scan(cursor, limit) {
      const page = await scanKeys(driver, prefix, cursor, limit)
      const entries = await Promise.all(
        page.keys.map(async (key) => {
          const text = await read(key)
          return text !== undefined && isEntry(text) ? [{ ...decodeEntry(text), key }] : []
        }),
      )
      return { entries: entries.flat(), cursor: page.cursor }
    },
    check: (use) => checkEviction(driver, use),
    byOwner: { list: owners.list, clear: owners.clear },
    async close() {
      replicas?.close()
      closeClient?.()
    },
  }
}
