// Tests of Redis alone: how long it keeps an entry, its scripts, clusters, clients of all kinds, scans, and URLs.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { suite, type TestContext, test } from 'node:test'
import { inspect, promisify } from 'node:util'
import { Cluster, Redis } from 'ioredis'
import { type Backend, type Entry, type KeepsakeError, type SessionEvent, session, sessionManager } from 'keepsake'
import { connectRedis, type RedisOptions, redisBackend } from 'keepsake/redis'
import { browser } from 'keepsake/testing'
import { createClient, createClientPool, createCluster, createSentinel, RESP_TYPES } from 'redis'
import { clearEntry, clearOwnedEntry } from '../../src/backends/redis/scripts.ts'
import { slotOf } from '../../src/backends/redis/slots.ts'
import { PATIENT } from '../support/clock.ts'
import { entryWith, freshKey, freshVersion } from '../support/entries.ts'
import { retryIfStalled } from '../support/lost.ts'
import { redisServer } from '../support/redis-server.ts'
import {
  clusterClient,
  freshPrefix,
  ioredisClient,
  nodeRedisClient,
  sharedCluster,
  sharedRedis,
} from '../support/redis-stores.ts'
import { watchedRedis } from '../support/redis-watched.ts'
import { eventually } from '../support/until.ts'

const HOUR = 3_600_000
const MINUTE = 60_000

/** An entry as Redis returns it: without an owner, it has the field all the same. */
const entryOf = (more: Partial<Entry> = {}): Entry => entryWith({ owner: undefined, ...more })
const ownersOf = (backend: Backend) => backend.byOwner as NonNullable<Backend['byOwner']>

const errorWith = (code: KeepsakeError['code'], message: RegExp) => (error: unknown) => {
  assert.equal((error as KeepsakeError).code, code)
  assert.match((error as KeepsakeError).message, message)
  return true
}

/** Calls every operation, and checks its result. */
const callAll = async (backend: Backend): Promise<void> => {
  const key = freshKey()
  const entry = entryOf({ owner: 'app:anna' })
  assert.equal(await backend.generate(key, entry), undefined)
  assert.equal(await backend.generate(key, entryOf()), 'taken')
  assert.deepEqual(await backend.get(key), entry)
  const change = { value: '{"n":2}', metadata: '2', version: freshVersion() }
  assert.equal(await backend.set(key, change, entry.version), undefined)
  assert.equal(await backend.set(key, { ...change, version: freshVersion() }, entry.version), 'stale')
  await backend.touch(key, entry.expiresAt + 5)
  const after = { ...entry, ...change, expiresAt: entry.expiresAt + 5 }
  assert.deepEqual(await backend.get(key), after)
  assert.deepEqual(await ownersOf(backend).list('app:anna'), [{ ...after, key }])
  assert.equal(await ownersOf(backend).clear('app:anna'), 1)
  assert.equal(await backend.set(key, change, entry.version), 'gone')
  const other = freshKey()
  await backend.generate(other, entryOf())
  assert.equal(await backend.clear(other, freshVersion()), 'stale')
  assert.equal(await backend.clear(other), undefined)
  assert.equal(await backend.get(other), undefined)
}

/** A backend on the single server that records its commands. */
const recordingBackend = async (t: TestContext, options: RedisOptions = {}) => {
  const redis = await ioredisClient(t)
  const prefix = freshPrefix()
  const { client, sent } = watchedRedis(redis)
  return { redis, prefix, sent, backend: redisBackend(client, { prefix, ...options }) }
}

