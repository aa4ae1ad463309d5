// The order of writes of a visit, as a small machine of plain values that every interleaving can be run through.

import { hash } from 'node:crypto'

/** What one visit asks for, in the order in which the library carries it out. */
export type Script = {
  /** A field that only this visit sets. */
  readonly set?: string
  /** Adds one to the field `n`. */
  readonly add?: true
  readonly renew?: true
  /** 'same': a login of the owner that the session already has. */
  readonly turn?: 'login' | 'same' | 'invalidate'
  /** A field set after the login or the invalidate. */
  readonly after?: string
  /** The clock of the node that serves it is hours wrong. */
  readonly clock?: 'ahead' | 'behind'
  /** Sent only when the reply of this visit (an index) has arrived or is lost. */
  readonly follows?: number
}

/** A rule of the protocol that a test leaves out, to see the model object. */
export type Mutation =
  | 'upsert' // a late save makes the entry again
  | 'blind' // a save does not compare versions
  | 'no grace' // the old secret dies at the first presentation of the new one
  | 'fresh offer' // every renewal by a holder of the old secret is another new secret
  | 'late offer' // an offer is sent however old it is
  | 'send first' // the cookie of a login leaves before the old session is dead
  | 'forget' // a login does not look again at what it keeps
  | 'same survives' // a login of the same owner does not end with its session
  | 'no mark' // a key that has just ended is as unknown as one that was made up
  | 'blind logout' // a logout clears the cookie, also if another request has ended its session
  | 'sweeping clock' // a node removes what it takes for expired
  | 'ends nothing' // a logout ends only a session that its node can read

/** Ages are ticks since something happened, and stop counting where they stop mattering: so the worlds are finite. */
type Head = {
  readonly current: string
  readonly previous?: string
  /** Kept from a renewal to the first presentation of its secret. */
  readonly salt?: string
  /** Since that presentation. */
  readonly confirmed?: number
}
type Fields = Readonly<Record<string, number>>
type Entry = { readonly metadata: Head; readonly fields: Fields; readonly version: string }
type Key = { readonly label: string; readonly secret: string }
type Place =
  | 'home'
  | 'sent'
  | 'save'
  | 'look'
  | 'clear'
  | 'create'
  | 'retire'
  | 'look back'
  | 'create again'
  | 'undo'
  | 'reply'
  | 'over'
type Visit = {
  readonly script: Script
  readonly place: Place
  readonly key?: Key
  /** The session that the visit came with, as last read. */
  readonly entry?: Entry
  /** The label that it came with, once the visit is over. */
  readonly came?: string
  /** Since it was sent; from its opening on, since the store last told of its session. */
  readonly age?: number
  /** It found that another visit had ended its session, while it was under way: no cookie may leave, but that of a login. */
  readonly overtaken?: true
  /** Its node cannot read the session, because of its clock. */
  readonly aside?: true
  /** Its key opened nothing, although it was sent less than a grace ago. */
  readonly refused?: true
  readonly made?: string
  readonly ended?: true
  readonly cookie?: Key | 'clear'
}
type Reply = { readonly visit: number; readonly age: number; readonly cookie: Key | 'clear' }

export type World = {
  readonly store: Readonly<Record<string, Entry>>
  readonly jar?: Key
  readonly visits: readonly Visit[]
  readonly replies: readonly Reply[]
  /** What was promised: fields acknowledged to a client, by the label of their session. */
  readonly acknowledged: Readonly<Record<string, readonly string[]>>
  /** Increments carried out, by label; those that a login takes along count again. */
  readonly added: Readonly<Record<string, number>>
  /** Who ended a label: the index of the visit that cleared it. */
  readonly ended: Readonly<Record<string, number>>
  readonly crashes: number
  /** A cookie left that replaces a newer one in the browser. */
  readonly undone?: true
}

/** Ticks that an old secret still opens after the new one was first presented. */
const GRACE = 3
/** Ticks that a reply may be under way: with a slower network an old offer may replace a newer key. */
const FLIGHT = 1
/** An offer leaves only if the store's word for it is younger: then it arrives before the renewal after it can begin. */
const FRESH = GRACE - FLIGHT

export const world = (scripts: readonly Script[]): World => ({
  store: { L: { metadata: { current: 'k' }, fields: { n: 0 }, version: 'v' } },
  jar: { label: 'L', secret: 'k' },
  visits: scripts.map((script) => ({ script, place: 'home' })),
  replies: [],
  acknowledged: {},
  added: {},
  ended: {},
  crashes: 0,
})

