// The masters of a Redis Cluster are killed one after another under traffic: no acknowledged change is undone.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectRedis } from 'keepsake/redis'
import { judge } from '../support/history.ts'
import { hasStalled, lateness, now } from '../support/lost.ts'
import { type RedisCluster, type RedisServer, redisCluster, redisSentinel } from '../support/redis-server.ts'
import { localProcess, type Traffic, traffic } from '../support/traffic.ts'
import { eventually } from '../support/until.ts'

/** Twelve kills take a minute. */
const KILLS = Number(process.env.KILLS ?? 4)
const SEED = Number(process.env.SEED ?? 1)
/** Milliseconds from one kill to the next, until a killed master starts again, and that a replica is cut off before. */
const INTERVAL = 5_000
const DOWNTIME = 2_000
const LAG = 400
/** Seconds that a request may wait for its store. */
const STORE_TIMEOUT = 2

const urlOf = ({ nodes }: RedisCluster) => `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join()}`

/** Collects the errors that no code catches during the test. */
const collectUncaught = (t: TestContext) => {
  const uncaught: unknown[] = []
  const unhandled = (error: unknown) => uncaught.push(error)
  process.on('unhandledRejection', unhandled).on('uncaughtException', unhandled)
  t.after(() => process.off('unhandledRejection', unhandled).off('uncaughtException', unhandled))
  return () => uncaught
}

type RunningTraffic = {
  readonly visitors: Traffic
  /** The errors that the processes reported. */
  readonly errors: readonly string[]
  /** The errors that no code caught. */
  readonly uncaught: () => readonly unknown[]
  /** The time of its start. */
  readonly since: number
}

/** Starts visitors of two processes that store their sessions at this URL. */
const startTraffic = async (
  t: TestContext,
  url: string,
  options: { readonly visitors: number; readonly rest: number },
): Promise<RunningTraffic> => {
  const backends = await Promise.all([0, 1].map(() => connectRedis(url, { waitReplicas: 1 })))
  for (const backend of backends) t.after(() => backend.close?.())
  const uncaught = collectUncaught(t)
  const errors: string[] = []
  const processes = backends.map((backend) => localProcess(backend, errors, STORE_TIMEOUT))
  const since = now()
  return { visitors: traffic(processes, { ...options, seed: SEED }), errors, uncaught, since }
}

/**
 * Kills a master.
 *
 * @param isCutOff true to cut off its replica before, so that the last writes are lost with the master
 */
const killMaster = async (master: RedisServer, replica: RedisServer, isCutOff: boolean) => {
  const pausedReplica = isCutOff ? await replica.pause() : undefined
  if (isCutOff) {
    await master.cli('client', 'kill', 'type', 'replica')
    await sleep(LAG)
  }
  await master.kill()
  pausedReplica?.resume()
}

/** Ends the traffic, and checks its log. */
const checkTraffic = async (
  t: TestContext,
  { visitors, errors, uncaught, since }: RunningTraffic,
  recoveries: readonly number[],
) => {
  const { history, stop, audit } = visitors
  // Visitors choose requests at random, and a slow machine lets them make only a few.
  const hasSucceeded = (op: string) => history.some((request) => request.op === op && request.status === 200)
  await eventually(() => ['login', 'relogin', 'logout', 'revoke', 'rotate'].every(hasSucceeded))
  await stop()
  await audit()
  // The requests and the library run in this process, so the time limit holds even if the cluster does not answer.
  const limitOf = ({ start, end }: { readonly start: number; readonly end: number }) =>
    STORE_TIMEOUT * 1000 + 100 + lateness(start, end)
  const verdict = judge(history, limitOf)
  t.diagnostic(
    `${history.length} requests, ${recoveries.length} kills, answers ${JSON.stringify(verdict.byStatus)}, ${errors.length} errors, ${verdict.lost} increments lost, longest ${Math.round(verdict.longest)} ms, next master after ${recoveries.join(', ')} ms`,
  )
  const count = (op: string, status: number) =>
    history.filter((request) => request.op === op && request.status === status).length
  const table = ['login', 'relogin', 'logout', 'revoke', 'rotate', 'count', 'set', 'read'].map(
    (op) => `${op} ${[200, 409, 503].map((status) => count(op, status)).join('/')}`,
  )
  t.diagnostic(`200/409/503: ${table.join(', ')}`)
  assert.deepEqual(verdict.violations, [])
  assert.equal(
    errors.find((text) => /CROSSSLOT/.test(text)),
    undefined,
  )
  assert.ok((verdict.byStatus[503] ?? 0) > 0 || hasStalled(since), 'some requests failed because of the kills')
  assert.deepEqual(uncaught(), [])
}

suite('killed masters', () => {
  test(`${KILLS} one after another under traffic: no acknowledged login or logout is lost, and no ended session comes back`, async (t) => {
    const cluster = await redisCluster()
    const running = await startTraffic(t, urlOf(cluster), { visitors: 16, rest: 300 })
    const recoveries: number[] = []
    for (let kill = 0; kill < KILLS; kill++) {
      const next = sleep(INTERVAL)
      // Keys of the first, the second and the third master.
      const key = ['b', 'c', 'a'][kill % 3] as string
      const { master, replica } = await cluster.nodesOf(key)
      // Every other time, the last writes are lost with the master.
      await killMaster(master, replica, kill % 2 !== 0)
      const started = now()
      const downtime = sleep(DOWNTIME)
      await cluster.takenOver(replica)
      await eventually(async () => (await replica.cli('exists', key)) === '0')
      recoveries.push(Math.round(now() - started))
      await downtime
      await master.restart()
      await cluster.whole()
      await next
    }
    await checkTraffic(t, running, recoveries)
  })

  test('one and then the other behind Sentinels: no acknowledged login or logout is lost, and no ended session comes back', async (t) => {
    const { sentinels, name, settled, takenOver } = await redisSentinel()
    const url = `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join()}/${name}`
    const running = await startTraffic(t, url, { visitors: 8, rest: 200 })
    const recoveries: number[] = []
    for (let kill = 0; kill < 2; kill++) {
      await sleep(1_500)
      const { master, replica } = await settled()
      await killMaster(master, replica, kill !== 0)
      const started = now()
      await takenOver(replica)
      recoveries.push(Math.round(now() - started))
      // Alone it would be a master with old data for a moment, and a client that connects late would read from it.
      await master.restart('--replicaof', '127.0.0.1', `${replica.port}`)
      await settled()
    }
    await checkTraffic(t, running, recoveries)
  })
})
