// What the Redis backend needs of a client, whichever it is: one command, and a connection of its own to a key's node.

import { type Awaitable, Fault } from '../outcome.ts'

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

export type Command = readonly string[]

/** One connection to one server. After an error it is closed, and what was on its way stays unknown. */
export type Connection = {
  /** The replies of the server in order, its errors among them. Throws where the connection fails. */
  send(commands: readonly Command[]): Promise<unknown[]>
  /** Whether it has not failed so far. */
  isOpen(): boolean
  close(): void
}

export type Driver = {
  /** One command, with one key at most, to the server that keeps the key. */
  send(command: Command): Promise<unknown>
  /** What the client itself puts before each key. */
  readonly keyPrefix: string
  /** Of a cluster only: a way to each of its masters, as far as they are known. */
  readonly masters?: () => Awaitable<readonly ((command: Command) => Promise<unknown>)[]>
  /** A name of the server that keeps this key, as far as is known. */
  nodeOf(key: string): string | undefined
  /** A connection that nothing else uses, to that server. Absent where the client has no way to make one. */
  readonly open?: (node: string) => Promise<Connection>
  /** After a connection failed: the servers may have other keys now. */
  refresh(): void
  /** Told when the client was closed for good. */
  onEnd(act: () => void): void
}

/* What we use of the clients beside the command itself; where it is missing, so is what needs it. */
type Listens = { on?(event: string, listener: () => void): unknown }
type Ioredis = IoredisClient &
  Listens & {
    readonly isCluster?: boolean
    readonly options: {
      readonly scaleReads?: unknown
      readonly enableAutoPipelining?: boolean
      readonly keyPrefix?: string
      readonly host: string
      port: number
    }
    readonly slots: readonly (readonly string[] | undefined)[]
    nodes(role: string): readonly Ioredis[]
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

const ignored = new WeakSet<object>()
const ignore = () => {}

/** A client without a listener for `error` ends the process when its server does. What fails is told by the command. */
const guarded = <T extends Listens>(client: T): T => {
  if (ignored.has(client)) return client
  ignored.add(client)
  client.on?.('error', ignore)
  return client
}

/** ioredis hangs the command on its errors: whoever logs one would log a session with it, or a password. */
const bare = (error: unknown): unknown => {
  if (error instanceof Error && 'command' in error) delete error.command
  return error
}

/** The error of a server, which begins with a code, as a reply; throws that of a connection. */
const asReply = (error: unknown): unknown => {
  if (error instanceof Error && /^[A-Z]+ /.test(error.message)) return bare(error)
  throw bare(error)
}

/** A server's error that begins with this code. */
export const isError = (error: unknown, code: string): error is Error =>
  error instanceof Error && error.message.startsWith(code)

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

const ofIoredis = (client: Ioredis): Driver => {
  const { isCluster, options } = client
  if (isCluster && (options.scaleReads ?? 'master') !== 'master') {
    throw new Fault(
      'bad_option',
      "A Redis cluster that scales reads would open sessions that have ended: give a Cluster with scaleReads 'master', the default.",
    )
  }
  const keyPrefix = options.keyPrefix ?? ''
  const sorted = isCluster && options.enableAutoPipelining
  return {
    async send(command) {
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
    },
    keyPrefix,
    ...(isCluster && {
      masters: () =>
        client.nodes('master').map((node) => async ([name = '', ...args]: Command) => {
          try {
            return await node.call(name, ...args)
          } catch (error) {
            throw bare(error)
          }
        }),
    }),
    nodeOf: (key) => (isCluster ? client.slots[slotOf(keyPrefix + key)]?.[0] : ''),
    async open(node) {
      const from = isCluster
        ? client.nodes('master').find(({ options: { host, port } }) => `${host}:${port}` === node)
        : client
      if (from === undefined) throw new Error(`The cluster has no master ${node} now.`)
      const connection = guarded(from.duplicate({ ...ONCE, keyPrefix, readOnly: false }))
      try {
        await connection.connect()
      } catch (error) {
        throw bare(error)
      }
      return {
        send: async (commands) =>
          (await connection.pipeline(commands).exec()).map(([error, reply]) => (error ? asReply(error) : reply)),
        isOpen: () => connection.status === 'ready',
        close: () => connection.disconnect(),
      }
    },
    refresh: () => isCluster && client.refreshSlotsCache(),
    onEnd: (act) => client.on?.('end', act),
  }
}

const ofNodeRedis = (client: NodeRedis): Driver => ({
  send: (command) => client.sendCommand(command),
  keyPrefix: '',
  nodeOf: () => '',
  refresh: ignore,
  onEnd: (act) => client.on?.('end', act),
})

const ofNodeRedisClient = (client: NodeRedis): Driver => ({
  ...ofNodeRedis(client),
  async open() {
    const socket = { ...client.options?.socket, reconnectStrategy: false, socketTimeout: undefined }
    const connection = guarded(client.duplicate({ disableOfflineQueue: true, pingInterval: undefined, socket }))
    await connection.connect()
    return {
      // In one tick, so that they are one write.
      send: (commands) => Promise.all(commands.map((one) => connection.sendCommand(one).catch(asReply))),
      isOpen: () => connection.isReady,
      close: () => connection.destroy(),
    }
  },
})

const ofNodeRedisSentinel = (client: NodeRedisSentinel): Driver => ({
  send: (command) => client.sendCommand(false, command),
  keyPrefix: '',
  nodeOf: () => '',
  async open() {
    // A rediscovery between a write and its WAIT would ask another master about it.
    const connection = guarded(client.duplicate({ maxCommandRediscovers: 0 }))
    await connection.connect()
    return {
      send: (commands) =>
        connection.use((leased) => Promise.all(commands.map((one) => leased.sendCommand(false, one).catch(asReply)))),
      isOpen: () => connection.isReady,
      close: () => connection.destroy(),
    }
  },
  refresh: ignore,
  onEnd: (act) => client.on?.('end', act),
})

/**
 * Recognises a client by what it can do, and sees to it that its errors end no process.
 *
 * @throws Fault `bad_option`
 */
export const driverOf = (client: RedisClient): Driver => {
  const has = (name: string) => typeof (client as unknown as Record<string, unknown> | undefined)?.[name] === 'function'
  if (has('call') && has('duplicate')) return ofIoredis(guarded(client as unknown as Ioredis))
  if (has('getSlotRandomNode')) {
    throw new Fault(
      'bad_option',
      "node-redis's cluster does not come back when a master dies: give redisBackend a Cluster of ioredis.",
    )
  }
  if (has('getMasterNode')) return ofNodeRedisSentinel(guarded(client as unknown as NodeRedisSentinel))
  if (has('sendCommand')) {
    const plain = guarded(client as unknown as NodeRedis)
    return has('duplicate') ? ofNodeRedisClient(plain) : ofNodeRedis(plain)
  }
  throw new Fault(
    'bad_option',
    'redisBackend needs a client: a Redis or Cluster of ioredis (or iovalkey), or what createClient of node-redis gives.',
  )
}