suite('how long Redis keeps an entry', () => {
  const NOW = Date.UTC(2001, 0, 1)
  /** The milliseconds to live in the scripts that were sent. */
  const lives = (sent: readonly (readonly string[])[]) => sent.map((command) => Number(command.at(-1)))

  test('a minute longer than it lives, rounded up, by the clock of keepsake, in the same command', async (t) => {
    const { backend, sent, redis, prefix } = await recordingBackend(t, { now: () => NOW })
    const key = freshKey()
    await backend.generate(key, entryOf({ expiresAt: NOW + 10_000.2, version: 'version1' }))
    const change = { value: '{}', metadata: 'h', version: 'version2' }
    await backend.set(key, { ...change, expiresAt: NOW + 20_000 }, 'version1')
    await backend.touch(key, NOW + 30_000)
    assert.deepEqual(
      [...new Set(lives(sent))],
      [10_001 + MINUTE, 20_000 + MINUTE, 30_000 + MINUTE],
      'no other command was sent',
    )
    const left = await redis.pttl(prefix + key)
    assert.ok(left > MINUTE && left <= 30_000 + MINUTE, `${left} ms are left`)
  })

  test('a set without an expiry leaves the expiry as it is', async (t) => {
    const { backend, redis, prefix } = await recordingBackend(t)
    const key = freshKey()
    const entry = entryOf({ expiresAt: Date.now() + 5 * HOUR })
    await backend.generate(key, entry)
    await backend.set(key, { value: '{}', metadata: 'h', version: freshVersion() }, entry.version)
    const left = await redis.pttl(prefix + key)
    assert.ok(left > 4 * HOUR && left <= 5 * HOUR + MINUTE)
  })

  test('a mark too, in the same step that ends the entry', async (t) => {
    const { backend, sent, redis, prefix } = await recordingBackend(t, { now: () => NOW })
    const mark = { metadata: 'ended', expiresAt: NOW + 40_000, version: freshVersion() }
    const keys = [freshKey(), freshKey()]
    for (const key of keys) await backend.generate(key, entryOf({ owner: 'app:anna' }))
    sent.splice(0)
    await backend.clear(keys[0] as string, undefined, mark)
    await backend.byOwner?.clear('app:anna', undefined, mark)
    for (const { sha } of [clearEntry, clearOwnedEntry]) {
      assert.deepEqual(
        sent.filter(([, hash]) => hash === sha).map((command) => Number(command.at(-1))),
        [40_000 + MINUTE],
      )
    }
    for (const key of keys) {
      const left = await redis.pttl(prefix + key)
      assert.ok(left > MINUTE && left <= 40_000 + MINUTE, `${left} ms are left`)
    }
  })

  test('an expired entry stays for a minute, and no expiry is too large', async (t) => {
    const { backend, sent, redis, prefix } = await recordingBackend(t, { now: () => NOW })
    for (const expiresAt of [NOW, 0, -1e15, 9e15]) {
      const key = freshKey()
      const entry = entryOf({ expiresAt })
      assert.equal(await backend.generate(key, entry), undefined)
      assert.deepEqual(await backend.get(key), entry)
      assert.ok((await redis.pttl(prefix + key)) > 0)
    }
    const sentLives = lives(sent.filter(([name]) => name !== 'get'))
    assert.deepEqual([...new Set(sentLives)], [MINUTE, 36_525 * 24 * HOUR])
  })

  test('every key of keepsake has a time to live', async (t) => {
    const { backend, redis, prefix } = await recordingBackend(t)
    await callAll(backend)
    for (let i = 0; i < 5; i++) await backend.generate(freshKey(), entryOf({ owner: `app:${i % 2}` }))
    await backend.generate(freshKey(), entryOf())
    const keys = await redis.keys(`${prefix}*`)
    assert.equal(keys.length, 8, 'six entries and two lists')
    for (const key of keys) assert.ok((await redis.pttl(key)) > 0, key)
  })

  test('a list outlives the longest session, and is gone after the last logout', async (t) => {
    const { backend, redis, prefix } = await recordingBackend(t)
    const keys = [freshKey(), freshKey()]
    for (const key of keys) await backend.generate(key, entryOf({ owner: 'app:anna' }))
    assert.ok((await redis.pttl(`${prefix}owner:app:anna`)) > 400 * 24 * HOUR)
    for (const key of keys) await backend.clear(key)
    await eventually(async () => (await redis.exists(`${prefix}owner:app:anna`)) === 0)
  })
})

suite('scripts', () => {
  test('a server that has forgotten them receives them again, at each operation', async (t) => {
    const redis = await ioredisClient(t)
    const { client } = watchedRedis(redis, async (send) => {
      await redis.script('FLUSH')
      return send()
    })
    await callAll(redisBackend(client, { prefix: freshPrefix() }))
  })

  test('each is sent once, and later only its hash', async (t) => {
    const { backend, sent } = await recordingBackend(t)
    await callAll(backend)
    sent.splice(0)
    await callAll(backend)
    assert.deepEqual([...new Set(sent.map(([name]) => name))].sort(), ['evalsha', 'get'])
  })
})

