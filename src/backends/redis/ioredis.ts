// Drivers on a client of ioredis or iovalkey: a server, a master behind Sentinels, or a cluster.

import { setTimeout as sleep } from 'node:timers/promises'
import { KeepsakeError } from '../../error.ts'
import { type ClientState, followClient } from './client-state.ts'
import {
  type ClientTimeouts,
  type Command,
  type Driver,
  type EventSource,
  ignore,
  ignoreErrorEvents,
  toReply,
} from './driver.ts'
import { unreachableError, withoutCommand } from './refusals.ts'
import { withRetries } from './retries.ts'
import { cutIfSilent } from './silence.ts'
import { slotOf } from './slots.ts'

/** `Redis` (also on a Sentinel) and `Cluster` of ioredis, and the same of iovalkey. */
export type IoredisClient = {
  readonly status: string
  call(name: string, ...args: string[]): Promise<unknown>
}

type Address = { readonly host: string; readonly port: number }

/** The members that keepsake uses beside `call`. */
export type Ioredis = IoredisClient &
  EventSource & {
    readonly isCluster?: boolean
    readonly options: {
      /** Maps the addresses that the servers of a cluster announce to the addresses that clients can reach. */
      readonly natMap?: Readonly<Record<string, Address>> | ((address: string) => Address | null)
      readonly scaleReads?: unknown
      readonly enableAutoPipelining?: boolean
      readonly keyPrefix?: string
      readonly host: string
      port: number
    }
    readonly slots: readonly (readonly string[] | undefined)[]
    readonly stream?: { destroy(error?: Error): unknown }
    nodes(role?: string): readonly Ioredis[]
    refreshSlotsCache(): void
    duplicate(options: object): Ioredis
    connect(): Promise<void>
    pipeline(commands: readonly Command[]): { exec(): Promise<[error: Error | null, reply: unknown][]> }
    disconnect(): void
  }

/** Options for a connection of keepsake's own: it lives until the first failure, and sends nothing twice. */
const SINGLE_USE = {
  lazyConnect: true,
  autoResendUnfulfilledCommands: false,
  enableOfflineQueue: false,
  enableAutoPipelining: false,
  maxRetriesPerRequest: 0,
  retryStrategy: () => null,
  sentinelRetryStrategy: () => null,
  reconnectOnError: null,
  commandTimeout: undefined,
  blockingTimeout: undefined,
  socketTimeout: undefined,
}

/** How many times a command of a cluster is tried, 100 ms apart: as long as a replica may need to become master. */
const CLUSTER_TRIES = 16
const CLUSTER_RETRY_DELAY = 100

/** A client has one state for all backends on it: Node would report a thousand listeners as a leak. */
const states = new WeakMap<object, ClientState>()

const stateOf = (client: Ioredis, waitLimit?: number): ClientState => {
  let state = states.get(client)
  if (state === undefined) {
    state = client.isCluster ? clusterState(client, waitLimit) : clientState(client, waitLimit)
    states.set(client, state)
  }
  return state
}

const clientState = (client: Ioredis, waitLimit?: number): ClientState =>
  followClient(client, {
    isReady: () => client.status === 'ready',
    downEvents: ['close'],
    connect: () => {
      // The client's events report a failure.
      if (client.status === 'wait') client.connect().catch(ignore)
    },
    waitLimit,
  })

const clusterState = (client: Ioredis, waitLimit?: number): ClientState => {
  const state = clientState(client, waitLimit)
  const followNode = (node: Ioredis) => {
    let isGood = node.status === 'ready'
    node.on?.('ready', () => {
      isGood = true
    })
    node.on?.('close', () => {
      if (isGood) state.countLoss()
      isGood = false
    })
  }
  client.nodes?.().forEach(followNode)
  client.on?.('+node', followNode)
  return {
    ...state,
    unsentMessage: 'Connection is closed.',
    maxTries: CLUSTER_TRIES,
    async waitBeforeRetry() {
      client.refreshSlotsCache()
      await sleep(CLUSTER_RETRY_DELAY)
    },
  }
}

