// Ports that no other test, no other test process and no other checkout on this machine takes.

import { once } from 'node:events'
import { createServer } from 'node:net'

export type Ports = {
  readonly port: number
  /** A second port, for the bus of a Redis Cluster. */
  readonly bus: number
}

/*
 * A server opens its port some time after a test has chosen it, so a port that was free may be taken by then. So ports
 * come in groups of three. The process that listens on the first port owns the other two until it ends, while a server is
 * started on them, killed, and started again. The operating system assigns no port of this range by itself: Linux begins
 * at 32768, other systems at 49152. If another program has taken one of the three, this file skips the group, and
 * `startServer` tries again with other ports.
 */
const FIRST = 15_000
const END = 32_700
const COUNT = Math.floor((END - FIRST) / 3)

/** Listens on a port. Returns undefined if another process has it. */
const listenOn = async (port: number) => {
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
  const server = await listenOn(port)
  if (server === undefined) return false
  server.close()
  await once(server, 'close')
  return true
}

// Processes that begin at different groups seldom try the same ones.
let next = process.pid % COUNT

/** Reserves two ports until this process ends. */
export const ports = async (): Promise<Ports> => {
  for (let tries = 0; tries < COUNT; tries++) {
    const first = FIRST + 3 * next
    next = (next + 1) % COUNT
    const owned = await listenOn(first)
    if (owned === undefined) continue
    owned.unref()
    if ((await isFree(first + 1)) && (await isFree(first + 2))) return { port: first + 1, bus: first + 2 }
    owned.close()
  }
  throw new Error(`All ports from ${FIRST} to ${END} are taken. End the processes that killed tests have left.`)
}
