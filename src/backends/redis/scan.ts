// The keys that a Redis keeps, or a cluster of them, part by part: for an administrator's work, never for a visit.

import { createHash } from 'node:crypto'
import type { Driver } from './client.ts'
import type { Command } from './link.ts'

/*
 * A cursor of SCAN means something to the process that gave it and to no other, which has its keys in another order: to
 * go on there would pass over some. So a cursor of ours says of what it is: which processes, and which slots each of
 * them had. Where that is so no longer, it begins at the start. To begin anew gives entries twice; to go on loses some.
 */

type Ask = (command: Command) => Promise<unknown>
type Topology = {
  /** A way to each server that keeps keys, in an order that stays. */
  readonly servers: readonly Ask[]
  /** Another for other servers, or other slots. */
  readonly name: string
}

const named = (parts: readonly string[]): string =>
  createHash('sha256').update(parts.join('\n')).digest('base64url').slice(0, 22)

/** The name that a process of Redis has until it ends. */
const runOf = async (ask: Ask): Promise<string> => /run_id:(\w+)/.exec(String(await ask(['info', 'server'])))?.[1] ?? ''

/** What a server of a cluster knows of it. */
const viewOf = async (ask: Ask) => {
  const nodes = String(await ask(['cluster', 'nodes']))
    .split('\n')
    .map((line) => line.trim().split(' '))
    .map(([id = '', , flags = '', ...rest]) => ({ id, flags: flags.split(','), slots: rest.slice(5) }))
  const settled = (slots: readonly string[]) => slots.filter((range) => !range.startsWith('['))
  const own = nodes.find(({ flags }) => flags.includes('myself'))
  return {
    ask,
    id: own?.id ?? '',
    run: await runOf(ask),
    masters: nodes
      .filter(({ flags, slots }) => flags.includes('master') && settled(slots).length > 0)
      .map(({ id, slots }) => `${id} ${settled(slots).join()}`)
      .sort(),
    // Some keys of a slot are here already, and others still there: to look at one and then the other may miss some.
    moves: own?.slots.some((range) => range.startsWith('[')),
  }
}

const topologyOf = async (driver: Driver): Promise<Topology> => {
  const { send, masters } = driver
  if (masters === undefined) return { servers: [send], name: named([await runOf(send)]) }
  const views = await Promise.all((await masters()).map(viewOf))
  const agreed = views[0]?.masters ?? []
  const keeping = agreed.map((line) => views.find(({ id }) => line.startsWith(`${id} `)))
  if (
    keeping.length === 0 ||
    keeping.includes(undefined) ||
    views.some(({ masters }) => masters.join() !== agreed.join())
  ) {
    driver.refresh()
    throw new Error('The servers of the Redis cluster do not agree who of them keeps what: try again a little later.')
  }
  if (views.some(({ moves }) => moves)) {
    throw new Error('The Redis cluster is moving slots from one server to another: try again when it is done.')
  }
  const known = keeping.filter((view) => view !== undefined)
  return { servers: known.map(({ ask }) => ask), name: named([...agreed, ...known.map(({ run }) => run)]) }
}

/** A pattern of MATCH: names that begin with these very characters, and have a key's 43 behind them. */
const patternOf = (prefix: string): string => prefix.replace(/[\\*?[\]]/g, '\\$&') + '?'.repeat(43)
const KEY = /^[A-Za-z0-9_-]{43}$/

/**
 * Some of the keys whose names begin with `prefix`, about so many, and from where to go on.
 *
 * @throws where a server is down, and where a cluster is changing: then again from the same cursor
 */
export const scanKeys = async (
  driver: Driver,
  prefix: string,
  cursor: string | undefined,
  limit: number,
): Promise<{ readonly keys: readonly string[]; readonly cursor: string | undefined }> => {
  const { servers, name } = await topologyOf(driver)
  const [of, at = '', inner = ''] = cursor?.split(' ') ?? []
  const begun = of === name ? { index: Number(at), inner } : { index: 0, inner: '0' }
  const whole = driver.keyPrefix + prefix
  const scan = ['scan', begun.inner, 'match', patternOf(whole), 'count', String(Math.trunc(limit))]
  const ask = servers[begun.index] as Ask
  const [next, found] = (await ask(scan)) as [unknown, unknown[]]
  // Asked again, because it may have been another that answered: a Sentinel's next master, or one that lost its slots.
  const after = await topologyOf(driver)
  if (after.name !== name) return { keys: [], cursor: `${after.name} 0 0` }
  const keys = found.map((one) => String(one).slice(whole.length)).filter((key) => KEY.test(key))
  if (String(next) !== '0') return { keys, cursor: `${name} ${begun.index} ${next}` }
  return { keys, cursor: begun.index + 1 < servers.length ? `${name} ${begun.index + 1} 0` : undefined }
}
