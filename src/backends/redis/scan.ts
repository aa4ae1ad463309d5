// Reads the keys of a Redis server or a cluster, page by page: for an administrator's work, never for a request.

import { createHash } from 'node:crypto'
import type { Command, Driver } from './driver.ts'

/*
 * A cursor of SCAN is valid only for the process that returned it: another process has its keys in another order, so it
 * would skip some. So a cursor here also names the processes, and the slots that each of them had. If they have changed,
 * the scan begins at the start. Then it returns some entries twice, but if it went on, it would miss some.
 */

type Send = (command: Command) => Promise<unknown>
type Topology = {
  /** Sends a command to each server that keeps keys. The order is always the same. */
  readonly servers: readonly Send[]
  /** Changes if the servers or their slots change. */
  readonly name: string
}

const hashParts = (parts: readonly string[]): string =>
  createHash('sha256').update(parts.join('\n')).digest('base64url').slice(0, 22)

/** The identifier that a Redis process has until it ends. */
const runIdOf = async (send: Send): Promise<string> =>
  /run_id:(\w+)/.exec(String(await send(['info', 'server'])))?.[1] ?? ''

/** The state of the cluster as one of its servers knows it. */
const viewOf = async (send: Send) => {
  const nodes = String(await send(['cluster', 'nodes']))
    .split('\n')
    .map((line) => line.trim().split(' '))
    .map(([id = '', , flags = '', ...rest]) => ({ id, flags: flags.split(','), slots: rest.slice(5) }))
  const settledSlots = (slots: readonly string[]) => slots.filter((range) => !range.startsWith('['))
  const self = nodes.find(({ flags }) => flags.includes('myself'))
  return {
    send,
    id: self?.id ?? '',
    runId: await runIdOf(send),
    masters: nodes
      .filter(({ flags, slots }) => flags.includes('master') && settledSlots(slots).length > 0)
      .map(({ id, slots }) => `${id} ${settledSlots(slots).join()}`)
      .sort(),
    // Some keys of a slot are on this server, others on another: a scan of one and then the other may miss some.
    isMoving: self?.slots.some((range) => range.startsWith('[')),
  }
}

/** @throws Error if a cluster is changing, with the advice to try again */
const topologyOf = async (driver: Driver): Promise<Topology> => {
  const { send, masters } = driver
  if (masters === undefined) return { servers: [send], name: hashParts([await runIdOf(send)]) }
  const views = await Promise.all((await masters()).map(viewOf))
  const agreed = views[0]?.masters ?? []
  const keepers = agreed.map((line) => views.find(({ id }) => line.startsWith(`${id} `)))
  if (
    keepers.length === 0 ||
    keepers.includes(undefined) ||
    views.some(({ masters }) => masters.join() !== agreed.join())
  ) {
    driver.refreshSlots()
    throw new Error('The servers of the Redis Cluster do not agree on their slots. Try again a little later.')
  }
  if (views.some(({ isMoving }) => isMoving)) {
    throw new Error('The Redis Cluster is moving slots from one server to another. Try again when that is done.')
  }
  const known = keepers.filter((view) => view !== undefined)
  return { servers: known.map(({ send }) => send), name: hashParts([...agreed, ...known.map(({ runId }) => runId)]) }
}

/** The MATCH pattern of keys that begin with exactly these characters and go on. */
const patternOf = (prefix: string): string => `${prefix.replace(/[\\*?[\]]/g, '\\$&')}?*`

/** A storage key. The list of an owner never matches: its name has a colon after the prefix. */
const STORAGE_KEY = /^[A-Za-z0-9_.-]{1,64}$/

/**
 * Reads about `limit` storage keys of strings whose Redis keys begin with `prefix`, and the cursor for the next page.
 *
 * @throws if a server is down or a cluster is changing. The same cursor can be used again.
 */
export const scanKeys = async (
  driver: Driver,
  prefix: string,
  cursor: string | undefined,
  limit: number,
): Promise<{ readonly keys: readonly string[]; readonly cursor: string | undefined }> => {
  const { servers, name } = await topologyOf(driver)
  const [topology, index = '', serverCursor = ''] = cursor?.split(' ') ?? []
  const start = topology === name ? { index: Number(index), cursor: serverCursor } : { index: 0, cursor: '0' }
  const fullPrefix = driver.keyPrefix + prefix
  const send = servers[start.index] as Send
  const scan = ['scan', start.cursor, 'match', patternOf(fullPrefix), 'count', String(Math.trunc(limit))]
  const [next, names] = (await send([...scan, 'type', 'string'])) as [unknown, unknown[]]
  // Checked again, because another process may have answered: the next master of a Sentinel, or one that lost its slots.
  const after = await topologyOf(driver)
  if (after.name !== name) return { keys: [], cursor: `${after.name} 0 0` }
  const keys = names.map((name) => String(name).slice(fullPrefix.length)).filter((key) => STORAGE_KEY.test(key))
  if (String(next) !== '0') return { keys, cursor: `${name} ${start.index} ${next}` }
  return { keys, cursor: start.index + 1 < servers.length ? `${name} ${start.index + 1} 0` : undefined }
}
