// The tenants of a manager: a namespace and a session cookie, the same for all requests or chosen for each request.

import { inspect } from 'node:util'
import { ownerNames, storageKeys } from '../crypto/keys.ts'
import { checkSynchronous, KeepsakeError } from '../error.ts'
import type { TransportOptions } from '../http/cookie-names.ts'
import type { IncomingRequest } from '../http/request-head.ts'
import { type SessionCookie, sessionCookie } from '../http/session-cookie.ts'
import type { ManagerContext, SharedContext } from './context.ts'

/** The namespace and the session cookie of a request. */
export type RequestTenant = { readonly namespace: string; readonly cookie: SessionCookie }

/** @throws KeepsakeError `invalid_option` */
const checkNamespace = (namespace: unknown): string => {
  // Two different halves of a surrogate pair have the same UTF-8, so two namespaces would be one.
  if (typeof namespace === 'string' && namespace.length <= 1000 && namespace.isWellFormed()) return namespace
  const value = typeof namespace === 'string' ? `a string of ${namespace.length} characters` : inspect(namespace)
  throw new KeepsakeError(
    'invalid_option',
    `The namespace is ${value}. The option namespace must be a string of at most 1000 characters of well-formed Unicode, or a function that returns one.`,
  )
}

/**
 * The tenant of all requests, or a function that finds the tenant of a request.
 *
 * @throws KeepsakeError `invalid_option`, also from the function, if the application's function returns a wrong value
 */
export const tenantBy = ({
  namespace,
  ...transport
}: TransportOptions & {
  readonly namespace?: string | ((request: IncomingRequest) => string) | undefined
}): RequestTenant | ((request: IncomingRequest) => RequestTenant) => {
  const cookie = sessionCookie(transport)
  const cookieOf = typeof cookie === 'function' ? cookie : () => cookie
  if (typeof namespace === 'function') {
    return (request) => ({
      namespace: checkNamespace(checkSynchronous('namespace', namespace(request))),
      cookie: cookieOf(request),
    })
  }
  if (typeof cookie !== 'function') return { namespace: checkNamespace(namespace ?? cookie.name), cookie }
  if (namespace === undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'The option cookie is a function, so the option namespace is required: a function for separate tenants, or a string if all cookies are for the same sessions.',
    )
  }
  const constant = checkNamespace(namespace)
  return (request) => ({ namespace: constant, cookie: cookieOf(request) })
}

/** Whether a backend can keep the sessions of several namespaces apart. */
export const separatesNamespaces = ({ stateless, forNamespace }: SharedContext['backend']): boolean =>
  stateless !== true || forNamespace !== undefined

/**
 * The context of a namespace.
 *
 * @param byRequest whether the option `namespace` is a function: then the backend is that of the namespace, and each event
 *   has the namespace
 */
const inNamespace = (shared: SharedContext, namespace: string, byRequest: boolean): ManagerContext => ({
  ...shared,
  namespace,
  storageKey: storageKeys(namespace),
  ownerNames: ownerNames(namespace),
  ...(byRequest && {
    backend: shared.backend.forNamespace?.(namespace) ?? shared.backend,
    emit: (type, more) => shared.emit(type, { ...more, namespace }),
  }),
})

/** The most contexts that are kept. Each has a few closures, so another one costs little. */
const MAX_CONTEXTS = 1_000

/** Returns a function that finds the context of a namespace: the same object again, as long as it is kept. */
export const contextFinder = (byRequest: boolean): ((shared: SharedContext, namespace: string) => ManagerContext) => {
  const contexts = new Map<string, ManagerContext>()
  let source: SharedContext | undefined
  let latest: ManagerContext | undefined
  return (shared, namespace) => {
    if (shared !== source) {
      source = shared
      latest = undefined
      contexts.clear()
    }
    // A manager with one namespace never needs the map.
    if (latest !== undefined && latest.namespace === namespace) return latest
    latest = contexts.get(namespace)
    if (latest === undefined) {
      latest = inNamespace(shared, namespace, byRequest)
      if (contexts.size >= MAX_CONTEXTS) contexts.clear()
      contexts.set(namespace, latest)
    }
    return latest
  }
}

/** @throws KeepsakeError `invalid_option` */
export const needsTenant = (method: string): never => {
  throw new KeepsakeError(
    'invalid_option',
    `The option namespace is a function, so ${method}() needs a tenant. Call manager.tenant(request).${method}(), or manager.tenant(namespace).${method}().`,
  )
}

/** Whether the argument of `tenant()` is a request. */
const isRequest = (value: unknown): value is IncomingRequest =>
  typeof (value as IncomingRequest | null | undefined)?.headers?.get === 'function'

/** The namespace that the argument of `tenant()` names. @throws KeepsakeError `invalid_option` */
export const namespaceIn = (
  tenant: unknown,
  constant: string | undefined,
  namespaceOf: (request: IncomingRequest) => string,
): string => {
  if (constant !== undefined) {
    throw new KeepsakeError(
      'invalid_option',
      'tenant() was called, but the option namespace is not a function. Call list(), revoke(), revokeAll(), seal() and unseal() on the manager itself.',
    )
  }
  if (isRequest(tenant)) return namespaceOf(tenant)
  if (typeof tenant === 'string') return checkNamespace(tenant)
  throw new KeepsakeError(
    'invalid_option',
    `tenant() was given a value of type ${typeof tenant}. Pass a request, or a namespace as a string.`,
  )
}