suite('in a cluster', () => {
  test('keepsake computes the same slots as the servers', async () => {
    const { cli } = (await sharedCluster()).nodes[0] as Awaited<ReturnType<typeof redisServer>>
    for (const key of ['', 'a', 'keepsake:owner:app:Zoë 🦊', 'a{b}c', 'a{}c', 'a{b', '}a{b}{c}', freshKey()]) {
      assert.equal(slotOf(key), Number(await cli('cluster', 'keyslot', key)), key)
    }
  })

  test('every command has one key, also for an owner with sessions on all servers', async (t) => {
    const { client, sent } = watchedRedis(await clusterClient(t))
    const backend = redisBackend(client, { prefix: freshPrefix() })
    await callAll(backend)
    const keys = Array.from({ length: 250 }, freshKey)
    await Promise.all(keys.map((key) => backend.generate(key, entryOf({ owner: 'app:anna' }))))
    assert.deepEqual((await ownersOf(backend).list('app:anna')).map(({ key }) => key).sort(), [...keys].sort())
    assert.equal(await ownersOf(backend).clear('app:anna', keys[7]), 249)
    assert.deepEqual(
      (await ownersOf(backend).list('app:anna')).map(({ key }) => key),
      [keys[7]],
    )
    for (const [name, , count] of sent) {
      assert.ok(['get', 'pttl', 'evalsha', 'eval'].includes(name as string), name)
      if (name?.startsWith('eval')) assert.equal(count, '1')
    }
  })

  test('scripts avoid the pipeline of ioredis 5 and iovalkey, which sorts them by their hash', async () => {
    const calls: string[] = []
    const cluster = {
      isCluster: true,
      status: 'ready',
      options: { enableAutoPipelining: true },
      duplicate: () => {},
      call: async (name: string) => {
        calls.push(name)
        return null
      },
      pipeline: ([command]: string[][]) => ({
        exec: async () => [command?.[0] === 'evalsha' ? [new Error('NOSCRIPT No matching script.')] : [null, null]],
      }),
    }
    const backend = redisBackend(cluster)
    await backend.get(freshKey())
    await backend.clear(freshKey())
    assert.deepEqual(calls, ['get'])
  })

  for (const options of [{ enableAutoPipelining: true }, { keyPrefix: 'theirs:' }, { scaleReads: 'master' }] as const) {
    test(`a Cluster with ${JSON.stringify(options)} works`, async (t) => {
      const { nodes } = await sharedCluster()
      const client = new Cluster([{ host: '127.0.0.1', port: nodes[0]?.port as number }], options)
      t.after(() => client.disconnect())
      const backend = redisBackend(client, { prefix: freshPrefix(), waitReplicas: 1 })
      t.after(() => backend.close?.())
      await Promise.all(Array.from({ length: 20 }, () => callAll(redisBackend(client, { prefix: freshPrefix() }))))
      await callAll(backend)
    })
  }
})

