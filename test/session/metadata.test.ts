// The format of stored entries: every version opens the entries of version 1, and leaves those of a later version unchanged.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { backendFromUrl, type Entry, type EventType, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import fixtures from '../data/record-v1.json' with { type: 'json' }

const NAME = '__Host-Http-sid'

/** Sends one request with a key to a manager whose backend holds one entry. Returns the session as seen, and the events. */
const visitWith = async (storageKey: string, entry: Entry, key: string, change = false) => {
  const backend = await backendFromUrl('memory:', { now: () => fixtures.writtenAt })
  await backend.generate(storageKey, entry)
  const types: EventType[] = []
  const now = () => fixtures.writtenAt + 1000
  const page = sessionManager({ backend, now, onEvent: ({ type }) => types.push(type) })(async (request) => {
    const s = await session(request)
    if (change) s.set('new', true)
    return Response.json({ fields: s.fields, owner: s.owner ?? null })
  })
  const response = await browser(page, { now })('/', { headers: { cookie: `${NAME}=${key}` } })
  return { ...(await response.json()), types, backend }
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

test('DES-4: an entry of a later version opens nothing, and stays unchanged although its visitor writes', async () => {
  const [{ address, keys, entry }] = fixtures.records as [(typeof fixtures.records)[0]]
  const later = { ...entry, metadata: `2${entry.metadata.slice(1)}` } as Entry
  const seen = await visitWith(address, later, Object.values(keys)[0] as string, true)
  assert.deepEqual(seen.fields, { new: true })
  assert.deepEqual(seen.types, ['corrupt_entry', 'created'])
  assert.deepEqual(await seen.backend.get(address), { ...later, owner: undefined })
})
