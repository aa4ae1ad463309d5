// A backend that counts its calls, and that a test can make wait or fail.

import type { Backend } from 'keepsake'

export type Call = 'get' | 'generate' | 'set' | 'clear' | 'touch'
const calls: readonly Call[] = ['get', 'generate', 'set', 'clear', 'touch']

export type Watched = {
  readonly backend: Backend
  readonly calls: Record<Call, number>
  readonly total: () => number
  /** The next call of this kind waits until `go`. `arrived` resolves when the call has come. */
  hold(call: Call): { readonly arrived: Promise<void>; readonly go: () => void }
  /** The next call of this kind rejects with this error, before or after its effect. */
  fail(call: Call, error: unknown, when?: 'before' | 'after'): void
}

export const watched = (inner: Backend): Watched => {
  const counts: Record<Call, number> = { get: 0, generate: 0, set: 0, clear: 0, touch: 0 }
  type Interruption = (act: () => unknown) => Promise<unknown>
  const planned: Record<Call, Interruption[]> = { get: [], generate: [], set: [], clear: [], touch: [] }
  const wrap =
    (call: Call) =>
    (...args: unknown[]) => {
      counts[call]++
      const act = () => (inner[call] as (...args: unknown[]) => unknown)(...args)
      const interrupt = planned[call].shift()
      return interrupt === undefined ? act() : interrupt(act)
    }
  return {
    backend: { ...inner, ...Object.fromEntries(calls.map((call) => [call, wrap(call)])) } as Backend,
    calls: counts,
    total: () => Object.values(counts).reduce((sum, count) => sum + count, 0),
    hold(call) {
      const { promise: released, resolve: go } = Promise.withResolvers<void>()
      const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>()
      planned[call].push(async (act) => {
        arrive()
        await released
        return act()
      })
      return { arrived, go }
    },
    fail(call, error, when = 'before') {
      planned[call].push(async (act) => {
        if (when === 'after') await act()
        throw error
      })
    },
  }
}
