// A manager on a fresh backend with a clock and a list of events, and visitors whose handlers are functions of the test.

import {
  type Backend,
  backendFromUrl,
  type EventType,
  type Session,
  type SessionManagerOptions,
  session,
  sessionManager,
} from 'keepsake'
import { type Browser, browser } from 'keepsake/testing'
import { type Clock, clock, PATIENT } from './clock.ts'
import { type Watched, watched } from './watched.ts'

export type Act = (s: Session, request: Request) => unknown

export type Setup = Watched & {
  readonly now: Clock
  readonly types: EventType[]
  readonly events: unknown[]
  /** A new visitor. Each call gives the handler of one request. */
  readonly visitor: () => Visitor
}

export type Visitor = {
  /** Sends one request whose handler opens the session and calls `act`. Returns its result, or the status of an error. */
  (act: Act): Promise<unknown>
  /** The same, but returns the response. */
  readonly raw: (act: Act, init?: RequestInit) => Promise<Response>
  readonly browser: Browser
  /** Another browser with the same cookies. */
  readonly withSameCookies: () => Visitor
  /** The same, answered by another process of the same application: the two share no commit queue. */
  readonly otherProcess: () => Visitor
}

export const setup = async (options: Partial<SessionManagerOptions> = {}): Promise<Setup> => {
  const now = clock()
  const types: EventType[] = []
  const events: unknown[] = []
  const inner = typeof options.backend === 'object' ? options.backend : await backendFromUrl('memory:', { now })
  const watch = watched(inner as Backend)
  const startProcess = () =>
    sessionManager({
      now,
      storeTimeout: PATIENT,
      onEvent: (event) => {
        types.push(event.type)
        events.push(event)
      },
      ...options,
      backend: watch.backend,
    })
  const acts = new WeakMap<Request, Act>()
  const results = new WeakMap<Request, unknown>()
  let act: Act = () => {}
  let last: Request | undefined
  const serve = () => {
    const handler = startProcess()(async (request) => {
      const result = await acts.get(request)?.(await session(request), request)
      results.set(request, result)
      return result instanceof Response ? result : new Response('done')
    })
    return (request: Request) => {
      acts.set(request, act)
      last = request
      return handler(request)
    }
  }
  const firstProcess = serve()
  const secondProcess = serve()
  const visitorOf = (jar: Browser): Visitor => {
    const raw = (next: Act, init?: RequestInit) => {
      act = next
      return jar('/', init)
    }
    const visit = async (next: Act) => {
      act = next
      const pending = jar('/')
      const request = last as Request
      const response = await pending
      return response.ok ? results.get(request) : response.status
    }
    return Object.assign(visit, {
      raw,
      browser: jar,
      withSameCookies: () => visitorOf(jar.copy()),
      otherProcess: () => visitorOf(jar.copy(secondProcess)),
    })
  }
  return Object.assign(watch, { now, types, events, visitor: () => visitorOf(browser(firstProcess, { now })) })
}

/** The same with a visitor who has a session. `act` creates it. */
export const setupSession = async (
  options: Partial<SessionManagerOptions> = {},
  act: Act = (s) => s.set('a', true),
): Promise<{ readonly h: Setup; readonly visit: Visitor }> => {
  const h = await setup(options)
  const visit = h.visitor()
  await visit(act)
  return { h, visit }
}
