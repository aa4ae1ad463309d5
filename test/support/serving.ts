// Two servers on one backend, for tests that end their process. It reports each request to its parent and waits for an answer.

import { mock } from 'node:test'
import { session, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'

const [backend = ''] = process.argv.slice(2)
const manager = sessionManager({ backend })
const waiting = new Map<string, () => void>()

/** The parent sends a message to let ten seconds pass. */
mock.timers.enable({ apis: ['setTimeout'] })
process.on('message', (message: string) => {
  if (message === 'ten seconds') mock.timers.tick(10_000)
  else waiting.get(message)?.()
})
process.on('SIGTERM', () => process.send?.('stopping'))

const start = () =>
  serve(
    manager(async (request) => {
      const { pathname } = new URL(request.url)
      const s = await session(request)
      const before = s.get('n') ?? 0
      s.set('n', before + 1)
      if (pathname === '/') return new Response(String(before))
      if (pathname === '/endless') {
        return new Response(new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1_000)) }))
      }
      const { promise, resolve } = Promise.withResolvers<void>()
      waiting.set(pathname, resolve)
      process.send?.(pathname)
      await promise
      return new Response(pathname)
    }),
    { port: 0 },
  )

await start()
await start()
