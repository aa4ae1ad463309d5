// The driver interface that hides the differences between Redis clients: send a command, or open a connection.

import { type Awaitable, messageOf } from '../../error.ts'
import { withoutCommand } from './refusals.ts'

/** The name of a command and its arguments. */
export type Command = readonly string[]

/** All clients emit events. */
export type EventSource = { on?(event: string, listener: (value: never) => void): unknown }

/**
 * One connection to one server. It closes after the first error, and the outcome of unanswered commands is then unknown.
 */
export type Connection = {
  /** Returns the server's replies in order, including its errors. Throws if the connection fails. */
  send(commands: readonly Command[]): Promise<unknown[]>
  /** False after the first failure. */
  isOpen(): boolean
  close(): void
}

export type Driver = {
  /**
   * Sends one command, with at most one key, to the server that keeps the key.
   *
   * @throws KeepsakeError `unavailable`, see `withRetries`
   */
  send(command: Command): Promise<unknown>
  /** The client itself puts this before each key. */
  readonly keyPrefix: string
  /** Only for a cluster: sends a command to each of its known masters. */
  readonly masters?: () => Awaitable<readonly ((command: Command) => Promise<unknown>)[]>
  /** Names the server that keeps this key. Undefined if the client does not know it. */
  nodeOf(key: string): string | undefined
  /** Opens a connection to that server for keepsake alone. Absent if the client cannot be duplicated. */
  readonly openConnection?: (node: string) => Promise<Connection>
  /** Milliseconds of silence after which a connection counts as dead. Absent for the application's own clients. */
  readonly silenceLimit?: number
  /** Reads the cluster's slots again, for example after a connection failed. */
  refreshSlots(): void
  /** Calls the listener when the client is closed for good. */
  onClose(listener: () => void): void
}

/** Timeouts of a client that keepsake opens itself, in milliseconds. */
export type ClientTimeouts = {
  /** How long a command waits while the client connects. */
  readonly connecting: number
  /** After this much silence, keepsake cuts the connection. */
  readonly silence: number
}

export const ignore = (): void => {}

/** Without a listener for `error`, a client ends the process when its server fails. The command reports the failure. */
export const ignoreErrorEvents = <T extends EventSource>(client: T): T => {
  client.on?.('error', ignore)
  return client
}

/** Recognizes errors of every realm. A reply of Redis is never an object with a message. */
export const isErrorLike = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && 'message' in value

/** Whether this is an error of a server that begins with this code. */
export const hasErrorCode = (error: unknown, code: string): boolean =>
  isErrorLike(error) && messageOf(error).startsWith(code)

/** Returns an error of a server, which begins with a code, as a reply. Throws an error of a connection. */
export const toReply = (error: unknown): unknown => {
  if (/^[A-Z]+ /.test(messageOf(error))) return withoutCommand(error)
  throw withoutCommand(error)
}
