// What the Redis backend needs of a client, whichever it is: one command, and a connection of its own to a key's node.

import { setTimeout as sleep } from 'node:timers/promises'
import { type Awaitable, KeepsakeError, messageOf } from '../../error.ts'
import { type Command, type Link, type Listens, linkOf, steady, turn } from './link.ts'
import { bare, unreachable } from './refusals.ts'

/** Of ioredis: `Redis` (also on a Sentinel) and `Cluster`; and the same of iovalkey. */
export type IoredisClient = {
  readonly status: string
  call(name: string, ...args: string[]): Promise<unknown>
}

/** Of node-redis: what `createClient`, `createSentinel` and `createClientPool` give. */
type NodeRedisClient = {
  readonly isOpen: boolean
  sendCommand(...args: never[]): Promise<unknown>
}

export type RedisClient = IoredisClient | NodeRedisClient

/** One connection to one server. After an error it is closed, and what was on its way stays unknown. */
export type Connection = {
  /** The replies of the server in order, its errors among them. Throws where the connection fails. */
  send(commands: readonly Command[]): Promise<unknown[]>
  /** Whether it has not failed so far. */
  isOpen(): boolean
  close(): void
}

export type Driver = {
  /** One command, with one key at most, to the server that keeps the key. @throws KeepsakeError `unavailable`, see `steady` */
  send(command: Command): Promise<unknown>
  /** What the client itself puts before each key. */
  readonly keyPrefix: string
  /** Of a cluster only: a way to each of its masters, as far as they are known. */
  readonly masters?: () => Awaitable<readonly ((command: Command) => Promise<unknown>)[]>
  /** A name of the server that keeps this key, as far as is known. */
  nodeOf(key: string): string | undefined
  /** A connection that nothing else uses, to that server. Absent where the client has no way to make one. */
  readonly open?: (node: string) => Promise<Connection>
  /** Milliseconds after which a connection counts as dead from which nothing comes, where that is known. */
  readonly silent?: number
  /** After a connection failed: the servers may have other keys now. */
  refresh(): void
  /** Told when the client was closed for good. */
  onEnd(act: () => void): void
}

