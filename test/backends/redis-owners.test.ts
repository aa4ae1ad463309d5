// The sessions of an owner in Redis, over several keys without a transaction: every race with a clear ends correctly.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { suite, type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import type { Backend, Entry } from 'keepsake'
import { redisBackend } from 'keepsake/redis'
import {
  addToList,
  clearOwnedEntry,
  confirmListed,
  generateEntry,
  markForRemoval,
  type Script,
  updateList,
} from '../../src/backends/redis/scripts.ts'
import { type Clock, clock, DAY } from '../support/clock.ts'
import { freshKey, OWNER } from '../support/entries.ts'
import { redisServer } from '../support/redis-server.ts'
import { freshPrefix, ioredisClient, redisStores } from '../support/redis-stores.ts'
import { watchedRedis } from '../support/redis-watched.ts'
import { eventually } from '../support/until.ts'

const MINUTE = 60_000

type Owned = Backend & { readonly byOwner: NonNullable<Backend['byOwner']> }

type Setup = {
  /** A backend whose commands a test can hold, and a second one, as of another process, on the same Redis. */
  readonly one: Owned
  readonly two: Owned
  readonly watch: ReturnType<typeof watchedRedis>
  readonly now: Clock
  readonly redis: Redis
  readonly prefix: string
  /** Generates a session of the owner. */
  login(backend?: Owned, key?: string, more?: Partial<Entry>): Promise<{ key: string; answer: unknown }>
  /** The keys of the owner's list, including those that are marked for removal. */
  members(): Promise<string[]>
}

const setUp = async (t: TestContext, client?: Redis): Promise<Setup> => {
  const redis = client ?? (await ioredisClient(t))
  const now = clock(Date.now())
  const prefix = freshPrefix()
  const watch = watchedRedis(redis)
  const one = redisBackend(watch.client, { prefix, now }) as Owned
  const two = redisBackend(redis, { prefix, now }) as Owned
  return {
    one,
    two,
    watch,
    now,
    redis,
    prefix,
    async login(backend = one, key = freshKey(), more = {}) {
      const version = randomBytes(6).toString('base64url')
      const entry = { value: '{}', metadata: 'h', expiresAt: now() + DAY, version, owner: OWNER, ...more }
      return { key, answer: await backend.generate(key, entry) }
    },
    members: () => redis.zrange(`${prefix}owner:${OWNER}`, '0', '-1'),
  }
}

/** Replaces a command: its connection closes before it is sent. */
const loseConnection = async () => {
  throw new Error('Connection is closed.')
}

/** Begins a login of the owner, and holds this command of it until `go`. */
const holdLogin = async (s: Setup, script: Script) => {
  const { arrived, go } = s.watch.hold(script)
  const key = freshKey()
  const login = s.login(s.one, key)
  await arrived
  return { key, go, login }
}

/** Begins to clear the sessions of the owner, and holds this command of the clear until `go`. */
const holdClear = async (s: Setup, script: Script) => {
  const { arrived, go } = s.watch.hold(script)
  const clear = s.one.byOwner.clear(OWNER)
  await arrived
  return { go, clear }
}

/** Checks that the owner has no entry under these keys, and no list. */
const checkNothingLeft = async ({ two, members }: Setup, keys: readonly string[]) => {
  for (const key of keys) assert.equal(await two.get(key), undefined)
  assert.deepEqual(await two.byOwner.list(OWNER), [])
  assert.deepEqual(await members(), [])
}

