// A store for adapter cases: synchronous or not, and each of its methods can fail or wait.

import type { Backend } from '../../backends/contract.ts'
import { memoryBackend } from '../../backends/memory.ts'

const methods = ['get', 'generate', 'set', 'clear', 'touch'] as const
type Method = (typeof methods)[number]

export type StoreKind = 'synchronous' | 'asynchronous'

/** Holds a call until it is opened. */
export type Gate = {
  /** Resolves when the call waits. */
  readonly reached: Promise<void>
  open(): void
}

/** A text of the store that no visitor may see. */
export const STORE_ERROR = 'The disk of db7.internal is full.'

export class CaseStore {
  readonly backend: Backend
  /** The calls since the start. */
  readonly calls: Method[] = []
  /** The methods that fail. */
  readonly failing = new Set<Method>()
  readonly #waiting = new Map<Method, () => void>()
  #open = () => {}
  #gate: { readonly methods: readonly Method[]; readonly opened: Promise<void>; readonly reach: () => void } | undefined

  constructor(kind: StoreKind) {
    const inner = memoryBackend()
    const call = (method: Method, args: readonly unknown[]): unknown => {
      this.calls.push(method)
      this.#waiting.get(method)?.()
      const run = () => {
        if (this.failing.has(method)) throw new Error(STORE_ERROR)
        return (inner[method] as (...args: readonly unknown[]) => unknown)(...args)
      }
      if (kind === 'synchronous') return run()
      const gate = this.#gate
      const waits = gate?.methods.includes(method)
      if (waits) {
        this.#gate = undefined
        gate?.reach()
      }
      return (async () => {
        if (waits) await gate?.opened
        // One round of the event loop, as a store in another process needs at least.
        await new Promise((resolve) => setImmediate(resolve))
        return run()
      })()
    }
    const methodsOf = Object.fromEntries(
      methods.map((method) => [method, (...args: readonly unknown[]) => call(method, args)]),
    )
    this.backend = { ...inner, ...methodsOf, name: 'case' } as Backend
  }

  /** Opens the gate that a case which failed left closed. */
  openGate(): void {
    this.#open()
  }

  /** Resolves at the next call of a method. */
  nextCall(method: Method): Promise<void> {
    return new Promise((resolve) => this.#waiting.set(method, resolve))
  }

  /** Holds the next call of one of these methods. Only an asynchronous store can. */
  hold(...held: readonly Method[]): Gate {
    const { promise: reached, resolve: reach } = Promise.withResolvers<void>()
    const { promise: opened, resolve: open } = Promise.withResolvers<void>()
    this.#gate = { methods: held, opened, reach }
    this.#open = open
    return { reached, open }
  }
}
