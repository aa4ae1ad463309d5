// Messages for the visitor's next page: added by one request, taken by the next that shows them.

import { isPrefetch } from './http/prefetch.ts'
import { workOf } from './request.ts'
import { queueFlash, type RequestLike } from './request-context.ts'
import { takeMessages } from './session/flash.ts'
import { type Flash, newFlash } from './session/flash-messages.ts'
import type { UnitOfWork } from './session/work.ts'

/**
 * Adds a message for the next page that this visitor sees, with or without a session. It survives a login or a logout
 * in the same request. At most 20 messages wait, of 2048 bytes together as JSON. A new message removes the oldest if
 * there is no room.
 *
 * @param target the request inside a middleware, or outside of one the session that `manager.open` returned
 * @throws KeepsakeError `not_json`, `too_large`, `no_middleware`, `too_late`
 */
export const addFlash = (target: RequestLike, category: string, text: string): void =>
  queueFlash(target, newFlash(category, text))

/** Whether the browser may never show the response. */
const isNotShown = ({ request }: UnitOfWork): boolean => request.method === 'HEAD' || isPrefetch(request)

/**
 * Takes the messages that earlier requests added for this visitor, oldest first. If a store keeps the session, only one
 * of two concurrent requests gets them. For anonymous visitors, and on the cookie backend, they are in a cookie, so two
 * concurrent requests may both get them.
 *
 * If the handler throws or answers 304, or if `commit()` fails, the messages wait for the next page. A HEAD request and
 * a prefetch get none, and the messages wait.
 *
 * @param target as for `addFlash`
 * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`, and as `session`
 */
export const takeFlash = async (target: RequestLike): Promise<readonly Flash[]> => {
  const work = await workOf(target)
  return isNotShown(work) ? [] : takeMessages(work)
}
