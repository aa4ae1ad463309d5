// The options of a session manager: their types, defaults and limits, checked before anything is opened.

import { inspect } from 'node:util'
import type { Backend } from './backends/contract.ts'
import { checkUrl } from './backends/from-url.ts'
import { ownerNames, splitOwner, versions } from './crypto/keys.ts'
import { keyRing } from './crypto/seal.ts'
import { checkOptionNames, KeepsakeError } from './error.ts'
import { type Emit, emitter, type SessionEvent, type SessionEventListener } from './events.ts'
import { type TransportOptions, transportOptionNames } from './http/cookie-names.ts'
import type { ErrorResponse } from './http/error-response.ts'
import type { IncomingRequest } from './http/request-head.ts'
import { isSchema, type StandardSchema } from './schema.ts'
import { fieldCodec } from './session/codec.ts'
import type { SharedContext } from './session/context.ts'
import { type RequestTenant, tenantBy } from './session/tenant.ts'

export type SessionManagerOptions = TransportOptions & {
  /** Where sessions are kept: a backend, or a URL such as `sqlite:sessions.db`, as a string or a URL object. */
  readonly backend: Backend | string | URL
  /**
   * 32 random bytes or more, or a list of such secrets, newest first: the first one seals, all of them open. Required
   * unless the backend keeps a secret of its own (`memory:`, `sqlite:`, `file:`). A missing secret throws at `ready()`
   * and at the first use, not here, so that a build can load the application without one.
   */
  readonly secret?: string | Uint8Array | readonly (string | Uint8Array)[] | undefined
  /**
   * Seconds without a request after which a session ends. Default 14 days. A request in the second half starts the time
   * again.
   */
  readonly idleTimeout?: number | undefined
  /** Seconds after which a session ends although it is used. Default 30 days. A login starts the time again. */
  readonly absoluteTimeout?: number | undefined
  /**
   * Default true: the session cookie has a Max-Age, so it outlives the browser's window. false: the browser deletes the
   * cookie when it closes. A login can choose for its own session.
   */
  readonly persistent?: boolean | undefined
  /**
   * Separates applications that share a store or a secret. Default: the name of the cookie. A function returns the namespace
   * of a request, so that one manager has a tenant for each namespace, and nothing of one tenant opens anything of another.
   * The function runs once for each request that uses its session or a sealed value, before anything is read. It may not
   * return a promise. If its result is not valid, the request gets KeepsakeError `invalid_option`.
   */
  readonly namespace?: string | ((request: IncomingRequest) => string) | undefined
  /** The most bytes that the fields of one session may have as JSON. Default 65536 (64 KiB). */
  readonly maxBytes?: number | undefined
  /** Seconds that one request may wait for the backend, over all its calls. Default 2. */
  readonly storeTimeout?: number | undefined
  /**
   * The type of the fields, as a Standard Schema (zod, valibot, arktype). Fields are checked when they are read and
   * before they are saved. The schema must accept its own output, and the output must be JSON. A session without fields
   * is always valid.
   */
  readonly schema?: StandardSchema | undefined
  /**
   * Converts fields that an older deployment saved and that the schema refuses. If the schema refuses the result too,
   * the stored session is left unchanged, the visitor is anonymous, and the event is `schema_mismatch`.
   */
  readonly migrate?: ((old: unknown) => unknown) | undefined
  /**
   * The most sessions that an owner may have. A login above that ends the owner's oldest session. Default: no limit.
   */
  readonly maxSessionsPerOwner?: number | undefined
  /**
   * Seconds between updates of `lastSeenAt`. A request that finds it older writes the current time. Default: no such
   * writes, so `lastSeenAt` is exact to half an idle timeout.
   */
  readonly lastSeenInterval?: number | undefined
  /**
   * Seconds between two reads of the sessions of open sockets, which find the ends that other processes caused: from 0.1 to
   * 3600. Only for sockets that `watch` watches. Default 15.
   */
  readonly watchInterval?: number | undefined
  /**
   * The behaviour if the session of a request cannot be read. `fail`, the default: every use of the session throws, and
   * the answer is 503. `anonymous`: the request continues without a session; changing the session throws the original
   * error, and no cookie is sent. `invalidate` works with both: the answer clears the browser's cookie, and is 503
   * unless the session could be ended.
   */
  readonly onStoreError?: 'fail' | 'anonymous' | undefined
  /**
   * Default true: removes expired entries in small batches after new sessions. false: call `sweep()`, for example from
   * cron.
   */
  readonly autoSweep?: boolean | undefined
  /** The most calls to the backend in progress at once. Further calls fail immediately. Default 2000. */
  readonly maxInFlight?: number | undefined
  /**
   * Renders the errors that keepsake answers with, for example in the application's own layout. Default: one sentence
   * as plain text. If it throws or returns no Response, the default is sent and the event is `error_response_failed`.
   */
  readonly errorResponse?: ErrorResponse | undefined
  /** The current time in milliseconds since 1970. Default `Date.now`. */
  readonly now?: (() => number) | undefined
  /** Called for each event. The `node:diagnostics_channel` named `keepsake` gets the same events. */
  readonly onEvent?: SessionEventListener | undefined
}

