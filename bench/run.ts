// The benchmarks: `node --expose-gc bench/run.ts [--only memory,read…] [--rounds 9] [--quick]`.

import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { contestants } from './contestants/all.ts'
import { skipped } from './contestants/ours.ts'
import { contestantsOn, storeContestants } from './contestants/store-contestants.ts'
import { checkGoals, type Figures } from './goals.ts'
import { type Memory, memory } from './parts/growth.ts'
import { bareOf, type Http, http } from './parts/http.ts'
import { type InProcess, inProcess } from './parts/in-process.ts'
import { STORES, startServers } from './parts/servers.ts'
import { SIZES, type Stores, stores } from './parts/stores.ts'
import { type Swept, sweep } from './parts/sweep.ts'
import { loadWarning, spreadWarnings, starvedWarnings } from './quiet.ts'
import { goalsTable, httpTable, inProcessTable, memoryTable, storesTable, sweepTable } from './report.ts'
import type { Workload } from './workloads.ts'

const PARTS = ['in-process', 'http', 'growth', 'stores', 'sweep'] as const

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(`node --expose-gc bench/run.ts [--only NAME]… [--rounds N] [--quick]

  --only    a part (${PARTS.join(', ')}) or words in the names of contestants; separate several by commas
  --rounds  number of rounds (default 9; with --quick 3)
  --quick   short legs, few rounds, few sessions: checks that everything runs, but measures nothing useful`)
  process.exit(0)
}

const { quick } = values
const rounds = Number(values.rounds ?? (quick ? 3 : 9))
if (!Number.isInteger(rounds) || rounds < 1)
  throw new Error(`--rounds is ${values.rounds}. It must be a whole number of at least 1.`)
const only = values.only.flatMap((text) => text.split(',')).map((text) => text.trim())
const parts = only.filter((word) => (PARTS as readonly string[]).includes(word))
const words = only.filter((word) => !parts.includes(word))
const competing = contestants.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)))
if (competing.length === 0 && !storeContestants.some(({ name }) => words.some((word) => name.includes(word))))
  throw new Error(
    `No contestant has one of these words in its name: ${words.join(', ')}. Run with --help, or leave out --only.`,
  )
const wanted = (part: (typeof PARTS)[number]): boolean => parts.length === 0 || parts.includes(part)

const folder = mkdtempSync(join(tmpdir(), 'keepsake-bench-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
process.on('SIGINT', () => process.exit(130)).on('SIGTERM', () => process.exit(143))

const startedAt = performance.now()
const say = (line: string) => {
  const seconds = Math.round((performance.now() - startedAt) / 1000)
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${seconds} s  ${line}`)
}
const warnings: string[] = []
const busy = loadWarning()
if (busy !== undefined) warnings.push(busy)

console.log(`Node ${process.version}, ${availableParallelism()} × ${cpus()[0]?.model ?? 'unknown'}, ${rounds} rounds`)
for (const line of skipped) console.log(line)
if (busy !== undefined) console.log(busy)

let added: InProcess | undefined
let rates: Http | undefined
let grown: Memory | undefined
let stored: Stores | undefined
let swept: Swept | undefined
if (wanted('in-process')) {
  added = await inProcess(competing, { folder, rounds, leg: quick ? 8 : 25, say })
  console.log(inProcessTable(added))
  warnings.push(...spreadWarnings(added))
}
if (wanted('http')) {
  const plan = { folder, rounds: Math.min(rounds, 5), seconds: quick ? 1 : 1.5, say }
  rates = await http(competing, plan)
  console.log(httpTable(rates, bareOf(competing)))
  warnings.push(...starvedWarnings(rates))
}
if (wanted('growth')) {
  const sizes = quick ? [1000, 20_000] : [1000, 10_000, 100_000, 1_000_000]
  grown = await memory({ folder, rounds: Math.min(rounds, 5), sizes, say })
  console.log(memoryTable(grown))
}

if (wanted('stores') || wanted('sweep')) {
  say('starting servers')
  const { running, skipped, end } = await startServers(wanted('stores') ? STORES : ['postgres', 'mysql'])
  for (const line of skipped) console.log(line)
  try {
    if (wanted('stores')) {
      stored = await stores(running, {
        folder,
        rounds: Math.min(rounds, 5),
        leg: quick ? 8 : 25,
        seconds: 1,
        words,
        say,
      })
      console.log(storesTable(stored, bareOf(contestantsOn(running))))
    }
    if (wanted('sweep')) {
      swept = await sweep(running, { folder, size: quick ? 20_000 : 1_000_000, say })
      console.log(sweepTable(swept))
    }
  } finally {
    end()
  }
}

const fromGrowth = (name: string): readonly number[] | undefined => {
  if (grown === undefined) return undefined
  const { bytes, reads, sweeps, left: behind } = grown
  if (name === 'bytes memory') return [bytes.memory]
  if (name === 'bytes map') return [bytes.map]
  if (name === 'sweep memory') return [sweeps.memory.longest]
  if (name === 'sweep sqlite') return [sweeps.sqlite.longest]
  if (name === 'left untouched') return [behind.untouched]
  const match = /^p99 (memory|sqlite) (most|fewest)$/.exec(name)
  if (match === null) return undefined
  const latencies = [...reads[match[1] as 'memory' | 'sqlite'].values()]
  return latencies.at(match[2] === 'most' ? -1 : 0)?.map(({ p99 }) => p99)
}

const figures: Figures = (name) => {
  const space = name.lastIndexOf(' ')
  const workload = name.slice(space + 1) as Workload
  const owner = name.slice(0, space)
  if (owner.startsWith('http ')) {
    const served = rates?.get(owner.slice(5)) ?? stored?.rates?.get(owner.slice(5))
    return served?.get(workload)?.map(({ core }) => core)
  }
  const size = SIZES.find((size) => owner.startsWith(`${size} `))
  const of = size === undefined ? added : stored?.added.get(size)
  const taken = of?.get(size === undefined ? owner : owner.slice(String(size).length + 1))?.get(workload)
  return taken?.map((one) => one.with - one.bare) ?? fromGrowth(name)
}

if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
console.log(goalsTable(checkGoals(figures)))
for (const line of warnings) console.log(line)
