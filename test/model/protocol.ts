// A model of the order of writes of a request: a state machine of plain values, so that a test can run every interleaving.

import { hash } from 'node:crypto'

/** The timeouts of a session in ticks. Every request starts the idle timeout again, and only a login the absolute timeout. */
type Timeouts = { readonly idle: number; readonly absolute: number }

/** The acts of one request, in the order in which keepsake performs them. */
export type Script = {
  /** A field that only this request sets. */
  readonly set?: string
  /** Adds one to the field `n`. */
  readonly add?: true
  readonly rotate?: true
  /** 'reauthenticate': a login of the owner that the session already has. */
  readonly transition?: 'login' | 'reauthenticate' | 'invalidate'
  /** The login gives these timeouts to its session. If no request has them, no session of the world has an end. */
  readonly timeouts?: Timeouts
  /** A field that is set after the login or the invalidate. */
  readonly after?: string
  /** The clock of the server is hours wrong. */
  readonly clock?: 'ahead' | 'behind'
  /** The index of a request. This one is sent after the reply of that one arrived or was lost. */
  readonly follows?: number
}

/** A rule of the protocol that a test removes, to see a promise broken. */
export type Mutation =
  | 'upsert' // a late save creates the entry again
  | 'blind' // a save does not compare versions
  | 'no grace' // the previous key stops working at the first use of the new one
  | 'fresh offer' // every rotation by a request with the previous key makes another new key
  | 'late offer' // an offered key is sent at any age
  | 'send first' // a login sends its cookie before the previous session has ended
  | 'forget' // a login does not read the fields that it keeps again
  | 'same survives' // a login of the same owner succeeds although its session ended
  | 'no mark' // the key of a session that just ended counts as unknown
  | 'blind logout' // a logout clears the cookie although another request ended the session
  | 'sweeping clock' // a server removes entries that are expired by its own clock
  | 'ends nothing' // a logout ends only a session that its server can read
  | 'manager timeouts' // a request extends every session by the timeouts of the manager
  | 'older timeouts' // a login that reads its fields again takes the timeouts of the session that it ends

/** Ages are ticks. They stop at the last value that matters, so that the number of worlds is finite. */
type Metadata = {
  readonly current: string
  readonly previous?: string
  /** From a rotation until the first use of its key. */
  readonly salt?: string
  /** Ticks since that first use. */
  readonly confirmed?: number
}
/** The end of a session, in ticks from now. */
type Lifetime = {
  /** Until the session ends if no request extends it. */
  readonly left: number
  /** The idle timeout that is kept in the metadata. */
  readonly idle: number
  /** Until the absolute end that the metadata gives. */
  readonly absoluteLeft: number
}
type Fields = Readonly<Record<string, number>>
type Entry = {
  readonly metadata: Metadata
  readonly fields: Fields
  readonly version: string
  readonly lifetime?: Lifetime
}
type Key = { readonly label: string; readonly secret: string }
type Place =
  | 'unsent'
  | 'sent'
  | 'save'
  | 'extend'
  | 'read again'
  | 'clear'
  | 'create'
  | 'end previous'
  | 'reread'
  | 'create again'
  | 'undo'
  | 'reply'
  | 'done'
type RequestState = {
  readonly script: Script
  readonly place: Place
  readonly key?: Key
  /** The session of the request, as last read. */
  readonly entry?: Entry
  /** The label of that session, once the request is done. */
  readonly oldLabel?: string
  /** Ticks since the request was sent, and after its first read, since its last read or write. */
  readonly age?: number
  /** Another request ended its session while it was in progress, so only a login may set a cookie. */
  readonly overtaken?: true
  /** Its server cannot read the session, because of its clock or because the session has expired. */
  readonly unreadable?: true
  /** Its key opened nothing, although it was sent less than a grace ago. */
  readonly refused?: true
  /** The version of the session that it created. */
  readonly newVersion?: string
  /** Nothing was saved, because the session ended. */
  readonly ended?: true
  readonly cookie?: Key | 'clear'
}
type Reply = { readonly request: number; readonly age: number; readonly cookie: Key | 'clear' }

