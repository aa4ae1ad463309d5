// Saves the session of a route handler or of an action before it answers.

import { abandonRequest, commitRequest, type RequestOutcome } from '../../commit-request.ts'
import type { Awaitable, KeepsakeError } from '../../error.ts'
import { createResponder } from '../../middleware.ts'
import { attach, exposedManager, isInside, type Manager, type RequestContext } from '../../request-context.ts'
import { isResponse } from '../../response.ts'
import { frameworkError } from '../framework-error.ts'
import { withPublicErrors } from '../public-errors.ts'
import { passCookies, responseOf, thrownAnswer } from './control-flow.ts'
import { actionHead, type CookieJar, formIn, RouteHead, withCookies } from './request-head.ts'
import type { Shared } from './shared.ts'

/** Wraps a route handler, the function of a proxy or a server action. If it is not saved, a handler gives another Response. */
export type Saving = <Args extends readonly unknown[], T>(
  wrapped: (...args: Args) => Awaitable<T>,
) => (...args: Args) => Promise<T extends Response ? Response : T>

/** Whether a request makes changes that its visitor may see. */
const changesSession = ({ work, flashAdded }: RequestContext): boolean =>
  flashAdded.length > 0 ||
  (work !== undefined &&
    (work.changes.length > 0 || work.rotate || work.transition !== undefined || work.saved !== undefined))

const setCookies = (jar: CookieJar, outcome: RequestOutcome): void => {
  for (const { name, value, attributes } of outcome.cookieObjects()) jar.set(name, value, attributes)
}

/** An error for `error.tsx`, which gets nothing else of it than the digest. */
const actionError = (outcome: RequestOutcome): KeepsakeError => {
  const error = frameworkError(outcome)
  return Object.assign(error, { digest: `keepsake;${error.code}` })
}

/** The functions that wrap a handler and an action of one manager. */
export const savingWith = (shared: () => Shared): Saving => {
  const saveHandler = async (handler: (...args: never[]) => unknown, request: Request, args: readonly unknown[]) => {
    const { sessions, running } = shared()
    const call = () => handler(...(args as never[])) as Awaitable<Response>
    if (isInside(request, sessions)) return call()
    const manager = exposedManager(sessions, 'forNext()')
    const context = attach(request, sessions, handlerManager(manager), new RouteHead(request))
    const { respond, handlerThrew } = createResponder(manager)
    let response: Response
    try {
      response = await running.run({ target: request, context }, call)
    } catch (error) {
      const answer = isResponse(error) ? error : thrownAnswer(error)
      if (answer === undefined) return handlerThrew(request, context, error)
      response = isResponse(answer) ? answer : responseOf(answer, request)
    }
    return passCookies(await respond(request, context, response))
  }

  const saveAction = async (action: (...args: never[]) => unknown, args: readonly unknown[]) => {
    const { sessions, running } = shared()
    const outer = running.getStore()
    if (outer !== undefined && !outer.context.answered) return action(...(args as never[]))
    const { cookies, headers } = await import('next/headers.js')
    const jar = await cookies()
    const form = formIn(args)
    const target = {}
    const head = actionHead(await headers(), jar, form)
    const context = attach(target, sessions, storing(exposedManager(sessions, 'forNext()')), head)
    let thrown: { readonly error: unknown } | undefined
    let result: unknown
    try {
      result = await running.run({ target, context, form }, () => action(...(args as never[])))
    } catch (error) {
      thrown = { error }
      if (thrownAnswer(error) === undefined) {
        const outcome = await abandonRequest(target, context, error)
        if (outcome === undefined) throw error
        setCookies(jar, outcome)
        throw actionError(outcome)
      }
    }
    const changed = changesSession(context)
    const outcome = await commitRequest(target, context, 200)
    if (outcome !== undefined) setCookies(jar, outcome)
    if (outcome?.failure !== undefined) throw actionError(outcome)
    if (changed) await showChanges()
    if (thrown !== undefined) throw thrown.error
    return result
  }

  return ((wrapped: (...args: never[]) => unknown) =>
    (...args: readonly unknown[]) =>
      isRequest(args[0]) ? saveHandler(wrapped, args[0], args) : saveAction(wrapped, args)) as Saving
}

const isRequest = (value: unknown): value is Request => {
  const { headers, url } = (value ?? {}) as Partial<Request>
  return typeof url === 'string' && typeof headers?.get === 'function'
}

/** Next.js renders the page again after an action that sets a cookie. A change of a session often sets none. */
const showChanges = async (): Promise<void> => {
  const { refresh } = await import('next/cache.js')
  try {
    refresh()
  } catch {
    // A route handler called the action, so no page follows.
  }
}

/** The same manager, which stores messages also for anonymous visitors: a component cannot take them out of a cookie. */
const storing = (manager: Manager): Manager => {
  const open = withPublicErrors(manager).open
  return {
    ...manager,
    open: async (...args) => Object.assign(await open(...args), { storesFlash: true }),
  }
}

/** The manager of route handlers: they see the cookies that a proxy has set. */
const handlerManager = (manager: Manager): Manager => {
  const { open } = storing(manager)
  return {
    ...manager,
    async open(head, tenant) {
      if (!(head instanceof RouteHead) || !head.headers.has('x-middleware-set-cookie')) return open(head, tenant)
      const { cookies } = await import('next/headers.js')
      return open(withCookies(head, await cookies()), tenant)
    },
  }
}
