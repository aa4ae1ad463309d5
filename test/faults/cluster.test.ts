// A Redis Cluster whose masters are killed one after another while visitors come: nothing acknowledged is undone.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectRedis } from 'keepsake/redis'
import { judged } from '../support/history.ts'
import { lateness, now, stoodStill } from '../support/lost.ts'
import { type RedisCluster, redisCluster, redisSentinel, until } from '../support/redis-server.ts'
import { processOn, type Traffic, traffic } from '../support/traffic.ts'

/** Twelve are a minute. */
const KILLS = Number(process.env.KILLS ?? 4)
const SEED = Number(process.env.SEED ?? 1)
const EVERY = 5_000
const AWAY = 2_000
const LAG = 400
/** Seconds that a visit may wait for its store. */
const BUDGET = 2

const urlOf = ({ nodes }: RedisCluster) => `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`

/** What nobody caught. */
const watched = (t: TestContext) => {
  const faults: unknown[] = []
  const unhandled = (error: unknown) => faults.push(error)
  process.on('unhandledRejection', unhandled).on('uncaughtException', unhandled)
  t.after(() => process.off('unhandledRejection', unhandled).off('uncaughtException', unhandled))
  return () => faults
}

/** Ends the traffic, and judges all that visitors were told. */
const told = async (
  t: TestContext,
  visits: Traffic,
  errors: readonly string[],
  recoveries: readonly number[],
  since: number,
) => {
  const { history, stop, audit } = visits
  // Visitors do what they do by chance, and come as seldom as the machine lets them.
  const done = (op: string) => history.some((one) => one.op === op && one.status === 200)
  await until(() => ['login', 'again', 'logout', 'revoke', 'renew'].every(done))
  await stop()
  await audit()
  // The visits and the library run in this process: whatever the cluster does, its clock gives up in time.
  const most = ({ start, end }: { readonly start: number; readonly end: number }) =>
    BUDGET * 1000 + 100 + lateness(start, end)
  const verdict = judged(history, most)
  t.diagnostic(
    `${history.length} visits, ${recoveries.length} kills, answers ${JSON.stringify(verdict.byStatus)}, ${errors.length} errors, ${verdict.lost} increments lost, longest ${Math.round(verdict.longest)} ms, next master after ${recoveries.join(', ')} ms`,
  )
  const count = (op: string, status: number) => history.filter((one) => one.op === op && one.status === status).length
  const table = ['login', 'again', 'logout', 'revoke', 'renew', 'count', 'set', 'read'].map(
    (op) => `${op} ${[200, 409, 503].map((status) => count(op, status)).join('/')}`,
  )
  t.diagnostic(`200/409/503: ${table.join(', ')}`)
  assert.deepEqual(verdict.violations, [])
  assert.equal(
    errors.find((text) => /CROSSSLOT/.test(text)),
    undefined,
  )
  assert.ok((verdict.byStatus[503] ?? 0) > 0 || stoodStill(since), 'the kills were felt')
}

suite('masters that are killed', () => {
  test(`${KILLS} in turn under traffic: no acknowledged login or logout is lost, and nothing that ended comes back`, async (t) => {
    const cluster = await redisCluster()
    const url = urlOf(cluster)
    const backends = await Promise.all([0, 1].map(() => connectRedis(url, { waitReplicas: 1 })))
    for (const backend of backends) t.after(() => backend.close?.())
    const faults = watched(t)
    const errors: string[] = []
    const processes = backends.map((backend) => processOn(backend, errors, BUDGET))
    const since = now()
    const visits = traffic(processes, { visitors: 16, rest: 300, seed: SEED })
    const recoveries: number[] = []
    for (let kill = 0; kill < KILLS; kill++) {
      const next = sleep(EVERY)
      // Keys that lie with the first, the second and the third master.
      const key = ['b', 'c', 'a'][kill % 3] as string
      const { master, replica } = await cluster.nodesOf(key)
      // Every other time the replica is cut off before: what only the master has then is gone with it.
      const lag = kill % 2 === 0 ? undefined : await replica.pause()
      if (lag !== undefined) {
        await master.cli('client', 'kill', 'type', 'replica')
        await sleep(LAG)
      }
      await master.kill()
      lag?.resume()
      const started = now()
      const away = sleep(AWAY)
      await cluster.takenOver(replica)
      await until(async () => (await replica.cli('exists', key)) === '0')
      recoveries.push(Math.round(now() - started))
      await away
      await master.restart()
      await cluster.whole()
      await next
    }
    await told(t, visits, errors, recoveries, since)
    assert.deepEqual(faults(), [])
  })

  test('behind Sentinels, one and then the other: the same', async (t) => {
    const { sentinels, name, settled, takenOver } = await redisSentinel()
    const url = `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join()}/${name}`
    const backends = await Promise.all([0, 1].map(() => connectRedis(url, { waitReplicas: 1 })))
    for (const backend of backends) t.after(() => backend.close?.())
    const faults = watched(t)
    const errors: string[] = []
    const processes = backends.map((backend) => processOn(backend, errors, BUDGET))
    const since = now()
    const visits = traffic(processes, { visitors: 8, rest: 200, seed: SEED })
    const recoveries: number[] = []
    for (let kill = 0; kill < 2; kill++) {
      await sleep(1_500)
      const { master, replica } = await settled()
      const lag = kill === 0 ? undefined : await replica.pause()
      if (lag !== undefined) {
        await master.cli('client', 'kill', 'type', 'replica')
        await sleep(LAG)
      }
      await master.kill()
      lag?.resume()
      const started = now()
      await takenOver(replica)
      recoveries.push(Math.round(now() - started))
      await master.restart()
      // Sentinels would see to it, after ten seconds.
      await master.cli('replicaof', '127.0.0.1', `${replica.port}`)
      await settled()
    }
    await told(t, visits, errors, recoveries, since)
    assert.deepEqual(faults(), [])
  })
})
