// A server is held, killed, cut off or lost under traffic through every driver: answers in time, no loss, quick recovery.

import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { lostTime, now } from '../support/lost.ts'
import { mariadbServer, noMariadb } from '../support/mariadb-server.ts'
import type { Answer, Report, SessionReport } from '../support/outage.ts'
import { noPostgres, postgresServer } from '../support/postgres-server.ts'
import { start } from '../support/process.ts'
import { type FaultyProxy, proxy as startProxy } from '../support/proxy.ts'
import { redisServer } from '../support/redis-server.ts'

/** Milliseconds that a request may wait for its store. */
const STORE_TIMEOUT = 2_000
/** Milliseconds that an answer may take beyond that, apart from the time that the process could not run. */
const TOLERANCE = 100
/** Milliseconds after an outage in which requests may still fail. */
const RECOVERY_LIMIT = 5_000

type Application = {
  readonly driver: string
  readonly proxy: FaultyProxy
  /** The answers so far. */
  readonly answers: readonly Answer[]
  /** Pauses the requests, and reads all sessions. */
  check(): Promise<SessionReport>
  /** The errors of the process itself. Empty if there are none. */
  problems(): string
}

type TestHooks = { after(close: () => unknown): void }

/** Starts a process that makes requests through this driver, through a proxy of its own. */
const startApplication = async (t: TestHooks, driver: string, url: string): Promise<Application> => {
  const through = new URL(url)
  const proxy = await startProxy(t, Number(through.port))
  through.port = String(proxy.port)
  const place = `outage_${driver.replaceAll(/\W/g, '_')}`
  const { child, errors } = start(t, 'test/support/outage.ts', [driver, through.href, place], {
    NODE_OPTIONS: '--unhandled-rejections=strict',
  })
  const answers: Answer[] = []
  let onSessions = (_: SessionReport) => {}
  child.on('message', (report: Report) => {
    if ('sessions' in report) return onSessions(report.sessions)
    answers.push(...report.answers)
  })
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null
  return {
    driver,
    proxy,
    answers,
    check: () =>
      new Promise((resolve, reject) => {
        onSessions = resolve
        if (hasEnded()) reject(new Error(`The process has ended: ${errors()}`))
        else child.send('check')
      }),
    problems: () =>
      hasEnded() ? `The process has ended (${child.exitCode}, ${child.signalCode}). ${errors()}` : errors(),
  }
}

const isOk = ({ status }: Answer): boolean => status === 200

/** Waits for a second of good answers since then. It gives up when `checkOutage` would fail anyway. */
const waitForService = async ({ answers, problems }: Application, since: number): Promise<void> => {
  for (;;) {
    await sleep(50)
    const recent = answers.filter(({ at }) => at > since)
    const good = recent.length - 1 - recent.findLastIndex((answer) => !isOk(answer))
    const late = now() - since - RECOVERY_LIMIT - 2 * STORE_TIMEOUT
    if (good >= 45 || late > lostTime(since) || problems() !== '') return
  }
}

/** Waits until a request after the first `from` answers has failed. A stalled machine makes no requests for a while. */
const waitForFailure = async ({ answers, problems }: Application, from: number): Promise<void> => {
  while (answers.slice(from).every(isOk) && problems() === '') await sleep(50)
}

type Outage = {
  /** Breaks the proxies or the server. */
  readonly break: (proxies: readonly FaultyProxy[], server: Killable) => unknown
  readonly repair: (proxies: readonly FaultyProxy[], server: Killable) => unknown
  /** Milliseconds from the break to the repair. */
  readonly lasts: number
  /** Whether requests must fail. If so, the outage lasts until some have failed. */
  readonly fails: boolean
}
type Killable = { kill(): Promise<void>; restart(): Promise<void> }

const each = (act: (proxy: FaultyProxy) => unknown) => (proxies: readonly FaultyProxy[]) =>
  Promise.all(proxies.map(act))