/** How a key stands to an entry: what opening decides. */
const standing = (w: World, key: Key | undefined): 'current' | 'old' | 'grace' | 'none' => {
  const head = key && w.store[key.label]?.metadata
  if (!head) return 'none'
  if (head.current === key.secret) return 'current'
  if (head.previous !== key.secret) return 'none'
  if (head.confirmed === undefined) return 'old'
  return head.confirmed < GRACE ? 'grace' : 'none'
}

const derived = (secret: string, salt: string) => `${secret}/${salt}`

/** The head that a save leaves behind, and the key that the client is to be told. */
const renewed = (v: Visit, i: number, entry: Entry, mutation?: Mutation): { metadata: Head; cookie?: Key } => {
  const { script } = v
  const { label, secret } = v.key as Key
  let head = entry.metadata
  if (head.confirmed === GRACE) head = { current: head.current }
  const pending = head.salt !== undefined && head.previous !== undefined
  if (pending && head.current === secret) {
    head = {
      current: head.current,
      ...(mutation !== 'no grace' && { previous: head.previous as string, confirmed: 0 }),
    }
  } else if (script.renew && head.current === secret && head.previous === undefined) {
    head = { current: derived(secret, `s${i}`), previous: secret, salt: `s${i}` }
  } else if (script.renew && mutation === 'fresh offer' && pending && head.previous === secret) {
    head = { current: derived(secret, `s${i}`), previous: secret, salt: `s${i}` }
  }
  if (head.previous !== secret || head.salt === undefined) return { metadata: head }
  return { metadata: head, cookie: { label, secret: derived(secret, head.salt) } }
}

const written = (fields: Fields, script: Script): Fields => ({
  ...fields,
  ...(script.set && { [script.set]: 1 }),
  ...(script.add && { n: (fields.n ?? 0) + 1 }),
})

const logsIn = ({ turn }: Script) => turn === 'login' || turn === 'same'

/** What a session begun by this visit holds: a login keeps all fields here, so that the model can ask for them. */
const begun = (v: Visit): Fields => ({
  ...(logsIn(v.script) && written(v.entry?.fields ?? {}, v.script)),
  ...(v.script.turn === undefined && written({}, v.script)),
  ...(v.script.after && { [v.script.after]: 1 }),
})

const begins = ({ script }: Visit) =>
  logsIn(script) ||
  script.after !== undefined ||
  (script.turn === undefined && (script.set !== undefined || script.add === true))

const without = <T>(record: Readonly<Record<string, T>>, name: string): Record<string, T> => {
  const { [name]: _, ...rest } = record
  return rest
}

