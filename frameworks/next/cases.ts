// Runs the cases of adapters on the route handlers of a built application, whose server is in this process.

import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { adapterCases, type ServeApplication } from 'keepsake/testing'
import next from 'next'
import { call, check } from '../checks.ts'

const folder = join(import.meta.dirname, 'cases')

export const runCases = async (): Promise<void> => {
  await check('the application of the cases builds', () =>
    call(folder, process.execPath, join(import.meta.dirname, 'node_modules/next/dist/bin/next'), 'build'),
  )
  const place = globalThis as { casesApplication?: object }
  const application = next({ dev: false, dir: folder, quiet: true })
  await application.prepare()
  const handler = application.getRequestHandler()
  let cases = 0
  const serve: ServeApplication = async (running) => {
    cases += 1
    place.casesApplication = { ...running, name: `case ${cases}` }
    const server = createServer((request, response) => handler(request, response))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      async close() {
        server.close()
        server.closeAllConnections()
        await once(server, 'close')
      },
    }
  }
  for (const { name, run } of adapterCases) {
    if (process.env.CASE !== undefined && !name.includes(process.env.CASE)) continue
    await check(name, () => run(serve))
  }
  await application.close()
}

if (import.meta.main) {
  await runCases()
  process.exit()
}