export type World = {
  readonly store: Readonly<Record<string, Entry>>
  readonly jar?: Key
  readonly requests: readonly RequestState[]
  readonly replies: readonly Reply[]
  /** The promises: fields that a response acknowledged, by the label of their session. */
  readonly acknowledged: Readonly<Record<string, readonly string[]>>
  /** Increments that were written, by label. Those that a login keeps count again. */
  readonly added: Readonly<Record<string, number>>
  /** By label: the index of the request that ended the session. */
  readonly ended: Readonly<Record<string, number>>
  /** By label: the timeouts that its login gave. The absolute one is counted down. Only if sessions have an end. */
  readonly given?: Readonly<Record<string, Timeouts>>
  readonly crashes: number
  /** A response set a cookie that replaces a newer one in the browser. */
  readonly undone?: true
}

/** Ticks that the previous key works after the first use of the new one. */
const GRACE = 3
/** Ticks that a reply may take. In a slower network an old offer could replace a newer key. */
const RESPONSE_TRANSIT = 1
/** An offered key is sent only if its read is younger: then it arrives before the next rotation can start. */
const OFFER_MAX_AGE = GRACE - RESPONSE_TRANSIT

/** The timeouts of the manager: of the session L, and of a login that gives none. */
const MANAGER: Timeouts = { idle: 2, absolute: 3 }

const newLifetime = ({ idle, absolute }: Timeouts): Lifetime => ({
  left: Math.min(idle, absolute),
  idle,
  absoluteLeft: absolute,
})

const hasExpired = (entry: Entry | undefined): boolean => entry?.lifetime?.left === 0

/** The end after a request with a session as it read it. It moves only if half of the idle timeout is over, and only forward. */
const extended = (stored: Lifetime, read: Lifetime, mutation?: Mutation): Lifetime => {
  const idle = mutation === 'manager timeouts' ? MANAGER.idle : read.idle
  if (read.left > idle / 2) return stored
  return { ...stored, left: Math.max(stored.left, Math.min(idle, read.absoluteLeft)) }
}

const anyTimeouts = (scripts: readonly Script[]) => scripts.some(({ timeouts }) => timeouts !== undefined)

export const world = (scripts: readonly Script[]): World => ({
  store: {
    L: {
      metadata: { current: 'k' },
      fields: { n: 0 },
      version: 'v',
      ...(anyTimeouts(scripts) && { lifetime: newLifetime(MANAGER) }),
    },
  },
  ...(anyTimeouts(scripts) && { given: { L: MANAGER } }),
  jar: { label: 'L', secret: 'k' },
  requests: scripts.map((script) => ({ script, place: 'unsent' })),
  replies: [],
  acknowledged: {},
  added: {},
  ended: {},
  crashes: 0,
})

/** The status of a key, which decides whether it opens the session. */
const keyStatus = (w: World, key: Key | undefined): 'current' | 'old' | 'grace' | 'none' => {
  const metadata = key && w.store[key.label]?.metadata
  if (!metadata) return 'none'
  if (metadata.current === key.secret) return 'current'
  if (metadata.previous !== key.secret) return 'none'
  if (metadata.confirmed === undefined) return 'old'
  return metadata.confirmed < GRACE ? 'grace' : 'none'
}

const rotatedKey = (secret: string, salt: string) => `${secret}/${salt}`

/** The metadata that a save writes, and the key that its response sets. */
const nextMetadata = (
  v: RequestState,
  i: number,
  entry: Entry,
  mutation?: Mutation,
): { metadata: Metadata; cookie?: Key } => {
  const { script } = v
  const { label, secret } = v.key as Key
  let metadata = entry.metadata
  if (metadata.confirmed === GRACE) metadata = { current: metadata.current }
  const pending = metadata.salt !== undefined && metadata.previous !== undefined
  if (pending && metadata.current === secret) {
    metadata = {
      current: metadata.current,
      ...(mutation !== 'no grace' && { previous: metadata.previous as string, confirmed: 0 }),
    }
  } else if (script.rotate && metadata.current === secret && metadata.previous === undefined) {
    metadata = { current: rotatedKey(secret, `s${i}`), previous: secret, salt: `s${i}` }
  } else if (script.rotate && mutation === 'fresh offer' && pending && metadata.previous === secret) {
    metadata = { current: rotatedKey(secret, `s${i}`), previous: secret, salt: `s${i}` }
  }
  if (metadata.previous !== secret || metadata.salt === undefined) return { metadata }
  return { metadata, cookie: { label, secret: rotatedKey(secret, metadata.salt) } }
}

