// Creating a session: at the first write of an anonymous visitor, at a login, and at a write after an invalidate.

import type { Held } from '../backends/contract.ts'
import { labelOf, newKey } from '../crypto/keys.ts'
import { type Awaitable, chain, KeepsakeError } from '../error.ts'
import { expiryOf } from './expiry.ts'
import { encodeMetadata, newMetadata } from './metadata.ts'
import { encodeOwn, locationAfter } from './save.ts'
import { callWrite, type Snapshot, storageKeyOf, type UnitOfWork } from './work.ts'

const TRIES = 3

/** The key of the session that this request creates or would create. All callers get the same one. */
export const reserveKey = (work: UnitOfWork): string => {
  work.newKey ??= newKey()
  return work.newKey
}

/**
 * Inserts a session with the fields of the request under a new key.
 *
 * @param form the form secret of the visitor's pre-session, so that forms of open pages stay valid
 * @returns the session, or `ended` if the owner's sessions were revoked in the meantime
 * @throws KeepsakeError `unknown_outcome`, `unavailable`, `too_large`, `schema_mismatch`, `key_collision`
 */
export const createSession = (work: UnitOfWork, form: string | undefined): Awaitable<Snapshot | 'ended'> =>
  chain(encodeOwn(work), (value) => insert(work, value, form, TRIES))

const insert = (
  work: UnitOfWork,
  value: string,
  form: string | undefined,
  tries: number,
): Awaitable<Snapshot | 'ended'> => {
  const { context, owner } = work
  const key = reserveKey(work)
  const storageKey = storageKeyOf(work, key)
  const now = context.now()
  const { stateless } = context.backend
  const metadata = newMetadata(
    stateless ? undefined : key,
    now,
    form,
    owner && !stateless ? labelOf(key) : undefined,
    work.loginSettings,
  )
  const entry = {
    value,
    metadata: encodeMetadata(metadata),
    expiresAt: expiryOf(context, metadata, now),
    version: context.version(),
    owner: owner && context.ownerNames.encode(owner),
  }
  const created = (answer: Held | undefined | 'taken' | 'gone'): Awaitable<Snapshot | 'ended'> => {
    if (answer === 'gone') return 'ended'
    if (answer !== 'taken') {
      if (context.autoSweep) context.sweeper.tidy()
      return { ...locationAfter(work, key, storageKey, answer), label: labelOf(key), entry, metadata, at: now }
    }
    if (tries > 1) {
      work.newKey = undefined
      return insert(work, value, form, tries - 1)
    }
    throw new KeepsakeError(
      'key_collision',
      `${TRIES} new keys in a row were taken already, so the random numbers of this machine are not random. Nothing was saved. Check its random source.`,
    )
  }
  return chain(
    callWrite(work, 'generate', (backend) => backend.generate(storageKey, entry)),
    created,
  )
}
