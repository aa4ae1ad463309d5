// A contestant: an application with a name, and the bare application to compare it with.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Workload } from '../workloads.ts'

export type NodeListener = (request: IncomingMessage, response: ServerResponse) => unknown
export type FetchHandler = (request: Request) => Promise<Response>

/** The kind of server that a contestant of keepsake runs on. */
export type Host = 'fetch' | 'node'

type Closable = { readonly close?: () => unknown }

/** An application that answers /untouched, /anonymous, /read, /write and /login with 200, or with 500 after a fault. */
export type App = Closable &
  (
    | { readonly kind: 'node'; readonly listener: NodeListener }
    | { readonly kind: 'fetch'; readonly handler: FetchHandler }
  )

/** Operations without an application. `at` is the number of a session. */
export type Raw = Closable & {
  readonly kind: 'raw'
  readonly operations: Partial<Record<Workload, (at: number) => unknown>>
}

export type Bare = 'node' | 'express' | 'fastify' | 'hono' | 'fetch' | 'nothing'

export type Contestant = {
  readonly name: string
  /** The application without sessions that this one is compared with. */
  readonly bare: Bare
  readonly workloads: readonly Workload[]
  /** Whether every token is new to the process that reads it. */
  readonly firstSight?: boolean
  /** Whether it is measured only in process. */
  readonly socketless?: boolean
  /** Opens the application, which may keep files in `folder`. */
  readonly open: (folder: string, host?: Host) => Promise<App | Raw>
}

export const ALL: readonly Workload[] = ['anonymous', 'read', 'write', 'login']
