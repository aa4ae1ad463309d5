// A store with a million expired sessions in it: one process sweeps it, another reads sessions that are alive.

import { connectMysql } from '../../src/backends/sql/mysql.ts'
import { connectPostgres } from '../../src/backends/sql/postgres.ts'
import { type Backend, backendFromUrl, sessionManager } from '../../src/index.ts'
import { answering } from '../child.ts'
import { secret } from '../contestants/ours.ts'
import { keptOf } from '../workloads.ts'

export type Question =
  | { readonly do: 'jar' }
  | { readonly do: 'read'; readonly jar: readonly string[]; readonly seconds: number; readonly rate: number }
  | { readonly do: 'sweep' }

/** `first` and `last`: milliseconds of a batch, the median of twenty. */
export type Sweep = {
  readonly swept: number
  readonly seconds: number
  readonly batches: number
  readonly first: number
  readonly last: number
}

const LIVING = 256

const [kind = '', url = ''] = process.argv.slice(2)
const opened = (): Promise<Backend> => {
  if (kind === 'postgres') return connectPostgres(url)
  return kind === 'mysql' ? connectMysql(url) : backendFromUrl(url)
}
const inner = await opened()
const batches: number[] = []
const backend: Backend = {
  ...inner,
  sweep(now, limit) {
    const began = performance.now()
    const took = <T>(swept: T): T => {
      batches.push(performance.now() - began)
      return swept
    }
    const swept = inner.sweep?.(now, limit) ?? 0
    return swept instanceof Promise ? swept.then(took) : took(swept)
  },
}
const manager = sessionManager({ backend, secret, autoSweep: false })

const jar = async (): Promise<string[]> => {
  const cookies: string[] = []
  while (cookies.length < LIVING) {
    const visit = await manager.open({ headers: new Headers() })
    visit.set('user', 'anna')
    const committed = await visit.commit()
    if (!committed.ok) throw new Error('A session was not born.')
    cookies.push(keptOf(committed.headers.getSetCookie()) ?? '')
  }
  return cookies
}

/** Milliseconds of each read, from when it was due. */
const read = async (cookies: readonly string[], seconds: number, rate: number): Promise<number[]> => {
  const taken: number[] = []
  const pending: Promise<void>[] = []
  const began = performance.now()
  const one = async (due: number) => {
    const cookie = cookies[Math.floor(Math.random() * cookies.length)] as string
    const visit = await manager.open({ headers: new Headers({ cookie }) })
    if (visit.get('user') !== 'anna') throw new Error('A living session is gone.')
    taken.push(performance.now() - due)
  }
  for (let count = 0; count < seconds * rate; count++) {
    const due = began + (count * 1000) / rate
    const early = due - performance.now()
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early))
    // A timer may ring a moment early.
    pending.push(one(Math.min(due, performance.now())))
  }
  await Promise.all(pending)
  return taken
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const sweep = async (): Promise<Sweep> => {
  const began = performance.now()
  const swept = await manager.sweep()
  const seconds = (performance.now() - began) / 1000
  // The very last batch is the one that finds less than it may take.
  const full = batches.slice(0, -1)
  return { swept, seconds, batches: batches.length, first: median(full.slice(0, 20)), last: median(full.slice(-20)) }
}

answering((question: Question) => {
  if (question.do === 'jar') return jar()
  return question.do === 'sweep' ? sweep() : read(question.jar, question.seconds, question.rate)
})
