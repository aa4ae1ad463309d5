// Reads a log of visits to a store that failed over, and says where it broke what had been acknowledged.

export type Op = 'login' | 'again' | 'logout' | 'revoke' | 'count' | 'set' | 'renew' | 'read'

/** One visit, or one revocation of all of an account's sessions. Sessions are told apart by their labels. */
export type Done = {
  readonly op: Op
  readonly account: string
  /** The session whose cookie it came with, and the one whose cookie the answer gave. */
  readonly presented?: string | undefined
  readonly given?: string | undefined
  /** What its handler found, where it could open a session at all: `account` undefined is a stranger's. */
  readonly saw?: { readonly account: string | undefined; readonly n: number } | undefined
  readonly status: number
  /** Milliseconds of one clock. */
  readonly start: number
  readonly end: number
}

export type Verdict = {
  readonly violations: readonly string[]
  /** Acknowledged increments that a failover undid. They are not waited for: Redis replicates behind its answers. */
  readonly lost: number
  readonly byStatus: Readonly<Record<number, number>>
  readonly longest: number
}

/** Answered 409, it did nothing; 503, it may be either way, for ever: a failover may undo what was seen of it. */
const acknowledged = ({ status }: Done): boolean => status === 200
const mayHaveDone = ({ status }: Done): boolean => status !== 409

const described = ({ op, account, presented, given, saw, status, start, end }: Done): string =>
  `${op} of ${account} at ${Math.round(start)} to ${Math.round(end)} with ${presented ?? 'none'}: ${status}, gave ${given ?? 'none'}, saw ${saw === undefined ? 'nothing' : `${saw.account ?? 'a stranger'} with ${saw.n}`}`

/** A session from the moment that a login had been answered. */
type Life = {
  readonly label: string
  readonly birth: Done
  /** What may have ended it: visits that came with it, and revocations of its account that were not over before it was born. */
  readonly ends: readonly Done[]
  /** The same, without a doubt. */
  readonly ended: number
  readonly parent: string | undefined
}

/**
 * What was acknowledged and is not so, in words.
 *
 * - An acknowledged login is there until something may have ended it.
 * - What an acknowledged logout, login or revocation ended never opens again.
 * - A login takes along what it found, and that cannot be lost any more: it is as much acknowledged as the login itself.
 * - A counter is never above the increments that were acknowledged or may have been done.
 * - Nothing is answered but 200, 409 and 503, and nobody waits for longer than `most` (of a visit, with how late it was).
 */
export const judged = (history: readonly Done[], most: (done: Done) => number = () => Infinity): Verdict => {
  const violations: string[] = []
  const wrong = (rule: string, done: Done) => violations.push(`${rule}: ${described(done)}`)
  const byLabel = Map.groupBy(history, ({ presented }) => presented)
  const revocations = Map.groupBy(
    history.filter(({ op }) => op === 'revoke'),
    ({ account }) => account,
  )

  const lives = new Map<string, Life>()
  for (const birth of history) {
    const { op, given: label, account, presented, saw } = birth
    if ((op !== 'login' && op !== 'again') || label === undefined || !acknowledged(birth)) continue
    const leaving = (byLabel.get(label) ?? []).filter(({ op }) => ['again', 'login', 'logout'].includes(op))
    const revoked = (revocations.get(account) ?? []).filter(({ end }) => end > birth.start)
    const surely = [...leaving, ...revoked.filter(({ start }) => start > birth.end)].filter(acknowledged)
    lives.set(label, {
      label,
      birth,
      ends: [...leaving, ...revoked],
      ended: Math.min(...surely.map(({ end }) => end)),
      parent: saw?.account === account ? presented : undefined,
    })
  }

  const increments = (life: Life | undefined): readonly Done[] =>
    life === undefined
      ? []
      : [
          ...(byLabel.get(life.label) ?? []).filter(({ op }) => op === 'count'),
          ...(life.parent === undefined ? [] : increments(lives.get(life.parent))),
        ]

  let lost = 0
  for (const life of lives.values()) {
    const { label, birth, ends, ended } = life
    const counts = increments(life)
    const own = (byLabel.get(label) ?? []).filter(({ op }) => op === 'count').filter(acknowledged)
    const carried = birth.op === 'again' ? (birth.saw?.n ?? 0) : 0
    let missing = 0
    // A label that is presented before its login was answered was read from the answer of another visit: there is none.
    for (const done of (byLabel.get(label) ?? []).sort((a, b) => a.start - b.start)) {
      const { saw, start, end, status, account } = done
      const opened = saw?.account === account
      const gone = (saw !== undefined && !opened) || status === 409
      if (gone && !ends.some((one) => one !== done && one.start < end)) wrong('an acknowledged login was lost', done)
      if (opened && start > ended) wrong('what had ended came back', done)
      if (!opened || saw === undefined) continue
      if (saw.n < carried) wrong('a login lost what it took along', done)
      const most = counts.filter((one) => mayHaveDone(one) && one !== done && one.start < end).length
      if (saw.n > most) wrong(`a counter is above the ${most} increments that can have been`, done)
      missing = Math.max(0, carried + own.filter((one) => one.end < start).length - saw.n)
    }
    lost += missing
  }

  for (const done of history) {
    if (![200, 409, 503].includes(done.status)) wrong('an answer that nobody expects', done)
    if (done.end - done.start > most(done)) wrong(`longer than ${Math.round(most(done))} ms`, done)
  }
  const statuses = Object.entries(Object.groupBy(history, ({ status }) => status))
  return {
    violations,
    lost,
    byStatus: Object.fromEntries(statuses.map(([status, all]) => [status, all?.length ?? 0])),
    longest: Math.max(0, ...history.map(({ start, end }) => end - start)),
  }
}
