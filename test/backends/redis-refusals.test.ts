// What is said of an error: that nothing was changed, where that is certain, and what to do.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { suite, type TestContext, test } from 'node:test'
import { Redis } from 'ioredis'
import type { Backend, Entry, KeepsakeError } from 'keepsake'
import { connectRedis, type RedisOptions, redisBackend } from 'keepsake/redis'
import { createClient } from 'redis'
import { followClient } from '../../src/backends/redis/client-state.ts'
import { withRetries } from '../../src/backends/redis/retries.ts'
import { clearOwnedEntry, confirmListed, generateEntry, markForRemoval } from '../../src/backends/redis/scripts.ts'
import { entryWith, freshKey, freshVersion, OWNER } from '../support/entries.ts'
import { proxy } from '../support/proxy.ts'
import { type RedisServer, redisServer, until } from '../support/redis-server.ts'
import { watchedRedis } from '../support/redis-watched.ts'
import { program } from '../support/servers.ts'

const login = { username: 'app', password: 'x' }
const retryStrategy = () => 20

/** Backends by all kinds of clients, on a server or a proxy at this port, as its user `app`. */
const clients: Readonly<Record<string, (t: TestContext, port: number, options?: RedisOptions) => Promise<Backend>>> = {
  async url(t, port, options) {
    const backend = await connectRedis(`redis://app:x@127.0.0.1:${port}`, options)
    t.after(() => backend.close?.())
    return backend
  },
  async ioredis(t, port, options) {
    const client = new Redis(port, { ...login, retryStrategy, enableOfflineQueue: false, maxRetriesPerRequest: 0 })
    t.after(() => client.disconnect())
    return redisBackend(client, options)
  },
  async 'ioredis, as it comes'(t, port, options) {
    const client = new Redis(port, { ...login, retryStrategy })
    t.after(() => client.disconnect())
    return redisBackend(client, options)
  },
  async 'node-redis'(t, port, options) {
    const socket = { host: '127.0.0.1', port, reconnectStrategy: retryStrategy }
    const client = createClient({ ...login, socket, disableOfflineQueue: true })
    t.after(() => client.destroy())
    const backend = redisBackend(client, options)
    await client.connect()
    return backend
  },
}

/** All ways to change something. */
const changes = (backend: Backend, key: string, entry: Entry): readonly (() => unknown)[] => [
  () => backend.generate(freshKey(), entryWith()),
  () => backend.generate(freshKey(), entryWith({ owner: OWNER })),
  () => backend.set(key, { value: '{"n":2}', metadata: 'h', version: freshVersion() }, entry.version),
  () => backend.touch(key, entry.expiresAt + 1),
  () => backend.clear(key),
  () => backend.clear(key, entry.version, { metadata: 'ended', expiresAt: entry.expiresAt, version: freshVersion() }),
  () => backend.byOwner?.clear(OWNER),
]

const unavailable = (words: RegExp) => (error: unknown) => {
  const { code, message } = error as KeepsakeError
  assert.equal(code, 'unavailable', String(error))
  assert.match(message, words)
  assert.match(message, /Nothing was changed/)
  return true
}

const allows = ['acl', 'setuser', 'app', 'on', '>x', '~*']

type Refusal = {
  readonly refuse: (server: RedisServer) => Promise<unknown>
  readonly allow: (server: RedisServer) => Promise<unknown>
  readonly words: RegExp
  /** What a full server does all the same: a touch takes room, and the end of a session none. */
  readonly passes?: number
}

const refusals: Readonly<Record<string, Refusal>> = {
  'is a replica': {
    refuse: ({ cli }) => cli('replicaof', '127.0.0.1', '1'),
    allow: ({ cli }) => cli('replicaof', 'no', 'one'),
    words: /^READONLY .*reconnectOnError/s,
  },
  'is a replica that has lost its master': {
    refuse: async ({ cli }) => {
      await cli('config', 'set', 'replica-serve-stale-data', 'no')
      await cli('replicaof', '127.0.0.1', '1')
    },
    allow: ({ cli }) => cli('replicaof', 'no', 'one'),
    // Where a script would write, that it is a replica comes first.
    words: /^(MASTERDOWN .*master is up|READONLY)/s,
  },
  'has too few replicas': {
    refuse: ({ cli }) => cli('config', 'set', 'min-replicas-to-write', '1'),
    allow: ({ cli }) => cli('config', 'set', 'min-replicas-to-write', '0'),
    words: /^NOREPLICAS .*min-replicas-to-write/s,
  },
  'is full': {
    refuse: ({ cli }) => cli('config', 'set', 'maxmemory', '1'),
    allow: ({ cli }) => cli('config', 'set', 'maxmemory', '0'),
    words: /^OOM .*maxmemory/s,
    passes: 3,
  },
  'does not let its user do that': {
    refuse: ({ cli }) => cli(...allows, '-@scripting'),
    allow: ({ cli }) => cli(...allows, '+@all'),
    words: /^NOPERM .*databases\.md/s,
  },
  'does not let its user do that within scripts': {
    refuse: ({ cli }) => cli(...allows, '-@write'),
    allow: ({ cli }) => cli(...allows, '+@all'),
    words: /script.*databases\.md/s,
  },
}

