// The connections of a client, as they come and go: what may be sent once more, and of which errors nothing was changed.

import { type KeepsakeError, messageOf } from '../../error.ts'
import { isUnsent, refusalOf, refused, unreachable } from './refusals.ts'

/** The name of a command and its arguments. */
export type Command = readonly string[]

/** Emits events: all clients do. */
export type Listens = { on?(event: string, listener: (value: never) => void): unknown }

export type Link = {
  /** Whether the client tells of its connections. */
  readonly follows: boolean
  /** Whether a command that is sent now goes out at once. */
  isReady(): boolean
  /** How many connections that were good have been lost: what was under way on them may have been carried out. */
  losses(): number
  /** One of several connections of the client, to a server of a cluster, was good and is lost. */
  lose(): void
  /**
   * Waits for a connection that is being made, but not long; and not at all where it could not be made since the last
   * one was lost, so that calls fail fast while a server is down. All who come meanwhile wait together.
   */
  recovered(): Promise<void>
  /** Of a cluster only: an error that also comes where a connection could not be made, and then none was lost. */
  readonly unmade?: string
  /** How often a command is sent at most, where that is safe. */
  readonly tries: number
  /** Waits between two tries: after a command that was not sent, until its connection says that it is lost. */
  rest(unsent: boolean): Promise<void>
  /** Why there is no connection, as far as the client has said. */
  lastError(): unknown
}

/** Milliseconds that a command waits for a connection, unless it is known how long its caller would. */
const CONNECTING = 1_500

/** A turn of the event loop: what is in the sockets is read, and connections that were closed have said so. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** As many turns as it takes until a connection that the server has closed has said so. */
export const closings = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await turn()
}

/** What many wait for together, and not longer than so many milliseconds. */
const gate = (patience: number) => {
  let waiting: Promise<void> | undefined
  let open = () => {}
  return {
    wait() {
      waiting ??= new Promise((resolve) => {
        // A process that stood still looks at its sockets before it gives up.
        const timer = setTimeout(() => turn().then(() => open()), patience)
        open = () => {
          clearTimeout(timer)
          waiting = undefined
          resolve()
        }
      })
      return waiting
    },
    open: () => open(),
  }
}

type Following = {
  /** A client that does not tell of its events counts as ready. */
  readonly isReady: () => boolean
  /** What the client says when a connection is lost, or cannot be made. */
  readonly down: readonly string[]
  /** Starts connecting, where the client waits to be asked. */
  readonly start?: () => void
  readonly patience?: number | undefined
}

/** Follows a client. It ends no process any more by an `error` event that nobody hears. */
export const linkOf = (client: Listens, following: Following): Link => {
  const { down, start, patience = CONNECTING } = following
  let good = following.isReady()
  let lost = 0
  /** Whether a try to connect has failed since the last good connection. */
  let failed = false
  let last: unknown
  let ofNode: unknown
  const up = gate(patience)
  const fall = gate(patience)
  const fail = () => {
    failed = true
    up.open()
  }
  const heard = client.on?.('ready', () => {
    good = true
    failed = false
    last = undefined
    up.open()
  })
  const follows = Boolean(heard)
  const isReady = follows ? following.isReady : () => true
  for (const event of down) {
    client.on?.(event, () => {
      if (good) lost++
      else fail()
      good = false
      fall.open()
    })
  }
  client.on?.('error', (error: unknown) => {
    last = ofNode ?? error
    ofNode = undefined
    if (!good) fail()
  })
  // Closed for good, as far as is known.
  client.on?.('end', fail)
  // Of a cluster, which goes on by its other servers. Where none is left, it says less itself.
  client.on?.('node error', (error: unknown) => {
    if (messageOf(error) !== 'Connection is closed.') ofNode = error
  })
  return {
    follows,
    isReady,
    losses: () => lost,
    lose() {
      lost++
    },
    async recovered() {
      start?.()
      if (!isReady() && !failed) await up.wait()
    },
    tries: 3,
    async rest(unsent) {
      if (unsent && isReady()) await fall.wait()
    },
    lastError: () => last,
  }
}

/** Commands that change nothing: sent twice, they say the same. */
const READS: readonly string[] = ['get', 'pttl', 'scan', 'info', 'cluster']
/** Milliseconds without a command after which a connection may have been closed without the client's noticing. */
const IDLE = 20

/**
 * Sends commands by a client; and again, where it is certain that nothing was changed: the connection had been closed
 * without the client's noticing, as happens to a process that stood still, or the server is a replica now and the client
 * connects anew.
 *
 * @throws KeepsakeError `unavailable` where it is certain that nothing was changed, or else the error as it came
 */
export const steady = (
  { follows, isReady, losses, recovered, lastError, unmade, tries: most, rest }: Link,
  send: (command: Command) => Promise<unknown>,
): ((command: Command) => Promise<unknown>) => {
  let used = performance.now()
  const ready = async (answered: KeepsakeError | undefined) => {
    await recovered()
    if (!isReady()) throw answered ?? unreachable(lastError())
  }
  /** What an error says of a try, before which so many connections had been lost. */
  const judged = async (error: unknown, before: number, [name = '']: Command) => {
    // A client that sends by itself what was under way may have been heard the first time.
    const first = losses() === before
    const refusal = first ? refusalOf(error) : undefined
    await turn()
    const lost = losses() !== before
    const unsent = isUnsent(error, first) || (!lost && unmade !== undefined && messageOf(error) === unmade)
    return { refusal, unsent, again: unsent || refusal === 'READONLY' || (lost && READS.includes(name)) }
  }
  return async (command) => {
    const now = performance.now()
    // What is sent into a connection that is closed may have been carried out, as far as anybody can say.
    if (follows && now - used > IDLE && !READS.includes(command[0] as string)) await closings()
    used = now
    /** What the server answered to an earlier try: it tells more than that the client is connecting again since. */
    let answered: KeepsakeError | undefined
    for (let tries = 1; ; tries++) {
      if (!isReady()) await ready(answered)
      const before = losses()
      try {
        return await send(command)
      } catch (error) {
        const { refusal, unsent, again } = await judged(error, before, command)
        if (refusal !== undefined) answered = refused(error, refusal)
        if (!again || tries === most) {
          if (refusal !== undefined || unsent) throw answered ?? unreachable(error)
          throw error
        }
        if (refusal === undefined) await rest(unsent)
      }
    }
  }
}