suite('a login while the sessions of its owner are cleared', () => {
  test('listed before the clear, inserted after it: the login returns gone, and there is no entry', async (t) => {
    const s = await setUp(t)
    const { key, go, login } = await holdLogin(s, generateEntry)
    assert.equal(await s.two.byOwner.clear(OWNER), 0)
    go()
    assert.equal((await login).answer, 'gone')
    await checkNothingLeft(s, [key])
  })

  test('inserted before the clear, not yet confirmed: the login returns gone, and there is no entry', async (t) => {
    const s = await setUp(t)
    const { key, go, login } = await holdLogin(s, confirmListed)
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await checkNothingLeft(s, [key])
    go()
    assert.equal((await login).answer, 'gone')
    await checkNothingLeft(s, [key])
  })

  for (const [moment, script] of [
    ['inserted and confirmed before the clear reaches the entry', clearOwnedEntry],
    ['inserted between the removal and the end of the clear', updateList],
  ] as const) {
    test(`${moment}: the login returns gone, and there is no entry`, async (t) => {
      const s = await setUp(t)
      const { key, go, login } = await holdLogin(s, generateEntry)
      const held = await holdClear(s, script)
      go()
      assert.equal((await login).answer, 'gone')
      assert.equal(await s.two.get(key), undefined, 'already before the clear continues')
      held.go()
      assert.equal(await held.clear, 0)
      await checkNothingLeft(s, [key])
    })
  }

  test('all steps of the login after the first of the clear: the session stays, and the next clear ends it', async (t) => {
    const s = await setUp(t)
    const before = await s.login()
    const removal = await holdClear(s, clearOwnedEntry)
    const second = await s.login(s.two)
    assert.equal(second.answer, undefined)
    removal.go()
    assert.equal(await removal.clear, 1)
    assert.deepEqual(
      (await s.two.byOwner.list(OWNER)).map(({ key }) => key),
      [second.key],
    )
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await checkNothingLeft(s, [before.key, second.key])
  })

  test('in a full Redis that has memory again before the clear ends: the login returns gone, and there is no entry', async (t) => {
    const server = await redisServer()
    const redis = new Redis(server.port)
    t.after(() => redis.disconnect())
    const s = await setUp(t, redis)
    const { key, go, login } = await holdLogin(s, generateEntry)
    await redis.config('SET', 'maxmemory', '1')
    const end = await holdClear(s, updateList)
    await redis.config('SET', 'maxmemory', '0')
    go()
    assert.equal((await login).answer, 'gone')
    end.go()
    assert.equal(await end.clear, 0)
    await checkNothingLeft(s, [key])
  })

  for (const { name, opener } of redisStores) {
    test(`twenty logins on ${name}: an earlier login is cleared, and a login that returned gone has no entry`, async (t) => {
      const open = opener(t)
      const [one, two] = [(await open()) as Owned, (await open()) as Owned]
      for (let round = 0; round < 10; round++) {
        const entry = { value: '{}', metadata: 'h', expiresAt: Date.now() + DAY, owner: OWNER }
        let hasBegun = false
        const logins = Array.from({ length: 20 }, async (_, i) => {
          const key = freshKey()
          // Some begin at once, the others a few replies later.
          for (let reply = 0; reply < i % 5; reply++) await two.get(key)
          const answer = await (i % 2 ? one : two).generate(key, { ...entry, version: `version${i % 10}` })
          return { key, answer, before: !hasBegun }
        })
        const clears = [logins[round]].map(async (first) => {
          await first
          hasBegun = true
          await one.byOwner.clear(OWNER)
        })
        const results = await Promise.all(logins)
        await Promise.all(clears)
        for (const { key, answer, before } of results) {
          const entry = await two.get(key)
          if (answer === 'gone' || before) assert.equal(entry, undefined)
        }
        const left = (await two.byOwner.list(OWNER)).map(({ key }) => key)
        for (const { key } of results) assert.equal((await two.get(key)) !== undefined, left.includes(key))
        await two.byOwner.clear(OWNER)
        for (const { key } of results) assert.equal(await two.get(key), undefined)
      }
    })
  }
})

