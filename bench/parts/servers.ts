// The URLs of a run's servers, in the environment of every process of the benchmark.

import { type Child, start } from '../child.ts'
import type { Server, Question as Store } from './servers-child.ts'

export type { Store }

export const STORES: readonly Store[] = ['redis', 'postgres', 'mysql']

const nameOf = (store: Store): string => `BENCH_${store.toUpperCase()}_URL`

/** @throws Error if the run has no such server */
export const urlOf = (store: Store): string => {
  const url = process.env[nameOf(store)]
  if (url === undefined) throw new Error(`This run has no ${store} server.`)
  return url
}

type Servers = { readonly running: ReadonlySet<Store>; readonly skipped: readonly string[]; end(): void }

/** Starts private servers, which never wait for a disk. `skipped` has one line for each that did not start. */
export const startServers = async (wanted: readonly Store[]): Promise<Servers> => {
  const running = new Set<Store>()
  const skipped: string[] = []
  const child: Child = start('servers-child.ts', [], [], {}, 'silent')
  for (const store of wanted) {
    const { url, why } = await child.ask<Server>(store)
    if (url === undefined) skipped.push(`${store} is left out: ${why}`)
    else {
      process.env[nameOf(store)] = url
      running.add(store)
    }
  }
  return { running, skipped, end: child.end }
}
