// Errors of Redis after which it is certain that nothing was changed, and what to do about each.

import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'

/** What the server says, by the first word of its error, when it refuses a command before it does any of it. */
const refusals: Readonly<Record<string, string>> = {
  ASK: 'The slot of this key is being moved to another server: try again.',
  BUSY: 'A script of somebody else has been running for too long: see SCRIPT KILL.',
  CLUSTERDOWN: 'Some slots of the cluster have no server: see CLUSTER NODES.',
  DENIED: 'The server runs in protected mode: give it a password, or bind it to another address.',
  LOADING: 'The server is still loading its data: try again a little later.',
  MASTERDOWN: 'The server is a replica that has lost its master: see whether the master is up.',
  MISCONF: 'The server cannot save its data: see its log, and the room on its disk.',
  MOVED: 'The slot of this key has moved to another server: try again.',
  NOAUTH: 'The server wants a login: put the user and the password into the URL or the options of the client.',
  NOPERM: 'The user may not do this: docs/databases.md says what Redis has to allow it (ACL SETUSER).',
  NOREPLICAS: 'Fewer replicas follow the server than min-replicas-to-write asks for: see whether they are up.',
  OOM: 'The server is full: raise its maxmemory, or see what fills it.',
  READONLY:
    'The server is a replica now: let the client connect anew after this error (ioredis: reconnectOnError), or ask Sentinels.',
  TRYAGAIN: 'The slot of this key is being moved to another server: try again.',
  WRONGPASS: 'The server does not know this user or password: see the URL or the options of the client.',
}

/** A user who may not use a command of a script: Redis 7.0 has no word of its own for it. Our scripts change one key once. */
const DENIED_IN_SCRIPT = /can't run this command or subcommand|ACL failure in script/

/** Of ioredis, which never says so of what it has sent; and of clients that may have, before they lost a connection. */
const UNSENT = /^Stream isn't writeable/
const UNSENT_AT_FIRST =
  /^(Cluster isn't ready|Cluster is ended|None of startup nodes|Failed to refresh slots|The client is (offline|closed)|Reached the max retries per request)/

/** @param first whether no connection was lost since the command was given to the client */
export const isUnsent = (error: unknown, first: boolean): boolean =>
  UNSENT.test(messageOf(error)) || (first && UNSENT_AT_FIRST.test(messageOf(error)))

/** The word that the server's error begins with, if it is one after which nothing was changed. */
export const refusalOf = (error: unknown): string | undefined => {
  const message = messageOf(error)
  const word = DENIED_IN_SCRIPT.test(message) ? 'NOPERM' : (/^[A-Z]+(?= )/.exec(message)?.[0] ?? '')
  return Object.hasOwn(refusals, word) ? word : undefined
}

const certificates = /^(ERR_TLS_CERT|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|INVALID_CA)/

/** ioredis hangs the command on its errors: whoever logs one would log a session with it, or a password. */
export const bare = <T>(error: T): T => {
  if (typeof error !== 'object' || error === null) return error
  if ('command' in error) delete error.command
  if ('lastNodeError' in error) bare(error.lastNodeError)
  return error
}

const sentence = (text: string): string => `${text.replace(/\.$/, '')}.`

/** An error of a connection in words, with what to do where that is known. */
const worded = (error: unknown): string => {
  if (error === undefined) return 'it does not answer.'
  const { code, lastNodeError } = (error ?? {}) as { code?: unknown; lastNodeError?: unknown }
  if (lastNodeError !== undefined) return worded(lastNodeError)
  const message = sentence(messageOf(error) || String(code))
  const word = refusalOf(error)
  if (word !== undefined) return `${message} ${refusals[word]}`
  if (typeof code !== 'string' || !certificates.test(code)) return message
  return `${message} (${code}) Name the host in the URL as its certificate does, and let Node trust who signed it: NODE_EXTRA_CA_CERTS=/path/to/ca.pem`
}

/** @param error of the last try to connect, if there is one */
export const unreachable = (error: unknown): KeepsakeError =>
  new KeepsakeError('unavailable', `Redis cannot be reached: ${worded(error)} Nothing was changed.`, {
    cause: bare(error),
  })

/** @param error of which `refusalOf` has the word */
export const refused = (error: unknown, word: string): KeepsakeError =>
  new KeepsakeError('unavailable', `${sentence(messageOf(error))} Nothing was changed. ${refusals[word]}`, {
    cause: error,
  })

/**
 * A step that comes after others of the same operation: that it changed nothing itself says nothing of those.
 *
 * @throws the driver's error in the place of a KeepsakeError `unavailable`
 */
export const later = async <T>(step: Promise<T>): Promise<T> => {
  try {
    return await step
  } catch (error) {
    throw isKeepsakeError(error) && error.code === 'unavailable' ? (error.cause ?? new Error(error.message)) : error
  }
}
