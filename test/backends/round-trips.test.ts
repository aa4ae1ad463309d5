// The round trips of a request to its server, counted at the client: one to read, two to write.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { type Backend, sessionManager } from 'keepsake'
import { mysqlBackend } from 'keepsake/mysql'
import { postgresBackend } from 'keepsake/postgres'
import { redisBackend } from 'keepsake/redis'
import { createPool } from 'mysql2/promise'
import { Pool, type QueryArrayConfig } from 'pg'
import { PATIENT } from '../support/clock.ts'
import { freshPrefix, ioredisClient } from '../support/redis-stores.ts'
import { watchedRedis } from '../support/redis-watched.ts'
import { closing, mysqlUrl, postgresUrl, tableFor } from '../support/stores.ts'

/** A backend, and the first words of the commands or statements that it has sent since the last call of `sent`. */
type Counted = { readonly backend: Backend; sent(): readonly string[] }

const firstWord = (text: string): string => /\w+/.exec(text)?.[0] ?? ''

const onRedis = async (t: TestContext): Promise<Counted> => {
  const { client, sent } = watchedRedis(await ioredisClient(t))
  return {
    backend: redisBackend(client, { prefix: freshPrefix() }),
    sent: () => sent.splice(0).map(([name = '']) => name),
  }
}

const onPostgres = async (t: TestContext): Promise<Counted> => {
  const pool = new Pool({ connectionString: await postgresUrl() })
  closing(t, () => pool.end())
  const sent: string[] = []
  const query = (query: QueryArrayConfig) => {
    sent.push(firstWord(query.text))
    return pool.query(query)
  }
  const backend = postgresBackend({ connect: () => {}, query }, { table: tableFor(t, pool) })
  await backend.migrate()
  sent.splice(0)
  return { backend, sent: () => sent.splice(0) }
}

const onMysql = async (t: TestContext): Promise<Counted> => {
  const pool = createPool({ uri: await mysqlUrl() })
  closing(t, () => pool.end())
  const sent: string[] = []
  const execute = (query: { sql: string }, values: never[]) => {
    sent.push(firstWord(query.sql))
    return pool.execute(query, values)
  }
  const backend = mysqlBackend({ execute }, { table: tableFor(t, pool) })
  await backend.migrate()
  sent.splice(0)
  return { backend, sent: () => sent.splice(0) }
}

type Expected = {
  readonly open: (t: TestContext) => Promise<Counted>
  readonly read: readonly string[]
  readonly write: readonly string[]
  readonly first: readonly string[]
  /** A login of an anonymous visitor without a session. `rotation` is a login with one, which ends it. */
  readonly login: readonly string[]
  readonly rotation: readonly string[]
}

const expected: Record<string, Expected> = {
  redis: {
    open: onRedis,
    read: ['get'],
    write: ['get', 'evalsha'],
    first: ['evalsha'],
    login: ['evalsha', 'evalsha', 'evalsha'],
    rotation: ['get', 'evalsha', 'evalsha', 'evalsha', 'evalsha'],
  },
  postgres: {
    open: onPostgres,
    read: ['select'],
    write: ['select', 'with'],
    first: ['with'],
    login: ['with'],
    rotation: ['select', 'with', 'with'],
  },
  mysql: {
    open: onMysql,
    read: ['select'],
    write: ['select', 'update'],
    first: ['insert'],
    login: ['insert'],
    rotation: ['select', 'insert', 'update'],
  },
}

for (const [name, { open, ...commands }] of Object.entries(expected)) {
  test(`${name}: a request makes no unnecessary round trip`, async (t) => {
    const { backend, sent } = await open(t)
    const manager = sessionManager({
      backend,
      storeTimeout: PATIENT,
      secret: randomBytes(32),
      secure: true,
      autoSweep: false,
    })
    const visit = async (cookie: string, act: (s: Awaited<ReturnType<typeof manager.open>>) => unknown) => {
      const opened = await manager.open({ headers: new Headers(cookie === '' ? {} : { cookie }) })
      act(opened)
      const committed = await opened.commit()
      assert.ok(committed.ok)
      return committed.headers.getSetCookie()[0]?.split(';', 1)[0] ?? cookie
    }
    // The first call of a script sends it twice, because the server does not know it yet. That happens once, so it is not counted.
    const warm = await visit('', (s) => s.set('n', 0))
    await visit(warm, (s) => s.set('n', 1))
    await visit(warm, (s) => s.login('berta'))
    sent()

    const anonymous = await visit('', (s) => s.set('n', 1))
    assert.deepEqual(sent(), commands.first, 'the first write of an anonymous visitor')
    await visit(anonymous, (s) => s.get('n'))
    assert.deepEqual(sent(), commands.read, 'a read')
    await visit(anonymous, (s) => s.set('n', Number(s.get('n')) + 1))
    assert.deepEqual(sent(), commands.write, 'a write')
    await visit(anonymous, (s) => s.login('anna'))
    assert.deepEqual(sent(), commands.rotation, 'a login with a session')
    const anna = await visit('', (s) => s.login('anna'))
    assert.deepEqual(sent(), commands.login, 'a login without a session')
    await visit(anna, (s) => s.get('n'))
    assert.deepEqual(sent(), commands.read, 'a read of a session with an owner')
    await visit(anna, (s) => s.set('n', 3))
    assert.deepEqual(sent(), commands.write, 'a write to a session with an owner')
  })
}
