// The bytes of a session in Redis: MEMORY USAGE of all its keys.

import { redisBackend } from '../../src/backends/redis/backend.ts'
import { sessionManager } from '../../src/index.ts'
import { ioredis } from '../contestants/clients.ts'
import { secret } from '../contestants/ours.ts'
import { senderFor } from '../contestants/stage.ts'
import { contestantsOn } from '../contestants/store-contestants.ts'
import { FIELDS } from '../workloads.ts'

export type RedisBytes = { readonly title: string; readonly keys: number; readonly bytes: number }

const COUNT = 2000

/** Keys and bytes per session of `COUNT` sessions whose keys begin with `prefix`. */
const usage = async (title: string, prefix: string): Promise<RedisBytes> => {
  const client = await ioredis()
  let [keys, bytes] = [0, 0]
  for await (const found of client.scanStream({ match: `${prefix}*`, count: 1000 })) {
    keys += found.length
    // All samples, so that lists are measured completely.
    const each = await Promise.all(found.map((key: string) => client.memory('USAGE', key, 'SAMPLES', 0)))
    bytes += each.reduce((sum, one) => sum + Number(one), 0)
  }
  client.disconnect()
  return { title, keys: keys / COUNT, bytes: bytes / COUNT }
}

const ours = async (prefix: string, owned: boolean): Promise<void> => {
  const client = await ioredis()
  const manager = sessionManager({ backend: redisBackend(client, { prefix }), secret, secure: true })
  for (let count = 0; count < COUNT; count++) {
    const opened = await manager.open({ headers: new Headers() })
    if (owned) opened.login(`${FIELDS.user}${count}`)
    for (const [field, value] of Object.entries(FIELDS)) opened.set(field, value)
    await opened.commit()
  }
  await manager.close()
  client.disconnect()
}

const plain = async (prefix: string): Promise<void> => {
  const client = await ioredis()
  for (let count = 0; count < COUNT; count++) {
    await client.set(`${prefix}${String(count).padStart(32, '0')}`, JSON.stringify(FIELDS), 'EX', 86_400)
  }
  client.disconnect()
}

/** Measures in an empty Redis: all existing keys are removed first. */
export const redisBytes = async (): Promise<RedisBytes[]> => {
  const client = await ioredis()
  await client.flushall()
  client.disconnect()
  const peer = contestantsOn(new Set(['redis'])).find(({ name }) => name === 'express-session, connect-redis')
  const app = await peer?.open('')
  if (app === undefined || app.kind === 'raw')
    throw new Error('The peer express-session, connect-redis cannot be opened.')
  const send = senderFor(app)
  for (let count = 0; count < COUNT; count++) await send('login', undefined)
  await plain('plain:')
  await ours('anonymous:', false)
  await ours('owned:', true)
  const all = [
    await usage('plain SET of the fields', 'plain:'),
    await usage('express-session, connect-redis', 'sess:'),
    await usage('keepsake: anonymous sessions', 'anonymous:'),
    await usage('keepsake: one session for each owner, with the index of owners', 'owned:'),
  ]
  await app.close?.()
  return all
}
