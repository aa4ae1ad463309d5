// Several processes use one session through every driver: no change is lost, no ended session comes back.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { suite, type TestContext, test } from 'node:test'
import { hasStalled, now, retryIfStalled } from '../support/lost.ts'
import { start } from '../support/process.ts'
import { freshPrefix, sharedCluster, sharedRedis } from '../support/redis-stores.ts'
import { closing, freshTable, mysqlUrl, postgresUrl } from '../support/stores.ts'

type Location = { readonly url: string; readonly place: string }

/** Returns a function that makes a fresh table of a database. */
const tableOf = (url: () => Promise<string>) => async (): Promise<Location> => ({
  url: await url(),
  place: freshTable(),
})

const inRedis = async (): Promise<Location> => ({ url: await sharedRedis(), place: freshPrefix() })

const inCluster = async (): Promise<Location> => {
  const { nodes } = await sharedCluster()
  return { url: nodes[0]?.url as string, place: freshPrefix() }
}

/** The URL of an empty database, or of the shared Redis. */
const emptyDatabases: Readonly<Record<string, (t: TestContext) => Promise<string>>> = {
  async postgres(t) {
    const { Client } = await import('pg')
    const url = new URL(await postgresUrl())
    const client = new Client({ connectionString: url.href })
    await client.connect()
    const place = freshTable()
    await client.query(`create database ${place}`)
    closing(t, async () => {
      await client.query(`drop database ${place} with (force)`)
      await client.end()
    })
    url.pathname = place
    return url.href
  },
  async mysql(t) {
    const { createConnection } = await import('mysql2/promise')
    const url = new URL(await mysqlUrl())
    const client = await createConnection(url.href)
    const place = freshTable()
    await client.query(`create database ${place}`)
    closing(t, async () => {
      await client.query(`drop database ${place}`)
      await client.end()
    })
    url.pathname = place
    return url.href
  },
  redis: sharedRedis,
}

type Page = {
  readonly status: number
  readonly setCookie: string | undefined
  readonly fields: Record<string, unknown>
}

/** Starts so many processes with this driver in one place, and sends requests with one cookie to each of them. */
const startProcesses = async (t: TestContext, count: number, driver: string, { url, place }: Location) => {
  const secret = randomBytes(32).toString('base64url')
  const scripts = Array.from({ length: count }, () => start(t, 'test/support/driven.ts', [driver, url, place, secret]))
  const addresses = await Promise.all(
    scripts.map(async ({ lines, errors }) => {
      const { value = '' } = await lines.next()
      const address = /http:\S+/.exec(value)?.[0]
      assert.ok(address, `${driver}: ${value} ${errors()}`)
      return address
    }),
  )
  let cookie = ''
  const visit = async (which: number, path: string, sentCookie = cookie): Promise<Page> => {
    const response = await fetch(addresses[which % count] + path, { headers: { cookie: sentCookie } })
    const [setCookie] = response.headers.getSetCookie()
    const text = await response.text()
    const fields = response.ok ? JSON.parse(text) : {}
    return { status: response.status, setCookie, fields }
  }
  const errors = () => scripts.map(({ errors }) => errors()).join('')
  /** Sends a request until the status is 200. It retries only if the machine stalled: clients from URLs give up soon. */
  const visitUntilServed = (which: number, path: string, sentCookie?: string) =>
    retryIfStalled(async () => {
      const page = await visit(which, path, sentCookie)
      assert.equal(page.status, 200, errors())
      return page
    })
  const createSession = async () => {
    const { setCookie = '' } = await visitUntilServed(0, '/set?field=first', '')
    cookie = setCookie.slice(0, setCookie.indexOf(';'))
  }
  return { visit, visitUntilServed, createSession, errors }
}

type Processes = Awaited<ReturnType<typeof startProcesses>>

/** Sends a hundred concurrent requests, distributed over the processes, and checks that none of them is lost. */
const checkConcurrentChanges = async ({ visit, visitUntilServed, createSession, errors }: Processes) => {
  await createSession()
  const since = now()
  const fields = Array.from({ length: 50 }, (_, i) => `field${i}`)
  const [sets, adds] = await Promise.all([
    Promise.all(fields.map((field, i) => visit(i, `/set?field=${field}`))),
    Promise.all(fields.map((_, i) => visit(i, '/add'))),
  ])
  const isDone = ({ status }: Page) => status === 200
  // A request that gave up because the machine stalled has an unknown outcome.
  const otherStatuses = [...sets, ...adds].filter((page) => !isDone(page)).map(({ status }) => status)
  assert.ok(
    otherStatuses.length === 0 || (otherStatuses.every((status) => status === 503) && hasStalled(since)),
    errors(),
  )
  const { fields: kept } = await visitUntilServed(1, '/')
  assert.deepEqual(
    fields.filter((field, i) => isDone(sets[i] as Page) && kept[field] !== true),
    [],
  )
  const n = Number(kept.n ?? 0)
  assert.ok(n >= adds.filter(isDone).length && n <= 50, `${n}`)
  if (otherStatuses.length === 0) assert.equal(n, 50)
}

/** One process serves a slow request, and another ends its session in the meantime. */
const checkLogoutDuringRequest = async ({ visit, visitUntilServed, createSession }: Processes) => {
  await createSession()
  const since = now()
  const slow = visit(1, '/slow')
  await visit(1, '/arrived')
  const logout = await visitUntilServed(2, '/logout')
  assert.match(logout.setCookie ?? '', /Max-Age=0/)
  await visit(1, '/go')
  const late = await slow
  assert.ok(late.status === 409 || (late.status === 503 && hasStalled(since)), `${late.status}`)
  assert.equal(late.setCookie, undefined)
  for (let which = 0; which < 4; which++) assert.deepEqual((await visitUntilServed(which, '/')).fields, {})
}

/** The processes printed nothing, unless the machine stalled. */
const checkPrinted = (errors: string, since: number) => assert.ok(errors === '' || hasStalled(since), errors)

const places: Readonly<Record<string, () => Promise<Location>>> = {
  pg: tableOf(postgresUrl),
  'postgres.js': tableOf(postgresUrl),
  mysql2: tableOf(mysqlUrl),
  mariadb: tableOf(mysqlUrl),
  ioredis: inRedis,
  'node-redis': inRedis,
  'ioredis cluster': inCluster,
}

suite('four processes on one session: 50 fields and 50 increments are kept, and an ended session stays ended', {
  concurrency: 3,
}, () => {
  for (const [driver, place] of Object.entries(places)) {
    test(`through ${driver}`, async (t) => {
      const since = now()
      const four = await startProcesses(t, 4, driver, await place())
      await checkConcurrentChanges(four)
      await checkLogoutDuringRequest(four)
      checkPrinted(four.errors(), since)
    })
  }

  for (const [name, create] of Object.entries(emptyDatabases)) {
    test(`through ${name}:// with eight processes on an empty database: the first requests are concurrent and all succeed`, async (t) => {
      const since = now()
      const eight = await startProcesses(t, 8, 'connect', { url: await create(t), place: '' })
      await Promise.all(Array.from({ length: 16 }, (_, i) => eight.visitUntilServed(i, '/add', '')))
      await checkConcurrentChanges(eight)
      await checkLogoutDuringRequest(eight)
      checkPrinted(eight.errors(), since)
    })
  }

  test('through PGlite, in one process because each process has a database of its own', async (t) => {
    const since = now()
    const one = await startProcesses(t, 1, 'PGlite', { url: '', place: freshTable() })
    await checkConcurrentChanges(one)
    await checkLogoutDuringRequest(one)
    checkPrinted(one.errors(), since)
  })
})
