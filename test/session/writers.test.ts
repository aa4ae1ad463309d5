// A manager recognises its own write after many others, or its result is unknown and the answer is 503.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, backendFromUrl, session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { newKey, versions } from '../../src/crypto/keys.ts'
import { decodeMetadata, encodeMetadata, newMetadata, nextMetadata, wasWritten } from '../../src/session/metadata.ts'
import { add } from '../support/acts.ts'

const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'

/**
 * Starts one server whose driver sends a write twice, and `others` more on the same backend. Each of these writes `each`
 * times in between.
 */
const sentTwice = async (others: number, each: number) => {
  const inner = await backendFromUrl('memory:')
  let sendsTwice = false
  let between: () => Promise<unknown> = async () => {}
  const twice: Backend = {
    ...inner,
    async set(...args) {
      const first = await inner.set(...args)
      if (!sendsTwice) return first
      sendsTwice = false
      await between()
      return inner.set(...args)
    },
  }
  const server = (backend: Backend) =>
    sessionManager({ backend, secret })(async (request) => {
      const s = await session(request)
      if (request.method === 'POST') add(s)
      return Response.json(s.get('n') ?? null)
    })
  const visit = browser(server(twice))
  const post = { method: 'POST' }
  await visit('/', post)
  const servers = Array.from({ length: others }, () => visit.copy(server(inner)))
  between = async () => {
    for (let i = 0; i < each; i++) for (const other of servers) assert.equal((await other('/', post)).status, 200)
  }
  sendsTwice = true
  const { status } = await visit('/', post)
  return { status, counted: await (await visit('/')).json(), written: 1 + others * each + 1 }
}

for (const [others, each] of [
  [1, 5],
  [1, 100],
  [3, 20],
  [15, 2],
] as const) {
  test(`a write that is sent twice counts once, with ${each} writes of each of ${others} servers in between`, async () => {
    const { status, counted, written } = await sentTwice(others, each)
    assert.deepEqual([status, counted], [200, written])
  })
}

test('after writes of too many servers its result is unknown, so it is not repeated, and the answer is 503', async () => {
  const { status, counted, written } = await sentTwice(40, 1)
  assert.deepEqual([status, counted], [503, written])
})

suite('the history in metadata', () => {
  const key = newKey()
  const first = { metadata: newMetadata(key, 0, undefined, undefined, undefined), version: versions()() }
  type Written = typeof first
  const writeBy = (writer: () => string, { metadata, version }: Written): Written => {
    const next = writer()
    const text = encodeMetadata(nextMetadata(metadata, key, [version, next], false, 0))
    return { metadata: decodeMetadata(text) ?? assert.fail(), version: next }
  }
  const state = ({ metadata, version }: Written) => ({ metadata, entry: { version } })
  test('has the last version of each writer, at most seventeen with the entry’s own', () => {
    let latest = first
    for (let i = 0; i < 100; i++) latest = writeBy(versions(), latest)
    assert.equal(latest.metadata.recentVersions.length, 16 * 8)
    assert.ok(encodeMetadata(latest.metadata).length <= 400)
  })
  test('recognises a write among any number of writes of sixteen other writers', () => {
    const mine = versions()
    const written = writeBy(mine, first)
    let latest = written
    const others = Array.from({ length: 16 }, () => versions())
    for (let i = 0; i < 50; i++) for (const other of others) latest = writeBy(other, latest)
    assert.equal(wasWritten(written.version, state(first), state(latest)), 'yes')
    assert.equal(wasWritten(mine(), state(first), state(latest)), 'unknown')
  })
  test('knows that a write was not carried out, as long as it has an older version', () => {
    let latest = first
    const others = Array.from({ length: 16 }, () => versions())
    for (let i = 0; i < 50; i++) for (const other of others) latest = writeBy(other, latest)
    const base = latest
    const mine = versions()
    for (const other of others.slice(1)) latest = writeBy(other, latest)
    assert.equal(wasWritten(mine(), state(base), state(latest)), 'no')
  })
})