/** Finds a server of a cluster by the address that its servers or its client use. */
const findNode = (client: Ioredis, address: string) => {
  const { natMap } = client.options
  const mapped = typeof natMap === 'function' ? natMap(address) : natMap?.[address]
  const colon = address.lastIndexOf(':')
  const { host, port } = mapped ?? { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) }
  const masters = client.nodes('master')
  const known = masters.find(({ options }) => options.host === host && Number(options.port) === port)
  return { known, any: masters[0], host, port }
}

/** Opens a connection to a server of a cluster at this address, or to the client's only server. */
const openConnection = async (client: Ioredis, address: string) => {
  const { isCluster, options } = client
  const { known, any, host, port } = isCluster ? findNode(client, address) : { ...options, known: client, any: client }
  const original = known ?? any
  if (original === undefined) throw unreachableError(new Error('the client knows no server of the cluster'))
  const { keyPrefix = '' } = options
  const connection = ignoreErrorEvents(original.duplicate({ ...SINGLE_USE, host, port, keyPrefix, readOnly: false }))
  const close = () => {
    connection.disconnect()
    // A server that does not answer would not answer the disconnect either.
    connection.stream?.destroy()
  }
  try {
    await connection.connect()
  } catch (error) {
    close()
    throw unreachableError(withoutCommand(error))
  }
  return {
    send: async (commands: readonly Command[]) =>
      (await connection.pipeline(commands).exec()).map(([error, reply]) => (error ? toReply(error) : reply)),
    isOpen: () => connection.status === 'ready',
    close,
  }
}

/** The key of a command, if it has one. */
const keyOf = ([name = '', ...args]: Command): string | undefined => (name.startsWith('eval') ? args[2] : args[0])

/** Returns a function that sends one command by the client. */
const sender = (client: Ioredis) => {
  const sortsPipelines = client.isCluster && client.options.enableAutoPipelining
  return async (command: Command) => {
    const [name = '', ...args] = command
    try {
      if (!sortsPipelines || !name.startsWith('eval')) return await client.call(name, ...args)
      // ioredis 5 and iovalkey sort pipelined commands by the first argument, but that of a script is its hash, not a
      // key.
      const [[error, reply] = []] = await client.pipeline([command]).exec()
      if (error) throw error
      return reply
    } catch (error) {
      throw withoutCommand(error)
    }
  }
}

/** @throws KeepsakeError `invalid_option` if the client reads from replicas */
export const ioredisDriver = (client: Ioredis, timeouts?: ClientTimeouts): Driver => {
  const { isCluster, options } = client
  if (isCluster && (options.scaleReads ?? 'master') !== 'master') {
    throw new KeepsakeError(
      'invalid_option',
      "This Redis Cluster reads from replicas, so sessions that have ended could open again. Use a Cluster with scaleReads 'master', the default.",
    )
  }
  const keyPrefix = options.keyPrefix ?? ''
  const state = stateOf(client, timeouts?.connecting)
  const nodeOf = (key: string) => (isCluster ? client.slots[slotOf(keyPrefix + key)]?.[0] : '')
  const send = sender(client)
  const watch =
    timeouts &&
    cutIfSilent(timeouts.silence, (node) => {
      const silent = isCluster ? findNode(client, node).known : client
      silent?.stream?.destroy(new Error(`Redis has not answered for ${timeouts.silence} ms.`))
    })
  return {
    send: withRetries(
      state,
      watch ? (command) => watch(nodeOf(keyOf(command) ?? '') ?? '', () => send(command)) : send,
    ),
    keyPrefix,
    ...(isCluster && {
      async masters() {
        await state.waitForConnection()
        return client.nodes('master').map((node) =>
          withRetries(state, async ([name = '', ...args]) => {
            try {
              return await node.call(name, ...args)
            } catch (error) {
              throw withoutCommand(error)
            }
          }),
        )
      },
    }),
    nodeOf,
    openConnection: (node) => openConnection(client, node),
    ...(timeouts && { silenceLimit: timeouts.silence }),
    refreshSlots: () => isCluster && client.refreshSlotsCache(),
    onClose: (listener) => client.on?.('end', listener),
  }
}
