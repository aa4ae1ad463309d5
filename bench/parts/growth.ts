// Memory: bytes a session, what a read costs as sessions grow a thousandfold, how long expiry holds up the process.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, start } from '../child.ts'
import type { Latency, Question, Sweeps } from './growth-child.ts'

export const KINDS = ['memory', 'sqlite'] as const
export type Kind = (typeof KINDS)[number]

export type Memory = {
  readonly largest: number
  /** Bytes a session. */
  readonly bytes: { readonly map: number; readonly memory: number }
  /** By backend and number of sessions: each round's latency of a read. */
  readonly reads: Record<Kind, Map<number, Latency[]>>
  readonly autoSweep: Record<Kind, Sweeps>
  readonly left: { readonly untouched: number; readonly read: number }
}

type Plan = {
  readonly folder: string
  readonly rounds: number
  readonly sizes: readonly number[]
  readonly say: (line: string) => void
}

export const memory = async ({ folder, rounds, sizes, say }: Plan): Promise<Memory> => {
  const children: Child[] = []
  const begun = async (kind: Kind | 'map', size: number) => {
    const home = join(folder, `memory-${kind}-${size}`)
    mkdirSync(home)
    const child = start('growth-child.ts', [kind, home], ['--max-old-space-size=4096'])
    children.push(child)
    await child.ask({ do: 'fill', size } satisfies Question)
    return child
  }
  const asked = <Answer>(child: Child, question: Question) => child.ask<Answer>(question)
  const reads: Memory['reads'] = { memory: new Map(), sqlite: new Map() }
  try {
    const largest = Math.max(...sizes)
    say(`filling a plain map with ${largest} sessions`)
    const map = await begun('map', largest)
    const mapBytes = (await asked<number>(map, { do: 'bytes' })) / largest
    map.end()

    const seats: { readonly kind: Kind; readonly size: number; readonly child: Child }[] = []
    for (const kind of KINDS) {
      for (const size of sizes) {
        say(`filling ${kind} with ${size} sessions`)
        const child = await begun(kind, size)
        seats.push({ kind, size, child })
        reads[kind].set(size, [])
        await asked(child, { do: 'read', times: 20_000 })
      }
    }
    const seatOf = (wanted: Kind, size: number) =>
      seats.find((seat) => seat.kind === wanted && seat.size === size)?.child as Child
    const bytes = (await asked<number>(seatOf('memory', largest), { do: 'bytes' })) / largest

    for (let round = 1; round <= rounds; round++) {
      say(`reads, round ${round} of ${rounds}`)
      for (const { kind, size, child } of round % 2 === 1 ? seats : seats.toReversed()) {
        reads[kind].get(size)?.push(await asked<Latency>(child, { do: 'read', times: 10_000 }))
      }
    }
    say('what visits leave behind')
    const left = await asked<Memory['left']>(seatOf('memory', Math.min(...sizes)), { do: 'visits', times: 50_000 })
    say('sweeping')
    const sweeps = {
      memory: await asked<Sweeps>(seatOf('memory', largest), { do: 'expire' }),
      sqlite: await asked<Sweeps>(seatOf('sqlite', largest), { do: 'expire' }),
    }
    return { largest, bytes: { map: mapBytes, memory: bytes }, reads, autoSweep: sweeps, left }
  } finally {
    for (const child of children) child.end()
  }
}
