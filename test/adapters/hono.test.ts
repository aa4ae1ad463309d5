// The adapter for Hono, on the cases of adapters over @hono/node-server, and its own rules.

import type { Server } from 'node:http'
import { suite, test } from 'node:test'
import { createAdaptorServer } from '@hono/node-server'
import { Hono } from 'hono'
import { forHono } from 'keepsake/hono'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { toResponse } from '../support/fetch-answer.ts'
import { listening } from '../support/listening.ts'

const serve: ServeApplication = ({ manager, handle }) => {
  const app = new Hono()
  app.use(forHono(manager))
  app.all('*', async (c) => toResponse(await handle(c, c.req)))
  return listening(createAdaptorServer({ fetch: app.fetch }) as Server)
}

suite('Hono', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})
