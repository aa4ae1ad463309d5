// Completes a request whose framework catches the errors of handlers and renders a page for them.

import { usesSession } from '../commit-request.ts'
import { KeepsakeError } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { contextInside, exposedManager, type RequestContext, type RequestLike } from '../request-context.ts'
import { errorResponse, withHeaders } from '../response.ts'
import type { BegunRequest, fetchLifecycle } from './fetch-lifecycle.ts'
import { frameworkError } from './framework-error.ts'

/** The response in place of the one of a handler whose request was not saved, from the error that `complete` threw. */
export const unsavedResponse = (error: unknown): Response | undefined => {
  if (!(error instanceof KeepsakeError) || !Object.hasOwn(error.headers ?? {}, 'cache-control')) return undefined
  const headers = new Headers({ 'content-type': 'text/plain; charset=utf-8' })
  for (const [name, value] of Object.entries(error.headers as object as Record<string, string | readonly string[]>)) {
    for (const one of typeof value === 'string' ? [value] : value) headers.append(name, one)
  }
  return new Response(`${error.message}\n`, { status: error.status ?? 500, headers })
}

/** The error that the session of a request throws, if the backend failed when it was opened. */
const storeError = async ({ session, work }: RequestContext): Promise<unknown> => {
  const opened = await session?.then(
    () => undefined,
    (error: unknown) => error,
  )
  const error = opened ?? work?.readOnly?.error
  return error instanceof KeepsakeError && error.status === 503 ? error : undefined
}

/**
 * The end of a request in a framework that catches the errors of handlers: only its hook for errors tells a page for an error from
 * any other response.
 */
export const errorPages = (
  sessions: SessionManager,
  caller: string,
  lifecycle: Pick<ReturnType<typeof fetchLifecycle>, 'complete' | 'abandon'>,
) => {
  const { errorResponse: render, emit } = exposedManager(sessions, caller)
  const reported = new WeakMap<RequestContext, unknown>()

  /** Notes that a handler of a request threw an error. Its changes are dropped when the framework has rendered a page. */
  const report = (target: RequestLike, error: unknown): void => {
    const context = contextInside(target, sessions)
    if (context !== undefined && !context.answered) reported.set(context, error)
  }

  const errorBehind = async ({ context }: BegunRequest, { status }: Response): Promise<unknown> =>
    reported.get(context) ?? (status === 500 ? storeError(context) : undefined)

  /** Commits a request, or drops its changes if its handler threw an error. @throws as `complete` of the lifecycle */
  const complete = async (begun: BegunRequest, page: Response): Promise<Response> => {
    const error = await errorBehind(begun, page)
    if (error === undefined) return lifecycle.complete(begun, page)
    const { context, request } = begun
    const isUsed = usesSession(context)
    const isPrivate = context.work?.privateResponse === true
    const outcome = await lifecycle.abandon(begun, error)
    // The page may contain the name of the visitor.
    if (outcome === undefined) return isUsed ? withHeaders(page, [], { emit }, isPrivate) : page
    if (render !== undefined) {
      page.body?.cancel().catch(() => {})
      return withHeaders(await errorResponse(render, 'unavailable', request, emit), outcome.cookies, outcome)
    }
    const headers = new Headers(page.headers)
    headers.set('cache-control', 'no-store')
    const status = page.status === 500 ? 503 : page.status
    return withHeaders(new Response(page.body, { status, headers }), outcome.cookies, outcome)
  }

  /**
   * Drops the changes of a request whose handler threw an error.
   *
   * @returns the response with the status 503, if the backend failed
   * @throws every other error
   */
  const fail = async (begun: BegunRequest, error: unknown): Promise<Response> => {
    const outcome = await lifecycle.abandon(begun, error)
    const response = outcome && unsavedResponse(frameworkError(outcome))
    if (response === undefined) throw error
    if (render === undefined) return response
    return withHeaders(await errorResponse(render, 'unavailable', begun.request, emit), outcome?.cookies ?? [], {
      emit,
    })
  }

  return { report, complete, fail }
}
