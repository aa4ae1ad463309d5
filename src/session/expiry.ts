// When a session ends: after its idle timeout, and at its absolute end.

import type { Entry } from '../backends/contract.ts'
import type { ManagerContext } from './context.ts'
import type { LoginSettings, Metadata } from './metadata.ts'

/** What an entry says of its end. */
type Stored = { readonly entry: Pick<Entry, 'expiresAt'>; readonly metadata: Metadata }

/** The idle timeout of a session: its login's, or the manager's. */
export const idleTimeoutOf = (context: ManagerContext, { idleTimeout = context.idleTimeout }: LoginSettings): number =>
  idleTimeout

/** The absolute end of a session: by its login's timeout, or by the manager's. */
export const absoluteEndOf = (
  context: ManagerContext,
  { createdAt, absoluteTimeout = context.absoluteTimeout }: Metadata,
): number => createdAt + absoluteTimeout

export const isAlive = (context: ManagerContext, { entry, metadata }: Stored, now: number): boolean =>
  now < entry.expiresAt && now < absoluteEndOf(context, metadata)

/** When the session ends if it is used now for the last time. */
export const expiryOf = (context: ManagerContext, metadata: Metadata, now: number): number =>
  Math.min(now + idleTimeoutOf(context, metadata), absoluteEndOf(context, metadata))

/**
 * Whether a request must move the session's expiry: at most once in half an idle timeout, because stores index it. A
 * session in a cookie has no such index, but a new expiry needs a new cookie, so three quarters must have passed.
 */
export const expiryDue = (context: ManagerContext, { entry, metadata }: Stored, now: number): boolean =>
  entry.expiresAt - now <= idleTimeoutOf(context, metadata) / (context.backend.stateless ? 4 : 2) &&
  expiryOf(context, metadata, now) > entry.expiresAt
