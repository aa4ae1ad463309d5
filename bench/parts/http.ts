// Over HTTP: how many requests one core of a server would answer in a second, and the share of the same server bare.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, start } from '../child.ts'
import type { Contestant } from '../contestants/contestant.ts'
import { minter } from '../contestants/mint.ts'
import { cookieHeader, IN_FLIGHT, keptOf, type Workload } from '../workloads.ts'
import type { Load, Loaded } from './http-load.ts'

/** Requests by second of CPU time, as one busy core would answer them; and by second on the clock. */
export type Rate = { readonly core: number; readonly clock: number; readonly busy: number }

/** By server and workload: the rates of each round. */
export type Http = Map<string, Map<Workload, Rate[]>>

type Server = {
  readonly name: string
  /** What `http-child.ts` opens, and over which bridge. */
  readonly opens: readonly [name: string, bridge: string]
  /** The server without sessions. */
  readonly bare: string
  readonly workloads: readonly Workload[]
  readonly contestant?: Contestant
}

const BARE: readonly Workload[] = ['read']
const bareServers: readonly Server[] = [
  { name: 'bare: node:http', opens: ['bare: node', 'none'], bare: '', workloads: BARE },
  { name: 'bare: thin bridge', opens: ['bare: fetch', 'thin'], bare: '', workloads: BARE },
  { name: 'bare: srvx', opens: ['bare: fetch', 'srvx'], bare: '', workloads: BARE },
  { name: 'bare: fastify', opens: ['bare: fastify', 'none'], bare: '', workloads: BARE },
  { name: 'bare: express', opens: ['bare: express', 'none'], bare: '', workloads: BARE },
]

const serversOf = (contestant: Contestant): Server[] => {
  const { name, bare } = contestant
  const workloads = contestant.workloads.filter((workload) => workload !== 'write' && workload !== 'login')
  const server = { workloads, contestant }
  if (bare !== 'fetch') {
    const bareName = bare === 'node' ? 'bare: node:http' : `bare: ${bare}`
    return [{ ...server, name, opens: [name, 'none'], bare: bareName }]
  }
  const thin: Server = { ...server, name: `${name}, thin bridge`, opens: [name, 'thin'], bare: 'bare: thin bridge' }
  const srvx: Server = { ...server, name: `${name}, srvx`, opens: [name, 'srvx'], bare: 'bare: srvx' }
  return name === 'keepsake: memory' ? [thin, srvx] : [thin]
}

export const bareOf = (contestants: readonly Contestant[]): ReadonlyMap<string, string> =>
  new Map(contestants.flatMap(serversOf).map(({ name, bare }) => [name, bare]))

type Plan = {
  readonly folder: string
  readonly rounds: number
  readonly seconds: number
  readonly say: (line: string) => void
}

type Seat = {
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
    cookies.push(keptOf(response.headers.getSetCookie()) ?? '')
  }
  return cookies
}

const seated = async (server: Server, folder: string): Promise<Seat> => {
  mkdirSync(folder, { recursive: true })
  const child = start('http-child.ts', [...server.opens, folder])
  const url = `http://127.0.0.1:${await child.ask<number>('port')}`
  const { contestant } = server
  const cookies = await cookiesFrom(url)
  return { server, child, url, cookies, ...(contestant?.firstSight && { mint: minter(contestant.name, folder) }) }
}

export const http = async (contestants: readonly Contestant[], plan: Plan): Promise<Http> => {
  const { folder, rounds, seconds, say } = plan
  const competing = contestants.filter(({ socketless }) => !socketless).flatMap(serversOf)
  const needed = bareServers.filter(({ name }) => competing.some(({ bare }) => bare === name))
  const results: Http = new Map()
  const seats: Seat[] = []
  const load = start('http-load.ts')

  const turn = async ({ child, url, cookies, mint }: Seat, workload: Workload, long: number): Promise<Rate> => {
    const tokens = mint && (await mint(Math.ceil(60_000 * long)))
    const before = await child.ask<number>('cpu')
    const { requests, seconds: clock } = await load.ask<Loaded>({
      url: `${url}/${workload}`,
      seconds: long,
      connections: IN_FLIGHT,
      cookies: workload === 'stranger' ? undefined : (tokens ?? cookies),
      once: tokens !== undefined,
    } satisfies Load)
    const cpu = ((await child.ask<number>('cpu')) - before) / 1e6
    return { core: requests / cpu, clock: requests / clock, busy: cpu / clock }
  }

  try {
    for (const [at, server] of [...needed, ...competing].entries()) {
      const seat = await seated(server, join(folder, `http-${at}`))
      seats.push(seat)
      results.set(server.name, new Map(server.workloads.map((workload) => [workload, []])))
      say(`warming up: ${server.name}`)
      for (const workload of server.workloads) await turn(seat, workload, 1)
    }
    for (let round = 1; round <= rounds; round++) {
      say(`over HTTP, round ${round} of ${rounds}`)
      for (const seat of round % 2 === 1 ? seats : seats.toReversed()) {
        const { name, workloads } = seat.server
        for (const workload of workloads)
          results
            .get(name)
            ?.get(workload)
            ?.push(await turn(seat, workload, seconds))
      }
    }
  } finally {
    load.end()
    for (const { child } of seats) child.end()
  }
  return results
}
