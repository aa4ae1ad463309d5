// A store that is filled with sessions to a size, and then read, measured and swept, in a process of its own.

import { hash } from 'node:crypto'
import { join } from 'node:path'
import { backendFromUrl, sessionManager } from '../../src/index.ts'
import { answering } from '../child.ts'
import { summary } from '../statistics.ts'
import { FIELDS, keptOf } from '../workloads.ts'

export type Question =
  | { readonly do: 'fill'; readonly size: number }
  | { readonly do: 'read'; readonly times: number }
  | { readonly do: 'bytes' }
  | { readonly do: 'expire' }
  | { readonly do: 'visits'; readonly times: number }

/** Microseconds. */
export type Latency = { readonly p50: number; readonly p99: number }
/** Milliseconds. */
export type Sweeps = {
  readonly swept: number
  readonly batches: number
  readonly p99: number
  readonly longest: number
}

/** Entries that one sweep may take: as the library's own sweeper asks for. */
const BATCH = 50
const SAMPLE = 4096

const [kind = '', folder = ''] = process.argv.slice(2)
let later = 0
const now = () => Date.now() + later

const heap = async (): Promise<number> => {
  for (let time = 0; time < 3; time++) {
    globalThis.gc?.()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const ranked = (values: Float64Array, part: number): number => values[Math.floor((values.length - 1) * part)] as number

/** The least that could keep them: JSON under hashed ids. */
const plain = new Map<string, string>()
const url = kind === 'sqlite' ? `sqlite:${join(folder, 'grown.db')}` : 'memory:'
const backend = await backendFromUrl(url, { now })
const house = sessionManager({ backend, now })
await house.ready()
const jar: Headers[] = []

const born = async (at: number, size: number): Promise<void> => {
  if (kind === 'map') {
    plain.set(hash('sha256', `session ${at}`, 'base64url'), JSON.stringify({ ...FIELDS, seen: FIELDS.seen + at }))
    return
  }
  const visit = await house.open({ headers: new Headers() })
  visit.login(`user ${at}`)
  for (const [field, value] of Object.entries({ ...FIELDS, seen: FIELDS.seen + at })) visit.set(field, value)
  const committed = await visit.commit()
  if (!committed.ok) throw new Error('A session was not born.')
  if (at % Math.max(1, Math.floor(size / SAMPLE)) !== 0) return
  jar.push(new Headers({ cookie: keptOf(committed.headers.getSetCookie()) ?? '' }))
}

let empty = 0
const fill = async (size: number) => {
  // The code is warm, and its own memory taken, before the first bytes are counted.
  if (kind !== 'map') for (let at = 0; at < 100; at++) await (await house.open({ headers: new Headers() })).commit()
  empty = await heap()
  for (let at = 0; at < size; at++) await born(at, size)
}

const read = async (times: number): Promise<Latency> => {
  const taken = new Float64Array(times)
  for (let time = 0; time < times; time++) {
    const headers = jar[Math.floor(Math.random() * jar.length)] as Headers
    const before = performance.now()
    const visit = await house.open({ headers })
    if (visit.get('user') !== FIELDS.user) throw new Error('A session is gone.')
    taken[time] = performance.now() - before
  }
  taken.sort()
  return { p50: ranked(taken, 0.5) * 1000, p99: ranked(taken, 0.99) * 1000 }
}

/** All sessions expire; their sweeps are timed one by one. */
const expire = async (): Promise<Sweeps> => {
  later += 400 * 86_400_000
  const taken: number[] = []
  let swept = 0
  for (let last = BATCH; last === BATCH; ) {
    const before = performance.now()
    last = (await backend.sweep?.(now(), BATCH)) ?? 0
    taken.push(performance.now() - before)
    swept += last
  }
  const sorted = Float64Array.from(taken).sort()
  return { swept, batches: taken.length, p99: ranked(sorted, 0.99), longest: ranked(sorted, 1) }
}

/** Bytes that a visit leaves behind: of a handler that does not ask for its session, and of one that reads it. */
const visits = async (times: number): Promise<{ untouched: number; read: number }> => {
  const cookie = jar[0]?.get('cookie') ?? ''
  const handlers = {
    untouched: house(() => new Response('ok')),
    read: house(async (request) => new Response((await house.of(request)).get('user'))),
  }
  const left = { untouched: 0, read: 0 }
  for (const what of ['untouched', 'read'] as const) {
    const spell = async (count: number) => {
      for (let time = 0; time < count; time++) {
        await handlers[what](new Request('https://bench.test/', { headers: { cookie } }))
        if (time % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    }
    await spell(times)
    const growths: number[] = []
    for (let round = 0; round < 5; round++) {
      const before = await heap()
      await spell(times)
      growths.push(((await heap()) - before) / times)
    }
    left[what] = summary(growths).median
  }
  return left
}

answering(async (question: Question) => {
  if (question.do === 'fill') return fill(question.size)
  if (question.do === 'read') return read(question.times)
  if (question.do === 'bytes') return (await heap()) - empty
  return question.do === 'expire' ? expire() : visits(question.times)
})
