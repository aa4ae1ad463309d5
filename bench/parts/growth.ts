// Growth: bytes per session, the cost of a read from few to a thousand times as many sessions, and the longest sweep.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, start } from '../child.ts'
import type { Latency, Question, Sweeps } from './growth-child.ts'

export const KINDS = ['memory', 'sqlite'] as const
export type Kind = (typeof KINDS)[number]

export type Memory = {
  readonly largest: number
  /** Bytes per session. */
  readonly bytes: { readonly map: number; readonly memory: number }
  /** The latency of a read in each round, by backend and number of sessions. */
  readonly reads: Record<Kind, Map<number, Latency[]>>
  readonly sweeps: Record<Kind, Sweeps>
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
  const startFilled = async (kind: Kind | 'map', size: number) => {
    const directory = join(folder, `memory-${kind}-${size}`)
    mkdirSync(directory)
    const child = start('growth-child.ts', [kind, directory], ['--max-old-space-size=4096'])
    children.push(child)
    await child.ask({ do: 'fill', size } satisfies Question)
    return child
  }
  const ask = <Answer>(child: Child, question: Question) => child.ask<Answer>(question)
  const reads: Memory['reads'] = { memory: new Map(), sqlite: new Map() }
  try {
    const largest = Math.max(...sizes)
    say(`filling a plain map with ${largest} sessions`)
    const map = await startFilled('map', largest)
    const mapBytes = (await ask<number>(map, { do: 'bytes' })) / largest
    map.end()

    const stores: { readonly kind: Kind; readonly size: number; readonly child: Child }[] = []
    for (const kind of KINDS) {
      for (const size of sizes) {
        say(`filling ${kind} with ${size} sessions`)
        const child = await startFilled(kind, size)
        stores.push({ kind, size, child })
        reads[kind].set(size, [])
        await ask(child, { do: 'read', times: 20_000 })
      }
    }
    const storeOf = (wanted: Kind, size: number) =>
      stores.find((store) => store.kind === wanted && store.size === size)?.child as Child
    const bytes = (await ask<number>(storeOf('memory', largest), { do: 'bytes' })) / largest

    for (let round = 1; round <= rounds; round++) {
      say(`reads, round ${round} of ${rounds}`)
      for (const { kind, size, child } of round % 2 === 1 ? stores : stores.toReversed()) {
        reads[kind].get(size)?.push(await ask<Latency>(child, { do: 'read', times: 10_000 }))
      }
    }
    say('memory after requests')
    const left = await ask<Memory['left']>(storeOf('memory', Math.min(...sizes)), { do: 'garbage', times: 50_000 })
    say('sweeping')
    const sweeps = {
      memory: await ask<Sweeps>(storeOf('memory', largest), { do: 'expire' }),
      sqlite: await ask<Sweeps>(storeOf('sqlite', largest), { do: 'expire' }),
    }
    return { largest, bytes: { map: mapBytes, memory: bytes }, reads, sweeps, left }
  } finally {
    for (const child of children) child.end()
  }
}
