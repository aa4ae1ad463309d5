// In process: what a session adds to a visit, contestant by contestant and round by round, without a socket.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, start } from '../child.ts'
import type { Contestant } from '../contestants/contestant.ts'
import type { Workload } from '../workloads.ts'
import type { Taken, Turn } from './in-process-child.ts'

/** By contestant and workload: what each round took. */
export type InProcess = Map<string, Map<Workload, Taken[]>>

/** Threads of the collector that wait for each other would count as work, now more, now less. */
const STEADY = ['--single-threaded-gc']

type Plan = {
  readonly folder: string
  readonly rounds: number
  readonly leg: number
  /** Visits one at a time are timed, too. */
  readonly alone?: boolean
  /** Of the contestants' processes. */
  readonly env?: Readonly<Record<string, string>>
  readonly say: (line: string) => void
}

export const inProcess = async (contestants: readonly Contestant[], plan: Plan): Promise<InProcess> => {
  const { folder, rounds, leg, alone = false, env, say } = plan
  const seats: { readonly contestant: Contestant; readonly child: Child }[] = []
  const results: InProcess = new Map()
  const turn = async (child: Child, workload: Workload) =>
    child.ask<Taken | undefined>({ workload, leg, alone } satisfies Turn)
  try {
    for (const [at, contestant] of contestants.entries()) {
      const home = join(folder, `in-process-${at}`)
      mkdirSync(home, { recursive: true })
      const child = start('in-process-child.ts', [contestant.name, home], STEADY, env)
      seats.push({ contestant, child })
      results.set(contestant.name, new Map(contestant.workloads.map((workload) => [workload, []])))
      say(`warming up: ${contestant.name}`)
      // The first turn of a workload warms it up and measures nothing.
      for (const workload of contestant.workloads) await turn(child, workload)
    }
    for (let round = 1; round <= rounds; round++) {
      say(`in process, round ${round} of ${rounds}`)
      // Every other round runs backwards, so that nobody is always behind the same one.
      const order = round % 2 === 1 ? seats : seats.toReversed()
      for (const { contestant, child } of order) {
        for (const workload of contestant.workloads) {
          const taken = await turn(child, workload)
          if (taken !== undefined) results.get(contestant.name)?.get(workload)?.push(taken)
        }
      }
    }
  } finally {
    for (const { child } of seats) child.end()
  }
  return results
}