/* What we use of the clients beside the command itself; where it is missing, so is what needs it. */
type Ioredis = IoredisClient &
  Listens & {
    readonly isCluster?: boolean
    readonly options: {
      /** Of a cluster behind other addresses than its servers know. */
      readonly natMap?:
        | Readonly<Record<string, { readonly host: string; readonly port: number }>>
        | ((address: string) => { readonly host: string; readonly port: number } | null)
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
type NodeRedis = Listens & {
  readonly isReady: boolean
  sendCommand(command: Command): Promise<unknown>
  duplicate(options: object): NodeRedis
  connect(): Promise<unknown>
  destroy(): unknown
  readonly options?: { readonly socket?: object }
}
type NodeRedisSentinel = Listens & {
  readonly isReady: boolean
  sendCommand(readOnly: boolean, command: Command): Promise<unknown>
  duplicate(options: object): NodeRedisSentinel
  connect(): Promise<unknown>
  use<T>(act: (client: NodeRedisSentinel) => Promise<T>): Promise<T>
  destroy(): unknown
}

const ignore = () => {}

/** A client without a listener for `error` ends the process when its server does. What fails is told by the command. */
const ignoreErrorEvents = <T extends Listens>(client: T): T => {
  client.on?.('error', ignore)
  return client
}

/** Of whichever realm: a reply of Redis is never an object with a message. */
export const isErrorLike = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && 'message' in value

/** The error of a server, which begins with a code, as a reply; throws that of a connection. */
const asReply = (error: unknown): unknown => {
  if (/^[A-Z]+ /.test(messageOf(error))) return bare(error)
  throw bare(error)
}

/** A server's error that begins with this code. */
export const isError = (error: unknown, code: string): boolean =>
  isErrorLike(error) && messageOf(error).startsWith(code)

/** The cluster's slot of a key: CRC-16/XMODEM of the key, or of what is in its first braces (Redis Cluster specification). */
export const slotOf = (key: string): number => {
  const open = key.indexOf('{')
  const close = key.indexOf('}', open + 1)
  const hashed = open !== -1 && close > open + 1 ? key.slice(open + 1, close) : key
  let crc = 0
  for (const byte of Buffer.from(hashed)) {
    crc ^= byte << 8
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : crc << 1
  }
  return crc % 16_384
}

/** What a connection of our own is told, whatever its client was: it lives until the first failure, and sends nothing twice. */
const ONCE = {
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

/** One for all backends on a client: a thousand listeners would be a leak to Node. */
const links = new WeakMap<object, Link>()

const linkTo = (client: object, make: () => Link): Link => {
  let link = links.get(client)
  if (link === undefined) {
    link = make()
    links.set(client, link)
  }
  return link
}

const linkOfIoredis = (client: Ioredis, patience?: number): Link => {
  const link = linkOf(client, {
    isReady: () => client.status === 'ready',
    down: ['close'],
    start: () => {
      // It tells how that failed by its events.
      if (client.status === 'wait') client.connect().catch(ignore)
    },
    patience,
  })
  if (!client.isCluster) return link
  const follow = (node: Ioredis) => {
    let good = node.status === 'ready'
    node.on?.('ready', () => {
      good = true
    })
    node.on?.('close', () => {
      if (good) link.lose()
      good = false
    })
  }
  client.nodes?.().forEach(follow)
  client.on?.('+node', follow)
  return {
    ...link,
    unmade: 'Connection is closed.',
    // As long as a replica may take to become master.
    tries: 16,
    async rest() {
      client.refreshSlotsCache()
      await sleep(100)
    },
  }
}

/** A server of a cluster by its address, as its servers or its client know it. */
const nodeAt = (client: Ioredis, address: string) => {
  const { natMap } = client.options
  const mapped = typeof natMap === 'function' ? natMap(address) : natMap?.[address]
  const colon = address.lastIndexOf(':')
  const { host, port } = mapped ?? { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) }
  const masters = client.nodes('master')
  const known = masters.find(({ options }) => options.host === host && Number(options.port) === port)
  return { known, any: masters[0], host, port }
}

/**
 * Cuts a connection from which nothing came for so many milliseconds though it was asked: its network may have forgotten
 * it. ioredis' own timeouts end what has been answered, where a process stood still and its timers come first.
 */
const cutting = (milliseconds: number, cut: (node: string) => void) => {
  const lines = new Map<string, { under: number; heard: number; timer: NodeJS.Timeout | undefined }>()
  const watch = (node: string, line: { heard: number; timer: NodeJS.Timeout | undefined }, left: number): void => {
    line.timer = setTimeout(async () => {
      const { heard } = line
      await turn()
      if (line.timer === undefined) return
      const rest = line.heard + milliseconds - performance.now()
      if (rest <= 0 && line.heard === heard) cut(node)
      watch(node, line, Math.max(rest, 1_000))
    }, left)
  }
  return async <T>(node: string, call: () => Promise<T>): Promise<T> => {
    const line = lines.get(node) ?? { under: 0, heard: 0, timer: undefined }
    lines.set(node, line)
    if (line.under++ === 0) {
      line.heard = performance.now()
      watch(node, line, milliseconds)
    }
    try {
      return await call()
    } finally {
      line.heard = performance.now()
      if (--line.under === 0) {
        clearTimeout(line.timer)
        line.timer = undefined
      }
    }
  }
}

/** What a client of our own is told, in milliseconds. */
export type Patience = {
  /** That a command waits for a connection that is being made. */
  readonly connecting: number
  /** After which a connection is cut from which nothing comes. */
  readonly silent: number
}

/** The key of a command, if it is about one. */
const keyOf = ([name = '', ...args]: Command): string | undefined => (name.startsWith('eval') ? args[2] : args[0])

const ofIoredis = (client: Ioredis, patience?: Patience): Driver => {
  const { isCluster, options } = client
  if (isCluster && (options.scaleReads ?? 'master') !== 'master') {
    throw new KeepsakeError(
      'invalid_option',
      "A Redis cluster that scales reads would open sessions that have ended: give a Cluster with scaleReads 'master', the default.",
    )
  }
  const keyPrefix = options.keyPrefix ?? ''
  const sorted = isCluster && options.enableAutoPipelining
  const link = linkTo(client, () => linkOfIoredis(client, patience?.connecting))
  const nodeOf = (key: string) => (isCluster ? client.slots[slotOf(keyPrefix + key)]?.[0] : '')
  const call = async (command: Command) => {
    const [name = '', ...args] = command
    try {
      if (!sorted || !name.startsWith('eval')) return await client.call(name, ...args)
      // ioredis 5 and iovalkey sort what they pipeline by the first argument, which of a script is its hash and no key.
      const [[error, reply] = []] = await client.pipeline([command]).exec()
      if (error) throw error
      return reply
    } catch (error) {
      throw bare(error)
    }
  }
  const watched =
    patience &&
    cutting(patience.silent, (node) => {
      const silent = isCluster ? nodeAt(client, node).known : client
      silent?.stream?.destroy(new Error(`Redis has not answered for ${patience.silent} ms.`))
    })
  return {
    send: steady(link, watched ? (command) => watched(nodeOf(keyOf(command) ?? '') ?? '', () => call(command)) : call),
    keyPrefix,
    ...(isCluster && {
      async masters() {
        await link.recovered()
        return client.nodes('master').map((node) =>
          steady(link, async ([name = '', ...args]) => {
            try {
              return await node.call(name, ...args)
            } catch (error) {
              throw bare(error)
            }
          }),
        )
      },
    }),
    nodeOf,
    async open(node) {
      const { known, any, host, port } = isCluster ? nodeAt(client, node) : { ...options, known: client, any: client }
      const from = known ?? any
      if (from === undefined) throw unreachable(new Error('no server of the cluster is known'))
      const connection = ignoreErrorEvents(from.duplicate({ ...ONCE, host, port, keyPrefix, readOnly: false }))
      const close = () => {
        connection.disconnect()
        // A server that does not answer does not answer that either.
        connection.stream?.destroy()
      }
      try {
        await connection.connect()
      } catch (error) {
        close()
        throw unreachable(bare(error))
      }
      return {
        send: async (commands) =>
          (await connection.pipeline(commands).exec()).map(([error, reply]) => (error ? asReply(error) : reply)),
        isOpen: () => connection.status === 'ready',
        close,
      }
    },
    ...(patience && { silent: patience.silent }),
    refresh: () => isCluster && client.refreshSlotsCache(),
    onEnd: (act) => client.on?.('end', act),
  }
}

const linkOfNodeRedis = (client: NodeRedis): Link =>
  linkTo(client, () => linkOf(client, { isReady: () => client.isReady, down: ['reconnecting', 'end'] }))

/** It sends again by itself what was under way when it lost a master. */
const linkOfSentinel = (client: NodeRedisSentinel): Link =>
  linkTo(client, () => {
    const link = linkOf(client, { isReady: () => client.isReady, down: ['reconnecting', 'end'] })
    for (const event of ['client-error', 'topology-change']) client.on?.(event, link.lose)
    return link
  })

/** A pool does not tell when its connections are ready. */
const linkOfPool = (client: NodeRedis): Link => linkTo(client, () => linkOf(client, { isReady: () => true, down: [] }))

const ofNodeRedisPool = (client: NodeRedis, link = linkOfPool(client)): Driver => ({
  send: steady(link, (command) => client.sendCommand(command)),
  keyPrefix: '',
  nodeOf: () => '',
  refresh: ignore,
  onEnd: (act) => client.on?.('end', act),
})

const ofNodeRedisClient = (client: NodeRedis): Driver => ({
  ...ofNodeRedisPool(client, linkOfNodeRedis(client)),
  async open() {
    const socket = { ...client.options?.socket, reconnectStrategy: false, socketTimeout: undefined }
    const connection = ignoreErrorEvents(
      client.duplicate({ disableOfflineQueue: true, pingInterval: undefined, socket }),
    )
    try {
      await connection.connect()
    } catch (error) {
      throw unreachable(error)
    }
    return {
      // In one tick, so that they are one write.
      send: (commands) => Promise.all(commands.map((one) => connection.sendCommand(one).catch(asReply))),
      isOpen: () => connection.isReady,
      close: () => connection.destroy(),
    }
  },
})

const ofNodeRedisSentinel = (client: NodeRedisSentinel): Driver => {
  const link = linkOfSentinel(client)
  return {
    send: steady(link, (command) => client.sendCommand(false, command)),
    keyPrefix: '',
    nodeOf: () => '',
    async open() {
      // A rediscovery between a write and its WAIT would ask another master about it.
      const connection = ignoreErrorEvents(client.duplicate({ maxCommandRediscovers: 0 }))
      try {
        await connection.connect()
      } catch (error) {
        throw unreachable(error)
      }
      return {
        send: (commands) =>
          connection.use((leased) => Promise.all(commands.map((one) => leased.sendCommand(false, one).catch(asReply)))),
        isOpen: () => connection.isReady,
        close: () => connection.destroy(),
      }
    },
    refresh: ignore,
    onEnd: (act) => client.on?.('end', act),
  }
}

/**
 * Recognises a client by what it can do, and sees to it that its errors end no process.
 *
 * @param patience of a client of our own
 * @throws KeepsakeError `invalid_option`
 */
export const driverOf = (client: RedisClient, patience?: Patience): Driver => {
  const has = (name: string) => typeof (client as unknown as Record<string, unknown> | undefined)?.[name] === 'function'
  if (has('call') && has('duplicate')) return ofIoredis(client as unknown as Ioredis, patience)
  if (has('getSlotRandomNode')) {
    throw new KeepsakeError(
      'invalid_option',
      "node-redis's cluster does not come back when a master dies: give redisBackend a Cluster of ioredis.",
    )
  }
  if (has('getMasterNode')) return ofNodeRedisSentinel(client as unknown as NodeRedisSentinel)
  if (has('sendCommand')) {
    const plain = client as unknown as NodeRedis
    return has('duplicate') ? ofNodeRedisClient(plain) : ofNodeRedisPool(plain)
  }
  throw new KeepsakeError(
    'invalid_option',
    'redisBackend needs a client: a Redis or Cluster of ioredis (or iovalkey), or what createClient of node-redis gives.',
  )
}
