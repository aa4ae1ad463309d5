// The adapter for Elysia, on the cases of adapters over @hono/node-server, and its own rules.

import type { Server } from 'node:http'
import { suite, test } from 'node:test'
import { createAdaptorServer } from '@hono/node-server'
import { Elysia } from 'elysia'
import { forElysia } from 'keepsake/elysia'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { toResponse } from '../support/fetch-answer.ts'
import { listening } from '../support/listening.ts'

const serve: ServeApplication = ({ manager, handle }) => {
  const app = new Elysia()
    .use(forElysia(manager))
    .all('/*', async (context) => toResponse(await handle(context, context.request)), { parse: 'none' })
  return listening(createAdaptorServer({ fetch: app.fetch }) as Server)
}

suite('Elysia', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})