const withWrites = (fields: Fields, script: Script): Fields => ({
  ...fields,
  ...(script.set && { [script.set]: 1 }),
  ...(script.add && { n: (fields.n ?? 0) + 1 }),
})

const logsIn = ({ transition }: Script) => transition === 'login' || transition === 'reauthenticate'

/** The fields of a session that this request creates. A login keeps all fields here, so that the model can check them. */
const newFields = (v: RequestState): Fields => ({
  ...(logsIn(v.script) && withWrites(v.entry?.fields ?? {}, v.script)),
  ...(v.script.transition === undefined && withWrites({}, v.script)),
  ...(v.script.after && { [v.script.after]: 1 }),
})

const createsSession = ({ script }: RequestState) =>
  logsIn(script) ||
  script.after !== undefined ||
  (script.transition === undefined && (script.set !== undefined || script.add === true))

const without = <T>(record: Readonly<Record<string, T>>, name: string): Record<string, T> => {
  const { [name]: _, ...rest } = record
  return rest
}

/** One step of the request `i`: one backend operation, or the reply. */
const step = (w: World, i: number, mutation?: Mutation): World => {
  const v = w.requests[i] as RequestState
  const { script, key } = v
  const label = key?.label ?? ''
  const newLabel = `L${i}`
  const become = (next: RequestState, rest: Partial<World> = {}): World => ({
    ...w,
    ...rest,
    requests: w.requests.map((other, j) => (j === i ? next : other)),
  })
  const go = (place: Place, more: Partial<RequestState> = {}, rest: Partial<World> = {}) =>
    become({ ...v, ...more, place }, rest)
  const cleared = () => ({
    store: without(w.store, label),
    ended: w.store[label] ? { ...w.ended, [label]: i } : w.ended,
  })
  const saved = (name: string, entry: Entry) => ({ store: { ...w.store, [name]: entry } })
  switch (v.place) {
    case 'unsent':
      return go('sent', { age: 0, ...(w.jar && { key: w.jar }) })
    case 'sent': {
      const entry = keyStatus(w, key) === 'none' ? undefined : w.store[label]
      const more: Partial<RequestState> = { age: 0, ...(entry && { entry }) }
      if (entry && (script.clock || hasExpired(entry))) {
        const destroyed = mutation === 'sweeping clock' && script.clock === 'ahead' ? cleared() : {}
        const unreadable: Partial<RequestState> = { age: 0, unreadable: true }
        if (script.transition === 'invalidate' && mutation !== 'ends nothing') return go('clear', unreadable)
        if (script.transition === 'invalidate') return go('reply', { ...unreadable, cookie: 'clear' })
        if (logsIn(script)) return go('create', unreadable)
        const refused: Partial<RequestState> = script.clock === 'behind' && createsSession(v) ? { ended: true } : {}
        return go(createsSession(v) && !refused.ended ? 'create' : 'reply', { ...unreadable, ...refused }, destroyed)
      }
      if (!entry) {
        const refused = (v.age as number) < GRACE
        const overtaken = refused && w.ended[label] !== undefined
        if (overtaken && mutation !== 'no mark' && !logsIn(script)) {
          return go('reply', { ...more, overtaken, ended: true })
        }
        return go(createsSession(v) ? 'create' : 'reply', {
          ...more,
          ...(refused && { refused }),
          ...(overtaken && { overtaken }),
          ...(script.transition === 'invalidate' && { cookie: 'clear' }),
        })
      }
      if (script.transition === 'invalidate') return go('clear', more)
      if (script.transition) return go('create', more)
      const confirms = entry.metadata.current === key?.secret && entry.metadata.salt !== undefined
      if (script.set || script.add || script.rotate || confirms) return go('save', more)
      const { cookie } = nextMetadata({ ...v, ...more }, i, entry)
      return go(entry.lifetime ? 'extend' : 'reply', { ...more, ...(cookie && { cookie }) })
    }
    case 'extend': {
      // A touch compares no versions, so it may reach a state of the session that this request did not read.
      const { lifetime: read } = v.entry as Entry
      const entry = w.store[label]
      if (!read || hasExpired(v.entry) || !entry?.lifetime) return go('reply')
      return go('reply', {}, saved(label, { ...entry, lifetime: extended(entry.lifetime, read, mutation) }))
    }
    case 'save': {
      const entry = w.store[label]
      if (!entry && mutation !== 'upsert') return go('reply', { ended: true })
      const base = v.entry as Entry
      if (hasExpired(base)) return go('reply', { ended: true })
      if (entry && entry.version !== base.version && mutation !== 'blind') return go('read again')
      const { metadata, cookie } = nextMetadata(v, i, base, mutation)
      const added = script.add ? { ...w.added, [label]: (w.added[label] ?? 0) + 1 } : w.added
      const lifetime = base.lifetime && extended((entry ?? base).lifetime as Lifetime, base.lifetime, mutation)
      const fields = withWrites(base.fields, script)
      const next = { metadata, fields, version: `v${i}`, ...(lifetime && { lifetime }) }
      return go('reply', { age: 0, ...(cookie && { cookie }) }, { ...saved(label, next), added })
    }
    case 'read again': {
      const entry = w.store[label]
      return entry && !hasExpired(entry) ? go('save', { entry, age: 0 }) : go('reply', { ended: true })
    }
    case 'clear':
      if (!w.store[label]) {
        const overtaken = true
        return go('reply', { overtaken, ...(mutation === 'blind logout' ? { cookie: 'clear' } : { ended: true }) })
      }
      return createsSession(v) ? go('create', {}, cleared()) : go('reply', { cookie: 'clear' }, cleared())
    case 'create': {
      const expired = hasExpired(v.entry)
      if (expired && script.transition === 'reauthenticate') return go('reply', { ended: true })
      const timeouts = script.timeouts ?? MANAGER
      const entry: Entry = {
        metadata: { current: `k${i}` },
        fields: newFields(v),
        version: `v${i}`,
        ...(w.given && { lifetime: newLifetime(timeouts) }),
      }
      const given = w.given && { given: { ...w.given, [newLabel]: timeouts } }
      const cookie: Key = { label: newLabel, secret: `k${i}` }
      const more: Partial<RequestState> = {
        newVersion: `v${i}`,
        cookie,
        // The session expired while the request was in progress: it is ended without a look at its version.
        ...(expired && { unreadable: true }),
      }
      const endsPrevious = (v.entry !== undefined || v.unreadable === true) && logsIn(script)
      const added = { ...w.added, [newLabel]: entry.fields.n ?? 0 }
      const next = go(endsPrevious ? 'end previous' : 'reply', more, {
        ...saved(newLabel, entry),
        ...given,
        ...(!endsPrevious && { added }),
      })
      if (!endsPrevious || mutation !== 'send first') return next
      return { ...next, replies: [...w.replies, { request: i, age: 0, cookie }] }
    }
    case 'end previous':
      if (v.unreadable)
        return go('reply', {}, { ...cleared(), added: { ...w.added, [newLabel]: w.store[newLabel]?.fields.n ?? 0 } })
      if (mutation !== 'forget' && w.store[label]?.version !== v.entry?.version) return go('reread')
      return go(
        'reply',
        {},
        { ...cleared(), added: { ...w.added, [newLabel]: (w.added[label] ?? 0) + (script.add ? 1 : 0) } },
      )
    case 'reread': {
      const entry = w.store[label]
      if (entry && !hasExpired(entry)) return go('create again', { entry })
      if (script.transition === 'reauthenticate' && mutation !== 'same survives') return go('undo')
      return entry ? go('end previous', { unreadable: true }) : go('reply')
    }
    case 'create again': {
      const version = `${v.newVersion}+`
      const older = mutation === 'older timeouts' && v.entry?.lifetime
      const created = { ...(w.store[newLabel] as Entry), ...(older && { lifetime: older }) }
      return go('end previous', { newVersion: version }, saved(newLabel, { ...created, fields: newFields(v), version }))
    }
    case 'undo': {
      const { cookie: _, newVersion: __, ...rest } = v
      return become({ ...rest, place: 'reply', ended: true }, { store: without(w.store, newLabel) })
    }
    case 'reply': {
      const name = v.newVersion ? newLabel : label
      const fields = [v.newVersion && script.transition ? undefined : script.set, script.after].filter(
        (f) => f !== undefined,
      )
      const promised = !v.ended && fields.length > 0 && (v.newVersion !== undefined || script.transition === undefined)
      const acknowledged = promised
        ? { ...w.acknowledged, [name]: [...(w.acknowledged[name] ?? []), ...fields] }
        : w.acknowledged
      const offer = typeof v.cookie === 'object' && !v.newVersion
      const late = offer && mutation !== 'late offer' && (v.age as number) >= OFFER_MAX_AGE
      const silent = v.ended || late || (mutation === 'send first' && logsIn(script)) || v.cookie === undefined
      const replies = silent ? w.replies : [...w.replies, { request: i, age: 0, cookie: v.cookie as Key | 'clear' }]
      const done: RequestState = {
        script,
        place: 'done',
        ...((v.entry || v.unreadable) && { oldLabel: label }),
        ...(v.refused && { refused: v.refused }),
        ...(v.unreadable && !v.ended && { unreadable: v.unreadable }),
      }
      const undone = !silent && v.overtaken && !logsIn(script)
      return become(done, { acknowledged, replies, ...(undone && { undone }) })
    }
    case 'done':
      return w
  }
}

