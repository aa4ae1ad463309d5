// Reads from the backend whether a session has ended, and how, without any change to it.

import { type Awaitable, chain } from '../error.ts'
import { absoluteEndOf } from './expiry.ts'
import { decodeMark, decodeMetadata } from './metadata.ts'
import { callRead, type Snapshot, type StoreCaller } from './work.ts'

/**
 * How a session ended. `login`: a login replaced it, so the visitor has another session. `expired`: by the idle or the absolute
 * timeout. `end`: all other ends, such as a logout or `revoke`.
 */
export type EndReason = 'login' | 'expired' | 'end'

/** When a session expires, in milliseconds since 1970, by its entry. */
export const storedExpiry = (
  { context }: Pick<StoreCaller, 'context'>,
  { entry, metadata }: Pick<Snapshot, 'entry' | 'metadata'>,
): number => Math.min(entry.expiresAt, absoluteEndOf(context, metadata))

/**
 * How a session has ended, or when it expires, in milliseconds since 1970.
 *
 * @param knownExpiry the expiry by an earlier read
 * @throws KeepsakeError `unavailable`
 */
export const readEnd = (caller: StoreCaller, storageKey: string, knownExpiry: number): Awaitable<EndReason | number> =>
  chain(
    callRead(caller, 'get', (backend) => backend.get(storageKey)),
    (entry) => {
      const isOver = (expiresAt: number) => caller.context.now() >= expiresAt
      // A backend may forget an expired entry.
      if (entry === undefined) return isOver(knownExpiry) ? 'expired' : 'end'
      const mark = decodeMark(entry.metadata)
      if (mark !== undefined) return mark.by
      const metadata = decodeMetadata(entry.metadata)
      // A newer version of keepsake may have written it.
      const expiresAt = metadata === undefined ? knownExpiry : storedExpiry(caller, { entry, metadata })
      return isOver(expiresAt) ? 'expired' : expiresAt
    },
  )
