// Sessions in applications of Express 4 and 5.

import type { SessionManager } from '../manager.ts'
import type { Session } from '../session/session.ts'
import { forNode, type NodeAdapterOptions, type NodeMiddleware } from './node/adapter.ts'

declare global {
  namespace Express {
    interface Request {
      /** The session of the visitor. Only with `forExpress(manager, { load: true })`. */
      session: Session
    }
  }
}

/**
 * Sessions in an application of Express: `app.use(forExpress(manager))` before the routes, then `await session(req)` in a route.
 * With `{ load: true }` the session of every request is also `req.session`.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`
 */
export const forExpress = (sessions: SessionManager, options: NodeAdapterOptions = {}): NodeMiddleware =>
  forNode(sessions, options)
