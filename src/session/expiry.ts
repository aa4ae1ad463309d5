// When a session ends: after its idle timeout, and at its absolute end.

import type { Entry } from '../backends/contract.ts'
import type { ManagerContext } from './context.ts'
import type { LoginSettings, Metadata } from './metadata.ts'

/** An entry, as far as its expiry depends on it. */
type EntryExpiry = { readonly entry: Pick<Entry, 'expiresAt'>; readonly metadata: Metadata }

/** The idle timeout of a session: the one that its login set, or the manager's. */
export const idleTimeoutOf = (context: ManagerContext, { idleTimeout = context.idleTimeout }: LoginSettings): number =>
  idleTimeout

/** When a session expires even if it is used: by the timeout that its login set, or by the manager's. */
export const absoluteEndOf = (
  context: ManagerContext,
  { createdAt, absoluteTimeout = context.absoluteTimeout }: Metadata,
): number => createdAt + absoluteTimeout

export const isAlive = (context: ManagerContext, { entry, metadata }: EntryExpiry, now: number): boolean =>
  now < entry.expiresAt && now < absoluteEndOf(context, metadata)

/** When a session expires if it is used now for the last time. */
export const expiryOf = (context: ManagerContext, metadata: Metadata, now: number): number =>
  Math.min(now + idleTimeoutOf(context, metadata), absoluteEndOf(context, metadata))

/**
 * Whether a request must extend the session's expiry: at most once in half an idle timeout, because backends index the
 * expiry. A session in a cookie has no index, but needs a new cookie for it, so at most once in three quarters.
 */
export const expiryDue = (context: ManagerContext, { entry, metadata }: EntryExpiry, now: number): boolean =>
  entry.expiresAt - now <= idleTimeoutOf(context, metadata) / (context.backend.stateless ? 4 : 2) &&
  expiryOf(context, metadata, now) > entry.expiresAt
