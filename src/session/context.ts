// The context that the requests of a session manager share: a part for all namespaces, and a part for each one.

import type { Backend } from '../backends/contract.ts'
import type { Sweeper } from '../backends/sweeper.ts'
import type { OwnerNames } from '../crypto/keys.ts'
import type { KeyRing } from '../crypto/seal.ts'
import type { Emit } from '../events.ts'
import type { FieldCodec } from './codec.ts'

/** The part that is the same for all namespaces of a manager. Durations are in milliseconds. */
export type SharedContext = {
  readonly backend: Backend
  /** @internal */
  readonly keyRing: KeyRing
  /** Milliseconds since 1970. */
  readonly now: () => number
  readonly idleTimeout: number
  readonly absoluteTimeout: number
  /** Whether the session cookie remains after the browser is closed, unless a login chose otherwise. */
  readonly persistent: boolean
  /** Makes a version for the next write of this process. */
  readonly version: () => string
  /** Of a session's fields as JSON, in bytes of UTF-8. */
  readonly maxBytes: number
  readonly maxSessionsPerOwner: number | undefined
  readonly lastSeenInterval: number | undefined
  /** Whether a request whose session cannot be read continues as an anonymous one that can save nothing. */
  readonly anonymousOnError: boolean
  /** Applies the option `schema`. */
  readonly codec: FieldCodec | undefined
  readonly emit: Emit
  /** The last commit in the queue of a session, by storage key. */
  readonly commitQueues: Map<string, Promise<unknown>>
  readonly sweeper: Sweeper
  readonly autoSweep: boolean
}

/** The context of the requests of one namespace. Its backend opens only sessions of this namespace. */
export type ManagerContext = SharedContext & {
  /** Separates sealed and signed values from those of other applications with the same secret, and of other tenants. */
  readonly namespace: string
  /** The storage key of a session, by its label. */
  readonly storageKey: (label: string) => string
  readonly ownerNames: OwnerNames
}
