// A process that fills a store with sessions, and then reads, measures and sweeps it.

import { hash } from 'node:crypto'
import { join } from 'node:path'
import { backendFromUrl, sessionManager } from '../../src/index.ts'
import { answerQuestions } from '../child.ts'
import { summary } from '../statistics.ts'
import { cookiesIn, FIELDS } from '../workloads.ts'

export type Question =
  | { readonly do: 'fill'; readonly size: number }
  | { readonly do: 'read'; readonly times: number }
  | { readonly do: 'bytes' }
  | { readonly do: 'expire' }
  | { readonly do: 'garbage'; readonly times: number }

/** Microseconds. */
export type Latency = { readonly p50: number; readonly p99: number }
/** Milliseconds. */
export type Sweeps = {
  readonly swept: number
  readonly batches: number
  readonly p99: number
  readonly longest: number
}

/** Entries that one sweep may remove, as in keepsake's own sweeper. */
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

/** The smallest possible store: JSON under hashed ids. */
const plain = new Map<string, string>()
const url = kind === 'sqlite' ? `sqlite:${join(folder, 'grown.db')}` : 'memory:'
const backend = await backendFromUrl(url, { now })
const manager = sessionManager({ backend, now })
await manager.ready()
const jar: Headers[] = []

const create = async (at: number, size: number): Promise<void> => {
  if (kind === 'map') {
    plain.set(hash('sha256', `session ${at}`, 'base64url'), JSON.stringify({ ...FIELDS, seen: FIELDS.seen + at }))
    return
  }
  const opened = await manager.open({ headers: new Headers() })
  opened.login(`user ${at}`)
  for (const [field, value] of Object.entries({ ...FIELDS, seen: FIELDS.seen + at })) opened.set(field, value)
  const committed = await opened.commit()
  if (!committed.ok) throw new Error('A session was not created.')
  if (at % Math.max(1, Math.floor(size / SAMPLE)) !== 0) return
  jar.push(new Headers({ cookie: cookiesIn(committed.headers.getSetCookie()) ?? '' }))
}

let empty = 0
const fill = async (size: number) => {
  // Warm up, so that the memory of compiled code is not counted.
  if (kind !== 'map') for (let at = 0; at < 100; at++) await (await manager.open({ headers: new Headers() })).commit()
  empty = await heap()
  for (let at = 0; at < size; at++) await create(at, size)
}

const read = async (times: number): Promise<Latency> => {
  const taken = new Float64Array(times)
  for (let time = 0; time < times; time++) {
    const headers = jar[Math.floor(Math.random() * jar.length)] as Headers
    const before = performance.now()
    const opened = await manager.open({ headers })
    if (opened.get('user') !== FIELDS.user) throw new Error('A session is missing.')
    taken[time] = performance.now() - before
  }
  taken.sort()
  return { p50: ranked(taken, 0.5) * 1000, p99: ranked(taken, 0.99) * 1000 }
}

/** Lets all sessions expire and measures each sweep. */
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

/** The bytes that a request leaves in the heap, with a handler that does not use the session and with one that reads it. */
const garbageOf = async (times: number): Promise<{ untouched: number; read: number }> => {
  const cookie = jar[0]?.get('cookie') ?? ''
  const handlers = {
    untouched: manager(() => new Response('ok')),
    read: manager(async (request) => new Response((await manager.session(request)).get('user'))),
  }
  const left = { untouched: 0, read: 0 }
  for (const name of ['untouched', 'read'] as const) {
    const send = async (count: number) => {
      for (let time = 0; time < count; time++) {
        await handlers[name](new Request('https://bench.test/', { headers: { cookie } }))
        if (time % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    }
    await send(times)
    const growths: number[] = []
    for (let round = 0; round < 5; round++) {
      const before = await heap()
      await send(times)
      growths.push(((await heap()) - before) / times)
    }
    left[name] = summary(growths).median
  }
  return left
}

answerQuestions(async (question: Question) => {
  if (question.do === 'fill') return fill(question.size)
  if (question.do === 'read') return read(question.times)
  if (question.do === 'bytes') return (await heap()) - empty
  return question.do === 'expire' ? expire() : garbageOf(question.times)
})
