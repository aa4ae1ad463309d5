// The contestants on a server: the driver alone, a floor by hand, keepsake, and peers, all with the same client.

import { hash } from 'node:crypto'
import { redisBackend } from '../../src/backends/redis/backend.ts'
import { mysqlBackend } from '../../src/backends/sql/mysql.ts'
import { postgresBackend } from '../../src/backends/sql/postgres.ts'
import { type Backend, sessionManager } from '../../src/index.ts'
import type { Store } from '../parts/servers.ts'
import {
  cookieHeader,
  cookiesIn,
  FIELDS,
  type Fields,
  nextSeen,
  SESSIONS,
  type Workload,
  workloadOf,
} from '../workloads.ts'
import { ioredis, mysql, nodeRedis, postgres } from './clients.ts'
import type { App, Contestant, Raw } from './contestant.ts'
import { ATTRIBUTES, LIFETIME, NAME, newId, tokenOf } from './floors.ts'
import { openApp, secret } from './ours.ts'
import { type Bag, expressSession } from './peers.ts'
import { rawStores } from './raw-stores.ts'

const WORKLOADS: readonly Workload[] = ['read', 'write']

/** Random 256-bit ids, stored under their SHA-256. A read is one GET, and a write is one SET with an expiry. */
const redisFloor = async (): Promise<App> => {
  const client = await ioredis()
  const storageKeyOf = (token: string) => `floor:${hash('sha256', token, 'base64url')}`
  const put = (token: string, fields: Fields) => client.set(storageKeyOf(token), JSON.stringify(fields), 'PX', LIFETIME)
  return {
    kind: 'node',
    listener: async (request, response) => {
      const wrong = () => {
        response.statusCode = 500
        response.end('wrong')
      }
      const workload = workloadOf(request.url ?? '')
      if (workload === 'login') {
        const id = newId()
        await put(id, FIELDS)
        response.setHeader('Set-Cookie', NAME + id + ATTRIBUTES)
        return response.end('ok')
      }
      const token = tokenOf(request.headers.cookie)
      const json = token === undefined ? null : await client.get(storageKeyOf(token))
      const fields: Fields | undefined = json === null ? undefined : JSON.parse(json)
      if (workload === 'anonymous') return fields === undefined ? response.end('ok') : wrong()
      if (token === undefined || fields?.user !== FIELDS.user) return wrong()
      if (workload === 'read') return response.end(String(fields.seen))
      await put(token, { ...fields, seen: nextSeen() })
      response.end('ok')
    },
  }
}

/** Remix's session storage. The cookie is written by hand and unsigned, which is less work than Remix's middleware does. */
const remix = async (): Promise<App> => {
  const { createRedisSessionStorage } = await import('@remix-run/session-storage-redis')
  const storage = createRedisSessionStorage(await nodeRedis(), { ttl: LIFETIME / 1000 })
  return {
    kind: 'fetch',
    handler: async (request) => {
      const bag = await storage.read(tokenOf(request.headers.get('cookie') ?? undefined) ?? null)
      const workload = workloadOf(request.url)
      let text = 'ok'
      if (workload === 'login') {
        bag.regenerateId(true)
        for (const [field, value] of Object.entries(FIELDS)) bag.set(field, value)
      } else {
        if (bag.get('user') !== (workload === 'anonymous' ? undefined : FIELDS.user)) {
          return new Response('wrong', { status: 500 })
        }
        if (workload === 'read') text = String((bag as unknown as { get(name: string): Bag['seen'] }).get('seen'))
        if (workload === 'write') bag.set('seen', nextSeen())
      }
      const cookie = await storage.save(bag)
      const response = new Response(text)
      if (cookie) response.headers.append('set-cookie', NAME + cookie + ATTRIBUTES)
      return response
    },
  }
}

const connectRedis = async (): Promise<App> => {
  const { RedisStore } = await import('connect-redis')
  const client = await nodeRedis()
  return { ...(await expressSession(new RedisStore({ client }))), close: () => client.destroy() }
}

const connectPgSimple = async (): Promise<App> => {
  const { default: session } = await import('express-session')
  const { default: connect } = await import('connect-pg-simple')
  const PgStore = connect(session)
  return expressSession(
    new PgStore({ pool: await postgres(), createTableIfMissing: true, pruneSessionInterval: false }),
  )
}

const ours = (name: string, open: () => Promise<Backend>): Contestant[] => [
  {
    name: `keepsake: ${name}`,
    bare: 'fetch',
    workloads: WORKLOADS,
    open: async (_, host = 'fetch') => openApp(await open(), host),
  },
  {
    name: `keepsake: ${name}, opened`,
    bare: 'nothing',
    workloads: WORKLOADS,
    socketless: true,
    open: async () => openSessions(await open()),
  },
]

const onPostgres = async (): Promise<Backend> => {
  const backend = postgresBackend(await postgres())
  await backend.migrate()
  return backend
}

const onMysql = async (): Promise<Backend> => {
  const backend = mysqlBackend(await mysql())
  await backend.migrate()
  return backend
}

/** Sessions without a request or a response: the cost of the session and of its backend alone. */
const openSessions = async (backend: Backend): Promise<Raw> => {
  const manager = sessionManager({ backend, secret, secure: true })
  const jar: Headers[] = []
  while (jar.length < SESSIONS) {
    const opened = await manager.open({ headers: new Headers() })
    opened.login(FIELDS.user)
    for (const [field, value] of Object.entries(FIELDS)) opened.set(field, value)
    const committed = await opened.commit()
    if (!committed.ok) throw new Error('A session was not created.')
    jar.push(new Headers({ cookie: cookieHeader(cookiesIn(committed.headers.getSetCookie())) }))
  }
  const read = async (at: number) => {
    const opened = await manager.open({ headers: jar[at % SESSIONS] as Headers })
    if (opened.get('user') !== FIELDS.user) throw new Error('A session has the wrong user.')
    return opened
  }
  return {
    kind: 'raw',
    operations: {
      read,
      async write(at) {
        const opened = await read(at)
        opened.set('seen', nextSeen())
        if (!(await opened.commit()).ok) throw new Error('A session was not saved.')
      },
    },
  }
}

const peer = (name: string, bare: Contestant['bare'], open: Contestant['open']): Contestant => ({
  name,
  bare,
  workloads: WORKLOADS,
  open,
})

const byStore: Record<Store, readonly Contestant[]> = {
  redis: [
    ...rawStores.redis,
    peer('floor: redis', 'node', redisFloor),
    ...ours('redis, ioredis', async () => redisBackend(await ioredis())),
    ...ours('redis, node-redis', async () => redisBackend(await nodeRedis())),
    peer('@remix-run/session-storage-redis', 'fetch', remix),
    peer('express-session, connect-redis', 'express', connectRedis),
  ],
  postgres: [
    ...rawStores.postgres,
    ...ours('postgres, pg', onPostgres),
    peer('express-session, connect-pg-simple', 'express', connectPgSimple),
  ],
  mysql: [...rawStores.mysql, ...ours('mysql, mysql2', onMysql)],
}

export const contestantsOn = (stores: ReadonlySet<Store>): Contestant[] =>
  Object.entries(byStore).flatMap(([store, contestants]) => (stores.has(store as Store) ? contestants : []))

export const storeContestants: readonly Contestant[] = Object.values(byStore).flat()
