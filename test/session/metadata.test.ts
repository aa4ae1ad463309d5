// The format of stored entries: every version opens the entries of versions 1 and 2, and leaves those of a later version unchanged.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { backendFromUrl, type Entry, type EventType, type Session, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import fixtures from '../data/record-v1.json' with { type: 'json' }
import fixturesOf2 from '../data/record-v2.json' with { type: 'json' }
import { DAY } from '../support/clock.ts'

const NAME = '__Host-Http-sid'

/** Sends one request with a key to a manager whose backend holds one entry. Returns the session as seen, and the events. */
const visitWith = async (
  storageKey: string,
  entry: Entry,
  key: string,
  { act = () => {}, after = 1000 }: { readonly act?: (s: Session) => void; readonly after?: number } = {},
) => {
  const backend = await backendFromUrl('memory:', { now: () => fixtures.writtenAt })
  await backend.generate(storageKey, entry)
  const types: EventType[] = []
  const now = () => fixtures.writtenAt + after
  const page = sessionManager({ backend, now, onEvent: ({ type }) => types.push(type) })(async (request) => {
    const s = await session(request)
    act(s)
    return Response.json({ fields: s.fields, owner: s.owner ?? null, expiresAt: s.expiresAt })
  })
  const response = await browser(page, { now })('/', { headers: { cookie: `${NAME}=${key}` } })
  return { ...(await response.json()), cookies: response.headers.getSetCookie(), types, backend }
}

suite('an entry of version 1', () => {
  for (const { state, keys, address, entry, fields } of fixtures.records) {
    for (const [role, key] of Object.entries(keys)) {
      test(`${state}: the ${role} key opens it, with all its fields`, async () => {
        const seen = await visitWith(address, entry as Entry, key)
        assert.deepEqual(seen.fields, fields)
        assert.equal(seen.owner, (entry as Entry).owner ?? null)
        assert.deepEqual(seen.types, [])
      })
    }
  }
})

suite('an entry of version 2', () => {
  for (const { state, keys, address, entry, fields, owner, settings } of fixturesOf2.records) {
    for (const [role, key] of Object.entries(keys)) {
      test(`${state}: the ${role} key opens it, with all its fields`, async () => {
        const seen = await visitWith(address, entry, key)
        assert.deepEqual(seen.fields, fields)
        assert.equal(seen.owner, owner)
        assert.deepEqual(seen.types, [])
      })
    }
    const { idleTimeout = 14 * DAY, absoluteTimeout = 30 * DAY, persistent } = settings
    test(`${state}: a later request extends it by the timeouts of its login`, async () => {
      const after = 0.6 * Math.min(idleTimeout, absoluteTimeout)
      const { expiresAt } = await visitWith(address, entry, keys.current, { after })
      assert.equal(expiresAt - fixturesOf2.writtenAt, Math.min(after + idleTimeout, absoluteTimeout))
    })
    test(`${state}: the cookie of a new key has a Max-Age unless its login refused it`, async () => {
      const { previous = keys.current } = keys
      const key = state === 'offered' ? previous : keys.current
      // A confirmed rotation must be over before another one begins.
      const { cookies } = await visitWith(address, entry, key, { act: (s) => s.rotateKey(), after: 60_000 })
      assert.deepEqual(
        cookies.map((cookie: string) => cookie.includes('; Max-Age=')),
        [persistent !== false],
      )
    })
  }
})

test('DES-4: an entry of a later version opens nothing, and stays unchanged although its visitor writes', async () => {
  const [{ address, keys, entry }] = fixtures.records as [(typeof fixtures.records)[0]]
  const later = { ...entry, metadata: `3${entry.metadata.slice(1)}` } as Entry
  const seen = await visitWith(address, later, Object.values(keys)[0] as string, { act: (s) => s.set('new', true) })
  assert.deepEqual(seen.fields, { new: true })
  assert.deepEqual(seen.types, ['corrupt_entry', 'created'])
  assert.deepEqual(await seen.backend.get(address), { ...later, owner: undefined })
})
