// Runs one group of checks in this runtime, and prints the result as one line of JSON.

import { createRequire } from 'node:module'
import { backendFromUrl, session, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'
import { sqliteBackend } from 'keepsake/sqlite'
import { backendCases } from 'keepsake/testing'
import { checkBackend } from './core-checks.mjs'

const require = createRequire(import.meta.url)
const names = Object.keys(require('keepsake/package.json').exports)
  .filter((path) => path !== './package.json')
  .map((path) => `keepsake${path.slice(1)}`)

/** Loads each entry point. Returns the messages of those that failed. */
const loadAll = async (load) => {
  const failed = {}
  for (const name of names) {
    try {
      if (Object.keys(await load(name)).length === 0) throw new Error('It exports nothing.')
    } catch (error) {
      failed[name] = String(error?.message ?? error)
    }
  }
  return { total: names.length, failed }
}

/** Runs the cases of a backend's contract. `openStore` returns, for each case, a function that opens handles on a new store. */
const keepsContract = async (openStore) => {
  const failed = {}
  let total = 0
  for (const [i, { name, exempt, run }] of backendCases.entries()) {
    const open = await openStore(i)
    if (exempt(await open()) !== undefined) continue
    total += 1
    try {
      await run(open)
    } catch (error) {
      failed[name] = String(error?.message ?? error)
    }
  }
  return { total, failed }
}

/** Handles on one store in memory are the same backend. */
const openerOf = async (url, i) => {
  if (url !== 'memory:') return () => backendFromUrl(`${url}-${i}`)
  const backend = await backendFromUrl(url)
  return () => backend
}

const openDatabase = {
  'node:sqlite': async () => (await import('node:sqlite')).DatabaseSync,
  'bun:sqlite': async () => (await import('bun:sqlite')).Database,
}

const checkServe = async () => {
  const manager = sessionManager({ backend: 'memory:' })
  const handler = manager(async (request) => {
    const s = await session(request)
    s.update('n', (n = 0) => n + 1)
    return Response.json(s.get('n'))
  })
  const { url, close } = await serve(handler, { port: 0 })
  const first = await fetch(url)
  await first.text()
  const cookie = first.headers.getSetCookie()[0].split(';')[0]
  const n = await (await fetch(url, { headers: { cookie } })).json()
  await close()
  const isClosed = await fetch(url).then(
    () => false,
    () => true,
  )
  const failed = n === 2 && isClosed ? {} : { serve: `It counted ${n} visits, and it is closed: ${isClosed}.` }
  return { total: 1, failed }
}

const groups = {
  import: () => loadAll((name) => import(name)),
  require: () => loadAll(require),
  /** The checks on an open database, and the contract of a backend. */
  async database(driver, path) {
    const Database = await openDatabase[driver]()
    const openerAt = (path) => () => {
      const database = new Database(path)
      database.exec('pragma journal_mode = wal; pragma busy_timeout = 0')
      return sqliteBackend(database)
    }
    const checked = await checkBackend(openerAt(path)())
    const kept = await keepsContract((i) => openerAt(`${path}-${i}`))
    return { total: checked.total + kept.total, failed: { ...checked.failed, ...kept.failed } }
  },
  async backend(url) {
    const checked = await checkBackend(url)
    if (url === 'cookie:') return checked
    const kept = await keepsContract((i) => openerOf(url, i))
    return { total: checked.total + kept.total, failed: { ...checked.failed, ...kept.failed } }
  },
  serve: checkServe,
}

const [, , group, ...args] = process.argv
console.log(JSON.stringify(await groups[group](...args)))
// A server of the runtime may keep the process alive.
process.exit(0)
