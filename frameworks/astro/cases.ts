// Builds the application of the cases of adapters, and runs the cases on it.

import { createServer } from 'node:http'
import { join } from 'node:path'
import { forAstro } from 'keepsake/astro'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { listening } from '../../test/support/listening.ts'
import { call, check } from '../checks.ts'

export const answerCases = async (): Promise<void> => {
  process.env.CASES = '1'
  await check('the application of the cases builds', () => call(import.meta.dirname, 'npm', 'run', 'build'))
  const { handler } = await import(join(import.meta.dirname, 'build-cases/server/entry.mjs'))
  const serve: ServeApplication = ({ manager, handle }) => {
    Object.assign(globalThis, { application: { middleware: forAstro(manager), answer: handle } })
    return listening(createServer((request, response) => handler(request, response)))
  }
  for (const { name, run } of adapterCases) await check(`case: ${name}`, () => run(serve))
}

if (import.meta.main) await answerCases()
