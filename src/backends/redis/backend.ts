// Sessions in Redis or Valkey, alone, behind Sentinels or in a cluster: one command or one script an operation.

import { checkOptionNames, KeepsakeError } from '../../error.ts'
import type { Backend, Mark } from '../contract.ts'
import { type Driver, driverOf, isError, type RedisClient } from './client.ts'
import { driverOfUrl } from './connect.ts'
import { checkEviction } from './eviction.ts'
import { ownersOf } from './owners.ts'
import { replicaWaiter } from './replicas.ts'
import { scanKeys } from './scan.ts'
import {
  clearEntry,
  decodeEntry,
  encodeEntry,
  generateEntry,
  ownerName,
  type Script,
  setEntry,
  settleEntry,
  touchEntry,
} from './scripts.ts'

export type { RedisClient } from './client.ts'

export type RedisOptions = {
  /** What the names of our keys begin with. Default `keepsake:`. Braces in it would put all sessions into one slot of a cluster. */
  readonly prefix?: string | undefined
  /**
   * How many replicas must have a login or a logout, and each end of an owner's sessions, before it counts, and a
   * renewal before its key is given out. Default 0: a failover may undo the last moment. Where fewer confirm it, it throws a KeepsakeError `unknown_outcome`, and stays done
   * unless there is a failover. Such writes go over a connection of their own, which ends with the client's or
   * with `close`.
   */
  readonly waitReplicas?: number | undefined
  /** Seconds that the replicas have for it. Default 0.5. */
  readonly waitTimeout?: number | undefined
  /** Milliseconds since 1970. Only how long Redis keeps an entry is reckoned by it; a minute of difference does no harm. */
  readonly now?: (() => number) | undefined
}

const MINUTE = 60_000
/** Nothing is kept longer, so that no number is too large for Redis: a hundred years. */
const CENTURY = 36_525 * 24 * 60 * MINUTE

const names = ['prefix', 'waitReplicas', 'waitTimeout', 'now'] as const satisfies readonly (keyof RedisOptions)[]

type Settings = { readonly [K in keyof RedisOptions]-?: NonNullable<RedisOptions[K]> }

const checked = (options: RedisOptions): Settings => {
  checkOptionNames(options, ['prefix', 'waitReplicas', 'waitTimeout', 'now'], 'redisBackend')
  const { prefix = 'keepsake:', waitReplicas = 0, waitTimeout = 0.5, now = () => Date.now() } = options
  if (typeof prefix !== 'string')
    throw new KeepsakeError('invalid_option', "prefix has to be a string, such as 'keepsake:'.")
  if (!Number.isInteger(waitReplicas) || waitReplicas < 0) {
    throw new KeepsakeError(
      'invalid_option',
      'waitReplicas has to be a whole number: how many replicas must have a logout.',
    )
  }
  if (!(waitTimeout >= 0.001 && waitTimeout <= 60)) {
    throw new KeepsakeError('invalid_option', 'waitTimeout has to be a number of seconds from 0.001 to 60.')
  }
  return { prefix, waitReplicas, waitTimeout, now }
}

/**
 * A backend on a client that is connected, or connects by itself: ioredis' `Redis` or `Cluster`, iovalkey's, or what
 * `createClient` or `createSentinel` of node-redis gives. Redis 7.0 or newer, or Valkey. The client stays the caller's:
 * `close` leaves it open. Its errors are thrown as they come; its `error` events end no process from now on.
 *
 * Redis must not evict what is alive: `maxmemory-policy noeviction`. An evicted session is a logout; an evicted list of an
 * owner's sessions makes `owned.clear` throw a KeepsakeError `unknown_outcome`, as it cannot know what it misses; ends of sessions
 * are not kept there at all.
 *
 * `owned.clear` reaches sessions that others are generating meanwhile, also in a cluster: when it is over, none that
 * was there when it began can be used, nor any that was begun before it ended, unless all of its steps came after the
 * first of `clear`. Where it throws, call it again: it goes on where it stopped.
 *
 * `scan` is for admin only, such as a move to another store: it goes through all that Redis keeps, ours or not. It
 * throws while a cluster is changing, and may give an entry twice.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const redisBackend = (client: RedisClient, options: RedisOptions = {}): Backend => {
  checkOptionNames(options, names, 'redisBackend')
  return backendOn(driverOf(client), checked(options))
}

export type ConnectRedisOptions = RedisOptions & {
  /**
   * Seconds that one visit may wait for Redis, as `sessionManager` has it. Default 2. A call waits three quarters of it at most
   * for a connection that is being made; a connection from which nothing comes is cut after two and a half times of it,
   * five seconds at least.
   */
  readonly storeTimeout?: number | undefined
}

