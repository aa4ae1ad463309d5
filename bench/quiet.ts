// Whether the machine was busy with something else: then the figures are worth less, and the report says so.

import { availableParallelism, loadavg } from 'node:os'
import type { Http } from './parts/http.ts'
import type { InProcess } from './parts/in-process.ts'
import { summary } from './statistics.ts'

/** To be asked before anything runs. */
export const loadWarning = (): string | undefined => {
  const cores = availableParallelism()
  const load = loadavg()[0] ?? 0
  return load > cores / 2
    ? `The machine is busy: a load of ${load.toFixed(1)} on ${cores} cores before the first round. Do not trust the figures.`
    : undefined
}

const SPREAD = 0.3

/** The bare applications do the same in every round: where their cost moves, something else ran. */
export const spreadWarnings = (results: InProcess): string[] => {
  const all = Array.from(results, ([name, workloads]) =>
    Array.from(workloads, ([workload, taken]) => {
      const { median, least, most } = summary(taken.map(({ bare }) => bare))
      const line = `  ${name}, ${workload}: ${least.toFixed(1)}–${most.toFixed(1)} µs`
      return { line, spread: median === 0 ? 0 : (most - least) / median }
    }),
  ).flat()
  const moved = all.filter(({ spread }) => spread > SPREAD).sort((a, b) => b.spread - a.spread)
  if (moved.length === 0) return []
  return [
    `The cost of a bare visit moved by more than ${SPREAD * 100} % between rounds in ${moved.length} of ${all.length} figures: the machine was busy. Most of all:`,
    ...moved.slice(0, 5).map(({ line }) => line),
  ]
}

const BUSY = 0.85

/** A server that is loaded as hard as this takes a whole core, if it gets one. */
export const starvedWarnings = (results: Http): string[] => {
  const bare = Array.from(results, ([name, workloads]) => ({ name, rates: [...workloads.values()].flat() }))
    .filter(({ name }) => name.startsWith('bare:'))
    .map(({ name, rates }) => ({
      name,
      busy: summary(rates.map(({ busy }) => busy)).median,
      core: summary(rates.map(({ core }) => core)),
    }))
  const starved = bare.filter(({ busy, core }) => busy < BUSY || (core.most - core.least) / core.median > SPREAD)
  if (starved.length === 0) return []
  return [
    'Over HTTP, bare servers got less than a core, or moved by more than 30 %: something else ran, do not trust these rates:',
    ...starved.map(
      ({ name, busy, core }) =>
        `  ${name}: ${Math.round(busy * 100)} % busy, ${(core.least / 1000).toFixed(1)}–${(core.most / 1000).toFixed(1)}k`,
    ),
  ]
}
