// Ports that nobody else takes: no other test, no other process of the tests, no other checkout on this machine.

import { once } from 'node:events'
import { createServer } from 'node:net'

export type Ports = {
  readonly port: number
  /** Another, for what needs two: the bus of a Redis Cluster. */
  readonly bus: number
}

/*
 * A program that is told its port takes it later, so a port that was free when somebody looked may be taken by then.
 * So ports go by threes. Whoever listens on the first of three owns the other two, until its process ends, while a
 * server is started on them, killed, and started again. The operating system hands out no port from this range by
 * itself: Linux begins at 32768, others at 49152. What other programs take all the same is passed over here, and
 * `started` tries again with others.
 */
const FIRST = 15_000
const END = 32_700
const COUNT = Math.floor((END - FIRST) / 3)

/** Listens on a port; undefined where that is somebody else's. */
const listening = async (port: number) => {
  const server = createServer((socket) => socket.destroy()).listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
    return server
  } catch (error) {
    if ((error as { code?: unknown }).code === 'EADDRINUSE') return undefined
    throw error
  }
}

const isFree = async (port: number): Promise<boolean> => {
  const server = await listening(port)
  if (server === undefined) return false
  server.close()
  await once(server, 'close')
  return true
}

// Processes that begin at different places seldom meet.
let next = process.pid % COUNT

/** Takes ports for as long as this process lives. */
export const ports = async (): Promise<Ports> => {
  for (let tries = 0; tries < COUNT; tries++) {
    const first = FIRST + 3 * next
    next = (next + 1) % COUNT
    const owned = await listening(first)
    if (owned === undefined) continue
    owned.unref()
    if ((await isFree(first + 1)) && (await isFree(first + 2))) return { port: first + 1, bus: first + 2 }
    owned.close()
  }
  throw new Error(`All ports from ${FIRST} to ${END} are taken: end what was left over by tests that were killed.`)
}
