// Private Redis servers on free loopback ports: one alone, one behind Sentinels, or a cluster; they end with this process.

import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { freePort, program, started } from './servers.ts'

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

/** The bus of a cluster is 10 000 above. */
const lowPort = async (): Promise<number> => {
  for (;;) {
    const port = await freePort()
    if (port < 55_536) return port
  }
}

const QUIET = ['--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--repl-diskless-sync-delay', '0']

type Making = {
  readonly file?: string
  readonly options?: readonly string[]
  readonly ready?: RegExp
  readonly port?: number
}

const server = async ({ file, options = [], ready = /Ready to accept/, port }: Making): Promise<RedisServer> => {
  const made = await started(
    {
      program: installed('redis-server'),
      args: (port, folder) => [
        ...(file ? [`${folder}/own.conf`] : []),
        ...QUIET,
        '--port',
        `${port}`,
        '--dir',
        folder,
        ...options,
      ],
      ...(file && {
        prepare: (folder: string) =>
          ['sh', ['-c', 'printf "%s" "$1" > "$2"', 'sh', file, `${folder}/own.conf`]] as const,
      }),
      ready,
      signal: 'SIGKILL',
    },
    port,
  )
  const cli = async (...command: readonly string[]) =>
    (await run(installed('redis-cli'), ['-p', `${made.port}`, ...command])).stdout.trim()
  return {
    port: made.port,
    url: `redis://127.0.0.1:${made.port}`,
    cli,
    kill: made.kill,
    restart: made.restart,
    async pause() {
      const pid = Number(/process_id:(\d+)/.exec(await cli('info', 'server'))?.[1])
      process.kill(pid, 'SIGSTOP')
      // It may go on for a moment, and Linux says when it does not any more.
      const state = `/proc/${pid}/stat`
      await until(() => !existsSync(state) || /\) [Tt] /.test(readFileSync(state, 'latin1')))
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

export type RedisSentinel = RedisReplicated & { readonly sentinels: readonly RedisServer[]; readonly name: string }

/** A master and a replica, watched by three Sentinels that take two of them to make the replica master. */
export const redisSentinel = async (): Promise<RedisSentinel> => {
  const name = 'mymaster'
  const pair = await redisReplicated()
  const watching = [
    `sentinel monitor ${name} 127.0.0.1 ${pair.master.port} 2`,
    `sentinel down-after-milliseconds ${name} 500`,
    `sentinel failover-timeout ${name} 3000`,
  ]
  const sentinels = await Promise.all([1, 2, 3].map(() => sentinel(watching)))
  await until(async () => {
    const known = await Promise.all(sentinels.map(({ cli }) => cli('sentinel', 'master', name)))
    return known.every((lines) => /num-slaves\n1\n/.test(lines) && /num-other-sentinels\n2\n/.test(lines))
  })
  return { ...pair, sentinels, name }
}

const sentinel = (lines: readonly string[]): Promise<RedisServer> =>
  server({ file: lines.join('\n'), options: ['--sentinel'], ready: /Sentinel ID is/ })

export type RedisCluster = {
  readonly nodes: readonly RedisServer[]
  /** The master that keeps this key now, and its replica. */
  nodesOf(key: string): Promise<RedisPair>
  /** Waits until all six are up, each master has a replica that follows it, and all of them know. */
  whole(): Promise<void>
}

/** Three masters with a replica each. */
export const redisCluster = async (): Promise<RedisCluster> => {
  const options = ['--cluster-enabled', 'yes', '--cluster-config-file', 'nodes.conf']
  options.push('--cluster-node-timeout', '500', '--cluster-replica-validity-factor', '0')
  const nodes = await Promise.all(Array.from({ length: 6 }, async () => server({ port: await lowPort(), options })))
  const addresses = nodes.map(({ port }) => `127.0.0.1:${port}`)
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
  return {
    nodes,
    whole,
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
