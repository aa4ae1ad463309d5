// Several processes on one session through every driver: nothing is lost, nothing comes back, and all may start at once.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { suite, type TestContext, test } from 'node:test'
import { allowing, now, stoodStill } from '../support/lost.ts'
import { start } from '../support/process.ts'
import { freshPrefix, sharedCluster, sharedRedis } from '../support/redis-stores.ts'
import { closing, freshTable, mysqlUrl, postgresUrl } from '../support/stores.ts'

type Where = { readonly url: string; readonly place: string }

/** A fresh table of this database. */
const tableOf = (url: () => Promise<string>) => async (): Promise<Where> => ({ url: await url(), place: freshTable() })

const inRedis = async (): Promise<Where> => ({ url: await sharedRedis(), place: freshPrefix() })

const inCluster = async (): Promise<Where> => {
  const { nodes } = await sharedCluster()
  return { url: nodes[0]?.url as string, place: freshPrefix() }
}

/** An empty database, or what there is of it in Redis. */
const empty: Readonly<Record<string, (t: TestContext) => Promise<string>>> = {
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

type Page = { readonly status: number; readonly set: string | undefined; readonly fields: Record<string, unknown> }

/** Starts so many processes by this driver in one place; gives a way to visit each of them with one cookie. */
const processes = async (t: TestContext, count: number, driver: string, { url, place }: Where) => {
  const secret = randomBytes(32).toString('base64url')
  const started = Array.from({ length: count }, () => start(t, 'test/support/driven.ts', [driver, url, place, secret]))
  const addresses = await Promise.all(
    started.map(async ({ lines, errors }) => {
      const { value = '' } = await lines.next()
      const address = /http:\S+/.exec(value)?.[0]
      assert.ok(address, `${driver}: ${value} ${errors()}`)
      return address
    }),
  )
  let cookie = ''
  const visit = async (which: number, path: string, kept = cookie): Promise<Page> => {
    const response = await fetch(addresses[which % count] + path, { headers: { cookie: kept } })
    const [set] = response.headers.getSetCookie()
    const text = await response.text()
    const fields = response.ok ? JSON.parse(text) : {}
    return { status: response.status, set, fields }
  }
  const errors = () => started.map(({ errors }) => errors()).join('')
  /** A visit that is served, though not at the first try where the machine stood still: clients by URL give up soon. */
  const served = (which: number, path: string, kept?: string) =>
    allowing(async () => {
      const page = await visit(which, path, kept)
      assert.equal(page.status, 200, errors())
      return page
    })
  const begin = async () => {
    const { set = '' } = await served(0, '/set?field=begun', '')
    cookie = set.slice(0, set.indexOf(';'))
  }
  return { visit, served, begin, errors }
}

/** A hundred visits at once, a share of them in each process. */
const keepsAll = async ({ visit, served, begin, errors }: Awaited<ReturnType<typeof processes>>) => {
  await begin()
  const since = now()
  const fields = Array.from({ length: 50 }, (_, i) => `field${i}`)
  const [sets, adds] = await Promise.all([
    Promise.all(fields.map((field, i) => visit(i, `/set?field=${field}`))),
    Promise.all(fields.map((_, i) => visit(i, '/add'))),
  ])
  const done = ({ status }: Page) => status === 200
  // What was given up because the machine stood still may be either way.
  const others = [...sets, ...adds].filter((page) => !done(page)).map(({ status }) => status)
  assert.ok(others.length === 0 || (others.every((status) => status === 503) && stoodStill(since)), errors())
  const { fields: kept } = await served(1, '/')
  assert.deepEqual(
    fields.filter((field, i) => done(sets[i] as Page) && kept[field] !== true),
    [],
  )
  const n = Number(kept.n ?? 0)
  assert.ok(n >= adds.filter(done).length && n <= 50, `${n}`)
  if (others.length === 0) assert.equal(n, 50)
}

/** One process is slow with a visit, and another ends its session meanwhile. */
const staysEnded = async ({ visit, served, begin }: Awaited<ReturnType<typeof processes>>) => {
  await begin()
  const since = now()
  const slow = visit(1, '/slow')
  await visit(1, '/there')
  const out = await served(2, '/logout')
  assert.match(out.set ?? '', /Max-Age=0/)
  await visit(1, '/go')
  const late = await slow
  assert.ok(late.status === 409 || (late.status === 503 && stoodStill(since)), `${late.status}`)
  assert.equal(late.set, undefined)
  for (let which = 0; which < 4; which++) assert.deepEqual((await served(which, '/')).fields, {})
}

/** Nothing was said but of calls that were given up because the machine stood still. */
const quiet = (errors: string, since: number) => assert.ok(errors === '' || stoodStill(since), errors)

const places: Readonly<Record<string, () => Promise<Where>>> = {
  pg: tableOf(postgresUrl),
  'postgres.js': tableOf(postgresUrl),
  mysql2: tableOf(mysqlUrl),
  mariadb: tableOf(mysqlUrl),
  ioredis: inRedis,
  'node-redis': inRedis,
  'ioredis cluster': inCluster,
}

suite('four processes on one session: 50 fields and 50 increments stay, and what ended stays ended', {
  concurrency: 3,
}, () => {
  for (const [driver, place] of Object.entries(places)) {
    test(`by ${driver}`, async (t) => {
      const since = now()
      const four = await processes(t, 4, driver, await place())
      await keepsAll(four)
      await staysEnded(four)
      quiet(four.errors(), since)
    })
  }

  for (const [name, made] of Object.entries(empty)) {
    test(`by ${name}://, and eight, on an empty database, whose first visits come at once and all are served`, async (t) => {
      const since = now()
      const eight = await processes(t, 8, 'connect', { url: await made(t), place: '' })
      await Promise.all(Array.from({ length: 16 }, (_, i) => eight.served(i, '/add', '')))
      await keepsAll(eight)
      await staysEnded(eight)
      quiet(eight.errors(), since)
    })
  }

  test('by PGlite, which is one database a process, so in one', async (t) => {
    const since = now()
    const one = await processes(t, 1, 'PGlite', { url: '', place: freshTable() })
    await keepsAll(one)
    await staysEnded(one)
    quiet(one.errors(), since)
  })
})