/** One step of visit `i`: one store operation, or the reply. */
const step = (w: World, i: number, mutation?: Mutation): World => {
  const v = w.visits[i] as Visit
  const { script, key } = v
  const label = key?.label ?? ''
  const mine = `L${i}`
  const become = (next: Visit, rest: Partial<World> = {}): World => ({
    ...w,
    ...rest,
    visits: w.visits.map((other, j) => (j === i ? next : other)),
  })
  const go = (place: Place, more: Partial<Visit> = {}, rest: Partial<World> = {}) =>
    become({ ...v, ...more, place }, rest)
  const cleared = () => ({
    store: without(w.store, label),
    ended: w.store[label] ? { ...w.ended, [label]: i } : w.ended,
  })
  const saved = (name: string, entry: Entry) => ({ store: { ...w.store, [name]: entry } })
  switch (v.place) {
    case 'home':
      return go('sent', { age: 0, ...(w.jar && { key: w.jar }) })
    case 'sent': {
      const entry = standing(w, key) === 'none' ? undefined : w.store[label]
      const more: Partial<Visit> = { age: 0, ...(entry && { entry }) }
      if (entry && script.clock) {
        const destroyed = mutation === 'sweeping clock' && script.clock === 'ahead' ? cleared() : {}
        const aside: Partial<Visit> = { age: 0, aside: true }
        if (script.turn === 'invalidate' && mutation !== 'ends nothing') return go('clear', aside)
        if (script.turn === 'invalidate') return go('reply', { ...aside, cookie: 'clear' })
        if (logsIn(script)) return go('create', aside)
        const refused: Partial<Visit> = script.clock === 'behind' && begins(v) ? { ended: true } : {}
        return go(begins(v) && !refused.ended ? 'create' : 'reply', { ...aside, ...refused }, destroyed)
      }
      if (!entry) {
        const refused = (v.age as number) < GRACE
        const overtaken = refused && w.ended[label] !== undefined
        if (overtaken && mutation !== 'no mark' && !logsIn(script)) {
          return go('reply', { ...more, overtaken, ended: true })
        }
        return go(begins(v) ? 'create' : 'reply', {
          ...more,
          ...(refused && { refused }),
          ...(overtaken && { overtaken }),
          ...(script.turn === 'invalidate' && { cookie: 'clear' }),
        })
      }
      if (script.turn === 'invalidate') return go('clear', more)
      if (script.turn) return go('create', more)
      const confirms = entry.metadata.current === key?.secret && entry.metadata.salt !== undefined
      if (script.set || script.add || script.renew || confirms) return go('save', more)
      const { cookie } = renewed({ ...v, ...more }, i, entry)
      return go('reply', { ...more, ...(cookie && { cookie }) })
    }
    case 'save': {
      const entry = w.store[label]
      if (!entry && mutation !== 'upsert') return go('reply', { ended: true })
      const base = v.entry as Entry
      if (entry && entry.version !== base.version && mutation !== 'blind') return go('look')
      const { metadata: head, cookie } = renewed(v, i, base, mutation)
      const added = script.add ? { ...w.added, [label]: (w.added[label] ?? 0) + 1 } : w.added
      const next = { metadata: head, fields: written(base.fields, script), version: `v${i}` }
      return go('reply', { age: 0, ...(cookie && { cookie }) }, { ...saved(label, next), added })
    }
    case 'look': {
      const entry = w.store[label]
      return entry ? go('save', { entry, age: 0 }) : go('reply', { ended: true })
    }
    case 'clear':
      if (!w.store[label]) {
        const overtaken = true
        return go('reply', { overtaken, ...(mutation === 'blind logout' ? { cookie: 'clear' } : { ended: true }) })
      }
      return begins(v) ? go('create', {}, cleared()) : go('reply', { cookie: 'clear' }, cleared())
    case 'create': {
      const entry: Entry = { metadata: { current: `k${i}` }, fields: begun(v), version: `v${i}` }
      const cookie: Key = { label: mine, secret: `k${i}` }
      const more: Partial<Visit> = { made: `v${i}`, cookie }
      const retires = (v.entry !== undefined || v.aside === true) && logsIn(script)
      const added = { ...w.added, [mine]: entry.fields.n ?? 0 }
      const next = go(retires ? 'retire' : 'reply', more, { ...saved(mine, entry), ...(!retires && { added }) })
      if (!retires || mutation !== 'send first') return next
      return { ...next, replies: [...w.replies, { visit: i, age: 0, cookie }] }
    }
    case 'retire':
      if (v.aside) return go('reply', {}, { ...cleared(), added: { ...w.added, [mine]: w.store[mine]?.fields.n ?? 0 } })
      if (mutation !== 'forget' && w.store[label]?.version !== v.entry?.version) return go('look back')
      return go(
        'reply',
        {},
        { ...cleared(), added: { ...w.added, [mine]: (w.added[label] ?? 0) + (script.add ? 1 : 0) } },
      )
    case 'look back': {
      const entry = w.store[label]
      if (entry) return go('create again', { entry })
      return go(script.turn === 'same' && mutation !== 'same survives' ? 'undo' : 'reply')
    }
    case 'create again': {
      const version = `${v.made}+`
      return go('retire', { made: version }, saved(mine, { ...(w.store[mine] as Entry), fields: begun(v), version }))
    }
    case 'undo': {
      const { cookie: _, made: __, ...rest } = v
      return become({ ...rest, place: 'reply', ended: true }, { store: without(w.store, mine) })
    }
    case 'reply': {
      const name = v.made ? mine : label
      const fields = [v.made && script.turn ? undefined : script.set, script.after].filter((f) => f !== undefined)
      const promised = !v.ended && fields.length > 0 && (v.made !== undefined || script.turn === undefined)
      const acknowledged = promised
        ? { ...w.acknowledged, [name]: [...(w.acknowledged[name] ?? []), ...fields] }
        : w.acknowledged
      const offer = typeof v.cookie === 'object' && !v.made
      const late = offer && mutation !== 'late offer' && (v.age as number) >= FRESH
      const silent = v.ended || late || (mutation === 'send first' && logsIn(script)) || v.cookie === undefined
      const replies = silent ? w.replies : [...w.replies, { visit: i, age: 0, cookie: v.cookie as Key | 'clear' }]
      const over: Visit = {
        script,
        place: 'over',
        ...((v.entry || v.aside) && { came: label }),
        ...(v.refused && { refused: v.refused }),
        ...(v.aside && !v.ended && { aside: v.aside }),
      }
      const undone = !silent && v.overtaken && !logsIn(script)
      return become(over, { acknowledged, replies, ...(undone && { undone }) })
    }
    case 'over':
      return w
  }
}

