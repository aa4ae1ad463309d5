// Sessions in applications of SvelteKit 2 and 3.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { Awaitable } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { attachAlso } from '../request-context.ts'
import { errorPages, orUnsaved } from './error-page.ts'
import { type BegunRequest, type FetchAdapterOptions, fetchLifecycle } from './fetch-lifecycle.ts'
import { splitSetCookie } from './set-cookie.ts'

/** The part of SvelteKit's RequestEvent that is used. */
export type SvelteKitEvent = {
  readonly request: Request
  readonly locals: object
  readonly isDataRequest: boolean
  readonly isSubRequest: boolean
  readonly cookies: {
    set(name: string, value: string, options: { path: string; encode: (value: string) => string }): void
  }
}

export type SvelteKitAdapterOptions = {
  /**
   * true: open the session of every request before the handlers, as `event.locals.session`. It costs a read of the store for every
   * request with a session cookie. Default false: `await session(event)` opens it.
   */
  readonly load?: boolean | undefined
}

/** The hook `handle`. */
export type SvelteKitHandle = (<Event extends SvelteKitEvent>(input: {
  readonly event: Event
  readonly resolve: (event: Event) => Awaitable<Response>
}) => Promise<Response>) & {
  /**
   * For the hook `handleError`: drops the changes of a request whose handler threw an unexpected error. Without it, SvelteKit's
   * error page looks like any response, so the changes of that request are saved.
   */
  readonly abandon: (event: SvelteKitEvent, error: unknown) => void
}

/** Whether an error is the result of `redirect()`. A copy of SvelteKit has a class of its own. */
const isRedirect = (error: unknown): boolean => {
  const { status, location } = (error ?? {}) as { status?: unknown; location?: unknown }
  return typeof status === 'number' && status >= 300 && status < 400 && typeof location === 'string'
}

/** The response to a request that was not saved, as the code of SvelteKit in the browser expects it. */
const refusal = async (event: SvelteKitEvent, response: Response): Promise<Response> => {
  const accept = event.request.headers.get('accept') ?? ''
  const asJson = accept.includes('application/json') && !accept.includes('text/html')
  if (!event.isDataRequest && !asJson) return response
  const { status, headers } = response
  const error = { status, message: (await response.text()).trim() }
  headers.set('content-type', 'application/json')
  const isAction = event.request.headers.has('x-sveltekit-action')
  return new Response(JSON.stringify(isAction ? { type: 'error', error } : error), { status, headers })
}

/**
 * Sessions in an application of SvelteKit: `export const handle = forSvelteKit(manager)` in hooks.server.ts, then
 * `await session(event)` in `load`, in actions, in endpoints and in remote functions. With `{ load: true }` the session of every
 * request is also `event.locals.session`.
 *
 * A request that the application sends to itself with `event.fetch` has the session of the page that sent it. If the session cannot
 * be saved, the response is an error with the status 409, 500 or 503, or that of the option `errorResponse`.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forSvelteKit = (sessions: SessionManager, options: SvelteKitAdapterOptions = {}): SvelteKitHandle => {
  const caller = 'forSvelteKit()'
  const lifecycle = fetchLifecycle(sessions, caller, options satisfies FetchAdapterOptions)
  const { report, complete, fail } = errorPages(sessions, caller, lifecycle)
  const pages = new AsyncLocalStorage<BegunRequest>()

  const answer = (event: SvelteKitEvent, work: () => Promise<Response>): Promise<Response> =>
    orUnsaved(work, (unsaved) => refusal(event, unsaved))

  /** Commits a request that a later hook redirects. SvelteKit makes the Response, and adds the cookies of the event to it. */
  const answerRedirect = async (event: SvelteKitEvent, begun: BegunRequest, redirect: unknown): Promise<Response> => {
    const { status } = redirect as { status: number }
    const response = await answer(event, () => complete(begun, new Response(null, { status })))
    if (response.status !== status) return response
    for (const line of response.headers.getSetCookie()) {
      const { name, value, options } = splitSetCookie(line)
      event.cookies.set(name, value, { ...options, encode: String })
    }
    throw redirect
  }

  const handle = async <Event extends SvelteKitEvent>({
    event,
    resolve,
  }: {
    readonly event: Event
    readonly resolve: (event: Event) => Awaitable<Response>
  }): Promise<Response> => {
    const page = event.isSubRequest ? pages.getStore() : undefined
    if (page !== undefined) {
      for (const target of [event, event.request, event.locals]) attachAlso(target, page.context)
      return resolve(event)
    }
    const begun = lifecycle.begin(event.request, [event, event.locals])
    if (begun === undefined) return resolve(event)
    let response: Response
    try {
      if (lifecycle.load) Object.assign(event.locals, { session: await session(event) })
      response = await pages.run(begun, () => resolve(event))
    } catch (error) {
      if (isRedirect(error)) return answerRedirect(event, begun, error)
      return answer(event, () => fail(begun, error))
    }
    return answer(event, () => complete(begun, response))
  }

  const abandon = (event: SvelteKitEvent, error: unknown): void => {
    // The page decides about an error of a request that it sent itself.
    if (!event.isSubRequest) report(event, error)
  }
  return Object.assign(handle, { abandon })
}
