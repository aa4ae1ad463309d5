// A model of the owner marks of the file backend: a state machine, so that a test can run every interleaving.

/** A rule that a test removes, to see a promise broken. */
export type Mutation =
  | 'mark late' // generate writes its session before its mark
  | 'no look' // generate does not check its mark after the session
  | 'no undo' // generate leaves its session although the mark is gone
  | 'no strike' // clear removes the session and then the mark, and does not strike the mark first
  | 'strike by removing' // clear removes a mark, and does not rename it
  | 'one look' // clear does not look a second time after it saw no mark
  | 'tidy at once' // tidy removes a mark without a second look at the session

type Actor = {
  readonly does: 'generate' | 'clear' | 'tidy' | 'logout'
  readonly at: string
  /** Whether its present look has seen a mark. */
  readonly saw: boolean
  /** Whether the session was marked before its looks, so that the clear must end it. */
  readonly owes: boolean
}

/** One key of one owner: the files in the folder, and the progress of the actors. */
type World = {
  readonly mark: boolean
  readonly struck: boolean
  readonly session: boolean
  readonly actors: readonly Actor[]
  /** The session must have ended: it was marked before the last two looks of a clear that is done. */
  readonly due: boolean
}

const first: Readonly<Record<Actor['does'], string>> = {
  generate: 'mark',
  clear: 'look at marks',
  tidy: 'see',
  logout: 'remove',
}

type Step = { readonly at: string; readonly saw?: boolean; readonly owes?: boolean } & Partial<Omit<World, 'actors'>>

/** The possible next steps of an actor. After a crash it has none. A look reads the two names one after the other. */
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
    // Under the lock of the session, so that nothing happens between the look and the removal.
    return [{ at: 'see', ...((!session || without === 'tidy at once') && { mark: false }) }]
  }
  const again = at.endsWith('again')
  const looked = (sawMark: boolean): Step => {
    if (sawMark) return { at: 'strike', owes }
    if (!again && without !== 'one look') return { at: 'look at marks again', owes }
    return { at: 'over', due: world.due || owes }
  }
  if (at.startsWith('look at marks')) {
    const rest = again ? ' again' : ''
    // Counted from the first of two looks: another clear may strike a mark that was made between them.
    const due = again ? owes : generate !== undefined && generate.at !== 'mark'
    return [
      { at: `then at struck${rest}`, saw: mark, owes: due },
      { at: `then at marks${rest}`, saw: struck, owes: due },
    ]
  }
  if (at.startsWith('then at struck')) return [looked(saw || struck)]
  if (at.startsWith('then at marks')) return [looked(saw || mark)]
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

const brokenPromise = ({ mark, struck, session, actors, due }: World): string | undefined => {
  const at = actors.find(({ does }) => does === 'generate')?.at
  if (at === 'gone' && session) return 'undone, but the session is there'
  if (at === 'done' && session && !mark && !struck) return 'a session that no clear will find'
  if (at === 'done' && session && due) return 'a session outlived a clear'
  return undefined
}

/** Runs every interleaving of these actors, each of which may crash anywhere. Returns the first broken promise and the number of worlds. */
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
    const broken = brokenPromise(world)
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