/** A tick of the clock. A reply that takes longer than a flight is lost. */
const tick = (w: World): World => ({
  ...w,
  visits: w.visits.map((v) => (v.age === undefined ? v : { ...v, age: Math.min(v.age + 1, GRACE) })),
  replies: w.replies.map((r) => ({ ...r, age: r.age + 1 })).filter((r) => r.age <= FLIGHT),
  store: Object.fromEntries(
    Object.entries(w.store).map(([label, entry]) => {
      const { confirmed } = entry.metadata
      if (confirmed === undefined) return [label, entry]
      return [label, { ...entry, metadata: { ...entry.metadata, confirmed: Math.min(confirmed + 1, GRACE) } }]
    }),
  ),
})

/** Where a crash leaves something behind; elsewhere it is a visit that never was, or a reply that is lost. */
const halfway: readonly Place[] = ['create', 'retire', 'look back', 'create again', 'undo']

/** Everything that may happen next: a step, a crash, a reply that arrives or is lost, a tick of the clock. */
const moves = (w: World, timed: boolean, mutation?: Mutation): readonly World[] => {
  const next: World[] = []
  w.visits.forEach((v, i) => {
    if (v.place === 'over') return
    const leader = v.script.follows
    const waits = (leader: number) =>
      w.visits[leader]?.place !== 'over' || w.replies.some((reply) => reply.visit === leader)
    if (v.place === 'home' && leader !== undefined && waits(leader)) return
    next.push(step(w, i, mutation))
    if (w.crashes === 0 && halfway.includes(v.place)) {
      const crashed: Visit = { script: v.script, place: 'over', ...(v.entry && { came: v.key?.label as string }) }
      next.push({ ...w, visits: w.visits.map((other, j) => (j === i ? crashed : other)), crashes: 1 })
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
  const left = w.visits.find(
    (v) => v.aside && v.script.turn === 'invalidate' && v.place === 'over' && w.store[v.came as string],
  )
  if (left) return `a logout was carried out, and ${left.came} is there`
  const by = w.ended.L
  if (by !== undefined && !w.visits[by]?.script.turn) return 'a wrong clock destroyed L'
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
  if (!w.visits.some((v) => v.script.turn || v.script.clock)) {
    if (standing(w, w.jar) === 'none') return 'nobody ended the session, and the browser lost it'
    if (w.visits.some((v) => v.refused)) return 'nobody ended the session, and a request under way was refused'
  }
  for (const { visit, cookie } of w.replies) {
    const { script, came, aside } = w.visits[visit] as Visit
    const begunHere = typeof cookie === 'object' && cookie.label === `L${visit}`
    const entry = w.store[`L${visit}`]
    if (!begunHere || came === undefined || !entry) continue
    // A wrong clock serves strangers: who writes there begins a session beside the one that the node cannot see.
    if (aside && !script.turn) continue
    if (w.store[came]) return `the key of L${visit} was sent while ${came} was alive`
    // Where another ended the session first, a login keeps what it had read of it; a node that could not read it, nothing.
    const owed = logsIn(script) && !aside && w.ended[came] === visit ? (w.acknowledged[came] ?? []) : []
    const lost = owed.find((field) => entry.fields[field] === undefined)
    if (lost) return `${lost} was acknowledged before the login, and did not come along`
    if (script.turn === 'same' && w.ended[came] !== visit)
      return `${came} was ended by another, and a login of the same owner outlived it`
  }
  return undefined
}

/** Runs every interleaving of some visits, one crash anywhere; the first broken promise, or how many worlds there are. */
export const explore = (scripts: readonly Script[], mutation?: Mutation): { worlds: number; broken?: string } => {
  const timed = scripts.some((script) => script.renew)
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
