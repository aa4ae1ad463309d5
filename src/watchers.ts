// Reports the end of a session to its open sockets: by the events of this manager, and by reads of the backend.

import type { Deadline } from './backends/deadline.ts'
import type { Emit, EventType } from './events.ts'
import type { ManagerContext } from './session/context.ts'
import { type EndReason, readEnd } from './session/stored-end.ts'

/** A session that an open socket uses. */
export type Watched = {
  readonly context: ManagerContext
  readonly storageKey: string
  readonly label: string
  readonly owner: string | undefined
  /** In milliseconds since 1970, as last read. Other requests may have moved it since. */
  expiresAt: number
  readonly end: (reason: EndReason) => void
}

type WatchSettings = {
  /** Milliseconds between two reads of all watched sessions. */
  readonly interval: number
  /** Milliseconds since 1970. */
  readonly now: () => number
  readonly emit: Emit
  readonly newDeadline: () => Deadline
}

/** Sessions that are read at a time, so that visitors' requests come in between. */
const AT_A_TIME = 16

const FAILED =
  'The sessions of open sockets could not be read. Their sockets stay open until the sessions expire, or until a later read finds an end.'

/** The events of ends. All others return at once. */
const endEvents: readonly EventType[] = ['login', 'invalidated', 'revoked', 'owner_limit']

/** The sessions of one manager that sockets use. Without sockets it has no timer and reads nothing. */
export class Watchers {
  readonly #settings: WatchSettings
  readonly #byLabel = new Map<string, Set<Watched>>()
  #poll: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #expiryAt = Number.POSITIVE_INFINITY
  #ends = 0
  #isClosed = false

  constructor(settings: WatchSettings) {
    this.#settings = settings
  }

  /** How many events of ends there were. A socket that opens compares it, because an end may come before it is added. */
  get ends(): number {
    return this.#ends
  }

  add(watched: Watched): void {
    const same = this.#byLabel.get(watched.label)
    if (same === undefined) this.#byLabel.set(watched.label, new Set([watched]))
    else same.add(watched)
    this.#schedulePoll()
    this.#scheduleExpiry(watched.expiresAt)
  }

  remove(watched: Watched): void {
    const same = this.#byLabel.get(watched.label)
    same?.delete(watched)
    if (same?.size === 0) this.#byLabel.delete(watched.label)
    if (this.#byLabel.size === 0) this.#stopTimers()
  }

  /** Ends the sockets of a session that this manager ended. */
  readonly onEvent: Emit = (type, more = {}) => {
    if (!endEvents.includes(type)) return
    this.#ends++
    const { previousLabel, owner, namespace } = more
    const label = type === 'login' ? previousLabel : more.label
    const isOf = ({ context }: Watched) => namespace === undefined || context.namespace === namespace
    if (label !== undefined) {
      for (const watched of this.#byLabel.get(label) ?? []) {
        if (isOf(watched)) this.#end(watched, type === 'login' ? 'login' : 'end')
      }
    } else if (type === 'revoked') {
      // One event for all sessions of the owner, and one of them may have been left.
      void this.check(this.#all().filter((watched) => watched.owner === owner && isOf(watched)))
    }
  }

  /** Reads some sessions, and ends the sockets of those that have ended. Never rejects. */
  async check(all: readonly Watched[]): Promise<void> {
    let failure: unknown
    // A visitor with several tabs has several sockets and one session.
    const sessions = [...Map.groupBy(all, ({ storageKey }) => storageKey).values()]
    for (let from = 0; from < sessions.length && !this.#isClosed; from += AT_A_TIME) {
      const batch = sessions.slice(from, from + AT_A_TIME)
      const errors = await Promise.all(batch.map((sockets) => this.#checkSession(sockets)))
      failure ??= errors.find((error) => error !== undefined)
      if (errors.every((error) => error !== undefined)) {
        // The backend is down. Nothing is known of the rest, except that some have expired.
        this.#endExpired(sessions.slice(from).flat())
        break
      }
      // Other work of the process runs between two batches of a synchronous store.
      await new Promise((resolve) => setImmediate(resolve))
    }
    if (failure !== undefined) this.#settings.emit('store_error', { error: failure, message: FAILED })
  }

  close(): void {
    this.#isClosed = true
    this.#stopTimers()
  }

  /** Reads the session of some sockets. @returns the error of the backend, if there is one */
  async #checkSession(sockets: readonly Watched[]): Promise<unknown> {
    const [{ context, storageKey }] = sockets as [Watched]
    const caller = { context, deadline: this.#settings.newDeadline() }
    const knownExpiry = Math.max(...sockets.map(({ expiresAt }) => expiresAt))
    try {
      const end = await readEnd(caller, storageKey, knownExpiry)
      for (const watched of sockets) {
        if (typeof end === 'number') watched.expiresAt = end
        else this.#end(watched, end)
      }
      return undefined
    } catch (error) {
      this.#endExpired(sockets)
      return error
    }
  }

  #endExpired(some: readonly Watched[]): void {
    const now = this.#settings.now()
    for (const watched of some) if (now >= watched.expiresAt) this.#end(watched, 'expired')
  }

  #end(watched: Watched, reason: EndReason): void {
    // The socket may have closed during the read.
    if (this.#byLabel.get(watched.label)?.has(watched) !== true) return
    this.remove(watched)
    watched.end(reason)
  }

  #all(): Watched[] {
    return [...this.#byLabel.values()].flatMap((same) => [...same])
  }

  #schedulePoll(): void {
    if (this.#poll !== undefined || this.#isClosed) return
    const timer = setTimeout(async () => {
      await this.check(this.#all())
      // During the reads the last socket may have closed, and another may have opened.
      if (this.#poll !== timer) return
      this.#poll = undefined
      this.#schedulePoll()
      for (const { expiresAt } of this.#all()) this.#scheduleExpiry(expiresAt)
    }, this.#settings.interval)
    timer.unref()
    this.#poll = timer
  }

  /** A later expiry than the next poll needs no timer: the poll reads the expiry again. */
  #scheduleExpiry(expiresAt: number): void {
    const { now, interval } = this.#settings
    const left = expiresAt - now()
    if (left > interval || expiresAt >= this.#expiryAt || this.#isClosed) return
    clearTimeout(this.#expiry)
    this.#expiryAt = expiresAt
    this.#expiry = setTimeout(
      async () => {
        this.#expiryAt = Number.POSITIVE_INFINITY
        await this.check(this.#all().filter((watched) => now() >= watched.expiresAt))
        for (const watched of this.#all()) this.#scheduleExpiry(watched.expiresAt)
      },
      Math.max(left, 1),
    )
    this.#expiry.unref()
  }

  #stopTimers(): void {
    clearTimeout(this.#poll)
    clearTimeout(this.#expiry)
    this.#poll = undefined
    this.#expiry = undefined
    this.#expiryAt = Number.POSITIVE_INFINITY
  }
}
