// Sessions in applications of Next.js: in route handlers, server actions, server components and the proxy.

import { checkOptionNames, KeepsakeError } from '../../error.ts'
import { addFlash, takeFlash } from '../../flash.ts'
import { csrfField, type TokenOptions } from '../../forms/csrf.ts'
import { type FormOptions, type FormResult, readForm } from '../../forms/form.ts'
import type { SessionManager } from '../../manager.ts'
import { type SessionOptions, session, workOf } from '../../request.ts'
import { attach, exposedManager, findContext } from '../../request-context.ts'
import type { OutputOf, StandardSchema } from '../../schema.ts'
import type { Flash } from '../../session/flash-messages.ts'
import { preSession } from '../../session/form-secret.ts'
import type { AnyFields, Session } from '../../session/session.ts'
import { withPublicErrors } from '../public-errors.ts'
import { continueToPage } from './control-flow.ts'
import { extendPage, readOnlyError, readOnlyManager } from './read-only.ts'
import { pageHead } from './request-head.ts'
import { type Saving, savingWith } from './saving.ts'
import { sharedBy } from './shared.ts'

export type NextOptions = {
  /** Tells managers apart, if an application has several: each `forNext` has a name of its own. Default `default`. */
  readonly name?: string | undefined
}

/** The functions for one manager. Those without a request belong to the request that Next.js is answering. */
export type NextSessions<F extends object = AnyFields> = {
  /** The manager, for example for `revokeAll`. */
  readonly manager: () => SessionManager<F>
  /**
   * The session of the request. In a handler or an action inside `saving` it can be changed. In a server component it can
   * be read: one visit for all components of a request.
   *
   * @throws KeepsakeError `unavailable`, `invalid_option`, `too_late`. Every change in a component throws `read_only`
   */
  readonly session: (options?: SessionOptions) => Promise<Session<F>>
  /**
   * Adds a message for the next page, inside `saving`. For an anonymous visitor it creates a session.
   *
   * @throws KeepsakeError `read_only` outside of `saving`; `not_json`, `too_large`, `too_late`
   */
  readonly addFlash: (category: string, text: string) => void
  /**
   * Takes the messages for this visitor, also in a server component.
   *
   * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`; `read_only` in a component on a `cookie:` backend
   */
  readonly takeFlash: () => Promise<readonly Flash[]>
  /**
   * The hidden field of a form. In a server component, an anonymous visitor needs `proxy`.
   *
   * @throws KeepsakeError `read_only` in a component for an anonymous visitor without a cookie of `proxy`; `invalid_option`
   */
  readonly csrfField: (options?: TokenOptions) => Promise<{ readonly name: string; readonly value: string }>
  /**
   * Reads the form of an action or a route handler, and checks its token. In an action it is the FormData among the
   * arguments, and the option `upload` is not possible.
   *
   * @throws KeepsakeError `invalid_option`, `read_only` outside of `saving`
   */
  readonly readForm: {
    (schema?: undefined, options?: FormOptions): Promise<FormResult>
    <S extends StandardSchema>(schema: S, options?: FormOptions): Promise<FormResult<OutputOf<S>>>
  }
  /**
   * Wraps a route handler, a server action or the function of a proxy: its changes are saved before it answers, also if it
   * answers by `redirect()` or `notFound()`. If it throws any other error, nothing is saved.
   *
   * @throws KeepsakeError `ended`, `conflict` and `withheld` (status 409), `unavailable`, `unknown_outcome` and `contention`
   *   (503) from an action that was not saved. A route handler answers with these statuses
   */
  readonly saving: Saving
  /**
   * The proxy of the application, in `proxy.ts`. It gives anonymous visitors the cookie that a form of a page needs, and
   * renews cookies. If the store fails, the page follows all the same.
   */
  readonly proxy: (request: Request) => Promise<Response>
}

const outsideSaving = (what: string): KeepsakeError =>
  readOnlyError(
    `${what} was called outside of a function that saving() wraps. Nothing was changed. Wrap the route handler or the server action: saving(async () => { … }).`,
  )

