// Private Redis servers on loopback ports of their own: one alone, one behind Sentinels, or a cluster; they end with this process.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { stopped } from './process.ts'
import { program, started } from './servers.ts'

export type RedisServer = {
  readonly port: number
  readonly url: string
  /** What redis-cli prints for a command. */
  cli(...args: readonly string[]): Promise<string>
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>
  /** Starts it again, empty, on the same port. */
  restart(): Promise<void>
  /** Makes it stand still, its connections open; `resume` lets it go on. */
  pause(): Promise<{ resume(): void }>
}

const run = promisify(execFile)
const installed = (name: string) => program(name, 'redis-server')

/** Waits until a condition holds, looking often; the test's own timeout ends it. */
export const until = async (condition: () => Promise<unknown> | unknown): Promise<void> => {
  const holds = async () => condition()
  while (!(await holds().catch(() => false))) await new Promise((resolve) => setTimeout(resolve, 10))
}

const QUIET = ['--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--repl-diskless-sync-delay', '0']

type ClusterNode = RedisServer & { readonly bus: number }

type Making = {
  readonly file?: string
  readonly options?: readonly string[]
  readonly ready?: RegExp
  /** Whether it is to be a node of a cluster. */
  readonly cluster?: true
}

const server = async ({ file, options = [], ready = /Ready to accept/, cluster }: Making): Promise<ClusterNode> => {
  const made = await started({
    program: installed('redis-server'),
    args: ({ port, bus }, folder) => [
      ...(file ? [`${folder}/own.conf`] : []),
      ...QUIET,
      ...['--port', `${port}`, '--dir', folder],
      ...options,
      // Its bus would be 10 000 above, on a port that may be somebody's.
      ...(cluster
        ? ['--cluster-enabled', 'yes', '--cluster-config-file', 'nodes.conf', '--cluster-port', `${bus}`]
        : []),
    ],
    ...(file && {
      prepare: (folder: string) => ['sh', ['-c', 'printf "%s" "$1" > "$2"', 'sh', file, `${folder}/own.conf`]] as const,
    }),
    ready,
    signal: 'SIGKILL',
  })
  const cli = async (...command: readonly string[]) =>
    (await run(installed('redis-cli'), ['-p', `${made.port}`, ...command])).stdout.trim()
  return {
    port: made.port,
    bus: made.bus,
    url: `redis://127.0.0.1:${made.port}`,
    cli,
    kill: made.kill,
    restart: made.restart,
    async pause() {
      const pid = Number(/process_id:(\d+)/.exec(await cli('info', 'server'))?.[1])
      process.kill(pid, 'SIGSTOP')
      await stopped(pid)
      return { resume: () => process.kill(pid, 'SIGCONT') }
    },
  }
}

/** A server alone, with these options of redis-server beside the usual. */
export const redisServer = (...options: readonly string[]): Promise<RedisServer> => server({ options })

export type RedisPair = { readonly master: RedisServer; readonly replica: RedisServer }
export type RedisReplicated = RedisPair & {
  /** Waits until the replica has all and follows. */
  synced(): Promise<void>
}

/** Whether the replica confirms what was just sent to it: it is sent nothing until it has confirmed its first state. */
const inSync = async ({ port }: RedisServer) =>
  (
    await run('sh', ['-c', `printf 'publish a b\\nwait 1 100\\n' | "$0" -p ${port}`, installed('redis-cli')])
  ).stdout.endsWith('\n1\n')

/** A master and a replica that follows it. */
export const redisReplicated = async (): Promise<RedisReplicated> => {
  const master = await redisServer()
  const replica = await redisServer('--replicaof', '127.0.0.1', `${master.port}`)
  const synced = () => until(() => inSync(master))
  await synced()
  return { master, replica, synced }
}

/*
 * A server that has no time to answer looks dead to the others, and they put another in its place while it lives. If a test
 * then kills that other, what both had acknowledged is gone, and no client can do anything about it. So they wait for a
 * minute, and are hasty only from when a test has killed a master until another is there.
 */
const HASTY = '500'
const PATIENT = '60000'

type Replacing = {
  /** To be called when the master of this replica was killed: waits until the replica is master. */
  takenOver(replica: RedisServer): Promise<void>
}

const replacing = (wait: (milliseconds: string) => Promise<unknown>): Replacing => ({
  async takenOver({ cli }) {
    await wait(HASTY)
    await until(async () => (await cli('role')).startsWith('master'))
    await wait(PATIENT)
  },
})

export type RedisSentinel = RedisReplicated &
  Replacing & {
    readonly sentinels: readonly RedisServer[]
    readonly name: string
    /** Waits until one of the two is master, the other has all and follows, and all Sentinels know; gives them in this order. */
    settled(): Promise<RedisPair>
  }