const optionNames = [
  'backend',
  'secret',
  'idleTimeout',
  'absoluteTimeout',
  'persistent',
  'namespace',
  'maxBytes',
  'storeTimeout',
  'schema',
  'migrate',
  'maxSessionsPerOwner',
  'lastSeenInterval',
  'watchInterval',
  'onStoreError',
  'autoSweep',
  'maxInFlight',
  'errorResponse',
  'now',
  'onEvent',
  ...transportOptionNames,
] as const satisfies readonly (keyof SessionManagerOptions)[]

/** The value of a numeric option, or its default. @throws KeepsakeError `invalid_option` */
const numberOption = (
  options: SessionManagerOptions,
  name:
    | 'idleTimeout'
    | 'absoluteTimeout'
    | 'maxBytes'
    | 'storeTimeout'
    | 'maxSessionsPerOwner'
    | 'lastSeenInterval'
    | 'watchInterval'
    | 'maxInFlight',
  fallback: number,
  least: number,
  most: number,
): number => {
  const value = options[name] ?? fallback
  if (typeof value === 'number' && value >= least && value <= most) return value
  throw new KeepsakeError(
    'invalid_option',
    `The option ${name} is ${inspect(value)}. It must be a number from ${least} to ${most}.`,
  )
}

/** @throws KeepsakeError `invalid_option` if an option that is given has another type */
const checkTypes = (
  options: SessionManagerOptions,
  type: 'boolean' | 'function',
  names: readonly (keyof SessionManagerOptions)[],
): void => {
  for (const name of names) {
    if (options[name] === undefined || typeof options[name] === type) continue
    const what = type === 'boolean' ? 'true or false' : 'a function'
    throw new KeepsakeError('invalid_option', `The option ${name} is ${inspect(options[name])}. It must be ${what}.`)
  }
}

const checkSchema = ({ schema, migrate }: SessionManagerOptions): void => {
  if (schema !== undefined && !isSchema(schema)) {
    throw new KeepsakeError(
      'invalid_option',
      'The option schema must be a Standard Schema, for example one of zod, valibot or arktype.',
    )
  }
  if (migrate !== undefined && schema === undefined) {
    throw new KeepsakeError('invalid_option', 'The option migrate requires the option schema.')
  }
}

/** From this realm or from another. */
const isUrl = (backend: Backend | string | URL): backend is URL =>
  typeof (backend as URL | undefined)?.href === 'string'

/** The options after their check, with defaults. Times are in milliseconds. */
export type Configuration = {
  /** The parts of the shared context that exist before the backend is open. */
  readonly settings: Omit<SharedContext, 'backend' | 'keyRing' | 'sweeper'>
  /** The tenant of all requests, or a function that finds the tenant of a request. */
  readonly tenant: RequestTenant | ((request: IncomingRequest) => RequestTenant)
  /** The namespace of all requests. Undefined if the option is a function. */
  readonly namespace: string | undefined
  /** The owner of an entry as events have it. */
  readonly describeOwner: (owner: string) => Pick<SessionEvent, 'owner' | 'namespace'> | undefined
  readonly backend: Backend | string
  readonly secrets: readonly (string | Uint8Array)[]
  readonly storeTimeout: number
  readonly watchInterval: number
  readonly maxInFlight: number
}

