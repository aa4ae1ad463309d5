// Warnings for the report if other programs kept the machine busy, because the figures are less reliable then.

import { availableParallelism, loadavg } from 'node:os'
import type { Http } from './parts/http.ts'
import type { InProcess } from './parts/in-process.ts'
import { summary } from './statistics.ts'

/** A warning if the machine is busy. Call it before any measurement. */
export const loadWarning = (): string | undefined => {
  const cores = availableParallelism()
  const load = loadavg()[0] ?? 0
  return load > cores / 2
    ? `The machine is busy: a load of ${load.toFixed(1)} on ${cores} cores before the first round. Do not trust the figures.`
    : undefined
}

const SPREAD = 0.3

/** Warnings about bare applications. They do the same work in every round, so a change of their cost means that another program ran. */
export const spreadWarnings = (results: InProcess): string[] => {
  const all = Array.from(results, ([name, workloads]) =>
    Array.from(workloads, ([workload, taken]) => {
      const { median, least, most } = summary(taken.map(({ bare }) => bare))
      const line = `  ${name}, ${workload}: ${least.toFixed(1)}–${most.toFixed(1)} µs`
      return { line, spread: median === 0 ? 0 : (most - least) / median }
    }),
  ).flat()
  const changed = all.filter(({ spread }) => spread > SPREAD).sort((a, b) => b.spread - a.spread)
  if (changed.length === 0) return []
  return [
    `The cost of a bare request changed by more than ${SPREAD * 100} % between rounds in ${changed.length} of ${all.length} figures: the machine was busy. The largest changes:`,
    ...changed.slice(0, 5).map(({ line }) => line),
  ]
}

const BUSY = 0.85

/** Warnings about servers. Under this load a server uses a whole core, if it gets one. */
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
    'Over HTTP, bare servers got less than a core, or their rate changed by more than 30 %: another program ran. Do not trust these rates:',
    ...starved.map(
      ({ name, busy, core }) =>
        `  ${name}: ${Math.round(busy * 100)} % busy, ${(core.least / 1000).toFixed(1)}–${(core.most / 1000).toFixed(1)}k`,
    ),
  ]
}
