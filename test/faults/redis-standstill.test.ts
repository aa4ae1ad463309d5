// A suspended process, and connections that are closed, moved or silent in the meantime: no operation fails.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { suite, type TestContext, test } from 'node:test'
import { Cluster, Redis } from 'ioredis'
import type { Backend, Entry, KeepsakeError } from 'keepsake'
import { connectRedis, redisBackend } from 'keepsake/redis'
import { createClient } from 'redis'
import { driverOf } from '../../src/backends/redis/client.ts'
import { replicaWaiter } from '../../src/backends/redis/replicas.ts'
import { entryWith, freshKey, freshVersion } from '../support/entries.ts'
import { proxy } from '../support/proxy.ts'
import { type RedisServer, redisCluster, redisReplicated, redisServer } from '../support/redis-server.ts'
import { program } from '../support/servers.ts'

/** An entry as Redis returns it: without an owner, it has the field all the same. */
const entryOf = (more: Partial<Entry> = {}): Entry => entryWith({ owner: undefined, ...more })

/** Blocks this process while these servers close all their connections. */
const closeWhileBlocked = (...servers: readonly Pick<RedisServer, 'port'>[]): void => {
  for (const { port } of servers) {
    execFileSync(program('redis-cli', 'redis-server'), [
      '-p',
      `${port}`,
      'client',
      'kill',
      'type',
      'normal',
      'skipme',
      'yes',
    ])
  }
  block(30)
}

/** Blocks the event loop. */
const block = (milliseconds: number): void => {
  const until = performance.now() + milliseconds
  while (performance.now() < until);
}

const closeAfter = (t: TestContext, backend: Backend): Backend => {
  t.after(() => backend.close?.())
  return backend
}
const options = { enableOfflineQueue: false, maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false }

const clients: Readonly<Record<string, (t: TestContext, server: RedisServer) => Promise<Backend>>> = {
  url: async (t, { url }) => closeAfter(t, await connectRedis(url)),
  'url, with waitReplicas': async (t, { url }) =>
    closeAfter(t, await connectRedis(url, { waitReplicas: 1, waitTimeout: 10 })),
  async ioredis(t, { port }) {
    const client = new Redis(port, { ...options, retryStrategy: () => 20 })
    t.after(() => client.disconnect())
    return redisBackend(client)
  },
  async 'node-redis'(t, { url }) {
    const client = createClient({ url, disableOfflineQueue: true, socket: { reconnectStrategy: () => 20 } })
    await client.connect()
    t.after(() => client.destroy())
    return redisBackend(client)
  },
}

suite('connections that were closed while the process was blocked', () => {
  for (const [name, connect] of Object.entries(clients)) {
    test(`${name}: each following operation succeeds, and happens once`, async (t) => {
      const { master } = await redisReplicated()
      const backend = await connect(t, master)
      const [key, entry] = [freshKey(), entryOf({ owner: 'app:anna' })]
      closeWhileBlocked(master)
      assert.equal(await backend.generate(key, entry), undefined)
      closeWhileBlocked(master)
      assert.deepEqual(await backend.get(key), entry)
      const change = { value: '{"n":2}', metadata: 'h', version: freshVersion() }
      closeWhileBlocked(master)
      assert.equal(await backend.set(key, change, entry.version), undefined)
      closeWhileBlocked(master)
      assert.equal((await backend.byOwner?.list('app:anna'))?.length, 1)
      closeWhileBlocked(master)
      assert.equal(await backend.byOwner?.clear('app:anna'), 1)
      closeWhileBlocked(master)
      assert.equal(await backend.clear(key), undefined)
    })
  }

  test('a cluster: each following operation succeeds', async (t) => {
    const { nodes } = await redisCluster()
    const backend = await connectRedis(`redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`)
    t.after(() => backend.close?.())
    const [key, entry] = [freshKey(), entryOf()]
    await backend.generate(key, entry)
    closeWhileBlocked(...nodes)
    assert.deepEqual(await backend.get(key), entry)
    closeWhileBlocked(...nodes)
    assert.equal(await backend.clear(key, entry.version), undefined)
  })
})

