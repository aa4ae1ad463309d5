// Errors of Redis: they state that nothing was changed only if that is certain, and they give advice.

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
import { type RedisServer, redisServer } from '../support/redis-server.ts'
import { watchedRedis } from '../support/redis-watched.ts'
import { program } from '../support/servers.ts'
import { eventually } from '../support/until.ts'

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
  async 'ioredis with its defaults'(t, port, options) {
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

/** All operations that change something. */
const changes = (backend: Backend, key: string, entry: Entry): readonly (() => unknown)[] => [
  () => backend.generate(freshKey(), entryWith()),
  () => backend.generate(freshKey(), entryWith({ owner: OWNER })),
  () => backend.set(key, { value: '{"n":2}', metadata: 'h', version: freshVersion() }, entry.version),
  () => backend.touch(key, entry.expiresAt + 1),
  () => backend.clear(key),
  () => backend.clear(key, entry.version, { metadata: 'ended', expiresAt: entry.expiresAt, version: freshVersion() }),
  () => backend.byOwner?.clear(OWNER),
]

const unavailable = (expected: RegExp) => (error: unknown) => {
  const { code, message } = error as KeepsakeError
  assert.equal(code, 'unavailable', String(error))
  assert.match(message, expected)
  assert.match(message, /Nothing was changed/)
  return true
}

const setUser = ['acl', 'setuser', 'app', 'on', '>x', '~*']

type Refusal = {
  readonly refuse: (server: RedisServer) => Promise<unknown>
  readonly allow: (server: RedisServer) => Promise<unknown>
  readonly message: RegExp
  /** How many operations a full server carries out: a touch needs memory, and the end of a session needs none. */
  readonly successes?: number
}

const refusals: Readonly<Record<string, Refusal>> = {
  'is a replica': {
    refuse: ({ cli }) => cli('replicaof', '127.0.0.1', '1'),
    allow: ({ cli }) => cli('replicaof', 'no', 'one'),
    message: /^READONLY .*reconnectOnError/s,
  },
  'is a replica that has lost its master': {
    refuse: async ({ cli }) => {
      await cli('config', 'set', 'replica-serve-stale-data', 'no')
      await cli('replicaof', '127.0.0.1', '1')
    },
    allow: ({ cli }) => cli('replicaof', 'no', 'one'),
    // For a script that writes, Redis reports READONLY first.
    message: /^(MASTERDOWN .*master is up|READONLY)/s,
  },
  'has too few replicas': {
    refuse: ({ cli }) => cli('config', 'set', 'min-replicas-to-write', '1'),
    allow: ({ cli }) => cli('config', 'set', 'min-replicas-to-write', '0'),
    message: /^NOREPLICAS .*min-replicas-to-write/s,
  },
  'is full': {
    refuse: ({ cli }) => cli('config', 'set', 'maxmemory', '1'),
    allow: ({ cli }) => cli('config', 'set', 'maxmemory', '0'),
    message: /^OOM .*maxmemory/s,
    successes: 3,
  },
  'denies its user the command': {
    refuse: ({ cli }) => cli(...setUser, '-@scripting'),
    allow: ({ cli }) => cli(...setUser, '+@all'),
    message: /^NOPERM .*redis\.md/s,
  },
  'denies its user the command in scripts': {
    refuse: ({ cli }) => cli(...setUser, '-@write'),
    allow: ({ cli }) => cli(...setUser, '+@all'),
    message: /script.*redis\.md/s,
  },
}

suite('a server that refuses', () => {
  test('the error names the refusal although the client was reconnecting at the last try', async () => {
    for (const laterMessage of [
      "Stream isn't writeable and enableOfflineQueue options is false",
      'The client is offline',
    ]) {
      const messages = ["READONLY You can't write against a read only replica.", laterMessage, laterMessage]
      const state = followClient({}, { isReady: () => true, downEvents: [] })
      const send = withRetries({ ...state, waitBeforeRetry: async () => {} }, async () => {
        throw new Error(messages.shift())
      })
      await assert.rejects(send(['set', 'a', '1']), unavailable(/^READONLY .*reconnectOnError/s))
      assert.deepEqual(messages, [])
    }
  })

  for (const [name, connect] of Object.entries(clients)) {
    for (const [situation, { refuse, allow, message, successes = 0 }] of Object.entries(refusals)) {
      test(`${name}: the server ${situation}`, async (t) => {
        const server = await redisServer()
        await server.cli(...setUser, '+@all')
        const backend = await connect(t, server.port)
        const [key, entry] = [freshKey(), entryWith({ owner: OWNER })]
        await backend.generate(key, entry)
        await refuse(server)
        const operations = changes(backend, key, entry)
        for (const act of operations.slice(0, operations.length - successes)) {
          await assert.rejects(async () => act(), unavailable(message))
        }
        await allow(server)
        await eventually(async () => (await backend.get(key)) !== undefined)
        assert.deepEqual(await backend.get(key), entry)
        assert.deepEqual(await backend.byOwner?.list(OWNER), [{ ...entry, key }])
      })
    }

    test(`${name}: the server cannot be reached`, async (t) => {
      const server = await redisServer()
      await server.cli(...setUser, '+@all')
      const backend = await connect(t, server.port)
      const [key, entry] = [freshKey(), entryWith({ owner: OWNER })]
      await backend.generate(key, entry)
      await server.kill()
      // The first command may have been sent.
      await assert.rejects(async () => backend.clear(key))
      for (const act of changes(backend, key, entry)) {
        await assert.rejects(async () => act(), unavailable(/^Redis cannot be reached: .*ECONN/s))
      }
    })

    test(`${name}: a change whose answer is lost has an unknown outcome, and the error does not claim more`, async (t) => {
      const server = await redisServer()
      await server.cli(...setUser, '+@all')
      const faulty = await proxy(t, server.port)
      const backend = await connect(t, faulty.port)
      const [key, entry] = [freshKey(), entryWith()]
      await backend.generate(key, entry)
      // From now on, the server knows the script.
      await backend.clear(freshKey())
      faulty.swallow()
      const outcome = Promise.resolve(backend.clear(key)).then(
        // The client has sent it again.
        () => 'done',
        ({ code }) => code,
      )
      assert.notEqual(await outcome, 'unavailable')
      assert.equal(await server.cli('exists', `keepsake:${key}`), '0')
    })
  }

  test('a client that sends a change again and is refused then: the first try may have made the change', async (t) => {
    const server = await redisServer()
    const faulty = await proxy(t, server.port)
    const client = new Redis(faulty.port, {
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
    // From now on, the server knows the script.
    await backend.clear(freshKey())
    faulty.swallow()
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

  test('a refused login: the error gives advice', async (t) => {
    const server = await redisServer('--requirepass', 'y')
    for (const user of ['', 'app:x@']) {
      const backend = await connectRedis(`redis://${user}127.0.0.1:${server.port}`)
      t.after(() => backend.close?.())
      for (const act of changes(backend, freshKey(), entryWith())) {
        await assert.rejects(async () => act(), unavailable(user ? /WRONGPASS.*password/s : /NOAUTH.*login/s))
      }
    }
  })

  test('a cluster without a server for a slot: the error gives advice', async (t) => {
    const server = await redisServer('--cluster-enabled', 'yes')
    const client = new Redis(server.port)
    t.after(() => client.disconnect())
    const backend = redisBackend(client)
    for (const act of changes(backend, freshKey(), entryWith())) {
      await assert.rejects(async () => act(), unavailable(/^CLUSTERDOWN .*CLUSTER NODES/s))
    }
  })

  test('a step that is refused after other steps: the error does not claim that nothing was changed', async (t) => {
    const server = await redisServer()
    const redis = new Redis(server.port)
    t.after(() => redis.disconnect())
    const { client, plan } = watchedRedis(redis)
    const backend = redisBackend(client)
    const refused = async () => {
      throw new Error('READONLY You cannot write against a read only replica.')
    }
    const withoutClaim = (error: unknown) => {
      assert.equal((error as KeepsakeError).code, undefined)
      assert.match((error as Error).message, /^READONLY/)
      return true
    }
    const login = async () => backend.generate(freshKey(), entryWith({ owner: OWNER }))
    const clear = async () => backend.byOwner?.clear(OWNER)
    // Each command is tried three times, because the client may be reconnecting.
    const refuseThrice = (script: Parameters<typeof plan>[0]) => [1, 2, 3].forEach(() => void plan(script, refused))
    refuseThrice(generateEntry)
    await assert.rejects(login, unavailable(/READONLY/))
    refuseThrice(confirmListed)
    await assert.rejects(login, withoutClaim)
    refuseThrice(markForRemoval)
    await assert.rejects(clear, unavailable(/READONLY/))
    await login()
    for (let i = 0; i < 9; i++) refuseThrice(clearOwnedEntry)
    await assert.rejects(clear, withoutClaim)
  })
})