suite('a server that refuses', () => {
  test('the error names the refusal although the client was reconnecting at the last try', async () => {
    for (const later of ["Stream isn't writeable and enableOfflineQueue options is false", 'The client is offline']) {
      const answers = ["READONLY You can't write against a read only replica.", later, later]
      const state = followClient({}, { isReady: () => true, downEvents: [] })
      const send = withRetries({ ...state, waitBeforeRetry: async () => {} }, async () => {
        throw new Error(answers.shift())
      })
      await assert.rejects(send(['set', 'a', '1']), unavailable(/^READONLY .*reconnectOnError/s))
      assert.deepEqual(answers, [])
    }
  })

  for (const [name, connected] of Object.entries(clients)) {
    for (const [what, { refuse, allow, words, passes = 0 }] of Object.entries(refusals)) {
      test(`${name}: it ${what}`, async (t) => {
        const server = await redisServer()
        await server.cli(...allows, '+@all')
        const backend = await connected(t, server.port)
        const [key, entry] = [freshKey(), entryWith({ owner: OWNER })]
        await backend.generate(key, entry)
        await refuse(server)
        const acts = changes(backend, key, entry)
        for (const act of acts.slice(0, acts.length - passes)) {
          await assert.rejects(async () => act(), unavailable(words))
        }
        await allow(server)
        await until(async () => (await backend.get(key)) !== undefined)
        assert.deepEqual(await backend.get(key), entry)
        assert.deepEqual(await backend.byOwner?.list(OWNER), [{ ...entry, key }])
      })
    }

    test(`${name}: it cannot be reached`, async (t) => {
      const server = await redisServer()
      await server.cli(...allows, '+@all')
      const backend = await connected(t, server.port)
      const [key, entry] = [freshKey(), entryWith({ owner: OWNER })]
      await backend.generate(key, entry)
      await server.kill()
      // The first may have been sent.
      await assert.rejects(async () => backend.clear(key))
      for (const act of changes(backend, key, entry)) {
        await assert.rejects(async () => act(), unavailable(/^Redis cannot be reached: .*ECONN/s))
      }
    })

    test(`${name}: a change whose answer is lost may have been made, and nothing else is said of it`, async (t) => {
      const server = await redisServer()
      await server.cli(...allows, '+@all')
      const way = await proxy(t, server.port)
      const backend = await connected(t, way.port)
      const [key, entry] = [freshKey(), entryWith()]
      await backend.generate(key, entry)
      // The script is known from now on.
      await backend.clear(freshKey())
      way.swallow()
      const answer = Promise.resolve(backend.clear(key)).then(
        // By a client that sends it again.
        () => 'done',
        ({ code }) => code,
      )
      assert.notEqual(await answer, 'unavailable')
      assert.equal(await server.cli('exists', `keepsake:${key}`), '0')
    })
  }

  test('a client that sends a change again, and then is refused: it may have been made the first time', async (t) => {
    const server = await redisServer()
    const way = await proxy(t, server.port)
    const client = new Redis(way.port, {
      retryStrategy() {
        execFileSync(program('redis-cli', 'redis-server'), [
          '-p',
          `${server.port}`,
          'config',
          'set',
          'min-replicas-to-write',
          '1',
        ])
        return 1
      },
    })
    t.after(() => client.disconnect())
    const backend = redisBackend(client)
    const key = freshKey()
    await backend.generate(key, entryWith())
    // The script is known from now on.
    await backend.clear(freshKey())
    way.swallow()
    await assert.rejects(
      async () => backend.clear(key),
      (error) => {
        assert.match((error as Error).message, /^NOREPLICAS/)
        assert.equal((error as KeepsakeError).code, undefined)
        return true
      },
    )
    assert.equal(await server.cli('exists', `keepsake:${key}`), '0')
  })

  test('a login is refused, with what to do', async (t) => {
    const server = await redisServer('--requirepass', 'y')
    for (const user of ['', 'app:x@']) {
      const backend = await connectRedis(`redis://${user}127.0.0.1:${server.port}`)
      t.after(() => backend.close?.())
      for (const act of changes(backend, freshKey(), entryWith())) {
        await assert.rejects(async () => act(), unavailable(user ? /WRONGPASS.*password/s : /NOAUTH.*login/s))
      }
    }
  })

  test('a cluster that has no server for a slot', async (t) => {
    const server = await redisServer('--cluster-enabled', 'yes')
    const client = new Redis(server.port)
    t.after(() => client.disconnect())
    const backend = redisBackend(client)
    for (const act of changes(backend, freshKey(), entryWith())) {
      await assert.rejects(async () => act(), unavailable(/^CLUSTERDOWN .*CLUSTER NODES/s))
    }
  })

  test('a step that is refused after others were done is no word on those', async (t) => {
    const server = await redisServer()
    const redis = new Redis(server.port)
    t.after(() => redis.disconnect())
    const { client, plan } = watchedRedis(redis)
    const backend = redisBackend(client)
    const refused = async () => {
      throw new Error('READONLY You cannot write against a read only replica.')
    }
    const plainly = (error: unknown) => {
      assert.equal((error as KeepsakeError).code, undefined)
      assert.match((error as Error).message, /^READONLY/)
      return true
    }
    const begin = async () => backend.generate(freshKey(), entryWith({ owner: OWNER }))
    const clear = async () => backend.byOwner?.clear(OWNER)
    // It is tried three times, as the client may be connecting anew.
    const thrice = (script: Parameters<typeof plan>[0]) => [1, 2, 3].forEach(() => void plan(script, refused))
    thrice(generateEntry)
    await assert.rejects(begin, unavailable(/READONLY/))
    thrice(confirmListed)
    await assert.rejects(begin, plainly)
    thrice(markForRemoval)
    await assert.rejects(clear, unavailable(/READONLY/))
    await begin()
    for (let i = 0; i < 9; i++) thrice(clearOwnedEntry)
    await assert.rejects(clear, plainly)
  })
})
