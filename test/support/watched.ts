// A backend whose calls are counted, and can be held back until a test lets them go.

import type { Backend } from 'keepsake'

export type Call = 'get' | 'generate' | 'set' | 'clear' | 'touch'
const calls: readonly Call[] = ['get', 'generate', 'set', 'clear', 'touch']

export type Watched = {
  readonly backend: Backend
  readonly calls: Record<Call, number>
  readonly total: () => number
  /** The next call of this kind waits: `arrived` says when it came, `go` lets it pass. */
  hold(call: Call): { readonly arrived: Promise<void>; readonly go: () => void }
  /** The next call of this kind fails with this error, before or after it took effect. */
  fail(call: Call, error: unknown, when?: 'before' | 'after'): void
}

export const watched = (inner: Backend): Watched => {
  const counts: Record<Call, number> = { get: 0, generate: 0, set: 0, clear: 0, touch: 0 }
  type Plan = (act: () => unknown) => Promise<unknown>
  const plans: Record<Call, Plan[]> = { get: [], generate: [], set: [], clear: [], touch: [] }
  const wrap =
    (call: Call) =>
    (...args: unknown[]) => {
      counts[call]++
      const act = () => (inner[call] as (...args: unknown[]) => unknown)(...args)
      const plan = plans[call].shift()
      return plan === undefined ? act() : plan(act)
    }
  return {
    backend: { ...inner, ...Object.fromEntries(calls.map((call) => [call, wrap(call)])) } as Backend,
    calls: counts,
    total: () => Object.values(counts).reduce((sum, count) => sum + count, 0),
    hold(call) {
      const { promise: gone, resolve: go } = Promise.withResolvers<void>()
      const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>()
      plans[call].push(async (act) => {
        arrive()
        await gone
        return act()
      })
      return { arrived, go }
    },
    fail(call, error, when = 'before') {
      plans[call].push(async (act) => {
        if (when === 'after') await act()
        throw error
      })
    },
  }
}
