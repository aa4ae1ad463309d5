// A process that serves a hundred thousand anonymous requests, twice, and prints their cost. Run it with --expose-gc.

import { backendFromUrl, session, sessionManager } from 'keepsake'
import { watched } from './watched.ts'

const COUNT = 100_000
const nextTick = () => new Promise((resolve) => setImmediate(resolve))
const watch = watched(await backendFromUrl('memory:'))
let reads = false
const handler = sessionManager({ backend: watch.backend })(async (request) => {
  if (reads) {
    const s = await session(request)
    void [s.get('a'), s.fields, s.owner, s.expiresAt]
  }
  return new Response(null)
})

const results = []
for (reads of [false, true]) {
  let cookies = 0
  let failures = 0
  const serve = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const response = await handler(new Request('https://app.test/'))
      if (response.status !== 200) failures++
      if (response.headers.has('set-cookie')) cookies++
      // Requests are released only between iterations of the event loop.
      if (i % 500 === 0) await nextTick()
    }
  }
  const heap = async () => {
    for (let i = 0; i < 5; i++) {
      globalThis.gc?.()
      await nextTick()
    }
    return process.memoryUsage().heapUsed
  }
  await serve(COUNT / 5)
  // A leak grows every time. A single allocation, for example of code that is compiled late, does not.
  let grown = Number.POSITIVE_INFINITY
  for (let round = 0; round < 4; round++) {
    const before = await heap()
    await serve(COUNT / 5)
    grown = Math.min(grown, (await heap()) - before)
  }
  results.push({ reads, calls: watch.total(), cookies, failures, grown })
}
console.log(JSON.stringify(results))
