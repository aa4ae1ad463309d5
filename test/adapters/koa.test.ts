// The adapter for Koa, on the cases of adapters and on the traps of Koa.

import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { forKoa } from 'keepsake/koa'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import Koa from 'koa'
import { listening, sendAnswer } from '../support/listening.ts'

const serveBody: ServeApplication = ({ manager, handle }) => {
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
const serveRaw: ServeApplication = ({ manager, handle }) => {
  const app = new Koa()
  app.silent = true
  app.use(forKoa(manager))
  app.use(async (ctx) => {
    const answer = await handle(ctx, ctx)
    ctx.respond = false
    sendAnswer(ctx.res, answer)
  })
  return listening(createServer(app.callback()))
}

const servers: Readonly<Record<string, ServeApplication>> = {
  'Koa, by ctx.body': serveBody,
  'Koa, by ctx.res': serveRaw,
}

for (const [name, serve] of Object.entries(servers)) {
  suite(name, () => {
    for (const { name, run } of adapterCases) test(name, () => run(serve))
  })
}
