// Writes that succeed only after enough replicas have confirmed them, sent in groups with one WAIT after each group.

import { setTimeout as sleep } from 'node:timers/promises'
import { KeepsakeError, messageOf } from '../../error.ts'
import { nextTurn, noticeClosedConnections } from './client-state.ts'
import { type Command, type Connection, type Driver, hasErrorCode, isErrorLike } from './driver.ts'
import { refusalCode, refusalError } from './refusals.ts'

/*
 * WAIT delays all later commands of its connection, so these writes have a connection of their own to each server. WAIT
 * also confirms only the writes of its own connection. On another connection, after a failover, it would confirm for a
 * server that may never have received them. While one group waits, the next is collected. So if a replica is down, a
 * write waits for two timeouts at most, however many writes there are.
 */

type PendingWrite = {
  /** The command. ASKING comes before it if it goes to a server that is receiving the slot. */
  readonly commands: readonly Command[]
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: unknown) => void
}

export type ReplicaWaiter = {
  /**
   * Sends a write to the server that keeps `key`, and waits for its replicas.
   *
   * @throws KeepsakeError `unknown_outcome` if too few replicas confirm it, `unavailable` if the server refused it or
   * could not be reached
   */
  write(key: string, command: Command): Promise<unknown>
  close(): void
}

/** Milliseconds that an answer may be late before its connection counts as dead. */
const LATE = 5_000
/** How many times a write follows its key to another server. */
const MAX_MOVES = 5
/** Milliseconds before a server is asked again that does not have all keys of a slot yet. */
const RETRY_DELAY = 100

/** @throws Error if the promise does not settle within so many milliseconds */
const withTimeLimit = async <T>(promise: Promise<T>, milliseconds: number): Promise<T> => {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    const giveUp = () => reject(new Error('Redis did not answer a WAIT in time.'))
    // A process that was suspended first reads its sockets, and only then gives up.
    timer = setTimeout(() => nextTurn().then(giveUp), milliseconds)
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}

/** Returns an error if too few replicas have confirmed. @param confirmed the reply of WAIT */
const shortfall = (confirmed: unknown, replicas: number, milliseconds: number): KeepsakeError | undefined => {
  if (Number(confirmed) >= replicas) return undefined
  const problem = isErrorLike(confirmed)
    ? `its replicas could not confirm it: ${messageOf(confirmed).replace(/\.$/, '')}`
    : `only ${confirmed} of the ${replicas} required replicas confirmed it within ${milliseconds} ms`
  return new KeepsakeError(
    'unknown_outcome',
    `Redis saved the change, but ${problem}. A failover may undo the change. Check that the replicas are running.`,
  )
}

type ReplicaQueueOptions = {
  readonly openConnection: () => Promise<Connection>
  /** Called after a connection failed. */
  readonly onFailure: () => void
  readonly replicas: number
  /** The timeout of WAIT in milliseconds, and how much later its answer may come. */
  readonly milliseconds: number
  readonly late: number
}

/** The writes to one server. */
const replicaQueue = ({ openConnection, onFailure, replicas, milliseconds, late }: ReplicaQueueOptions) => {
  let pending: PendingWrite[] = []
  let connection: Promise<Connection> | undefined
  let isRunning = false

  const dropConnection = () => {
    connection?.then((open) => open.close()).catch(() => {})
    connection = undefined
  }

  /** Sends a group and a WAIT. Returns the replies, that of WAIT at the end. */
  const sendGroup = async (group: readonly PendingWrite[]): Promise<unknown[]> => {
    if (connection) {
      await noticeClosedConnections()
      if (connection && !(await connection).isOpen()) dropConnection()
    }
    connection ??= openConnection()
    const { send } = await connection
    const commands = group.flatMap(({ commands }) => commands)
    const replies = await send([...commands, ['wait', String(replicas), String(milliseconds)]])
    return replies.filter((_, i) => commands[i]?.[0] !== 'asking')
  }

  const completeGroup = async (group: readonly PendingWrite[]): Promise<void> => {
    try {
      const replies = await withTimeLimit(sendGroup(group), milliseconds + late)
      const short = shortfall(replies.pop(), replicas, milliseconds)
      if (replies.some((reply) => hasErrorCode(reply, 'READONLY'))) dropConnection()
      for (const [i, { resolve, reject }] of group.entries()) {
        const reply = replies[i]
        if (isErrorLike(reply)) reject(reply)
        else if (short) reject(short)
        else resolve(reply)
      }
    } catch (error) {
      dropConnection()
      onFailure()
      for (const { reject } of group) reject(error)
    }
  }

  const run = async () => {
    isRunning = true
    while (pending.length > 0) {
      const group = pending
      pending = []
      await completeGroup(group)
    }
    isRunning = false
  }

  return {
    write: (commands: readonly Command[]) =>
      new Promise<unknown>((resolve, reject) => {
        pending.push({ commands, resolve, reject })
        if (!isRunning) run()
      }),
    close: dropConnection,
  }
}

/**
 * @param replicas that must confirm a write
 * @param milliseconds that they have for it
 * @param late milliseconds after which a connection counts as dead that has not answered a WAIT
 * @throws KeepsakeError `invalid_option` if the client cannot be duplicated
 */
export const replicaWaiter = (
  driver: Driver,
  replicas: number,
  milliseconds: number,
  late = driver.silenceLimit ?? LATE,
): ReplicaWaiter => {
  const { openConnection, refreshSlots: onFailure } = driver
  if (openConnection === undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'The option waitReplicas needs a client that can be duplicated. Use a client of createClient, not a pool.',
    )
  }
  const queues = new Map<string, ReturnType<typeof replicaQueue>>()

  const queueOf = (node: string) => {
    let queue = queues.get(node)
    if (queue === undefined) {
      queue = replicaQueue({ openConnection: () => openConnection(node), onFailure, replicas, milliseconds, late })
      queues.set(node, queue)
    }
    return queue
  }

  const close = () => {
    for (const queue of queues.values()) queue.close()
  }
  driver.onClose(close)

  return {
    async write(key, command) {
      /** The server that is receiving the slot, if the key has already moved there. */
      let receiver: string | undefined
      for (let moves = 0; ; moves++) {
        const node = receiver ?? driver.nodeOf(key)
        try {
          if (node !== undefined) {
            return await queueOf(node).write(receiver === undefined ? [command] : [['asking'], command])
          }
          if (moves === MAX_MOVES) throw new Error('CLUSTERDOWN No server of the cluster keeps the slot of this key.')
        } catch (error) {
          const refusal = refusalCode(error)
          if (refusal === undefined) throw error
          if (moves === MAX_MOVES || !['ASK', 'MOVED', 'TRYAGAIN'].includes(refusal)) throw refusalError(error, refusal)
          receiver = refusal === 'ASK' ? messageOf(error).split(' ')[2] : undefined
          if (refusal === 'TRYAGAIN') await sleep(RETRY_DELAY)
        }
        // Any command on the key makes the client follow it, and the client then knows the new server.
        if (receiver === undefined) await driver.send(['pttl', key])
      }
    },
    close,
  }
}
