// The report: tables of medians and ranges, and the goals, each met or not.

import type { CheckedGoal } from './goals.ts'
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

/** A table with a header. Each column is as wide as its widest cell. */
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}

const section = (title: string, ...parts: string[]): string => `\n${title}\n\n${parts.join('\n')}\n`

export const inProcessTable = (results: InProcess): string => {
  const columns: readonly Workload[] = ['untouched', 'anonymous', 'read', 'write', 'login']
  const rows = Array.from(results, ([name, workloads]) => [
    name,
    ...columns.map((workload) => {
      const taken = workloads.get(workload)
      return taken === undefined ? '' : ranged(summary(taken.map((one) => one.with - one.bare)))
    }),
    digits(summary([...workloads.values()].flat().map(({ bare }) => bare)).median),
  ])
  return section(
    'In process: µs of CPU time that the session adds to a request; median (range) of the rounds. bare: the request without a session.',
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
  return section(
    'Over HTTP: requests per second of CPU time (the rate of one busy core) and per second on the clock; median (range).',
    table(['', '', 'per CPU second', 'per second', 'busy', 'of same bare', 'of node:http'], rows),
    '',
    'of same bare: share of the same server, framework and bridge without sessions. of node:http: share of bare node:http.',
    'keepsake on node:http and in frameworks: through its adapters, without a Request. srvx: a handler of Requests.',
    'The floors and iron-session run on node:http, @fastify/* on Fastify, express-session on Express.',
  )
}

export const memoryTable = ({ largest, bytes, reads, sweeps, left }: Memory): string => {
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
  return section(
    `Memory: bytes per session at ${largest} sessions: plain map of JSON ${Math.round(bytes.map)}, memory backend ${Math.round(bytes.memory)}.`,
    `Bytes that a request leaves behind: untouched ${digits(left.untouched)}, read ${digits(left.read)}.`,
    '',
    table(['µs of one read', 'sessions', 'p50', 'p99'], latencies),
    '',
    table(['sweeps, ms', 'swept', 'batches', 'p99', 'longest'], swept),
  )
}

/** The rows of one size of sessions. */
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
  const used = bytes.map(({ title, keys, bytes }) => [title, digits(keys), digits(bytes)])
  return [
    section(
      'On private servers, which wait for no disk: µs that the session adds to a request; median (range) of the rounds.',
      'CPU: CPU time of this process, with 32 requests in flight. clock: the same on the clock, with the server. alone: one request at a time, on the clock.',
      'A write is a read and a compare-and-set. Every pool has 10 connections. raw: only the driver. opened: sessions without a Request and a Response.',
      '',
      ...tables.flat(),
      ...(used.length > 0 ? [table(['in Redis, per session', 'keys', 'bytes'], used)] : []),
    ),
    ...(rates === undefined ? [] : [httpTable(rates, bareOf)]),
  ].join('')
}

export const sweepTable = ({ size, kinds }: Swept): string =>
  section(
    `Sweeping ${size} expired sessions during ${READS} reads per second: ms of a read, from its due time.`,
    table(
      ['', '', 'p50', 'p99', 'longest', 'reads', 'seconds', 'rows per second', 'first batches, ms', 'last batches, ms'],
      kinds.flatMap(({ kind, without, during, seconds, swept, first, last }) => [
        [kind, 'no sweep', digits(without.p50), digits(without.p99), digits(without.longest), String(without.reads)],
        [
          ...['', 'sweep', digits(during.p50), digits(during.p99), digits(during.longest), String(during.reads)],
          ...[digits(seconds), String(Math.round(swept / seconds)), digits(first), digits(last)],
        ],
      ]),
    ),
  )

export const goalsTable = (goals: readonly CheckedGoal[]): string =>
  section(
    'Goals: ratios of medians (range of the rounds) within this run.',
    table(
      ['', 'goal', 'measured', ''],
      goals.map(({ title, goal, value, met }) => [title, goal, ranged(value), met ? 'met' : 'NOT MET']),
    ),
  )
