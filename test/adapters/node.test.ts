// The adapter for node:http, Connect, Express 4 and Express 5, on the cases of adapters.

import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import connect from 'connect'
import express from 'express'
import express4 from 'express4'
import { forExpress } from 'keepsake/express'
import { forNode } from 'keepsake/node'
import { type Application, adapterCases, type ServeApplication } from 'keepsake/testing'
import { listening, sendAnswer, sendError } from '../support/listening.ts'

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

const servers: Readonly<Record<string, ServeApplication>> = {
  'node:http': serveNode,
  Connect: serveConnect,
  'Express 5': serveExpress(express),
  'Express 4': serveExpress(express4),
}

for (const [name, serve] of Object.entries(servers)) {
  suite(name, () => {
    for (const { name, run } of adapterCases) test(name, () => run(serve))
  })
}
