// Messages for the visitor's next page: added by one request, taken by the next that shows them.

import { isPrefetch } from './http/prefetch.ts'
import { queueFlash, workOf } from './request.ts'
import { takeMessages } from './session/flash.ts'
import { type Flash, newFlash } from './session/flash-messages.ts'

/**
 * Leaves a message for the next page that this visitor is shown, whether he has a session or not, and over a login or a
 * logout in the same request. At most 20 wait, of 2048 bytes together as JSON: the oldest make room.
 *
 * @throws KeepsakeError `not_json`, `too_large`, `no_middleware`, `too_late`
 */
export const addFlash = (request: Request, category: string, text: string): void =>
  queueFlash(request, newFlash(category, text))

/** Whether a request is for something that may never be shown. */
const unseen = (request: Request): boolean => request.method === 'HEAD' || isPrefetch(request)

/**
 * Takes the messages that wait for this visitor, oldest first: those that earlier requests added. Where a store keeps
 * his session they are claimed at once, and of two requests only one gets them. For strangers, and on the cookie
 * backend, they travel in a cookie: a browser gets them once, but two requests at the same time may both.
 *
 * A handler that throws, or answers 304, gives them back. For HEAD and prefetch there are none, and they wait on.
 *
 * @throws KeepsakeError `unavailable`, `unknown_outcome`, `contention`, and as `session`
 */
export const takeFlash = async (request: Request): Promise<readonly Flash[]> => {
  const work = await workOf(request)
  return unseen(request) ? [] : takeMessages(work)
}
