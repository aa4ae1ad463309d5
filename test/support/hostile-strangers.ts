// A process of its own that serves a hundred thousand strangers, twice, and prints what they cost: run with --expose-gc.

import { backendFromUrl, session, sessionManager } from 'keepsake'
import { watched } from './watched.ts'

const COUNT = 100_000
const turn = () => new Promise((resolve) => setImmediate(resolve))
const watch = watched(await backendFromUrl('memory:'))
let looks = false
const handler = sessionManager({ backend: watch.backend })(async (request) => {
  if (looks) {
    const s = await session(request)
    void [s.get('a'), s.fields, s.owner, s.expiresAt]
  }
  return new Response(null)
})

const results = []
for (looks of [false, true]) {
  let cookies = 0
  let failures = 0
  const serve = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const response = await handler(new Request('https://app.test/'))
      if (response.status !== 200) failures++
      if (response.headers.has('set-cookie')) cookies++
      // Requests are forgotten between the turns of the event loop only.
      if (i % 500 === 0) await turn()
    }
  }
  const heap = async () => {
    for (let i = 0; i < 5; i++) {
      globalThis.gc?.()
      await turn()
    }
    return process.memoryUsage().heapUsed
  }
  await serve(COUNT / 5)
  // What leaks grows every time; what is made once, such as code that was compiled late, does not.
  let grown = Number.POSITIVE_INFINITY
  for (let times = 0; times < 4; times++) {
    const before = await heap()
    await serve(COUNT / 5)
    grown = Math.min(grown, (await heap()) - before)
  }
  results.push({ looks, calls: watch.total(), cookies, failures, grown })
}
console.log(JSON.stringify(results))
