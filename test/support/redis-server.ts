// Private Redis servers for tests: a single one, one behind Sentinels, or a cluster. They end with this process.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { waitUntilStopped } from './process.ts'
import { program, startServer } from './servers.ts'
import { eventually } from './until.ts'

export type RedisServer = {
  readonly port: number
  readonly url: string
  /** Runs redis-cli with these arguments, and returns its output. */
  cli(...args: readonly string[]): Promise<string>
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>
  /** Starts it again, empty, on the same port. */
  restart(...more: readonly string[]): Promise<void>
  /** Suspends its process, with open connections, until `resume` is called. */
  pause(): Promise<{ resume(): void }>
}

const run = promisify(execFile)
const installed = (name: string) => program(name, 'redis-server')

const QUIET = ['--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--repl-diskless-sync-delay', '0']

type ClusterNode = RedisServer & { readonly bus: number }

type ServerOptions = {
  /** The text of a configuration file. */
  readonly file?: string
  readonly options?: readonly string[]
  readonly ready?: RegExp
  /** Makes it a node of a cluster. */
  readonly cluster?: true
}

const server = async ({
  file,
  options = [],
  ready = /Ready to accept/,
  cluster,
}: ServerOptions): Promise<ClusterNode> => {
  const started = await startServer({
    program: installed('redis-server'),
    args: ({ port, bus }, folder) => [
      ...(file ? [`${folder}/own.conf`] : []),
      ...QUIET,
      ...['--port', `${port}`, '--dir', folder],
      ...options,
      // By default the bus has the port 10 000 above, which another process may have.
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
    (await run(installed('redis-cli'), ['-p', `${started.port}`, ...command])).stdout.trim()
  return {
    port: started.port,
    bus: started.bus,
    url: `redis://127.0.0.1:${started.port}`,
    cli,
    kill: started.kill,
    restart: started.restart,
    async pause() {
      const pid = Number(/process_id:(\d+)/.exec(await cli('info', 'server'))?.[1])
      process.kill(pid, 'SIGSTOP')
      await waitUntilStopped(pid)
      return { resume: () => process.kill(pid, 'SIGCONT') }
    },
  }
}

/** A single server, with these additional options of redis-server. */
export const redisServer = (...options: readonly string[]): Promise<RedisServer> => server({ options })

export type RedisPair = { readonly master: RedisServer; readonly replica: RedisServer }
export type RedisReplicated = RedisPair & {
  /** Waits until the replica has all data and follows the master. */
  synced(): Promise<void>
}

/** Whether the replica confirms a new command. Before it has confirmed its first state, it receives no commands. */
const inSync = async ({ port }: RedisServer) =>
  (
    await run('sh', ['-c', `printf 'publish a b\\nwait 1 100\\n' | "$0" -p ${port}`, installed('redis-cli')])
  ).stdout.endsWith('\n1\n')

/** A master and a replica that follows it. */
export const redisReplicated = async (): Promise<RedisReplicated> => {
  const master = await redisServer()
  const replica = await redisServer('--replicaof', '127.0.0.1', `${master.port}`)
  const synced = () => eventually(() => inSync(master))
  await synced()
  return { master, replica, synced }
}

/*
 * If a server has no time to answer, the others count it as dead, and replace it although it is alive. If a test then
 * kills the replacement, acknowledged writes are lost, and no client can prevent that. So the servers wait for a minute
 * before they replace another. Only after a test has killed a master, until another has replaced it, do they wait for
 * half a second.
 */
const SHORT_WAIT = '500'
const LONG_WAIT = '60000'

type Failover = {
  /** A test calls this after it has killed the master of this replica. Waits until the replica is master. */
  takenOver(replica: RedisServer): Promise<void>
}

/** @param setWait sets how long the servers wait before they replace a silent one */
const failover = (setWait: (milliseconds: string) => Promise<unknown>): Failover => ({
  async takenOver({ cli }) {
    await setWait(SHORT_WAIT)
    await eventually(async () => (await cli('role')).startsWith('master'))
    await setWait(LONG_WAIT)
  },
})

export type RedisSentinel = RedisReplicated &
  Failover & {
    readonly sentinels: readonly RedisServer[]
    readonly name: string
    /** Waits until one of the two is master, the other has all data and follows it, and all Sentinels know that. */
    settled(): Promise<RedisPair>
  }

/** A master and a replica with three Sentinels. Two Sentinels must agree to make the replica master. */
export const redisSentinel = async (): Promise<RedisSentinel> => {
  const name = 'mymaster'
  const pair = await redisReplicated()
  const config = [
    `sentinel monitor ${name} 127.0.0.1 ${pair.master.port} 2`,
    `sentinel down-after-milliseconds ${name} ${LONG_WAIT}`,
    `sentinel failover-timeout ${name} 3000`,
  ]
  const sentinels = await Promise.all([1, 2, 3].map(() => startSentinel(config)))
  const ask = (...words: readonly string[]) => Promise.all(sentinels.map(({ cli }) => cli('sentinel', ...words)))
  await eventually(async () => {
    const known = await ask('master', name)
    return known.every((lines) => /num-slaves\n1\n/.test(lines) && /num-other-sentinels\n2\n/.test(lines))
  })
  const settled = async (): Promise<RedisPair> => {
    let current: RedisPair = pair
    await eventually(async () => {
      const { master, replica } = current
      current = (await master.cli('role')).startsWith('master') ? current : { master: replica, replica: master }
      const masters = await ask('get-master-addr-by-name', name)
      const replicas = await ask('replicas', name)
      return (
        (await current.master.cli('role')).startsWith('master') &&
        (await current.replica.cli('info', 'replication')).includes('master_link_status:up') &&
        masters.every((lines) => lines.endsWith(`\n${current.master.port}`)) &&
        replicas.every(
          (lines) => lines.includes(`\n${current.replica.port}\n`) && !/flags\n.*(down|disconnected)/.test(lines),
        )
      )
    })
    return current
  }
  const setWait = (milliseconds: string) => ask('set', name, 'down-after-milliseconds', milliseconds)
  return { ...pair, sentinels, name, settled, ...failover(setWait) }
}

const startSentinel = (lines: readonly string[]): Promise<RedisServer> =>
  server({ file: lines.join('\n'), options: ['--sentinel'], ready: /Sentinel ID is/ })

export type RedisCluster = Failover & {
  readonly nodes: readonly RedisServer[]
  /** Returns the master that keeps this key now, and its replica. */
  nodesOf(key: string): Promise<RedisPair>
  /** Waits until all six servers run, each master has a replica that follows it, and all servers know that. */
  whole(): Promise<void>
}

/** Three masters with one replica each. */
export const redisCluster = async (): Promise<RedisCluster> => {
  const options = ['--cluster-node-timeout', SHORT_WAIT, '--cluster-replica-validity-factor', '0']
  const nodes = await Promise.all(Array.from({ length: 6 }, () => server({ cluster: true, options })))
  const addresses = nodes.map(({ port, bus }) => `127.0.0.1:${port}@${bus}`)
  await run(installed('redis-cli'), ['--cluster', 'create', ...addresses, '--cluster-replicas', '1', '--cluster-yes'])
  const whole = () =>
    eventually(async () => {
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
  // Not from the start: the servers exchange their knowledge less often with a long timeout. One of them may be down.
  const set = ({ cli }: RedisServer, milliseconds: string) =>
    cli('config', 'set', 'cluster-node-timeout', milliseconds).catch(() => {})
  const setWait = (milliseconds: string) => Promise.all(nodes.map((node) => set(node, milliseconds)))
  await setWait(LONG_WAIT)
  await whole()
  return {
    nodes,
    // A server that was started again has the short wait until then.
    async whole() {
      await whole()
      await setWait(LONG_WAIT)
      await whole()
    },
    ...failover(setWait),
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