suite('the client of a Redis URL', () => {
  /** A driver through a proxy, which cuts a connection after 300 ms of silence. */
  const impatientDriver = async (t: TestContext) => {
    const server = await redisServer()
    const faulty = await proxy(t, server.port)
    const client = new Redis(faulty.port, { ...options, retryStrategy: () => 1 })
    t.after(() => client.disconnect())
    const driver = driverOf(client, { connecting: 5_000, silence: 300 })
    assert.equal(await driver.send(['get', 'a']), null)
    return { faulty, driver }
  }

  test('an answer that is in the socket is used, although the process was blocked for long', async (t) => {
    const { driver } = await impatientDriver(t)
    const answers = Promise.all(Array.from({ length: 20 }, () => driver.send(['get', 'a'])))
    // The commands are sent.
    await new Promise(setImmediate)
    block(900)
    assert.deepEqual(new Set(await answers), new Set([null]))
  })

  test('a silent connection is cut, and the next one works', async (t) => {
    const { faulty, driver } = await impatientDriver(t)
    faulty.drop()
    await assert.rejects(driver.send(['set', 'a', '1']))
    faulty.pass()
    assert.equal(await driver.send(['get', 'a']), null)
  })

  test('the answer to a WAIT that is in the socket is used too', async (t) => {
    const server = await redisServer()
    const client = new Redis(server.port)
    t.after(() => client.disconnect())
    const { write, close } = replicaWaiter(driverOf(client), 1, 1, 1_500)
    t.after(close)
    await assert.rejects(write('a', ['set', 'a', '1']), /0 of the 1 required replicas/)
    const pending = assert.rejects(write('a', ['set', 'a', '2']), /0 of the 1 required replicas/)
    for (let i = 0; i < 8; i++) await new Promise(setImmediate)
    block(1_700)
    await pending
  })

  test('a call waits for an answer as long as a request may, and longer', async (t) => {
    const server = await redisServer()
    for (const storeTimeout of [0, -1, '1', Number.NaN, 3601]) {
      await assert.rejects(connectRedis(server.url, { storeTimeout } as object), (error) => {
        assert.equal((error as KeepsakeError).code, 'invalid_option')
        return true
      })
    }
    const backend = await connectRedis(server.url, { storeTimeout: 30 })
    t.after(() => backend.close?.())
    await backend.get(freshKey())
    const { resume } = await server.pause()
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const answer = Promise.resolve(backend.get(freshKey()))
    await new Promise(setImmediate)
    t.mock.timers.tick(31_000)
    t.mock.timers.reset()
    resume()
    assert.equal(await answer, undefined)
  })
})

suite('a slot of a cluster that is moving to another server', () => {
  for (const waitReplicas of [0, 1]) {
    test(`sessions are found and ended on the new server, waitReplicas ${waitReplicas}`, async (t) => {
      const cluster = await redisCluster()
      const client = new Cluster(cluster.nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
      t.after(() => client.disconnect())
      const backend = closeAfter(t, redisBackend(client, { waitReplicas, waitTimeout: 10 }))
      const keys = [freshKey(), freshKey(), freshKey()] as const
      const entry = entryOf({ owner: 'app:anna' })
      for (const key of keys) await backend.generate(key, { ...entry, version: freshVersion() })
      const move = async (name: string) => {
        const { master: from } = await cluster.nodesOf(name)
        const lines = (await from.cli('cluster', 'nodes')).split('\n').map((line) => line.split(' '))
        const own = lines.find(([, , flags]) => flags?.includes('myself'))?.[0] as string
        const [id = '', address = ''] = lines.find(([, , flags]) => flags === 'master') ?? []
        const to = cluster.nodes.find(({ port }) => address.includes(`:${port}@`)) as RedisServer
        const slot = await from.cli('cluster', 'keyslot', name)
        await to.cli('cluster', 'setslot', slot, 'importing', own)
        await from.cli('cluster', 'setslot', slot, 'migrating', id)
        await from.cli('migrate', '127.0.0.1', `${to.port}`, name, '0', '5000')
      }
      for (const key of keys) await move(`keepsake:${key}`)
      await move('keepsake:owner:app:anna')
      const mark = { metadata: 'ended', expiresAt: Date.now() + 60_000, version: freshVersion() }
      assert.equal(await backend.clear(keys[0], undefined, mark), undefined)
      assert.equal((await backend.get(keys[0]))?.metadata, 'ended')
      assert.equal(await backend.byOwner?.clear('app:anna', keys[1]), 1)
      assert.equal(await backend.get(keys[2]), undefined)
      await backend.clear(keys[1])
      const fresh = freshKey()
      assert.equal(await backend.generate(fresh, { ...entry, version: freshVersion() }), undefined)
      assert.deepEqual(
        (await backend.byOwner?.list('app:anna'))?.map(({ key }) => key),
        [fresh],
      )
    })
  }
})
