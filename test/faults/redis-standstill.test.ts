// A process that stood still, and connections that were closed, moved or fell silent meanwhile: no visit pays for it.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { suite, type TestContext, test } from 'node:test'
import { Cluster, Redis } from 'ioredis'
import type { Backend, Entry, KeepsakeError } from 'keepsake'
import { connectRedis, redisBackend } from 'keepsake/redis'
import { createClient } from 'redis'
import { driverOf } from '../../src/backends/redis/client.ts'
import { replicaWaiter } from '../../src/backends/redis/replicas.ts'
import { freshKey, freshVersion } from '../support/entries.ts'
import { proxy } from '../support/proxy.ts'
import { type RedisServer, redisCluster, redisReplicated, redisServer } from '../support/redis-server.ts'
import { program } from '../support/servers.ts'

const entryOf = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: '1.abc',
  expiresAt: Date.now() + 3_600_000,
  version: freshVersion(),
  owner: undefined,
  ...more,
})

/** This process stands still while these servers close all their connections. */
const closedMeanwhile = (...servers: readonly Pick<RedisServer, 'port'>[]): void => {
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
  busy(30)
}

/** Somebody else computes. */
const busy = (milliseconds: number): void => {
  const until = performance.now() + milliseconds
  while (performance.now() < until);
}

const closing = (t: TestContext, backend: Backend): Backend => {
  t.after(() => backend.close?.())
  return backend
}
const options = { enableOfflineQueue: false, maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false }

const clients: Readonly<Record<string, (t: TestContext, server: RedisServer) => Promise<Backend>>> = {
  url: async (t, { url }) => closing(t, await connectRedis(url)),
  'url, and replicas that are waited for': async (t, { url }) =>
    closing(t, await connectRedis(url, { waitReplicas: 1, waitTimeout: 10 })),
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

suite('connections that were closed while the process stood still', () => {
  for (const [name, connected] of Object.entries(clients)) {
    test(`${name}: each operation that comes next is done, and done once`, async (t) => {
      const { master } = await redisReplicated()
      const backend = await connected(t, master)
      const [key, entry] = [freshKey(), entryOf({ owner: 'app:anna' })]
      closedMeanwhile(master)
      assert.equal(await backend.generate(key, entry), undefined)
      closedMeanwhile(master)
      assert.deepEqual(await backend.get(key), entry)
      const change = { value: '{"n":2}', metadata: 'h', version: freshVersion() }
      closedMeanwhile(master)
      assert.equal(await backend.set(key, change, entry.version), undefined)
      closedMeanwhile(master)
      assert.equal((await backend.byOwner?.list('app:anna'))?.length, 1)
      closedMeanwhile(master)
      assert.equal(await backend.byOwner?.clear('app:anna'), 1)
      closedMeanwhile(master)
      assert.equal(await backend.clear(key), undefined)
    })
  }

  test('of a cluster, the same', async (t) => {
    const { nodes } = await redisCluster()
    const backend = await connectRedis(`redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`)
    t.after(() => backend.close?.())
    const [key, entry] = [freshKey(), entryOf()]
    await backend.generate(key, entry)
    closedMeanwhile(...nodes)
    assert.deepEqual(await backend.get(key), entry)
    closedMeanwhile(...nodes)
    assert.equal(await backend.clear(key, entry.version), undefined)
  })
})

suite('a client of our own', () => {
  /** A driver that cuts after 300 ms of silence, through a proxy. */
  const impatient = async (t: TestContext) => {
    const server = await redisServer()
    const way = await proxy(t, server.port)
    const client = new Redis(way.port, { ...options, retryStrategy: () => 1 })
    t.after(() => client.disconnect())
    const driver = driverOf(client, { connecting: 5_000, silence: 300 })
    assert.equal(await driver.send(['get', 'a']), null)
    return { way, driver }
  }

  test('an answer that is in the socket is taken, however long the process stood still', async (t) => {
    const { driver } = await impatient(t)
    const answers = Promise.all(Array.from({ length: 20 }, () => driver.send(['get', 'a'])))
    // What was asked goes out.
    await new Promise(setImmediate)
    busy(900)
    assert.deepEqual(new Set(await answers), new Set([null]))
  })

  test('a connection that falls silent is cut, and the next is good', async (t) => {
    const { way, driver } = await impatient(t)
    way.drop()
    const lost = assert.rejects(driver.send(['set', 'a', '1']))
    await lost
    way.pass()
    assert.equal(await driver.send(['get', 'a']), null)
  })

  test('the answer to a WAIT that is in the socket is taken, too', async (t) => {
    const server = await redisServer()
    const client = new Redis(server.port)
    t.after(() => client.disconnect())
    const { write, close } = replicaWaiter(driverOf(client), 1, 1, 1_500)
    t.after(close)
    await assert.rejects(write('a', ['set', 'a', '1']), /0 of the 1 required replicas/)
    const going = assert.rejects(write('a', ['set', 'a', '2']), /0 of the 1 required replicas/)
    for (let i = 0; i < 8; i++) await new Promise(setImmediate)
    busy(1_700)
    await going
  })

  test('waits as long as a visit may for an answer, and longer', async (t) => {
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

suite('a slot of a cluster that is on its way to another server', () => {
  for (const waitReplicas of [0, 1]) {
    test(`what is asked for is found there, and ends there, waitReplicas ${waitReplicas}`, async (t) => {
      const cluster = await redisCluster()
      const client = new Cluster(cluster.nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
      t.after(() => client.disconnect())
      const backend = closing(t, redisBackend(client, { waitReplicas, waitTimeout: 10 }))
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
