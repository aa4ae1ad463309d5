// The floors of the servers: the time of a driver alone for the same rows, with the same statements, without sessions.

import { encodeEntry, setEntry } from '../../src/backends/redis/scripts.ts'
import { mysqlBackend } from '../../src/backends/sql/mysql.ts'
import { postgresBackend } from '../../src/backends/sql/postgres.ts'
import type { SqlBackend } from '../../src/backends/sql/table.ts'
import type { Entry } from '../../src/index.ts'
import { FIELDS, storageKeys as keys, nextSeen, SESSIONS } from '../workloads.ts'
import { ioredis, mysql, nodeRedis, postgres } from './clients.ts'
import type { Contestant, Raw } from './contestant.ts'

const at = <T>(list: readonly T[], number: number): T => list[number % SESSIONS] as T

const metadata = 'h'.repeat(60)
const owner = `app:${FIELDS.user}`
const jsonOf = (seen: number): string => JSON.stringify({ ...FIELDS, seen })
const entry: Entry = {
  value: jsonOf(FIELDS.seen),
  metadata,
  owner,
  version: 'v0000000',
  expiresAt: Date.now() + 1e9,
}

/** A new version, always of the same length. */
let versions = 0
const nextVersion = (): string => `v${String(++versions % 1e7).padStart(7, '0')}`

/** A read, and a compare-and-set to the next version. No two concurrent requests use the same session. */
type Statements = {
  read(number: number): Promise<number | undefined>
  set(number: number, json: string, before: string, after: string): Promise<boolean>
}

const raw = ({ read, set }: Statements): Raw => {
  const current = keys.map(() => entry.version)
  const checked = async (number: number) => {
    if (((await read(number)) ?? 0) < jsonOf(FIELDS.seen).length) throw new Error('A row has the wrong length.')
  }
  return {
    kind: 'raw',
    operations: {
      read: checked,
      async write(number) {
        await checked(number)
        const next = nextVersion()
        const done = await set(number, jsonOf(nextSeen()), at(current, number), next)
        if (!done) throw new Error('A row was not updated.')
        current[number % SESSIONS] = next
      },
    },
  }
}

type Redis = {
  set(key: string, text: string): Promise<unknown>
  get(key: string): Promise<string | null>
}
/** The two commands that the drivers call differently. */
type Scripts = {
  load(lua: string): Promise<unknown>
  evalsha(sha: string, key: string, args: string[]): Promise<unknown>
}

const overRedis = async (client: Redis, { load, evalsha }: Scripts): Promise<Raw> => {
  const names = keys.map((key) => `raw:${process.pid}:${key}`)
  for (const name of names) await client.set(name, encodeEntry(entry))
  await load(setEntry.lua)
  return raw({
    read: async (number) => (await client.get(at(names, number)))?.length,
    set: async (number, json, before, after) =>
      (await evalsha(setEntry.sha, at(names, number), [before, after, `${metadata}\n${json}`])) === null,
  })
}

const overIoredis = async (): Promise<Raw> => {
  const client = await ioredis()
  return overRedis(client, {
    load: (lua) => client.script('LOAD', lua),
    evalsha: (sha, key, args) => client.evalsha(sha, 1, key, ...args),
  })
}

const overNodeRedis = async (): Promise<Raw> => {
  const client = await nodeRedis()
  return overRedis(client, {
    load: (lua) => client.scriptLoad(lua),
    evalsha: (sha, key, args) => client.evalSha(sha, { keys: [key], arguments: args }),
  })
}

/** Fills a fresh table through a backend of keepsake. @returns its name */
const fillTable = async (createBackend: (options: { readonly table: string }) => SqlBackend): Promise<string> => {
  const table = `raw_${process.pid}`
  const backend = createBackend({ table })
  await backend.migrate()
  for (const key of keys) await backend.generate(key, entry)
  return table
}

const overPostgres = async (): Promise<Raw> => {
  const pool = await postgres()
  const table = await fillTable((options) => postgresBackend(pool, options))
  const select = `select value, metadata, expires_at, version, owner from ${table} where key = $1`
  const update = `update ${table} set version = $3, metadata = $4, value = $5 where key = $1 and version = $2`
  return raw({
    async read(number) {
      const { rows } = await pool.query({ name: 'read', text: select, values: [at(keys, number)] })
      return rows[0]?.value.length
    },
    async set(number, json, before, after) {
      const values = [at(keys, number), before, after, metadata, json]
      return (await pool.query({ name: 'set', text: update, values })).rowCount === 1
    },
  })
}

const overMysql = async (): Promise<Raw> => {
  const pool = await mysql()
  const table = await fillTable((options) => mysqlBackend(pool, options))
  const select = `select value, metadata, expires_at, version, owner from ${table} where \`key\` = ?`
  const update = `update ${table} set version = ?, metadata = ?, value = ? where \`key\` = ? and version = ?`
  return raw({
    async read(number) {
      const [rows] = await pool.execute(select, [at(keys, number)])
      return (rows as { value: string }[])[0]?.value.length
    },
    async set(number, json, before, after) {
      const [{ affectedRows }] = (await pool.execute(update, [after, metadata, json, at(keys, number), before])) as [
        { affectedRows: number },
        unknown,
      ]
      return affectedRows === 1
    },
  })
}

const contestant = (name: string, open: () => Promise<Raw>): Contestant => ({
  name,
  bare: 'nothing',
  workloads: ['read', 'write'],
  socketless: true,
  open,
})

export const rawStores = {
  redis: [
    contestant('raw: ioredis GET (+ EVALSHA)', overIoredis),
    contestant('raw: node-redis GET (+ EVALSHA)', overNodeRedis),
  ],
  postgres: [contestant('raw: pg SELECT (+ UPDATE)', overPostgres)],
  mysql: [contestant('raw: mysql2 SELECT (+ UPDATE)', overMysql)],
}
