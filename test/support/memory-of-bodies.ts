// Prints the memory of bodies in pieces of one byte, when all bytes but no end have arrived. Run with --expose-gc.
// It is a separate process, because under the test runner each promise takes ten times as long.

import { findField, readBody } from '../../src/forms/body.ts'
import { MULTIPART, posting, URLENCODED } from './bodies.ts'

const collect = globalThis.gc as () => void
const used = (): number => {
  collect()
  collect()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const read = (request: Request) => {
  const kept: unknown[] = []
  const reader = {
    field: (...pair: unknown[]) => kept.push(pair) > 0,
    file: (file: unknown) => kept.push(file) > 0,
  }
  return readBody(request, { maxBytes: 2 ** 20, maxParts: 1_000, maxFileBytes: 2 ** 20 }, reader)
}

const ways = {
  read,
  async searched(request: Request) {
    await findField(request, 'token')
    await read(request)
  },
}

const head = '--b\r\nContent-Disposition: form-data; name="a"'
const bytes = 'b'.repeat(500_000)
const bodies = {
  urlencoded: [URLENCODED, bytes],
  'a multipart field': [MULTIPART, `${head}\r\n\r\n${bytes}`],
  'a multipart file': [MULTIPART, `${head}; filename="f"\r\n\r\n${bytes}`],
} as const

const grew: Record<string, number> = {}
for (const [what, [type, text]] of Object.entries(bodies)) {
  for (const [way, work] of Object.entries(ways)) {
    const body = Buffer.from(text)
    await work(posting('', type))
    const { promise: allArrived, resolve: arrive } = Promise.withResolvers<void>()
    const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>()
    let at = 0
    const stream = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          if (at < body.length) return controller.enqueue(Uint8Array.of(body[at++] as number))
          arrive()
          await mayEnd
          controller.close()
        },
      },
      { highWaterMark: 0 },
    )
    const before = used()
    const done = work(posting(stream, type))
    await allArrived
    await new Promise((resolve) => setImmediate(resolve))
    grew[`${what}, ${way}`] = used() - before
    end()
    await done
  }
}
console.log(JSON.stringify(grew))
