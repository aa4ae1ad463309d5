// One contestant and its bare application in a process of their own: the code of others does not slow theirs.

import { setImmediate } from 'node:timers/promises'
import { openBare } from './bare.ts'
import { answering } from './child.ts'
import type { App, Raw } from './contestant.ts'
import { named } from './contestants.ts'
import { minter } from './mint.ts'
import { loggedIn, rehearse, stage, type Visit } from './stage.ts'
import { IN_FLIGHT, SESSIONS, type Workload } from './workloads.ts'

/** A turn has three spells of four legs; `leg` is the milliseconds of CPU time that one leg should take. */
export type Turn = { readonly workload: Workload; readonly leg: number }

/** Microseconds of CPU time, of all threads, that one visit takes: without sessions, and with them. */
export type Taken = { readonly bare: number; readonly with: number }

const SPELLS = 3

const [name = '', folder = ''] = process.argv.slice(2)
const contestant = named(name)
const jar: string[] = []
let turns = 0
const next = () => turns++

const spent = ({ user, system }: NodeJS.CpuUsage): number => user + system

/** One batch of visits. */
type Batch = () => unknown

/** Microseconds that one visit takes, in as many batches. */
const measured = async (batch: Batch, batches: number): Promise<number> => {
  // The rubbish of the leg before is not on this one's account.
  globalThis.gc?.({ type: 'minor' })
  const before = process.cpuUsage()
  for (let done = 0; done < batches; done++) {
    await batch()
    // As between two requests: what waits for the end of a task gets its turn.
    await setImmediate()
  }
  return spent(process.cpuUsage(before)) / (batches * IN_FLIGHT)
}

const withCookie = (workload: Workload): boolean => workload !== 'stranger' && workload !== 'login'

/** Every session in its turn, so that no two visits of a batch have the same one. */
const visits = (visit: Visit, workload: Workload): Batch => {
  const one = () => visit(workload, withCookie(workload) ? jar[next() % SESSIONS] : undefined)
  return () => Promise.all(Array.from({ length: IN_FLIGHT }, one))
}

const firstVisits = (visit: Visit, workload: Workload, tokens: string[]): Batch => {
  const one = () => visit(workload, tokens.pop())
  return () => Promise.all(Array.from({ length: IN_FLIGHT }, one))
}

const rawOperations = (operation: (at: number) => unknown): Batch => {
  return () => {
    for (let done = 0; done < IN_FLIGHT; done++) operation(next())
  }
}

const app: App | Raw = await contestant.open(folder)
const bareApp = await openBare(contestant.bare)
const visit = app.kind === 'raw' ? undefined : stage(app)
const bareVisit = bareApp && stage(bareApp)
const mint = contestant.firstSight ? minter(name, folder) : undefined

if (visit !== undefined) {
  await rehearse(visit)
  while (jar.length < SESSIONS) jar.push(await loggedIn(visit))
}

/** A leg with sessions. What it needs is made before the clock starts. */
const legWith = async (workload: Workload, batches: number): Promise<number> => {
  if (app.kind === 'raw') {
    const operation = app.operations[workload]
    if (operation === undefined) throw new Error(`${name} has no ${workload}.`)
    return measured(rawOperations(operation), batches)
  }
  if (visit === undefined) throw new Error('Nothing to visit.')
  if (mint === undefined) return measured(visits(visit, workload), batches)
  const tokens = await mint(batches * IN_FLIGHT)
  return measured(firstVisits(visit, workload, tokens), batches)
}

const legBare = async (workload: Workload, batches: number): Promise<number> =>
  bareVisit === undefined ? 0 : measured(visits(bareVisit, workload), batches)

/** How many batches make a leg, by workload; found out once, and after everything is warm. */
const sizes = new Map<Workload, number>()

const warm = async (workload: Workload, leg: number): Promise<number> => {
  let each = 1000
  for (let spell = 0; spell < 12; spell++) {
    const batches = Math.max(1, Math.round((leg * 1000) / (each * IN_FLIGHT)))
    each = (await legWith(workload, batches)) || 1
    await legBare(workload, batches * 2)
  }
  return Math.max(4, Math.min(2000, Math.round((leg * 1000) / (each * IN_FLIGHT))))
}

answering(async ({ workload, leg }: Turn): Promise<Taken | undefined> => {
  const known = sizes.get(workload)
  if (known === undefined) {
    sizes.set(workload, await warm(workload, leg))
    return undefined
  }
  // Code and sessions that nobody asked for since the last turn warm up again.
  await legBare(workload, SESSIONS / IN_FLIGHT)
  await legWith(workload, SESSIONS / IN_FLIGHT)
  const spells: Taken[] = []
  while (spells.length < SPELLS) {
    // Bare, with, with, bare: a machine that slows down slows both.
    const first = await legBare(workload, known)
    const second = await legWith(workload, known)
    const third = await legWith(workload, known)
    const fourth = await legBare(workload, known)
    spells.push({ bare: (first + fourth) / 2, with: (second + third) / 2 })
  }
  // One spell that something else fell into counts for nothing.
  spells.sort((a, b) => a.with - a.bare - (b.with - b.bare))
  return spells[(SPELLS - 1) / 2]
})
