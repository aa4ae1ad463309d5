// Entries of a backend for tests: fresh keys and versions, and a whole entry that a test changes in one place.

import { randomBytes } from 'node:crypto'
import type { Change, Entry } from 'keepsake'

/** The account in the tests of owners, as entries name it. */
export const OWNER = 'app:anna'

/** A storage key that no other test has. */
export const freshKey = (): string => `app.${randomBytes(9).toString('base64url')}`

export const freshVersion = (): string => randomBytes(6).toString('base64url')

/** An entry that lives for an hour. */
export const entryWith = (more: Partial<Entry> = {}): Entry => ({
  value: '{"n":1}',
  metadata: '1.abc',
  expiresAt: Date.now() + 3_600_000,
  version: freshVersion(),
  ...more,
})

/** A change of such an entry. */
export const change = (more: Partial<Change> = {}): Change => ({
  value: '{"n":2}',
  metadata: '1.def',
  version: freshVersion(),
  ...more,
})
