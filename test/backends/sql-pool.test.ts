import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { lending } from '../../src/backends/sql/pool.ts'
import { KeepsakeError } from '../../src/index.ts'

const READ_ONLY = new Error('read-only')

/** A pool whose next connections lead to the servers that are named. */
const poolOf = (...servers: ('old' | 'new')[]) => {
  type Connection = { server: 'old' | 'new' }
  const idle: Connection[] = []
  let hear: (connection: Connection) => void = () => {}
  const lend = lending<Connection>({
    async connect() {
      const kept = idle.pop()
      if (kept !== undefined) return kept
      const made: Connection = { server: servers.shift() ?? 'new' }
      hear(made)
      return made
    },
    births(told) {
      hear = told
      return true
    },
    full: () => false,
    readOnly: (error) => error === READ_ONLY,
    identity: (connection) => connection,
    refused: (cause) => new KeepsakeError('unavailable', 'refused', { cause }),
    giveBack(connection, error) {
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

suite('connections that were on their way to a server when it was found to be read-only', () => {
  test('a write that one refuses is tried on another', async () => {
    const { read, write } = poolOf('old', 'old', 'old')
    assert.equal(await read(), 'old')
    await assert.rejects(write, READ_ONLY)
    assert.equal(await write(), 'new')
  })

  test('one that was read from is given up a moment later', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { read, write } = poolOf('old', 'old')
    await assert.rejects(write, READ_ONLY)
    assert.equal(await read(), 'old')
    t.mock.timers.tick(1_000)
    assert.equal(await read(), 'new')
  })

  test('where all servers are read-only, a write is refused, and does not go on for ever', async () => {
    const { write } = poolOf(...Array.from({ length: 100 }, () => 'old' as const))
    for (let n = 0; n < 5; n++) await assert.rejects(write, READ_ONLY)
  })
})
