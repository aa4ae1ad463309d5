// Events: a closed list of types, emitted to the option onEvent and to a diagnostics channel.

import { type Channel, channel } from 'node:diagnostics_channel'
import { isThenable } from './error.ts'

/**
 * The type of an event.
 *
 * A session changed. The store has the change already, and the operator need do nothing:
 *
 * - `created`: an anonymous visitor changed a field for the first time, so they got a session.
 * - `login`: a visitor logged in, and got a session with an owner. `previousLabel` is the session that it replaced.
 * - `renewed`: a session got a new key.
 * - `invalidated`: a visitor's request ended its session, for example at a logout.
 * - `revoked`: `revoke`, `revokeAll` or `revokeWhere` ended a session. For `revokeAll` there is one event for all
 *   sessions of the owner, without a label.
 * - `owner_limit`: a login ended the oldest session of its owner, because the owner had more than
 *   `maxSessionsPerOwner`.
 * - `timed_out`: a sweep, or a request with its key, removed the expired session of an owner: a day after it expired, or
 *   earlier from memory. Redis removes expired sessions itself, so there is no event. If several applications share a
 *   store, a sweep removes the sessions of all of them, and reports only those of its own.
 *
 * A request could not save its changes. The visitor got 409, and the operator need do nothing unless there are many:
 *
 * - `write_after_end`: a request changed a session that another request had ended in the meantime.
 * - `write_conflict`: another request changed the session first, and both changes together do not fit the schema.
 * - `cookie_withheld`: a request changed its session, but the browser sent no session cookie because of the page that
 *   the request came from, or because of the path. No cookie was sent. The message has the way out.
 *
 * A cookie opened no session, so the visitor was anonymous. Many of one type from one place can be an attack:
 *
 * - `unknown_key`: no session has this key. It ended and was removed, or the key was invented.
 * - `wrong_secret`: a session has the label of this key, but its secret is another one. Only an invented or an altered
 *   key does this.
 * - `ended_key`: the session ended less than 30 seconds ago, while the request was in progress. The request saves
 *   nothing and gets no cookie, unless it logs somebody in.
 * - `retired_key`: rotation replaced the key, and more than 30 seconds passed since the first use of the new key.
 * - `expired`: the session expired, by the idle or the absolute timeout.
 * - `ambiguous_cookies`: a request brought two session cookies that open two sessions, so somebody may have planted
 *   one. Look for other applications of the same domain that set a cookie of this name.
 * - `invalid_pre_session`: a pre-session cookie does not open: it was altered, is too old, or was sealed under a secret
 *   that is no longer in the list. Keep an old secret in the list until its cookies expire.
 * - `schema_mismatch`: the schema refuses the stored fields, and so does the result of `migrate`. The entry is left
 *   unchanged until it expires. Write a `migrate` that converts it.
 *
 * A request was refused, because it may come from a page of another application:
 *
 * - `form_rejected`: the token of a form or of a script was missing or not valid. The message has the outcome, and the
 *   missing evidence if others can plant the visitor's cookies.
 * - `cross_origin_rejected`: `crossOriginProtection` or `watch` refused a request. The message has the reason.
 *
 * The store needs the operator:
 *
 * - `store_error`: the backend failed, or changes could not be saved. `error` has the cause.
 * - `read_only`: the backend failed, and the request continued without a session, by the option `onStoreError`.
 * - `end_failed`: a session should have ended and may still be there. Revoke the session with this `label` if there is
 *   one.
 * - `corrupt_entry`: an entry cannot be read, and its visitor is anonymous. It is left unchanged until it expires. The
 *   file backend moves it to `quarantine`, unless a newer version of keepsake wrote it.
 * - `evicted`: a backend of limited size was full and removed a session. Raise its limits. There is no label.
 * - `eviction`: the store may remove sessions before they expire, or keepsake may not read the setting. The message has
 *   the command. Emitted once.
 * - `clock_skew`: a session was created more than a minute in the future, and its visitor is anonymous until then. Set
 *   the clocks of the machines.
 *
 * The deployment needs the operator:
 *
 * - `insecure_request`: a request came over plain HTTP, and browsers will not return the Secure cookie. The message has
 *   the option. Emitted once.
 * - `plain_cookie`: cookies have no Secure, because a request came over plain HTTP to a loopback name. Emitted once. It
 *   is normal on a developer's machine.
 * - `cache_overridden`: a response for one visitor allowed shared caches to keep it, so keepsake replaced the field.
 * - `error_response_failed`: the option `errorResponse` threw or returned no Response, so the default was sent.
 */