const countDown = (ticks: number) => Math.max(ticks - 1, 0)

/** An entry one tick later. */
const later = (entry: Entry): Entry => {
  const { lifetime } = entry
  if (!lifetime) return entry
  const { left, idle, absoluteLeft } = lifetime
  return { ...entry, lifetime: { left: countDown(left), idle, absoluteLeft: countDown(absoluteLeft) } }
}

/** A tick of the clock. A reply that takes longer than RESPONSE_TRANSIT is lost. */
const tick = (w: World): World => ({
  ...w,
  ...(w.given && {
    given: Object.fromEntries(
      Object.entries(w.given).map(([label, { idle, absolute }]) => [label, { idle, absolute: countDown(absolute) }]),
    ),
  }),
  requests: w.requests.map((v) =>
    v.age === undefined ? v : { ...v, age: Math.min(v.age + 1, GRACE), ...(v.entry && { entry: later(v.entry) }) },
  ),
  replies: w.replies.map((r) => ({ ...r, age: r.age + 1 })).filter((r) => r.age <= RESPONSE_TRANSIT),
  store: Object.fromEntries(
    Object.entries(w.store).map(([label, stored]) => {
      const entry = later(stored)
      const { confirmed } = entry.metadata
      if (confirmed === undefined) return [label, entry]
      return [label, { ...entry, metadata: { ...entry.metadata, confirmed: Math.min(confirmed + 1, GRACE) } }]
    }),
  ),
})

