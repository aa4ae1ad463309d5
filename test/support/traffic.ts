// Visitors who come, write, renew, log in again and log out while their store fails over, and a log of what they were told.

import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { type Backend, type Session, type Sessions, session, sessions } from 'keepsake'
import type { Done, Op } from './history.ts'

/** What a session's page found, before it did what its path says. */
type Saw = NonNullable<Done['saw']>

type Answer = { readonly status: number; readonly cookie: string | undefined }

export type Traffic = {
  readonly history: Done[]
  /** Errors of the store, all that is in them. */
  readonly errors: string[]
  /** Lets everybody finish what is under way. */
  stop(): Promise<void>
  /** Comes once more with every cookie that was ever given, and tries until there is an answer. */
  audit(): Promise<void>
  /** How late this process was at most, between two moments: a request cannot be faster. */
  lateness(start: number, end: number): number
}

const BUDGET = 2_000
const SECRET = 'q4mB1xqCz0m1cR8m3dWf0iZ2l0cYb3h8V2k5pXn7TtE'
const NAME = '__Host-Http-sid'
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
  renew: (s) => s.renew(),
  read: () => {},
}

/** One process of the application, as far as it can be one: with a client of its own, and turns of its own. */
const processOn = (backend: Backend, saw: WeakMap<Request, Saw>, errors: string[]) => {
  const house: Sessions = sessions({
    backend,
    secret: SECRET,
    budget: BUDGET / 1000,
    onEvent: ({ error }) => error && errors.push(inspect(error, { depth: 9 })),
  })
  const handler = house(async (request) => {
    const s: Session = await session(request)
    saw.set(request, { account: s.owner, n: Number(s.get('n') ?? 0) })
    const { pathname, search } = new URL(request.url)
    acts[pathname.slice(1)]?.(s, search.slice(1))
    return new Response('done')
  })
  return { house, handler }
}

export type TrafficOptions = {
  readonly visitors: number
  /** Milliseconds that a visitor rests between two visits, on average. */
  readonly rest: number
  readonly seed?: number
}

/** Each visitor has an account of his own, two tabs, and a thief who comes with cookies that should have ended. */
export const traffic = (backends: readonly Backend[], { visitors, rest, seed = 1 }: TrafficOptions): Traffic => {
  const history: Done[] = []
  const errors: string[] = []
  const saw = new WeakMap<Request, Saw>()
  const processes = backends.map((backend) => processOn(backend, saw, errors))
  const random = chance(seed)
  let going = true

  const late: (readonly [at: number, by: number])[] = []
  let beat = performance.now()
  const pulse = setInterval(() => {
    const now = performance.now()
    if (now - beat > 15) late.push([now, now - beat - 5])
    beat = now
  }, 5)

  const anyOf = <T>(all: readonly T[]) => all[Math.floor(random() * all.length)] as T

  const visit = async (op: Op, account: string, cookie: string | undefined): Promise<Answer> => {
    const request = new Request(`https://app.test/${op}?${account}`, {
      headers: cookie === undefined ? {} : { cookie: `${NAME}=${cookie}` },
    })
    const start = performance.now()
    const response = await anyOf(processes).handler(request)
    const end = performance.now()
    const set = response.headers.getSetCookie().find((line) => line.startsWith(`${NAME}=`))
    const given = set?.slice(NAME.length + 1).split(';')[0] || undefined
    history.push({
      op,
      account,
      presented: labelOf(cookie),
      given: labelOf(given),
      saw: saw.get(request),
      status: response.status,
      start,
      end,
    })
    return { status: response.status, cookie: given }
  }

  const revoke = async (account: string) => {
    const start = performance.now()
    const status = await anyOf(processes)
      .house.revokeAll(account)
      .then(
        () => 200,
        (error) => {
          errors.push(inspect(error, { depth: 9 }))
          return Number((error as { status?: number }).status ?? 500)
        },
      )
    history.push({ op: 'revoke', account, status, start, end: performance.now() })
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
    let cookie: string | undefined
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

  const everybody = Promise.all(Array.from({ length: visitors }, (_, i) => visitor(`visitor${i}`)))
  return {
    history,
    errors,
    async stop() {
      going = false
      await everybody
      clearInterval(pulse)
    },
    async audit() {
      // The newest key of each session: the ones before may be over.
      const newest = new Map(cookies.map(([account, cookie]) => [labelOf(cookie), [account, cookie] as const]))
      for (const [account, cookie] of newest.values()) {
        while ((await visit('read', account, cookie)).status !== 200) await sleep(20)
      }
    },
    lateness: (start, end) =>
      Math.max(0, ...late.filter(([at, by]) => at >= start && at - by <= end + 5).map(([, by]) => by)),
  }
}
