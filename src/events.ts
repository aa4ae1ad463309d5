// What happened that somebody may want to know: a closed list of reasons, told to whoever listens.

import { type Channel, channel } from 'node:diagnostics_channel'
import { isThenable } from './error.ts'

/**
 * Of sessions:
 * - `created`, `renewed`, `login`, `invalidated`: as the words say, after it was saved.
 * - `revoked`: ended from outside, by `revoke` or `revokeAll`; of the latter there is one event, without a label.
 * - `owner_limit`: ended because its owner logged in elsewhere and had as many sessions as he may.
 * - `timed_out`: the session of an owner expired, and has been removed by a sweep of ours: a day later, or at once from
 *   memory. Redis forgets by itself, and cannot say so.
 * - `evicted`: a bounded backend made room. `label` is absent: a backend knows none.
 * - `write_after_end`: a visit changed a session that another had ended meanwhile; its changes were not saved.
 * - `write_conflict`: a visit's changes, put on what others had saved meanwhile, did not fit the schema; they were not saved.
 *
 * Of visitors, who were then served as strangers:
 * - `unknown_key`: nothing is kept under the key: ended and swept, or made up.
 * - `wrong_secret`: the label is known, the secret is not.
 * - `ended_key`: the session of the key ended less than half a minute ago: the request was under way then. It saves
 *   nothing and gets no cookie, unless it logs somebody in.
 * - `cookie_withheld`: a request asked for a change, and the browser sent no session cookie because of where the request
 *   came from. Nothing was saved, and no cookie was sent.
 * - `retired_key`: the key was renewed, and its grace is over.
 * - `expired`: too long idle, or past the absolute end.
 * - `ambiguous_cookies`: two cookies of one name opened two sessions.
 * - `invalid_pre_session`: a pre-session cookie that we did not seal, or under a secret that is gone, or too old.
 * - `schema_mismatch`: neither the schema nor the migration takes what is kept. It is left alone until it expires.
 *
 * Of visitors whose request was not taken for their own:
 * - `form_rejected`: a form or a script came without the token that it should have; the message is the outcome, and what was
 *   missing where others can plant the cookies of a visitor without a session.
 * - `cross_origin_rejected`: a request was refused because it came from a page of another origin, or could not show that it did not.
 *
 * Of the house, for its operator:
 * - `read_only`: the backend failed, and the visit went on as a stranger's that can save nothing.
 * - `store_error`: the backend failed; `error` has why.
 * - `end_failed`: a session should have ended and may still be there; `label` says which, `error` why.
 * - `eviction`: told once: the store may forget sessions before they expire, or does not let it be looked at whether it
 *   may; the message has what to do.
 * - `corrupt_entry`: an entry cannot be read, and its visitor is a stranger. It is left alone until it expires; the file
 *   backend moves it to `quarantine`, unless a newer version wrote it.
 * - `clock_skew`: a session was born more than a minute from now; its visitor is a stranger until then.
 * - `plain_cookie`: told once: cookies go without Secure on a loopback address.
 * - `insecure_request`: told once: a request came over plain HTTP; browsers will not return the Secure cookie.
 * - `error_response_failed`: the option `errorResponse` threw or returned no Response, so the default was sent.
 * - `cache_overridden`: a response that sets a session cookie allowed caches to keep it, and was changed.
 */
export type EventType =
  | 'created'
  | 'renewed'
  | 'login'
  | 'invalidated'
  | 'revoked'
  | 'owner_limit'
  | 'timed_out'
  | 'evicted'
  | 'write_after_end'
  | 'write_conflict'
  | 'unknown_key'
  | 'wrong_secret'
  | 'ended_key'
  | 'cookie_withheld'
  | 'retired_key'
  | 'expired'
  | 'ambiguous_cookies'
  | 'invalid_pre_session'
  | 'schema_mismatch'
  | 'form_rejected'
  | 'cross_origin_rejected'
  | 'read_only'
  | 'store_error'
  | 'end_failed'
  | 'eviction'
  | 'corrupt_entry'
  | 'clock_skew'
  | 'plain_cookie'
  | 'insecure_request'
  | 'cache_overridden'
  | 'error_response_failed'

export type SessionEvent = {
  readonly type: EventType
  /** The session's label: safe to log. */
  readonly label?: string
  /** Of `timed_out`: whose session it was. */
  readonly owner?: string
  /** What to do about it, where there is something to do. */
  readonly message?: string
  readonly error?: unknown
}

export type SessionEventListener = (event: SessionEvent) => void
export type Emit = (type: EventType, more?: Omit<SessionEvent, 'type'>) => void

const events = channel('keepsake')

/** Tells one listener. A logger that is broken must not log anybody out: what it throws, now or later, is dropped. */
const callListener = (listener: (event: SessionEvent) => unknown, event: SessionEvent): void => {
  try {
    const done = listener(event)
    if (isThenable(done)) Promise.resolve(done).catch(() => {})
  } catch {}
}

/**
 * Those who listen to a channel. `publish` would make an uncaught exception of what one of them throws, and Node has no
 * other way to them: this is the list that its own `publish` goes through. A runtime that has none publishes itself.
 */
const subscribersOf = (to: Channel): readonly ((event: SessionEvent, name: string) => unknown)[] | undefined => {
  const { _subscribers: list } = to as { _subscribers?: unknown }
  return Array.isArray(list) ? list : undefined
}

const publish = (event: SessionEvent): void => {
  const subscribers = subscribersOf(events) ?? [() => events.publish(event)]
  // A copy, because a subscriber may leave while it is told.
  for (const subscriber of [...subscribers]) callListener(() => subscriber(event, 'keepsake'), event)
}

/** Tells the listener and the channel `keepsake`. What a listener throws, or its promise, breaks no request and is dropped. */
export const emitter =
  (listener?: SessionEventListener): Emit =>
  (type, more) => {
    if (listener === undefined && !events.hasSubscribers) return
    const event: SessionEvent = Object.freeze({ type, ...more })
    if (events.hasSubscribers) publish(event)
    if (listener !== undefined) callListener(listener, event)
  }
