// A proxy between a driver and its server that does to the traffic what networks do: delays, holds, loses, cuts, refuses.

import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { ports } from './ports.ts'

export type Proxy = {
  readonly port: number
  /** Everything goes through. What was held goes first. */
  pass(): void
  /** Everything goes through, so many milliseconds later. */
  delay(milliseconds: number): void
  /** Nothing goes through, and nothing is lost: it waits for `pass`. */
  hold(): void
  /** What is sent is lost, and a connection that lost something loses all from then on, as if its network forgot it. */
  drop(): void
  /** All connections are cut, and new ones are served. */
  reset(): void
  /** Of the next reply the first half goes through, then its connection is cut, and the promise resolves. */
  halve(): Promise<void>
  /** The next request goes through, and its connection is cut instead of the reply. */
  swallow(): void
  /** Connections are cut, and new ones refused, until `pass`. */
  refuse(): Promise<void>
  /** Connections are cut, and new ones as soon as they are made, until `pass`: what stands before a server that is down. */
  shut(): void
  /** How many pieces of what was sent `hold` holds back now. */
  readonly waiting: () => number
  /** How many connections were made. */
  readonly connections: () => number
}

type Mode = 'pass' | 'hold' | 'drop' | 'halve' | 'swallow' | 'shut'

/** Starts a proxy before `port` of this machine. It ends with the test. */
export const proxy = async (t: Pick<TestContext, 'after'>, port: number): Promise<Proxy> => {
  let mode: Mode = 'pass'
  let late = 0
  let made = 0
  let listening: Server | undefined
  const sockets = new Set<Socket>()
  const held: (() => void)[] = []
  let halved = () => {}

  // No network loses the middle of a stream: what comes later on such a connection would be read as something else.
  const lost = new WeakSet<Socket>()
  const forward = (from: Socket, to: Socket, replies: boolean) => {
    from.on('data', (chunk: Buffer) => {
      const send = () => {
        if (!to.destroyed) to.write(chunk)
      }
      if (mode === 'drop') lost.add(from).add(to)
      if (lost.has(from)) return
      if (mode === 'hold') return held.push(send)
      if (replies && (mode === 'halve' || mode === 'swallow')) {
        if (mode === 'halve') to.write(chunk.subarray(0, Math.ceil(chunk.length / 2)))
        mode = 'pass'
        halved()
        // What was written goes out before the connection ends.
        to.end(() => to.destroy())
        return from.destroy()
      }
      return late > 0 ? void setTimeout(send, late) : send()
    })
  }
  const accept = (client: Socket) => {
    made++
    if (mode === 'shut') return client.on('error', () => {}).resetAndDestroy()
    const server = connect(port, '127.0.0.1')
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      sockets.add(one)
      one.setNoDelay(true)
      one.on('error', () => {})
      one.on('close', () => {
        sockets.delete(one)
        // A server that has gone away is gone for its client too, unless its network hides that.
        if (mode === 'hold') held.push(() => other.end())
        else if (mode !== 'drop' && !lost.has(one)) other.destroy()
      })
    }
    forward(client, server, false)
    forward(server, client, true)
  }
  // Its own while it refuses connections, too.
  const { port: own } = await ports()
  const listen = async () => {
    listening = createServer(accept).listen(own, '127.0.0.1')
    await once(listening, 'listening')
  }
  await listen()
  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  t.after(() => {
    listening?.close()
    cut()
  })

  return {
    port: own,
    connections: () => made,
    waiting: () => held.length,
    pass() {
      mode = 'pass'
      late = 0
      for (const send of held.splice(0)) send()
      if (listening === undefined) void listen()
    },
    delay(milliseconds) {
      mode = 'pass'
      late = milliseconds
    },
    hold() {
      mode = 'hold'
    },
    drop() {
      mode = 'drop'
    },
    reset() {
      held.length = 0
      cut()
    },
    halve() {
      mode = 'halve'
      return new Promise((resolve) => {
        halved = resolve
      })
    },
    swallow() {
      mode = 'swallow'
    },
    shut() {
      mode = 'shut'
      cut()
    },
    async refuse() {
      const closing = listening
      listening = undefined
      cut()
      if (closing !== undefined) await new Promise((resolve) => closing.close(resolve))
    },
  }
}
