// keepsake in memory in applications of frameworks, through its adapters.

import { forExpress } from '../../src/adapters/express.ts'
import { forHono } from '../../src/adapters/hono.ts'
import { forNode } from '../../src/adapters/node.ts'
import { type SessionManager, session, sessionManager } from '../../src/index.ts'
import { FIELDS, nextSeen, type Workload, workloadOf } from '../workloads.ts'
import { ALL, type App, type Bare, type Contestant } from './contestant.ts'
import { secret } from './ours.ts'

const workloads: readonly Workload[] = ['untouched', ...ALL]

/** The text of an answer. Undefined if the session is not the one that the request must have. */
const answerTo = async (workload: Workload, x: object): Promise<string | undefined> => {
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

const onNode = async (manager: SessionManager): Promise<App> => {
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

type ExpressResponse = { send(text?: string): void; status(code: number): ExpressResponse }

const onExpress = async (manager: SessionManager): Promise<App> => {
  const { default: express } = await import('express')
  const app = express()
  app.use(forExpress(manager))
  for (const workload of workloads) {
    app.get(`/${workload}`, async (request: object, response: ExpressResponse) => {
      const answer = await answerTo(workload, request)
      if (answer === undefined) response.status(500).send()
      else response.send(answer)
    })
  }
  return { kind: 'node', listener: app }
}

/* A computed name, because the types of @fastify/session declare another `request.session` in this program. */
const fastifyAdapter = new URL('../../src/adapters/fastify.ts', import.meta.url).href

const onFastify = async (manager: SessionManager): Promise<App> => {
  const { fastify } = await import('fastify')
  const { forFastify } = await import(fastifyAdapter)
  const app = fastify()
  await app.register(forFastify(manager))
  for (const workload of workloads) {
    app.get(`/${workload}`, async (request, reply) => (await answerTo(workload, request)) ?? reply.code(500).send())
  }
  await app.ready()
  return { kind: 'node', listener: app.routing }
}

const onHono = async (manager: SessionManager): Promise<App> => {
  const { Hono } = await import('hono')
  const { getRequestListener } = await import('@hono/node-server')
  const app = new Hono()
  app.use(forHono(manager))
  for (const workload of workloads) {
    app.get(`/${workload}`, async (c) => {
      const answer = await answerTo(workload, c)
      return answer === undefined ? c.text('wrong', 500) : c.text(answer)
    })
  }
  return { kind: 'node', listener: getRequestListener(app.fetch) }
}

const open = async (mount: (manager: SessionManager) => Promise<App>): Promise<App> => {
  const manager = sessionManager({ backend: 'memory:', secret, secure: true })
  await manager.ready()
  return { ...(await mount(manager)), close: () => manager.close() }
}

const mounts: readonly (readonly [framework: string, bare: Bare, mount: (manager: SessionManager) => Promise<App>])[] =
  [
    ['node:http', 'node', onNode],
    ['Express', 'express', onExpress],
    ['Fastify', 'fastify', onFastify],
    ['Hono', 'hono', onHono],
  ]

export const adapters: readonly Contestant[] = mounts.map(([framework, bare, mount]) => ({
  name: `keepsake: memory, ${framework}`,
  bare,
  workloads,
  open: () => open(mount),
}))
