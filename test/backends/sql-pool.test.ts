// Connections of a pool that were being made to a server when it was found to be read-only.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { KeepsakeError } from 'keepsake'
import { createLender } from '../../src/backends/sql/pool.ts'

const READ_ONLY = new Error('read-only')

/** A pool whose next connections lead to these servers, and then to the new one. */
const poolOf = (...servers: ('old' | 'new')[]) => {
  type Connection = { server: 'old' | 'new' }
  const idle: Connection[] = []
  let listener: (connection: Connection) => void = () => {}
  const lend = createLender<Connection>({
    async connect() {
      const kept = idle.pop()
      if (kept !== undefined) return kept
      const connection: Connection = { server: servers.shift() ?? 'new' }
      listener(connection)
      return connection
    },
    onConnection(given) {
      listener = given
      return true
    },
    isFull: () => false,
    isReadOnly: (error) => error === READ_ONLY,
    identity: (connection) => connection,
    refused: (cause) => new KeepsakeError('unavailable', 'refused', { cause }),
    release(connection, error) {
      if (error === undefined) idle.push(connection)
    },
  })
  return {
    read: () => lend(async ({ server }) => server),
    write: () =>
      lend(async ({ server }) => {
        if (server === 'old') throw READ_ONLY
        return server
      }),
  }
}

suite('connections that were being made to a server when it was found to be read-only', () => {
  test('a write that the server refuses is tried on another connection', async () => {
    const { read, write } = poolOf('old', 'old', 'old')
    assert.equal(await read(), 'old')
    await assert.rejects(write, READ_ONLY)
    assert.equal(await write(), 'new')
  })

  test('a connection that only reads is ended a second later', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { read, write } = poolOf('old', 'old')
    await assert.rejects(write, READ_ONLY)
    assert.equal(await read(), 'old')
    t.mock.timers.tick(1_000)
    assert.equal(await read(), 'new')
  })

  test('if all servers are read-only, a write fails after some tries', async () => {
    const { write } = poolOf(...Array.from({ length: 100 }, () => 'old' as const))
    for (let n = 0; n < 5; n++) await assert.rejects(write, READ_ONLY)
  })
})
