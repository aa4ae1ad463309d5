// A Redis that may evict keys: keepsake warns its operator, and refuses to keep ends of sessions there.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Redis } from 'ioredis'
import { type Backend, type KeepsakeError, type SessionEvent, session, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { movingBackend } from 'keepsake/moving'
import { connectRedis, redisBackend } from 'keepsake/redis'
import { browser } from 'keepsake/testing'
import { createClient } from 'redis'
import { newSecret } from '../../src/crypto/seal.ts'
import { PATIENT } from '../support/clock.ts'
import { redisCluster, redisServer } from '../support/redis-server.ts'
import { eventually } from '../support/until.ts'

const secret = newSecret()

const setup = (backend: Backend | string) => {
  const events: SessionEvent[] = []
  const manager = sessionManager({
    backend,
    storeTimeout: PATIENT,
    secret,
    onEvent: (event) => void events.push(event),
  })
  const handler = manager(async (request) => {
    const s = await session(request)
    if (request.url.endsWith('/in')) s.login('anna')
    if (request.url.endsWith('/out')) s.invalidate()
    return new Response(s.owner ?? 'anonymous')
  })
  const warnings = () => events.filter(({ type }) => type === 'eviction').map(({ message = '' }) => message)
  return { manager, handler, visit: browser(handler), warnings }
}

const evicting = ['--maxmemory', '100mb', '--maxmemory-policy', 'volatile-lru']

const isRefused = (error: unknown): boolean => {
  assert.equal((error as KeepsakeError).code, 'invalid_option')
  assert.match((error as Error).message, /open again .*volatile-lru.*noeviction/)
  return true
}

suite('sessions in a Redis that may evict them', () => {
  test('keepsake warns its operator once, at the first request, through every client', async (t) => {
    const { port, url } = await redisServer(...evicting)
    const ioredis = new Redis(port)
    t.after(() => ioredis.disconnect())
    const nodeRedis = await createClient({ url }).connect()
    t.after(() => nodeRedis.destroy())
    const own = await connectRedis(url)
    t.after(() => own.close?.())
    const moving = movingBackend(memoryBackend(), own)
    for (const backend of [own, redisBackend(ioredis), redisBackend(nodeRedis), moving]) {
      const { visit, warnings } = setup(backend)
      await visit('/')
      await eventually(() => warnings().length > 0)
      await visit('/')
      assert.equal(warnings().length, 1)
      assert.match(
        warnings()[0] ?? '',
        /evict sessions.*maxmemory 104857600, maxmemory-policy volatile-lru.*noeviction/,
      )
    }
  })

  test('ready() warns too, but not before the server is up', async (t) => {
    const server = await redisServer(...evicting)
    await server.kill()
    const backend = await connectRedis(server.url)
    t.after(() => backend.close?.())
    const { manager, visit, warnings } = setup(backend)
    await manager.ready()
    assert.deepEqual(warnings(), [])
    await server.restart()
    await eventually(async () => (await visit('/in')).status === 200)
    await eventually(() => warnings().length > 0)
    await manager.ready()
    assert.equal(warnings().length, 1)
  })

  test('keepsake warns if one server of a cluster may evict', async (t) => {
    const { nodes, nodesOf } = await redisCluster()
    const { master } = await nodesOf('a')
    await master.cli('config', 'set', 'maxmemory', '100mb')
    await master.cli('config', 'set', 'maxmemory-policy', 'allkeys-lru')
    const backend = await connectRedis(`redis+cluster://127.0.0.1:${nodes[0]?.port}`)
    t.after(() => backend.close?.())
    const { manager, warnings } = setup(backend)
    await manager.ready()
    assert.match(warnings()[0] ?? '', /allkeys-lru/)
  })

  test('there is no warning if the policy is noeviction or there is no memory limit', async (t) => {
    for (const options of [['--maxmemory', '100mb'], ['--maxmemory-policy', 'allkeys-lru'], []]) {
      const { url } = await redisServer(...options)
      const backend = await connectRedis(url)
      t.after(() => backend.close?.())
      const { manager, warnings } = setup(backend)
      await manager.ready()
      assert.deepEqual(warnings(), [])
    }
  })

  test('keepsake warns if the user may not read the policy', async (t) => {
    const server = await redisServer(...evicting)
    await server.cli('acl', 'setuser', 'app', 'on', '>x', '~*', '+@all', '-info')
    const backend = await connectRedis(`redis://app:x@127.0.0.1:${server.port}`)
    t.after(() => backend.close?.())
    const { manager, warnings } = setup(backend)
    await manager.ready()
    assert.match(warnings()[0] ?? '', /could not check whether.*\+info/)
    const ends = setup(cookieBackend({ secret, ends: backend }))
    await ends.manager.ready()
    assert.match(ends.warnings()[0] ?? '', /could not check whether.*\+info/)
    assert.equal((await ends.visit('/in')).status, 200)
  })
})

suite('ends of sessions in a Redis that may evict them', () => {
  test('are refused at the start and at every request, until the server does not evict any more', async (t) => {
    const server = await redisServer(...evicting)
    const { url, port } = server
    const client = new Redis(port)
    t.after(() => client.disconnect())
    const onClient = cookieBackend({ secret, ends: redisBackend(client) })
    for (const backend of [`cookie:${url}`, onClient]) {
      const { manager, visit } = setup(backend)
      t.after(() => manager.close())
      await assert.rejects(manager.ready(), isRefused)
      await server.cli('config', 'set', 'maxmemory-policy', 'noeviction')
      assert.equal((await visit('/in')).status, 200)
      await server.cli('config', 'set', 'maxmemory-policy', 'volatile-lru')
      const restarted = setup(
        typeof backend === 'string' ? backend : cookieBackend({ secret, ends: redisBackend(client) }),
      )
      t.after(() => restarted.manager.close())
      const copy = visit.copy(restarted.handler)
      await assert.rejects(async () => copy('/'), isRefused)
      await assert.rejects(async () => copy('/out'), isRefused)
      await server.cli('config', 'set', 'maxmemory-policy', 'noeviction')
      assert.equal(await (await copy('/')).text(), 'anna')
      assert.equal((await copy('/out')).status, 200)
      assert.equal(await (await visit('/')).text(), 'anonymous')
      await server.cli('config', 'set', 'maxmemory-policy', 'volatile-lru')
    }
  })
})
