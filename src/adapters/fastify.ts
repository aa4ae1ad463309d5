// Sessions in applications of Fastify 5.

import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { checkOptionNames } from '../error.ts'
import type { SessionManager } from '../manager.ts'
import { session } from '../request.ts'
import { attach, exposedManager, isInside, type RequestContext } from '../request-context.ts'
import type { Session } from '../session/session.ts'
import { FastifyRequestHead } from './fastify/request-head.ts'
import { abandoner, sender } from './fastify/sending.ts'
import { assertUnsent, holdResponse, type NodeResponse } from './node/held-response.ts'
import { chooseRefusal } from './node/refusal.ts'
import { checkBoolean } from './options.ts'
import { withPublicErrors } from './public-errors.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The session of the visitor. Only with `forFastify(manager, { load: true })`. */
    session: Session
  }
}

export type FastifyAdapterOptions = {
  /**
   * true: open the session of every request before the handlers, as `request.session`. It costs a read of the store for every
   * request with a session cookie. Default false: `await session(request)` opens it.
   */
  readonly load?: boolean | undefined
}

/** Marks an application with the managers that are registered in it. */
const MANAGERS = Symbol('keepsake.fastify')

/**
 * Sessions in an application of Fastify: `await app.register(forFastify(manager))` before the routes, then `await session(request)` in
 * a route. `readForm(request)`, `csrfTag(request)`, `addFlash(request, …)` and `takeFlash(request)` take Fastify's request or
 * `request.raw`.
 *
 * The session is saved in the hook `onSend`, before the reply is sent. If it cannot be saved, the error handler of the application gets a
 * KeepsakeError with the status 409, 500 or 503, unless the manager has the option `errorResponse`. `app.ready()` opens the backend, and
 * `app.close()` closes it.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forFastify = (sessions: SessionManager, options: FastifyAdapterOptions = {}): FastifyPluginAsync => {
  checkOptionNames(options, ['load'], 'forFastify()')
  const load = checkBoolean('load', options.load ?? false, 'forFastify()')
  const manager = withPublicErrors(exposedManager(sessions, 'forFastify()'))

  const begin = (request: FastifyRequest, reply: FastifyReply, done: () => void): Promise<void> | undefined => {
    const { raw } = request
    if (isInside(raw, sessions)) {
      done()
      return
    }
    const head = new FastifyRequestHead(request, reply)
    const response = reply.raw as unknown as NodeResponse
    const requestContext: RequestContext = attach(raw, sessions, manager, head, () => {
      assertUnsent(response)
      // For a response that Fastify does not send: after `reply.hijack()`, or if the handler writes to `reply.raw`.
      holdResponse({
        request: raw,
        response,
        arrival: head.arrival,
        context: () => requestContext,
        refuse: (refusal, isRunning) => chooseRefusal(manager, head, response, undefined, refusal, isRunning),
      })
    })
    if (!load) {
      done()
      return
    }
    return session(request).then((opened) => {
      request.session = opened
    })
  }

  const plugin: FastifyPluginAsync = async (app) => {
    const instance = app as typeof app & { [MANAGERS]?: readonly SessionManager[] }
    const others = instance[MANAGERS] ?? []
    // Registered twice, it does nothing.
    if (others.includes(sessions)) return
    instance[MANAGERS] = [...others, sessions]
    if (load) app.decorateRequest('session')
    app.addHook('onRequest', begin)
    app.addHook('onSend', sender(sessions, manager))
    app.addHook('onError', abandoner(sessions))
    app.addHook('onReady', () => sessions.ready())
    app.addHook('onClose', () => sessions.close())
  }
  // The marks that fastify-plugin sets: the hooks are for the whole application, and the plugin has a name.
  return Object.assign(plugin, {
    [Symbol.for('skip-override')]: true,
    [Symbol.for('fastify.display-name')]: 'keepsake',
    [Symbol.for('plugin-meta')]: { name: 'keepsake' },
  })
}
