// Where the servers of a run are: every process of the bench knows it by its environment.

import { type Child, start } from '../child.ts'
import type { Server, Question as Store } from './servers-child.ts'

export type { Store }

export const STORES: readonly Store[] = ['redis', 'postgres', 'mysql']

const nameOf = (store: Store): string => `BENCH_${store.toUpperCase()}_URL`

/** @throws where the run has no such server */
export const urlOf = (store: Store): string => {
  const url = process.env[nameOf(store)]
  if (url === undefined) throw new Error(`No ${store} runs for this bench.`)
  return url
}

type Servers = { readonly running: ReadonlySet<Store>; readonly left: readonly string[]; end(): void }

/** Starts servers of our own, which never wait for a disk. A line for each that cannot be had. */
export const startServers = async (wanted: readonly Store[]): Promise<Servers> => {
  const running = new Set<Store>()
  const left: string[] = []
  const child: Child = start('servers-child.ts', [], [], {}, 'silent')
  for (const store of wanted) {
    const { url, why } = await child.ask<Server>(store)
    if (url === undefined) left.push(`${store} is left out: ${why}`)
    else {
      process.env[nameOf(store)] = url
      running.add(store)
    }
  }
  return { running, left, end: child.end }
}
