// The adapter for h3, on the cases of adapters over Node, and its own rules.

import { createServer } from 'node:http'
import { suite, test } from 'node:test'
import { H3 } from 'h3'
import { toNodeHandler } from 'h3/node'
import { forH3 } from 'keepsake/h3'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { toResponse } from '../support/fetch-answer.ts'
import { listening } from '../support/listening.ts'

const serve: ServeApplication = ({ manager, handle }) => {
  const app = new H3({ silent: true })
  app.use(forH3(manager))
  app.all('/**', async (event) => toResponse(await handle(event, event.req)))
  return listening(createServer(toNodeHandler(app)))
}

suite('h3', () => {
  for (const { name, run } of adapterCases) test(name, () => run(serve))
})
