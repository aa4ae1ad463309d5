// A process that makes fifty requests a second through one driver, and reports every answer to its test.

import { setTimeout as sleep } from 'node:timers/promises'
import { session, sessionManager } from 'keepsake'
import { openBackend, SHORT } from './driver.ts'
import { lateness, now } from './lost.ts'

/** One answer. All times are in milliseconds, `at` since 1970. */
export type Answer = {
  readonly at: number
  readonly took: number
  /** The part of `took` in which this process could not run. */
  readonly late: number
  /** The HTTP status, or 0 if the handler threw. */
  readonly status: number
}

/** The state of all sessions that were created. */
export type SessionReport = {
  readonly sessions: number
  readonly acknowledged: number
  /**
   * Requests without an answer after twice their time limit. The time is counted in steps of 20 ms that this process
   * ran.
   */
  readonly unanswered: number
  /** Descriptions of sessions with fewer increments than acknowledged, or more than requested. */
  readonly wrong: readonly string[]
}

export type Report = { readonly answers: readonly Answer[] } | { readonly sessions: SessionReport }

const [driver = '', url = '', place = ''] = process.argv.slice(2)
const manager = sessionManager({
  backend: await openBackend(driver, url, place, SHORT),
  secret: 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE',
})
const handler = manager(async (request) => {
  const s = await session(request)
  if (request.method === 'POST') s.update('n', (n = 0) => n + 1)
  return Response.json(s.get('n') ?? null)
})
const report = (message: Report) => process.send?.(message)

type Visitor = { cookie: string; requested: number; acknowledged: number }
const visitors: Visitor[] = []

const send = async (method: 'GET' | 'POST', { cookie }: Visitor): Promise<Response> =>
  handler(new Request('https://app.test/', { method, headers: { cookie } }))

const unreported: Answer[] = []
const TICK = 20

setInterval(() => {
  const answers = unreported.splice(0)
  if (answers.length > 0) report({ answers })
}, TICK)

const visit = async (visitor: Visitor): Promise<number> => {
  const at = now()
  visitor.requested++
  const response = await send('POST', visitor).catch((error: unknown) => {
    console.error(error)
    return undefined
  })
  const end = now()
  unreported.push({ at, took: end - at, late: lateness(at, end), status: response?.status ?? 0 })
  if (response?.status !== 200) return 0
  visitor.acknowledged++
  const [setCookie] = response.headers.getSetCookie()
  if (setCookie !== undefined) visitor.cookie = setCookie.slice(0, setCookie.indexOf(';'))
  return 200
}

let isBusy = true
let requestCount = 0
const inProgress = new Set<Promise<unknown>>()
setInterval(() => {
  if (!isBusy) return
  // Every tenth visitor is new.
  const known = requestCount++ % 10 === 0 ? undefined : visitors[requestCount % visitors.length]
  const visitor = known ?? { cookie: '', requested: 0, acknowledged: 0 }
  const request = visit(visitor).then((status) => {
    inProgress.delete(request)
    if (known === undefined && status === 200) visitors.push(visitor)
  })
  inProgress.add(request)
}, 20)

/** Describes the fault of a session, if it has one. It waits for a slow server, because this does not test the speed. */
const findFault = async (visitor: Visitor): Promise<string | undefined> => {
  let response = await send('GET', visitor)
  for (let tries = 0; tries < 50 && response.status === 503; tries++) {
    await sleep(100)
    response = await send('GET', visitor)
  }
  const n: unknown = response.ok ? await response.json() : `answer ${response.status}`
  const { acknowledged, requested } = visitor
  return typeof n === 'number' && n >= acknowledged && n <= requested
    ? undefined
    : `${n} of ${acknowledged} to ${requested}`
}

/** Pauses, waits for the requests in progress, and reads all sessions. */
const check = async (): Promise<SessionReport> => {
  isBusy = false
  for (let steps = 0; steps < 200 && inProgress.size > 0; steps++) await sleep(20)
  const unanswered = inProgress.size
  const wrong: string[] = []
  for (let i = 0; i < visitors.length; i += 20) {
    for (const error of await Promise.all(visitors.slice(i, i + 20).map(findFault))) if (error) wrong.push(error)
  }
  isBusy = true
  const acknowledged = visitors.reduce((sum, visitor) => sum + visitor.acknowledged, 0)
  return { sessions: visitors.length, acknowledged, unanswered, wrong }
}

process.on('message', async () => report({ sessions: await check() }))
process.on('disconnect', () => process.exit())
