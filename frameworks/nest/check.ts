// Builds the application for production, and tries it and the cases of adapters over sockets, on Express and on Fastify.

import { join } from 'node:path'
import { adapterCases } from 'keepsake/testing'
import { call, check, checks, freePort, startServer } from '../checks.ts'

const folder = import.meta.dirname

const answerCases = async () => {
  const { servers } = await import(join(folder, 'dist/cases.js'))
  for (const [server, serve] of Object.entries(servers)) {
    for (const { name, run } of adapterCases) await check(`${server}: case: ${name}`, () => run(serve as never))
  }
}

await checks(async () => {
  await check('the application builds in strict mode', () => call(folder, 'npm', 'run', 'build'))
  await answerCases()
})
