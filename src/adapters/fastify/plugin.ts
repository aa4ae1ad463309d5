// The plugin for Fastify 5: its hooks begin, commit and abandon requests.

import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import type { KeepsakeError } from '../../error.ts'
import type { SessionManager } from '../../manager.ts'
import { session } from '../../request.ts'
import { attach, exposedManager, isInside, type RequestContext } from '../../request-context.ts'
import type { Session } from '../../session/session.ts'
import { assertUnsent, holdResponse, type NodeResponse } from '../node/held-response.ts'
import { chooseRefusal } from '../node/refusal.ts'
import { checkLoad } from '../options.ts'
import { withPublicErrors } from '../public-errors.ts'
import { FastifyRequestHead } from './request-head.ts'
import { abandoner, sender } from './sending.ts'

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
 * The plugin of `forFastify`, for a framework on Fastify.
 *
 * @param caller the name of the adapter
 * @param present changes the errors that the framework shows to visitors
 * @throws KeepsakeError `invalid_option`
 */
export const fastifyPlugin = (
  sessions: SessionManager,
  caller: string,
  options: FastifyAdapterOptions,
  present?: (error: KeepsakeError) => KeepsakeError,
): FastifyPluginAsync => {
  const load = checkLoad(options, caller)
  const manager = withPublicErrors(exposedManager(sessions, caller), present)

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
    app.addHook('onSend', sender(sessions, manager, present))
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
