// A process that sweeps a store with a million expired sessions, or reads its living sessions.

import { connectMysql } from '../../src/backends/sql/mysql.ts'
import { connectPostgres } from '../../src/backends/sql/postgres.ts'
import { type Backend, backendFromUrl, sessionManager } from '../../src/index.ts'
import { answerQuestions } from '../child.ts'
import { secret } from '../contestants/ours.ts'
import { cookiesIn } from '../workloads.ts'

export type Question =
  | { readonly do: 'jar' }
  | { readonly do: 'read'; readonly jar: readonly string[]; readonly seconds: number; readonly rate: number }
  | { readonly do: 'sweep' }

/** `first` and `last`: milliseconds of a batch, as the median of twenty batches. */
export type Sweep = {
  readonly swept: number
  readonly seconds: number
  readonly batches: number
  readonly first: number
  readonly last: number
}

const LIVING = 256

const [kind = '', url = ''] = process.argv.slice(2)
const open = (): Promise<Backend> => {
  if (kind === 'postgres') return connectPostgres(url)
  return kind === 'mysql' ? connectMysql(url) : backendFromUrl(url)
}
const inner = await open()
const batches: number[] = []
const backend: Backend = {
  ...inner,
  sweep(now, limit) {
    const startedAt = performance.now()
    const noteTime = <T>(swept: T): T => {
      batches.push(performance.now() - startedAt)
      return swept
    }
    const swept = inner.sweep?.(now, limit) ?? 0
    return swept instanceof Promise ? swept.then(noteTime) : noteTime(swept)
  },
}
const manager = sessionManager({ backend, secret, autoSweep: false })

const jar = async (): Promise<string[]> => {
  const cookies: string[] = []
  while (cookies.length < LIVING) {
    const opened = await manager.open({ headers: new Headers() })
    opened.set('user', 'anna')
    const committed = await opened.commit()
    if (!committed.ok) throw new Error('A session was not created.')
    cookies.push(cookiesIn(committed.headers.getSetCookie()) ?? '')
  }
  return cookies
}

/** Milliseconds of each read, from its due time. */
const read = async (cookies: readonly string[], seconds: number, rate: number): Promise<number[]> => {
  const taken: number[] = []
  const pending: Promise<void>[] = []
  const startedAt = performance.now()
  const one = async (due: number) => {
    const cookie = cookies[Math.floor(Math.random() * cookies.length)] as string
    const opened = await manager.open({ headers: new Headers({ cookie }) })
    if (opened.get('user') !== 'anna') throw new Error('A living session is missing.')
    taken.push(performance.now() - due)
  }
  for (let count = 0; count < seconds * rate; count++) {
    const due = startedAt + (count * 1000) / rate
    const early = due - performance.now()
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early))
    // A timer may fire slightly early.
    pending.push(one(Math.min(due, performance.now())))
  }
  await Promise.all(pending)
  return taken
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const sweep = async (): Promise<Sweep> => {
  const startedAt = performance.now()
  const swept = await manager.sweep()
  const seconds = (performance.now() - startedAt) / 1000
  // The last batch is not full, so it does not count.
  const full = batches.slice(0, -1)
  return { swept, seconds, batches: batches.length, first: median(full.slice(0, 20)), last: median(full.slice(-20)) }
}

answerQuestions((question: Question) => {
  if (question.do === 'jar') return jar()
  return question.do === 'sweep' ? sweep() : read(question.jar, question.seconds, question.rate)
})
