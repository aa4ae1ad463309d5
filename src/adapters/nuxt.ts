// Sessions in applications of Nuxt 4, and of others on Nitro 2 and h3 1.

import type { KeepsakeError } from '../error.ts'
import type { NodeRequest } from '../http/node-request.ts'
import type { SessionManager } from '../manager.ts'
import { attachAlso, contextInside, type RequestContext } from '../request-context.ts'
import type { Session } from '../session/session.ts'
import { type NodeAdapterOptions, nodeLifecycle } from './node/adapter.ts'
import type { NodeResponse } from './node/held-response.ts'
import { asH3Error, publicH3Error } from './nuxt/h3-error.ts'

export type { NodeAdapterOptions as NuxtAdapterOptions } from './node/adapter.ts'

/** Marks the context of an event, which Nitro passes on to the requests that the application makes to itself. */
const PARENT = Symbol.for('keepsake.nuxt')

type EventContext = { session?: Session; [PARENT]?: RequestContext }

/** The members of an event of h3 1 that are used. */
type NuxtEvent = {
  readonly node: {
    /** `__unenv__`: the context of the event that made this request. */
    readonly req: object & { readonly __unenv__?: EventContext; session?: Session }
    readonly res: object
  }
  context: object
  _handled: boolean
}

type Handler = (event: NuxtEvent) => Promise<unknown>

/** The members of the application of Nitro 2 that are used. */
type NitroApp = {
  readonly h3App: object
  readonly hooks: object
}
type H3App = {
  handler: Handler
  readonly options: { onError?(error: Error, event: NuxtEvent): unknown }
}
type Hooks = { hook(name: 'close', work: () => Promise<void>): unknown }

type OutgoingResponse = {
  readonly headersSent: boolean
  readonly writableFinished: boolean
  once(event: string, listener: () => void): unknown
}

/** Nitro reads the response of a request to itself when the handler is done, and it may be held until then. */
const finished = async (response: OutgoingResponse): Promise<void> => {
  if (!response.headersSent || response.writableFinished) return
  await new Promise<void>((resolve) => {
    response.once('finish', resolve)
    response.once('close', resolve)
  })
}

/**
 * A plugin of Nitro: `server/plugins/sessions.ts` exports `forNuxt(manager)` as its default. `session(event)`, `readForm(event)`,
 * `csrfToken(event)`, `addFlash(event, …)` and `takeFlash(event)` then take the event of a server route or of `useRequestEvent()`.
 * With `{ load: true }` the session of every request is also `event.context.session`.
 *
 * The session is saved before the first byte of the response leaves. If it cannot be saved, the visitor gets the error page of
 * Nuxt with the status 409, 500 or 503, unless the manager has the option `errorResponse`. If a page or a route throws, nothing of
 * its request is saved. Server routes that a page fetches while it is rendered have the session of the page.
 *
 * It needs a server on Node's requests and responses: the presets `node-server`, `node-cluster` and `node`.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forNuxt = (sessions: SessionManager, options: NodeAdapterOptions = {}): ((nitroApp: NitroApp) => void) => {
  const { begin, abandon } = nodeLifecycle(sessions, 'forNuxt()', options, asH3Error)

  /** Gives a request that the application makes to itself the session of the page. */
  const join = ({ node: { req }, context }: NuxtEvent): boolean => {
    const parent = req.__unenv__?.[PARENT]
    if (parent === undefined || parent.owner !== sessions) return false
    attachAlso(req, parent)
    Object.assign(context, { [PARENT]: parent, session: req.__unenv__?.session })
    return true
  }

  /** Attaches a request. The promise waits for its session only with `load`. */
  const arrive = (event: NuxtEvent, refuse: (error: unknown) => unknown): Promise<void> =>
    new Promise((resolve, reject) => {
      let hasBegun = false
      const { req, res } = event.node
      begin(req as NodeRequest, res as NodeResponse, (error) => {
        if (hasBegun) return refuse(error)
        hasBegun = true
        if (error === undefined) resolve()
        else reject(error)
      })
      const context = contextInside(req, sessions)
      if (context !== undefined) Object.assign(event.context, { [PARENT]: context })
    })

  return (nitroApp) => {
    const {
      handler,
      options: { onError },
    } = nitroApp.h3App as H3App
    const refuse = async (error: unknown, event: NuxtEvent) => {
      // The response of the handler is dropped, so h3 may send another.
      event._handled = false
      ;(event.node.res as NodeResponse).setHeader('cache-control', 'no-store')
      try {
        await onError?.(asH3Error(error as KeepsakeError), event)
      } catch {
        // The error page failed too, so the visitor gets no answer.
        ;(event.node.res as NodeResponse).destroy?.()
      }
    }
    const handle: Handler = async (event) => {
      if (join(event)) return handler(event)
      try {
        await arrive(event, (error) => refuse(error, event))
        const { req } = event.node
        if (req.session !== undefined) Object.assign(event.context, { session: req.session })
        await handler(event)
        await finished(event.node.res as OutgoingResponse)
      } catch (error) {
        await abandon(error, event.node.req as NodeRequest, event.node.res as NodeResponse)
        throw publicH3Error(error)
      }
    }
    ;(nitroApp.h3App as H3App).handler = handle
    ;(nitroApp.hooks as Hooks).hook('close', () => sessions.close())
  }
}
