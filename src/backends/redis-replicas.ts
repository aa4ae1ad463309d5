// Writes that count only once enough replicas have them, sent in groups with one WAIT behind each.

import { Fault } from '../outcome.ts'
import { type Command, type Connection, type Driver, isError } from './redis-client.ts'

/*
 * WAIT holds up whatever comes behind it on its connection, so such writes have one of their own to each server. It
 * speaks for the writes of its own connection alone: asked on another, after a failover, it would speak for a server
 * that may never have had them. While one group waits, the next gathers: a replica that is down makes a write wait for
 * two timeouts at most, however many there are.
 */

type Waiting = {
  readonly command: Command
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: unknown) => void
}

export type Replicated = {
  /** Sends a write to the server that keeps `key`. @throws Fault `unknown_outcome` where too few replicas confirm it */
  write(key: string, command: Command): Promise<unknown>
  close(): void
}

/** Milliseconds that an answer may come late before its connection counts as dead. */
const LATE = 1_000
/** How often a write follows its key to another server. */
const MOVES = 5

const inTime = async <T>(promise: Promise<T>, milliseconds: number): Promise<T> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('Redis did not answer a WAIT in time.')), milliseconds)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Writes to one server. */
const lane = (open: () => Promise<Connection>, failed: () => void, replicas: number, milliseconds: number) => {
  let gathered: Waiting[] = []
  let connection: Promise<Connection> | undefined
  let running = false

  const drop = () => {
    connection?.then((open) => open.close()).catch(() => {})
    connection = undefined
  }

  const sent = async (group: readonly Waiting[]): Promise<unknown[]> => {
    if (connection && !(await connection).isOpen()) drop()
    connection ??= open()
    const { send } = await connection
    return send([...group.map(({ command }) => command), ['wait', String(replicas), String(milliseconds)]])
  }

  const round = async (group: readonly Waiting[]): Promise<void> => {
    try {
      const answers = await inTime(sent(group), milliseconds + LATE)
      const count = answers.pop()
      if (answers.some((answer) => isError(answer, 'READONLY'))) drop()
      const short =
        Number(count) >= replicas
          ? undefined
          : new Fault(
              'unknown_outcome',
              `Redis has the change, but ${count instanceof Error ? `said of its replicas: ${count.message}` : `${count} of the ${replicas} replicas that it should be on have it after ${milliseconds} ms`}. A failover now may undo it; see whether the replicas are up.`,
            )
      for (const [i, { resolve, reject }] of group.entries()) {
        const answer = answers[i]
        if (answer instanceof Error) reject(answer)
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
    write: (command: Command) =>
      new Promise<unknown>((resolve, reject) => {
        gathered.push({ command, resolve, reject })
        if (!running) run()
      }),
    close: drop,
  }
}

/** @throws Fault `bad_option` */
export const replicated = (driver: Driver, replicas: number, milliseconds: number): Replicated => {
  const { open } = driver
  if (open === undefined) {
    throw new Fault(
      'bad_option',
      'waitReplicas needs a client that can be duplicated: one of createClient, not a pool.',
    )
  }
  const lanes = new Map<string, ReturnType<typeof lane>>()

  const laneOf = (node: string) => {
    let found = lanes.get(node)
    if (found === undefined) {
      found = lane(() => open(node), driver.refresh, replicas, milliseconds)
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
      for (let moves = 0; ; moves++) {
        const node = driver.nodeOf(key)
        try {
          if (node !== undefined) return await laneOf(node).write(command)
          if (moves === MOVES) throw new Error('No server of the Redis cluster keeps the slot of this key.')
        } catch (error) {
          if (!isError(error, 'MOVED') || moves === MOVES) throw error
        }
        // Any command on the key makes the client follow it, and know better from then on.
        await driver.send(['pttl', key])
      }
    },
    close,
  }
}