/**
 * Sessions in an application of Next.js 16 with the App Router:
 * `export const { session, saving } = forNext(() => sessionManager({ backend }))`.
 *
 * The function is called once for a process, at the first use, although each bundle has a copy of the module that calls
 * `forNext`. After a change of its options, restart the development server.
 *
 * @throws KeepsakeError `invalid_option`
 */
export const forNext = <F extends object = AnyFields>(
  make: () => SessionManager<F>,
  options: NextOptions = {},
): NextSessions<F> => {
  checkOptionNames(options, ['name'], 'forNext()')
  const { name = 'default' } = options
  if (typeof make !== 'function' || typeof name !== 'string') {
    const message = 'forNext() takes a function that makes the manager, and its option name is a string.'
    throw new KeepsakeError('invalid_option', `${message} Call forNext(() => sessionManager({ backend })).`)
  }
  const shared = () => sharedBy(name, make as unknown as () => SessionManager)
  const visit = () => shared().running.getStore()

  /** The object of the page that is rendered. */
  const page = async (): Promise<object> => {
    const { cookies, headers } = await import('next/headers.js')
    const [jar, given] = [await cookies(), await headers()]
    const { sessions, pages } = shared()
    const known = pages.get(jar)
    if (known !== undefined) return known
    const target = {}
    const manager = readOnlyManager(withPublicErrors(exposedManager(sessions, 'forNext()')))
    attach(target, sessions, manager, pageHead(given, jar))
    pages.set(jar, target)
    return target
  }
  const here = async (): Promise<object> => visit()?.target ?? page()
  const saving = savingWith(shared)

  return {
    manager: () => shared().sessions as unknown as SessionManager<F>,
    async session(options) {
      const target = await here()
      const opened = await session(target, options)
      const work = visit() === undefined ? findContext(target)?.work : undefined
      if (work !== undefined) await extendPage(work)
      return opened as unknown as Session<F>
    },
    addFlash(category, text) {
      const current = visit()
      if (current === undefined) throw outsideSaving('addFlash()')
      addFlash(current.target, category, text)
    },
    async takeFlash() {
      const current = visit()
      if (current !== undefined) return takeFlash(current.target)
      const target = await page()
      const { snapshot, context } = await workOf(target)
      if (context.backend.stateless) {
        throw readOnlyError(
          'takeFlash() was called in a server component, but a cookie: backend keeps messages in a cookie, which a component cannot change. Take them in a route handler or an action, or use another backend.',
        )
      }
      // An anonymous visitor with a message has a session, because addFlash stores it.
      return snapshot === undefined ? [] : takeFlash(target)
    },
    async csrfField(options) {
      const current = visit()
      if (current !== undefined) return csrfField(current.target, options)
      const target = await page()
      const work = await workOf(target)
      // If the browser did not send its session, or has a newer one, no response may set a cookie.
      const mayGetCookie = (work.snapshot ?? work.endedBy ?? work.withheld) === undefined
      if (mayGetCookie && preSession(work) === undefined) {
        throw readOnlyError(
          'csrfField() was called in a server component for an anonymous visitor without a cookie, and a component can set none. Export proxy of forNext() in proxy.ts, with a matcher that includes this page.',
        )
      }
      return csrfField(target, options)
    },
    async readForm(schema?: StandardSchema, options?: FormOptions): Promise<FormResult<never>> {
      const current = visit()
      if (current === undefined) throw outsideSaving('readForm()')
      const { target, form } = current
      const result = (await readForm(target, schema as StandardSchema, options)) as FormResult<never>
      return form !== undefined && 'files' in result ? { ...result, files: form.files } : result
    },
    saving,
    proxy: saving(async (request: Request) => {
      try {
        // A token needs the cookie, and the commit sets it. The page makes a token of its own.
        await csrfField(request)
      } catch (error) {
        if (!(error instanceof KeepsakeError) || error.status !== 503) throw error
      }
      return continueToPage()
    }),
  }
}
