// In process: the cost that a session adds to a request, for each contestant and round, without a socket.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, start } from '../child.ts'
import type { Contestant } from '../contestants/contestant.ts'
import type { Workload } from '../workloads.ts'
import type { Question, Taken } from './in-process-child.ts'

/** The cost of each round, by contestant and workload. */
export type InProcess = Map<string, Map<Workload, Taken[]>>

/** One thread for garbage collection, because waiting threads of the collector count as CPU time, and their number varies. */
const NODE_FLAGS = ['--single-threaded-gc']

type Plan = {
  readonly folder: string
  readonly rounds: number
  readonly leg: number
  /** Whether to measure single requests too. */
  readonly alone?: boolean
  /** Environment variables of the contestants' processes. */
  readonly env?: Readonly<Record<string, string>>
  readonly say: (line: string) => void
}

export const inProcess = async (contestants: readonly Contestant[], plan: Plan): Promise<InProcess> => {
  const { folder, rounds, leg, alone = false, env, say } = plan
  const running: { readonly contestant: Contestant; readonly child: Child }[] = []
  const results: InProcess = new Map()
  const measure = async (child: Child, workload: Workload) =>
    child.ask<Taken | undefined>({ workload, leg, alone } satisfies Question)
  try {
    for (const [at, contestant] of contestants.entries()) {
      const directory = join(folder, `in-process-${at}`)
      mkdirSync(directory, { recursive: true })
      const child = start('in-process-child.ts', [contestant.name, directory], NODE_FLAGS, env)
      running.push({ contestant, child })
      results.set(contestant.name, new Map(contestant.workloads.map((workload) => [workload, []])))
      say(`warming up: ${contestant.name}`)
      // The first question about a workload only warms it up.
      for (const workload of contestant.workloads) await measure(child, workload)
    }
    for (let round = 1; round <= rounds; round++) {
      say(`in process, round ${round} of ${rounds}`)
      // Every second round runs in reverse, so that no contestant always follows the same one.
      const order = round % 2 === 1 ? running : running.toReversed()
      for (const { contestant, child } of order) {
        for (const workload of contestant.workloads) {
          const taken = await measure(child, workload)
          if (taken !== undefined) results.get(contestant.name)?.get(workload)?.push(taken)
        }
      }
    }
  } finally {
    for (const { child } of running) child.end()
  }
  return results
}
