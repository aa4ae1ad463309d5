// Checks a log of requests to a store that failed over: finds every acknowledged change that was undone.

export type Op = 'login' | 'relogin' | 'logout' | 'revoke' | 'count' | 'set' | 'rotate' | 'read'

/** One request, or one revocation of all sessions of an account. Sessions are identified by their labels. */
export type LoggedRequest = {
  readonly op: Op
  readonly account: string
  /** The label of the session whose cookie the request sent, and of the session whose cookie the response set. */
  readonly sentLabel?: string | undefined
  readonly given?: string | undefined
  /** The handler's view, if it could open a session at all. Without an account, the visitor was anonymous. */
  readonly saw?: { readonly account: string | undefined; readonly n: number } | undefined
  readonly status: number
  /** Milliseconds of one clock. */
  readonly start: number
  readonly end: number
}

export type Verdict = {
  readonly violations: readonly string[]
  /** Acknowledged increments that a failover undid. That is allowed, because Redis replicates them after its answer. */
  readonly lost: number
  readonly byStatus: Readonly<Record<number, number>>
  readonly longest: number
}

/**
 * 409 means that the request did nothing. The outcome of 503 is unknown for ever: a failover may undo a visible change.
 */
const isAcknowledged = ({ status }: LoggedRequest): boolean => status === 200
const mayBeDone = ({ status }: LoggedRequest): boolean => status !== 409

const describe = ({ op, account, sentLabel, given, saw, status, start, end }: LoggedRequest): string =>
  `${op} of ${account} at ${Math.round(start)} to ${Math.round(end)} with ${sentLabel ?? 'no session'}: status ${status}, set ${given ?? 'no cookie'}, saw ${saw === undefined ? 'nothing' : `${saw.account ?? 'an anonymous visitor'} with ${saw.n}`}`

/** A session whose login was acknowledged. */
type LoggedSession = {
  readonly label: string
  readonly login: LoggedRequest
  /**
   * All requests that may have ended it: those with its cookie, and revocations that were not complete before its login.
   */
  readonly ends: readonly LoggedRequest[]
  /** The time at which it had certainly ended. Infinity if no end was acknowledged. */
  readonly ended: number
  /** The label of the session that the login replaced. */
  readonly parent: string | undefined
}

const ENDING: readonly Op[] = ['relogin', 'login', 'logout']

/** Finds the sessions of the log by label. */
const sessionsOf = (
  history: readonly LoggedRequest[],
  byLabel: ReadonlyMap<string | undefined, readonly LoggedRequest[]>,
): ReadonlyMap<string, LoggedSession> => {
  const revocations = Map.groupBy(
    history.filter(({ op }) => op === 'revoke'),
    ({ account }) => account,
  )
  const sessions = new Map<string, LoggedSession>()
  for (const login of history) {
    const { op, given: label, account, sentLabel, saw } = login
    if ((op !== 'login' && op !== 'relogin') || label === undefined || !isAcknowledged(login)) continue
    const leaving = (byLabel.get(label) ?? []).filter(({ op }) => ENDING.includes(op))
    const revoked = (revocations.get(account) ?? []).filter(({ end }) => end > login.start)
    const certain = [...leaving, ...revoked.filter(({ start }) => start > login.end)].filter(isAcknowledged)
    sessions.set(label, {
      label,
      login,
      ends: [...leaving, ...revoked],
      ended: Math.min(...certain.map(({ end }) => end)),
      parent: saw?.account === account ? sentLabel : undefined,
    })
  }
  return sessions
}

/**
 * Finds all violations of these rules, and describes each in a sentence:
 *
 * - An acknowledged login exists until a request may have ended it.
 * - A session that an acknowledged logout, login or revocation has ended never opens again.
 * - A login keeps the fields of the previous session, and they cannot be lost any more: they are acknowledged with it.
 * - A counter is never above the number of increments that are acknowledged or may have been done.
 * - Every status is 200, 409 or 503, and no request takes longer than `limitOf` returns for it, in milliseconds.
 */
export const judge = (
  history: readonly LoggedRequest[],
  limitOf: (request: LoggedRequest) => number = () => Infinity,
): Verdict => {
  const violations: string[] = []
  const report = (rule: string, request: LoggedRequest) => violations.push(`${rule}: ${describe(request)}`)
  const byLabel = Map.groupBy(history, ({ sentLabel }) => sentLabel)
  const sessions = sessionsOf(history, byLabel)

  const incrementsOf = (session: LoggedSession | undefined): readonly LoggedRequest[] =>
    session === undefined
      ? []
      : [
          ...(byLabel.get(session.label) ?? []).filter(({ op }) => op === 'count'),
          ...(session.parent === undefined ? [] : incrementsOf(sessions.get(session.parent))),
        ]

  let lost = 0
  for (const session of sessions.values()) {
    const { label, login, ends, ended } = session
    const increments = incrementsOf(session)
    const own = (byLabel.get(label) ?? []).filter(({ op }) => op === 'count').filter(isAcknowledged)
    const carried = login.op === 'relogin' ? (login.saw?.n ?? 0) : 0
    let missing = 0
    // No request can present a label before the login that set it was answered.
    for (const request of (byLabel.get(label) ?? []).sort((a, b) => a.start - b.start)) {
      const { saw, start, end, status, account } = request
      const isOpen = saw?.account === account
      const isGone = (saw !== undefined && !isOpen) || status === 409
      if (isGone && !ends.some((other) => other !== request && other.start < end)) {
        report('an acknowledged login was lost', request)
      }
      if (isOpen && start > ended) report('an ended session came back', request)
      if (!isOpen || saw === undefined) continue
      if (saw.n < carried) report('a login lost the fields that it took along', request)
      const possible = increments.filter((other) => mayBeDone(other) && other !== request && other.start < end).length
      if (saw.n > possible) report(`a counter is above the ${possible} possible increments`, request)
      missing = Math.max(0, carried + own.filter((other) => other.end < start).length - saw.n)
    }
    lost += missing
  }

  for (const request of history) {
    if (![200, 409, 503].includes(request.status)) report('an unexpected status', request)
    const limit = limitOf(request)
    if (request.end - request.start > limit) report(`longer than ${Math.round(limit)} ms`, request)
  }
  const statuses = Object.entries(Object.groupBy(history, ({ status }) => status))
  return {
    violations,
    lost,
    byStatus: Object.fromEntries(statuses.map(([status, all]) => [status, all?.length ?? 0])),
    longest: Math.max(0, ...history.map(({ start, end }) => end - start)),
  }
}
