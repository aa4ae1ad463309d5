// Sessions in applications of Astro 6 and 7.

import { AsyncLocalStorage } from 'node:async_hooks'
import { KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { contextInside, type RequestContext } from '../request-context.ts'
import { isResponse } from '../response.ts'
import { errorPages, orUnsaved } from './error-page.ts'
import { fetchLifecycle } from './fetch-lifecycle.ts'

/** The part of Astro's APIContext that is used. */
export type AstroContext = {
  readonly request: Request
  readonly locals: object
  readonly isPrerendered: boolean
}

export type AstroAdapterOptions = {
  /**
   * true: open the session of every request before the page, as `Astro.locals.session`. It costs a read of the store for every
   * request with a session cookie. Default false: `await session(Astro)` opens it.
   */
  readonly load?: boolean | undefined
}

/** The middleware `onRequest`. */
export type AstroMiddleware = (context: AstroContext, next: () => Promise<Response>) => Promise<Response>

/** The request whose page runs. Astro rewrites a page while it runs. */
const running = new AsyncLocalStorage<RequestContext>()

/**
 * Two requests with the same locals would have the session of one visitor.
 *
 * @throws KeepsakeError `invalid_option`
 */
const checkLocals = ({ request, locals }: AstroContext, sessions: SessionManager): void => {
  const earlier = contextInside(locals, sessions)
  if (earlier === undefined || earlier.answered || earlier.head === request) return
  for (let context = running.getStore(); context !== undefined; context = context.outer) {
    if (context === earlier) return
  }
  throw new KeepsakeError(
    'invalid_option',
    'The object locals belongs to another request, which is in progress. Pass a new object for each request to the handler of Astro.',
  )
}

/**
 * Sessions in an application of Astro: `export const onRequest = forAstro(manager)` in src/middleware.ts, then
 * `await session(Astro)` in pages, and `await session(context)` in endpoints and actions. With `{ load: true }` the session of
 * every request is also `Astro.locals.session`.
 *
 * A page that is rewritten to another has one session with it. Astro sends the head of a page before its components run. There the
 * session can be read, if the page or `load` has opened it. If the session cannot be saved, the response is an error with the
 * status 409, 500 or 503, or that of the option `errorResponse`. Prerendered pages have no session.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forAstro = (sessions: SessionManager, options: AstroAdapterOptions = {}): AstroMiddleware => {
  const caller = 'forAstro()'
  const lifecycle = fetchLifecycle(sessions, caller, options)
  const { fail } = errorPages(sessions, caller, lifecycle)

  return async (context, next) => {
    if (context.isPrerendered) return next()
    checkLocals(context, sessions)
    // Of the objects of a request, only its locals stay the same when Astro rewrites it.
    const begun = lifecycle.begin(context.request, [context, context.locals])
    if (begun === undefined) return next()
    let response: Response
    try {
      if (lifecycle.load) Object.assign(context.locals, { session: await session(context) })
      response = await running.run(begun.context, next)
    } catch (error) {
      if (!isResponse(error)) return orUnsaved(() => fail(begun, error))
      response = error
    }
    return orUnsaved(() => lifecycle.complete(begun, response))
  }
}
