// The marks of owners in a folder of sessions, as a small machine that every interleaving can be run through.

/** A rule that a test leaves out, to see the model object. */
export type Mutation =
  | 'mark late' // generate puts its session before its mark
  | 'no look' // generate does not look for its mark
  | 'no undo' // and leaves its session where the mark is gone
  | 'no strike' // clear removes the session, then the mark as it is
  | 'strike by removing' // a mark that is struck is not there
  | 'one look' // clear does not look again where it saw none
  | 'tidy at once' // a mark is taken away by what was seen before

type Actor = {
  readonly does: 'generate' | 'clear' | 'tidy' | 'logout'
  readonly at: string
  /** Of a look: whether it has seen anything so far, and whether there was a mark before. */
  readonly saw: boolean
  readonly owes: boolean
}

/** One key of one owner: what lies in the folder, and how far everybody is. */
type World = {
  readonly mark: boolean
  readonly struck: boolean
  readonly session: boolean
  readonly actors: readonly Actor[]
  /** The session has to be ended: it was marked before the last two looks of a clear that is over. */
  readonly due: boolean
}

const first: Readonly<Record<Actor['does'], string>> = {
  generate: 'mark',
  clear: 'look at marks',
  tidy: 'see',
  logout: 'remove',
}

type Step = { readonly at: string; readonly saw?: boolean; readonly owes?: boolean } & Partial<Omit<World, 'actors'>>

/** What an actor may do next; a crash is to do nothing any more. A look sees the two names one after the other. */
const stepsOf = (world: World, actor: Actor, without: Mutation | undefined): readonly Step[] => {
  const { mark, struck, session } = world
  const generate = world.actors.find(({ does }) => does === 'generate')
  const { at, saw, owes } = actor
  if (actor.does === 'generate') {
    if (at === 'mark') return without === 'mark late' ? [{ at: 'put', session: true }] : [{ at: 'put', mark: true }]
    if (at === 'put') return without === 'mark late' ? [{ at: 'look', mark: true }] : [{ at: 'look', session: true }]
    if (at === 'look') return [{ at: mark || without === 'no look' ? 'done' : 'undo' }]
    if (at === 'undo') return [{ at: 'gone', ...(without !== 'no undo' && { session: false }) }]
    return []
  }
  if (actor.does === 'logout') {
    if (at === 'remove') return generate?.at === 'done' ? [{ at: 'see', session: false }] : []
    return at === 'see' ? [{ at: 'over', ...(!session && { mark: false }) }] : []
  }
  if (actor.does === 'tidy') {
    if (at === 'see') {
      return [{ at: mark && !session ? 'drop' : 'see' }, ...(struck && !session ? [{ at: 'see', struck: false }] : [])]
    }
    // In the turn of the session, so that nothing comes between its look and its deed.
    return [{ at: 'see', ...((!session || without === 'tidy at once') && { mark: false }) }]
  }
  const again = at.endsWith('again')
  const seen = (found: boolean): Step => {
    if (found) return { at: 'strike', owes }
    if (!again && without !== 'one look') return { at: 'look at marks again', owes }
    return { at: 'over', due: world.due || owes }
  }
  if (at.startsWith('look at marks')) {
    const rest = again ? ' again' : ''
    // From the first of two looks: the second may miss what was marked between them and is struck by another clear.
    const due = again ? owes : generate !== undefined && generate.at !== 'mark'
    return [
      { at: `then at struck${rest}`, saw: mark, owes: due },
      { at: `then at marks${rest}`, saw: struck, owes: due },
    ]
  }
  if (at.startsWith('then at struck')) return [seen(saw || struck)]
  if (at.startsWith('then at marks')) return [seen(saw || mark)]
  if (at === 'strike') {
    if (without === 'no strike') return [{ at: 'end', owes }]
    return [{ at: 'end', owes, mark: false, struck: (mark || struck) && without !== 'strike by removing' }]
  }
  if (at === 'end') return [{ at: 'unmark', owes, session: false }]
  if (at === 'unmark') {
    return [{ at: 'look at marks', struck: false, ...(without === 'no strike' && { mark: false }) }]
  }
  return []
}

const objection = ({ mark, struck, session, actors, due }: World): string | undefined => {
  const at = actors.find(({ does }) => does === 'generate')?.at
  if (at === 'gone' && session) return 'gone and still there'
  if (at === 'done' && session && !mark && !struck) return 'a session that no clear will find'
  if (at === 'done' && session && due) return 'a session outlived a clear'
  return undefined
}

/** Every interleaving of these actors, each of whom may stop anywhere; the first objection, and how many worlds there are. */
export const explore = (
  does: readonly Actor['does'][],
  without?: Mutation,
): { readonly broken: string | undefined; readonly worlds: number } => {
  const start: World = {
    mark: false,
    struck: false,
    session: false,
    actors: does.map((one) => ({ does: one, at: first[one], saw: false, owes: false })),
    due: false,
  }
  const seen = new Set([JSON.stringify(start)])
  const open = [start]
  for (let world = open.pop(); world !== undefined; world = open.pop()) {
    const broken = objection(world)
    if (broken) return { broken, worlds: seen.size }
    for (const [i, actor] of world.actors.entries()) {
      for (const { at, saw = false, owes = false, ...change } of stepsOf(world, actor, without)) {
        const next = { ...world, ...change, actors: world.actors.with(i, { does: actor.does, at, saw, owes }) }
        const name = JSON.stringify(next)
        if (seen.has(name)) continue
        seen.add(name)
        open.push(next)
      }
    }
  }
  return { broken: undefined, worlds: seen.size }
}