/** A master and a replica, watched by three Sentinels that take two of them to make the replica master. */
export const redisSentinel = async (): Promise<RedisSentinel> => {
  const name = 'mymaster'
  const pair = await redisReplicated()
  const watching = [
    `sentinel monitor ${name} 127.0.0.1 ${pair.master.port} 2`,
    `sentinel down-after-milliseconds ${name} ${PATIENT}`,
    `sentinel failover-timeout ${name} 3000`,
  ]
  const sentinels = await Promise.all([1, 2, 3].map(() => sentinel(watching)))
  const asked = (...words: readonly string[]) => Promise.all(sentinels.map(({ cli }) => cli('sentinel', ...words)))
  await until(async () => {
    const known = await asked('master', name)
    return known.every((lines) => /num-slaves\n1\n/.test(lines) && /num-other-sentinels\n2\n/.test(lines))
  })
  const settled = async (): Promise<RedisPair> => {
    let found: RedisPair = pair
    await until(async () => {
      const { master, replica } = found
      found = (await master.cli('role')).startsWith('master') ? found : { master: replica, replica: master }
      const masters = await asked('get-master-addr-by-name', name)
      const replicas = await asked('replicas', name)
      return (
        (await found.master.cli('role')).startsWith('master') &&
        (await found.replica.cli('info', 'replication')).includes('master_link_status:up') &&
        masters.every((lines) => lines.endsWith(`\n${found.master.port}`)) &&
        replicas.every(
          (lines) => lines.includes(`\n${found.replica.port}\n`) && !/flags\n.*(down|disconnected)/.test(lines),
        )
      )
    })
    return found
  }
  const wait = (milliseconds: string) => asked('set', name, 'down-after-milliseconds', milliseconds)
  return { ...pair, sentinels, name, settled, ...replacing(wait) }
}

const sentinel = (lines: readonly string[]): Promise<RedisServer> =>
  server({ file: lines.join('\n'), options: ['--sentinel'], ready: /Sentinel ID is/ })

export type RedisCluster = Replacing & {
  readonly nodes: readonly RedisServer[]
  /** The master that keeps this key now, and its replica. */
  nodesOf(key: string): Promise<RedisPair>
  /** Waits until all six are up, each master has a replica that follows it, and all of them know. */
  whole(): Promise<void>
}

/** Three masters with a replica each. */
export const redisCluster = async (): Promise<RedisCluster> => {
  const options = ['--cluster-node-timeout', HASTY, '--cluster-replica-validity-factor', '0']
  const nodes = await Promise.all(Array.from({ length: 6 }, () => server({ cluster: true, options })))
  const addresses = nodes.map(({ port, bus }) => `127.0.0.1:${port}@${bus}`)
  await run(installed('redis-cli'), ['--cluster', 'create', ...addresses, '--cluster-replicas', '1', '--cluster-yes'])
  const whole = () =>
    until(async () => {
      const states = await Promise.all(
        nodes.map(async ({ cli }) => [await cli('cluster', 'info'), await cli('cluster', 'nodes'), await cli('info')]),
      )
      return states.every(
        ([info = '', known = '', all = '']) =>
          info.includes('cluster_state:ok') &&
          known.match(/ (myself,)?slave /g)?.length === 3 &&
          known.match(/ (myself,)?master .* \d+-\d+/g)?.length === 3 &&
          !/fail|noaddr|handshake/.test(known) &&
          (all.includes('role:master') ? all.includes('connected_slaves:1') : all.includes('master_link_status:up')),
      )
    })
  await whole()
  // Not from the start: how often they tell each other what they know depends on it. One of them may be down.
  const set = ({ cli }: RedisServer, milliseconds: string) =>
    cli('config', 'set', 'cluster-node-timeout', milliseconds).catch(() => {})
  const wait = (milliseconds: string) => Promise.all(nodes.map((node) => set(node, milliseconds)))
  await wait(PATIENT)
  await whole()
  return {
    nodes,
    /** Who was started again is hasty until then. */
    async whole() {
      await whole()
      await wait(PATIENT)
      await whole()
    },
    ...replacing(wait),
    async nodesOf(key) {
      const alive = await Promise.any(nodes.map(async ({ cli }) => ({ cli, pong: await cli('ping') })))
      const slot = Number(await alive.cli('cluster', 'keyslot', key))
      const lines = (await alive.cli('cluster', 'nodes')).split('\n').map((line) => line.split(' '))
      const master = lines.find(([, , flags = '', , , , , , ...slots]) =>
        slots.some((range) => {
          const [from = 0, to = from] = range.split('-').map(Number)
          return !flags.includes('fail') && from <= slot && slot <= to
        }),
      )
      const replica = lines.find(([, , flags, of]) => flags?.includes('slave') && of === master?.[0])
      const at = (line: readonly string[] | undefined) =>
        nodes.find(({ port }) => line?.[1]?.includes(`:${port}@`)) as RedisServer
      return { master: at(master), replica: at(replica) }
    },
  }
}
