// A client of ioredis whose commands are written down, and can be held back, sent twice or lost until a test says so.

import type { Cluster, Redis } from 'ioredis'
import type { IoredisClient } from '../../src/backends/redis/ioredis.ts'
import type { Script } from '../../src/backends/redis/scripts.ts'

type Send = () => Promise<unknown>

export type WatchedRedis = {
  readonly client: IoredisClient
  /** What was sent, one command an array, until `forget`. */
  readonly sent: (readonly string[])[]
  /** The next run of this script waits: `arrived` says when it came, `go` lets it pass. */
  hold(script: Script): { readonly arrived: Promise<void>; readonly go: () => void }
  /** The next run of this script, or the next command of this name, goes this way. */
  plan(script: Script | string, way: (send: Send) => Promise<unknown>): void
}

/** Every command goes by way of `through`, if there is one. */
export const watchedRedis = (inner: Redis | Cluster, through?: (send: Send) => Promise<unknown>): WatchedRedis => {
  const sent: (readonly string[])[] = []
  const plans: { readonly script: Script | string; readonly way: (send: Send) => Promise<unknown> }[] = []
  const call = (...command: [string, ...string[]]): Promise<unknown> => {
    sent.push(command)
    const send = () => inner.call(...command)
    const at = plans.findIndex(({ script }) =>
      typeof script === 'string' ? command[0] === script : command[1] === script.sha || command[1] === script.lua,
    )
    if (at !== -1) return (plans.splice(at, 1)[0] as (typeof plans)[number]).way(send)
    return through ? through(send) : send()
  }
  const plan: WatchedRedis['plan'] = (script, way) => void plans.push({ script, way })
  return {
    client: new Proxy(inner as unknown as IoredisClient, {
      get(target, name) {
        if (name === 'call') return call
        // A thousand of these on one client are no leak.
        if (name === 'on') return () => {}
        const value = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    }),
    sent,
    plan,
    hold(script) {
      const { promise: gone, resolve: go } = Promise.withResolvers<void>()
      const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>()
      plan(script, async (send) => {
        arrive()
        await gone
        return send()
      })
      return { arrived, go }
    },
  }
}
