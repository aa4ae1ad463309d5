// keepsake on each of its backends.

import { hash } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Backend, KeepsakeError, session, sessionManager } from '../../src/index.ts'
import { FIELDS, nextSeen, type Workload, workloadOf } from '../workloads.ts'
import { ALL, type App, type Contestant, platformReply, type Reply } from './contestant.ts'

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

const answer = async (request: Request, reply: Reply): Promise<Response> => {
  const workload = workloadOf(request.url)
  if (workload === 'untouched') return reply('ok')
  const s = await session(request)
  if (workload === 'login') {
    s.login(FIELDS.user)
    s.set('user', FIELDS.user)
    s.set('name', FIELDS.name)
    s.set('language', FIELDS.language)
    s.set('seen', FIELDS.seen)
    if (FIELDS.more !== undefined) s.set('more', FIELDS.more)
    return reply('ok')
  }
  const user: string | undefined = s.get('user')
  if (user !== (workload === 'anonymous' ? undefined : FIELDS.user)) return new Response('wrong', { status: 500 })
  if (workload === 'read') return reply(String(s.get('seen')))
  if (workload === 'write') s.set('seen', nextSeen())
  return reply('ok')
}

/** Opens an application with sessions in a backend. `secure`: as behind a proxy that ends TLS. */
export const openApp = async (backend: Backend | string, reply: Reply, secure = true): Promise<App> => {
  const middleware = sessionManager({ backend, secret, ...(secure && { secure }) })
  await middleware.ready()
  return {
    kind: 'fetch',
    handler: middleware((request) => answer(request, reply)) as (request: Request) => Promise<Response>,
    close: () => middleware.close(),
  }
}

const open = async ({ url, loopback = false }: Entry, folder: string, reply: Reply): Promise<App> => {
  const backend = url(folder)
  if (backend.startsWith('file:')) mkdirSync(backend.slice(5), { recursive: true })
  return openApp(backend, reply, !loopback)
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
  open: (folder, reply = platformReply) => open(entry, folder, reply),
}))
