// Drivers on a client of node-redis: one of createClient, createSentinel or createClientPool.

import { type ClientState, followClient } from './client-state.ts'
import { type Command, type Driver, type EventSource, ignore, ignoreErrorEvents, toReply } from './driver.ts'
import { unreachableError } from './refusals.ts'
import { withRetries } from './retries.ts'

/** The result of `createClient`, `createSentinel` or `createClientPool`. */
export type NodeRedisClient = {
  readonly isOpen: boolean
  sendCommand(...args: never[]): Promise<unknown>
}

/** The members of a client or a pool that keepsake uses. */
export type NodeRedis = EventSource & {
  readonly isReady: boolean
  sendCommand(command: Command): Promise<unknown>
  duplicate(options: object): NodeRedis
  connect(): Promise<unknown>
  destroy(): unknown
  readonly options?: { readonly socket?: object }
}

/** The members of a Sentinel client that keepsake uses. */
export type NodeRedisSentinel = EventSource & {
  readonly isReady: boolean
  sendCommand(readOnly: boolean, command: Command): Promise<unknown>
  duplicate(options: object): NodeRedisSentinel
  connect(): Promise<unknown>
  use<T>(act: (client: NodeRedisSentinel) => Promise<T>): Promise<T>
  destroy(): unknown
}

/** A client has one state for all backends on it: Node would report a thousand listeners as a leak. */
const states = new WeakMap<object, ClientState>()

const stateOf = (client: object, follow: () => ClientState): ClientState => {
  let state = states.get(client)
  if (state === undefined) {
    state = follow()
    states.set(client, state)
  }
  return state
}

const DOWN_EVENTS = ['reconnecting', 'end']

const clientState = (client: NodeRedis): ClientState =>
  stateOf(client, () => followClient(client, { isReady: () => client.isReady, downEvents: DOWN_EVENTS }))

/** After it has lost a master, this client resends the unanswered commands by itself. */
const sentinelState = (client: NodeRedisSentinel): ClientState =>
  stateOf(client, () => {
    const state = followClient(client, { isReady: () => client.isReady, downEvents: DOWN_EVENTS })
    for (const event of ['client-error', 'topology-change']) client.on?.(event, state.countLoss)
    return state
  })

/** A pool does not report when its connections are ready. */
const poolState = (client: NodeRedis): ClientState =>
  stateOf(client, () => followClient(client, { isReady: () => true, downEvents: [] }))

export const nodeRedisPoolDriver = (client: NodeRedis, state = poolState(client)): Driver => ({
  send: withRetries(state, (command) => client.sendCommand(command)),
  keyPrefix: '',
  nodeOf: () => '',
  refreshSlots: ignore,
  onClose: (listener) => client.on?.('end', listener),
})

export const nodeRedisDriver = (client: NodeRedis): Driver => ({
  ...nodeRedisPoolDriver(client, clientState(client)),
  async openConnection() {
    const socket = { ...client.options?.socket, reconnectStrategy: false, socketTimeout: undefined }
    const connection = ignoreErrorEvents(
      client.duplicate({ disableOfflineQueue: true, pingInterval: undefined, socket }),
    )
    try {
      await connection.connect()
    } catch (error) {
      throw unreachableError(error)
    }
    return {
      // All in one tick, so the client writes them to the socket at once.
      send: (commands) => Promise.all(commands.map((command) => connection.sendCommand(command).catch(toReply))),
      isOpen: () => connection.isReady,
      close: () => connection.destroy(),
    }
  },
})

export const nodeRedisSentinelDriver = (client: NodeRedisSentinel): Driver => {
  const state = sentinelState(client)
  return {
    send: withRetries(state, (command) => client.sendCommand(false, command)),
    keyPrefix: '',
    nodeOf: () => '',
    async openConnection() {
      // If the client found another master between a write and its WAIT, the WAIT would ask that master about the write.
      const connection = ignoreErrorEvents(client.duplicate({ maxCommandRediscovers: 0 }))
      try {
        await connection.connect()
      } catch (error) {
        throw unreachableError(error)
      }
      return {
        send: (commands) =>
          connection.use((leased) =>
            Promise.all(commands.map((command) => leased.sendCommand(false, command).catch(toReply))),
          ),
        isOpen: () => connection.isReady,
        close: () => connection.destroy(),
      }
    },
    refreshSlots: ignore,
    onClose: (listener) => client.on?.('end', listener),
  }
}
