// A process with one contestant and its bare application, so that the code of other contestants does not slow them.

import { setImmediate } from 'node:timers/promises'
import { answerQuestions } from '../child.ts'
import { contestantNamed } from '../contestants/all.ts'
import { openBare } from '../contestants/bare.ts'
import type { App, Raw } from '../contestants/contestant.ts'
import { startMinter } from '../contestants/mint.ts'
import { checkWorkloads, login, type Send, senderFor } from '../contestants/stage.ts'
import { IN_FLIGHT, SESSIONS, type Workload } from '../workloads.ts'

/**
 * A measurement has three series of four legs. `leg`: the milliseconds of CPU time that one leg should take. `alone`:
 * whether to measure single requests too.
 */
export type Question = { readonly workload: Workload; readonly leg: number; readonly alone: boolean }

export type Taken = {
  /** Microseconds of CPU time of all threads for one request: without sessions, and with them. */
  readonly bare: number
  readonly with: number
  /** Microseconds on the clock that sessions add to a request: among concurrent requests, and to a single one. */
  readonly clock: number
  readonly alone: number | undefined
}

/** Microseconds of one request: CPU time, and time on the clock. */
type Cost = { readonly cpu: number; readonly clock: number }

const SERIES = 3

const [name = '', folder = ''] = process.argv.slice(2)
const contestant = contestantNamed(name)
const jar: string[] = []
let requests = 0
const next = () => requests++

const total = ({ user, system }: NodeJS.CpuUsage): number => user + system

/** Sends one batch of requests. */
type Batch = () => unknown

/** Measures the cost of one request over a number of batches. */
const measure = async (batch: Batch, batches: number, inFlight: number): Promise<Cost> => {
  // Collect the garbage of the previous leg, so that it does not count here.
  globalThis.gc?.({ type: 'minor' })
  const startedAt = performance.now()
  const before = process.cpuUsage()
  for (let done = 0; done < batches; done++) {
    await batch()
    // Pending tasks run, as between two requests of a server.
    await setImmediate()
  }
  const all = batches * inFlight
  return { cpu: total(process.cpuUsage(before)) / all, clock: ((performance.now() - startedAt) * 1000) / all }
}

const hasCookie = (workload: Workload): boolean => workload !== 'anonymous' && workload !== 'login'

/** The requests of a batch use the sessions one after another. */
const requestBatch = (send: Send, workload: Workload, inFlight: number): Batch => {
  const one = () => send(workload, hasCookie(workload) ? jar[next() % SESSIONS] : undefined)
  return () => Promise.all(Array.from({ length: inFlight }, one))
}

const firstSightBatch = (send: Send, workload: Workload, tokens: string[]): Batch => {
  const one = () => send(workload, tokens.pop())
  return () => Promise.all(Array.from({ length: IN_FLIGHT }, one))
}

const rawOperations = (operation: (at: number) => unknown, inFlight: number): Batch => {
  return () => {
    const pending: Promise<unknown>[] = []
    for (let done = 0; done < inFlight; done++) {
      const result = operation(next())
      if (result instanceof Promise) pending.push(result)
    }
    return pending.length > 0 ? Promise.all(pending) : undefined
  }
}

const app: App | Raw = await contestant.open(folder)
const bareApp = await openBare(contestant.bare)
const send = app.kind === 'raw' ? undefined : senderFor(app)
const sendBare = bareApp && senderFor(bareApp)
const mint = contestant.firstSight ? startMinter(name, folder) : undefined

if (send !== undefined) {
  await checkWorkloads(send)
  while (jar.length < SESSIONS) jar.push(await login(send))
}

/** A leg with sessions. Its tokens are created before the measurement starts. */
const legWith = async (workload: Workload, batches: number, inFlight = IN_FLIGHT): Promise<Cost> => {
  if (app.kind === 'raw') {
    const operation = app.operations[workload]
    if (operation === undefined) throw new Error(`${name} has no ${workload}.`)
    return measure(rawOperations(operation, inFlight), batches, inFlight)
  }
  if (send === undefined) throw new Error(`The contestant ${name} has no application.`)
  if (mint === undefined) return measure(requestBatch(send, workload, inFlight), batches, inFlight)
  const tokens = await mint(batches * IN_FLIGHT)
  return measure(firstSightBatch(send, workload, tokens), batches, inFlight)
}

const legBare = async (workload: Workload, batches: number, inFlight = IN_FLIGHT): Promise<Cost> =>
  sendBare === undefined ? { cpu: 0, clock: 0 } : measure(requestBatch(sendBare, workload, inFlight), batches, inFlight)

/** The number of batches in a leg, by workload. It is found once, after the warm-up. */
const sizes = new Map<Workload, number>()

const warm = async (workload: Workload, leg: number): Promise<number> => {
  let each = 1000
  for (let round = 0; round < 12; round++) {
    const batches = Math.max(1, Math.round((leg * 1000) / (each * IN_FLIGHT)))
    each = (await legWith(workload, batches)).cpu || 1
    await legBare(workload, batches * 2)
  }
  return Math.max(4, Math.min(2000, Math.round((leg * 1000) / (each * IN_FLIGHT))))
}

/** Bare, with, with, bare: if the machine slows down, it slows both. */
const measureSeries = async (workload: Workload, batches: number, inFlight = IN_FLIGHT) => {
  const first = await legBare(workload, batches, inFlight)
  const second = await legWith(workload, batches, inFlight)
  const third = await legWith(workload, batches, inFlight)
  const fourth = await legBare(workload, batches, inFlight)
  const mean = (unit: keyof Cost, one: Cost, other: Cost) => (one[unit] + other[unit]) / 2
  return {
    bare: mean('cpu', first, fourth),
    with: mean('cpu', second, third),
    clock: mean('clock', second, third) - mean('clock', first, fourth),
  }
}

/** The median series, so that one series with a disturbance does not count. */
const middle = <T>(series: T[], by: (one: T) => number): T =>
  series.sort((a, b) => by(a) - by(b))[(SERIES - 1) / 2] as T

answerQuestions(async ({ workload, leg, alone }: Question): Promise<Taken | undefined> => {
  const known = sizes.get(workload)
  if (known === undefined) {
    sizes.set(workload, await warm(workload, leg))
    return undefined
  }
  // Warm up code and sessions that were not used since the last measurement.
  await legBare(workload, SESSIONS / IN_FLIGHT)
  await legWith(workload, SESSIONS / IN_FLIGHT)
  const series = []
  while (series.length < SERIES) series.push(await measureSeries(workload, known))
  const singles: number[] = []
  while (alone && singles.length < SERIES) singles.push((await measureSeries(workload, known * 4, 1)).clock)
  return {
    ...middle(series, (one) => one.with - one.bare),
    alone: alone ? middle(singles, (clock) => clock) : undefined,
  }
})