/** The steps at which a crash leaves an entry behind. At any other step it equals a request that was never sent, or a lost reply. */
const halfway: readonly Place[] = ['create', 'end previous', 'reread', 'create again', 'undo']

/** All possible next events: a step, a crash, a reply that arrives or is lost, a tick of the clock. */
const moves = (w: World, timed: boolean, mutation?: Mutation): readonly World[] => {
  const next: World[] = []
  w.requests.forEach((v, i) => {
    if (v.place === 'done') return
    const leader = v.script.follows
    const waits = (leader: number) =>
      w.requests[leader]?.place !== 'done' || w.replies.some((reply) => reply.request === leader)
    if (v.place === 'unsent' && leader !== undefined && waits(leader)) return
    next.push(step(w, i, mutation))
    if (w.crashes === 0 && halfway.includes(v.place)) {
      const crashed: RequestState = {
        script: v.script,
        place: 'done',
        ...(v.entry && { oldLabel: v.key?.label as string }),
      }
      next.push({ ...w, requests: w.requests.map((other, j) => (j === i ? crashed : other)), crashes: 1 })
    }
  })
  w.replies.forEach((reply) => {
    const { jar: _, ...rest } = { ...w, replies: w.replies.filter((other) => other !== reply) }
    next.push(
      { ...rest, ...(w.jar && { jar: w.jar }) },
      reply.cookie === 'clear' ? rest : { ...rest, jar: reply.cookie },
    )
  })
  if (timed) next.push(tick(w))
  return next
}

