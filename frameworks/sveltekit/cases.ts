// Builds the application of the cases of adapters, and runs the cases on it.

import { createServer } from 'node:http'
import { join } from 'node:path'
import { forSvelteKit } from 'keepsake/sveltekit'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { listening } from '../../test/support/listening.ts'
import { call, check } from '../checks.ts'

export const answerCases = async (): Promise<void> => {
  process.env.CASES = '1'
  // Without it, adapter-node takes every request for one over TLS.
  process.env.PROTOCOL_HEADER = 'x-protocol'
  await check('the application of the cases builds', () => call(import.meta.dirname, 'npm', 'run', 'build'))
  const { handler } = await import(join(import.meta.dirname, 'build-cases/handler.js'))
  const serve: ServeApplication = ({ manager, handle }) => {
    Object.assign(globalThis, { application: { handle: forSvelteKit(manager), answer: handle } })
    return listening(
      createServer((request, response) => {
        request.headers['x-protocol'] = 'http'
        handler(request, response, () => response.writeHead(404).end())
      }),
    )
  }
  for (const { name, run } of adapterCases) await check(`case: ${name}`, () => run(serve))
}

if (import.meta.main) await answerCases()
