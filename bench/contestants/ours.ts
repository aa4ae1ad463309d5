// keepsake on each of its backends.

import { hash } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { forNode } from '../../src/adapters/node.ts'
import { type Backend, KeepsakeError, type SessionManager, session, sessionManager } from '../../src/index.ts'
import { FIELDS, nextSeen, type Workload, workloadOf } from '../workloads.ts'
import { ALL, type App, type Contestant, type Host } from './contestant.ts'

/** A known secret, because the thread that creates tokens needs it too. */
export const secret = hash('sha256', 'a benchmark protects nothing', 'hex')

type Entry = {
  readonly name: string
  readonly url: (folder: string) => string
  readonly firstSight?: boolean
  /** With the names of cookies on a loopback name, which are the default there. */
  readonly loopback?: boolean
  readonly workloads?: readonly Workload[]
}

const entries: readonly Entry[] = [
  { name: 'memory', url: () => 'memory:', workloads: ['untouched', ...ALL] },
  { name: 'memory, loopback names', url: () => 'memory:', loopback: true },
  { name: 'sqlite', url: (folder) => `sqlite:${join(folder, 'ours.db')}` },
  { name: 'file', url: (folder) => `file:${join(folder, 'ours')}` },
  { name: 'cookie', url: () => 'cookie:' },
  { name: 'cookie, first sight', url: () => 'cookie:', firstSight: true, workloads: ['read', 'write'] },
]

/** The text of an answer. Undefined if the session is not the one that the request must have. */
export const answerTo = async (workload: Workload, x: object): Promise<string | undefined> => {
  if (workload === 'untouched') return 'ok'
  const s = await session(x)
  if (workload === 'login') {
    s.login(FIELDS.user)
    for (const [field, value] of Object.entries(FIELDS)) if (value !== undefined) s.set(field, value)
    return 'ok'
  }
  const user: string | undefined = s.get('user')
  if (user !== (workload === 'anonymous' ? undefined : FIELDS.user)) return undefined
  if (workload === 'read') return String(s.get('seen'))
  if (workload === 'write') s.set('seen', nextSeen())
  return 'ok'
}

/** An application of node:http. */
export const onNode = async (manager: SessionManager): Promise<App> => {
  const sessions = forNode(manager)
  return {
    kind: 'node',
    listener: async (request, response) => {
      sessions(request, response)
      const answer = await answerTo(workloadOf(request.url ?? '') as Workload, request)
      if (answer === undefined) response.statusCode = 500
      response.end(answer)
    },
  }
}

const onFetch = async (manager: SessionManager): Promise<App> => ({
  kind: 'fetch',
  handler: manager(async (request) => {
    const answer = await answerTo(workloadOf(request.url) as Workload, request)
    return answer === undefined ? new Response('wrong', { status: 500 }) : new Response(answer)
  }) as (request: Request) => Promise<Response>,
})

/** Opens an application with sessions in a backend. `secure`: as behind a proxy that ends TLS. */
export const openApp = async (backend: Backend | string, host: Host, secure = true): Promise<App> => {
  const manager = sessionManager({ backend, secret, ...(secure && { secure }) })
  await manager.ready()
  return { ...(await (host === 'node' ? onNode(manager) : onFetch(manager))), close: () => manager.close() }
}

const open = async ({ url, loopback = false }: Entry, folder: string, host: Host): Promise<App> => {
  const backend = url(folder)
  if (backend.startsWith('file:')) mkdirSync(backend.slice(5), { recursive: true })
  return openApp(backend, host, !loopback)
}

/** Whether keepsake has the backend of an entry. If not, a line is added to `skipped`. */
const isAvailable = ({ name, url }: Entry): boolean => {
  try {
    sessionManager({ backend: url('nowhere'), secret })
    return true
  } catch (error) {
    if (!(error instanceof KeepsakeError) || error.code !== 'unknown_backend') throw error
    skipped.push(`keepsake: ${name} is left out, because keepsake has no such backend yet.`)
    return false
  }
}

/** One line for each backend that is left out. */
export const skipped: string[] = []

export const ours: readonly Contestant[] = entries.filter(isAvailable).map((entry) => ({
  name: `keepsake: ${entry.name}`,
  bare: 'fetch',
  workloads: entry.workloads ?? ALL,
  firstSight: entry.firstSight ?? false,
  open: (folder, host = 'fetch') => open(entry, folder, host),
}))
