// The same router on the standalone server of tRPC, on Express and on Fetch.

import type { RequestListener } from 'node:http'
import { createExpressMiddleware } from '@trpc/server/adapters/express'
import { fetchRequestHandler } from '@trpc/server/adapters/fetch'
import { createHTTPHandler } from '@trpc/server/adapters/standalone'
import express from 'express'
import type { SessionManager, SessionManagerOptions } from 'keepsake'
import { forExpress } from 'keepsake/express'
import { forNode } from 'keepsake/node'
import { createContext, router } from './router.ts'

const statuses: Readonly<Record<string, number>> = { cross_origin: 403, not_saved: 500, unavailable: 503 }

/** The option of the manager: clients of tRPC get an error that they can read. */
export const errorResponse: SessionManagerOptions['errorResponse'] = (kind) => {
  const httpStatus = statuses[kind] ?? 409
  const error = { code: -32603, message: `Nothing was saved: ${kind}.`, data: { code: kind, httpStatus } }
  return Response.json({ error }, { status: httpStatus })
}

export const standalone = (manager: SessionManager): RequestListener =>
  createHTTPHandler({
    router,
    middleware: forNode(manager),
    createContext,
  })

export const onExpress = (manager: SessionManager): RequestListener => {
  const app = express()
  app.use(forExpress(manager))
  app.use('/', createExpressMiddleware({ router, createContext }))
  return app
}

export const onFetch = (manager: SessionManager) =>
  manager((req: Request) => fetchRequestHandler({ endpoint: '', req, router, createContext }))
