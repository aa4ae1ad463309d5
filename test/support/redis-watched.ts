// A client of ioredis that records its commands, and on which a test can hold, repeat or lose a command.

import type { Cluster, Redis } from 'ioredis'
import type { IoredisClient } from '../../src/backends/redis/ioredis.ts'
import type { Script } from '../../src/backends/redis/scripts.ts'

type Send = () => Promise<unknown>

export type WatchedRedis = {
  readonly client: IoredisClient
  /** The commands so far. */
  readonly sent: (readonly string[])[]
  /** The next run of this script waits until `go` is called. `arrived` resolves when it has come. */
  hold(script: Script): { readonly arrived: Promise<void>; readonly go: () => void }
  /** `act` replaces the next run of this script, or the next command of this name. */
  plan(script: Script | string, act: (send: Send) => Promise<unknown>): void
}

/** @param through every other command goes through this function, if there is one */
export const watchedRedis = (inner: Redis | Cluster, through?: (send: Send) => Promise<unknown>): WatchedRedis => {
  const sent: (readonly string[])[] = []
  const plans: { readonly script: Script | string; readonly act: (send: Send) => Promise<unknown> }[] = []
  const call = (...command: [string, ...string[]]): Promise<unknown> => {
    sent.push(command)
    const send = () => inner.call(...command)
    const index = plans.findIndex(({ script }) =>
      typeof script === 'string' ? command[0] === script : command[1] === script.sha || command[1] === script.lua,
    )
    if (index !== -1) return (plans.splice(index, 1)[0] as (typeof plans)[number]).act(send)
    return through ? through(send) : send()
  }
  const plan: WatchedRedis['plan'] = (script, act) => void plans.push({ script, act })
  return {
    client: new Proxy(inner as unknown as IoredisClient, {
      get(target, name) {
        if (name === 'call') return call
        // Tests make a thousand of these on one client, and Node would report their listeners as a leak.
        if (name === 'on') return () => {}
        const value = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    }),
    sent,
    plan,
    hold(script) {
      const { promise: released, resolve: go } = Promise.withResolvers<void>()
      const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>()
      plan(script, async (send) => {
        arrive()
        await released
        return send()
      })
      return { arrived, go }
    },
  }
}