suite('commands that are sent twice, and operations that fail halfway', () => {
  const twice = async (send: () => Promise<unknown>) => {
    await send()
    return send()
  }

  test('a mark for removal whose first reply was lost: everything is cleared', async (t) => {
    const s = await setUp(t)
    const keys = [(await s.login()).key, (await s.login()).key]
    s.watch.plan(markForRemoval, twice)
    assert.equal(await s.one.byOwner.clear(OWNER), 2)
    await checkNothingLeft(s, keys)
  })

  test('a login whose commands are all sent twice: one entry, listed once', async (t) => {
    const s = await setUp(t)
    for (const script of [addToList, generateEntry, confirmListed]) s.watch.plan(script, twice)
    const { key, answer } = await s.login()
    assert.equal(answer, undefined)
    assert.deepEqual(await s.members(), [key])
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await checkNothingLeft(s, [key])
  })

  test('a second sending does not list a key again that is marked for removal', async (t) => {
    const s = await setUp(t)
    const removal = s.watch.hold(clearOwnedEntry)
    let clear: unknown
    s.watch.plan(addToList, async (send) => {
      await send()
      clear = s.one.byOwner.clear(OWNER)
      await removal.arrived
      return send()
    })
    const { key, answer } = await s.login()
    assert.equal(answer, 'gone')
    removal.go()
    await clear
    await checkNothingLeft(s, [key])
  })

  test('the next clear finishes one that failed halfway, and until then its sessions are listed', async (t) => {
    const s = await setUp(t)
    const keys: string[] = []
    for (let i = 0; i < 5; i++) keys.push((await s.login()).key)
    for (const script of [clearOwnedEntry, updateList]) {
      s.watch.plan(script, loseConnection)
      await assert.rejects(async () => s.one.byOwner.clear(OWNER, keys[0]), /Connection is closed/)
      for (const { key } of await s.two.byOwner.list(OWNER)) assert.ok(await s.two.get(key))
      if (script === clearOwnedEntry)
        assert.equal((await s.two.byOwner.list(OWNER)).length, 2, 'the kept one and the missed one')
      else assert.equal((await s.two.byOwner.list(OWNER)).length, 1)
    }
    await s.two.byOwner.clear(OWNER)
    await checkNothingLeft(s, keys)
  })

  test('an excepted session stays, also after a clear of all failed halfway', async (t) => {
    const s = await setUp(t)
    const { key } = await s.login()
    s.watch.plan(clearOwnedEntry, loseConnection)
    await assert.rejects(async () => s.one.byOwner.clear(OWNER))
    assert.equal(await s.two.byOwner.clear(OWNER, key), 0)
    assert.ok(await s.two.get(key))
    assert.ok(Number(await s.redis.zscore(`${s.prefix}owner:${OWNER}`, key)) > 0, 'it is listed as before')
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await checkNothingLeft(s, [key])
  })

  test('a login that failed between listing and inserting: no session, and its key is removed after its time', async (t) => {
    const s = await setUp(t)
    s.watch.plan(generateEntry, loseConnection)
    const key = freshKey()
    await assert.rejects(s.login(s.one, key))
    assert.deepEqual(await s.two.byOwner.list(OWNER), [])
    assert.deepEqual(await s.members(), [key], 'the entry could still come')
    s.now.tick(DAY + MINUTE + 1)
    assert.deepEqual(await s.two.byOwner.list(OWNER), [])
    assert.deepEqual(await s.members(), [])
  })

  test('a login that failed after its key was marked: no visitor has the key, and the entry expires', async (t) => {
    const s = await setUp(t)
    const { key, go, login } = await holdLogin(s, generateEntry)
    await s.two.byOwner.clear(OWNER)
    s.watch.plan(confirmListed, loseConnection)
    go()
    await assert.rejects(login)
    assert.ok((await s.redis.pttl(s.prefix + key)) > 0)
  })
})

suite('a list stays short', () => {
  test('lists and other logins leave the key of a login in progress alone', async (t) => {
    const s = await setUp(t)
    const { go, login } = await holdLogin(s, generateEntry)
    s.now.tick(DAY + MINUTE - 1)
    assert.deepEqual(await s.two.byOwner.list(OWNER), [])
    await s.login(s.two)
    go()
    assert.equal((await login).answer, undefined)
  })

  test('a login that takes longer than its entry lives returns gone, and has no entry', async (t) => {
    const s = await setUp(t)
    const { go, login } = await holdLogin(s, generateEntry)
    s.now.tick(DAY + MINUTE + 1)
    await s.login(s.two)
    go()
    const { key, answer } = await login
    assert.equal(answer, 'gone')
    assert.equal(await s.two.get(key), undefined)
  })

  test('each login removes up to ten keys without entries, and gives keys with entries a new time', async (t) => {
    const s = await setUp(t)
    const gone: string[] = []
    for (let i = 0; i < 25; i++) gone.push((await s.login(s.one, freshKey(), { expiresAt: s.now() + MINUTE })).key)
    const lives = (await s.login(s.one, freshKey(), { expiresAt: s.now() + MINUTE + 1 })).key
    await s.one.touch(lives, s.now() + 30 * DAY)
    // The clock of Redis does not move with that of the test.
    await s.redis.del(gone.map((key) => s.prefix + key))
    s.now.tick(3 * MINUTE)
    const sizes: number[] = []
    for (let i = 0; i < 4; i++) {
      await s.login()
      sizes.push((await s.members()).length)
    }
    assert.deepEqual(sizes, [17, 8, 4, 5])
    assert.equal((await s.two.byOwner.list(OWNER)).filter(({ key }) => key === lives).length, 1)
    assert.equal(await s.two.byOwner.clear(OWNER), 5)
    await checkNothingLeft(s, [lives])
  })

  test('if Redis does not answer whether an entry exists, the login succeeds and the key stays', async (t) => {
    const s = await setUp(t)
    const { key } = await s.login(s.one, freshKey(), { expiresAt: s.now() + MINUTE })
    s.now.tick(3 * MINUTE)
    s.watch.plan('pttl', loseConnection)
    assert.equal((await s.login()).answer, undefined)
    assert.ok((await s.members()).includes(key))
  })

  test('a logout removes its key', async (t) => {
    const s = await setUp(t)
    const [one, two] = [(await s.login()).key, (await s.login()).key]
    await s.one.clear(one)
    await eventually(async () => (await s.members()).length === 1)
    assert.deepEqual(await s.members(), [two])
  })

  test('the key of another owner is neither cleared nor listed', async (t) => {
    const s = await setUp(t)
    const { key } = await s.login()
    assert.equal((await s.login(s.one, key, { owner: 'app:bert' })).answer, 'taken')
    assert.deepEqual(await s.one.byOwner.list('app:bert'), [])
    assert.equal(await s.one.byOwner.clear('app:bert'), 0)
    assert.ok(await s.one.get(key))
  })
})

