// Errors of Redis after which keepsake knows that nothing was changed, with advice for each.

import { isKeepsakeError, KeepsakeError, messageOf } from '../../error.ts'

/** Advice by the first word of an error with which the server refuses a whole command. */
const advice: Readonly<Record<string, string>> = {
  ASK: 'The slot of this key is moving to another server: try again.',
  BUSY: 'Another script has been running for too long: see SCRIPT KILL.',
  CLUSTERDOWN: 'Some slots of the cluster have no server: see CLUSTER NODES.',
  DENIED: 'The server runs in protected mode: give it a password, or bind it to another address.',
  LOADING: 'The server is still loading its data: try again a little later.',
  MASTERDOWN: 'The server is a replica that has lost its master: check that the master is up.',
  MISCONF: 'The server cannot save its data: check its log and the free space on its disk.',
  MOVED: 'The slot of this key has moved to another server: try again.',
  NOAUTH: 'The server requires a login: put the user and the password into the URL or the options of the client.',
  NOPERM:
    'The Redis user lacks a permission: docs/backends/redis.md lists the permissions that keepsake needs (ACL SETUSER).',
  NOREPLICAS: 'The server has fewer replicas than min-replicas-to-write requires: check that the replicas are running.',
  OOM: 'The memory of the server is full: raise its maxmemory, or remove other data.',
  READONLY:
    'The server is now a replica: let the client reconnect after this error (ioredis: reconnectOnError), or use Sentinels.',
  TRYAGAIN: 'The slot of this key is moving to another server: try again.',
  WRONGPASS: 'The server rejected this user or password: check the URL or the options of the client.',
}

/**
 * The user lacks a permission for a command inside a script: Redis 7.0 has no error code for it. Such a script has
 * changed nothing, because each script of keepsake changes one key once.
 */
const DENIED_IN_SCRIPT = /can't run this command or subcommand|ACL failure in script/

/** ioredis throws this only for commands that it has not sent. */
const UNSENT = /^Stream isn't writeable/
/** Clients throw these also for commands that they sent before a connection was lost. */
const UNSENT_IF_FIRST =
  /^(Cluster isn't ready|Cluster is ended|None of startup nodes|Failed to refresh slots|The client is (offline|closed)|Reached the max retries per request)/

/** @param isFirst whether no connection was lost since the client received the command */
export const isUnsent = (error: unknown, isFirst: boolean): boolean =>
  UNSENT.test(messageOf(error)) || (isFirst && UNSENT_IF_FIRST.test(messageOf(error)))

/** Returns the code with which the server's error begins. Undefined if the command may have changed something. */
export const refusalCode = (error: unknown): string | undefined => {
  const message = messageOf(error)
  const code = DENIED_IN_SCRIPT.test(message) ? 'NOPERM' : (/^[A-Z]+(?= )/.exec(message)?.[0] ?? '')
  return Object.hasOwn(advice, code) ? code : undefined
}

const CERTIFICATE_CODE = /^(ERR_TLS_CERT|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|INVALID_CA)/

/** Removes the command that ioredis attaches to its errors: a log of the error would contain a session or a password. */
export const withoutCommand = <T>(error: T): T => {
  if (typeof error !== 'object' || error === null) return error
  if ('command' in error) delete error.command
  if ('lastNodeError' in error) withoutCommand(error.lastNodeError)
  return error
}

const endWithPeriod = (text: string): string => `${text.replace(/\.$/, '')}.`

/** Describes an error of a connection, and adds advice if there is any. */
const describe = (error: unknown): string => {
  if (error === undefined) return 'it does not answer.'
  const { code, lastNodeError } = (error ?? {}) as { code?: unknown; lastNodeError?: unknown }
  if (lastNodeError !== undefined) return describe(lastNodeError)
  const message = endWithPeriod(messageOf(error) || String(code))
  const refusal = refusalCode(error)
  if (refusal !== undefined) return `${message} ${advice[refusal]}`
  if (typeof code !== 'string' || !CERTIFICATE_CODE.test(code)) return message
  return `${message} (${code}) Name the host in the URL as its certificate does, and make Node trust its authority: NODE_EXTRA_CA_CERTS=/path/to/ca.pem`
}

/** @param error of the last attempt to connect, if there was one */
export const unreachableError = (error: unknown): KeepsakeError =>
  new KeepsakeError('unavailable', `Redis cannot be reached: ${describe(error)} Nothing was changed.`, {
    cause: withoutCommand(error),
  })

/** @param code of the error, from `refusalCode` */
export const refusalError = (error: unknown, code: string): KeepsakeError =>
  new KeepsakeError('unavailable', `${endWithPeriod(messageOf(error))} Nothing was changed. ${advice[code]}`, {
    cause: error,
  })

/**
 * Awaits a step that follows other steps of the same operation. The step itself may have changed nothing, but the earlier
 * steps have, so `unavailable` (which means that nothing was changed) would be false for the operation.
 *
 * @throws the driver's error instead of a KeepsakeError `unavailable`
 */
export const asLaterStep = async <T>(step: Promise<T>): Promise<T> => {
  try {
    return await step
  } catch (error) {
    throw isKeepsakeError(error) && error.code === 'unavailable' ? (error.cause ?? new Error(error.message)) : error
  }
}
