// Visitors that log in, write, rotate keys and log out while their store fails over, and a log of their requests.

import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { type Backend, type Handler, type Session, type SessionManager, session, sessionManager } from 'keepsake'
import { PATIENT } from './clock.ts'
import type { LoggedRequest, Op } from './history.ts'
import { now } from './lost.ts'

/** The handler's view of the session before it changed it. */
type View = NonNullable<LoggedRequest['saw']>

type Answer = { readonly status: number; readonly cookie: string | undefined }

export type Traffic = {
  readonly history: LoggedRequest[]
  /** Lets all visitors finish their requests. */
  stop(): Promise<void>
  /** Sends one more read with the newest key of every session. Repeats it until the status is 200. */
  audit(): Promise<void>
}

const NAME = '__Host-Http-sid'
/** The response header with the handler's view. */
const VIEW_HEADER = 'x-saw'
const labelOf = (cookie: string | undefined) => cookie?.slice(0, 12)

/** Returns a generator of pseudo-random numbers from 0 to 1, the same ones in each run. */
const pseudoRandom = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

/** The requests of a visitor. Each is in the list as often as its share. */
const ops = Object.entries({ count: 36, read: 20, set: 10, rotate: 10, relogin: 11, logout: 10, revoke: 3 }).flatMap(
  ([op, times]) => Array<Op>(times).fill(op as Op),
)

const acts: Record<string, (s: Session, account: string) => void> = {
  login: (s, account) => s.login(account),
  relogin: (s, account) => s.login(account),
  logout: (s) => s.invalidate(),
  count: (s) => s.update('n', (n = 0) => n + 1),
  set: (s) => s.set('page', 'x'.repeat(200)),
  rotate: (s) => s.rotateKey(),
  read: () => {},
}

/** The application's handler. The path names the change, and a response header contains the handler's view. */
export const page = (manager: (next: Handler) => Handler) =>
  manager(async (request) => {
    const s: Session = await session(request)
    const view: View = { account: s.owner, n: Number(s.get('n') ?? 0) }
    const { pathname, search } = new URL(request.url)
    acts[pathname.slice(1)]?.(s, search.slice(1))
    return new Response('done', { headers: { [VIEW_HEADER]: JSON.stringify(view) } })
  })

/** The manager of the application. Its cookie has the same name on every port, over HTTP and HTTPS. */
export const managerOn = (
  backend: Backend,
  onError: (error: unknown) => void,
  storeTimeout = PATIENT,
): SessionManager =>
  sessionManager({
    backend,
    storeTimeout,
    secret: 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE',
    secure: true,
    onEvent: ({ error }) => error !== undefined && onError(error),
  })

/** One process of the application, as visitors use it. */
export type ApplicationProcess = {
  readonly origin: string
  visit(request: Request): Promise<{ readonly response: Response; readonly saw: View | undefined }>
  /** Returns the status. */
  revokeAll(account: string): Promise<number>
}

/** The HTTP status of an error. */
const statusOf = (error: unknown) => Number((error as { status?: number }).status ?? 500)

/** An application in this process, with a client of its own. Its view is known even if the request fails. */
export const localProcess = (backend: Backend, errors: string[], storeTimeout = PATIENT): ApplicationProcess => {
  const manager = managerOn(backend, (error) => errors.push(inspect(error, { depth: 9 })), storeTimeout)
  const views = new WeakMap<Request, View>()
  const inner = page((next) =>
    manager(async (request) => {
      const response = await next(request)
      views.set(request, JSON.parse(response.headers.get(VIEW_HEADER) ?? 'null'))
      return response
    }),
  )
  return {
    origin: 'https://app.test',
    visit: async (request) => ({ response: await inner(request), saw: views.get(request) }),
    revokeAll: (account) =>
      manager.revokeAll(account).then(
        () => 200,
        (error) => {
          errors.push(inspect(error, { depth: 9 }))
          return statusOf(error)
        },
      ),
  }
}

/** An application in another process. */
export const remoteProcess = (origin: string): ApplicationProcess => ({
  origin,
  async visit(request) {
    const response = await fetch(request)
    await response.arrayBuffer()
    const saw = JSON.parse(response.headers.get(VIEW_HEADER) ?? 'null') ?? undefined
    return { response, saw }
  },
  revokeAll: async (account) => (await fetch(`${origin}/revoke?${account}`)).status,
})

export type TrafficOptions = {
  readonly visitors: number
  /** Milliseconds that a visitor waits between two requests, on average. */
  readonly rest: number
  readonly seed?: number
  /** Cookies that visitors already have, by account. */
  readonly first?: ReadonlyMap<string, string>
}

