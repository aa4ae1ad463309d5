// Serves an application through each adapter of a light framework, as an author would for the cases of adapters.

import { createServer, type Server } from 'node:http'
import { createAdaptorServer } from '@hono/node-server'
import connect from 'connect'
import { Elysia } from 'elysia'
import express from 'express'
import express4 from 'express4'
import Fastify, { type FastifyReply } from 'fastify'
import { H3 } from 'h3'
import { toNodeHandler } from 'h3/node'
import { Hono } from 'hono'
import { forElysia } from 'keepsake/elysia'
import { forExpress } from 'keepsake/express'
import { forFastify } from 'keepsake/fastify'
import { forH3 } from 'keepsake/h3'
import { forHono } from 'keepsake/hono'
import { forKoa } from 'keepsake/koa'
import { forNode } from 'keepsake/node'
import type { Answer, Application, ServeApplication } from 'keepsake/testing'
import Koa from 'koa'
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

/** An application whose handler sends its answers by `send`. */
export const fastifyBy =
  (send: (reply: FastifyReply, answer: Answer) => unknown): ServeApplication =>
  async ({ manager, handle }) => {
    const app = Fastify()
    await app.register(forFastify(manager))
    // The parsers leave the body to readForm.
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, _payload, done) => done(null))
    app.all('*', async (request, reply) => send(reply, await handle(request, request)))
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { url } = await listening(app.server)
    return {
      url,
      async close() {
        app.server.closeAllConnections()
        await app.close()
      },
    }
  }

const serveFastify = fastifyBy((reply, { status, headers, body }) => {
  reply.code(status)
  for (const [name, value] of headers) reply.header(name, value)
  return reply.send(body)
})

const serveKoa: ServeApplication = ({ manager, handle }) => {
  const app = new Koa()
  app.silent = true
  app.use(forKoa(manager))
  app.use(async (ctx) => {
    const { status, headers, body } = await handle(ctx, ctx)
    ctx.body = body
    ctx.status = status
    for (const [name, value] of headers) {
      if (name === 'set-cookie') ctx.append(name, value)
      else ctx.set(name, value)
    }
  })
  return listening(createServer(app.callback()))
}

/** The handler writes to Node's response itself. */
export const frameworks: Readonly<Record<string, ServeApplication>> = {
  'node:http': serveNode,
  Connect: serveConnect,
  'Express 5': serveExpress(express),
  'Express 4': serveExpress(express4),
  Fastify: serveFastify,
  Koa: serveKoa,
  Hono: serveHono,
  h3: serveH3,
  Elysia: serveElysia,
}
