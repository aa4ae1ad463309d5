// Fifty visits a second by one driver, in a process that tells a test of every answer, and what its machine took from it.

import { setTimeout as sleep } from 'node:timers/promises'
import { session, sessionManager } from 'keepsake'
import { HASTY, opened } from './driver.ts'
import { lateness, now } from './lost.ts'

/** One answer. All in milliseconds, `at` since 1970. */
export type Answer = {
  readonly at: number
  readonly took: number
  /** As much of it as this process could not run. */
  readonly late: number
  /** Of HTTP; 0 where the handler threw. */
  readonly status: number
}

/** What became of all sessions that were ever begun. */
export type Kept = {
  readonly sessions: number
  readonly acknowledged: number
  /** Visits that had no answer after twice the time that they may wait, counted in turns of this process. */
  readonly unanswered: number
  /** Sessions that count less than was acknowledged, or more than was asked for, each in words. */
  readonly wrong: readonly string[]
}

export type Told = { readonly answers: readonly Answer[] } | { readonly kept: Kept }

const [driver = '', url = '', place = ''] = process.argv.slice(2)
const manager = sessionManager({
  backend: await opened(driver, url, place, HASTY),
  secret: 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE',
})
const handler = manager(async (request) => {
  const s = await session(request)
  if (request.method === 'POST') s.update('n', (n = 0) => n + 1)
  return Response.json(s.get('n') ?? null)
})
const tell = (told: Told) => process.send?.(told)

type Visitor = { cookie: string; asked: number; acknowledged: number }
const visitors: Visitor[] = []

const ask = async (method: 'GET' | 'POST', { cookie }: Visitor): Promise<Response> =>
  handler(new Request('https://app.test/', { method, headers: { cookie } }))

const ended: Answer[] = []
const TICK = 20

setInterval(() => {
  const answers = ended.splice(0)
  if (answers.length > 0) tell({ answers })
}, TICK)

const visit = async (visitor: Visitor): Promise<number> => {
  const at = now()
  visitor.asked++
  const response = await ask('POST', visitor).catch((error: unknown) => {
    console.error(error)
    return undefined
  })
  const to = now()
  ended.push({ at, took: to - at, late: lateness(at, to), status: response?.status ?? 0 })
  if (response?.status !== 200) return 0
  visitor.acknowledged++
  const [set] = response.headers.getSetCookie()
  if (set !== undefined) visitor.cookie = set.slice(0, set.indexOf(';'))
  return 200
}

let busy = true
let turn = 0
const underWay = new Set<Promise<unknown>>()
setInterval(() => {
  if (!busy) return
  // Every tenth visitor is new.
  const known = turn++ % 10 === 0 ? undefined : visitors[turn % visitors.length]
  const visitor = known ?? { cookie: '', asked: 0, acknowledged: 0 }
  const one = visit(visitor).then((status) => {
    underWay.delete(one)
    if (known === undefined && status === 200) visitors.push(visitor)
  })
  underWay.add(one)
}, 20)

/** What is wrong with a session. It waits for a server that is slow: here it matters what is kept, not how soon it is read. */
const read = async (visitor: Visitor): Promise<string | undefined> => {
  let response = await ask('GET', visitor)
  for (let tries = 0; tries < 50 && response.status === 503; tries++) {
    await sleep(100)
    response = await ask('GET', visitor)
  }
  const n: unknown = response.ok ? await response.json() : `answer ${response.status}`
  const { acknowledged, asked } = visitor
  return typeof n === 'number' && n >= acknowledged && n <= asked ? undefined : `${n} of ${acknowledged} to ${asked}`
}

/** Stops, waits for what is under way, and reads all sessions. */
const check = async (): Promise<Kept> => {
  busy = false
  for (let turns = 0; turns < 200 && underWay.size > 0; turns++) await sleep(20)
  const unanswered = underWay.size
  const wrong: string[] = []
  for (let i = 0; i < visitors.length; i += 20) {
    for (const error of await Promise.all(visitors.slice(i, i + 20).map(read))) if (error) wrong.push(error)
  }
  busy = true
  const acknowledged = visitors.reduce((sum, visitor) => sum + visitor.acknowledged, 0)
  return { sessions: visitors.length, acknowledged, unanswered, wrong }
}

process.on('message', async () => tell({ kept: await check() }))
process.on('disconnect', () => process.exit())
