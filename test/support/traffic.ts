// Visitors who come, write, renew, log in again and log out while their store fails over, and a log of what they were told.

import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { type Backend, type Handler, type Session, type SessionManager, session, sessionManager } from 'keepsake'
import { PATIENT } from './clock.ts'
import type { Done, Op } from './history.ts'
import { now } from './lost.ts'

/** What a session's page found, before it did what its path says. */
type Saw = NonNullable<Done['saw']>

type Answer = { readonly status: number; readonly cookie: string | undefined }

export type Traffic = {
  readonly history: Done[]
  /** Lets everybody finish what is under way. */
  stop(): Promise<void>
  /** Comes once more with every cookie that was ever given, and tries until there is an answer. */
  audit(): Promise<void>
}

const NAME = '__Host-Http-sid'
/** The header of an answer that tells what its handler found. */
const SAW = 'x-saw'
const labelOf = (cookie: string | undefined) => cookie?.slice(0, 12)

/** Numbers that look like chance, the same in each run. */
const chance = (seed: number) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

/** What a visitor does, as often as it is in the list. */
const ops = Object.entries({ count: 36, read: 20, set: 10, renew: 10, again: 11, logout: 10, revoke: 3 }).flatMap(
  ([op, times]) => Array<Op>(times).fill(op as Op),
)

const acts: Record<string, (s: Session, account: string) => void> = {
  login: (s, account) => s.login(account),
  again: (s, account) => s.login(account),
  logout: (s) => s.invalidate(),
  count: (s) => s.update('n', (n = 0) => n + 1),
  set: (s) => s.set('page', 'x'.repeat(200)),
  renew: (s) => s.rotateKey(),
  read: () => {},
}

/** The application's page: it does what its path says, and what it found is in a header of the answer. */
export const page = (house: (next: Handler) => Handler) =>
  house(async (request) => {
    const s: Session = await session(request)
    const found: Saw = { account: s.owner, n: Number(s.get('n') ?? 0) }
    const { pathname, search } = new URL(request.url)
    acts[pathname.slice(1)]?.(s, search.slice(1))
    return new Response('done', { headers: { [SAW]: JSON.stringify(found) } })
  })

/** The application on a store. Its cookies are called the same on every port, plain HTTP or not. */
export const houseOn = (backend: Backend, failed: (error: unknown) => void, storeTimeout = PATIENT): SessionManager =>
  sessionManager({
    backend,
    storeTimeout,
    secret: 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE',
    secure: true,
    onEvent: ({ error }) => error !== undefined && failed(error),
  })

/** One process of the application, as visitors have it. */
export type Served = {
  readonly origin: string
  visit(request: Request): Promise<{ readonly response: Response; readonly saw: Saw | undefined }>
  /** The status. */
  revokeAll(account: string): Promise<number>
}

const statusOf = (error: unknown) => Number((error as { status?: number }).status ?? 500)

/** One in this process: with a client of its own, and turns of its own. What it found is known where it failed, too. */
export const processOn = (backend: Backend, errors: string[], storeTimeout = PATIENT): Served => {
  const house = houseOn(backend, (error) => errors.push(inspect(error, { depth: 9 })), storeTimeout)
  const found = new WeakMap<Request, Saw>()
  const inner = page((next) =>
    house(async (request) => {
      const response = await next(request)
      found.set(request, JSON.parse(response.headers.get(SAW) ?? 'null'))
      return response
    }),
  )
  return {
    origin: 'https://app.test',
    visit: async (request) => ({ response: await inner(request), saw: found.get(request) }),
    revokeAll: (account) =>
      house.revokeAll(account).then(
        () => 200,
        (error) => {
          errors.push(inspect(error, { depth: 9 }))
          return statusOf(error)
        },
      ),
  }
}

/** One that runs elsewhere. */
export const processAt = (origin: string): Served => ({
  origin,
  async visit(request) {
    const response = await fetch(request)
    await response.arrayBuffer()
    const saw = JSON.parse(response.headers.get(SAW) ?? 'null') ?? undefined
    return { response, saw }
  },
  revokeAll: async (account) => (await fetch(`${origin}/revoke?${account}`)).status,
})