export type EventType =
  | 'created'
  | 'login'
  | 'renewed'
  | 'invalidated'
  | 'revoked'
  | 'owner_limit'
  | 'timed_out'
  | 'write_after_end'
  | 'write_conflict'
  | 'cookie_withheld'
  | 'unknown_key'
  | 'wrong_secret'
  | 'ended_key'
  | 'retired_key'
  | 'expired'
  | 'ambiguous_cookies'
  | 'invalid_pre_session'
  | 'schema_mismatch'
  | 'form_rejected'
  | 'cross_origin_rejected'
  | 'store_error'
  | 'read_only'
  | 'end_failed'
  | 'corrupt_entry'
  | 'evicted'
  | 'eviction'
  | 'clock_skew'
  | 'insecure_request'
  | 'plain_cookie'
  | 'cache_overridden'
  | 'error_response_failed'

export type SessionEvent = {
  readonly type: EventType
  /** The session's label: safe to log. */
  readonly label?: string
  /**
   * The owner of the session, as `login` named it, if it has one. For events of sessions that changed, `expired`,
   * `write_after_end` and `write_conflict`.
   */
  readonly owner?: string
  /** For `login`: the label of the session that the login ended, if there was one. */
  readonly previousLabel?: string
  /** The namespace of the request or of the owner, if the option `namespace` is a function. */
  readonly namespace?: string
  /** Details, and the operator's next step, if there is one. It contains no secret. */
  readonly message?: string
  /** The error behind the event, if there is one. */
  readonly error?: unknown
}

export type SessionEventListener = (event: SessionEvent) => void
export type Emit = (type: EventType, more?: Omit<SessionEvent, 'type'>) => void

const events = channel('keepsake')

/**
 * Calls one listener. Its errors are dropped, also those of its promise, because a broken logger must not log anybody
 * out.
 */
const callListener = (listener: (event: SessionEvent) => unknown, event: SessionEvent): void => {
  try {
    const done = listener(event)
    if (isThenable(done)) Promise.resolve(done).catch(() => {})
  } catch {}
}

/**
 * The subscribers of a channel. Node's `publish` turns an error of a subscriber into an uncaught exception, and Node
 * has no other access to them, so this reads the list that `publish` itself reads. Undefined if the runtime has no such
 * list.
 */
const subscribersOf = (source: Channel): readonly ((event: SessionEvent, name: string) => unknown)[] | undefined => {
  const { _subscribers: list } = source as { _subscribers?: unknown }
  return Array.isArray(list) ? list : undefined
}

const publish = (event: SessionEvent): void => {
  const subscribers = subscribersOf(events) ?? [() => events.publish(event)]
  // A copy, because a subscriber may unsubscribe while it is called.
  for (const subscriber of [...subscribers]) callListener(() => subscriber(event, 'keepsake'), event)
}

/**
 * Calls the listener and the subscribers of the channel `keepsake`. Their errors are dropped and break no request.
 *
 * @param first called before them, for keepsake's own use
 */
export const emitter =
  (listener?: SessionEventListener, first?: Emit): Emit =>
  (type, more) => {
    first?.(type, more)
    if (listener === undefined && !events.hasSubscribers) return
    const event: SessionEvent = Object.freeze({ type, ...more })
    if (events.hasSubscribers) publish(event)
    if (listener !== undefined) callListener(listener, event)
  }
