// A proxy between a client and its server that imitates networks: it delays, holds, loses, cuts or refuses traffic.

import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { ports } from './ports.ts'

export type FaultyProxy = {
  readonly port: number
  /** Forwards everything, the held data first. */
  pass(): void
  /** Forwards everything, so many milliseconds later. */
  delay(milliseconds: number): void
  /** Holds all data until `pass`. Nothing is lost. */
  hold(): void
  /**
   * Loses all data. A connection that has lost data loses everything from then on, as if its network had forgotten it.
   */
  drop(): void
  /** Loses all data of the connections that are open, and forwards new ones. */
  silence(): void
  /** Forwards new connections to another port. Open connections stay. */
  forwardTo(port: number): void
  /** Cuts all connections, and accepts new ones. */
  reset(): void
  /** Forwards the first half of the next reply, then cuts its connection and resolves the promise. */
  halve(): Promise<void>
  /** Forwards the next request, and cuts its connection instead of forwarding the reply. */
  swallow(): void
  /** Cuts all connections, and refuses new ones until `pass`. */
  refuse(): Promise<void>
  /**
   * Cuts all connections, and new ones as soon as they are accepted, until `pass`, as a load balancer does before a dead
   * server.
   */
  shut(): void
  /** How many pieces of data `hold` holds now. */
  readonly waiting: () => number
  /** How many connections were accepted. */
  readonly connections: () => number
}

type Mode = 'pass' | 'hold' | 'drop' | 'halve' | 'swallow' | 'shut'

/** Starts a proxy to `port` of this machine. It ends with the test. */
export const proxy = async (t: Pick<TestContext, 'after'>, port: number): Promise<FaultyProxy> => {
  let target = port
  let mode: Mode = 'pass'
  let delay = 0
  let accepted = 0
  let listening: Server | undefined
  const sockets = new Set<Socket>()
  const held: (() => void)[] = []
  let onHalved = () => {}

  // No network loses the middle of a stream: the receiver would misread the data that follows.
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
        onHalved()
        // The written data is sent before the connection ends.
        to.end(() => to.destroy())
        return from.destroy()
      }
      return delay > 0 ? void setTimeout(send, delay) : send()
    })
  }
  const acceptClient = (client: Socket) => {
    accepted++
    if (mode === 'shut') return client.on('error', () => {}).resetAndDestroy()
    const server = connect(target, '127.0.0.1')
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      sockets.add(one)
      one.setNoDelay(true)
      one.on('error', () => {})
      one.on('close', () => {
        sockets.delete(one)
        // If the server closes, the client's connection closes too, unless the network hides that.
        if (mode === 'hold') held.push(() => other.end())
        else if (mode !== 'drop' && !lost.has(one)) other.destroy()
      })
    }
    forward(client, server, false)
    forward(server, client, true)
  }
  // The proxy keeps its port while it refuses connections.
  const { port: ownPort } = await ports()
  const listen = async () => {
    listening = createServer(acceptClient).listen(ownPort, '127.0.0.1')
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
    port: ownPort,
    connections: () => accepted,
    waiting: () => held.length,
    pass() {
      mode = 'pass'
      delay = 0
      for (const send of held.splice(0)) send()
      if (listening === undefined) void listen()
    },
    delay(milliseconds) {
      mode = 'pass'
      delay = milliseconds
    },
    hold() {
      mode = 'hold'
    },
    drop() {
      mode = 'drop'
    },
    silence() {
      for (const socket of sockets) lost.add(socket)
    },
    forwardTo(other) {
      target = other
    },
    reset() {
      held.length = 0
      cut()
    },
    halve() {
      mode = 'halve'
      return new Promise((resolve) => {
        onHalved = resolve
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