suite('clients', () => {
  const checkClient = async (client: Parameters<typeof redisBackend>[0]) => {
    await callAll(redisBackend(client, { prefix: freshPrefix() }))
    await callAll(redisBackend(client, { prefix: `${freshPrefix()} {braces}: é 🦊 \n` }))
  }

  test('ioredis with its own prefix, automatic pipelines and numbers as strings', async (t) => {
    const client = new Redis(await sharedRedis(), { keyPrefix: 'a:', enableAutoPipelining: true, stringNumbers: true })
    t.after(() => client.disconnect())
    await checkClient(client)
  })

  test('ioredis on RESP2', async (t) => {
    const client = new Redis(await sharedRedis(), { protocol: 2 })
    t.after(() => client.disconnect())
    await checkClient(client)
  })

  test('node-redis that returns buffers', async (t) => {
    const client = await nodeRedisClient(t)
    await checkClient(client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }))
  })

  test('a pool of node-redis, but not with waitReplicas', async (t) => {
    const client = createClientPool({ url: await sharedRedis() })
    await client.connect()
    t.after(() => client.destroy())
    await checkClient(client)
    assert.throws(() => redisBackend(client, { waitReplicas: 1 }), errorWith('invalid_option', /createClient/))
  })

  test('a cluster of node-redis is rejected, because it does not recover, and the error names the alternative', () => {
    const client = createCluster({ rootNodes: [{ url: 'redis://127.0.0.1:1' }] })
    assert.throws(() => redisBackend(client as never), errorWith('invalid_option', /ioredis/))
  })

  test('a cluster that reads from replicas is rejected, because an ended session would open there', (t) => {
    const client = new Cluster([{ host: '127.0.0.1', port: 1 }], { scaleReads: 'slave', lazyConnect: true })
    t.after(() => client.disconnect())
    assert.throws(() => redisBackend(client), errorWith('invalid_option', /scaleReads/))
  })

  test('a value that is not a client is rejected', () => {
    for (const client of [undefined, {}, 'redis://127.0.0.1', () => {}, { sendCommand: 1 }]) {
      assert.throws(() => redisBackend(client as never), errorWith('invalid_option', /needs a client/))
    }
  })

  test('invalid options are rejected', async (t) => {
    const client = await ioredisClient(t)
    const invalid: [object, RegExp][] = [
      [{ prefix: 1 }, /prefix/],
      [{ waitReplicas: -1 }, /waitReplicas/],
      [{ waitReplicas: 1.5 }, /waitReplicas/],
      [{ waitReplicas: '1' }, /waitReplicas/],
      [{ waitTimeout: 0 }, /waitTimeout/],
      [{ waitTimeout: Number.NaN }, /waitTimeout/],
      [{ waitTimeout: 61 }, /waitTimeout/],
      [{ ttl: 1 }, /no option "ttl"/],
    ]
    for (const [options, message] of invalid) {
      assert.throws(() => redisBackend(client, options), errorWith('invalid_option', message))
      await assert.rejects(connectRedis('redis://127.0.0.1', options), errorWith('invalid_option', message))
    }
  })

  test('an error event of a client ends no process, and many backends on one client add few listeners', async (t) => {
    const sentinel = createSentinel({ name: 'm', sentinelRootNodes: [{ host: '127.0.0.1', port: 1 }] })
    const clients = [await ioredisClient(t), await nodeRedisClient(t), await clusterClient(t), sentinel]
    for (const client of clients) {
      const before = client.listenerCount('error')
      for (let i = 0; i < 20; i++) redisBackend(client as never)
      assert.equal(client.listenerCount('error'), before + 1)
      // Node prints a warning for more than ten listeners.
      for (const event of client.eventNames()) assert.ok(client.listenerCount(event as string) <= 10, String(event))
      client.emit('error', new Error('the server is down'))
    }
  })

  test('closing the backend closes its own client, but not a client of the application', async (t) => {
    const client = await ioredisClient(t)
    await redisBackend(client).close?.()
    assert.equal(await client.ping(), 'PONG')
    const server = await redisServer()
    const clientCount = async () => Number(/connected_clients:(\d+)/.exec(await server.cli('info', 'clients'))?.[1])
    const own = await connectRedis(server.url, { waitReplicas: 1, waitTimeout: 0.001 })
    await retryIfStalled(() => own.get(freshKey()))
    /** One connection for commands, one for writes that wait for replicas, and redis-cli. Late ones are dropped. */
    const checkThreeConnections = (backend: Backend) =>
      retryIfStalled(async () => {
        await assert.rejects(async () => backend.clear(freshKey()))
        assert.equal(await clientCount(), 3)
      })
    await checkThreeConnections(own)
    await own.close?.()
    await eventually(async () => (await clientCount()) === 1)
    await assert.rejects(async () => own.get(freshKey()))
    for (const connect of [() => new Redis(server.port), () => createClient({ url: server.url }).connect()]) {
      const client = await connect()
      const backend = redisBackend(client, { waitReplicas: 1, waitTimeout: 0.001 })
      await backend.get(freshKey())
      await checkThreeConnections(backend)
      await backend.close?.()
      await eventually(async () => (await clientCount()) === 2)
      await checkThreeConnections(backend)
      await client.quit()
      await eventually(async () => (await clientCount()) === 1)
    }
  })
})

/** Scans a backend to its end. Returns the keys and the number of pages. */
const scanAll = async (backend: Backend, limit = 10) => {
  const keys = new Set<string>()
  let cursor: string | undefined
  let pages = 0
  do {
    const page = await backend.scan?.(cursor, limit)
    assert.ok(page)
    for (const { key } of page.entries) keys.add(key)
    cursor = page.cursor
    pages++
  } while (cursor !== undefined)
  return { keys: [...keys].sort(), pages }
}

