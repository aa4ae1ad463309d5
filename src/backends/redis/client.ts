// Recognizes the Redis client that an application gives, and makes the driver for it.

import { KeepsakeError } from '../../error.ts'
import type { ClientTimeouts, Driver } from './driver.ts'
import { type Ioredis, type IoredisClient, ioredisDriver } from './ioredis.ts'
import {
  type NodeRedis,
  type NodeRedisClient,
  type NodeRedisSentinel,
  nodeRedisDriver,
  nodeRedisPoolDriver,
  nodeRedisSentinelDriver,
} from './node-redis.ts'

export type RedisClient = IoredisClient | NodeRedisClient

/**
 * Recognizes a client by its methods. From now on, its `error` events end no process.
 *
 * @param timeouts only for a client that keepsake opened itself
 * @throws KeepsakeError `invalid_option`
 */
export const driverOf = (client: RedisClient, timeouts?: ClientTimeouts): Driver => {
  const has = (name: string) => typeof (client as unknown as Record<string, unknown> | undefined)?.[name] === 'function'
  if (has('call') && has('duplicate')) return ioredisDriver(client as unknown as Ioredis, timeouts)
  if (has('getSlotRandomNode')) {
    throw new KeepsakeError(
      'invalid_option',
      'The cluster client of node-redis does not recover after a master fails. Give redisBackend a Cluster of ioredis.',
    )
  }
  if (has('getMasterNode')) return nodeRedisSentinelDriver(client as unknown as NodeRedisSentinel)
  if (has('sendCommand')) {
    const nodeRedis = client as unknown as NodeRedis
    return has('duplicate') ? nodeRedisDriver(nodeRedis) : nodeRedisPoolDriver(nodeRedis)
  }
  throw new KeepsakeError(
    'invalid_option',
    'redisBackend needs a client: a Redis or Cluster of ioredis (or iovalkey), or a client of createClient of node-redis.',
  )
}