const DAY = 86_400

/** The owner of an entry as events have it, with the namespace if that is not the same for all. */
const ownerDescription = (namespace: string | undefined): Configuration['describeOwner'] => {
  if (namespace !== undefined) {
    // A sweep also removes the sessions of other applications in the store, whose owners may have the same names.
    const { decode, owns } = ownerNames(namespace)
    return (owner) => (owns(owner) ? { owner: decode(owner) } : undefined)
  }
  return (encoded) => {
    const { name, ...of } = splitOwner(encoded) ?? { name: encoded }
    return { owner: name, ...of }
  }
}

/** @param observe called for each event, before the listeners. @throws KeepsakeError `invalid_option`, `unknown_backend` */
export const checkOptions = (options: SessionManagerOptions, observe: Emit): Configuration => {
  checkOptionNames(options, optionNames, 'sessionManager()')
  const idleTimeout = numberOption(options, 'idleTimeout', 14 * DAY, 0.001, 400 * DAY)
  const usual = Math.max(30 * DAY, idleTimeout)
  const absoluteTimeout = numberOption(options, 'absoluteTimeout', usual, 0.001, 400 * DAY)
  if (idleTimeout > absoluteTimeout) {
    throw new KeepsakeError(
      'invalid_option',
      `The option idleTimeout is ${idleTimeout}. It must be at most absoluteTimeout, which is ${absoluteTimeout}.`,
    )
  }
  const { maxSessionsPerOwner, lastSeenInterval, onStoreError = 'fail', schema, migrate } = options
  const { cookie, secure, trustProxy } = options
  const tenant = tenantBy({ namespace: options.namespace, cookie, secure, trustProxy })
  const constant = typeof tenant === 'function' ? options.namespace : tenant.namespace
  const namespace = typeof constant === 'function' ? undefined : constant
  if (onStoreError !== 'fail' && onStoreError !== 'anonymous') {
    throw new KeepsakeError(
      'invalid_option',
      `The option onStoreError is ${inspect(onStoreError)}. It must be 'fail' or 'anonymous'.`,
    )
  }
  checkSchema(options)
  checkTypes(options, 'boolean', ['autoSweep', 'persistent'])
  checkTypes(options, 'function', ['now', 'onEvent', 'migrate', 'errorResponse'])
  const secrets = [options.secret ?? []].flat()
  if (options.secret !== undefined) keyRing(secrets)
  const backend = isUrl(options.backend) ? options.backend.href : options.backend
  if (typeof backend === 'string') checkUrl(backend)
  return {
    settings: {
      maxSessionsPerOwner:
        maxSessionsPerOwner === undefined ? undefined : numberOption(options, 'maxSessionsPerOwner', 1, 1, 10_000),
      lastSeenInterval:
        lastSeenInterval === undefined ? undefined : numberOption(options, 'lastSeenInterval', 1, 1, 400 * DAY) * 1000,
      anonymousOnError: onStoreError === 'anonymous',
      // Looked up at each use, so that a test can replace Date.
      now: () => Math.floor(options.now?.() ?? Date.now()),
      version: versions(),
      idleTimeout: Math.ceil(idleTimeout * 1000),
      absoluteTimeout: Math.ceil(absoluteTimeout * 1000),
      persistent: options.persistent ?? true,
      maxBytes: numberOption(options, 'maxBytes', 65_536, 2, 2 ** 30),
      codec: schema && fieldCodec(schema, migrate),
      emit: emitter(options.onEvent, observe),
      commitQueues: new Map(),
      autoSweep: options.autoSweep !== false,
    },
    tenant,
    namespace,
    describeOwner: ownerDescription(namespace),
    backend,
    secrets,
    storeTimeout: numberOption(options, 'storeTimeout', 2, 0.001, 3600) * 1000,
    watchInterval: numberOption(options, 'watchInterval', 15, 0.1, 3600) * 1000,
    maxInFlight: numberOption(options, 'maxInFlight', 2_000, 1, 1_000_000),
  }
}