suite('scans', () => {
  const fill = async (backend: Backend, count = 60) => {
    const keys = Array.from({ length: count }, freshKey)
    await Promise.all(keys.map((key) => backend.generate(key, entryOf({ owner: 'app:anna' }))))
    return keys.sort()
  }

  test('a scan returns only sessions and only those of its prefix, with all characters in the prefix', async (t) => {
    const redis = await ioredisClient(t)
    const start = freshPrefix()
    const prefixes = ['', 'a*:', 'a?:', 'ab:', '[ab]:', 'a[^x]:', 'a\\:', 'a\\\\:', 'é{}-:', 'owner:'].map(
      (end) => start + end,
    )
    for (const prefix of prefixes) await fill(redisBackend(redis, { prefix }), 3)
    for (const prefix of prefixes) {
      const { keys } = await scanAll(redisBackend(redis, { prefix }))
      assert.equal(keys.length, 3, prefix)
    }
  })

  test('a scan works if the client has its own prefix, and if it returns buffers', async (t) => {
    const keyPrefix = freshPrefix()
    const prefixed = new Redis(await sharedRedis(), { keyPrefix })
    t.after(() => prefixed.disconnect())
    const buffers = (await nodeRedisClient(t)).withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })
    for (const backend of [redisBackend(prefixed), redisBackend(buffers, { prefix: freshPrefix() })]) {
      const keys = await fill(backend)
      assert.deepEqual((await scanAll(backend)).keys, keys)
    }
  })

  test('a cursor of another server, or from before a restart, begins at the start', async (t) => {
    const one = await redisServer()
    const backend = await connectRedis(one.url)
    t.after(() => backend.close?.())
    // This client gives its server one second to answer.
    await retryIfStalled(() => fill(backend))
    const foreign = await redisBackend(await ioredisClient(t)).scan?.(undefined, 1)
    const first = await backend.scan?.(undefined, 10)
    assert.ok(first?.cursor)
    for (const cursor of [foreign?.cursor, 'nonsense', '', first.cursor.replace(/^./, '*')]) {
      assert.deepEqual(await backend.scan?.(cursor, 10), first)
    }
    await one.restart()
    await eventually(async () => {
      await backend.get(freshKey())
      return true
    })
    const keys = await fill(backend)
    let { cursor } = first
    const seen = new Set<string>()
    while (cursor !== undefined) {
      const page = await backend.scan?.(cursor, 10)
      for (const { key } of page?.entries ?? []) seen.add(key)
      cursor = page?.cursor as string
    }
    assert.deepEqual([...seen].sort(), keys)
  })
})

suite('storage keys', () => {
  test('an operator finds the entry of a label that a log names', async (t) => {
    const server = await redisServer()
    const backend = await connectRedis(server.url)
    t.after(() => backend.close?.())
    const log: SessionEvent[] = []
    const secret = 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE'
    const manager = sessionManager({ backend, secret, storeTimeout: PATIENT, onEvent: (event) => void log.push(event) })
    const handler = manager(async (request) => {
      const s = await session(request)
      s.login('anna')
      s.set('theme', 'dark')
      return new Response('done')
    })
    assert.equal((await browser(handler)('/')).status, 200)
    const label = log.find(({ type }) => type === 'login')?.label
    assert.match(label ?? '', /^[A-Za-z0-9_-]{12}$/)
    const lines = (await server.cli('get', `keepsake:sid.${label}`)).split('\n')
    assert.equal(lines[2], '"sid:anna"')
    assert.equal(JSON.parse(lines[4] ?? '').theme, 'dark')
    assert.equal(await server.cli('zrange', 'keepsake:owner:sid:anna', '0', '-1'), `sid.${label}`)
  })

  test('the list of an owner never has the name of an entry', async (t) => {
    const { backend, redis, prefix } = await recordingBackend(t)
    const keys = ['owner', 'owner.a', 'owner-a', '-', '.', '_', 'a'.repeat(64), 'A'.repeat(43)]
    const entries = new Map(keys.map((key) => [key, entryOf({ owner: `app:${key}` })]))
    for (const [key, entry] of entries) assert.equal(await backend.generate(key, entry), undefined)
    for (const [key, entry] of entries) {
      assert.deepEqual(await ownersOf(backend).list(`app:${key}`), [{ ...entry, key }])
    }
    assert.equal((await redis.keys(`${prefix}*`)).length, 2 * keys.length)
    assert.deepEqual((await scanAll(backend)).keys, [...keys].sort())
    for (const key of keys) assert.equal(await ownersOf(backend).clear(`app:${key}`), 1)
    assert.deepEqual(await redis.keys(`${prefix}*`), [])
  })

  test('a scan skips keys and values of other applications, also with an empty prefix', async (t) => {
    const redis = new Redis((await redisServer()).port)
    t.after(() => redis.disconnect())
    const backend = redisBackend(redis, { prefix: '' })
    const key = freshKey()
    await backend.generate(key, entryOf())
    await redis.mset('foreign', 'text', 'lines', '1\n2\n3\n4\n5', 'empty', '', 'a'.repeat(65), 'x', 'a:b', 'x')
    await redis.hset('hash', 'field', 'value')
    await redis.zadd('set', 1, 'member')
    assert.deepEqual((await scanAll(backend)).keys, [key])
  })
})