type Act = 'login' | 'clear' | 'clear others' | 'list' | 'broken clear'
type Result = {
  readonly act: Act
  readonly key: string
  readonly start: number
  readonly end: number
  readonly answer: unknown
}

test('concurrent logins, clears and lists, with commands in every order and some sent twice', async (t) => {
  const redis = await ioredisClient(t)
  const counts = { gone: 0, cleared: 0, stayed: 0 }
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.array(fc.constantFrom<Act>('login', 'login', 'clear', 'clear others', 'list', 'broken clear'), {
        minLength: 2,
        maxLength: 6,
      }),
      fc.infiniteStream(fc.nat({ max: 9 })),
      async (scheduler, acts, chance) => {
        const prefix = freshPrefix()
        const direct = redisBackend(redis, { prefix }) as Owned
        const scheduled = scheduler.scheduleFunction((send: () => Promise<unknown>) => send())
        const repeating = watchedRedis(redis, async (send) => {
          if ((chance.next().value as number) === 0) await scheduled(send)
          return scheduled(send)
        })
        const failing = watchedRedis(redis, async (send) => {
          const choice = chance.next().value as number
          if (choice > 1) return scheduled(send)
          if (choice === 1) await scheduled(send)
          throw new Error('Connection is closed.')
        })
        const raced = redisBackend(repeating.client, { prefix }) as Owned
        const broken = redisBackend(failing.client, { prefix }) as Owned
        let time = 0
        const entryOf = (version: string) => ({
          value: '{}',
          metadata: 'h',
          expiresAt: Date.now() + DAY,
          owner: OWNER,
          version,
        })
        const old = freshKey()
        await direct.generate(old, entryOf('version0'))

        const operations: Record<Act, (key: string) => unknown> = {
          login: (key) => raced.generate(key, entryOf('version1')),
          clear: () => raced.byOwner.clear(OWNER),
          'clear others': () => raced.byOwner.clear(OWNER, old),
          list: () => raced.byOwner.list(OWNER),
          'broken clear': () => Promise.resolve(broken.byOwner.clear(OWNER)).catch(() => 'broken'),
        }
        const results = await scheduler.waitFor(
          Promise.all(
            acts.map(async (act): Promise<Result> => {
              const key = freshKey()
              for (let step = chance.next().value as number; step > 0; step -= 2) await scheduled(async () => undefined)
              const start = time++
              const answer = await operations[act](key)
              return { act, key, start, end: time++, answer }
            }),
          ),
        )
        const clears = results.filter(({ act }) => act.includes('clear'))
        const completeClears = clears.filter(({ act, answer }) => act !== 'broken clear' || answer !== 'broken')
        const listed = (await direct.byOwner.list(OWNER)).map(({ key }) => key)
        for (const { key, start, end, answer } of results.filter(({ act }) => act === 'login')) {
          const exists = (await direct.get(key)) !== undefined
          assert.equal(exists, listed.includes(key), 'an entry exists if and only if it is listed')
          const hasConcurrentClear = clears.some((clear) => clear.end > start && clear.start < end)
          if (answer === 'gone') {
            assert.ok(!exists, 'a login that returned gone has no entry')
            assert.ok(hasConcurrentClear, 'a clear was concurrent')
            counts.gone++
          } else {
            assert.equal(answer, undefined)
            if (completeClears.some((clear) => clear.start > end)) assert.ok(!exists, 'a later clear ends it')
            if (!exists)
              assert.ok(
                clears.some((clear) => clear.end > start),
                'a clear was concurrent or later',
              )
            if (exists) counts.stayed++
            else counts.cleared++
          }
        }
        if (completeClears.some(({ act }) => act !== 'clear others')) assert.equal(await direct.get(old), undefined)
        if (clears.every(({ act }) => act === 'clear others'))
          assert.ok(await direct.get(old), 'the excepted session stays')
        await direct.byOwner.clear(OWNER)
        for (const { key } of [{ key: old }, ...results]) assert.equal(await direct.get(key), undefined)
        assert.equal(await redis.exists(`${prefix}owner:${OWNER}`), 0)
      },
    ),
    { numRuns: 300 },
  )
  for (const [outcome, count] of Object.entries(counts)) assert.ok(count > 10, `${outcome}: ${count}`)
})
