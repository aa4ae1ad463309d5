// Writes that count only once enough replicas have them, sent in groups with one WAIT behind each.

import { setTimeout as sleep } from 'node:timers/promises'
import { KeepsakeError, messageOf } from '../../error.ts'
import { type Connection, type Driver, isError, isErrorLike } from './client.ts'
import { type Command, closings, turn } from './link.ts'
import { refusalOf, refused } from './refusals.ts'

/*
 * WAIT holds up whatever comes behind it on its connection, so such writes have one of their own to each server. It
 * speaks for the writes of its own connection alone: asked on another, after a failover, it would speak for a server
 * that may never have had them. While one group waits, the next gathers: a replica that is down makes a write wait for
 * two timeouts at most, however many there are.
 */

type Waiting = {
  /** The command, behind ASKING where it goes to a server that is only about to have its slot. */
  readonly commands: readonly Command[]
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: unknown) => void
}

export type ReplicaWaiter = {
  /**
   * Sends a write to the server that keeps `key`.
   *
   * @throws KeepsakeError `unknown_outcome` where too few replicas confirm it, `unavailable` where the server refused it or could
   * not be reached
   */
  write(key: string, command: Command): Promise<unknown>
  close(): void
}

/** Milliseconds that an answer may come late before its connection counts as dead. */
const LATE = 5_000
/** How often a write follows its key to another server. */
const MOVES = 5
/** Milliseconds until a server is asked again that is about to have all keys of a command. */
const AGAIN = 100

const inTime = async <T>(promise: Promise<T>, milliseconds: number): Promise<T> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const giveUp = () => reject(new Error('Redis did not answer a WAIT in time.'))
    // A process that stood still reads what is in its sockets before it gives up.
    timer = setTimeout(() => turn().then(giveUp), milliseconds)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Writes to one server. */
const replicaQueue = (
  open: () => Promise<Connection>,
  failed: () => void,
  replicas: number,
  milliseconds: number,
  late: number,
) => {
  let gathered: Waiting[] = []
  let connection: Promise<Connection> | undefined
  let running = false

  const drop = () => {
    connection?.then((open) => open.close()).catch(() => {})
    connection = undefined
  }

  const sent = async (group: readonly Waiting[]): Promise<unknown[]> => {
    if (connection) {
      await closings()
      if (connection && !(await connection).isOpen()) drop()
    }
    connection ??= open()
    const { send } = await connection
    const commands = group.flatMap(({ commands }) => commands)
    const replies = await send([...commands, ['wait', String(replicas), String(milliseconds)]])
    return replies.filter((_, i) => commands[i]?.[0] !== 'asking')
  }

  const round = async (group: readonly Waiting[]): Promise<void> => {
    try {
      const answers = await inTime(sent(group), milliseconds + late)
      const count = answers.pop()
      if (answers.some((answer) => isError(answer, 'READONLY'))) drop()
      const short =
        Number(count) >= replicas
          ? undefined
          : new KeepsakeError(
              'unknown_outcome',
              `Redis has the change, but ${isErrorLike(count) ? `said of its replicas: ${messageOf(count)}` : `${count} of the ${replicas} replicas that it should be on have it after ${milliseconds} ms`}. A failover now may undo it; see whether the replicas are up.`,
            )
      for (const [i, { resolve, reject }] of group.entries()) {
        const answer = answers[i]
        if (isErrorLike(answer)) reject(answer)
        else if (short) reject(short)
        else resolve(answer)
      }
    } catch (error) {
      drop()
      failed()
      for (const { reject } of group) reject(error)
    }
  }

  const run = async () => {
    running = true
    while (gathered.length > 0) {
      const group = gathered
      gathered = []
      await round(group)
    }
    running = false
  }

  return {
    write: (commands: readonly Command[]) =>
      new Promise<unknown>((resolve, reject) => {
        gathered.push({ commands, resolve, reject })
        if (!running) run()
      }),
    close: drop,
  }
}

/**
 * @param late milliseconds after which a connection counts as dead that has not answered a WAIT
 * @throws KeepsakeError `invalid_option`
 */
export const replicaWaiter = (
  driver: Driver,
  replicas: number,
  milliseconds: number,
  late = driver.silent ?? LATE,
): ReplicaWaiter => {
  const { open } = driver
  if (open === undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'waitReplicas needs a client that can be duplicated: one of createClient, not a pool.',
    )
  }
  const lanes = new Map<string, ReturnType<typeof replicaQueue>>()

  const laneOf = (node: string) => {
    let found = lanes.get(node)
    if (found === undefined) {
      found = replicaQueue(() => open(node), driver.refresh, replicas, milliseconds, late)
      lanes.set(node, found)
    }
    return found
  }

  const close = () => {
    for (const one of lanes.values()) one.close()
  }
  driver.onEnd(close)

  return {
    async write(key, command) {
      /** The server to which the slot of the key is on its way, with the key. */
      let asked: string | undefined
      for (let moves = 0; ; moves++) {
        const node = asked ?? driver.nodeOf(key)
        try {
          if (node !== undefined)
            return await laneOf(node).write(asked === undefined ? [command] : [['asking'], command])
          if (moves === MOVES) throw new Error('CLUSTERDOWN No server of the cluster keeps the slot of this key.')
        } catch (error) {
          const refusal = refusalOf(error)
          if (refusal === undefined) throw error
          if (moves === MOVES || !['ASK', 'MOVED', 'TRYAGAIN'].includes(refusal)) throw refused(error, refusal)
          asked = refusal === 'ASK' ? messageOf(error).split(' ')[2] : undefined
          if (refusal === 'TRYAGAIN') await sleep(AGAIN)
        }
        // Any command on the key makes the client follow it, and know better from then on.
        if (asked === undefined) await driver.send(['pttl', key])
      }
    },
    close,
  }
}
