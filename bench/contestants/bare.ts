// The applications without sessions: the same routes and answers, for each framework.

import { FIELDS, workloadOf } from '../workloads.ts'
import type { App, Bare } from './contestant.ts'

/** The answers, as long as those of the other contestants. */
const answers: Record<string, string> = { read: String(FIELDS.seen) }
const answerTo = (workload: string): string => answers[workload] ?? 'ok'

export const bareNode = (): App => ({
  kind: 'node',
  listener: (request, response) => {
    response.end(answerTo(workloadOf(request.url ?? '')))
  },
})

export const bareFetch = (): App => ({
  kind: 'fetch',
  handler: async (request) => new Response(answerTo(workloadOf(request.url))),
})

export const bareExpress = async (): Promise<App> => {
  const { default: express } = await import('express')
  const app = express()
  for (const route of ['untouched', 'anonymous', 'read', 'write', 'login']) {
    app.get(`/${route}`, (_: unknown, response: { send(text: string): void }) => response.send(answerTo(route)))
  }
  return { kind: 'node', listener: app }
}

export const bareFastify = async (): Promise<App> => {
  const { fastify } = await import('fastify')
  const app = fastify()
  for (const route of ['untouched', 'anonymous', 'read', 'write', 'login']) {
    app.get(`/${route}`, async () => answerTo(route))
  }
  await app.ready()
  return { kind: 'node', listener: app.routing }
}

export const bareHono = async (): Promise<App> => {
  const { Hono } = await import('hono')
  const { getRequestListener } = await import('@hono/node-server')
  const app = new Hono()
  for (const route of ['untouched', 'anonymous', 'read', 'write', 'login']) {
    app.get(`/${route}`, (c) => c.text(answerTo(route)))
  }
  return { kind: 'node', listener: getRequestListener(app.fetch) }
}

export const openBare = async (bare: Bare): Promise<App | undefined> => {
  if (bare === 'node') return bareNode()
  if (bare === 'express') return bareExpress()
  if (bare === 'fastify') return bareFastify()
  if (bare === 'hono') return bareHono()
  return bare === 'fetch' ? bareFetch() : undefined
}