/** The promise that a world breaks, in words. */
const broken = (w: World): string | undefined => {
  if (w.undone) return 'the cookie of a late request replaced a newer one'
  const left = w.requests.find(
    (v) => v.unreadable && v.script.transition === 'invalidate' && v.place === 'done' && w.store[v.oldLabel as string],
  )
  if (left) return `a logout was carried out, and ${left.oldLabel} is there`
  const by = w.ended.L
  if (by !== undefined && !w.requests[by]?.script.transition) return 'a wrong clock destroyed L'
  for (const label of Object.keys(w.ended)) if (w.store[label]) return `${label} ended and is back`
  for (const [label, fields] of Object.entries(w.acknowledged)) {
    const entry = w.store[label]
    const lost = entry && fields.find((field) => entry.fields[field] === undefined)
    if (lost) return `${lost} was acknowledged and is not in ${label}`
  }
  for (const [label, count] of Object.entries(w.added)) {
    const n = w.store[label]?.fields.n
    if (n !== undefined && n !== count) return `${count} increments were carried out and ${label} counts ${n}`
  }
  for (const [label, { idle, absolute }] of Object.entries(w.given ?? {})) {
    const left = w.store[label]?.lifetime?.left ?? 0
    if (left > Math.min(idle, absolute)) return `${label} lives longer than its login allowed`
  }
  if (!w.requests.some((v) => v.script.transition || v.script.clock)) {
    if (keyStatus(w, w.jar) === 'none') return 'nobody ended the session, and the browser lost it'
    if (w.requests.some((v) => v.refused)) return 'nobody ended the session, and a request in progress was refused'
  }
  for (const { request, cookie } of w.replies) {
    const { script, oldLabel, unreadable } = w.requests[request] as RequestState
    const createdHere = typeof cookie === 'object' && cookie.label === `L${request}`
    const entry = w.store[`L${request}`]
    if (!createdHere || oldLabel === undefined || !entry) continue
    // With a wrong clock the request is anonymous, and a write creates a session beside the one that the server cannot read.
    if (unreadable && !script.transition) continue
    if (w.store[oldLabel]) return `the key of L${request} was sent while ${oldLabel} was alive`
    // A login owes the acknowledged fields only if it ended the session itself and its server could read it.
    const owed = logsIn(script) && !unreadable && w.ended[oldLabel] === request ? (w.acknowledged[oldLabel] ?? []) : []
    const lost = owed.find((field) => entry.fields[field] === undefined)
    if (lost) return `${lost} was acknowledged before the login, and the login lost it`
    // If its server found the session expired, the request does not know its owner, and its login is that of a new one.
    if (script.transition === 'reauthenticate' && !unreadable && w.ended[oldLabel] !== request)
      return `${oldLabel} was ended by another, and a login of the same owner outlived it`
  }
  return undefined
}

/** Runs every interleaving of some requests, with at most one crash. Returns the first broken promise and the number of worlds. */
export const explore = (scripts: readonly Script[], mutation?: Mutation): { worlds: number; broken?: string } => {
  const timed = scripts.some((script) => script.rotate) || anyTimeouts(scripts)
  const seen = new Set<string>()
  const open: World[] = [world(scripts)]
  for (let w = open.pop(); w !== undefined; w = open.pop()) {
    const name = hash('md5', JSON.stringify(w), 'base64')
    if (seen.has(name)) continue
    seen.add(name)
    const problem = broken(w)
    if (problem) return { worlds: seen.size, broken: problem }
    open.push(...moves(w, timed, mutation))
  }
  return { worlds: seen.size }
}
