// Builds the application of the cases of adapters, and runs the cases on it.

import { createServer } from 'node:http'
import { join } from 'node:path'
import { createRequestListener } from '@react-router/node'
import { forReactRouter } from 'keepsake/react-router'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import { listening } from '../../test/support/listening.ts'
import { call, check } from '../checks.ts'

export const answerCases = async (): Promise<void> => {
  process.env.CASES = '1'
  await check('the application of the cases builds', () => call(import.meta.dirname, 'npm', 'run', 'build'))
  const build = await import(join(import.meta.dirname, 'build-cases/server/index.js'))
  const serve: ServeApplication = ({ manager, handle }) => {
    Object.assign(globalThis, { application: { middleware: forReactRouter(manager), answer: handle } })
    return listening(createServer(createRequestListener({ build, mode: 'production' })))
  }
  // React Router does not wait for the loaders of a visitor who went away, so their changes are dropped.
  const cases = adapterCases.filter(({ name }) => !name.startsWith('the change of a visitor who went away is saved'))
  for (const { name, run } of cases) await check(`case: ${name}`, () => run(serve))
}

if (import.meta.main) await answerCases()
