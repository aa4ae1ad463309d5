// A server that is held, killed, cut off, or lost, under traffic by every driver: answers in time, nothing lost, soon back.

import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { lost, now } from '../support/lost.ts'
import { mariadbServer, noMariadb } from '../support/mariadb-server.ts'
import type { Answer, Kept, Told } from '../support/outage.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'
import { start } from '../support/process.ts'
import { proxy, type Proxy as Way } from '../support/proxy.ts'
import { redisServer } from '../support/redis-server.ts'

/** Milliseconds that a visit may wait for its store, and what may come on top of it beside the time that its process could not run. */
const BUDGET = 2_000
const SPARE = 100
/** Milliseconds after which service has to be back. */
const BACK = 5_000

type Visited = {
  readonly driver: string
  readonly way: Way
  /** Of every visit so far, those under way not among them. */
  readonly answers: readonly Answer[]
  /** Stops, reads all sessions, and goes on. */
  check(): Promise<Kept>
  /** What is amiss with the process itself. */
  ills(): string
}

type Closers = { after(close: () => unknown): void }

/** Starts a process that visits by this driver, through a proxy of its own. */
const visited = async (t: Closers, driver: string, url: string): Promise<Visited> => {
  const through = new URL(url)
  const way = await proxy(t, Number(through.port))
  through.port = String(way.port)
  const place = `outage_${driver.replaceAll(/\W/g, '_')}`
  const { child, errors } = start(t, 'test/support/outage.ts', [driver, through.href, place], {
    NODE_OPTIONS: '--unhandled-rejections=strict',
  })
  const answers: Answer[] = []
  let heard = (_: Kept) => {}
  child.on('message', (told: Told) => {
    if ('kept' in told) return heard(told.kept)
    answers.push(...told.answers)
  })
  const dead = () => child.exitCode !== null || child.signalCode !== null
  return {
    driver,
    way,
    answers,
    check: () =>
      new Promise((resolve, reject) => {
        heard = resolve
        if (dead()) reject(new Error(`The process has ended: ${errors()}`))
        else child.send('check')
      }),
    ills: () => (dead() ? `It has ended (${child.exitCode}, ${child.signalCode}). ${errors()}` : errors()),
  }
}

const ok = ({ status }: Answer): boolean => status === 200

/** Waits for a second of good answers since then, and no longer than it could matter: `judge` says what is wrong. */
const steady = async ({ answers, ills }: Visited, since: number): Promise<void> => {
  for (;;) {
    await sleep(50)
    const later = answers.filter(({ at }) => at > since)
    const good = later.length - 1 - later.findLastIndex((answer) => !ok(answer))
    const late = now() - since - BACK - 2 * BUDGET
    if (good >= 45 || late > lost(since) || ills() !== '') return
  }
}

/** Waits until a visit has failed that came since then: on a machine that stands still, nobody comes for a while. */
const felt = async ({ answers, ills }: Visited, from: number): Promise<void> => {
  while (answers.slice(from).every(ok) && ills() === '') await sleep(50)
}

type Outage = {
  /** To one way that stays, or to all of them and the server. */
  readonly break: (ways: readonly Way[], server: Killable) => unknown
  readonly mend: (ways: readonly Way[], server: Killable) => unknown
  readonly lasts: number
  /** Whether visits have to fail meanwhile, or there was no outage: it lasts until some have. */
  readonly fails: boolean
}
type Killable = { kill(): Promise<void>; restart(): Promise<void> }

const each = (act: (way: Way) => unknown) => (ways: readonly Way[]) => Promise.all(ways.map(act))

const outages: Readonly<Record<string, Outage>> = {
  'held for 3 s': { break: each((way) => way.hold()), mend: each((way) => way.pass()), lasts: 3_000, fails: true },
  'killed, and started again after 3 s': {
    break: (ways, server) => Promise.all([server.kill(), ...ways.map((way) => way.refuse())]),
    mend: async (ways, server) => {
      await server.restart()
      for (const way of ways) way.pass()
    },
    lasts: 3_000,
    fails: true,
  },
  'reset, all of its connections, five times in a second': {
    break: async (ways) => {
      for (let i = 0; i < 5; i++) {
        for (const way of ways) way.reset()
        await sleep(200)
      }
    },
    mend: () => {},
    lasts: 0,
    fails: false,
  },
  'cut off in the midst of ten replies': {
    break: async (ways) => {
      for (let i = 0; i < 10; i++) {
        await Promise.all(ways.map((way) => way.halve()))
        await sleep(100)
      }
    },
    mend: each((way) => way.pass()),
    lasts: 0,
    // The first reply of a visit is that of its read, which a client of Redis asks for again.
    fails: false,
  },
  'refusing connections for 1 s': {
    break: each((way) => way.refuse()),
    mend: each((way) => way.pass()),
    lasts: 1_000,
    fails: true,
  },
  'behind what takes connections and cuts them, for 1 s': {
    break: each((way) => way.shut()),
    mend: each((way) => way.pass()),
    lasts: 1_000,
    fails: true,
  },
  'out of reach for 3 s, its connections reset afterwards': {
    break: each((way) => way.drop()),
    mend: each((way) => {
      way.pass()
      way.reset()
    }),
    lasts: 3_000,
    fails: true,
  },
  'out of reach for 3 s, its connections silent for ever': {
    break: each((way) => way.drop()),
    mend: each((way) => way.pass()),
    lasts: 3_000,
    fails: true,
  },
}

