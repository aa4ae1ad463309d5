// The sessions of an owner in Redis, over several keys without a transaction: every race with a clear comes out right.

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
  updateList,
} from '../../src/backends/redis/scripts.ts'
import { type Clock, clock, DAY } from '../support/clock.ts'
import { freshKey, OWNER } from '../support/entries.ts'
import { redisServer, until } from '../support/redis-server.ts'
import { freshPrefix, ioredisClient, redisStores } from '../support/redis-stores.ts'
import { watchedRedis } from '../support/redis-watched.ts'

const MINUTE = 60_000

type Owned = Backend & { readonly byOwner: NonNullable<Backend['byOwner']> }

type Scene = {
  /** The backend whose commands are held back, and another process on the same Redis. */
  readonly one: Owned
  readonly two: Owned
  readonly watch: ReturnType<typeof watchedRedis>
  readonly now: Clock
  readonly redis: Redis
  readonly prefix: string
  /** Generates a session of the owner. */
  login(backend?: Owned, key?: string, more?: Partial<Entry>): Promise<{ key: string; answer: unknown }>
  /** The keys of the owner's list, struck out or not, as they are kept. */
  members(): Promise<string[]>
}

const scene = async (t: TestContext, given?: Redis): Promise<Scene> => {
  const redis = given ?? (await ioredisClient(t))
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

/** Nothing of the owner is left: no entry under these keys, no list. */
const nothingLeft = async ({ two, members }: Scene, keys: readonly string[]) => {
  for (const key of keys) assert.equal(await two.get(key), undefined)
  assert.deepEqual(await two.byOwner.list(OWNER), [])
  assert.deepEqual(await members(), [])
}

suite('a login while the sessions of its owner are cleared', () => {
  test('listed before, inserted after: gone, and not there', async (t) => {
    const s = await scene(t)
    const hold = s.watch.hold(generateEntry)
    const key = freshKey()
    const login = s.login(s.one, key)
    await hold.arrived
    assert.equal(await s.two.byOwner.clear(OWNER), 0)
    hold.go()
    assert.equal((await login).answer, 'gone')
    await nothingLeft(s, [key])
  })

  test('inserted before, not yet looked for: gone, and not there', async (t) => {
    const s = await scene(t)
    const hold = s.watch.hold(confirmListed)
    const key = freshKey()
    const login = s.login(s.one, key)
    await hold.arrived
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await nothingLeft(s, [key])
    hold.go()
    assert.equal((await login).answer, 'gone')
    await nothingLeft(s, [key])
  })

  test('inserted and looked for while the clear is on its way to it: gone, and not there', async (t) => {
    const s = await scene(t)
    const login = s.watch.hold(generateEntry)
    const key = freshKey()
    const going = s.login(s.one, key)
    await login.arrived
    const removal = s.watch.hold(clearOwnedEntry)
    const clear = s.one.byOwner.clear(OWNER)
    await removal.arrived
    login.go()
    assert.equal((await going).answer, 'gone')
    assert.equal(await s.two.get(key), undefined, 'already before the clear came to it')
    removal.go()
    assert.equal(await clear, 0)
    await nothingLeft(s, [key])
  })

  test('inserted between the removal and the end of the clear: gone, and not there', async (t) => {
    const s = await scene(t)
    const login = s.watch.hold(generateEntry)
    const key = freshKey()
    const going = s.login(s.one, key)
    await login.arrived
    const end = s.watch.hold(updateList)
    const clear = s.one.byOwner.clear(OWNER)
    await end.arrived
    login.go()
    assert.equal((await going).answer, 'gone')
    end.go()
    await clear
    await nothingLeft(s, [key])
  })

  test('all of its steps after the first of the clear: it stays, listed, for the next', async (t) => {
    const s = await scene(t)
    const before = await s.login()
    const removal = s.watch.hold(clearOwnedEntry)
    const clear = s.one.byOwner.clear(OWNER)
    await removal.arrived
    const later = await s.login(s.two)
    assert.equal(later.answer, undefined)
    removal.go()
    assert.equal(await clear, 1)
    assert.deepEqual(
      (await s.two.byOwner.list(OWNER)).map(({ key }) => key),
      [later.key],
    )
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await nothingLeft(s, [before.key, later.key])
  })

  test('in a full Redis that has room again before the clear is over: gone, and not there', async (t) => {
    const server = await redisServer()
    const redis = new Redis(server.port)
    t.after(() => redis.disconnect())
    const s = await scene(t, redis)
    const hold = s.watch.hold(generateEntry)
    const key = freshKey()
    const login = s.login(s.one, key)
    await hold.arrived
    await redis.config('SET', 'maxmemory', '1')
    const end = s.watch.hold(updateList)
    const clear = s.one.byOwner.clear(OWNER)
    await end.arrived
    await redis.config('SET', 'maxmemory', '0')
    hold.go()
    assert.equal((await login).answer, 'gone')
    end.go()
    assert.equal(await clear, 0)
    await nothingLeft(s, [key])
  })

  for (const { name, opener } of redisStores) {
    test(`twenty of them on ${name}: who answered before is gone, who answered gone is not there`, async (t) => {
      const open = opener(t)
      const [one, two] = [(await open()) as Owned, (await open()) as Owned]
      for (let round = 0; round < 10; round++) {
        const entry = { value: '{}', metadata: 'h', expiresAt: Date.now() + DAY, owner: OWNER }
        let began = false
        const logins = Array.from({ length: 20 }, async (_, i) => {
          const key = freshKey()
          // Some at once, the others a few replies later.
          for (let reply = 0; reply < i % 5; reply++) await two.get(key)
          const answer = await (i % 2 ? one : two).generate(key, { ...entry, version: `version${i % 10}` })
          return { key, answer, before: !began }
        })
        const clears = [logins[round]].map(async (first) => {
          await first
          began = true
          await one.byOwner.clear(OWNER)
        })
        const answered = await Promise.all(logins)
        await Promise.all(clears)
        for (const { key, answer, before } of answered) {
          const there = await two.get(key)
          if (answer === 'gone' || before) assert.equal(there, undefined)
        }
        const left = (await two.byOwner.list(OWNER)).map(({ key }) => key)
        for (const { key } of answered) assert.equal((await two.get(key)) !== undefined, left.includes(key))
        await two.byOwner.clear(OWNER)
        for (const { key } of answered) assert.equal(await two.get(key), undefined)
      }
    })
  }
})

suite('what a driver sends twice, and what breaks off', () => {
  const twice = async (send: () => Promise<unknown>) => {
    await send()
    return send()
  }

  test('a strike whose first reply was lost: all is cleared', async (t) => {
    const s = await scene(t)
    const keys = [(await s.login()).key, (await s.login()).key]
    s.watch.plan(markForRemoval, twice)
    assert.equal(await s.one.byOwner.clear(OWNER), 2)
    await nothingLeft(s, keys)
  })

  test('a login of which everything is sent twice: one entry, listed once', async (t) => {
    const s = await scene(t)
    for (const script of [addToList, generateEntry, confirmListed]) s.watch.plan(script, twice)
    const { key, answer } = await s.login()
    assert.equal(answer, undefined)
    assert.deepEqual(await s.members(), [key])
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await nothingLeft(s, [key])
  })

  test('a key that was struck out is not listed again by a second sending', async (t) => {
    const s = await scene(t)
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
    await nothingLeft(s, [key])
  })

  test('a clear that breaks off is finished by the next, and until then its sessions are listed', async (t) => {
    const s = await scene(t)
    const keys: string[] = []
    for (let i = 0; i < 5; i++) keys.push((await s.login()).key)
    for (const script of [clearOwnedEntry, updateList]) {
      s.watch.plan(script, async () => {
        throw new Error('Connection is closed.')
      })
      await assert.rejects(async () => s.one.byOwner.clear(OWNER, keys[0]), /Connection is closed/)
      for (const { key } of await s.two.byOwner.list(OWNER)) assert.ok(await s.two.get(key))
      if (script === clearOwnedEntry)
        assert.equal((await s.two.byOwner.list(OWNER)).length, 2, 'the kept and the missed')
      else assert.equal((await s.two.byOwner.list(OWNER)).length, 1)
    }
    await s.two.byOwner.clear(OWNER)
    await nothingLeft(s, keys)
  })

  test('the session that is kept is kept, also after a clear of all broke off', async (t) => {
    const s = await scene(t)
    const { key } = await s.login()
    s.watch.plan(clearOwnedEntry, async () => {
      throw new Error('Connection is closed.')
    })
    await assert.rejects(async () => s.one.byOwner.clear(OWNER))
    assert.equal(await s.two.byOwner.clear(OWNER, key), 0)
    assert.ok(await s.two.get(key))
    assert.ok(Number(await s.redis.zscore(`${s.prefix}owner:${OWNER}`, key)) > 0, 'and is listed as before')
    assert.equal(await s.two.byOwner.clear(OWNER), 1)
    await nothingLeft(s, [key])
  })

  test('a login that broke off between listing and inserting: no session, and its key goes when its time is over', async (t) => {
    const s = await scene(t)
    s.watch.plan(generateEntry, async () => {
      throw new Error('Connection is closed.')
    })
    const key = freshKey()
    await assert.rejects(s.login(s.one, key))
    assert.deepEqual(await s.two.byOwner.list(OWNER), [])
    assert.deepEqual(await s.members(), [key], 'it could still be on its way')
    s.now.tick(DAY + MINUTE + 1)
    assert.deepEqual(await s.two.byOwner.list(OWNER), [])
    assert.deepEqual(await s.members(), [])
  })

  test('a login that broke off after it was struck out: nobody was told of its key, and it does expire', async (t) => {
    const s = await scene(t)
    const hold = s.watch.hold(generateEntry)
    const key = freshKey()
    const login = s.login(s.one, key)
    await hold.arrived
    await s.two.byOwner.clear(OWNER)
    s.watch.plan(confirmListed, async () => {
      throw new Error('Connection is closed.')
    })
    hold.go()
    await assert.rejects(login)
    assert.ok((await s.redis.pttl(s.prefix + key)) > 0)
  })
})

suite('a list stays short', () => {
  test('a key of a login under way is left alone, by lists and by other logins', async (t) => {
    const s = await scene(t)
    const hold = s.watch.hold(generateEntry)
    const login = s.login()
    await hold.arrived
    s.now.tick(DAY + MINUTE - 1)
    assert.deepEqual(await s.two.byOwner.list(OWNER), [])
    await s.login(s.two)
    hold.go()
    assert.equal((await login).answer, undefined)
  })

  test('one that took longer than its entry lives hears gone, and has none', async (t) => {
    const s = await scene(t)
    const hold = s.watch.hold(generateEntry)
    const login = s.login()
    await hold.arrived
    s.now.tick(DAY + MINUTE + 1)
    await s.login(s.two)
    hold.go()
    const { key, answer } = await login
    assert.equal(answer, 'gone')
    assert.equal(await s.two.get(key), undefined)
  })

  test('each login takes off up to ten keys whose entries are gone, and gives those that live on a new time', async (t) => {
    const s = await scene(t)
    const gone: string[] = []
    for (let i = 0; i < 25; i++) gone.push((await s.login(s.one, freshKey(), { expiresAt: s.now() + MINUTE })).key)
    const lives = (await s.login(s.one, freshKey(), { expiresAt: s.now() + MINUTE + 1 })).key
    await s.one.touch(lives, s.now() + 30 * DAY)
    // Redis' own clock does not move with ours.
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
    await nothingLeft(s, [lives])
  })

  test('where Redis does not say whether an entry is gone, the login goes on, and the key stays', async (t) => {
    const s = await scene(t)
    const { key } = await s.login(s.one, freshKey(), { expiresAt: s.now() + MINUTE })
    s.now.tick(3 * MINUTE)
    s.watch.plan('pttl', async () => {
      throw new Error('Connection is closed.')
    })
    assert.equal((await s.login()).answer, undefined)
    assert.ok((await s.members()).includes(key))
  })

  test('a logout takes its key off', async (t) => {
    const s = await scene(t)
    const [one, two] = [(await s.login()).key, (await s.login()).key]
    await s.one.clear(one)
    await until(async () => (await s.members()).length === 1)
    assert.deepEqual(await s.members(), [two])
  })

  test('a key that another owner has is not cleared, nor listed', async (t) => {
    const s = await scene(t)
    const { key } = await s.login()
    assert.equal((await s.login(s.one, key, { owner: 'app:bert' })).answer, 'taken')
    assert.deepEqual(await s.one.byOwner.list('app:bert'), [])
    assert.equal(await s.one.byOwner.clear('app:bert'), 0)
    assert.ok(await s.one.get(key))
  })
})

type Act = 'login' | 'clear' | 'clear others' | 'list' | 'broken clear'
type Done = {
  readonly act: Act
  readonly key: string
  readonly began: number
  readonly ended: number
  readonly answer: unknown
}

test('logins, clears and lists at once, each command let through in any order, some of them sent twice', async (t) => {
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
        const usual = watchedRedis(redis, async (send) => {
          if ((chance.next().value as number) === 0) await scheduled(send)
          return scheduled(send)
        })
        const breaking = watchedRedis(redis, async (send) => {
          const fate = chance.next().value as number
          if (fate > 1) return scheduled(send)
          if (fate === 1) await scheduled(send)
          throw new Error('Connection is closed.')
        })
        const raced = redisBackend(usual.client, { prefix }) as Owned
        const broken = redisBackend(breaking.client, { prefix }) as Owned
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

        const does: Record<Act, (key: string) => unknown> = {
          login: (key) => raced.generate(key, entryOf('version1')),
          clear: () => raced.byOwner.clear(OWNER),
          'clear others': () => raced.byOwner.clear(OWNER, old),
          list: () => raced.byOwner.list(OWNER),
          'broken clear': () => Promise.resolve(broken.byOwner.clear(OWNER)).catch(() => 'broken'),
        }
        const done = await scheduler.waitFor(
          Promise.all(
            acts.map(async (act): Promise<Done> => {
              const key = freshKey()
              for (let step = chance.next().value as number; step > 0; step -= 2) await scheduled(async () => undefined)
              const began = time++
              const answer = await does[act](key)
              return { act, key, began, ended: time++, answer }
            }),
          ),
        )
        const clears = done.filter(({ act }) => act.includes('clear'))
        const whole = clears.filter(({ act, answer }) => act !== 'broken clear' || answer !== 'broken')
        const listed = (await direct.byOwner.list(OWNER)).map(({ key }) => key)
        for (const { key, began, ended, answer } of done.filter(({ act }) => act === 'login')) {
          const there = (await direct.get(key)) !== undefined
          assert.equal(there, listed.includes(key), 'what is there is listed')
          const meanwhile = clears.some((clear) => clear.ended > began && clear.began < ended)
          if (answer === 'gone') {
            assert.ok(!there, 'what is gone is not there')
            assert.ok(meanwhile, 'somebody cleared')
            counts.gone++
          } else {
            assert.equal(answer, undefined)
            if (whole.some((clear) => clear.began > ended)) assert.ok(!there, 'a later clear reaches it')
            if (!there)
              assert.ok(
                clears.some((clear) => clear.ended > began),
                'somebody cleared',
              )
            if (there) counts.stayed++
            else counts.cleared++
          }
        }
        if (whole.some(({ act }) => act !== 'clear others')) assert.equal(await direct.get(old), undefined)
        if (clears.every(({ act }) => act === 'clear others')) assert.ok(await direct.get(old), 'the kept one is kept')
        await direct.byOwner.clear(OWNER)
        for (const { key } of [{ key: old }, ...done]) assert.equal(await direct.get(key), undefined)
        assert.equal(await redis.exists(`${prefix}owner:${OWNER}`), 0)
      },
    ),
    { numRuns: 300 },
  )
  for (const [what, count] of Object.entries(counts)) assert.ok(count > 10, `${what}: ${count}`)
})
