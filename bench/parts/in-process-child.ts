// One contestant and its bare application in a process of their own: the code of others does not slow theirs.

import { setImmediate } from 'node:timers/promises'
import { answering } from '../child.ts'
import { named } from '../contestants/all.ts'
import { openBare } from '../contestants/bare.ts'
import type { App, Raw } from '../contestants/contestant.ts'
import { minter } from '../contestants/mint.ts'
import { loggedIn, rehearse, stage, type Visit } from '../contestants/stage.ts'
import { IN_FLIGHT, SESSIONS, type Workload } from '../workloads.ts'

/**
 * A turn has three spells of four legs; `leg` is the milliseconds of CPU time that one leg should take. `alone`: visits
 * one at a time are timed, too.
 */
export type Turn = { readonly workload: Workload; readonly leg: number; readonly alone: boolean }

export type Taken = {
  /** Microseconds of CPU time, of all threads, that one visit takes: without sessions, and with them. */
  readonly bare: number
  readonly with: number
  /** Microseconds on the clock that sessions add to a visit, and to one that nothing else is under way with. */
  readonly clock: number
  readonly alone: number | undefined
}

/** Microseconds of one visit: of CPU time and on the clock. */
type Cost = { readonly cpu: number; readonly clock: number }

const SPELLS = 3

const [name = '', folder = ''] = process.argv.slice(2)
const contestant = named(name)
const jar: string[] = []
let turns = 0
const next = () => turns++

const spent = ({ user, system }: NodeJS.CpuUsage): number => user + system

/** One batch of visits. */
type Batch = () => unknown

/** What one visit takes, in as many batches. */
const measured = async (batch: Batch, batches: number, inFlight: number): Promise<Cost> => {
  // The rubbish of the leg before is not on this one's account.
  globalThis.gc?.({ type: 'minor' })
  const began = performance.now()
  const before = process.cpuUsage()
  for (let done = 0; done < batches; done++) {
    await batch()
    // As between two requests: what waits for the end of a task gets its turn.
    await setImmediate()
  }
  const all = batches * inFlight
  return { cpu: spent(process.cpuUsage(before)) / all, clock: ((performance.now() - began) * 1000) / all }
}

const withCookie = (workload: Workload): boolean => workload !== 'stranger' && workload !== 'login'

/** Every session in its turn, so that no two visits of a batch have the same one. */
const visits = (visit: Visit, workload: Workload, inFlight: number): Batch => {
  const one = () => visit(workload, withCookie(workload) ? jar[next() % SESSIONS] : undefined)
  return () => Promise.all(Array.from({ length: inFlight }, one))
}

const firstVisits = (visit: Visit, workload: Workload, tokens: string[]): Batch => {
  const one = () => visit(workload, tokens.pop())
  return () => Promise.all(Array.from({ length: IN_FLIGHT }, one))
}

const rawOperations = (operation: (at: number) => unknown, inFlight: number): Batch => {
  return () => {
    const pending: Promise<unknown>[] = []
    for (let done = 0; done < inFlight; done++) {
      const under = operation(next())
      if (under instanceof Promise) pending.push(under)
    }
    return pending.length > 0 ? Promise.all(pending) : undefined
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
const legWith = async (workload: Workload, batches: number, inFlight = IN_FLIGHT): Promise<Cost> => {
  if (app.kind === 'raw') {
    const operation = app.operations[workload]
    if (operation === undefined) throw new Error(`${name} has no ${workload}.`)
    return measured(rawOperations(operation, inFlight), batches, inFlight)
  }
  if (visit === undefined) throw new Error('Nothing to visit.')
  if (mint === undefined) return measured(visits(visit, workload, inFlight), batches, inFlight)
  const tokens = await mint(batches * IN_FLIGHT)
  return measured(firstVisits(visit, workload, tokens), batches, inFlight)
}

const legBare = async (workload: Workload, batches: number, inFlight = IN_FLIGHT): Promise<Cost> =>
  bareVisit === undefined ? { cpu: 0, clock: 0 } : measured(visits(bareVisit, workload, inFlight), batches, inFlight)

/** How many batches make a leg, by workload; found out once, and after everything is warm. */
const sizes = new Map<Workload, number>()

const warm = async (workload: Workload, leg: number): Promise<number> => {
  let each = 1000
  for (let spell = 0; spell < 12; spell++) {
    const batches = Math.max(1, Math.round((leg * 1000) / (each * IN_FLIGHT)))
    each = (await legWith(workload, batches)).cpu || 1
    await legBare(workload, batches * 2)
  }
  return Math.max(4, Math.min(2000, Math.round((leg * 1000) / (each * IN_FLIGHT))))
}

/** Bare, with, with, bare: a machine that slows down slows both. */
const spell = async (workload: Workload, batches: number, inFlight = IN_FLIGHT) => {
  const first = await legBare(workload, batches, inFlight)
  const second = await legWith(workload, batches, inFlight)
  const third = await legWith(workload, batches, inFlight)
  const fourth = await legBare(workload, batches, inFlight)
  const half = (what: keyof Cost, one: Cost, other: Cost) => (one[what] + other[what]) / 2
  return {
    bare: half('cpu', first, fourth),
    with: half('cpu', second, third),
    clock: half('clock', second, third) - half('clock', first, fourth),
  }
}

/** One spell that something else fell into counts for nothing. */
const middle = <T>(spells: T[], by: (spell: T) => number): T =>
  spells.sort((a, b) => by(a) - by(b))[(SPELLS - 1) / 2] as T

answering(async ({ workload, leg, alone }: Turn): Promise<Taken | undefined> => {
  const known = sizes.get(workload)
  if (known === undefined) {
    sizes.set(workload, await warm(workload, leg))
    return undefined
  }
  // Code and sessions that nobody asked for since the last turn warm up again.
  await legBare(workload, SESSIONS / IN_FLIGHT)
  await legWith(workload, SESSIONS / IN_FLIGHT)
  const spells = []
  while (spells.length < SPELLS) spells.push(await spell(workload, known))
  const singles: number[] = []
  while (alone && singles.length < SPELLS) singles.push((await spell(workload, known * 4, 1)).clock)
  return {
    ...middle(spells, (one) => one.with - one.bare),
    alone: alone ? middle(singles, (clock) => clock) : undefined,
  }
})
