// The Redis stores of the tests: two clients of each kind per test, a prefix per test, and one server for all.

import { randomBytes } from 'node:crypto'
import type { TestContext } from 'node:test'
import { Cluster, Redis } from 'ioredis'
import { redisBackend } from 'keepsake/redis'
import { createClient } from 'redis'
import type { RedisClient } from '../../src/backends/redis/client.ts'
import { type RedisCluster, redisCluster, redisServer } from './redis-server.ts'
import type { Store } from './stores.ts'

/** Makes a value at the first call, and returns the same one later. */
const once = <T>(make: () => Promise<T>): (() => Promise<T>) => {
  let made: Promise<T> | undefined
  return () => {
    made ??= make()
    return made
  }
}

/** The URL of a server that no test kills: that of TEST_REDIS_URL, or a private one. */
export const sharedRedis: () => Promise<string> = once(
  async () => process.env.TEST_REDIS_URL ?? (await redisServer()).url,
)

/** A cluster that no test kills. */
export const sharedCluster: () => Promise<RedisCluster> = once(redisCluster)

export const freshPrefix = (): string => `keepsake-test-${randomBytes(6).toString('hex')}:`

const redisStore = (name: string, connect: (t: TestContext) => Promise<RedisClient>): Store => ({
  name,
  far: true,
  opener: (t) => {
    const prefix = freshPrefix()
    const clients = [0, 1].map(() => once(() => connect(t)))
    let opened = 0
    return async () => redisBackend(await (clients[opened++ % 2] as () => Promise<RedisClient>)(), { prefix })
  },
})

export const ioredisClient = async (t: TestContext): Promise<Redis> => {
  const client = new Redis(await sharedRedis())
  t.after(() => client.disconnect())
  return client
}

export const nodeRedisClient = async (t: TestContext) => {
  const client = createClient({ url: await sharedRedis() })
  await client.connect()
  t.after(() => client.destroy())
  return client
}

export const clusterClient = async (t: TestContext): Promise<Cluster> => {
  const { nodes } = await sharedCluster()
  const client = new Cluster(nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
  t.after(() => client.disconnect())
  return client
}

export const redisStores: readonly Store[] = [
  redisStore('redis (ioredis)', ioredisClient),
  redisStore('redis (node-redis)', nodeRedisClient),
  redisStore('redis cluster (ioredis)', clusterClient),
]
