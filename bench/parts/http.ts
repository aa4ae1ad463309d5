// Over HTTP: the requests that one core of a server answers in a second, and the share of the same server without sessions.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, start } from '../child.ts'
import type { Contestant } from '../contestants/contestant.ts'
import { startMinter } from '../contestants/mint.ts'
import { cookieHeader, cookiesIn, IN_FLIGHT, type Workload } from '../workloads.ts'
import type { Load, LoadResult } from './http-load.ts'

/** Requests per second of CPU time, which is the rate of one busy core, and per second on the clock. */
export type Rate = { readonly core: number; readonly clock: number; readonly busy: number }

/** The rates of each round, by server and workload. */
export type Http = Map<string, Map<Workload, Rate[]>>

type Server = {
  readonly name: string
  /** The application that `http-child.ts` opens, and its host: node:http, or srvx with Requests. */
  readonly opens: readonly [name: string, host: 'node' | 'srvx']
  /** The server without sessions. */
  readonly bare: string
  readonly workloads: readonly Workload[]
  readonly contestant?: Contestant
}

const BARE: readonly Workload[] = ['read']
const bareServers: readonly Server[] = [
  { name: 'bare: node:http', opens: ['bare: node', 'node'], bare: '', workloads: BARE },
  { name: 'bare: srvx', opens: ['bare: fetch', 'srvx'], bare: '', workloads: BARE },
  { name: 'bare: fastify', opens: ['bare: fastify', 'node'], bare: '', workloads: BARE },
  { name: 'bare: express', opens: ['bare: express', 'node'], bare: '', workloads: BARE },
  { name: 'bare: hono', opens: ['bare: hono', 'node'], bare: '', workloads: BARE },
]

const serversOf = (contestant: Contestant): Server[] => {
  const { name, bare } = contestant
  const workloads = contestant.workloads.filter((workload) => workload !== 'write' && workload !== 'login')
  const server = { workloads, contestant }
  if (bare !== 'fetch') {
    const bareName = bare === 'node' ? 'bare: node:http' : `bare: ${bare}`
    return [{ ...server, name, opens: [name, 'node'], bare: bareName }]
  }
  const srvx: Server = { ...server, name: `${name}, srvx`, opens: [name, 'srvx'], bare: 'bare: srvx' }
  // `keepsake: memory, node:http` is a contestant of its own.
  if (name === 'keepsake: memory' || !name.startsWith('keepsake: ')) return [srvx]
  return [{ ...server, name: `${name}, node:http`, opens: [name, 'node'], bare: 'bare: node:http' }]
}

export const bareOf = (contestants: readonly Contestant[]): ReadonlyMap<string, string> =>
  new Map(contestants.flatMap(serversOf).map(({ name, bare }) => [name, bare]))

type Plan = {
  readonly folder: string
  readonly rounds: number
  readonly seconds: number
  readonly say: (line: string) => void
}

type RunningServer = {
  readonly server: Server
  readonly child: Child
  readonly url: string
  readonly cookies: readonly string[]
  readonly mint?: (count: number) => Promise<string[]>
}

const cookiesFrom = async (url: string): Promise<string[]> => {
  const cookies: string[] = []
  while (cookies.length < IN_FLIGHT) {
    const response = await fetch(`${url}/login`, { headers: { cookie: cookieHeader(undefined) } })
    cookies.push(cookiesIn(response.headers.getSetCookie()) ?? '')
  }
  return cookies
}

const startServer = async (server: Server, folder: string): Promise<RunningServer> => {
  mkdirSync(folder, { recursive: true })
  const child = start('http-child.ts', [...server.opens, folder])
  const url = `http://127.0.0.1:${await child.ask<number>('port')}`
  const { contestant } = server
  const cookies = await cookiesFrom(url)
  return { server, child, url, cookies, ...(contestant?.firstSight && { mint: startMinter(contestant.name, folder) }) }
}

export const http = async (contestants: readonly Contestant[], plan: Plan): Promise<Http> => {
  const { folder, rounds, seconds, say } = plan
  const competing = contestants.filter(({ socketless }) => !socketless).flatMap(serversOf)
  const needed = bareServers.filter(({ name }) => competing.some(({ bare }) => bare === name))
  const results: Http = new Map()
  const servers: RunningServer[] = []
  const load = start('http-load.ts')

  const measure = async (
    { child, url, cookies, mint }: RunningServer,
    workload: Workload,
    long: number,
  ): Promise<Rate> => {
    const tokens = mint && (await mint(Math.ceil(60_000 * long)))
    const before = await child.ask<number>('cpu')
    const { requests, seconds: clock } = await load.ask<LoadResult>({
      url: `${url}/${workload}`,
      seconds: long,
      connections: IN_FLIGHT,
      cookies: workload === 'anonymous' ? undefined : (tokens ?? cookies),
      once: tokens !== undefined,
    } satisfies Load)
    const cpu = ((await child.ask<number>('cpu')) - before) / 1e6
    return { core: requests / cpu, clock: requests / clock, busy: cpu / clock }
  }

  try {
    for (const [at, server] of [...needed, ...competing].entries()) {
      const running = await startServer(server, join(folder, `http-${at}`))
      servers.push(running)
      results.set(server.name, new Map(server.workloads.map((workload) => [workload, []])))
      say(`warming up: ${server.name}`)
      for (const workload of server.workloads) await measure(running, workload, 1)
    }
    for (let round = 1; round <= rounds; round++) {
      say(`over HTTP, round ${round} of ${rounds}`)
      for (const running of round % 2 === 1 ? servers : servers.toReversed()) {
        const { name, workloads } = running.server
        for (const workload of workloads)
          results
            .get(name)
            ?.get(workload)
            ?.push(await measure(running, workload, seconds))
      }
    }
  } finally {
    load.end()
    for (const { child } of servers) child.end()
  }
  return results
}