/** The proxies break all connections in this way for as many milliseconds, so that requests fail, and then forward again. */
const breakUntilPass = (mode: 'hold' | 'refuse' | 'shut' | 'drop', lasts: number): Outage => ({
  break: each((proxy) => proxy[mode]()),
  repair: each((proxy) => proxy.pass()),
  lasts,
  fails: true,
})

const outages: Readonly<Record<string, Outage>> = {
  'held for 3 s': breakUntilPass('hold', 3_000),
  'killed, and started again after 3 s': {
    break: (proxies, server) => Promise.all([server.kill(), ...proxies.map((proxy) => proxy.refuse())]),
    repair: async (proxies, server) => {
      await server.restart()
      for (const proxy of proxies) proxy.pass()
    },
    lasts: 3_000,
    fails: true,
  },
  'cut off five times in a second': {
    break: async (proxies) => {
      for (let i = 0; i < 5; i++) {
        for (const proxy of proxies) proxy.reset()
        await sleep(200)
      }
    },
    repair: () => {},
    lasts: 0,
    fails: false,
  },
  'cut off in the middle of ten replies': {
    break: async (proxies) => {
      for (let i = 0; i < 10; i++) {
        await Promise.all(proxies.map((proxy) => proxy.halve()))
        await sleep(100)
      }
    },
    repair: each((proxy) => proxy.pass()),
    lasts: 0,
    // The first reply of a request is that of its read, which a Redis client sends again.
    fails: false,
  },
  'refusing connections for 1 s': breakUntilPass('refuse', 1_000),
  'behind a proxy that accepts connections and cuts them, for 1 s': breakUntilPass('shut', 1_000),
  'unreachable for 3 s, and its connections are reset afterwards': {
    ...breakUntilPass('drop', 3_000),
    repair: each((proxy) => {
      proxy.pass()
      proxy.reset()
    }),
  },
  'unreachable for 3 s, and its connections stay silent for ever': breakUntilPass('drop', 3_000),
}

/** Measurements, printed if OUTAGE_FIGURES is set. */
const figures: Record<string, unknown>[] = []

/** Checks the answers from an outage until a second of good service, and all sessions. */
const checkOutage = async (
  one: Application,
  {
    from,
    connectionsBefore,
    repaired,
    connectionLimit,
    name,
  }: {
    /** The number of answers and connections before the outage. */
    readonly from: number
    readonly connectionsBefore: number
    /** The time of the repair. */
    readonly repaired: number
    readonly connectionLimit: Kind['connections']
    readonly name: string
  },
) => {
  await waitForService(one, repaired)
  const { driver, answers, proxy } = one
  const connections = proxy.connections() - connectionsBefore
  const sessions = await one.check()
  const seen = answers.slice(from)
  const longest = Math.max(...seen.map(({ took, late }) => took - late))
  const failures = seen.filter((answer) => !isOk(answer))
  const last = failures.findLast(({ at }) => at > repaired)
  const recovery = last === undefined ? 0 : last.at - repaired
  const stalled = lostTime(repaired, repaired + recovery)
  const limit = connectionLimit(seen.length, (now() - (seen[0]?.at ?? repaired)) / 1000)
  const statuses = [...new Set(seen.map(({ status }) => status))].sort()
  figures.push({
    driver,
    name,
    longest: Math.round(longest),
    recovery: Math.round(recovery),
    connections,
    limit: Math.round(limit),
    ...sessions,
    wrong: sessions.wrong.length,
    failed: failures.length,
  })
  assert.equal(one.problems(), '', `${driver}: ${one.problems()}`)
  assert.ok(
    longest <= STORE_TIMEOUT + TOLERANCE,
    `${driver}: an answer took ${longest} ms, apart from the time that its process could not run`,
  )
  const others = statuses.filter((status) => status !== 200 && status !== 503)
  assert.equal(others.length, 0, `${driver}: answers ${others}`)
  assert.equal(sessions.unanswered, 0, `${driver}: ${sessions.unanswered} requests have no answer`)
  assert.equal(sessions.wrong.length, 0, `${driver}, sessions: ${sessions.wrong.slice(0, 5).join('; ')}`)
  assert.ok(
    recovery <= RECOVERY_LIMIT + stalled,
    `${driver}: a request failed ${recovery} ms after the end of the outage, and the machine stalled for ${stalled} ms of them`,
  )
  assert.ok(connections <= limit, `${driver}: ${connections} connections`)
}

