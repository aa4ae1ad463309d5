// The report: tables of medians and ranges, and the goals, each met or not.

import type { Judged } from './goals.ts'
import type { Memory } from './parts/growth.ts'
import { KINDS } from './parts/growth.ts'
import type { Http } from './parts/http.ts'
import type { InProcess } from './parts/in-process.ts'
import type { Taken } from './parts/in-process-child.ts'
import type { Stores } from './parts/stores.ts'
import { READS, type Swept } from './parts/sweep.ts'
import { type Summary, summary } from './statistics.ts'
import type { Workload } from './workloads.ts'

const digits = (value: number): string => value.toFixed(Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0)

const ranged = ({ median, least, most }: Summary): string =>
  least === most ? digits(median) : `${digits(median)} (${digits(least)}–${digits(most)})`

/** Rows under a head, each column as wide as its widest cell. */
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}

const titled = (title: string, ...parts: string[]): string => `\n${title}\n\n${parts.join('\n')}\n`

export const inProcessTable = (results: InProcess): string => {
  const columns: readonly Workload[] = ['untouched', 'stranger', 'read', 'write', 'login']
  const rows = Array.from(results, ([name, workloads]) => [
    name,
    ...columns.map((workload) => {
      const taken = workloads.get(workload)
      return taken === undefined ? '' : ranged(summary(taken.map((one) => one.with - one.bare)))
    }),
    digits(summary([...workloads.values()].flat().map(({ bare }) => bare)).median),
  ])
  return titled(
    'In process: µs of CPU time that the session adds to a visit; median (range) of the rounds. Bare: the visit without.',
    table(['', ...columns, 'bare'], rows),
  )
}

const thousands = ({ median, least, most }: Summary): string =>
  `${(median / 1000).toFixed(1)}k (${(least / 1000).toFixed(1)}–${(most / 1000).toFixed(1)})`

export const httpTable = (results: Http, bareOf: ReadonlyMap<string, string>): string => {
  const rateOf = (name: string, workload: Workload): Summary | undefined => {
    const rates = results.get(name)?.get(workload)
    return rates && summary(rates.map(({ core }) => core))
  }
  const rows = Array.from(results, ([name, workloads]) =>
    Array.from(workloads, ([workload, rates]) => {
      const bare = rateOf(bareOf.get(name) ?? '', 'read')
      const node = rateOf('bare: node:http', 'read')
      const share = (of: Summary | undefined) =>
        of === undefined ? '' : `${Math.round((100 * summary(rates.map(({ core }) => core)).median) / of.median)} %`
      return [
        name,
        name.startsWith('bare:') ? '' : workload,
        thousands(summary(rates.map(({ core }) => core))),
        thousands(summary(rates.map(({ clock }) => clock))),
        `${Math.round(100 * summary(rates.map(({ busy }) => busy)).median)} %`,
        share(bare),
        share(node),
      ]
    }),
  ).flat()
  return titled(
    'Over HTTP: requests by second of CPU time (what one busy core answers) and by second on the clock; median (range).',
    table(['', '', 'by CPU second', 'by second', 'busy', 'of same bare', 'of node:http'], rows),
    '',
    'of same bare: share of the same server, framework and bridge without sessions. of node:http: share of bare node:http.',
    'thin bridge: node:http with only what the library asks of a Request and a Response. srvx: with real Responses.',
    'The floors and iron-session stand on node:http itself, @fastify/* on Fastify, express-session on Express.',
  )
}

export const memoryTable = ({ largest, bytes, reads, autoSweep: sweeps, left }: Memory): string => {
  const latencies = KINDS.flatMap((kind) =>
    Array.from(reads[kind], ([size, rounds]) => [
      kind,
      String(size),
      ranged(summary(rounds.map(({ p50 }) => p50))),
      ranged(summary(rounds.map(({ p99 }) => p99))),
    ]),
  )
  const swept = KINDS.map((kind) => {
    const { swept: all, batches, p99, longest } = sweeps[kind]
    return [kind, String(all), String(batches), digits(p99), digits(longest)]
  })
  return titled(
    `Memory: bytes a session at ${largest} sessions: plain map of JSON ${Math.round(bytes.map)}, memory backend ${Math.round(bytes.memory)}.`,
    `Bytes that a visit leaves behind: untouched ${digits(left.untouched)}, read ${digits(left.read)}.`,
    '',
    table(['µs of one read', 'sessions', 'p50', 'p99'], latencies),
    '',
    table(['sweeps, ms', 'swept', 'batches', 'p99', 'longest'], swept),
  )
}

/** A figure in each of two sizes. */
const storeRows = (results: InProcess): string[][] =>
  Array.from(results, ([name, workloads]) => [
    name,
    ...(['read', 'write'] as const).flatMap((workload) => {
      const taken = workloads.get(workload) ?? []
      const figure = (of: (one: Taken) => number) => ranged(summary(taken.map(of)))
      return [
        figure((one) => one.with - one.bare),
        figure(({ clock }) => clock),
        figure(({ alone }) => alone ?? Number.NaN),
      ]
    }),
  ])

export const storesTable = ({ added, rates, bytes }: Stores, bareOf: ReadonlyMap<string, string>): string => {
  const columns = ['read: CPU', 'clock', 'alone', 'write: CPU', 'clock', 'alone']
  const tables = Array.from(added, ([size, results]) => [
    `${size} bytes of fields`,
    table(['', ...columns], storeRows(results)),
    '',
  ])
  const used = bytes.map(({ what, keys, bytes }) => [what, digits(keys), digits(bytes)])
  return [
    titled(
      'On servers of our own, which wait for no disk: µs that the session adds to a visit; median (range) of the rounds.',
      'CPU: of this process, 32 visits in flight. clock: the same on the clock, server included. alone: one visit at a time, on the clock.',
      'A write is a read and a compare-and-set. Every pool has 10 connections. raw: the driver, with nothing around it. opened: sessions without a Request and a Response around them.',
      '',
      ...tables.flat(),
      ...(used.length > 0 ? [table(['in Redis, a session', 'keys', 'bytes'], used)] : []),
    ),
    ...(rates === undefined ? [] : [httpTable(rates, bareOf)]),
  ].join('')
}

export const sweepTable = ({ size, kinds }: Swept): string =>
  titled(
    `Sweeping ${size} expired sessions, while ${READS} reads a second go on: ms of a read, from when it was due.`,
    table(
      ['', '', 'p50', 'p99', 'longest', 'reads', 'seconds', 'rows a second', 'first batches, ms', 'last batches, ms'],
      kinds.flatMap(({ kind, without, during, seconds, swept, first, last }) => [
        [kind, 'no sweep', digits(without.p50), digits(without.p99), digits(without.longest), String(without.reads)],
        [
          ...['', 'sweep', digits(during.p50), digits(during.p99), digits(during.longest), String(during.reads)],
          ...[digits(seconds), String(Math.round(swept / seconds)), digits(first), digits(last)],
        ],
      ]),
    ),
  )

export const goalsTable = (goals: readonly Judged[]): string =>
  titled(
    'Goals: ratios of medians (range of the rounds) inside this run.',
    table(
      ['', 'goal', 'measured', ''],
      goals.map(({ what, goal, value, met }) => [what, goal, ranged(value), met ? 'met' : 'NOT MET']),
    ),
  )