export type TrafficOptions = {
  readonly visitors: number
  /** Milliseconds that a visitor rests between two visits, on average. */
  readonly rest: number
  readonly seed?: number
  /** Cookies that visitors have already, by account. */
  readonly first?: ReadonlyMap<string, string>
}

export const visitorAt = (i: number): string => `visitor${i}`

/** Each visitor has an account of his own, two tabs, and a thief who comes with cookies that should have ended. */
export const traffic = (processes: readonly Served[], { visitors, rest, seed = 1, first }: TrafficOptions): Traffic => {
  const history: Done[] = []
  const random = chance(seed)
  let going = true

  const anyOf = <T>(all: readonly T[]) => all[Math.floor(random() * all.length)] as T

  const visit = async (op: Op, account: string, cookie: string | undefined): Promise<Answer> => {
    const served = anyOf(processes)
    const request = new Request(`${served.origin}/${op}?${account}`, {
      headers: cookie === undefined ? {} : { cookie: `${NAME}=${cookie}` },
    })
    const start = now()
    const { response, saw } = await served.visit(request)
    const end = now()
    const set = response.headers.getSetCookie().find((line) => line.startsWith(`${NAME}=`))
    const given = set?.slice(NAME.length + 1).split(';')[0] || undefined
    history.push({
      op,
      account,
      presented: labelOf(cookie),
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
    const status = await anyOf(processes).revokeAll(account)
    history.push({ op: 'revoke', account, status, start, end: now() })
    return status
  }

  const pause = () => sleep(rest * (0.5 + random()))
  /** A visitor who is answered 503 tries again, as long as anybody is here. */
  const insistent = async (op: Op, account: string, cookie: string | undefined): Promise<Answer> => {
    for (;;) {
      const answer = await visit(op, account, cookie)
      if (answer.status !== 503 || !going) return answer
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
    const given = (answer: Answer) => {
      if (answer.cookie === undefined) return
      cookie = answer.cookie
      cookies.push([account, answer.cookie])
    }
    const main = async () => {
      while (going) {
        await pause()
        if (cookie === undefined) {
          given(await insistent('login', account, undefined))
          continue
        }
        const mine = cookie
        const op = anyOf(ops)
        if (op === 'revoke') {
          while ((await revoke(account)) === 503 && going) await pause()
          cookie = undefined
        } else if (op === 'logout') {
          cookie = undefined
          await insistent(op, account, mine)
        } else {
          given(await (op === 'again' ? insistent : visit)(op, account, mine))
          const last = history.findLast((done) => done.presented === labelOf(mine) && done.saw)
          if (op !== 'again' && last?.saw?.account === undefined && last !== undefined) cookie = undefined
        }
      }
    }
    const tab = async () => {
      while (going) {
        await pause()
        const mine = cookie
        if (mine === undefined) continue
        const answer = await visit(random() < 0.7 ? 'count' : 'read', account, mine)
        // The answer to a tab comes with a renewal's key; the session may have been another's since.
        if (answer.cookie !== undefined) cookies.push([account, answer.cookie])
        if (labelOf(cookie) === labelOf(answer.cookie)) cookie = answer.cookie
      }
    }
    const thief = async () => {
      while (going) {
        await pause()
        const own = cookies.filter(([of]) => of === account)
        if (own.length > 0) await visit('read', account, anyOf(own.slice(-20))[1])
      }
    }
    await Promise.all([main(), tab(), thief()])
  }

  const everybody = Promise.all(Array.from({ length: visitors }, (_, i) => visitor(visitorAt(i))))
  return {
    history,
    async stop() {
      going = false
      await everybody
    },
    async audit() {
      // The newest key of each session: the ones before may be over.
      const newest = new Map(cookies.map(([account, cookie]) => [labelOf(cookie), [account, cookie] as const]))
      for (const [account, cookie] of newest.values()) {
        while ((await visit('read', account, cookie)).status !== 200) await sleep(20)
      }
    },
  }
}
