// Who competes: an application of some kind, with a name, and the bare application that it is measured against.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Workload } from '../workloads.ts'

export type NodeListener = (request: IncomingMessage, response: ServerResponse) => unknown
export type FetchHandler = (request: Request) => Promise<Response>

/** Makes the response of a Fetch application: the platform's, or a bridge's own. */
export type Reply = (text: string) => Response

type Closing = { readonly close?: () => unknown }

/** An application that answers /untouched, /stranger, /read, /write and /login with 200, or 500 where it misbehaves. */
export type App = Closing &
  (
    | { readonly kind: 'node'; readonly listener: NodeListener }
    | { readonly kind: 'fetch'; readonly handler: FetchHandler }
  )

/** Operations without an application around them: `at` is the number of a session. */
export type Raw = Closing & {
  readonly kind: 'raw'
  readonly operations: Partial<Record<Workload, (at: number) => unknown>>
}

export type Bare = 'node' | 'express' | 'fastify' | 'fetch' | 'nothing'

export type Contestant = {
  readonly name: string
  /** The application without sessions that this one is compared with. */
  readonly bare: Bare
  readonly workloads: readonly Workload[]
  /** Every token is new to the process that reads it. */
  readonly firstSight?: boolean
  /** Measured in process only. */
  readonly socketless?: boolean
  /** Opens the application; it may keep files in `folder`. */
  readonly open: (folder: string, reply?: Reply) => Promise<App | Raw>
}

export const ALL: readonly Workload[] = ['stranger', 'read', 'write', 'login']

export const platformReply: Reply = (text) => new Response(text)
