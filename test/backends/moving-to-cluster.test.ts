// A move from a SQLite file to a Redis Cluster during traffic to two processes: no visitor is logged out, no change is lost.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Backend, backendFromUrl } from 'keepsake'
import type { CopyProgress } from 'keepsake/moving'
import { storageKeys } from '../../src/crypto/keys.ts'
import { patientCluster } from '../support/driver.ts'
import { folder } from '../support/folder.ts'
import { judge } from '../support/history.ts'
import { start } from '../support/process.ts'
import { sharedCluster } from '../support/redis-stores.ts'
import {
  type ApplicationProcess,
  localProcess,
  managerOn,
  remoteProcess,
  traffic,
  visitorAt,
} from '../support/traffic.ts'

const ACCOUNTS = 40
const DEVICES = 10
const VISITORS = 12

const NAME = '__Host-Http-sid'
type Idle = { readonly account: string; readonly n: number; cookie: string }

const visit = async (served: ApplicationProcess, path: string, cookie?: string) => {
  const headers = cookie === undefined ? {} : { cookie: `${NAME}=${cookie}` }
  const { response, saw } = await served.visit(new Request(`${served.origin}/${path}`, { headers }))
  const set = response.headers.getSetCookie().find((line) => line.startsWith(`${NAME}=`))
  return { status: response.status, saw, cookie: set?.slice(NAME.length + 1).split(';')[0] }
}

/** Copies all sessions in a process of its own, which is killed after this many batches. */
const runCopy = async (
  t: TestContext,
  args: readonly string[],
  { batches = Number.POSITIVE_INFINITY, onRead = async (_: readonly string[]) => {} } = {},
) => {
  const { child, lines, ended, errors } = start(t, 'test/support/copying-process.ts', args)
  const reports: CopyProgress[] = []
  for (let next = await lines.next(); !next.done; next = await lines.next()) {
    const message: CopyProgress | { readonly keys: readonly string[] } = JSON.parse(next.value)
    if ('keys' in message) {
      await onRead(message.keys)
      child.send('go')
      continue
    }
    reports.push(message)
    if (reports.length === batches) child.kill('SIGKILL')
  }
  const code = await ended
  if (batches === Number.POSITIVE_INFINITY) assert.equal(code, 0, errors())
  return reports
}

test('sessions move from a SQLite file to a cluster during traffic to two processes, by a copy that is killed and resumed', async (t) => {
  const file = `sqlite:${join(folder(t), 'sessions.db')}`
  const { nodes } = await sharedCluster()
  const cluster = `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`
  const opened = async (made: Backend | Promise<Backend>) => {
    const backend = await made
    t.after(() => backend.close?.())
    return backend
  }

  // Before: idle sessions, and the sessions of the visitors who send requests.
  const errors: string[] = []
  const before = localProcess(await opened(backendFromUrl(file)), errors)
  const idle: Idle[] = []
  for (let i = 0; i < ACCOUNTS * DEVICES; i++) {
    const account = `idle${i % ACCOUNTS}`
    const { cookie } = await visit(before, `login?${account}`)
    for (let n = 0; n < i % 3; n++) await visit(before, 'count', cookie)
    idle.push({ account, n: i % 3, cookie: cookie as string })
  }
  const first = new Map<string, string>()
  for (let i = 0; i < VISITORS; i++) {
    first.set(visitorAt(i), (await visit(before, `login?${visitorAt(i)}`)).cookie as string)
  }

  // During: two processes on both stores, one with a later startsAt, and a copy that is killed. Some sessions end before the
  // copy, during it and after it.
  const processes = await Promise.all(
    [0, 4_000].map(async (later) => {
      const args = [file, cluster, String(Date.now() + later)]
      const { lines, errors } = start(t, 'test/support/moving-process.ts', args)
      const origin = /http:\S+/.exec((await lines.next()).value ?? '')?.[0].replace(/\/$/, '')
      assert.ok(origin, errors())
      return remoteProcess(origin)
    }),
  )
  const [one, two] = processes as [ApplicationProcess, ApplicationProcess]
  const { history, stop, audit } = traffic(processes, { visitors: VISITORS, rest: 100, first })
  const ended = new Set<Idle>()
  const end = async (served: ApplicationProcess, every: number, rest: number) => {
    for (const [i, each] of idle.entries()) {
      if (i % every !== rest || ended.has(each)) continue
      assert.equal((await visit(served, 'logout', each.cookie)).status, 200)
      ended.add(each)
    }
    const account = `idle${rest}`
    assert.equal(await served.revokeAll(account), 200)
    for (const each of idle) if (each.account === account) ended.add(each)
  }
  await end(one, 29, 3)
  const reports = await runCopy(t, [file, cluster], { batches: 5 })
  const { cursor } = reports.at(-1) as CopyProgress
  assert.ok(cursor, 'the copy was not complete')
  await end(two, 31, 7)
  // One session of each batch ends after the copy has read it and before it writes it.
  const storageKey = storageKeys('sid')
  const byStorageKey = new Map(idle.map((each) => [storageKey(each.cookie.slice(0, 12)), each]))
  let endedDuringCopy = 0
  const onRead = async (keys: readonly string[]) => {
    const each = keys.map((key) => byStorageKey.get(key)).find((each) => each !== undefined && !ended.has(each))
    if (each === undefined) return
    ended.add(each)
    assert.equal((await visit(one, 'logout', each.cookie)).status, 200)
    endedDuringCopy++
  }
  const resumed = runCopy(t, [file, cluster, cursor], { onRead })
  await end(one, 37, 11)
  const rest = await resumed
  assert.equal(rest.at(-1)?.cursor, undefined)
  assert.ok(endedDuringCopy > 5)
  await end(two, 41, 13)
  // Again from the start: sessions that have ended since are not copied.
  await runCopy(t, [file, cluster])
  // Time for some requests after the copy. Their number does not matter.
  await sleep(500)
  await stop()
  await audit()
  const verdict = judge(history)
  t.diagnostic(
    `${history.length} requests, answers ${JSON.stringify(verdict.byStatus)}, killed after ${reports.length} batches, ${rest.length} more`,
  )
  assert.deepEqual(verdict.violations, [])
  assert.equal(verdict.lost, 0)
  assert.deepEqual(Object.keys(verdict.byStatus).sort(), verdict.byStatus[409] ? ['200', '409'] : ['200'])

  // After: the new store alone.
  const backend = await opened(patientCluster(cluster))
  const after = localProcess(backend, errors)
  for (const each of idle) {
    const { saw } = await visit(after, 'read', each.cookie)
    const expected = ended.has(each) ? { n: 0 } : { account: each.account, n: each.n }
    assert.deepEqual(saw, expected, each.account)
  }
  const manager = managerOn(backend, (error) => errors.push(String(error)))
  for (let i = 0; i < ACCOUNTS; i++) {
    const account = `idle${i}`
    const living = idle.filter((each) => each.account === account && !ended.has(each))
    const listed = (await manager.list(account)).map(({ label }) => label).sort()
    assert.deepEqual(listed, living.map(({ cookie }) => cookie.slice(0, 12)).sort(), account)
  }
  for (let i = 0; i < VISITORS; i++) await manager.revokeAll(visitorAt(i))
  for (let i = 0; i < ACCOUNTS; i++) await manager.revokeAll(`idle${i}`)
  assert.deepEqual(errors, [])
})