suite('URLs', () => {
  test('an invalid URL is rejected, and the error contains no part of it', async () => {
    const invalid = [
      'redis://',
      'redis://user:sesame@',
      'redis://user:sesame@host:port',
      'redis://user:sesame@host:1/a',
      'redis://user:sesame@host:1/0/0',
      'redis://user:sesame@host:1,host:2',
      'redis://user:sesame@ho st:1',
      'redis://user:ses@ame@host:1',
      'redis://user:sesame%@host:1',
      'redis://user:sesame@host:1?sesame=1',
      'redis+sentinel://user:sesame@host:1',
      'redis+cluster://user:sesame@host:1/1',
      'redis+other://user:sesame@host',
      'http://user:sesame@host',
    ]
    for (const url of invalid) {
      await assert.rejects(connectRedis(url), (error) => {
        assert.equal((error as KeepsakeError).code, 'invalid_option', url)
        assert.doesNotMatch(String((error as KeepsakeError).stack) + (error as KeepsakeError).cause, /sesame|ame@/, url)
        return true
      })
    }
  })

  test('a valid URL connects only when the backend is used', async () => {
    for (const url of [
      'redis://127.0.0.1',
      'redis://127.0.0.1:1/15',
      'rediss://user:p%40ss@[::1]:1',
      'redis+sentinel://127.0.0.1,localhost:2/mymaster/3',
      'rediss+cluster://:pass@127.0.0.1:1,127.0.0.1:2',
    ]) {
      await (await connectRedis(url)).close?.()
    }
  })

  test('the login and the database of the URL are used, and no error contains the password', async () => {
    const server = await redisServer('--requirepass', 'open sesame')
    const valid = await connectRedis(`redis://default:open%20sesame@127.0.0.1:${server.port}/3`)
    await retryIfStalled(() => callAll(valid))
    await retryIfStalled(() => valid.generate(freshKey(), entryOf()))
    assert.match(await server.cli('-a', 'open sesame', 'info', 'keyspace'), /db3:keys=/)
    await valid.close?.()
    const logins: [string, RegExp][] = [
      [':wrong%20sesame@', /WRONGPASS/],
      ['anna:wrong%20sesame@', /WRONGPASS/],
      ['', /NOAUTH/],
    ]
    for (const [login, message] of logins) {
      const wrong = await connectRedis(`redis://${login}127.0.0.1:${server.port}`)
      await assert.rejects(
        async () => wrong.get(freshKey()),
        (error) => {
          assert.match((error as Error).message, message)
          assert.doesNotMatch(inspect(error, { depth: 9 }) + (error as Error).stack, /sesame/)
          return true
        },
      )
      await wrong.close?.()
    }
  })

  test('without ioredis, the error names the package to install in one line', async () => {
    const hook = `import { registerHooks } from 'node:module'
      registerHooks({ resolve(name, context, next) {
        if (name === 'ioredis') throw Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' })
        return next(name, context)
      } })
      const { connectRedis } = await import('keepsake/redis')
      await connectRedis('redis://:sesame@127.0.0.1').catch(({ code, message }) => console.log(code, message))`
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', hook], {
      cwd: join(import.meta.dirname, '../..'),
    })
    assert.equal(stdout, 'unknown_backend The backend of this URL needs the package ioredis: npm install ioredis\n')
  })
})
