// Redis that dies, stands still, fails over or is full: what was acknowledged stays, errors are told, service comes back.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { inspect } from 'node:util'
import { Cluster, Redis } from 'ioredis'
import { type Backend, type KeepsakeError, session, sessionManager } from 'keepsake'
import { connectRedis, redisBackend } from 'keepsake/redis'
import { browser } from 'keepsake/testing'
import { createClient, createSentinel } from 'redis'
import { replicaWaiter } from '../../src/backends/redis/replicas.ts'
import { PATIENT } from '../support/clock.ts'
import { entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { proxy } from '../support/proxy.ts'
import {
  type RedisServer,
  redisCluster,
  redisReplicated,
  redisSentinel,
  redisServer,
  until,
} from '../support/redis-server.ts'

const settings = { secret: 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE', storeTimeout: PATIENT }
const HOUR = 3_600_000

type Owned = Backend & { readonly byOwner: NonNullable<Backend['byOwner']> }

const opened = async (t: TestContext, url: string, options = {}): Promise<Owned> => {
  const backend = (await connectRedis(url, options)) as Owned
  t.after(() => backend.close?.())
  return backend
}

const login = async (backend: Backend, key = freshKey()): Promise<string> => {
  const entry = entryWith({ owner: OWNER })
  assert.equal(await retryIfStalled(() => backend.generate(key, entry)), undefined)
  return key
}

/** Waits until an operation goes through. */
const through = (act: () => unknown) =>
  until(async () => {
    await act()
    return true
  })

const fails = (act: () => unknown) => assert.rejects(async () => act())

/** Too few replicas: unless the machine stood still, when it may be the server itself that is too late. */
const short = (act: () => unknown) =>
  retryIfStalled(() =>
    assert.rejects(
      async () => act(),
      (error) => {
        assert.equal((error as KeepsakeError).code, 'unknown_outcome')
        assert.match((error as KeepsakeError).message, /replicas/)
        return true
      },
    ),
  )

const waits = async ({ cli }: RedisServer): Promise<number> =>
  Number(/cmdstat_wait:calls=(\d+)/.exec(await cli('info', 'commandstats'))?.[1] ?? 0)

suite('a client of our own', () => {
  test('a server that is down at the start: calls fail, and go through when it is up, without a restart of ours', async (t) => {
    const server = await redisServer()
    await server.kill()
    const backend = await opened(t, server.url)
    const key = freshKey()
    for (let i = 0; i < 3; i++) await assert.rejects(async () => backend.get(key), /cannot be reached: .*ECONNREFUSED/)
    await fails(() => backend.generate(key, entryWith()))
    await server.restart()
    await through(() => backend.get(key))
    assert.equal(
      await retryIfStalled(() => backend.get(key)),
      undefined,
      'what was told to have failed is not carried out later',
    )
    await login(backend)
  })

  test('a server that is killed and started again: the same, and time and again', async (t) => {
    const server = await redisServer()
    const backend = await opened(t, server.url)
    for (let i = 0; i < 3; i++) {
      const key = await login(backend)
      assert.ok(await retryIfStalled(() => backend.get(key)))
      await server.kill()
      const late = freshKey()
      await fails(() => backend.get(key))
      await fails(() => backend.generate(late, entryWith()))
      await server.restart()
      await through(() => backend.get(key))
      for (const one of [key, late])
        assert.equal(await retryIfStalled(() => backend.get(one)), undefined, 'it keeps nothing on disk')
    }
  })

  test('what was on its way when it was killed is told to have failed, and is not sent again', async (t) => {
    const server = await redisServer()
    const way = await proxy(t, server.port)
    const backend = await opened(t, `redis://127.0.0.1:${way.port}`)
    await retryIfStalled(() => backend.get(freshKey()))
    way.hold()
    const late = freshKey()
    const going = fails(() => backend.generate(late, entryWith()))
    // A process that stood still looks at its connection before it sends anything.
    await until(() => way.waiting() > 0)
    await server.kill()
    await server.restart()
    way.pass()
    await going
    await through(() => backend.get(late))
    assert.equal(await retryIfStalled(() => backend.get(late)), undefined)
  })

  test('calls in flight when it is killed fail, each of them', async (t) => {
    const server = await redisServer()
    const way = await proxy(t, server.port)
    const backend = await opened(t, `redis://127.0.0.1:${way.port}`)
    await retryIfStalled(() => backend.get(freshKey()))
    way.hold()
    const calls = Array.from({ length: 50 }, async () => backend.get(freshKey()))
    const settled = Promise.allSettled(calls)
    await until(() => way.waiting() > 0)
    await server.kill()
    way.pass()
    assert.ok((await settled).every(({ status }) => status === 'rejected'))
  })

  test('a server that stands still: calls fail in time, and go through when it goes on', async (t) => {
    const server = await redisServer()
    const backend = await opened(t, server.url)
    const key = await login(backend)
    const { resume } = await server.pause()
    await fails(() => backend.get(key))
    await fails(() => backend.clear(key))
    resume()
    await through(() => backend.get(key))
  })

  test('visits: 503 while it is down, and the session is there afterwards', async (t) => {
    const { master: server, replica } = await redisReplicated()
    await replica.kill()
    const backend = await opened(t, server.url)
    const handler = sessionManager({ backend, ...settings })(async (request) => {
      const s = await session(request)
      if (new URL(request.url).pathname === '/login') s.login('anna')
      return new Response(s.owner)
    })
    const visit = browser(handler)
    await until(async () => (await visit('/login')).status === 200)
    const { resume } = await server.pause()
    assert.equal((await visit('/')).status, 503)
    resume()
    await until(async () => (await visit('/')).status === 200)
    assert.equal(await (await visit('/')).text(), 'anna')
  })
})

suite('a full Redis', () => {
  test('refuses new sessions, loses none, and lets sessions end', async (t) => {
    const server = await redisServer('--maxmemory', '8mb', '--maxmemory-policy', 'noeviction')
    const backend = await opened(t, server.url)
    const anna = [await login(backend), await login(backend), await login(backend)]
    const kept: string[] = []
    const value = JSON.stringify('x'.repeat(10_000))
    const fill = async (value: string) => {
      for (;;) {
        const key = freshKey()
        await retryIfStalled(() => backend.generate(key, entryWith({ value })))
        kept.push(key)
      }
    }
    await assert.rejects(fill(value), (error) => {
      assert.match((error as Error).message, /^OOM/)
      assert.doesNotMatch(inspect(error, { depth: 9 }), /xxx/, 'the session is not in it')
      return true
    })
    assert.ok(kept.length > 100)
    for (const key of kept) assert.equal((await retryIfStalled(() => backend.get(key)))?.value, value)
    for (let again = 0; again < 10; again++) await assert.rejects(fill('"small"'), /OOM/)
    await retryIfStalled(() => backend.byOwner.clear(OWNER, anna[0]))
    const left = (await retryIfStalled(() => backend.byOwner.list(OWNER))).map(({ key }) => key)
    assert.deepEqual(left, [anna[0]], 'full as it is')
    const mark = { metadata: 'ended', expiresAt: Date.now() + HOUR, version: freshVersion() }
    await retryIfStalled(() => backend.clear(anna[0] as string, undefined, mark))
    assert.equal((await retryIfStalled(() => backend.get(anna[0] as string)))?.metadata, 'ended', 'with a mark, too')
    assert.deepEqual(await retryIfStalled(() => backend.byOwner.list(OWNER)), [])
    await retryIfStalled(() => backend.clear(kept[0] as string))
    assert.equal(await retryIfStalled(() => backend.get(kept[0] as string)), undefined)
  })
})

suite('a Redis that evicts', () => {
  test('a clear of an owner whose list may be gone says that sessions may be left, not that there were none', async (t) => {
    const server = await redisServer('--maxmemory', '4mb', '--maxmemory-policy', 'allkeys-lru')
    const backend = await opened(t, server.url)
    const list = `keepsake:owner:${OWNER}`
    const doubtful = (act: () => unknown, count: number) =>
      assert.rejects(
        async () => act(),
        (error) => {
          assert.equal((error as KeepsakeError).code, 'unknown_outcome')
          assert.match((error as KeepsakeError).message, new RegExp(`^${count} sessions .*allkeys-lru.*noeviction`))
          return true
        },
      )
    const keys = [await login(backend), await login(backend)]
    assert.equal(await backend.byOwner.clear(OWNER), 2, 'nothing has been evicted so far, and the list is there')
    for (const key of keys) assert.equal(await backend.get(key), undefined)
    await doubtful(() => backend.byOwner.clear(OWNER), 0)
    const value = JSON.stringify('x'.repeat(10_000))
    await login(backend)
    while ((await server.cli('exists', list)) === '1') await backend.generate(freshKey(), entryWith({ value }))
    await doubtful(() => backend.byOwner.clear(OWNER), 0)
    const key = await login(backend)
    await doubtful(() => backend.byOwner.clear(OWNER), 1)
    assert.equal(await backend.get(key), undefined, 'what it knows of, it ends')
    await server.cli('config', 'set', 'maxmemory-policy', 'noeviction')
    assert.equal(await backend.byOwner.clear(OWNER), 0)
    await server.cli('config', 'set', 'maxmemory-policy', 'allkeys-lru')
    await server.cli('config', 'set', 'maxmemory', '0')
    assert.equal(await backend.byOwner.clear(OWNER), 0, 'without a limit, nothing is evicted')
  })
})

suite('waiting for replicas', () => {
  const clients = {
    ioredis: async (t: TestContext, port: number) => {
      const client = new Redis(port)
      t.after(() => client.disconnect())
      return client
    },
    'node-redis': async (t: TestContext, port: number) => {
      const client = await createClient({ url: `redis://127.0.0.1:${port}` }).connect()
      t.after(() => client.destroy())
      return client
    },
  }

  for (const [name, connected] of Object.entries(clients)) {
    test(`${name}: a login and a logout wait for as many as they are told to, and other writes for none`, async (t) => {
      const { master, replica } = await redisReplicated()
      const client = await connected(t, master.port)
      const backend = redisBackend(client, { waitReplicas: 1, waitTimeout: 10 }) as Owned
      t.after(() => backend.close?.())
      const stranger = freshKey()
      const entry = entryWith()
      const before = await waits(master)
      await retryIfStalled(() => backend.generate(stranger, entry))
      await retryIfStalled(() =>
        backend.set(stranger, { value: '{}', metadata: '', version: freshVersion() }, entry.version),
      )
      await retryIfStalled(() => backend.touch(stranger, entry.expiresAt + 1))
      await retryIfStalled(() => backend.get(stranger))
      assert.equal(await waits(master), before)
      const key = await login(backend)
      assert.equal(await waits(master), before + 2, 'for the entry, and for the list that it is on')
      await retryIfStalled(() => backend.clear(key))
      assert.equal(await waits(master), before + 3)
      assert.equal(await replica.cli('exists', `keepsake:${key}`), '0')
      const more = redisBackend(client, { waitReplicas: 2, waitTimeout: 0.05 })
      t.after(() => more.close?.())
      await short(() => login(more))
    })

    test(`${name}: while a replica is down, they throw and stay done, others go on, and it heals`, async (t) => {
      const { master, replica } = await redisReplicated()
      const client = await connected(t, master.port)
      const patient = redisBackend(client, { waitReplicas: 1, waitTimeout: 10 }) as Owned
      const hasty = redisBackend(client, { waitReplicas: 1, waitTimeout: 0.5 }) as Owned
      for (const backend of [patient, hasty]) t.after(() => backend.close?.())
      const keys = [await login(patient), await login(patient), await login(patient)]
      const { resume } = await replica.pause()
      await short(() => hasty.clear(keys[0] as string))
      assert.equal(await retryIfStalled(() => hasty.get(keys[0] as string)), undefined, 'it stays done')
      const other = redisBackend(client, { waitReplicas: 1, waitTimeout: 0.1 }) as Owned
      t.after(() => other.close?.())
      await short(() => other.clear(keys[0] as string))
      const fresh = freshKey()
      const entry = entryWith({ owner: OWNER })
      await short(() => hasty.generate(fresh, entry))
      assert.deepEqual(await retryIfStalled(() => hasty.get(fresh)), entry)
      await short(() => other.generate(fresh, entry))
      await short(() => hasty.byOwner.clear(OWNER))
      await short(() => other.byOwner.clear(OWNER))
      for (const key of keys) assert.equal(await retryIfStalled(() => hasty.get(key)), undefined)
      const before = await waits(master)
      let waiting = true
      const logouts = Promise.all(Array.from({ length: 20 }, () => short(() => hasty.clear(freshKey())))).then(() => {
        waiting = false
      })
      const stranger = freshKey()
      await retryIfStalled(() => hasty.generate(stranger, entryWith()))
      for (let i = 0; i < 5; i++) assert.ok(await retryIfStalled(() => hasty.get(stranger)))
      // What came in the same moment is heard first.
      await new Promise(setImmediate)
      assert.ok(waiting, 'the others do not wait behind it')
      await logouts
      assert.ok((await waits(master)) - before <= 2, 'twenty logouts waited together')
      resume()
      await retryIfStalled(() => patient.byOwner.clear(OWNER))
      assert.deepEqual(await retryIfStalled(() => patient.byOwner.list(OWNER)), [])
      await login(patient)
    })

    test(`${name}: the connection that waits comes back after the server was killed`, async (t) => {
      const { master, replica, synced } = await redisReplicated()
      const backend = redisBackend(await connected(t, master.port), { waitReplicas: 1, waitTimeout: 10 }) as Owned
      t.after(() => backend.close?.())
      await login(backend)
      await master.kill()
      await master.restart()
      await synced()
      await through(() => backend.get(freshKey()))
      const key = await login(backend)
      const { resume } = await replica.pause()
      const before = await waits(master)
      const going = fails(() => backend.clear(key))
      await until(async () => (await waits(master)) > before)
      await master.kill()
      await going
      resume()
      await master.restart()
      await through(() => login(backend))
    })
  }

  test('a second try of what is done already writes all the same, or WAIT would say nothing of the first', async (t) => {
    const { master } = await redisReplicated()
    const backend = await opened(t, master.url, { waitReplicas: 1, waitTimeout: 10 })
    const key = freshKey()
    const entry = entryWith({ owner: OWNER })
    await retryIfStalled(() => backend.generate(key, entry))
    const marked = freshKey()
    const mark = { metadata: 'ended', expiresAt: Date.now() + HOUR, version: freshVersion() }
    await retryIfStalled(() => backend.generate(marked, entry))
    await retryIfStalled(() => backend.clear(marked, entry.version, mark))
    const tries = [
      () => backend.generate(key, entry),
      () => backend.clear(key),
      () => backend.clear(key),
      () => backend.clear(key, entry.version),
      () => backend.byOwner.clear(OWNER),
      ...[undefined, entry.version].map((version) => () => backend.clear(marked, version, mark)),
      () => backend.clear(marked, undefined, { ...mark, version: freshVersion() }),
      async () => {
        // As a clear of all leaves it that broke off behind the mark.
        await master.cli('zadd', `keepsake:owner:${OWNER}`, '-1', marked)
        await backend.byOwner.clear(OWNER, undefined, { ...mark, version: freshVersion() })
      },
      () => backend.ensureDurable?.(marked),
    ]
    const lost = await login(backend)
    await master.cli('del', `keepsake:${lost}`)
    const writes = async () => {
      const calls = (await master.cli('info', 'commandstats')).matchAll(
        /cmdstat_(?:set|del|unlink|pexpireat):calls=(\d+)/g,
      )
      return [...calls].reduce((sum, [, count]) => sum + Number(count), 0)
    }
    for (const again of tries) {
      const before = await writes()
      await again()
      assert.ok((await writes()) > before)
    }
    assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
    assert.equal((await retryIfStalled(() => backend.get(marked)))?.metadata, 'ended')
  })

  const visited = async (t: TestContext) => {
    const { master, replica } = await redisReplicated()
    const backend = await opened(t, master.url, { waitReplicas: 1, waitTimeout: 0.1 })
    const handler = sessionManager({ backend, ...settings })(async (request) => {
      const s = await session(request)
      const { pathname } = new URL(request.url)
      if (pathname === '/login') s.login('anna')
      if (pathname === '/renew') s.rotateKey()
      if (pathname === '/logout') s.invalidate()
      return new Response(s.owner)
    })
    const visit = browser(handler)
    assert.equal((await visit('/login')).status, 200)
    return { replica, visit }
  }

  test('the key of a renewal is given out once replicas have it: where they never will, the old one is good', async (t) => {
    const { replica, visit } = await visited(t)
    const { resume } = await replica.pause()
    for (const path of ['/renew', '/', '/renew']) {
      const answer = await visit(path)
      assert.equal(answer.status, 200)
      assert.deepEqual(answer.headers.getSetCookie(), [], path)
    }
    const before = visit.copy()
    resume()
    await until(async () => (await visit('/')).headers.getSetCookie().length === 1)
    assert.notDeepEqual([...visit.cookies], [...before.cookies])
    assert.equal(await (await visit('/')).text(), 'anna')
  })

  test('a logout or a login that finds its session gone counts once replicas know that it is', async (t) => {
    const { replica, visit } = await visited(t)
    const [twice, again, late] = [visit.copy(), visit.copy(), visit.copy()]
    const { resume } = await replica.pause()
    assert.equal((await visit('/logout')).status, 503)
    assert.equal(await (await late.copy()('/')).text(), '', 'it is gone')
    assert.equal((await twice.copy()('/logout')).status, 503, 'and may be back')
    assert.equal((await again('/login')).status, 503)
    resume()
    await until(async () => (await twice.copy()('/logout')).status === 200)
    assert.equal((await late('/login')).status, 200)
  })

  test('a connection that failed or fell silent is left, and the next write has another', async () => {
    const never = new Promise<never>(() => {})
    const ways = [
      () => never,
      async () => assert.fail('it broke'),
      async () => [new Error('READONLY'), 1],
      async () => ['OK', 1],
    ]
    const ends: number[] = []
    let opened = 0
    const open = async () => {
      const i = opened++
      return { send: ways[i] as () => Promise<unknown[]>, isOpen: () => true, close: () => void ends.push(i) }
    }
    const none = { send: () => never, keyPrefix: '', nodeOf: () => '', refreshSlots() {}, onClose() {} }
    const { write } = replicaWaiter({ ...none, openConnection: open }, 1, 1, 1)
    for (const words of [/in time/, /it broke/, /READONLY/]) await assert.rejects(write('a', ['del', 'a']), words)
    assert.equal(await write('a', ['del', 'a']), 'OK')
    assert.deepEqual([opened, ends], [4, [0, 1, 2]])
  })

  test('a server that stands still: what waits fails in time', async (t) => {
    const { master } = await redisReplicated()
    const patient = await opened(t, master.url, { waitReplicas: 1, waitTimeout: 10 })
    const hasty = await opened(t, master.url, { waitReplicas: 1, waitTimeout: 0.1 })
    await login(patient)
    await through(() => hasty.clear(freshKey()))
    const { resume } = await master.pause()
    await fails(() => hasty.clear(freshKey()))
    resume()
    await retryIfStalled(() => patient.clear(freshKey()))
    await through(() => hasty.clear(freshKey()))
  })
})

suite('a cluster', () => {
  test('replicas are waited for on the server of each key, also after the keys have moved', async (t) => {
    const cluster = await redisCluster()
    const [first] = cluster.nodes as [RedisServer]
    const client = new Cluster([{ host: '127.0.0.1', port: first.port }])
    t.after(() => client.disconnect())
    const patient = redisBackend(client, { waitReplicas: 1, waitTimeout: 10 }) as Owned
    const hasty = redisBackend(client, { waitReplicas: 1, waitTimeout: 0.1 })
    for (const backend of [patient, hasty]) t.after(() => backend.close?.())
    const keys = await Promise.all(Array.from({ length: 60 }, () => login(patient)))
    assert.equal(await retryIfStalled(() => patient.byOwner.clear(OWNER, keys[0])), 59)
    const key = keys[0] as string
    const { master, replica } = await cluster.nodesOf(`keepsake:${key}`)
    // The replica takes over, in good order: the client does not know of it until it is told where the key is.
    await replica.cli('cluster', 'failover')
    await until(async () => (await master.cli('role')).startsWith('slave'))
    await retryIfStalled(() => patient.clear(key))
    assert.equal(await retryIfStalled(() => patient.get(key)), undefined)
    // Now without a replica for its keys; others have theirs.
    const here: string[] = []
    const others: string[] = []
    while (here.length < 1 || others.length < 3) {
      const other = await login(patient)
      const { port } = (await cluster.nodesOf(`keepsake:${other}`)).master
      ;(port === replica.port ? here : others).push(other)
    }
    const { resume } = await master.pause()
    await short(() => hasty.clear(here[0] as string))
    for (const other of others) await retryIfStalled(() => patient.clear(other))
    resume()
    await retryIfStalled(() => patient.clear(here[0] as string))
  })

  test('a master is killed: no acknowledged login or logout is lost, and all goes on by itself', async (t) => {
    const cluster = await redisCluster()
    const url = `redis+cluster://${cluster.nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`
    const backend = await opened(t, url, { waitReplicas: 1, waitTimeout: 10 })
    const keys = await Promise.all(Array.from({ length: 40 }, () => login(backend)))
    const out = keys.splice(0, 20)
    await Promise.all(out.map((key) => backend.clear(key)))
    const { master, replica } = await cluster.nodesOf(`keepsake:${keys[0]}`)
    await master.kill()
    await cluster.takenOver(replica)
    for (const key of keys) await through(async () => assert.ok(await backend.get(key)))
    for (const key of out)
      assert.equal(await retryIfStalled(() => backend.get(key)), undefined, 'what ended stays ended')
    await through(async () =>
      assert.deepEqual(
        (await retryIfStalled(() => backend.byOwner.list(OWNER))).map(({ key }) => key).sort(),
        [...keys].sort(),
      ),
    )
    // Its new master has no replica until the old one is back.
    await master.restart()
    await through(() => backend.byOwner.clear(OWNER))
    for (const key of keys) assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
  })
})

suite('Sentinels', () => {
  test('a master is killed: sessions go on at the next one, with every client', async (t) => {
    const { sentinels, name, settled, takenOver } = await redisSentinel()
    const { master, replica } = await settled()
    const nodes = sentinels.map(({ port }) => ({ host: '127.0.0.1', port }))
    const url = `redis+sentinel://${nodes.map(({ port }) => `127.0.0.1:${port}`).join()}/${name}`
    const sentinel = await createSentinel({ name, sentinelRootNodes: nodes }).connect()
    t.after(() => sentinel.destroy())
    const ioredis = new Redis({ sentinels: nodes, name })
    t.after(() => ioredis.disconnect())
    const wait = { waitReplicas: 1, waitTimeout: 1 }
    const backends = [
      await opened(t, url, wait),
      redisBackend(sentinel, wait) as Owned,
      redisBackend(ioredis, wait) as Owned,
    ]
    for (const backend of backends) t.after(() => backend.close?.())
    const kept: string[] = []
    const out: string[] = []
    for (const backend of backends) {
      kept.push(await login(backend))
      out.push(await login(backend))
      await retryIfStalled(() => backend.clear(out.at(-1) as string))
    }
    await short(() => (redisBackend(sentinel, { waitReplicas: 2, waitTimeout: 0.05 }) as Owned).clear(freshKey()))
    await master.kill()
    await takenOver(replica)
    for (const backend of backends) {
      for (const key of kept) await through(async () => assert.ok(await backend.get(key)))
      for (const key of out) assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
      const stranger = freshKey()
      await through(() => backend.generate(stranger, entryWith()))
    }
    // The new master has no replica until the old one is back, and follows.
    const hasty = await opened(t, url, { waitReplicas: 1, waitTimeout: 0.1 })
    await short(() => hasty.clear(freshKey()))
    await master.restart()
    // Sentinels would see to it, after ten seconds.
    await master.cli('replicaof', '127.0.0.1', `${replica.port}`)
    for (const backend of backends) await through(() => login(backend))
    await through(() => backends[0]?.byOwner.clear(OWNER))
    for (const backend of backends) assert.deepEqual(await retryIfStalled(() => backend.byOwner.list(OWNER)), [])
  })
})
