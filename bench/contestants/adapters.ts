// keepsake in memory in applications of frameworks, through its adapters.

import { forExpress } from '../../src/adapters/express.ts'
import { forHono } from '../../src/adapters/hono.ts'
import { type SessionManager, sessionManager } from '../../src/index.ts'
import type { Workload } from '../workloads.ts'
import { ALL, type App, type Bare, type Contestant } from './contestant.ts'
import { answerTo, onNode, secret } from './ours.ts'

const workloads: readonly Workload[] = ['untouched', ...ALL]

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