/** What was seen, for who runs this by hand. */
const figures: Record<string, unknown>[] = []

/** What has to hold, from the last answer before an outage to a second after it. */
const judge = async (
  one: Visited,
  {
    from,
    made,
    mended,
    most,
    what,
  }: {
    /** How many answers and connections there were before. */
    readonly from: number
    readonly made: number
    readonly mended: number
    readonly most: Kind['connections']
    readonly what: string
  },
) => {
  await steady(one, mended)
  const { driver, answers, way } = one
  const connections = way.connections() - made
  const kept = await one.check()
  const seen = answers.slice(from)
  const longest = Math.max(...seen.map(({ took, late }) => took - late))
  const failures = seen.filter((answer) => !ok(answer))
  const last = failures.findLast(({ at }) => at > mended)
  const back = last === undefined ? 0 : last.at - mended
  const away = lost(mended, mended + back)
  const limit = most(seen.length, (now() - (seen[0]?.at ?? mended)) / 1000)
  const statuses = [...new Set(seen.map(({ status }) => status))].sort()
  figures.push({
    driver,
    what,
    longest: Math.round(longest),
    back: Math.round(back),
    connections,
    limit: Math.round(limit),
    ...kept,
    wrong: kept.wrong.length,
    failed: failures.length,
  })
  assert.equal(one.ills(), '', `${driver}: ${one.ills()}`)
  assert.ok(
    longest <= BUDGET + SPARE,
    `${driver}: an answer took ${longest} ms, beside the time that its process could not run`,
  )
  const others = statuses.filter((status) => status !== 200 && status !== 503)
  assert.equal(others.length, 0, `${driver}: answers ${others}`)
  assert.equal(kept.unanswered, 0, `${driver}: ${kept.unanswered} visits hang`)
  assert.equal(kept.wrong.length, 0, `${driver}, sessions: ${kept.wrong.slice(0, 5).join('; ')}`)
  assert.ok(
    back <= BACK + away,
    `${driver}: a visit failed that came ${back} ms after the end of the outage, and the machine lost ${away} of them`,
  )
  assert.ok(connections <= limit, `${driver}: ${connections} connections`)
}

type Kind = {
  readonly drivers: readonly string[]
  readonly serve: () => Promise<Killable & { readonly url: string }>
  readonly none: string | false
  /** Connections that one process may try to make while so many visits come in so many seconds: a pool makes one a visit. */
  readonly connections: (visits: number, seconds: number) => number
  /**
   * Drivers that go on using a connection that fell silent, until TCP gives it up after minutes: none of their timeouts
   * is for that. Visits end in time all the same. Another client would do, and this one is its application's.
   */
  readonly trusting: readonly string[]
}

const kinds: Readonly<Record<string, Kind>> = {
  PostgreSQL: {
    drivers: ['pg', 'connect', 'postgres.js'],
    serve: () => postgresServer(),
    none: noPostgres(),
    connections: (visits) => visits + 10,
    trusting: ['postgres.js'],
  },
  MariaDB: {
    drivers: ['mysql2', 'connect', 'mariadb'],
    // What is acknowledged has to be with the operating system, which is not killed.
    serve: () => mariadbServer(['--innodb-flush-log-at-trx-commit=2']),
    none: noMariadb(),
    connections: (visits) => visits + 10,
    trusting: ['mysql2'],
  },
  Redis: {
    drivers: ['ioredis', 'connect', 'node-redis'],
    serve: () => redisServer('--appendonly', 'yes', '--appendfsync', 'always'),
    none: false,
    connections: (_, seconds) => 10 + 5 * seconds,
    trusting: ['node-redis'],
  },
}

suite('an outage under fifty visits a second', { concurrency: 3 }, () => {
  for (const [name, { drivers, serve, none, connections: most, trusting }] of Object.entries(kinds)) {
    suite(name, { skip: none, concurrency: 1 }, () => {
      const closers: (() => unknown)[] = []
      const t: Closers = { after: (close) => void closers.push(close) }
      let server: Killable & { readonly url: string }
      let all: readonly Visited[]

      before(async () => {
        server = await serve()
        all = await Promise.all(drivers.map((driver) => visited(t, driver, server.url)))
        await Promise.all(all.map((one) => steady(one, now())))
      })
      after(async () => {
        for (const close of closers.reverse()) await close()
        await server?.kill()
      })

      for (const [what, { break: broken, mend, lasts, fails }] of Object.entries(outages)) {
        test(`${name} is ${what}: answers in time, none but 200 and 503, nothing lost, back in 5 s`, async () => {
          const forever = what.endsWith('for ever')
          const those = forever ? all.filter(({ driver }) => !trusting.includes(driver)) : all
          const ways = those.map(({ way }) => way)
          for (const one of those) await steady(one, now())
          const then = those.map(({ answers, way }) => ({ from: answers.length, made: way.connections() }))
          await broken(ways, server)
          await sleep(lasts)
          if (fails) await Promise.all(those.map((one, i) => felt(one, then[i]?.from ?? 0)))
          await mend(ways, server)
          const mended = now()
          const judged = await Promise.allSettled(
            those.map((one, i) => judge(one, { ...(then[i] as (typeof then)[0]), mended, most, what })),
          )
          const ills = judged.flatMap((one) => (one.status === 'rejected' ? [(one.reason as Error).message] : []))
          assert.deepEqual(ills, [])
        })
      }
    })
  }
  after(() => {
    if (process.env.OUTAGE_FIGURES) console.table(figures)
  })
})
