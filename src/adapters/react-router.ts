// Sessions in applications of React Router 8 in framework mode.

import { KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { contextInside, type RequestLike } from '../request-context.ts'
import { isResponse } from '../response.ts'
import type { Session } from '../session/session.ts'
import { errorPages, orUnsaved } from './error-page.ts'
import { fetchLifecycle } from './fetch-lifecycle.ts'
import { withStatusText } from './react-router/error-status.ts'

export {
  createSessionStorage,
  type ReactRouterSession,
  type ReactRouterStorage,
  type SessionStorageOptions,
} from './react-router/session-storage.ts'

/** The part of the arguments of a middleware that is used. */
export type ReactRouterArgs = { readonly request: Request; readonly context: object }

export type ReactRouterAdapterOptions = {
  /**
   * true: open the session of every request before the loaders, as `context.get(sessionContext)`. It costs a read of the store for
   * every request with a session cookie. Default false: `await session(context)` opens it.
   */
  readonly load?: boolean | undefined
}

/** A middleware for the root route. */
export type ReactRouterMiddleware = ((args: ReactRouterArgs, next: () => Promise<Response>) => Promise<Response>) & {
  /**
   * For `handleError` of entry.server.tsx: drops the changes of a request whose loader or action threw an error. Without it, the
   * page of an ErrorBoundary looks like any response, so the changes of that request are saved.
   *
   * @param context the context of the request
   */
  readonly abandon: (context: object, error: unknown) => void
}

/** The session of the visitor: `context.get(sessionContext)`. Only with `forReactRouter(manager, { load: true })`. */
export const sessionContext: { defaultValue?: Session } = {}

/**
 * Two requests with the same context would have the session of one visitor.
 *
 * @throws KeepsakeError `invalid_option`
 */
const checkContext = ({ request, context }: ReactRouterArgs, sessions: SessionManager): void => {
  const earlier = contextInside(context as RequestLike, sessions)
  if (earlier === undefined || earlier.head === request) return
  throw new KeepsakeError(
    'invalid_option',
    'The context belongs to an earlier request. Return a new RouterContextProvider from getLoadContext for each request.',
  )
}

/**
 * Sessions in an application of React Router: `export const middleware = [forReactRouter(manager)]` in root.tsx, then
 * `await session(context)` in loaders and actions. With `{ load: true }` the session of every request is also
 * `context.get(sessionContext)`.
 *
 * The context is the same in an action and in the loaders that run after it, although their Requests are two. If the session cannot
 * be saved, the ErrorBoundary gets an error with the status 409, 500 or 503, unless the manager has the option `errorResponse`.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forReactRouter = (
  sessions: SessionManager,
  options: ReactRouterAdapterOptions = {},
): ReactRouterMiddleware => {
  const caller = 'forReactRouter()'
  const lifecycle = fetchLifecycle(sessions, caller, options, withStatusText)
  const { report, complete } = errorPages(sessions, caller, lifecycle)

  const middleware = async (args: ReactRouterArgs, next: () => Promise<Response>): Promise<Response> => {
    checkContext(args, sessions)
    const { request, context } = args
    const begun = lifecycle.begin(request, [context])
    if (begun === undefined) return next()
    let response: Response
    try {
      if (lifecycle.load) {
        const { set } = context as { set(key: typeof sessionContext, value: Session): void }
        set.call(context, sessionContext, await session(context))
      }
      response = await next()
      // If the visitor went away, React Router does not wait for the loaders, which may have made a part of their changes.
      if (request.signal.aborted && response.status === 500) report(context as RequestLike, request.signal.reason)
    } catch (error) {
      if (!isResponse(error)) {
        await lifecycle.abandon(begun, error)
        throw error
      }
      // A Response that is thrown, such as that of redirect(), is an answer. If it was thrown again, it would lose the cookies.
      response = error
    }
    return orUnsaved(
      () => complete(begun, response),
      (unsaved) => {
        // So does the page of an ErrorBoundary.
        if (unsaved.headers.has('set-cookie')) return unsaved
        throw unsaved
      },
    )
  }

  const abandon = (context: object, error: unknown): void => report(context as RequestLike, error)
  return Object.assign(middleware, { abandon })
}
