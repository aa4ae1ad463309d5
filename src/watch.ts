// The session of a socket: it is read once, cannot be changed, and reports its end.

import { checkOptionNames, KeepsakeError } from './error.ts'
import { adviceOnCross, checkOrigins, pageOrigin } from './http/allowed-origins.ts'
import { visitorUrl } from './http/forwarded.ts'
import type { Source } from './http/origin.ts'
import type { RequestHead } from './http/request-head.ts'
import { findTenant, type Manager } from './request-context.ts'
import { type AnyFields, createHandle, type Session } from './session/session.ts'
import { type EndReason, storedExpiry } from './session/stored-end.ts'
import type { UnitOfWork } from './session/work.ts'
import type { Watched, Watchers } from './watchers.ts'

export type WatchOptions = {
  /**
   * Origins whose pages may open the socket, in the format of browsers, such as `https://app.example`. List this application's
   * own origins too. Default: the origin of the request's URL.
   */
  readonly origins?: readonly string[] | undefined
}

/** A session that can be read and not changed, as it was when the socket opened. */
export type ReadOnlySession<F extends object = AnyFields> = Pick<
  Session<F>,
  'label' | 'owner' | 'authenticatedAt' | 'expiresAt' | 'withheld' | 'fields' | 'get'
>

/** The session of an open socket. */
export type WatchedSession<F extends object = AnyFields> = {
  readonly ok: true
  readonly session: ReadOnlySession<F>
  /** Resolves when the session ends. It stays pending after `stop`, and for a visitor without a session. */
  readonly ended: Promise<EndReason>
  /** Aborted when the session ends, for streams and loops. Its reason is KeepsakeError `ended`. */
  readonly signal: AbortSignal
  /** Stops watching. Call it when the connection closes. */
  stop(): void
}

/** The session of a socket, or the reason why the socket must be refused with 403. */
export type WatchResult<F extends object = AnyFields> =
  | WatchedSession<F>
  | { readonly ok: false; readonly error: 'cross_origin' }

const READ_ONLY =
  'The session of a socket was changed, but it can only be read. Open a session for the change with manager.open(request), and call its commit().'

const WITHOUT_ORIGIN =
  'A socket without Origin and Sec-Fetch-Site was refused. Every browser sends Origin with a WebSocket. If a program of yours opened it, send an allowed origin in the header Origin.'

const endings: Readonly<Record<EndReason, string>> = {
  login: 'a login replaced it',
  expired: 'it expired',
  end: 'a logout or a revocation ended it',
}

/** Whether a request only reads: browsers send no Origin with some of these. A socket without a method counts as an upgrade. */
const isPlainRead = ({ method, headers }: RequestHead): boolean =>
  (method === 'GET' || method === 'HEAD') && !headers.has('upgrade')

/** Source: OWASP WebSocket Security, “Cross-Site WebSocket Hijacking”. */
const isAllowed = (request: RequestHead, from: Source): boolean =>
  from === 'same' || (from === 'unknown' && isPlainRead(request))

/** Forbids every change of a session. */
const makeReadOnly = (work: UnitOfWork): void => {
  const error = new KeepsakeError('read_only', READ_ONLY)
  work.readOnly = { error, reads: true, logsIn: false, logsOut: false }
  work.extend = false
}

const endError = (reason: EndReason): KeepsakeError =>
  new KeepsakeError('ended', `The session of this socket has ended, because ${endings[reason]}. Close the socket.`)

/** The end of one session, for several listeners. */
class SessionEnd {
  readonly ended: Promise<EndReason>
  readonly #resolve: (reason: EndReason) => void
  #reason: EndReason | undefined
  #signal: AbortSignal | undefined

  constructor() {
    const { promise, resolve } = Promise.withResolvers<EndReason>()
    this.ended = promise
    this.#resolve = resolve
  }

  end(reason: EndReason): void {
    this.#reason = reason
    this.#resolve(reason)
  }

  /** Made when it is first used, because most sockets use the promise. */
  get signal(): AbortSignal {
    this.#signal ??= this.#reason === undefined ? this.#abortLater() : AbortSignal.abort(endError(this.#reason))
    return this.#signal
  }

  #abortLater(): AbortSignal {
    const controller = new AbortController()
    // Not during the end, because the request that ended the session must not wait for the listeners of a socket.
    void this.ended.then((reason) => controller.abort(endError(reason)))
    return controller.signal
  }
}

/**
 * Opens the session of a socket, and watches it until it ends.
 *
 * @throws KeepsakeError `invalid_option`, `unavailable`
 */
export const watchSession = async (
  manager: Manager,
  watchers: Watchers,
  request: RequestHead,
  options: WatchOptions,
): Promise<WatchResult> => {
  checkOptionNames(options, ['origins'], 'watch()')
  const origins = checkOrigins(options.origins)
  const { headers } = request
  const from = pageOrigin({ headers, url: visitorUrl(request, manager.transport.trustProxy === true) }, origins)
  if (!isAllowed(request, from)) {
    const message = from === 'unknown' ? WITHOUT_ORIGIN : adviceOnCross(headers.get('origin'))
    manager.emit('cross_origin_rejected', { message })
    return { ok: false, error: 'cross_origin' }
  }
  const endsBefore = watchers.ends
  const work = await manager.open(request, findTenant(manager, request))
  if (work.readOnly !== undefined && !work.readOnly.reads) throw work.readOnly.error
  makeReadOnly(work)
  const { context, snapshot, owner } = work
  const sessionEnd = new SessionEnd()
  const end = (reason: EndReason) => sessionEnd.end(reason)
  let stop = () => {}
  if (snapshot !== undefined) {
    const { storageKey, label } = snapshot
    const watched: Watched = { context, storageKey, label, owner, expiresAt: storedExpiry(work, snapshot), end }
    watchers.add(watched)
    stop = () => watchers.remove(watched)
    // An end between the read and now was reported to nobody.
    if (watchers.ends !== endsBefore) await watchers.check([watched])
  }
  return {
    ok: true,
    session: createHandle(work),
    ended: sessionEnd.ended,
    get signal() {
      return sessionEnd.signal
    },
    stop,
  }
}