/**
 * A backend at a URL, by a client of ioredis of its own, which connects when it is first used, fails fast while its
 * server is down, and ends with `close`. A login in the URL is for the servers, and not for their Sentinels. It prints
 * nothing.
 *
 * - `redis://user:password@host:6379/0`: a server alone.
 * - `redis+sentinel://host:26379,host:26379/mymaster`: the master that Sentinels know by that name; behind it, perhaps
 *   `/` and the number of a database.
 * - `redis+cluster://host:6379,host:6379`: a cluster, by some of its servers.
 * - `rediss://`, `rediss+sentinel://`, `rediss+cluster://`: the same over TLS.
 *
 * @throws KeepsakeError `unknown_backend` where `ioredis` is not installed, `invalid_option`
 */
export const connectRedis = async (url: string, options: ConnectRedisOptions = {}): Promise<Backend> => {
  checkOptionNames(options, [...names, 'storeTimeout'], 'connectRedis')
  const { storeTimeout = 2, ...others } = options
  const settings = checked(others)
  if (!(typeof storeTimeout === 'number' && storeTimeout >= 0.001 && storeTimeout <= 3600)) {
    throw new KeepsakeError('invalid_option', 'budget has to be a number of seconds from 0.001 to 3600.')
  }
  const driver = await driverOfUrl(url, storeTimeout * 1000)
  return backendOn(driver, settings, driver.close)
}

const backendOn = (
  driver: Driver,
  { prefix, waitReplicas, waitTimeout, now }: Settings,
  close?: () => void,
): Backend => {
  const addressOf = (key: string) => prefix + key
  /** How long Redis keeps an entry: a minute longer than it lives, so that its own expiry decides. */
  const lifeOf = (expiresAt: number): number => Math.min(Math.max(Math.ceil(expiresAt - now()), 0) + MINUTE, CENTURY)

  const markWords = (mark: Mark | undefined) =>
    mark === undefined ? [] : [mark.version, encodeEntry(mark), String(lifeOf(mark.expiresAt))]

  const run = async ({ sha, lua }: Script, key: string, args: readonly string[]): Promise<unknown> => {
    try {
      return await driver.send(['evalsha', sha, '1', key, ...args])
    } catch (error) {
      // A server forgets its scripts when it restarts, and a replica that takes over may never have had them.
      if (!isError(error, 'NOSCRIPT')) throw error
      return driver.send(['eval', lua, '1', key, ...args])
    }
  }

  const replicas = waitReplicas > 0 ? replicaWaiter(driver, waitReplicas, Math.ceil(waitTimeout * 1000)) : undefined
  const write: typeof run = replicas
    ? ({ sure }, key, args) => replicas.write(key, ['eval', sure, '1', key, ...args])
    : run

  const get = async (key: string) => {
    const text = await driver.send(['get', addressOf(key)])
    return text === null || text === undefined ? undefined : decodeEntry(String(text))
  }

  const owners = ownersOf({
    now,
    placeOf: (owner) => `${prefix}owner:${owner}`,
    addressOf,
    markWords,
    get,
    left: async (key) => Number(await driver.send(['pttl', addressOf(key)])),
    run,
    write,
  })

  return {
    name: 'redis',
    defaultPeriod: 604_800,
    get,
    async generate(key, entry) {
      const life = lifeOf(entry.expiresAt)
      const args = [entry.version, encodeEntry(entry), String(life)]
      const insert = (by: typeof run) => async () =>
        (await by(generateEntry, addressOf(key), args)) === null ? undefined : 'taken'
      return entry.owner === undefined ? insert(run)() : owners.generate(key, entry.owner, entry, life, insert(write))
    },
    async set(key, { value = '', metadata, version, expiresAt }, expected) {
      const args = [expected, version, `${metadata}\n${value}`]
      if (expiresAt !== undefined) args.push(String(expiresAt), String(lifeOf(expiresAt)))
      const answer = await run(setEntry, addressOf(key), args)
      return answer === null ? undefined : (String(answer) as 'stale' | 'gone')
    },
    async clear(key, version = '', mark) {
      const answer = await write(clearEntry, addressOf(key), [version, ...markWords(mark)])
      if (answer === null) return undefined
      const printed = String(answer)
      if (printed === 'stale') return 'stale'
      if (printed !== ownerName(undefined)) owners.removed(key, JSON.parse(printed))
      return undefined
    },
    async touch(key, expiresAt) {
      await run(touchEntry, addressOf(key), [String(expiresAt), String(lifeOf(expiresAt))])
      return undefined
    },
    ...(replicas && {
      async ensureDurable(key: string) {
        await write(settleEntry, addressOf(key), [])
      },
    }),
    async scan(cursor, limit) {
      const part = await scanKeys(driver, prefix, cursor, limit)
      const entries = await Promise.all(
        part.keys.map(async (key) => {
          const entry = await get(key)
          return entry === undefined ? [] : [{ ...entry, key }]
        }),
      )
      return { entries: entries.flat(), cursor: part.cursor }
    },
    check: (use) => checkEviction(driver, use),
    byOwner: { list: owners.list, clear: owners.clear },
    async close() {
      replicas?.close()
      close?.()
    },
  }
}