type Kind = {
  readonly drivers: readonly string[]
  readonly startServer: () => Promise<Killable & { readonly url: string }>
  /** The reason to skip the tests, or false. */
  readonly skip: string | false
  /** How many connections one process may make during so many requests and seconds: a pool makes one per request. */
  readonly connections: (requests: number, seconds: number) => number
  /**
   * Drivers that go on using a silent connection until TCP closes it after minutes, because they have no timeout for it.
   * Their requests end in time, but service is not restored, so they are left out.
   */
  readonly trusting: readonly string[]
}

const kinds: Readonly<Record<string, Kind>> = {
  PostgreSQL: {
    drivers: ['pg', 'connect', 'postgres.js'],
    startServer: () => postgresServer(),
    skip: noPostgres(),
    connections: (requests) => requests + 10,
    trusting: ['postgres.js'],
  },
  MariaDB: {
    drivers: ['mysql2', 'connect', 'mariadb'],
    // An acknowledged write must have reached the operating system, which is not killed.
    startServer: () => mariadbServer(['--innodb-flush-log-at-trx-commit=2']),
    skip: noMariadb(),
    connections: (requests) => requests + 10,
    trusting: ['mysql2'],
  },
  Redis: {
    drivers: ['ioredis', 'connect', 'node-redis'],
    startServer: () => redisServer('--appendonly', 'yes', '--appendfsync', 'always'),
    skip: false,
    connections: (_, seconds) => 10 + 5 * seconds,
    trusting: ['node-redis'],
  },
}

suite('an outage under fifty requests a second', { concurrency: 3 }, () => {
  for (const [name, { drivers, startServer, skip, connections: connectionLimit, trusting }] of Object.entries(kinds)) {
    suite(name, { skip, concurrency: 1 }, () => {
      const hooks: (() => unknown)[] = []
      const t: TestHooks = { after: (close) => void hooks.push(close) }
      let server: Killable & { readonly url: string }
      let all: readonly Application[]

      before(async () => {
        server = await startServer()
        all = await Promise.all(drivers.map((driver) => startApplication(t, driver, server.url)))
        await Promise.all(all.map((one) => waitForService(one, now())))
      })
      after(async () => {
        for (const close of hooks.reverse()) await close()
        await server?.kill()
      })

      for (const [outage, { break: breakIt, repair, lasts, fails }] of Object.entries(outages)) {
        test(`${name} is ${outage}: answers in time, only 200 and 503, no loss, service again within 5 s`, async () => {
          const isForever = outage.endsWith('for ever')
          const affected = isForever ? all.filter(({ driver }) => !trusting.includes(driver)) : all
          const proxies = affected.map(({ proxy }) => proxy)
          for (const one of affected) await waitForService(one, now())
          const states = affected.map(({ answers, proxy }) => ({
            from: answers.length,
            connectionsBefore: proxy.connections(),
          }))
          await breakIt(proxies, server)
          await sleep(lasts)
          if (fails) await Promise.all(affected.map((one, i) => waitForFailure(one, states[i]?.from ?? 0)))
          await repair(proxies, server)
          const repaired = now()
          const checks = await Promise.allSettled(
            affected.map((one, i) =>
              checkOutage(one, { ...(states[i] as (typeof states)[0]), repaired, connectionLimit, name: outage }),
            ),
          )
          const failures = checks.flatMap((check) =>
            check.status === 'rejected' ? [(check.reason as Error).message] : [],
          )
          assert.deepEqual(failures, [])
        })
      }
    })
  }
  after(() => {
    if (process.env.OUTAGE_FIGURES) console.table(figures)
  })
})
