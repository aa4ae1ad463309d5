// Redis is killed, suspended, replaced or full: acknowledged changes stay, failures are reported, and service returns.

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
import { type RedisServer, redisCluster, redisReplicated, redisSentinel, redisServer } from '../support/redis-server.ts'
import { eventually } from '../support/until.ts'

const settings = { secret: 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE', storeTimeout: PATIENT }
const HOUR = 3_600_000

type Owned = Backend & { readonly byOwner: NonNullable<Backend['byOwner']> }

const open = async (t: TestContext, url: string, options = {}): Promise<Owned> => {
  const backend = (await connectRedis(url, options)) as Owned
  t.after(() => backend.close?.())
  return backend
}

/** A backend on a server behind a proxy that holds all data. */
const openHeld = async (t: TestContext) => {
  const server = await redisServer()
  const faulty = await proxy(t, server.port)
  const backend = await open(t, `redis://127.0.0.1:${faulty.port}`)
  await retryIfStalled(() => backend.get(freshKey()))
  faulty.hold()
  return { server, faulty, backend }
}

const login = async (backend: Backend, key = freshKey()): Promise<string> => {
  const entry = entryWith({ owner: OWNER })
  assert.equal(await retryIfStalled(() => backend.generate(key, entry)), undefined)
  return key
}

/** Repeats an operation until it succeeds. */
const untilSuccess = (act: () => unknown) =>
  eventually(async () => {
    await act()
    return true
  })

const assertFails = (act: () => unknown) => assert.rejects(async () => act())

/**
 * Too few replicas confirm. If the machine stalled, the server itself may have been too late, so the operation is
 * repeated.
 */
const assertTooFewReplicas = (act: () => unknown) =>
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

const waitCount = async ({ cli }: RedisServer): Promise<number> =>
  Number(/cmdstat_wait:calls=(\d+)/.exec(await cli('info', 'commandstats'))?.[1] ?? 0)

suite('the client of a Redis URL', () => {
  test('a server that is down at the start: calls fail, and succeed when it is up, without a restart of the application', async (t) => {
    const server = await redisServer()
    await server.kill()
    const backend = await open(t, server.url)
    const key = freshKey()
    for (let i = 0; i < 3; i++) await assert.rejects(async () => backend.get(key), /cannot be reached: .*ECONNREFUSED/)
    await assertFails(() => backend.generate(key, entryWith()))
    await server.restart()
    await untilSuccess(() => backend.get(key))
    assert.equal(
      await retryIfStalled(() => backend.get(key)),
      undefined,
      'a write that was reported as failed is not carried out later',
    )
    await login(backend)
  })

  test('a server that is killed and started again, three times: calls fail, and succeed when it is up', async (t) => {
    const server = await redisServer()
    const backend = await open(t, server.url)
    for (let i = 0; i < 3; i++) {
      const key = await login(backend)
      assert.ok(await retryIfStalled(() => backend.get(key)))
      await server.kill()
      const late = freshKey()
      await assertFails(() => backend.get(key))
      await assertFails(() => backend.generate(late, entryWith()))
      await server.restart()
      await untilSuccess(() => backend.get(key))
      for (const one of [key, late])
        assert.equal(await retryIfStalled(() => backend.get(one)), undefined, 'the server keeps nothing on disk')
    }
  })

  test('a write that was in transit when the server was killed is reported as failed, and is not sent again', async (t) => {
    const { server, faulty, backend } = await openHeld(t)
    const late = freshKey()
    const pending = assertFails(() => backend.generate(late, entryWith()))
    // After a pause, a process checks its connection before it sends.
    await eventually(() => faulty.waiting() > 0)
    await server.kill()
    await server.restart()
    faulty.pass()
    await pending
    await untilSuccess(() => backend.get(late))
    assert.equal(await retryIfStalled(() => backend.get(late)), undefined)
  })

  test('all calls in transit fail when the server is killed', async (t) => {
    const { server, faulty, backend } = await openHeld(t)
    const calls = Array.from({ length: 50 }, async () => backend.get(freshKey()))
    const settled = Promise.allSettled(calls)
    await eventually(() => faulty.waiting() > 0)
    await server.kill()
    faulty.pass()
    assert.ok((await settled).every(({ status }) => status === 'rejected'))
  })

  test('a suspended server: calls fail in time, and succeed when it continues', async (t) => {
    const server = await redisServer()
    const backend = await open(t, server.url)
    const key = await login(backend)
    const { resume } = await server.pause()
    await assertFails(() => backend.get(key))
    await assertFails(() => backend.clear(key))
    resume()
    await untilSuccess(() => backend.get(key))
  })

  test('requests get 503 while the server is suspended, and the session exists afterwards', async (t) => {
    const { master: server, replica } = await redisReplicated()
    await replica.kill()
    const backend = await open(t, server.url)
    const handler = sessionManager({ backend, ...settings })(async (request) => {
      const s = await session(request)
      if (new URL(request.url).pathname === '/login') s.login('anna')
      return new Response(s.owner)
    })
    const visit = browser(handler)
    await eventually(async () => (await visit('/login')).status === 200)
    const { resume } = await server.pause()
    assert.equal((await visit('/')).status, 503)
    resume()
    await eventually(async () => (await visit('/')).status === 200)
    assert.equal(await (await visit('/')).text(), 'anna')
  })
})

suite('a full Redis', () => {
  test('refuses new sessions, loses none, and still ends sessions', async (t) => {
    const server = await redisServer('--maxmemory', '8mb', '--maxmemory-policy', 'noeviction')
    const backend = await open(t, server.url)
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
      assert.doesNotMatch(inspect(error, { depth: 9 }), /xxx/, 'the error does not contain the session')
      return true
    })
    assert.ok(kept.length > 100)
    for (const key of kept) assert.equal((await retryIfStalled(() => backend.get(key)))?.value, value)
    for (let tries = 0; tries < 10; tries++) await assert.rejects(fill('"small"'), /OOM/)
    await retryIfStalled(() => backend.byOwner.clear(OWNER, anna[0]))
    const left = (await retryIfStalled(() => backend.byOwner.list(OWNER))).map(({ key }) => key)
    assert.deepEqual(left, [anna[0]], 'a clear works while the memory is full')
    const mark = { metadata: 'ended', expiresAt: Date.now() + HOUR, version: freshVersion() }
    await retryIfStalled(() => backend.clear(anna[0] as string, undefined, mark))
    assert.equal(
      (await retryIfStalled(() => backend.get(anna[0] as string)))?.metadata,
      'ended',
      'a clear with a mark works too',
    )
    assert.deepEqual(await retryIfStalled(() => backend.byOwner.list(OWNER)), [])
    await retryIfStalled(() => backend.clear(kept[0] as string))
    assert.equal(await retryIfStalled(() => backend.get(kept[0] as string)), undefined)
  })
})

