// Completes a request whose framework catches the errors of handlers and renders a page for them.

import { type Awaitable, KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { contextInside, exposedManager, type RequestContext, type RequestLike } from '../request-context.ts'
import { errorResponse, withHeaders } from '../response.ts'
import { addErrorHeaders, type BegunRequest, type fetchLifecycle } from './fetch-lifecycle.ts'
import { frameworkError } from './framework-error.ts'

/** The response to an error that `complete` threw because the request was not saved. */
const unsavedResponse = (error: unknown): Response | undefined => {
  if (!(error instanceof KeepsakeError) || !Object.hasOwn(error.headers ?? {}, 'cache-control')) return undefined
  const headers = new Headers({ 'content-type': 'text/plain; charset=utf-8' })
  addErrorHeaders(headers, error)
  return new Response(`${error.message}\n`, { status: error.status ?? 500, headers })
}

/**
 * Calls `complete` or `fail`. In a framework whose pages for errors lose the status and the cookies of an error, the response
 * to a request that was not saved is a text.
 *
 * @param show changes that response for one framework
 * @throws every other error
 */
export const orUnsaved = async (
  work: () => Awaitable<Response>,
  show: (unsaved: Response) => Awaitable<Response> = (unsaved) => unsaved,
): Promise<Response> => {
  try {
    return await work()
  } catch (error) {
    const unsaved = unsavedResponse(error)
    if (unsaved === undefined) throw error
    return show(unsaved)
  }
}

const isTemporary = (error: unknown): boolean => error instanceof KeepsakeError && error.status === 503

type HandlerError = { readonly error: unknown }

/** The error that the session of a request throws, if the backend failed when it was opened. */
const storeError = async ({ session, work }: RequestContext): Promise<HandlerError | undefined> => {
  const opened = await session?.then(
    () => undefined,
    (error: unknown) => error,
  )
  const error = opened ?? work?.readOnly?.error
  return isTemporary(error) ? { error } : undefined
}

/**
 * The end of a request in a framework that catches the errors of handlers: only its hook for errors tells a page for an error from
 * any other response.
 */
export const errorPages = (
  sessions: SessionManager,
  caller: string,
  { complete: commit, abandon, abandonWithPage }: Omit<ReturnType<typeof fetchLifecycle>, 'begin' | 'load'>,
) => {
  const { errorResponse: render, emit } = exposedManager(sessions, caller)
  const reported = new WeakMap<RequestContext, HandlerError>()

  /** Notes that a handler of a request threw an error. Its changes are dropped when the framework has rendered a page. */
  const report = (target: RequestLike, error: unknown): void => {
    const context = contextInside(target, sessions)
    if (context !== undefined && !context.answered) reported.set(context, { error })
  }

  /** Commits a request, or drops its changes if its handler threw an error. @throws as `complete` of the lifecycle */
  const complete = async (begun: BegunRequest, page: Response): Promise<Response> => {
    const handlerError =
      reported.get(begun.context) ?? (page.status === 500 ? await storeError(begun.context) : undefined)
    if (handlerError === undefined) return commit(begun, page)
    const { error } = handlerError
    if (!isTemporary(error)) return abandonWithPage(begun, page, error)
    if (render !== undefined) {
      page.body?.cancel().catch(() => {})
      return fail(begun, error)
    }
    const headers = new Headers(page.headers)
    headers.set('cache-control', 'no-store')
    const status = page.status === 500 ? 503 : page.status
    return abandonWithPage(begun, new Response(page.body, { status, headers }), error)
  }

  /**
   * Drops the changes of a request whose handler threw an error.
   *
   * @returns the response of the option `errorResponse`, if the backend failed
   * @throws `frameworkError` if the backend failed and there is no such option; every other error
   */
  const fail = async (begun: BegunRequest, error: unknown): Promise<Response> => {
    const outcome = await abandon(begun, error)
    if (outcome === undefined) throw error
    if (render === undefined) throw frameworkError(outcome)
    return withHeaders(await errorResponse(render, 'unavailable', begun.request, emit), outcome.cookies, outcome)
  }

  return { report, complete, fail }
}
