// Serves an application through each adapter of a light framework, as an author would for the cases of adapters.

import { createServer, type Server } from 'node:http'
import { createAdaptorServer } from '@hono/node-server'
import connect from 'connect'
import { Elysia } from 'elysia'
import express from 'express'
import express4 from 'express4'
import { H3 } from 'h3'
import { toNodeHandler } from 'h3/node'
import { Hono } from 'hono'
import { forElysia } from 'keepsake/elysia'
import { forExpress } from 'keepsake/express'
import { forH3 } from 'keepsake/h3'
import { forHono } from 'keepsake/hono'
import { forNode } from 'keepsake/node'
import type { Application, ServeApplication } from 'keepsake/testing'
import { toResponse } from './fetch-answer.ts'
import { listening, sendAnswer, sendError } from './listening.ts'

const serveNode: ServeApplication = ({ manager, handle }) => {
  const sessions = forNode(manager)
  return listening(
    createServer((request, response) => {
      const fail = (error: unknown) => sendError(response, error)
      sessions(request, response, (error) => {
        if (error !== undefined) return fail(error)
        handle(request, { method: request.method ?? '', url: request.url ?? '' }).then(
          (answer) => sendAnswer(response, answer),
          (error) => sessions.errorHandler(error, request, response, fail),
        )
      })
    }),
  )
}

const serveConnect: ServeApplication = ({ manager, handle }) => {
  const app = connect()
  const sessions = forNode(manager)
  app.use(sessions)
  app.use((request, response, next) => {
    handle(request, { method: request.method ?? '', url: request.url ?? '' }).then(
      (answer) => sendAnswer(response, answer),
      next,
    )
  })
  app.use(sessions.errorHandler)
  return listening(createServer(app))
}

const serveExpress =
  (create: typeof express): ServeApplication =>
  ({ manager, handle }: Application) => {
    const app = create()
    const sessions = forExpress(manager)
    app.use(sessions)
    app.use((request, response, next) => {
      handle(request, request).then((answer) => {
        const { status, headers, body } = answer
        if (typeof body === 'object' && body !== null) return sendAnswer(response, answer)
        response.status(status)
        for (const [name, value] of headers) response.append(name, value)
        return body === null ? response.end() : response.send(body)
      }, next)
    })
    app.use(sessions.errorHandler)
    return listening(createServer(app))
  }

const serveHono: ServeApplication = ({ manager, handle }) => {
  const app = new Hono()
  app.use(forHono(manager))
  app.all('*', async (c) => toResponse(await handle(c, c.req)))
  return listening(createAdaptorServer({ fetch: app.fetch }) as Server)
}

const serveH3: ServeApplication = ({ manager, handle }) => {
  const app = new H3({ silent: true })
  app.use(forH3(manager))
  app.all('/**', async (event) => toResponse(await handle(event, event.req)))
  return listening(createServer(toNodeHandler(app)))
}

const serveElysia: ServeApplication = ({ manager, handle }) => {
  const app = new Elysia()
    .use(forElysia(manager))
    .all('/*', async (context) => toResponse(await handle(context, context.request)), { parse: 'none' })
  return listening(createAdaptorServer({ fetch: app.fetch }) as Server)
}

export const frameworks: Readonly<Record<string, ServeApplication>> = {
  'node:http': serveNode,
  Connect: serveConnect,
  'Express 5': serveExpress(express),
  'Express 4': serveExpress(express4),
  Hono: serveHono,
  h3: serveH3,
  Elysia: serveElysia,
}
