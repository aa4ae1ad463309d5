// A million expired sessions are swept by one process while another reads at a steady rate: the delay of its reads.

import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { type Child, start } from '../child.ts'
import { mysql, postgres } from '../contestants/clients.ts'
import { type Store, urlOf } from './servers.ts'
import type { Question, Sweep } from './sweep-child.ts'

/** Milliseconds. */
type Reads = { readonly p50: number; readonly p99: number; readonly longest: number; readonly reads: number }
type Kind = 'sqlite' | 'postgres' | 'mysql'

export type Swept = {
  readonly size: number
  readonly kinds: readonly (Sweep & { readonly kind: Kind; readonly without: Reads; readonly during: Reads })[]
}

/** Reads per second. */
export const READS = 200
/** Seconds of reads without a sweep, to compare with. */
const UNDISTURBED = 5

const METADATA = '1.0.0.'
const VALUE = `{"user":"${'u'.repeat(130)}"}`

/** Inserts `size` expired rows, one for each millisecond. Their keys are in random order. */
const fill: Record<Kind, (size: number, url: string) => Promise<unknown>> = {
  async sqlite(size, url) {
    const database = new DatabaseSync(url.slice('sqlite:'.length))
    database.exec(`insert into keepsake_sessions (key, value, metadata, expires_at, version)
      with recursive n (i) as (select 1 union all select i + 1 from n where i < ${size})
      select 'sid.' || lower(hex(randomblob(8))), '${VALUE}', '${METADATA}', i, 'v0000000' from n`)
    database.close()
  },
  async postgres(size) {
    const pool = await postgres()
    await pool.query(`insert into keepsake_sessions (key, value, metadata, expires_at, version)
      select 'sid.' || left(md5(i::text), 16), '${VALUE}', '${METADATA}', i, 'v0000000' from generate_series(1, ${size}) as i`)
    await pool.query('vacuum analyze keepsake_sessions')
    await pool.end()
  },
  async mysql(size) {
    const pool = await mysql()
    await pool.query(`insert into keepsake_sessions (\`key\`, value, metadata, expires_at, version)
      select concat('sid.', left(md5(seq), 16)), '${VALUE}', '${METADATA}', seq, 'v0000000' from seq_1_to_${size}`)
    await pool.query('analyze table keepsake_sessions')
    await pool.end()
  },
}

const readsOf = (taken: number[]): Reads => {
  taken.sort((a, b) => a - b)
  const ranked = (part: number) => taken[Math.floor((taken.length - 1) * part)] ?? Number.NaN
  return { p50: ranked(0.5), p99: ranked(0.99), longest: ranked(1), reads: taken.length }
}

type Plan = { readonly folder: string; readonly size: number; readonly say: (line: string) => void }

const sweepOne = async (kind: Kind, { folder, size, say }: Plan): Promise<Swept['kinds'][number]> => {
  const url = kind === 'sqlite' ? `sqlite:${join(folder, 'swept.db')}` : urlOf(kind)
  const children: Child[] = []
  const startChild = () => {
    const child = start('sweep-child.ts', [kind, url])
    children.push(child)
    return <Answer>(question: Question) => child.ask<Answer>(question)
  }
  const [reader, sweeper] = [startChild(), startChild()]
  try {
    // The first process that uses the database creates the table.
    const jar = await reader<string[]>({ do: 'jar' })
    say(`filling ${kind} with ${size} expired sessions`)
    await fill[kind](size, url)
    const read = (seconds: number) => reader<number[]>({ do: 'read', jar, seconds, rate: READS })
    say(`reading from ${kind}`)
    await read(1)
    const without = readsOf(await read(UNDISTURBED))
    say(`sweeping ${kind}`)
    let sweeping = true
    const done = sweeper<Sweep>({ do: 'sweep' }).finally(() => {
      sweeping = false
    })
    done.catch(() => {})
    const taken: number[] = []
    while (sweeping) taken.push(...(await read(0.5)))
    const result = await done
    if (result.swept !== size) throw new Error(`${result.swept} sessions were swept instead of ${size}.`)
    return { kind, without, during: readsOf(taken), ...result }
  } finally {
    for (const child of children) child.end()
  }
}

export const sweep = async (running: ReadonlySet<Store>, plan: Plan): Promise<Swept> => {
  const kinds: Swept['kinds'][number][] = []
  for (const kind of ['sqlite', 'postgres', 'mysql'] as const) {
    if (kind === 'sqlite' || running.has(kind)) kinds.push(await sweepOne(kind, plan))
  }
  return { size: plan.size, kinds }
}