suite('a Redis that evicts', () => {
  test('a clear of an owner whose list may have been evicted reports that sessions may be left', async (t) => {
    const server = await redisServer('--maxmemory', '4mb', '--maxmemory-policy', 'allkeys-lru')
    const backend = await open(t, server.url)
    const list = `keepsake:owner:${OWNER}`
    const assertIncomplete = (act: () => unknown, count: number) =>
      assert.rejects(
        async () => act(),
        (error) => {
          assert.equal((error as KeepsakeError).code, 'unknown_outcome')
          assert.match((error as KeepsakeError).message, new RegExp(`^${count} sessions .*allkeys-lru.*noeviction`))
          return true
        },
      )
    const keys = [await login(backend), await login(backend)]
    assert.equal(await backend.byOwner.clear(OWNER), 2, 'nothing has been evicted so far, and the list exists')
    for (const key of keys) assert.equal(await backend.get(key), undefined)
    await assertIncomplete(() => backend.byOwner.clear(OWNER), 0)
    const value = JSON.stringify('x'.repeat(10_000))
    await login(backend)
    while ((await server.cli('exists', list)) === '1') await backend.generate(freshKey(), entryWith({ value }))
    await assertIncomplete(() => backend.byOwner.clear(OWNER), 0)
    const key = await login(backend)
    await assertIncomplete(() => backend.byOwner.clear(OWNER), 1)
    assert.equal(await backend.get(key), undefined, 'it ends the listed sessions')
    await server.cli('config', 'set', 'maxmemory-policy', 'noeviction')
    assert.equal(await backend.byOwner.clear(OWNER), 0)
    await server.cli('config', 'set', 'maxmemory-policy', 'allkeys-lru')
    await server.cli('config', 'set', 'maxmemory', '0')
    assert.equal(await backend.byOwner.clear(OWNER), 0, 'without a memory limit, Redis evicts nothing')
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

  for (const [name, connect] of Object.entries(clients)) {
    test(`${name}: a login and a logout wait for the given number of replicas, and other writes for none`, async (t) => {
      const { master, replica } = await redisReplicated()
      const client = await connect(t, master.port)
      const backend = redisBackend(client, { waitReplicas: 1, waitTimeout: 10 }) as Owned
      t.after(() => backend.close?.())
      const anonymous = freshKey()
      const entry = entryWith()
      const before = await waitCount(master)
      await retryIfStalled(() => backend.generate(anonymous, entry))
      await retryIfStalled(() =>
        backend.set(anonymous, { value: '{}', metadata: '', version: freshVersion() }, entry.version),
      )
      await retryIfStalled(() => backend.touch(anonymous, entry.expiresAt + 1))
      await retryIfStalled(() => backend.get(anonymous))
      assert.equal(await waitCount(master), before)
      const key = await login(backend)
      assert.equal(await waitCount(master), before + 2, 'one for the entry, and one for its list')
      await retryIfStalled(() => backend.clear(key))
      assert.equal(await waitCount(master), before + 3)
      assert.equal(await replica.cli('exists', `keepsake:${key}`), '0')
      const more = redisBackend(client, { waitReplicas: 2, waitTimeout: 0.05 })
      t.after(() => more.close?.())
      await assertTooFewReplicas(() => login(more))
    })

    test(`${name}: while a replica is down, they throw but stay done, other operations work, and service returns`, async (t) => {
      const { master, replica } = await redisReplicated()
      const client = await connect(t, master.port)
      const patient = redisBackend(client, { waitReplicas: 1, waitTimeout: 10 }) as Owned
      const hasty = redisBackend(client, { waitReplicas: 1, waitTimeout: 0.5 }) as Owned
      for (const backend of [patient, hasty]) t.after(() => backend.close?.())
      const keys = [await login(patient), await login(patient), await login(patient)]
      const { resume } = await replica.pause()
      await assertTooFewReplicas(() => hasty.clear(keys[0] as string))
      assert.equal(await retryIfStalled(() => hasty.get(keys[0] as string)), undefined, 'the logout stays done')
      const other = redisBackend(client, { waitReplicas: 1, waitTimeout: 0.1 }) as Owned
      t.after(() => other.close?.())
      await assertTooFewReplicas(() => other.clear(keys[0] as string))
      const fresh = freshKey()
      const entry = entryWith({ owner: OWNER })
      await assertTooFewReplicas(() => hasty.generate(fresh, entry))
      assert.deepEqual(await retryIfStalled(() => hasty.get(fresh)), entry)
      await assertTooFewReplicas(() => other.generate(fresh, entry))
      await assertTooFewReplicas(() => hasty.byOwner.clear(OWNER))
      await assertTooFewReplicas(() => other.byOwner.clear(OWNER))
      for (const key of keys) assert.equal(await retryIfStalled(() => hasty.get(key)), undefined)
      const before = await waitCount(master)
      let isWaiting = true
      const logouts = Promise.all(
        Array.from({ length: 20 }, () => assertTooFewReplicas(() => hasty.clear(freshKey()))),
      ).then(() => {
        isWaiting = false
      })
      const anonymous = freshKey()
      await retryIfStalled(() => hasty.generate(anonymous, entryWith()))
      for (let i = 0; i < 5; i++) assert.ok(await retryIfStalled(() => hasty.get(anonymous)))
      // Replies that arrived at the same time are handled first.
      await new Promise(setImmediate)
      assert.ok(isWaiting, 'other operations do not wait behind the logouts')
      await logouts
      assert.ok((await waitCount(master)) - before <= 2, 'twenty logouts waited together')
      resume()
      await retryIfStalled(() => patient.byOwner.clear(OWNER))
      assert.deepEqual(await retryIfStalled(() => patient.byOwner.list(OWNER)), [])
      await login(patient)
    })

    test(`${name}: the connection for these writes is opened again after the server was killed`, async (t) => {
      const { master, replica, synced } = await redisReplicated()
      const backend = redisBackend(await connect(t, master.port), { waitReplicas: 1, waitTimeout: 10 }) as Owned
      t.after(() => backend.close?.())
      await login(backend)
      await master.kill()
      await master.restart()
      await synced()
      await untilSuccess(() => backend.get(freshKey()))
      const key = await login(backend)
      const { resume } = await replica.pause()
      const before = await waitCount(master)
      const pending = assertFails(() => backend.clear(key))
      await eventually(async () => (await waitCount(master)) > before)
      await master.kill()
      await pending
      resume()
      await master.restart()
      await untilSuccess(() => login(backend))
    })
  }

  test('a second try of a completed operation writes too, because otherwise WAIT would not cover the first', async (t) => {
    const { master } = await redisReplicated()
    const backend = await open(t, master.url, { waitReplicas: 1, waitTimeout: 10 })
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
        // A clear that failed halfway leaves the key like this, after the entry became a mark.
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
    for (const retry of tries) {
      const before = await writes()
      await retry()
      assert.ok((await writes()) > before)
    }
    assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
    assert.equal((await retryIfStalled(() => backend.get(marked)))?.metadata, 'ended')
  })

  const loggedInVisitor = async (t: TestContext) => {
    const { master, replica } = await redisReplicated()
    const backend = await open(t, master.url, { waitReplicas: 1, waitTimeout: 0.1 })
    const handler = sessionManager({ backend, ...settings })(async (request) => {
      const s = await session(request)
      const { pathname } = new URL(request.url)
      if (pathname === '/login') s.login('anna')
      if (pathname === '/rotate') s.rotateKey()
      if (pathname === '/logout') s.invalidate()
      return new Response(s.owner)
    })
    const visit = browser(handler)
    assert.equal((await visit('/login')).status, 200)
    return { replica, visit }
  }

  test('a rotated key is sent only after replicas have confirmed it, and until then the previous key works', async (t) => {
    const { replica, visit } = await loggedInVisitor(t)
    const { resume } = await replica.pause()
    for (const path of ['/rotate', '/', '/rotate']) {
      const answer = await visit(path)
      assert.equal(answer.status, 200)
      assert.deepEqual(answer.headers.getSetCookie(), [], path)
    }
    const before = visit.copy()
    resume()
    await eventually(async () => (await visit('/')).headers.getSetCookie().length === 1)
    assert.notDeepEqual([...visit.cookies], [...before.cookies])
    assert.equal(await (await visit('/')).text(), 'anna')
  })

  test('a logout or a login that finds no session succeeds only after replicas have confirmed the end', async (t) => {
    const { replica, visit } = await loggedInVisitor(t)
    const [second, relogin, late] = [visit.copy(), visit.copy(), visit.copy()]
    const { resume } = await replica.pause()
    assert.equal((await visit('/logout')).status, 503)
    assert.equal(await (await late.copy()('/')).text(), '', 'the session is gone')
    assert.equal((await second.copy()('/logout')).status, 503, 'but may come back')
    assert.equal((await relogin('/login')).status, 503)
    resume()
    await eventually(async () => (await second.copy()('/logout')).status === 200)
    assert.equal((await late('/login')).status, 200)
  })

  test('a connection that failed or fell silent is dropped, and the next write uses another', async () => {
    const never = new Promise<never>(() => {})
    const sends = [
      () => never,
      async () => assert.fail('the send failed'),
      async () => [new Error('READONLY'), 1],
      async () => ['OK', 1],
    ]
    const closed: number[] = []
    let opened = 0
    const openConnection = async () => {
      const i = opened++
      return { send: sends[i] as () => Promise<unknown[]>, isOpen: () => true, close: () => void closed.push(i) }
    }
    const none = { send: () => never, keyPrefix: '', nodeOf: () => '', refreshSlots() {}, onClose() {} }
    const { write } = replicaWaiter({ ...none, openConnection }, 1, 1, 1)
    for (const message of [/in time/, /the send failed/, /READONLY/])
      await assert.rejects(write('a', ['del', 'a']), message)
    assert.equal(await write('a', ['del', 'a']), 'OK')
    assert.deepEqual([opened, closed], [4, [0, 1, 2]])
  })

  test('a suspended server: writes that wait for replicas fail in time', async (t) => {
    const { master } = await redisReplicated()
    const patient = await open(t, master.url, { waitReplicas: 1, waitTimeout: 10 })
    const hasty = await open(t, master.url, { waitReplicas: 1, waitTimeout: 0.1 })
    await login(patient)
    await untilSuccess(() => hasty.clear(freshKey()))
    const { resume } = await master.pause()
    await assertFails(() => hasty.clear(freshKey()))
    resume()
    await retryIfStalled(() => patient.clear(freshKey()))
    await untilSuccess(() => hasty.clear(freshKey()))
  })
})

suite('a cluster', () => {
  test('a write waits for the replicas of its key, also after the key has moved', async (t) => {
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
    // An orderly failover: the client learns of it only from the redirection of the key.
    await replica.cli('cluster', 'failover')
    await eventually(async () => (await master.cli('role')).startsWith('slave'))
    await retryIfStalled(() => patient.clear(key))
    assert.equal(await retryIfStalled(() => patient.get(key)), undefined)
    // Now this master has no replica, but the others have theirs.
    const affected: string[] = []
    const others: string[] = []
    while (affected.length < 1 || others.length < 3) {
      const other = await login(patient)
      const { port } = (await cluster.nodesOf(`keepsake:${other}`)).master
      ;(port === replica.port ? affected : others).push(other)
    }
    const { resume } = await master.pause()
    await assertTooFewReplicas(() => hasty.clear(affected[0] as string))
    for (const other of others) await retryIfStalled(() => patient.clear(other))
    resume()
    await retryIfStalled(() => patient.clear(affected[0] as string))
  })

  test('a master is killed: no acknowledged login or logout is lost, and service returns by itself', async (t) => {
    const cluster = await redisCluster()
    const url = `redis+cluster://${cluster.nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`
    const backend = await open(t, url, { waitReplicas: 1, waitTimeout: 10 })
    const keys = await Promise.all(Array.from({ length: 40 }, () => login(backend)))
    const ended = keys.splice(0, 20)
    await Promise.all(ended.map((key) => backend.clear(key)))
    const { master, replica } = await cluster.nodesOf(`keepsake:${keys[0]}`)
    await master.kill()
    await cluster.takenOver(replica)
    for (const key of keys) await untilSuccess(async () => assert.ok(await backend.get(key)))
    for (const key of ended)
      assert.equal(await retryIfStalled(() => backend.get(key)), undefined, 'an ended session stays ended')
    await untilSuccess(async () =>
      assert.deepEqual(
        (await retryIfStalled(() => backend.byOwner.list(OWNER))).map(({ key }) => key).sort(),
        [...keys].sort(),
      ),
    )
    // The new master has no replica until the previous master is back.
    await master.restart()
    await untilSuccess(() => backend.byOwner.clear(OWNER))
    for (const key of keys) assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
  })
})

suite('Sentinels', () => {
  test('a master is killed: sessions continue on the next one, through every client', async (t) => {
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
      await open(t, url, wait),
      redisBackend(sentinel, wait) as Owned,
      redisBackend(ioredis, wait) as Owned,
    ]
    for (const backend of backends) t.after(() => backend.close?.())
    const kept: string[] = []
    const ended: string[] = []
    for (const backend of backends) {
      kept.push(await login(backend))
      ended.push(await login(backend))
      await retryIfStalled(() => backend.clear(ended.at(-1) as string))
    }
    await assertTooFewReplicas(() =>
      (redisBackend(sentinel, { waitReplicas: 2, waitTimeout: 0.05 }) as Owned).clear(freshKey()),
    )
    await master.kill()
    await takenOver(replica)
    for (const backend of backends) {
      for (const key of kept) await untilSuccess(async () => assert.ok(await backend.get(key)))
      for (const key of ended) assert.equal(await retryIfStalled(() => backend.get(key)), undefined)
      const anonymous = freshKey()
      await untilSuccess(() => backend.generate(anonymous, entryWith()))
    }
    // The new master has no replica until the previous master is back and follows it.
    const hasty = await open(t, url, { waitReplicas: 1, waitTimeout: 0.1 })
    await assertTooFewReplicas(() => hasty.clear(freshKey()))
    await master.restart()
    // The Sentinels would do this after ten seconds.
    await master.cli('replicaof', '127.0.0.1', `${replica.port}`)
    for (const backend of backends) await untilSuccess(() => login(backend))
    await untilSuccess(() => backends[0]?.byOwner.clear(OWNER))
    for (const backend of backends) assert.deepEqual(await retryIfStalled(() => backend.byOwner.list(OWNER)), [])
  })
})