export const visitorAt = (i: number): string => `visitor${i}`

/** Starts the visitors. Each has an account, two tabs, and an attacker who sends cookies of earlier sessions. */
export const traffic = (
  processes: readonly ApplicationProcess[],
  { visitors, rest, seed = 1, first }: TrafficOptions,
): Traffic => {
  const history: LoggedRequest[] = []
  const random = pseudoRandom(seed)
  let isRunning = true

  const pickFrom = <T>(all: readonly T[]) => all[Math.floor(random() * all.length)] as T

  const visit = async (op: Op, account: string, cookie: string | undefined): Promise<Answer> => {
    const target = pickFrom(processes)
    const request = new Request(`${target.origin}/${op}?${account}`, {
      headers: cookie === undefined ? {} : { cookie: `${NAME}=${cookie}` },
    })
    const start = now()
    const { response, saw } = await target.visit(request)
    const end = now()
    const setCookie = response.headers.getSetCookie().find((line) => line.startsWith(`${NAME}=`))
    const given = setCookie?.slice(NAME.length + 1).split(';')[0] || undefined
    history.push({
      op,
      account,
      sentLabel: labelOf(cookie),
      given: labelOf(given),
      saw,
      status: response.status,
      start,
      end,
    })
    return { status: response.status, cookie: given }
  }

  const revoke = async (account: string) => {
    const start = now()
    const status = await pickFrom(processes).revokeAll(account)
    history.push({ op: 'revoke', account, status, start, end: now() })
    return status
  }

  const pause = () => sleep(rest * (0.5 + random()))
  /** Repeats a request that was answered with 503, until the traffic stops. */
  const visitUntilAnswered = async (op: Op, account: string, cookie: string | undefined): Promise<Answer> => {
    for (;;) {
      const answer = await visit(op, account, cookie)
      if (answer.status !== 503 || !isRunning) return answer
      await pause()
    }
  }

  const cookies: (readonly [account: string, cookie: string])[] = []

  const visitor = async (account: string) => {
    let cookie = first?.get(account)
    if (cookie !== undefined) {
      cookies.push([account, cookie])
      history.push({ op: 'login', account, given: labelOf(cookie), status: 200, start: 0, end: 0 })
    }
    const keepCookie = (answer: Answer) => {
      if (answer.cookie === undefined) return
      cookie = answer.cookie
      cookies.push([account, answer.cookie])
    }
    const main = async () => {
      while (isRunning) {
        await pause()
        if (cookie === undefined) {
          keepCookie(await visitUntilAnswered('login', account, undefined))
          continue
        }
        const current = cookie
        const op = pickFrom(ops)
        if (op === 'revoke') {
          while ((await revoke(account)) === 503 && isRunning) await pause()
          cookie = undefined
        } else if (op === 'logout') {
          cookie = undefined
          await visitUntilAnswered(op, account, current)
        } else {
          keepCookie(await (op === 'relogin' ? visitUntilAnswered : visit)(op, account, current))
          const last = history.findLast(({ sentLabel, saw }) => sentLabel === labelOf(current) && saw)
          if (op !== 'relogin' && last?.saw?.account === undefined && last !== undefined) cookie = undefined
        }
      }
    }
    const tab = async () => {
      while (isRunning) {
        await pause()
        const current = cookie
        if (current === undefined) continue
        const answer = await visit(random() < 0.7 ? 'count' : 'read', account, current)
        // The response may set a rotated key. By now, the visitor may have another session.
        if (answer.cookie !== undefined) cookies.push([account, answer.cookie])
        if (labelOf(cookie) === labelOf(answer.cookie)) cookie = answer.cookie
      }
    }
    const attacker = async () => {
      while (isRunning) {
        await pause()
        const own = cookies.filter(([owner]) => owner === account)
        if (own.length > 0) await visit('read', account, pickFrom(own.slice(-20))[1])
      }
    }
    await Promise.all([main(), tab(), attacker()])
  }

  const all = Promise.all(Array.from({ length: visitors }, (_, i) => visitor(visitorAt(i))))
  return {
    history,
    async stop() {
      isRunning = false
      await all
    },
    async audit() {
      // The newest key of each session, because the previous ones may have expired.
      const newest = new Map(cookies.map(([account, cookie]) => [labelOf(cookie), [account, cookie] as const]))
      for (const [account, cookie] of newest.values()) {
        while ((await visit('read', account, cookie)).status !== 200) await sleep(20)
      }
    },
  }
}
