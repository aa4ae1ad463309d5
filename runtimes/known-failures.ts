// Checks that cannot hold on a runtime, each with the defect of the runtime that is the reason.

export type KnownFailure = {
  /** How the name of the runtime begins. */
  readonly runtime: string
  readonly capability: string
  /** How the names of the checks begin. */
  readonly name: string
  readonly reason: string
}

const pipelining =
  'Bun.serve answers no request of a connection on which the next request arrived before the first was answered, if the handler is asynchronous and the last one has Connection: close. No handler of keepsake is involved'

export const knownFailures: readonly KnownFailure[] = [
  {
    runtime: 'Bun',
    capability: 'cases of adapters: Fetch handler',
    name: 'two visitors on one connection have two sessions (an asynchronous store)',
    reason: pipelining,
  },
  {
    runtime: 'Bun',
    capability: 'cases of adapters: Fetch handler',
    name: 'three requests that are sent at once on one connection are answered in their order (an asynchronous store)',
    reason: pipelining,
  },
  {
    runtime: 'Deno',
    capability: 'cases of adapters: `serve`',
    name: 'two Cookie fields of one request are read as one',
    reason:
      'Headers of Deno join two Cookie fields by a comma, and srvx copies the fields of a request into Headers. Deno.serve and node:http join them by a semicolon',
  },
]
