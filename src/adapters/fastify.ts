// Sessions in applications of Fastify 5.

import type { FastifyPluginAsync } from 'fastify'
import type { SessionManager } from '../manager.ts'
import { type FastifyAdapterOptions, fastifyPlugin } from './fastify/plugin.ts'

export type { FastifyAdapterOptions } from './fastify/plugin.ts'

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
export const forFastify = (sessions: SessionManager, options: FastifyAdapterOptions = {}): FastifyPluginAsync =>
  fastifyPlugin(sessions, 'forFastify()', options)
