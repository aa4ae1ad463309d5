// The objects that all bundles of an application share, because each bundle has its own copy of each module.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { SessionManager } from '../../manager.ts'
import { exposedManager, type RequestContext } from '../../request-context.ts'
import type { ActionForm, CookieJar } from './request-head.ts'

/** One handler or action in progress. */
type Visit = {
  readonly target: object
  readonly context: RequestContext
  readonly form?: ActionForm | undefined
}

/** The objects of one manager. */
export type Shared = {
  readonly sessions: SessionManager
  /** The handler or the action in progress. */
  readonly running: AsyncLocalStorage<Visit>
  /** The visit of the components of a request, by its cookies. After an action there are other cookies. */
  readonly pages: WeakMap<CookieJar, object>
}

const SHARED = Symbol.for('keepsake.next')

/** The shared objects of one manager. The first bundle that needs it calls `make`. @throws KeepsakeError `invalid_option` */
export const sharedBy = (name: string, make: () => SessionManager): Shared => {
  const place = globalThis as { [SHARED]?: Map<string, Shared> }
  place[SHARED] ??= new Map()
  let shared = place[SHARED].get(name)
  if (shared === undefined) {
    const sessions = make()
    exposedManager(sessions, 'forNext()')
    shared = { sessions, running: new AsyncLocalStorage(), pages: new WeakMap() }
    place[SHARED].set(name, shared)
  }
  return shared
}
